"""Operators that give a tensor another shape, repeat it, tell its shape or start from a shape.

A result may be a view of an input. A shape rule stands before the operator it serves; the two
share one function on shapes wherever the arithmetic is more than NumPy's own. Where an attribute
became an input, the old variant of an operator is the new one called with that attribute.
"""

from __future__ import annotations

import math
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
    known_length,
    normalize_axes,
    normalize_axis,
    one_of,
    product,
    quotient,
    scalar,
    times,
    unknown_dims,
)
from minseg.ops.dtypes import dtype_of, element_types
from minseg.ops.registry import Trait, operator
from minseg.ops.types import broadcast_shapes, check_singles, same

INT64 = np.dtype(np.int64)


# Same elements, another shape


def _infer_transpose(data: TensorType, *, perm: Sequence[int] | None = None) -> TensorType:
    if data.shape is None:
        return TensorType(data.dtype, unknown_dims(None if perm is None else len(perm)))
    order = _order(len(data.shape), perm)
    return TensorType(data.dtype, tuple(data.shape[axis] for axis in order))


def _order(rank: int, perm: Sequence[int] | None) -> tuple[int, ...]:
    order = normalize_axes(reversed(range(rank)) if perm is None else perm, rank)
    if len(order) != rank:
        raise ValueError(f"perm {list(order)} does not name every axis of a tensor of rank {rank}")
    return order


@operator("Transpose", since=1, infer=_infer_transpose, traits=Trait.MOVES)
def transpose(data: np.ndarray, *, perm: Sequence[int] | None = None) -> np.ndarray:
    return np.transpose(data, _order(data.ndim, perm))


def _reshaped(shape: Sequence[Dim], sizes: Sequence[int], allowzero: int) -> tuple[Any, ...]:
    """``shape`` as Reshape makes it: 0 copies a size, -1 stands for what is left."""
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1 or (allowzero and {0, -1} <= set(sizes)):
        raise ValueError(f"{list(sizes)} is not a shape that Reshape can make")
    copied = [i for i, size in enumerate(sizes) if size == 0 and not allowzero]
    if copied and copied[-1] >= len(shape):
        raise ValueError(f"shape {list(shape)} has no size at axis {copied[-1]} to copy")
    left = [d for i, d in enumerate(shape) if i not in copied]
    fixed = math.prod(size for i, size in enumerate(sizes) if i not in copied and size != -1)
    total = product(left)
    dims: list[Dim] = list(sizes)
    for i in copied:
        dims[i] = shape[i]
    if -1 in sizes:
        dims[sizes.index(-1)] = quotient(left, fixed)
    elif isinstance(total, int) and total != fixed:
        raise ValueError(f"shape {list(shape)} cannot be reshaped to {list(sizes)}")
    return checked_dims(dims)


def _infer_reshape(data: TensorType, shape: TensorType, *, allowzero: int = 0) -> TensorType:
    sizes = known_integers(shape)
    if sizes is None:
        return TensorType(data.dtype, unknown_dims(known_length(shape)))
    if data.shape is not None:
        return TensorType(data.dtype, _reshaped(data.shape, sizes, allowzero))
    unknown = (-1,) if allowzero else (-1, 0)
    return TensorType(data.dtype, tuple(None if size in unknown else size for size in sizes))


@operator("Reshape", since=5, infer=_infer_reshape, traits=Trait.MOVES | Trait.VIEW)
def reshape(data: np.ndarray, shape: np.ndarray, *, allowzero: int = 0) -> np.ndarray:
    return data.reshape(_reshaped(data.shape, integers(shape), allowzero))


def _flattened(shape: Sequence[Dim], axis: int) -> tuple[Any, Any]:
    if axis != len(shape):
        axis = normalize_axis(axis, len(shape))
    return product(shape[:axis]), product(shape[axis:])


def _infer_flatten(data: TensorType, *, axis: int = 1) -> TensorType:
    dims = (None, None) if data.shape is None else _flattened(data.shape, axis)
    return TensorType(data.dtype, dims)


@operator("Flatten", since=1, infer=_infer_flatten, traits=Trait.MOVES | Trait.VIEW)
def flatten(data: np.ndarray, *, axis: int = 1) -> np.ndarray:
    return data.reshape(_flattened(data.shape, axis))


