"""Operators that cut tensors into parts, join them and pad them.

A result may be a view of an input. Where an attribute became an input, the old variant of an
operator is the new one called with that attribute.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import (
    as_input,
    as_known,
    checked_dims,
    checked_shape,
    integers,
    known_integers,
    normalize_axes,
    normalize_axis,
    one_of,
    scalar,
    with_size,
    zero,
)
from minseg.ops.registry import Trait, operator
from minseg.ops.types import check_singles

#: An end of Slice from here on means "to the end", whatever the size.
_TO_THE_END = 2**31 - 1


# Concat and Split


def _joined(shapes: Sequence[Sequence[Dim]], axis: int) -> tuple[Dim, ...]:
    """The shape of tensors of ``shapes`` put one after the other along ``axis``."""
    ranks = sorted({len(shape) for shape in shapes})
    if len(ranks) > 1:
        raise ValueError(f"tensors of ranks {ranks} cannot be joined")
    axis = normalize_axis(axis, ranks[0])
    columns = zip(*shapes, strict=True)
    dims = (_sum(c) if i == axis else _common(c) for i, c in enumerate(columns))
    return checked_dims(dims)


def _sum(dims: Sequence[Dim]) -> Dim:
    known = [d for d in dims if isinstance(d, int)]
    return sum(known) if len(known) == len(dims) else None


def _common(dims: Sequence[Dim]) -> Dim:
    known = {d for d in dims if isinstance(d, int)}
    if len(known) > 1:
        raise ValueError(f"sizes {sorted(known)} differ on an axis that is not joined")
    if known:
        return known.pop()
    return dims[0] if len(set(dims)) == 1 else None


def infer_concat(*inputs: TensorType, axis: int) -> TensorType:
    shapes = [x.shape for x in inputs if x.shape is not None]
    shape = _joined(shapes, axis) if len(shapes) == len(inputs) else None
    return TensorType(inputs[0].dtype, shape)


@operator("Concat", since=4, infer=infer_concat, traits=Trait.MIXES)
def concat(*inputs: np.ndarray, axis: int) -> np.ndarray:
    _joined([x.shape for x in inputs], axis)  # refuses what does not fit or is too large
    return np.concatenate(inputs, axis)


def _split_sizes(
    size: int | None, split: tuple[int, ...] | None, num_outputs: int | None, n_outputs: int
) -> tuple[Any, ...]:
    """What ``size`` is cut into; of equal parts only the last may be smaller, from opset 18 on."""
    if num_outputs not in (None, n_outputs):
        raise ValueError(f"num_outputs is {num_outputs}, the node has {n_outputs} outputs")
    if split is not None:
        if len(split) != n_outputs or min(split) < 0 or size not in (None, sum(split)):
            raise ValueError(f"split {list(split)} does not cut {size} into {n_outputs} parts")
        return split
    if size is None:
        return (None,) * n_outputs
    part = -(-size // n_outputs)
    last = size - part * (n_outputs - 1)
    if last < 0 or (num_outputs is None and last != part):
        raise ValueError(f"size {size} cannot be cut into {n_outputs} equal parts")
    return (part,) * (n_outputs - 1) + (last,)


def _infer_split(
    data: TensorType,
    split: TensorType | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    n_outputs: int,
) -> tuple[TensorType, ...]:
    if data.shape is None:
        return (TensorType(data.dtype),) * n_outputs
    axis = normalize_axis(axis, len(data.shape))
    given = known_integers(split)
    size = data.shape[axis] if given is not None or split is None else None
    size = size if isinstance(size, int) else None
    sizes = _split_sizes(size, given, num_outputs, n_outputs)
    return tuple(TensorType(data.dtype, with_size(data.shape, axis, s)) for s in sizes)


@operator("Split", since=13, infer=_infer_split, traits=Trait.MOVES)
def split_13(
    data: np.ndarray,
    split: np.ndarray | None = None,
    *,
    axis: int = 0,
    num_outputs: int | None = None,
    n_outputs: int,
) -> tuple[np.ndarray, ...]:
    axis = normalize_axis(axis, data.ndim)
    given = None if split is None else integers(split)
    sizes = _split_sizes(data.shape[axis], given, num_outputs, n_outputs)
    return tuple(np.split(data, np.cumsum(sizes)[:-1], axis))


def _infer_split_2(
    data: TensorType, *, split: Sequence[int] | None = None, axis: int = 0, n_outputs: int
) -> tuple[TensorType, ...]:
    return _infer_split(data, as_known(split), axis=axis, n_outputs=n_outputs)


@operator("Split", since=2, infer=_infer_split_2, traits=Trait.MOVES)
def split_2(
    data: np.ndarray, *, split: Sequence[int] | None = None, axis: int = 0, n_outputs: int
) -> tuple[np.ndarray, ...]:
    return split_13(data, as_input(split), axis=axis, n_outputs=n_outputs)


# Slice and Pad


def _slice_cuts(
    rank: int, starts: Any, ends: Any, axes: Any, steps: Any
) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of every axis cut, from sequences of integers or None."""
    axes = normalize_axes(range(len(starts)) if axes is None else axes, rank)
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ValueError("starts, ends, axes and steps differ in length")
    if 0 in steps:
        raise ValueError("a step is 0")
    return list(zip(axes, starts, ends, steps, strict=True))


