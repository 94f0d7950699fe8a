"""Pools: a reduction of each window, or of a whole channel.

A window is walked tap by tap, as a convolution's (see minseg.ops.conv). Averages and norms are
computed in float64 and cast back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.arguments import checked_dims, checked_shape, one_of
from minseg.ops.conv import pad_spatial, taps
from minseg.ops.dtypes import is_integer, limits
from minseg.ops.geometry import AUTO_PADS, Axis, output_dims, place, sliding, transposed
from minseg.ops.registry import Trait, operator


def infer_pool(x: TensorType, *, kernel_shape: Sequence[int], **attributes: Any) -> TensorType:
    if x.shape is None:
        return TensorType(x.dtype)
    layout = {
        name: attributes[name]
        for name in ("auto_pad", "ceil_mode", "dilations", "pads", "strides")
        if name in attributes
    }
    dims = output_dims(sliding(kernel_shape, **layout), x.shape[2:])
    return TensorType(x.dtype, (*x.shape[:2], *dims))


def _lowest(dtype: np.dtype) -> Any:
    return limits(dtype)[0] if is_integer(dtype) else -math.inf


def _sum(x: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """The sum of each window of ``x`` [N, C, *spatial], padded with zeros, in float64."""
    outputs = tuple(a.output for a in axes)
    padded = pad_spatial(x.astype(np.float64), axes)
    y = np.zeros((*x.shape[:2], *outputs))
    for index in taps(axes, outputs):
        y += padded[index]
    return y


def _infer_max_pool(
    x: TensorType, *, storage_order: int = 0, n_outputs: int = 1, **attributes: Any
) -> TensorType | tuple[TensorType, TensorType]:
    y = infer_pool(x, **attributes)
    return y if n_outputs == 1 else (y, TensorType(np.dtype(np.int64), y.shape))


@operator(
    "MaxPool", infer=_infer_max_pool, check=one_of("auto_pad", *AUTO_PADS), traits=Trait.MOVES
)
def max_pool(
    x: np.ndarray,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    n_outputs: int = 1,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """The largest element of each window of ``x`` [N, C, *spatial], and its flat index in ``x``.

    Of equal elements the first counts. A window with a NaN gives NaN and the first NaN's index
    (onnxruntime gives either the NaN or the largest number, depending on where the NaN stands). A
    window without elements, all padding, gives the lowest value and the index -1.
    """
    rules = sliding(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    axes = place(rules, x.shape[2:])
    outputs = tuple(a.output for a in axes)
    padded = pad_spatial(x, axes, _lowest(x.dtype))
    if n_outputs == 1:
        y = np.full((*x.shape[:2], *outputs), _lowest(x.dtype), x.dtype)
        for index in taps(axes, outputs):
            y = np.maximum(y, padded[index])
        return y
    positions = pad_spatial(_flat_indices(x.shape, storage_order), axes, -1)
    y = np.full((*x.shape[:2], *outputs), _lowest(x.dtype), x.dtype)
    indices = np.full(y.shape, -1, np.int64)
    for index in taps(axes, outputs):
        value, position = padded[index], positions[index]
        better = (value > y) | (np.isnan(value) & ~np.isnan(y)) | (indices < 0)
        better &= position >= 0
        y, indices = np.where(better, value, y), np.where(better, position, indices)
    return y, indices


def _flat_indices(shape: tuple[int, ...], storage_order: int) -> np.ndarray:
    """Every element's index in the flattened tensor.

    ``storage_order`` 1 counts each channel's spatial axes with the first one fastest.
    """
    flat = np.arange(math.prod(shape), dtype=np.int64)
    if not storage_order:
        return flat.reshape(shape)
    rank = len(shape)
    return flat.reshape(*shape[:2], *shape[:1:-1]).transpose(0, 1, *range(rank - 1, 1, -1))


@operator(
    "AveragePool",
    since=7,
    infer=infer_pool,
    check=one_of("auto_pad", *AUTO_PADS),
    traits=Trait.MIXES,
)
def average_pool(
    x: np.ndarray,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """The mean of each window of ``x`` [N, C, *spatial].

    With ``count_include_pad`` declared padding counts as zeros. What a last window under
    ``ceil_mode`` covers beyond that never counts, in any opset, as in onnxruntime and PyTorch.
    """
    rules = sliding(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    axes = place(rules, x.shape[2:])
    counts = np.ones((1, 1))
    for axis in axes:
        counts = counts[..., None] * _count(axis, bool(count_include_pad))
    return (_sum(x, axes) / counts).astype(x.dtype)


def _count(axis: Axis, include_pad: bool) -> np.ndarray:
    """How many elements each window holds along one axis."""
    starts = np.arange(axis.output)[:, None] * axis.stride - axis.pad_begin
    met = starts + np.arange(axis.kernel) * axis.dilation
    first, end = (-axis.pad_begin, axis.input + axis.pad_end) if include_pad else (0, axis.input)
    return np.count_nonzero((met >= first) & (met < end), axis=1)


@operator("LpPool", since=2, infer=infer_pool, check=one_of("auto_pad", *AUTO_PADS))
def lp_pool(
    x: np.ndarray,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """The p-norm of each window of ``x`` [N, C, *spatial]; padding counts as zeros."""
    rules = sliding(kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
    powers = np.abs(x.astype(np.float64)) ** p
    return (_sum(powers, place(rules, x.shape[2:])) ** (1 / p)).astype(x.dtype)


def infer_global(x: TensorType, **_: Any) -> TensorType:
    if x.shape is None:
        return TensorType(x.dtype)
    if len(x.shape) < 2:
        raise ValueError(f"an input [N, C, *spatial] is needed; its shape is {list(x.shape)}")
    return TensorType(x.dtype, (*x.shape[:2], *(1 for _ in x.shape[2:])))


def _spatial(x: np.ndarray) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool", infer=infer_global, traits=Trait.MIXES)
def global_average_pool(x: np.ndarray) -> np.ndarray:
    """The mean of each channel of ``x`` [N, C, *spatial]."""
    return x.mean(_spatial(x), dtype=np.float64, keepdims=True).astype(x.dtype)


@operator("GlobalMaxPool", infer=infer_global, traits=Trait.MOVES)
def global_max_pool(x: np.ndarray) -> np.ndarray:
    """The largest element of each channel of ``x`` [N, C, *spatial]; NaN where there is one."""
    return np.asarray(x.max(_spatial(x), keepdims=True))


@operator("GlobalLpPool", since=2, infer=infer_global)
def global_lp_pool(x: np.ndarray, *, p: int = 2) -> np.ndarray:
    """The p-norm of each channel of ``x`` [N, C, *spatial]."""
    powers = np.abs(x.astype(np.float64)) ** p
    return (powers.sum(_spatial(x), keepdims=True) ** (1 / p)).astype(x.dtype)


def _infer_max_unpool(
    x: TensorType, indices: TensorType, output_shape: TensorType | None = None, **layout: Any
) -> TensorType:
    if output_shape is not None and output_shape.value is not None:
        return TensorType(x.dtype, checked_dims(int(d) for d in output_shape.value))
    if x.shape is None:
        return TensorType(x.dtype)
    if output_shape is not None:
        return TensorType(x.dtype, (None,) * len(x.shape))
    return TensorType(x.dtype, (*x.shape[:2], *output_dims(transposed(**layout), x.shape[2:])))


@operator("MaxUnpool", since=9, infer=_infer_max_unpool)
def max_unpool(
    x: np.ndarray,
    indices: np.ndarray,
    output_shape: np.ndarray | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """MaxPool's partial inverse: ``x`` at ``indices``, zeros elsewhere.

    ``indices`` count in the tensor that kernel, strides and pads imply; a larger
    ``output_shape`` surrounds that with zeros at the end of each axis.
    """
    axes = place(transposed(kernel_shape, strides, pads=pads), x.shape[2:])
    implied = (*x.shape[:2], *(a.output for a in axes))
    if indices.shape != x.shape:
        raise ValueError(f"indices have shape {indices.shape}, but the input has {x.shape}")
    y = np.zeros(checked_shape(implied), x.dtype)
    y.reshape(-1)[indices.reshape(-1)] = x.reshape(-1)
    if output_shape is None:
        return y
    checked_shape(int(n) for n in output_shape)
    widths = [(0, int(n) - d) for n, d in zip(output_shape, implied, strict=True)]
    return np.pad(y, widths)
