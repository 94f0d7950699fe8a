"""Every kernel that minseg has, on problems drawn from its family's generator."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_harness import FAMILIES, check_drawn

from minseg.kernels.core.registry import Kernel, all_kernels

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

for _module in sorted(Path(__file__).parent.glob("test_kernels_*.py")):
    if _module.stem != Path(__file__).stem:
        importlib.import_module(_module.stem)


@pytest.mark.parametrize("kernel", all_kernels(), ids=lambda k: k.name)
def test_drawn_problems(kernel: Kernel) -> None:
    assert kernel.family in FAMILIES, (
        f"no test draws problems of {kernel.family.__name__}: enter its generator with "
        "kernel_harness.family in a module test_kernels_*.py"
    )
    check_drawn(kernel)


def test_names_are_unique() -> None:
    names = [kernel.name for kernel in all_kernels()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("place", "byte"), [("end", 12), ("begin", -1)])
def test_a_byte_too_far_ends_the_process(place: str, byte: int) -> None:
    """The harness does what every other test here relies on."""
    program = f"""
import ctypes
from kernel_harness import guarded
x = guarded((3,), "f4", "{place}")
ctypes.c_uint8.from_address(x.ctypes.data + 5).value
print("inside", flush=True)
ctypes.c_uint8.from_address(x.ctypes.data + {byte}).value
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.stdout == "inside\n"
    assert process.returncode < 0