def _slice_range(size: int, start: int, end: int, step: int) -> range:
    """The elements taken from an axis; start and end are clamped as Slice-13 says."""
    low, high = (0, size) if step > 0 else (-1, size - 1)
    start += size if start < 0 else 0
    end += size if end < 0 else 0
    return range(min(max(start, 0), high), min(max(end, low), high), step)


def _slice_dim(dim: Dim, start: int, end: int, step: int) -> Dim:
    if isinstance(dim, int):
        return len(_slice_range(dim, start, end, step))
    return dim if start == 0 and step == 1 and end >= _TO_THE_END else None


def _infer_slice(
    data: TensorType,
    starts: TensorType,
    ends: TensorType,
    axes: TensorType | None = None,
    steps: TensorType | None = None,
) -> TensorType:
    if data.shape is None:
        return TensorType(data.dtype)
    if any(x is not None and x.value is None for x in (starts, ends, axes, steps)):
        return TensorType(data.dtype, _forgotten(data.shape, axes))
    cuts = [known_integers(x) for x in (starts, ends, axes, steps)]
    dims = list(data.shape)
    for axis, *cut in _slice_cuts(len(dims), *cuts):
        dims[axis] = _slice_dim(dims[axis], *cut)
    return TensorType(data.dtype, tuple(dims))


def _forgotten(shape: Sequence[Dim], axes: TensorType | None) -> tuple[Dim, ...]:
    """``shape`` after an unknown change along ``axes``, all of them where they are not known."""
    known = known_integers(axes)
    changed = range(len(shape)) if known is None else normalize_axes(known, len(shape))
    return tuple(None if i in changed else d for i, d in enumerate(shape))


