"""Operators that pick elements by index, and those that put them back.

Indices may be negative, counting from the end; NumPy refuses those out of range (IndexError).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import (
    checked_dims,
    normalize_axis,
    one_of,
    product,
    scalar,
    with_size,
    zero,
)
from minseg.ops.registry import Trait, operator
from minseg.ops.types import check_singles, check_vectors, same

INT64 = np.dtype(np.int64)


# Gather


def _gathered(shape: Sequence[Dim], indices: Sequence[Dim], axis: int) -> tuple[Dim, ...]:
    axis = normalize_axis(axis, len(shape))
    return checked_dims((*shape[:axis], *indices, *shape[axis + 1 :]))


def _infer_gather(data: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
    if data.shape is None or indices.shape is None:
        return TensorType(data.dtype)
    return TensorType(data.dtype, _gathered(data.shape, indices.shape, axis))


@operator("Gather", since=1, infer=_infer_gather, traits=Trait.MOVES)
def gather(data: np.ndarray, indices: np.ndarray, *, axis: int = 0) -> np.ndarray:
    _gathered(data.shape, indices.shape, axis)  # refuses a result that is too large
    return np.take(data, indices, axis)


def _element_index(indices: np.ndarray, shape: Sequence[int], axis: int) -> tuple[Any, ...]:
    """Index of a tensor of ``shape``: every element's own place, but ``indices`` at ``axis``."""
    axis = normalize_axis(axis, len(shape))
    if indices.ndim != len(shape):
        raise ValueError(f"indices of rank {indices.ndim} for a tensor of rank {len(shape)}")
    index: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    index[axis] = indices
    return tuple(index)


def _infer_gather_elements(data: TensorType, indices: TensorType, *, axis: int = 0) -> TensorType:
    return TensorType(data.dtype, indices.shape)


@operator("GatherElements", since=11, infer=_infer_gather_elements)
def gather_elements(data: np.ndarray, indices: np.ndarray, *, axis: int = 0) -> np.ndarray:
    return data[_element_index(indices, data.shape, axis)]


def _gathered_nd(shape: Sequence[Dim], indices: Sequence[Dim], batch_dims: int) -> tuple[Dim, ...]:
    depth = _tuple_length(indices, len(shape) - batch_dims)
    if not 0 <= batch_dims < len(indices):
        raise ValueError(f"batch_dims {batch_dims} does not fit indices of rank {len(indices)}")
    for own, other in zip(shape[:batch_dims], indices, strict=False):
        if isinstance(own, int) and isinstance(other, int) and own != other:
            raise ValueError(f"batch sizes {own} and {other} differ")
    return checked_dims((*indices[:-1], *shape[batch_dims + depth :]))


def _tuple_length(indices: Sequence[Dim], rank: int) -> int:
    """How many axes each tuple in ``indices`` [..., K] names; ValueError unless 1 <= K <= rank."""
    depth = indices[-1] if indices else None
    if not isinstance(depth, int) or not 1 <= depth <= rank:
        raise ValueError(f"indices of shape {list(indices)} do not name 1 to {rank} axes each")
    return depth


def _infer_gather_nd(data: TensorType, indices: TensorType, *, batch_dims: int = 0) -> TensorType:
    if data.shape is None or indices.shape is None or not isinstance(indices.shape[-1], int):
        return TensorType(data.dtype)
    return TensorType(data.dtype, _gathered_nd(data.shape, indices.shape, batch_dims))


@operator("GatherND", since=11, infer=_infer_gather_nd)
def gather_nd(data: np.ndarray, indices: np.ndarray, *, batch_dims: int = 0) -> np.ndarray:
    _gathered_nd(data.shape, indices.shape, batch_dims)
    tuples = np.moveaxis(indices, -1, 0)
    batch = np.indices(tuples.shape[1:], sparse=True)[:batch_dims]
    return data[(*batch, *tuples)]


# Scatter


_REDUCTIONS: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
}
_KNOWN_REDUCTION = one_of("reduction", "none", *_REDUCTIONS)


def _scatter(data: np.ndarray, index: Any, updates: np.ndarray, reduction: str) -> np.ndarray:
    """A copy of ``data`` with ``updates`` written, or reduced one by one, at ``index``."""
    result = data.copy()
    if reduction == "none":
        result[index] = updates
    else:
        _REDUCTIONS[reduction].at(result, index, updates)
    return result


