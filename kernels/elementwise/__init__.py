"""One number at a time: sums, products, functions."""

from minseg.kernels.core.registry import register
from minseg.kernels.elementwise import elementwise, integer

register(*elementwise.KERNELS, *integer.KERNELS)
