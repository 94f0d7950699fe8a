"""Operators that pick and place elements by index, against loops over single elements."""

from __future__ import annotations

import itertools
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from operator_calls import call, call_onnxruntime
from operator_tensors import ODD_DTYPES, counted, inferred, run, same

from minseg.errors import MinsegError, ModelError
from minseg.graph.model import TensorType

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4)
REDUCE = {"add": lambda a, b: a + b, "mul": lambda a, b: a * b, "min": min, "max": max}


def indices_for(size: int, shape: Any) -> st.SearchStrategy[np.ndarray]:
    dtypes = st.sampled_from([np.int32, np.int64])
    return dtypes.flatmap(
        lambda dtype: hnp.arrays(dtype, shape, elements=st.integers(-size, size - 1))
    )


@st.composite
def axis_cases(draw: st.DrawFn) -> tuple[tuple[int, ...], int]:
    shape = draw(SHAPES)
    return shape, draw(st.integers(-len(shape), len(shape) - 1))


@given(axis_cases(), st.data())
def test_gather(case: tuple[tuple[int, ...], int], data: st.DataObject) -> None:
    shape, axis = case
    x = counted(shape)
    places = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3)
    indices = data.draw(indices_for(shape[axis], places))
    at = axis % len(shape)
    expected = np.empty((*shape[:at], *indices.shape, *shape[at + 1 :]), np.float32)
    for place in np.ndindex(indices.shape):
        expected[(slice(None),) * at + place] = x[(slice(None),) * at + (int(indices[place]),)]
    same(call("Gather", x, indices, axis=axis), expected)


@pytest.mark.parametrize("dtype", ODD_DTYPES)
def test_gather_keeps_odd_dtypes(dtype: Any) -> None:
    x = counted((3, 2), dtype)
    same(call("Gather", x, np.array([2, -3])), np.array([x[2], x[0]], dtype))


@st.composite
def element_cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    shape, axis = draw(axis_cases())
    sizes = [draw(st.integers(0, size)) for size in shape]
    sizes[axis] = draw(st.integers(0, 5))
    return counted(shape), draw(indices_for(shape[axis], tuple(sizes))), axis


def places_of(indices: np.ndarray, axis: int) -> Any:
    """Pairs of a place in ``indices`` and the place in the data that it names."""
    for place in np.ndindex(indices.shape):
        target = list(place)
        target[axis] = int(indices[place])
        yield place, tuple(target)


@given(element_cases())
def test_gather_elements(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    x, indices, axis = case
    expected = np.empty(indices.shape, np.float32)
    for place, source in places_of(indices, axis):
        expected[place] = x[source]
    same(call("GatherElements", x, indices, axis=axis), expected)


@pytest.mark.parametrize("op", ["ScatterElements", "Scatter"])
@given(element_cases())
def test_scatter_elements(op: str, case: tuple[np.ndarray, np.ndarray, int]) -> None:
    x, indices, axis = case
    updates = -1 - counted(indices.shape)
    expected, taken = x.copy(), set()
    for place, target in places_of(indices, axis):
        absolute = tuple(t % s for t, s in zip(target, x.shape, strict=True))
        if absolute in taken:  # the order of writing is not specified
            return
        taken.add(absolute)
        expected[target] = updates[place]
    same(call(op, x, indices, updates, axis=axis), expected)


@pytest.mark.parametrize("reduction", REDUCE)
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float16, ml_dtypes.bfloat16])
@given(element_cases())
def test_scatter_elements_reduces_duplicates(
    reduction: str, dtype: Any, case: tuple[np.ndarray, np.ndarray, int]
) -> None:
    x, indices, axis = case
    x = (x % 3).astype(dtype)
    updates = (1 + counted(indices.shape) % 2).astype(dtype)
    expected = x.copy()
    for place, target in places_of(indices, axis):
        expected[target] = REDUCE[reduction](expected[target], updates[place])
    same(call("ScatterElements", x, indices, updates, axis=axis, reduction=reduction), expected)


