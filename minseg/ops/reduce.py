"""Reductions over axes, ArgMax and ArgMin, TopK.

Definitions follow the ONNX operator specification. Floating-point sums accumulate in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import (
    integers,
    known_integers,
    normalize_axes,
    normalize_axis,
    scalar,
    with_size,
)
from minseg.ops.dtypes import is_floating, widened
from minseg.ops.registry import Trait, operator
from minseg.ops.types import check_singles

Reduction = Callable[[np.ndarray, "tuple[int, ...]"], Any]


def reduction(name: str, *, axes_input_since: int) -> Callable[[Reduction], Reduction]:
    """Register a function of widened data and axes, which keeps the reduced axes with size 1.

    The operator takes its axes as an attribute before opset ``axes_input_since``, then as input.
    """

    def register(function: Reduction) -> Reduction:
        def reduced(data: np.ndarray, axes: tuple[int, ...], keepdims: int) -> np.ndarray:
            result = np.asarray(function(widened(data), axes)).astype(data.dtype)
            return result if keepdims else result.squeeze(axes)

        @operator(name, infer=_infer_axes_attribute, traits=Trait.REDUCES)
        def by_attribute(
            data: np.ndarray, *, axes: tuple[int, ...] | None = None, keepdims: int = 1
        ) -> np.ndarray:
            return reduced(data, _axes(axes, data.ndim), keepdims)

        @operator(name, since=axes_input_since, infer=_infer_axes_input, traits=Trait.REDUCES)
        def by_input(
            data: np.ndarray,
            axes: np.ndarray | None = None,
            *,
            keepdims: int = 1,
            noop_with_empty_axes: int = 0,
        ) -> np.ndarray:
            given = None if axes is None else integers(axes)
            return reduced(data, _axes(given, data.ndim, noop_with_empty_axes), keepdims)

        return function

    return register


def _axes(axes: Sequence[int] | None, rank: int, noop: int = 0) -> tuple[int, ...]:
    """The axes to reduce, none negative; an empty or missing list means all, or none."""
    if axes:
        return normalize_axes(axes, rank)
    return () if noop else tuple(range(rank))


def _without(shape: tuple[Dim, ...], axes: tuple[int, ...], keepdims: int) -> tuple[Dim, ...]:
    kept = [1 if i in axes else d for i, d in enumerate(shape) if keepdims or i not in axes]
    return tuple(kept)


def _infer_axes_attribute(
    data: TensorType, *, axes: tuple[int, ...] | None = None, keepdims: int = 1
) -> TensorType:
    if data.shape is None:
        return TensorType(data.dtype)
    return TensorType(data.dtype, _without(data.shape, _axes(axes, len(data.shape)), keepdims))


def _infer_axes_input(
    data: TensorType,
    axes: TensorType | None = None,
    *,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> TensorType:
    if data.shape is None:
        return TensorType(data.dtype)
    rank = len(data.shape)
    if axes is None or axes.value is not None:
        known = _axes(known_integers(axes), rank, noop_with_empty_axes)
        return TensorType(data.dtype, _without(data.shape, known, keepdims))
    return TensorType(data.dtype, (None,) * rank if keepdims else None)


@reduction("ReduceSum", axes_input_since=13)
def reduce_sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sum(x, axes, keepdims=True)


@reduction("ReduceMean", axes_input_since=18)
def reduce_mean(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.mean(x, axes, keepdims=True)


@reduction("ReduceProd", axes_input_since=18)
def reduce_prod(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.prod(x, axes, keepdims=True)


@reduction("ReduceMax", axes_input_since=18)
def reduce_max(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The maximum of nothing is minus infinity, or the least value of the type."""
    return np.max(x, axes, keepdims=True, initial=_extremes(x.dtype)[0])


