"""Kernels of the compiled backend: see README.md. `KERNELS` is the one list of them."""

from minseg.kernels import conv
from minseg.kernels.registry import Kernel, Launch, Operand, select

KERNELS: tuple[Kernel, ...] = (*conv.KERNELS,)

__all__ = ["KERNELS", "Kernel", "Launch", "Operand", "select"]