@st.composite
def tuple_cases(draw: st.DrawFn, most_batch_dims: int) -> tuple[np.ndarray, np.ndarray, int]:
    shape = draw(SHAPES)
    batch_dims = draw(st.integers(0, min(most_batch_dims, len(shape) - 1)))
    depth = draw(st.integers(1, len(shape) - batch_dims))
    outer = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    named = shape[batch_dims : batch_dims + depth]
    sizes = (*shape[:batch_dims], *outer)
    columns = [draw(indices_for(size, sizes)).astype(np.int64) for size in named]
    return counted(shape), np.stack(columns, axis=-1), batch_dims


@given(tuple_cases(most_batch_dims=2))
def test_gather_nd(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    x, indices, batch_dims = case
    outer, depth = indices.shape[:-1], indices.shape[-1]
    expected = np.empty((*outer, *x.shape[batch_dims + depth :]), np.float32)
    for place in np.ndindex(outer):
        expected[place] = x[place[:batch_dims] + tuple(int(i) for i in indices[place])]
    same(call("GatherND", x, indices, batch_dims=batch_dims), expected)


@pytest.mark.parametrize("reduction", ["none", *REDUCE])
@given(tuple_cases(most_batch_dims=0))
def test_scatter_nd(reduction: str, case: tuple[np.ndarray, np.ndarray, int]) -> None:
    x, indices, _ = case
    outer, depth = indices.shape[:-1], indices.shape[-1]
    updates = 1 + counted((*outer, *x.shape[depth:])) % 2
    expected, taken = x.copy(), set()
    for place in np.ndindex(outer):
        target = tuple(int(i) % s for i, s in zip(indices[place], x.shape, strict=False))
        if reduction == "none" and target in taken:
            return
        taken.add(target)
        for rest in np.ndindex(x.shape[depth:]):
            new = updates[place + rest]
            old = expected[target + rest]
            expected[target + rest] = new if reduction == "none" else REDUCE[reduction](old, new)
    same(call("ScatterND", x, indices, updates, reduction=reduction), expected)


@given(axis_cases(), st.data())
def test_compress(case: tuple[tuple[int, ...], int], data: st.DataObject) -> None:
    shape, axis = case
    x = counted(shape)
    flat = data.draw(st.booleans())
    longest = x.size if flat else shape[axis]
    condition = data.draw(st.lists(st.booleans(), max_size=longest))
    kept = [i for i, keep in enumerate(condition) if keep]
    if flat:
        expected = np.array([x.reshape(-1)[i] for i in kept], np.float32)
        same(call("Compress", x, np.array(condition, bool)), expected)
    else:
        rows = np.moveaxis(x, axis, 0)
        expected = np.array([rows[i] for i in kept], np.float32).reshape(-1, *rows.shape[1:])
        result = call("Compress", x, np.array(condition, bool), axis=axis)
        same(result, np.moveaxis(expected, 0, axis))


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=1, min_side=0), elements=st.integers(0, 1)))
def test_non_zero(x: np.ndarray) -> None:
    found = [place for place in np.ndindex(x.shape) if x[place]]
    (result,) = run("NonZero", x)
    same(result, np.array(found, np.int64).reshape(-1, x.ndim).T)


@pytest.mark.parametrize(("value", "count"), [(3.0, 1), (0.0, 0)])
def test_non_zero_of_a_scalar_has_no_rows(value: float, count: int) -> None:
    (result,) = run("NonZero", np.float32(value))
    same(result, np.empty((0, count), np.int64))


@given(
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=0, max_side=5),
    st.one_of(st.none(), st.integers(-7, 7), st.sampled_from([2**62, -(2**62)])),
    st.sampled_from([0, 1]),
)
def test_trilu(shape: tuple[int, ...], k: int | None, upper: int) -> None:
    x = 1 + counted(shape)
    expected = np.zeros(shape, np.float32)
    for place in np.ndindex(shape):
        above = place[-1] - place[-2] - (k or 0)
        if above >= 0 if upper else above <= 0:
            expected[place] = x[place]
    diagonal = None if k is None else np.int64(k)
    same(call("Trilu", x, diagonal, upper=upper), expected)


