"""Moving data: other orders, other layouts."""

from minseg.kernels.core.registry import register
from minseg.kernels.move import channels_last, concat, reorder, strided

register(*concat.KERNELS, *reorder.KERNELS, *channels_last.KERNELS, *strided.KERNELS)