@operator("Slice", since=10, infer=_infer_slice, traits=Trait.MOVES)
def slice_10(
    data: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> np.ndarray:
    index = [slice(None)] * data.ndim
    cuts = [None if x is None else integers(x) for x in (starts, ends, axes, steps)]
    for axis, *cut in _slice_cuts(data.ndim, *cuts):
        taken = _slice_range(data.shape[axis], *cut)
        stop = taken.stop if taken.stop >= 0 else None
        index[axis] = slice(taken.start, stop, taken.step)
    return data[tuple(index)]


def _infer_slice_1(
    data: TensorType,
    *,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
) -> TensorType:
    return _infer_slice(data, as_known(starts), as_known(ends), as_known(axes))


@operator("Slice", since=1, infer=_infer_slice_1, traits=Trait.MOVES)
def slice_1(
    data: np.ndarray,
    *,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
) -> np.ndarray:
    return slice_10(data, as_input(starts), as_input(ends), as_input(axes))


def _pad_pairs(rank: int, pads: Sequence[int], axes: Sequence[int] | None) -> list[tuple[int, int]]:
    """(before, after) for every axis of the tensor."""
    axes = normalize_axes(range(rank) if axes is None else axes, rank)
    if len(pads) != 2 * len(axes):
        raise ValueError(f"{len(pads)} pads cannot be pairs for {len(axes)} axes")
    pairs = [(0, 0)] * rank
    for axis, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        pairs[axis] = (before, after)
    return pairs


def _padded(shape: Sequence[Dim], pairs: Sequence[tuple[int, int]]) -> tuple[Dim, ...]:
    return checked_dims(_pad_dim(d, *pair) for d, pair in zip(shape, pairs, strict=True))


def _pad_dim(dim: Dim, before: int, after: int) -> Dim:
    if not isinstance(dim, int):
        return dim if before == after == 0 else None
    if dim + min(before, 0) + min(after, 0) < 0:
        raise ValueError(f"pads {before} and {after} remove more than the axis has ({dim})")
    return dim + before + after


def _pad(data: np.ndarray, pairs: Sequence[tuple[int, int]], mode: str, fill: Any) -> np.ndarray:
    """Removes what negative pads name, then pads what is left."""
    _padded(data.shape, pairs)
    cut = [slice(max(-b, 0), d + min(a, 0)) for d, (b, a) in zip(data.shape, pairs, strict=True)]
    data = data[tuple(cut)]
    pairs = [(max(b, 0), max(a, 0)) for b, a in pairs]
    if mode == "constant":
        sizes = [b + d + a for d, (b, a) in zip(data.shape, pairs, strict=True)]
        result = np.full(sizes, fill, data.dtype)
        result[tuple(slice(b, b + d) for d, (b, _) in zip(data.shape, pairs, strict=True))] = data
        return result
    for axis, pair in enumerate(pairs):
        if pair != (0, 0):
            data = np.take(data, _pad_source(data.shape[axis], *pair, mode), axis)
    return data


def _pad_source(size: int, before: int, after: int, mode: str) -> np.ndarray:
    """The index inside of [0, size) that each element of a padded axis is read from."""
    if size == 0:
        raise ValueError(f"an axis of size 0 cannot be padded in mode {mode}")
    i = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(i, 0, size - 1)
    if mode == "wrap":
        return i % size
    if mode == "reflect":
        period = max(2 * size - 2, 1)
        return np.minimum(i % period, period - i % period)
    raise ValueError(f"mode {mode!r} is unknown")


_PAD_MODES = one_of("mode", "constant", "reflect", "edge", "wrap")


def _infer_pad(
    data: TensorType,
    pads: TensorType,
    constant_value: TensorType | None = None,
    axes: TensorType | None = None,
    *,
    mode: str = "constant",
) -> TensorType:
    check_singles(constant_value=constant_value)
    if data.shape is None:
        return TensorType(data.dtype)
    values = known_integers(pads)
    if values is None or (axes is not None and axes.value is None):
        return TensorType(data.dtype, _forgotten(data.shape, axes))
    pairs = _pad_pairs(len(data.shape), values, known_integers(axes))
    return TensorType(data.dtype, _padded(data.shape, pairs))


@operator("Pad", since=11, infer=_infer_pad, check=_PAD_MODES)
def pad_11(
    data: np.ndarray,
    pads: np.ndarray,
    constant_value: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    *,
    mode: str = "constant",
) -> np.ndarray:
    pairs = _pad_pairs(data.ndim, integers(pads), None if axes is None else integers(axes))
    fill = zero(data.dtype) if constant_value is None else scalar(constant_value)
    return _pad(data, pairs, mode, fill)


def _infer_pad_2(
    data: TensorType, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0
) -> TensorType:
    return _infer_pad(data, as_known(pads), mode=mode)


@operator("Pad", since=2, infer=_infer_pad_2, check=_PAD_MODES)
def pad_2(
    data: np.ndarray, *, pads: Sequence[int], mode: str = "constant", value: float = 0.0
) -> np.ndarray:
    return _pad(data, _pad_pairs(data.ndim, pads, None), mode, value)


def _crop_pairs(
    shape: Sequence[int], sizes: Sequence[int], axes: Sequence[int] | None
) -> list[tuple[int, int]]:
    """Pads, negative ones to crop, that make ``axes`` of ``shape`` as large as ``sizes``."""
    pairs = [(0, 0)] * len(shape)
    axes = normalize_axes(range(len(shape)) if axes is None else axes, len(shape))
    for axis, size in zip(axes, checked_shape(sizes), strict=True):
        extra = size - shape[axis]
        before = extra // 2 if extra > 0 else -(-extra // 2)
        pairs[axis] = (before, extra - before)
    return pairs


def _infer_center_crop_pad(
    data: TensorType, shape: TensorType, *, axes: Sequence[int] | None = None
) -> TensorType:
    if data.shape is None:
        return TensorType(data.dtype)
    places = normalize_axes(range(len(data.shape)) if axes is None else axes, len(data.shape))
    sizes = known_integers(shape) or (None,) * len(places)
    changed = dict(zip(places, sizes, strict=True))
    dims = checked_dims(changed.get(i, d) for i, d in enumerate(data.shape))
    return TensorType(data.dtype, dims)


@operator("CenterCropPad", since=18, infer=_infer_center_crop_pad)
def center_crop_pad(
    data: np.ndarray, shape: np.ndarray, *, axes: Sequence[int] | None = None
) -> np.ndarray:
    pairs = _crop_pairs(data.shape, integers(shape), axes)
    return _pad(data, pairs, "constant", zero(data.dtype))
