"""Convolutions, transposed ones among them."""

from minseg.kernels.conv import (
    depthwise,
    depthwise_integer,
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
    *depthwise_integer.KERNELS,
    *transpose.KERNELS,
    *transpose_integer.KERNELS,
)
