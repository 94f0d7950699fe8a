"""Kernels of the compiled backend: see README.md. `KERNELS` is the one list of them."""

from minseg.kernels import (
    channels_last,
    concat,
    conv,
    conv_integer,
    conv_transpose,
    conv_transpose_integer,
    depthwise,
    depthwise_integer,
    dynamic_grid,
    elementwise,
    elementwise_integer,
    pool,
    pool_integer,
    quantize,
    reorder,
    resize,
    resize_argmax,
    softmax,
    sparse,
    strided,
    winograd,
    winograd_integer,
)
from minseg.kernels.registry import Kernel, Launch, Operand, select

KERNELS: tuple[Kernel, ...] = (
    *conv.KERNELS,
    *conv_integer.KERNELS,
    *winograd.KERNELS,
    *winograd_integer.KERNELS,
    *sparse.KERNELS,
    *depthwise.KERNELS,
    *depthwise_integer.KERNELS,
    *conv_transpose.KERNELS,
    *conv_transpose_integer.KERNELS,
    *pool.KERNELS,
    *pool_integer.KERNELS,
    *resize.KERNELS,
    *resize_argmax.KERNELS,
    *elementwise.KERNELS,
    *elementwise_integer.KERNELS,
    *quantize.KERNELS,
    *dynamic_grid.KERNELS,
    *softmax.KERNELS,
    *concat.KERNELS,
    *reorder.KERNELS,
    *channels_last.KERNELS,
    *strided.KERNELS,
)

__all__ = ["KERNELS", "Kernel", "Launch", "Operand", "select"]
