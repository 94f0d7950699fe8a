"""Convolutions, transposed ones among them."""

from minseg.kernels.conv import (
    depthwise,
    direct,
    direct_integer,
    sparse,
    transpose,
    transpose_integer,
    winograd,
    winograd_integer,
)
from minseg.kernels.core.registry import register

register(
    *direct.KERNELS,
    *direct_integer.KERNELS,
    *winograd.KERNELS,
    *winograd_integer.KERNELS,
    *sparse.KERNELS,
    *depthwise.KERNELS,
    *transpose.KERNELS,
    *transpose_integer.KERNELS,
)
