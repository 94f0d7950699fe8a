"""Every kernel that minseg has, on problems drawn from its family's generator."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from kernel_harness import FAMILIES, check_drawn

from minseg.kernels.registry import Kernel, all_kernels

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