@reduction("ReduceMin", axes_input_since=18)
def reduce_min(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The minimum of nothing is infinity, or the largest value of the type."""
    return np.min(x, axes, keepdims=True, initial=_extremes(x.dtype)[1])


def _extremes(dtype: np.dtype) -> tuple[Any, Any]:
    if is_floating(dtype):
        return -np.inf, np.inf
    if dtype.kind == "b":
        return False, True
    return np.iinfo(dtype).min, np.iinfo(dtype).max


@reduction("ReduceL1", axes_input_since=18)
def reduce_l1(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sum(np.abs(x), axes, keepdims=True)


@reduction("ReduceL2", axes_input_since=18)
def reduce_l2(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.sum(np.square(x, dtype=np.float64), axes, keepdims=True))


@reduction("ReduceSumSquare", axes_input_since=18)
def reduce_sum_square(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sum(np.square(x), axes, keepdims=True)


@reduction("ReduceLogSum", axes_input_since=18)
def reduce_log_sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.log(np.sum(x, axes, keepdims=True))


@reduction("ReduceLogSumExp", axes_input_since=18)
def reduce_log_sum_exp(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """The largest element is taken out of the sum, so that no power overflows."""
    x = x.astype(np.float64)
    largest = np.max(x, axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(largest), largest, 0)
    return np.log(np.sum(np.exp(x - shift), axes, keepdims=True)) + shift


def _infer_arg(
    data: TensorType, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> TensorType:
    if data.shape is None:
        return TensorType(np.dtype(np.int64))
    reduced = (normalize_axis(axis, len(data.shape)),)
    return TensorType(np.dtype(np.int64), _without(data.shape, reduced, keepdims))


@operator("ArgMax", infer=_infer_arg)
def arg_max(
    data: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> np.ndarray:
    """Index of the first maximum along ``axis``, or of the last one; int64."""
    return _arg(np.argmax, data, axis, keepdims, select_last_index)


@operator("ArgMin", infer=_infer_arg)
def arg_min(
    data: np.ndarray, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0
) -> np.ndarray:
    """Index of the first minimum along ``axis``, or of the last one; int64."""
    return _arg(np.argmin, data, axis, keepdims, select_last_index)


def _arg(
    first: Callable[..., Any], data: np.ndarray, axis: int, keepdims: int, last: int
) -> np.ndarray:
    axis = normalize_axis(axis, data.ndim)
    if not last:
        return first(data, axis, keepdims=bool(keepdims))
    return data.shape[axis] - 1 - first(np.flip(data, axis), axis, keepdims=bool(keepdims))


def _infer_top(x: TensorType, k: int | None, axis: int) -> tuple[TensorType, TensorType]:
    shape = x.shape
    if shape is not None:
        shape = with_size(shape, normalize_axis(axis, len(shape)), k)
    return TensorType(x.dtype, shape), TensorType(np.dtype(np.int64), shape)


def _infer_top_k_attribute(
    x: TensorType, *, k: int, axis: int = -1
) -> tuple[TensorType, TensorType]:
    return _infer_top(x, k, axis)


@operator("TopK", infer=_infer_top_k_attribute)
def top_k_attribute(x: np.ndarray, *, k: int, axis: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """The form before opset 10: ``k`` is an attribute."""
    return top_k(x, np.asarray([k]), axis=axis)


def _infer_top_k(
    x: TensorType, k: TensorType, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[TensorType, TensorType]:
    check_singles(K=k)
    return _infer_top(x, None if k.value is None else int(scalar(k.value)), axis)


@operator("TopK", since=10, infer=_infer_top_k)
def top_k(
    x: np.ndarray, k: np.ndarray, *, axis: int = -1, largest: int = 1, sorted: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest or smallest values along ``axis`` and their indices, int64, in order.

    Of equal values the one with the lower index comes first. They come sorted whatever
    ``sorted`` says.
    """
    axis = normalize_axis(axis, x.ndim)
    size, count = x.shape[axis], int(scalar(k))
    if not 0 <= count <= size:
        raise ValueError(f"k is {count}, axis {axis} has {size} elements")
    if largest:
        order = size - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis, kind="stable")
    indices = np.take(order, np.arange(count), axis).astype(np.int64)
    return np.take_along_axis(x, indices, axis), indices
