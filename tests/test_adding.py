"""The steps of kernels/README.md that add an operator and a kernel, from outside the package."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[1] / "kernels" / "README.md"

#: What is registered stays so: each is added in a process of its own.
OPERATOR = """
import addition
import minseg
import numpy as np
import onnx
from onnx import helper, numpy_helper

WEIGHTS = np.random.default_rng(1).standard_normal((5, 3, 1, 1)).astype(np.float32)
X = np.random.default_rng(0).standard_normal((1, 3, 6, 7)).astype(np.float32)

def plus(x):
    return (x + np.sqrt(x * x + 9)) / 2

def check(convolution, expected):
    squareplus = helper.make_node(
        "Squareplus", ["h" if convolution else "x"], ["y"], domain="example", b=9.0
    )
    nodes = [*([helper.make_node("Conv", ["x", "w"], ["h"])] if convolution else []), squareplus]
    channels = 5 if convolution else 3
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, (1, 3, 6, 7))],
        [helper.make_tensor_value_info("y", 1, (1, channels, 6, 7))],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("example", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    for backend in ("numpy", "numba"):
        (got,) = minseg.load(model, backend=backend).run(None, {"x": X})
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    steps = minseg.load(model).profile({"x": X}, rounds=1).steps
    kernels = [s.step.kernel for s in steps if s.step.op != "layout"]
    assert len(kernels) == 1 and kernels != ["reference operator"], kernels

check(False, plus(X))
check(True, plus(np.einsum("oc,nchw->nohw", WEIGHTS[:, :, 0, 0], X)))
"""

KERNEL = """
import addition
from kernel_harness import check_drawn
import test_kernels_conv  # how problems of convolutions are drawn
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.registry import all_kernels, select

(kernel,) = [k for k in all_kernels() if k.name == "conv_f32_direct_2x1"]
assert select(Conv2d(1, 64, 20, 20, 64, 18, 18, 3, 3)) is kernel
check_drawn(kernel)
"""


@pytest.mark.parametrize(
    ("section", "program"), [("Adding an operator", OPERATOR), ("Adding a kernel", KERNEL)]
)
def test_the_page_adds(section: str, program: str, tmp_path: Path) -> None:
    (tmp_path / "addition.py").write_text(code_of(section))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr


def code_of(section: str) -> str:
    """The indented blocks of a section of the page, as one module."""
    text = re.search(rf"^## {section}\n(.*?)^## ", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert text is not None
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text[1], re.MULTILINE)
    return "\n".join(textwrap.dedent(block) for block in blocks)
