"""Operators that cut, join and pad, against loops over single elements."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from operator_calls import call, call_onnxruntime
from operator_tensors import (
    FLOAT32,
    INT64,
    counted,
    inferred,
    known,
    of_shape,
    refusal_types,
    run,
    same,
)

from minseg.errors import MinsegError, ModelError
from minseg.graph.model import TensorType

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


# Concat and Split


@given(SHAPES, st.data())
def test_concat(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    parts = []
    for i, size in enumerate(sizes):
        part = list(shape)
        part[axis] = size
        parts.append(100 * i + counted(tuple(part)))
    rows = [row for part in parts for row in np.moveaxis(part, axis, 0)]
    total = list(shape)
    total[axis] = sum(sizes)
    expected = np.empty(total, np.float32)
    for i, row in enumerate(rows):
        np.moveaxis(expected, axis, 0)[i] = row
    same(call("Concat", *parts, axis=axis), expected)


def test_concat_infers_through_unknown_sizes() -> None:
    a, b = of_shape("N", None, 3, 4), of_shape("N", 7, "H", 5)
    assert inferred("Concat", a, b, axis=-1).shape == ("N", 7, 3, 9)
    assert inferred("Concat", a, b, axis=3).shape == ("N", 7, 3, 9)
    assert inferred("Concat", of_shape("N", 2), of_shape("M", 2), axis=1).shape == (None, 4)


@given(SHAPES, st.data())
def test_split_by_sizes(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), max_size=3)))
    ends = [*cuts, shape[axis]]
    sizes = [end - start for start, end in zip([0, *cuts], ends, strict=True)]
    x = counted(shape)
    for opset, inputs, attributes in (
        (28, (x, np.array(sizes)), {}),
        (13, (x, np.array(sizes)), {}),
        (11, (x,), {"split": tuple(sizes)}),
        (7, (x,), {"split": tuple(sizes)}),
    ):
        parts = call("Split", *inputs, axis=axis, opset=opset, outputs=len(sizes), **attributes)
        parts = parts if isinstance(parts, tuple) else (parts,)
        for part, start, end in zip(parts, [0, *cuts], ends, strict=True):
            same(part, np.moveaxis(np.moveaxis(x, axis, 0)[start:end], 0, axis))


@pytest.mark.parametrize(
    ("size", "sizes"), [(6, [2, 2, 2]), (7, [3, 3, 1]), (3, [1, 1, 1]), (0, [0, 0, 0])]
)
def test_split_into_parts_of_which_the_last_may_be_smaller(size: int, sizes: list[int]) -> None:
    parts = call("Split", counted((size, 2)), num_outputs=3, outputs=3)
    assert [len(part) for part in parts] == sizes
    same(
        np.array([row for part in parts for row in part], np.float32).reshape(size, 2),
        counted((size, 2)),
    )


@pytest.mark.parametrize("opset", [7, 11, 13])
def test_split_into_equal_parts_before_num_outputs(opset: int) -> None:
    a, b = call("Split", counted((4, 3)), opset=opset, outputs=2)
    same(a, counted((4, 3))[:2])
    same(b, counted((4, 3))[2:])


# Slice and Pad


def picked(size: int, start: int, end: int, step: int) -> list[int]:
    """Walks along an axis as the specification of Slice says."""
    start, end = (v + size if v < 0 else v for v in (start, end))
    found = []
    at = min(max(start, 0), size if step > 0 else size - 1)
    stop = min(max(end, 0), size) if step > 0 else min(max(end, -1), size - 1)
    while at < stop if step > 0 else at > stop:
        found.append(at)
        at += step
    return found


BOUNDS = st.one_of(st.integers(-7, 7), st.sampled_from([2**31 - 1, -(2**31), 2**63 - 1, -(2**63)]))


@given(SHAPES, st.data())
def test_slice(shape: tuple[int, ...], data: st.DataObject) -> None:
    rank = len(shape)
    axes = data.draw(st.permutations(range(rank)))[: data.draw(st.integers(0, rank))]
    starts, ends = (data.draw(st.lists(BOUNDS, min_size=rank)) for _ in range(2))
    steps = data.draw(st.lists(st.sampled_from([1, 2, -1, -2, 3, 2**62]), min_size=rank))
    x = counted(shape)
    expected = x
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=False):
        rows = np.moveaxis(expected, axis, 0)
        taken = [rows[i] for i in picked(shape[axis], start, end, step)]
        shaped = np.array(taken, np.float32).reshape(len(taken), *rows.shape[1:])
        expected = np.moveaxis(shaped, 0, axis)
    signed = [a - rank if data.draw(st.booleans()) else a for a in axes]
    arrays = [np.array(v[: len(axes)], np.int64) for v in (starts, ends, signed, steps)]
    same(call("Slice", x, *arrays, opset=data.draw(st.sampled_from([10, 13, 28]))), expected)


@given(SHAPES, st.data())
def test_slice_by_attributes(shape: tuple[int, ...], data: st.DataObject) -> None:
    starts, ends = (tuple(data.draw(st.lists(BOUNDS, min_size=len(shape)))) for _ in range(2))
    starts, ends = starts[: len(shape)], ends[: len(shape)]
    x = counted(shape)
    indices = [picked(d, s, e, 1) for d, s, e in zip(shape, starts, ends, strict=True)]
    expected = np.empty([len(i) for i in indices], np.float32)
    for place in np.ndindex(expected.shape):
        expected[place] = x[tuple(i[p] for i, p in zip(indices, place, strict=True))]
    same(call("Slice", x, starts=starts, ends=ends, opset=9), expected)
    axes = tuple(range(len(shape)))
    same(call("Slice", x, starts=starts, ends=ends, axes=axes, opset=7), expected)


def test_slice_infers_through_unknown_sizes() -> None:
    x = of_shape("N", 8, "H", 6)
    whole = (known(0), known(2**63 - 1))
    assert inferred("Slice", x, *whole, known(2)).shape == ("N", 8, "H", 6)
    assert inferred("Slice", x, known(1), known(2**63 - 1), known(2)).shape == ("N", 8, None, 6)
    cut = TensorType(INT64, (1,))
    assert inferred("Slice", x, cut, cut, known(1)).shape == ("N", None, "H", 6)
    assert inferred("Slice", x, *whole, cut).shape == (None,) * 4


def source(mode: str, size: int, at: int) -> int:
    """Where a padded axis reads the place ``at``, walked one step at a time."""
    if mode == "edge":
        return min(max(at, 0), size - 1)
    if mode == "wrap":
        while not 0 <= at < size:
            at += size if at < 0 else -size
        return at
    while not 0 <= at < size:
        at = 0 if size == 1 else -at if at < 0 else 2 * (size - 1) - at
    return at


def padded(row: list[Any], before: int, after: int, mode: str, fill: Any) -> list[Any]:
    row = row[max(-before, 0) : len(row) - max(-after, 0)]
    places = range(-max(before, 0), len(row) + max(after, 0))
    if mode == "constant":
        return [row[i] if 0 <= i < len(row) else fill for i in places]
    return [row[source(mode, len(row), i)] for i in places]


MODES = ["constant", "edge", "reflect", "wrap"]


@pytest.mark.parametrize("mode", MODES)
@given(hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4), st.data())
def test_pad(mode: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    rank = len(shape)
    pads = [data.draw(st.integers(-2, 5)) for _ in range(2 * rank)]
    pairs = list(zip(pads[:rank], pads[rank:], strict=True))
    smallest = 0 if mode == "constant" else 1
    assume(
        all(s + min(b, 0) + min(a, 0) >= smallest for s, (b, a) in zip(shape, pairs, strict=True))
    )
    x, expected = counted(shape), counted(shape)
    for axis, (before, after) in enumerate(pairs):
        rows = padded(list(np.moveaxis(expected, axis, 0)), before, after, mode, None)
        rest = np.moveaxis(expected, axis, 0).shape[1:]
        filled = [np.full(rest, -3, np.float32) if row is None else row for row in rows]
        stacked = np.array(filled, np.float32).reshape(len(rows), *rest)
        expected = np.moveaxis(stacked, 0, axis)
    same(call("Pad", x, np.array(pads), np.float32(-3), mode=mode), expected)
    same(call("Pad", x, pads=tuple(pads), mode=mode, value=-3.0, opset=10), expected)
    axes = data.draw(st.permutations(range(rank)))
    order = [*axes, *(rank + a for a in axes)]
    given_pads = np.array([pads[i] for i in order], np.int32)
    signed = np.array([a - rank for a in axes], np.int32)
    same(call("Pad", x, given_pads, np.float32([-3]), signed, mode=mode, opset=19), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pads", [(2, -1, 1, 2), (-1, 1, 2, -2), (0, 3, -1, 1)])
def test_pad_agrees_with_onnxruntime(mode: str, pads: tuple[int, ...]) -> None:
    x = counted((5, 6))
    result = call("Pad", x, np.array(pads), opset=19, mode=mode)
    same(result, call_onnxruntime("Pad", x, np.array(pads), opset=19, mode=mode))


@pytest.mark.parametrize(("dtype", "fill"), [(object, ""), (bool, False), (ml_dtypes.int4, 0)])
def test_pad_fills_with_the_zero_of_the_dtype(dtype: Any, fill: Any) -> None:
    x = counted((2,), dtype)
    same(call("Pad", x, np.array([1, 0])), np.array([fill, *x.tolist()], dtype))


def test_pad_infers_through_unknown_sizes() -> None:
    assert inferred("Pad", of_shape("N", 3, "H"), known(0, 1, 1, 0, 2, 0)).shape == ("N", 6, None)
    unknown = TensorType(INT64, (2,))
    optional = (unknown, TensorType(FLOAT32, ()), known(1))
    assert inferred("Pad", of_shape("N", 3, "H"), *optional).shape == ("N", None, "H")


@given(SHAPES, st.data())
def test_center_crop_pad(shape: tuple[int, ...], data: st.DataObject) -> None:
    axes = data.draw(st.permutations(range(len(shape))))
    axes = axes[: data.draw(st.integers(0, len(shape)))]
    sizes = [data.draw(st.integers(0, 6)) for _ in axes]
    expected = x = 1 + counted(shape)
    for axis, size in zip(axes, sizes, strict=True):
        rows = np.moveaxis(expected, axis, 0)
        begin = math.floor(abs(size - len(rows)) / 2) * (1 if size > len(rows) else -1)
        moved = np.zeros((size, *rows.shape[1:]), np.float32)
        for i, row in enumerate(rows):
            if 0 <= i + begin < size:
                moved[i + begin] = row
        expected = np.moveaxis(moved, 0, axis)
    same(call("CenterCropPad", x, np.array(sizes, np.int64), axes=tuple(axes)), expected)


# Refusals

X = counted((2, 3))
REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "join other ranks": ("Concat", (X, X[0]), {"axis": 0}),
    "join other sizes": ("Concat", (X, X.T), {"axis": 0}),
    "join along no axis": ("Concat", (X, X), {"axis": 2}),
    "split into more": ("Split", (X, [1, 2]), {"axis": 0, "outputs": 2}),
    "split with negative sizes": ("Split", (X, [3, -1]), {"axis": 0, "outputs": 2}),
    "split into another number": ("Split", (X, [1, 1]), {"axis": 0, "outputs": 3}),
    "split unequally": ("Split", (X,), {"axis": 1, "outputs": 2}),
    "split into absurdly many": ("Split", (X,), {"num_outputs": 2**60, "outputs": 2}),
    "split 5 into 4": ("Split", (np.zeros(5),), {"num_outputs": 4, "outputs": 4}),
    "slice without steps": ("Slice", (X, [0], [1], [0], [0]), {}),
    "slice one axis twice": ("Slice", (X, [0, 0], [1, 1], [0, -2]), {}),
    "slice along no axis": ("Slice", (X, [0], [1], [2]), {}),
    "slice with one end less": ("Slice", (X, [0, 0], [1]), {}),
    "slice at fractions": ("Slice", (X, [0.5], [1.0]), {}),
    "pad with one pad less": ("Pad", (X, [0, 0, 0]), {}),
    "pad with two fillings": ("Pad", (X, [1, 0, 0, 0], np.float32([1, 2])), {}),
    "pad more than is there away": ("Pad", (X, [-2, 0, -1, 0]), {}),
    "pad nothing with its edge": ("Pad", (X[:0], [1, 0, 0, 0]), {"mode": "edge"}),
    "pad absurdly": ("Pad", (X, [2**60, 0, 0, 0]), {}),
    "crop to a negative size": ("CenterCropPad", (X, [-1, 2]), {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused(name: str) -> None:
    op, inputs, attributes = REFUSED[name]
    with pytest.raises(MinsegError, match=f"node '{op}'"):
        run(op, *inputs, **attributes)


#: All but those that follow from values which shape rules do not look at.
REFUSED_EARLY = sorted(REFUSED.keys() - {"pad nothing with its edge"})


@pytest.mark.parametrize("name", REFUSED_EARLY)
def test_bad_values_are_refused_where_they_are_inferred(name: str) -> None:
    op, inputs, attributes = REFUSED[name]
    with pytest.raises(ModelError, match=f"node '{op}'"):
        inferred(op, *refusal_types(inputs), **attributes)
