"""Kernels of the compiled backend: see README.md. `KERNELS` is the one list of them."""

from minseg.kernels import conv, elementwise, reorder, softmax
from minseg.kernels.registry import Kernel, Launch, Operand, select

KERNELS: tuple[Kernel, ...] = (*conv.KERNELS, *elementwise.KERNELS, *reorder.KERNELS, *softmax.KERNELS)

__all__ = ["KERNELS", "Kernel", "Launch", "Operand", "select"]