def _squeezed(shape: Sequence[Dim], axes: Sequence[int] | None) -> tuple[Any, ...]:
    if axes is None:
        return tuple(d for d in shape if d != 1)
    axes = normalize_axes(axes, len(shape))
    for axis in axes:
        if shape[axis] != 1 and isinstance(shape[axis], int):
            raise ValueError(f"axis {axis} has size {shape[axis]} and cannot be removed")
    return tuple(d for i, d in enumerate(shape) if i not in axes)


def _infer_squeeze(data: TensorType, axes: TensorType | None = None) -> TensorType:
    sizes = known_integers(axes)
    if data.shape is None or (sizes is None and (axes is not None or not data.is_static)):
        return TensorType(data.dtype)
    return TensorType(data.dtype, _squeezed(data.shape, sizes))


@operator("Squeeze", since=13, infer=_infer_squeeze, traits=Trait.MOVES | Trait.VIEW)
def squeeze_13(data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return data.reshape(_squeezed(data.shape, None if axes is None else integers(axes)))


def _infer_squeeze_1(data: TensorType, *, axes: Sequence[int] | None = None) -> TensorType:
    return _infer_squeeze(data, as_known(axes))


@operator("Squeeze", since=1, infer=_infer_squeeze_1, traits=Trait.MOVES | Trait.VIEW)
def squeeze_1(data: np.ndarray, *, axes: Sequence[int] | None = None) -> np.ndarray:
    return squeeze_13(data, as_input(axes))


def _unsqueezed(shape: Sequence[Dim], axes: Sequence[int]) -> tuple[Any, ...]:
    rank = len(shape) + len(axes)
    new = normalize_axes(axes, rank)
    old = iter(shape)
    return tuple(1 if i in new else next(old) for i in range(rank))


def _infer_unsqueeze(data: TensorType, axes: TensorType) -> TensorType:
    places, count = known_integers(axes), known_length(axes)
    if data.shape is None or count is None:
        return TensorType(data.dtype)
    if places is None:
        return TensorType(data.dtype, unknown_dims(len(data.shape) + count))
    return TensorType(data.dtype, _unsqueezed(data.shape, places))


@operator("Unsqueeze", since=13, infer=_infer_unsqueeze, traits=Trait.MOVES | Trait.VIEW)
def unsqueeze_13(data: np.ndarray, axes: np.ndarray) -> np.ndarray:
    return data.reshape(_unsqueezed(data.shape, integers(axes)))


def _infer_unsqueeze_1(data: TensorType, *, axes: Sequence[int]) -> TensorType:
    return _infer_unsqueeze(data, as_known(axes))


@operator("Unsqueeze", since=1, infer=_infer_unsqueeze_1, traits=Trait.MOVES | Trait.VIEW)
def unsqueeze_1(data: np.ndarray, *, axes: Sequence[int]) -> np.ndarray:
    return unsqueeze_13(data, as_input(axes))


# Between depth and space


def _depth_to_space_dims(shape: Sequence[Dim], blocksize: int) -> tuple[Any, ...]:
    n, c, h, w = _nchw(shape, blocksize)
    return checked_dims((n, quotient([c], blocksize**2), times(h, blocksize), times(w, blocksize)))


def _space_to_depth_dims(shape: Sequence[Dim], blocksize: int) -> tuple[Any, ...]:
    n, c, h, w = _nchw(shape, blocksize)
    return checked_dims(
        (n, times(c, blocksize**2), quotient([h], blocksize), quotient([w], blocksize))
    )


def _nchw(shape: Sequence[Dim], blocksize: int) -> Sequence[Dim]:
    if len(shape) != 4 or blocksize < 1:
        raise ValueError(f"blocks of {blocksize} in shape {list(shape)}: [N, C, H, W] is needed")
    return shape


def _infer_depth_to_space(data: TensorType, *, blocksize: int, mode: str = "DCR") -> TensorType:
    shape = (None,) * 4 if data.shape is None else _depth_to_space_dims(data.shape, blocksize)
    return TensorType(data.dtype, shape)


def _infer_space_to_depth(data: TensorType, *, blocksize: int, mode: str = "DCR") -> TensorType:
    shape = (None,) * 4 if data.shape is None else _space_to_depth_dims(data.shape, blocksize)
    return TensorType(data.dtype, shape)


_BLOCK_MODES = one_of("mode", "DCR", "CRD")


@operator(
    "DepthToSpace", since=1, infer=_infer_depth_to_space, check=_BLOCK_MODES, traits=Trait.MOVES
)
def depth_to_space(data: np.ndarray, *, blocksize: int, mode: str = "DCR") -> np.ndarray:
    n, c, h, w = _depth_to_space_dims(data.shape, blocksize)
    height, width = data.shape[2:]
    if mode == "DCR":
        blocks = data.reshape(n, blocksize, blocksize, c, height, width)
        return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(n, c, h, w)
    blocks = data.reshape(n, c, blocksize, blocksize, height, width)
    return blocks.transpose(0, 1, 4, 2, 5, 3).reshape(n, c, h, w)


@operator(
    "SpaceToDepth", since=1, infer=_infer_space_to_depth, check=_BLOCK_MODES, traits=Trait.MOVES
)
def space_to_depth(data: np.ndarray, *, blocksize: int, mode: str = "DCR") -> np.ndarray:
    n, c, h, w = _space_to_depth_dims(data.shape, blocksize)
    blocks = data.reshape(n, data.shape[1], h, blocksize, w, blocksize)
    order = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return blocks.transpose(order).reshape(n, c, h, w)


# Repetition


def _infer_expand(data: TensorType, shape: TensorType) -> TensorType:
    sizes, rank = known_integers(shape), known_length(shape)
    if data.shape is None or rank is None:
        return TensorType(data.dtype)
    if sizes is None:
        return TensorType(data.dtype, unknown_dims(max(rank, len(data.shape))))
    return TensorType(data.dtype, broadcast_shapes(data.shape, checked_shape(sizes)))


@operator("Expand", since=8, infer=_infer_expand, traits=Trait.MOVES)
def expand(data: np.ndarray, shape: np.ndarray) -> np.ndarray:
    sizes = np.broadcast_shapes(data.shape, checked_shape(integers(shape)))
    return np.broadcast_to(data, checked_shape(sizes))


def _tiled(shape: Sequence[Dim], repeats: Sequence[int]) -> tuple[Dim, ...]:
    if len(repeats) != len(shape) or min(repeats, default=0) < 0:
        raise ValueError(f"repeats {list(repeats)} do not fit shape {list(shape)}")
    return checked_dims(times(d, r) for d, r in zip(shape, repeats, strict=True))


def _infer_tile(data: TensorType, repeats: TensorType) -> TensorType:
    counts = known_integers(repeats)
    if data.shape is None or counts is None:
        return TensorType(data.dtype, unknown_dims(data.rank))
    return TensorType(data.dtype, _tiled(data.shape, counts))


@operator("Tile", since=6, infer=_infer_tile, traits=Trait.MOVES)
def tile(data: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    counts = integers(repeats)
    _tiled(data.shape, counts)
    return np.tile(data, counts)


# What a tensor looks like, and tensors made from that


def _infer_shape(data: TensorType, *, start: int = 0, end: int | None = None) -> TensorType:
    if data.shape is None:
        return TensorType(INT64, (None,))
    dims = data.shape[start:end]
    value = np.array(dims, INT64) if all(isinstance(d, int) for d in dims) else None
    return TensorType(INT64, (len(dims),), value)


@operator("Shape", since=1, infer=_infer_shape)
def shape(data: np.ndarray, *, start: int = 0, end: int | None = None) -> np.ndarray:
    return np.array(data.shape[start:end], INT64)


def _infer_size(data: TensorType) -> TensorType:
    total = None if data.shape is None else product(data.shape)
    return TensorType(INT64, (), np.array(total, INT64) if isinstance(total, int) else None)


@operator("Size", since=1, infer=_infer_size)
def size(data: np.ndarray) -> np.ndarray:
    return np.array(data.size, INT64)


@operator(
    "Identity",
    since=1,
    infer=lambda data: data,
    traits=Trait.ELEMENTWISE | Trait.MOVES | Trait.VIEW,
)
def identity(data: Any) -> Any:
    return data


def _infer_constant_of_shape(input: TensorType, *, value: np.ndarray | None = None) -> TensorType:
    sizes = known_integers(input)
    dims = unknown_dims(known_length(input)) if sizes is None else checked_shape(sizes)
    return TensorType(np.dtype(np.float32) if value is None else value.dtype, dims)


@operator("ConstantOfShape", since=9, infer=_infer_constant_of_shape)
def constant_of_shape(input: np.ndarray, *, value: np.ndarray | None = None) -> np.ndarray:
    fill = np.zeros(1, np.float32) if value is None else value
    return np.full(checked_shape(integers(input)), scalar(fill), fill.dtype)


def _infer_eye_like(data: TensorType, *, dtype: int | None = None, k: int = 0) -> TensorType:
    return TensorType(data.dtype if dtype is None else dtype_of(dtype), data.shape)


@operator("EyeLike", since=9, infer=_infer_eye_like, check=element_types("dtype"))
def eye_like(data: np.ndarray, *, dtype: int | None = None, k: int = 0) -> np.ndarray:
    rows, columns = data.shape
    return np.eye(rows, columns, k, data.dtype if dtype is None else dtype_of(dtype))


def _infer_range(
    start: TensorType, limit: TensorType, delta: TensorType, *, stash_type: int = 1
) -> TensorType:
    check_singles(start=start, limit=limit, delta=delta)
    given = (start, limit, delta)
    values = [scalar(t.value).item() for t in given if t.value is not None]
    length = _range_length(*values) if len(values) == len(given) else None
    return TensorType(start.dtype, checked_dims([length]))


def _range_length(first: float, last: float, step: float) -> int:
    if step == 0:
        raise ValueError("delta is 0")
    if isinstance(first, int):  # exactly, where a float64 quotient would round
        return max(-int((first - last) // step), 0)
    return max(math.ceil((last - first) / step), 0)


@operator("Range", since=11, infer=_infer_range)
def range_11(
    start: np.ndarray, limit: np.ndarray, delta: np.ndarray, *, stash_type: int = 1
) -> np.ndarray:
    """Floats are computed in float64, which is no narrower than any ``stash_type``."""
    first, last, step = (scalar(x).item() for x in (start, limit, delta))
    (count,) = checked_shape([_range_length(first, last, step)])
    return np.asarray(first + np.arange(count) * step).astype(start.dtype)


# Dropout


def _infer_dropout_7(data: TensorType, *, ratio: float = 0.5) -> tuple[TensorType, TensorType]:
    return data, same(data)


@operator("Dropout", since=7, infer=_infer_dropout_7)
def dropout_7(data: np.ndarray, *, ratio: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    return data, np.ones_like(data)


def _infer_dropout_10(data: TensorType, *, ratio: float = 0.5) -> tuple[TensorType, TensorType]:
    return data, TensorType(np.dtype(bool), data.shape)


@operator("Dropout", since=10, infer=_infer_dropout_10)
def dropout_10(data: np.ndarray, *, ratio: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    return data, np.ones(data.shape, bool)


def _infer_dropout_12(
    data: TensorType,
    ratio: TensorType | None = None,
    training_mode: TensorType | None = None,
    *,
    seed: int | None = None,
) -> tuple[TensorType, TensorType]:
    check_singles(ratio=ratio, training_mode=training_mode)
    return same(data), TensorType(np.dtype(bool), data.shape)


@operator("Dropout", since=12, infer=_infer_dropout_12)
def dropout_12(
    data: np.ndarray,
    ratio: np.ndarray | None = None,
    training_mode: np.ndarray | None = None,
    *,
    seed: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The random numbers are the specification's: NumPy's legacy generator seeded with ``seed``."""
    dropped = 0.5 if ratio is None else float(scalar(ratio))
    if training_mode is None or not scalar(training_mode) or dropped == 0:
        return data, np.ones(data.shape, bool)
    if not 0 < dropped < 1:
        raise ValueError(f"ratio {dropped} is not in [0, 1)")
    kept = np.random.RandomState(seed).uniform(size=data.shape) >= dropped
    return (kept * data.astype(np.float64) / (1 - dropped)).astype(data.dtype), kept