def _infer_scatter(
    data: TensorType,
    indices: TensorType,
    updates: TensorType,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> TensorType:
    return same(data)


@operator("Scatter", since=9, infer=_infer_scatter)
@operator("ScatterElements", since=11, infer=_infer_scatter, check=_KNOWN_REDUCTION)
def scatter_elements(
    data: np.ndarray,
    indices: np.ndarray,
    updates: np.ndarray,
    *,
    axis: int = 0,
    reduction: str = "none",
) -> np.ndarray:
    if updates.shape != indices.shape:
        raise ValueError(f"updates {list(updates.shape)} for indices {list(indices.shape)}")
    return _scatter(data, _element_index(indices, data.shape, axis), updates, reduction)


def _infer_scatter_nd(
    data: TensorType, indices: TensorType, updates: TensorType, *, reduction: str = "none"
) -> TensorType:
    return same(data)


@operator("ScatterND", since=11, infer=_infer_scatter_nd, check=_KNOWN_REDUCTION)
def scatter_nd(
    data: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, reduction: str = "none"
) -> np.ndarray:
    depth = _tuple_length(indices.shape, data.ndim)
    needed = (*indices.shape[:-1], *data.shape[depth:])
    if updates.shape != needed:
        raise ValueError(f"updates of shape {list(updates.shape)}, {list(needed)} is needed")
    return _scatter(data, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)


# By condition


def _infer_compress(
    data: TensorType, condition: TensorType, *, axis: int | None = None
) -> TensorType:
    count = None if condition.value is None else int(np.count_nonzero(condition.value))
    if axis is None:
        return TensorType(data.dtype, (count,))
    if data.shape is None:
        return TensorType(data.dtype)
    return TensorType(
        data.dtype, with_size(data.shape, normalize_axis(axis, len(data.shape)), count)
    )


@operator("Compress", since=9, infer=_infer_compress)
def compress(data: np.ndarray, condition: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    return np.compress(condition, data, axis)


def _infer_non_zero(x: TensorType) -> TensorType:
    return TensorType(INT64, (x.rank, None))


@operator("NonZero", since=9, infer=_infer_non_zero)
def non_zero(x: np.ndarray) -> np.ndarray:
    return np.argwhere(x).T.astype(np.int64)


def _infer_trilu(data: TensorType, k: TensorType | None = None, *, upper: int = 1) -> TensorType:
    check_singles(k=k)
    return same(data)


@operator("Trilu", since=14, infer=_infer_trilu)
def trilu(data: np.ndarray, k: np.ndarray | None = None, *, upper: int = 1) -> np.ndarray:
    if data.ndim < 2:
        raise ValueError(f"a tensor of rank {data.ndim} has no diagonals")
    rows, columns = data.shape[-2:]
    diagonal = 0 if k is None else max(-rows, min(int(scalar(k)), columns))
    if upper:
        kept = ~np.tri(rows, columns, diagonal - 1, bool)
    else:
        kept = np.tri(rows, columns, diagonal, bool)
    return np.where(kept, data, np.asarray(zero(data.dtype), data.dtype))


def _hot_shape(indices: Sequence[Dim], depth: Dim, axis: int) -> tuple[Dim, ...]:
    axis = normalize_axis(axis, len(indices) + 1)
    return checked_dims((*indices[:axis], depth, *indices[axis:]))


def _infer_one_hot(
    indices: TensorType, depth: TensorType, values: TensorType, *, axis: int = -1
) -> TensorType:
    check_singles(depth=depth)
    check_vectors(2, values=values)
    if indices.shape is None:
        return TensorType(values.dtype)
    classes = None if depth.value is None else int(scalar(depth.value))
    return TensorType(values.dtype, _hot_shape(indices.shape, classes, axis))


@operator("OneHot", since=9, infer=_infer_one_hot)
def one_hot(
    indices: np.ndarray, depth: np.ndarray, values: np.ndarray, *, axis: int = -1
) -> np.ndarray:
    """``values`` is [off, on]; an index out of range gives off everywhere."""
    classes = int(scalar(depth))
    shape = _hot_shape(indices.shape, classes, axis)
    axis = normalize_axis(axis, len(shape))
    index = np.expand_dims(indices.astype(np.int64), axis)
    places = np.arange(classes).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    hot = (index == places) | (index + classes == places)
    return values[hot.astype(np.intp)]


# Sequences and sets


def _infer_reverse_sequence(
    data: TensorType, sequence_lens: TensorType, *, batch_axis: int = 1, time_axis: int = 0
) -> TensorType:
    return same(data)


@operator("ReverseSequence", since=10, infer=_infer_reverse_sequence)
def reverse_sequence(
    data: np.ndarray, sequence_lens: np.ndarray, *, batch_axis: int = 1, time_axis: int = 0
) -> np.ndarray:
    sequences = np.moveaxis(data, (batch_axis, time_axis), (0, 1))
    batch, time = sequences.shape[:2]
    lengths = sequence_lens.reshape(batch, 1)
    if lengths.size and not 0 <= lengths.min() <= lengths.max() <= time:
        raise ValueError(f"sequence_lens {lengths.ravel()} are not lengths up to {time}")
    step = np.arange(time)
    source = np.where(step < lengths, lengths - 1 - step, step)
    reversed_ = sequences[np.arange(batch)[:, None], source]
    return np.moveaxis(reversed_, (0, 1), (batch_axis, time_axis))


def _infer_unique(
    x: TensorType, *, axis: int | None = None, sorted: int = 1
) -> tuple[TensorType, ...]:
    shape: tuple[Dim, ...] | None = (None,)
    length: Dim = None if x.shape is None else product(x.shape)
    if axis is not None:
        shape = x.shape
        if x.shape is not None:
            axis = normalize_axis(axis, len(x.shape))
            shape, length = with_size(x.shape, axis, None), x.shape[axis]
    counted, each = TensorType(INT64, (None,)), TensorType(INT64, (length,))
    return TensorType(x.dtype, shape), counted, each, counted


@operator("Unique", since=11, infer=_infer_unique)
def unique(x: np.ndarray, *, axis: int | None = None, sorted: int = 1) -> tuple[np.ndarray, ...]:
    """The values, and INT64 [U] first places, [X] places of each x among them, [U] counts."""
    keys = x.astype(str) if x.dtype == object else x
    _, first, inverse, counts = np.unique(
        keys, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    order = np.arange(len(first)) if sorted else np.argsort(first)
    rank = np.argsort(order)
    values = x.ravel()[first[order]] if axis is None else np.take(x, first[order], axis)
    return values, first[order], rank[inverse.ravel()], counts[order]


# NonMaxSuppression


def _corners(boxes: np.ndarray, center_point_box: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest corner of boxes [B, 4], each [B, 2] in any order of the two axes."""
    a, b = boxes[:, :2], boxes[:, 2:]
    if center_point_box:
        a, b = a - b / 2, a + b / 2
    return np.minimum(a, b), np.maximum(a, b)


def _overlap(low: np.ndarray, high: np.ndarray, chosen: int, others: np.ndarray) -> np.ndarray:
    """Intersection over union [O] of box ``chosen`` with ``others``; 0 where the union is empty."""
    sides = np.minimum(high[chosen], high[others]) - np.maximum(low[chosen], low[others])
    intersection = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(high[others] - low[others], axis=1)
    union = np.prod(high[chosen] - low[chosen]) + areas - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _suppressed(
    low: np.ndarray, high: np.ndarray, candidates: np.ndarray, limit: int, iou_threshold: Any
) -> list[int]:
    """Boxes chosen greedily from ``candidates`` (best first), none overlapping another too much."""
    chosen: list[int] = []
    while len(candidates) and len(chosen) < limit:
        best, candidates = candidates[0], candidates[1:]
        chosen.append(int(best))
        too_much = _overlap(low, high, best, candidates) > iou_threshold
        candidates = candidates[~too_much]
    return chosen


def _infer_non_max_suppression(*_: TensorType | None, center_point_box: int = 0) -> TensorType:
    return TensorType(INT64, (None, 3))


@operator("NonMaxSuppression", since=10, infer=_infer_non_max_suppression)
def non_max_suppression(
    boxes: np.ndarray,
    scores: np.ndarray,
    max_output_boxes_per_class: np.ndarray | None = None,
    iou_threshold: np.ndarray | None = None,
    score_threshold: np.ndarray | None = None,
    *,
    center_point_box: int = 0,
) -> np.ndarray:
    """Boxes [N, B, 4] with scores [N, C, B] → INT64 [selected, 3] of batch, class and box."""
    limit = 0 if max_output_boxes_per_class is None else int(scalar(max_output_boxes_per_class))
    iou = 0.0 if iou_threshold is None else scalar(iou_threshold)
    least = -np.inf if score_threshold is None else scalar(score_threshold)
    if scores.ndim != 3 or boxes.shape != (scores.shape[0], scores.shape[2], 4):
        raise ValueError(f"boxes {list(boxes.shape)} and scores {list(scores.shape)} do not fit")
    selected: list[tuple[int, int, int]] = []
    for n, batch_scores in enumerate(scores):
        low, high = _corners(boxes[n], center_point_box)
        for c, score in enumerate(batch_scores):
            best_first = np.argsort(-score, kind="stable")
            candidates = best_first[score[best_first] >= least]
            chosen = _suppressed(low, high, candidates, limit, iou)
            selected += [(n, c, box) for box in chosen]
    return np.array(selected, np.int64).reshape(-1, 3)
