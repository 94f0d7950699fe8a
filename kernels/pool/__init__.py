"""Pooling."""

from minseg.kernels.core.registry import register
from minseg.kernels.pool import integer, pool

register(*pool.KERNELS, *integer.KERNELS)
