"""Kernels of the compiled backend: see README.md. Each of these folders registers those of a family
of operations."""

from minseg.kernels import conv, elementwise, move, normalize, pool, quantize, resize

__all__ = ["conv", "elementwise", "move", "normalize", "pool", "quantize", "resize"]