@given(
    hnp.arrays(
        st.sampled_from([np.int32, np.int64, np.float32]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        elements=st.integers(-6, 6),
    ),
    st.integers(0, 4),
    st.data(),
)
def test_one_hot(indices: np.ndarray, depth: int, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-indices.ndim - 1, indices.ndim))
    expected = np.full((*indices.shape, depth), -2, np.int8)
    for place in np.ndindex(indices.shape):
        index = int(indices[place])
        if -depth <= index < depth:
            expected[(*place, index % depth)] = 5
    values = np.array([-2, 5], np.int8)
    shaped = np.int64(depth) if data.draw(st.booleans()) else np.array([depth], np.float32)
    result = call("OneHot", indices, shaped, values, axis=axis)
    same(result, np.moveaxis(expected, -1, axis))


@given(
    hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4),
    st.sampled_from([0, 1]),
    st.data(),
)
def test_reverse_sequence(shape: tuple[int, ...], batch_axis: int, data: st.DataObject) -> None:
    time_axis = 1 - batch_axis
    x = counted(shape)
    lengths = data.draw(
        st.lists(st.integers(0, shape[time_axis]), min_size=shape[batch_axis]).map(
            lambda found: found[: shape[batch_axis]]
        )
    )
    expected = x.copy()
    for batch, length in enumerate(lengths):
        for time in range(length):
            to, source = [batch, batch], [batch, batch]
            to[time_axis], source[time_axis] = time, length - 1 - time
            expected[tuple(to)] = x[tuple(source)]
    lens = np.array(lengths, np.int64)
    result = call("ReverseSequence", x, lens, batch_axis=batch_axis, time_axis=time_axis)
    same(result, expected)


def distinct(rows: list[Any], in_order: int) -> tuple[list[Any], list[int], list[int], list[int]]:
    """What Unique says of ``rows``, found by comparing each with each."""
    values = [row for i, row in enumerate(rows) if row not in rows[:i]]
    if in_order:
        values.sort()
    first = [rows.index(value) for value in values]
    return values, first, [values.index(row) for row in rows], [rows.count(v) for v in values]


