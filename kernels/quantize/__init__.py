"""From floats to bytes and back."""

from minseg.kernels.core.registry import register
from minseg.kernels.quantize import dynamic, quantize

register(*quantize.KERNELS, *dynamic.KERNELS)