@pytest.mark.parametrize("dtype", [np.float32, np.int8, object, ml_dtypes.bfloat16])
@pytest.mark.parametrize("in_order", [0, 1])
@given(st.data())
def test_unique(dtype: Any, in_order: int, data: st.DataObject) -> None:
    shape, axis = data.draw(axis_cases())
    numbers = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 2)))
    x = np.vectorize(str, [object])(numbers) if dtype is object else numbers.astype(dtype)
    flat = data.draw(st.booleans())
    rows = x.ravel() if flat else np.moveaxis(x, axis, 0)
    values, *places = distinct([np.asarray(row).tolist() for row in rows], in_order)
    attributes = {} if flat else {"axis": axis}
    result, *found = run("Unique", x, outputs=4, sorted=in_order, **attributes)
    expected = np.array(values, dtype).reshape(len(values), *rows.shape[1:])
    same(result, expected if flat else np.moveaxis(expected, 0, axis))
    for array, numbers in zip(found, places, strict=True):
        same(array, np.array(numbers, np.int64))


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of boxes [y1, x1, y2, x2] with corners in any order."""
    sides, areas = [], []
    for low, high in ((0, 2), (1, 3)):
        (p, q), (r, s) = sorted((a[low], a[high])), sorted((b[low], b[high]))
        sides.append(max(0.0, min(q, s) - max(p, r)))
        areas.append((q - p, s - r))
    shared = sides[0] * sides[1]
    union = areas[0][0] * areas[1][0] + areas[0][1] * areas[1][1] - shared
    return shared / union if union else 0.0


@given(
    st.integers(0, 7),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.one_of(st.none(), st.sampled_from([0.0, 0.25, 0.5])),
    st.integers(0, 2**32 - 1),
)
def test_non_max_suppression(
    count: int, limit: int, iou: float, least: float | None, seed: int
) -> None:
    random = np.random.default_rng(seed)
    boxes = random.integers(0, 5, (2, count, 4)).astype(np.float32)
    scores = (random.integers(0, 5, (2, 3, count)) / 4).astype(np.float32)
    expected = []
    for n, c in itertools.product(range(2), range(3)):
        chosen: list[int] = []
        for b in sorted(range(count), key=lambda b: (-scores[n, c, b], b)):
            good = least is None or scores[n, c, b] >= least
            far = all(overlap(boxes[n, b].tolist(), boxes[n, o].tolist()) <= iou for o in chosen)
            if good and far and len(chosen) < limit:
                chosen.append(b)
        expected += [(n, c, b) for b in chosen]
    options = [np.int64(limit), np.float32(iou), *([] if least is None else [np.float32(least)])]
    (result,) = run("NonMaxSuppression", boxes, scores, *options)
    same(result, np.array(expected, np.int64).reshape(-1, 3))


@pytest.mark.parametrize("center_point_box", [0, 1])
def test_non_max_suppression_agrees_with_onnxruntime(center_point_box: int) -> None:
    random = np.random.default_rng(5)
    boxes = random.uniform(0.1, 1, (2, 40, 4)).astype(np.float32)
    scores = random.uniform(0, 1, (2, 3, 40)).astype(np.float32)
    inputs = (boxes, scores, np.int64(9), np.float32(0.3), np.float32(0.2))
    (result,) = run("NonMaxSuppression", *inputs, center_point_box=center_point_box)
    peer = call_onnxruntime(
        "NonMaxSuppression", *inputs, opset=11, center_point_box=center_point_box
    )
    assert len(peer) > 20
    same(result, peer)


X = counted((2, 3))
REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "gather past the end": ("Gather", (X, [2]), {}),
    "gather before the start": ("Gather", (X, [-3]), {}),
    "gather along no axis": ("Gather", (X, [0]), {"axis": 2}),
    "gather from nothing": ("Gather", (np.zeros((0, 3)), [0]), {}),
    "gather elements past the end": ("GatherElements", (X, [[0, 0, 2]]), {}),
    "gather elements beside the data": ("GatherElements", (X, [[0, 0, 0, 0]]), {}),
    "gather elements of another rank": ("GatherElements", (X, [0]), {}),
    "gather tuples past the end": ("GatherND", (X, [[0, 3]]), {}),
    "gather tuples too long": ("GatherND", (X, [[0, 0, 0]]), {}),
    "gather tuples of nothing": ("GatherND", (X, np.zeros((2, 0), np.int64)), {}),
    "gather other batches": ("GatherND", (X, [[0]]), {"batch_dims": 1}),
    "gather more batches than axes": ("GatherND", (X, [[0]]), {"batch_dims": 2}),
    "scatter past the end": ("ScatterElements", (X, [[3]], np.float32([[1]])), {"axis": 1}),
    "scatter other updates": ("ScatterElements", (X, [[0]], np.float32([[1, 2]])), {}),
    "scatter tuples past the end": ("ScatterND", (X, [[-3]], np.float32([[1, 2, 3]])), {}),
    "scatter tuples of other updates": ("ScatterND", (X, [[0]], np.float32([[1]])), {}),
    "compress past the end": ("Compress", (X, [False, False, True]), {"axis": 0}),
    "no diagonals": ("Trilu", (np.zeros(3),), {}),
    "two diagonals": ("Trilu", (X, [0, 1]), {}),
    "negative depth": ("OneHot", ([0], np.int64(-1), [0, 1]), {}),
    "absurd depth": ("OneHot", ([0], np.int64(2**60), [0, 1]), {}),
    "one value of two": ("OneHot", ([0], np.int64(2), [0]), {}),
    "sequences too long": ("ReverseSequence", (X, [3, 0, 0]), {}),
    "sequences of one axis": ("ReverseSequence", (X, [1, 1, 1]), {"time_axis": 1}),
    "boxes of three": ("NonMaxSuppression", (np.zeros((1, 2, 3)), np.zeros((1, 1, 2))), {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused(name: str) -> None:
    op, inputs, attributes = REFUSED[name]
    with pytest.raises(MinsegError, match=f"node '{op}'"):
        run(op, *inputs, **attributes)


def test_a_gather_larger_than_memory_is_refused_before_it_is_made() -> None:
    x = TensorType(np.dtype(np.float32), (2**20, 1))
    indices = TensorType(np.dtype(np.int64), (2**20,))
    with pytest.raises(ModelError, match="larger than minseg allows"):
        inferred("Gather", x, indices, axis=1)
