"""Operators that reshape and repeat, or tell a shape, against loops over single elements."""

from __future__ import annotations

import itertools
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from operator_calls import call, call_onnxruntime
from operator_tensors import (
    FLOAT32,
    INT64,
    ODD_DTYPES,
    counted,
    inferred,
    known,
    of_shape,
    refusal_types,
    run,
    same,
)

from minseg.errors import MinsegError, ModelError
from minseg.graph.model import Graph, Node, TensorType, Value
from minseg.ops.evaluate import evaluate
from minseg.ops.infer import infer

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
ANY_RANK = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


# Transpose, Reshape and their kin


@given(ANY_RANK, st.data())
def test_transpose(shape: tuple[int, ...], data: st.DataObject) -> None:
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    x = counted(shape)
    expected = np.empty([shape[p] for p in perm], np.float32)
    for place in np.ndindex(shape):
        expected[tuple(place[p] for p in perm)] = x[place]
    same(call("Transpose", x, perm=perm), expected)
    backwards = call("Transpose", x)
    assert backwards.shape == shape[::-1]
    for place in np.ndindex(shape):
        assert backwards[place[::-1]] == x[place]


@given(ANY_RANK, st.data())
def test_reshape_keeps_the_order_of_elements(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = counted(shape)
    sizes = list(data.draw(st.permutations(shape)))
    result = list(sizes)
    if sizes and 0 not in sizes and data.draw(st.booleans()):
        sizes[data.draw(st.integers(0, len(sizes) - 1))] = -1
    for i, (own, size) in enumerate(zip(shape, result, strict=True)):
        if own == size and sizes[i] != -1 and data.draw(st.booleans()):
            sizes[i] = 0
        elif size == 0 and own != 0:
            return  # a size of 0 there copies another one
    y = call("Reshape", x, np.array(sizes, np.int64))
    assert y.shape == tuple(result)
    assert y.ravel().tolist() == x.ravel().tolist()


@pytest.mark.parametrize(
    ("shape", "sizes", "allowzero", "expected"),
    [
        ((0, 3), (0, -1), 0, (0, 3)),
        ((0, 3), (-1, 3), 0, (0, 3)),
        ((0, 3), (3, 0), 1, (3, 0)),
        ((4, 0), (5, 0, 7), 1, (5, 0, 7)),
        ((1,), (), 0, ()),
        ((), (1, 1), 0, (1, 1)),
        ((2, 3), (0, 0, 1), 0, (2, 3, 1)),
        ((2, 3, 4), (6, -1), 0, (6, 4)),
        ((6, 4), (-1, 3, 4), 0, (2, 3, 4)),
    ],
)
def test_reshape_between_ranks(
    shape: tuple[int, ...], sizes: tuple[int, ...], allowzero: int, expected: tuple[int, ...]
) -> None:
    result = call("Reshape", counted(shape), np.array(sizes, np.int64), allowzero=allowzero)
    same(result, np.arange(math.prod(shape), dtype=np.float32).reshape(expected))


def test_reshape_infers_through_unknown_sizes() -> None:
    x = of_shape("N", 64, 1, 1)
    assert inferred("Reshape", x, known(-1, 64)).shape == ("N", 64)
    assert inferred("Reshape", x, known(0, -1)).shape == ("N", 64)
    assert inferred("Reshape", x, known(-1, 32)).shape == (None, 32)
    assert inferred("Reshape", of_shape(None, 6, 2), known(0, 3, -1)).shape == (None, 3, 4)
    assert inferred("Reshape", of_shape("N", "H", 4), known(0, -1, 4)).shape == ("N", "H", 4)
    assert inferred("Reshape", TensorType(FLOAT32), known(0, 4, -1)).shape == (None, 4, None)
    assert inferred("Reshape", x, TensorType(INT64, (3,))).shape == (None,) * 3


@given(ANY_RANK, st.data())
def test_flatten(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape)))
    at = axis if axis >= 0 else axis + len(shape)
    expected = counted((math.prod(shape[:at]), math.prod(shape[at:])))
    same(call("Flatten", counted(shape), axis=axis), expected)


def test_flatten_keeps_the_name_of_the_batch() -> None:
    assert inferred("Flatten", of_shape("N", 8, 2, 2)).shape == ("N", 32)
    assert inferred("Flatten", of_shape("N", 8, 2, 2), axis=2).shape == (None, 4)


@given(ANY_RANK, st.data())
def test_squeeze_and_unsqueeze(shape: tuple[int, ...], data: st.DataObject) -> None:
    rank = len(shape) + data.draw(st.integers(0, 3))
    axes = data.draw(st.permutations(range(rank)))[: rank - len(shape)]
    sizes = list(shape)
    for axis in sorted(axes):
        sizes.insert(axis, 1)
    signed = [a - rank if data.draw(st.booleans()) else a for a in axes]
    small, large = counted(shape), counted(tuple(sizes))
    array = np.array(signed, np.int64)
    for opset, inputs, attributes in ((28, (array,), {}), (11, (), {"axes": tuple(signed)})):
        same(call("Unsqueeze", small, *inputs, opset=opset, **attributes), large)
        same(call("Squeeze", large, *inputs, opset=opset, **attributes), small)
    without = counted(tuple(s for s in sizes if s != 1))
    same(call("Squeeze", large), without)
    same(call("Squeeze", large, opset=7), without)


def test_squeeze_of_unknown_sizes() -> None:
    x = of_shape("N", 1, 1, None)
    assert inferred("Squeeze", x).shape is None
    assert inferred("Squeeze", x, known(1, -2)).shape == ("N", None)
    assert inferred("Unsqueeze", x, known(0, -1)).shape == (1, "N", 1, 1, None, 1)
    assert inferred("Unsqueeze", x, TensorType(INT64, (2,))).shape == (None,) * 6


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@given(st.tuples(*[st.integers(0, 3)] * 4), st.integers(1, 3))
def test_depth_and_space(mode: str, sizes: tuple[int, ...], b: int) -> None:
    n, c, h, w = sizes
    deep = counted((n, c * b * b, h, w))
    wide = np.empty((n, c, h * b, w * b), np.float32)
    for i, j, y, x in np.ndindex(wide.shape):
        block = (y % b) * b + x % b
        channel = block * c + j if mode == "DCR" else j * b * b + block
        wide[i, j, y, x] = deep[i, channel, y // b, x // b]
    same(call("DepthToSpace", deep, blocksize=b, mode=mode), wide)
    same(call("SpaceToDepth", wide, blocksize=b, mode=mode), deep)


# Expand and Tile


@given(hnp.mutually_broadcastable_shapes(num_shapes=2, min_side=0, max_side=4))
def test_expand(shapes: hnp.BroadcastableShapes) -> None:
    shape, asked = shapes.input_shapes
    x = counted(shape)
    expected = np.empty(shapes.result_shape, np.float32)
    for place in np.ndindex(expected.shape):
        own = place[len(place) - len(shape) :]
        expected[place] = x[tuple(0 if s == 1 else p for s, p in zip(shape, own, strict=True))]
    same(call("Expand", x, np.array(asked, np.int64)), expected)


def test_expand_infers_through_unknown_sizes() -> None:
    assert inferred("Expand", of_shape("N", 1, 3), known(2, 1, 5, 1)).shape == (2, "N", 5, 3)
    assert inferred("Expand", of_shape("N", 1), TensorType(INT64, (3,))).shape == (None,) * 3


@given(SHAPES, st.data())
def test_tile(shape: tuple[int, ...], data: st.DataObject) -> None:
    repeats = [data.draw(st.integers(0, 3)) for _ in shape]
    x = counted(shape)
    expected = np.empty([s * r for s, r in zip(shape, repeats, strict=True)], np.float32)
    for place in np.ndindex(expected.shape):
        expected[place] = x[tuple(p % s for p, s in zip(place, shape, strict=True))]
    same(call("Tile", x, np.array(repeats, np.int64)), expected)


# Shapes as values


@given(ANY_RANK, st.integers(-6, 6), st.one_of(st.none(), st.integers(-6, 6)))
def test_shape_and_size(shape: tuple[int, ...], start: int, end: int | None) -> None:
    rank = len(shape)
    first, last = (
        min(max(v + rank if v < 0 else v, 0), rank) for v in (start, rank if end is None else end)
    )
    expected = np.array([shape[i] for i in range(first, last)], np.int64)
    attributes = {"start": start} if end is None else {"start": start, "end": end}
    same(call("Shape", counted(shape), **attributes), expected)
    same(call("Size", counted(shape)), np.array(math.prod(shape), np.int64))


def test_shape_has_a_value_where_its_sizes_are_known() -> None:
    x = of_shape("N", 3, 4)
    assert inferred("Shape", x) == TensorType(INT64, (3,))
    assert inferred("Shape", x).value is None
    same(inferred("Shape", x, start=1).value, np.array([3, 4]))
    assert inferred("Size", x).value is None
    same(inferred("Size", of_shape(2, 3)).value, np.array(6))


def test_constant_of_shape() -> None:
    (zeros,) = run("ConstantOfShape", np.array([2, 0, 3], np.int64))
    same(zeros, np.zeros((2, 0, 3), np.float32))
    (sevens,) = run("ConstantOfShape", [2, 2], value=np.array([7], ml_dtypes.int4))
    same(sevens, np.full((2, 2), 7, ml_dtypes.int4))
    (scalar,) = run("ConstantOfShape", np.zeros(0, np.int64))
    same(scalar, np.zeros((), np.float32))
    assert inferred("ConstantOfShape", TensorType(INT64, (4,))).shape == (None,) * 4
    large = inferred("ConstantOfShape", known(100, 100), value=np.zeros(1, np.int8))
    assert large == TensorType(np.dtype(np.int8), (100, 100))


@given(st.integers(0, 5), st.integers(0, 5), st.integers(-6, 6))
def test_eye_like(rows: int, columns: int, k: int) -> None:
    expected = np.zeros((rows, columns), np.float16)
    for i, j in np.ndindex(rows, columns):
        expected[i, j] = j == i + k
    same(call("EyeLike", np.zeros((rows, columns), np.int8), dtype=10, k=k), expected)
    same(call("EyeLike", expected, k=k), expected)


@given(
    st.sampled_from([np.int16, np.int32, np.int64]),
    st.integers(-20, 20),
    st.integers(-20, 20),
    st.integers(-5, 5).filter(bool),
)
def test_range_of_integers(dtype: Any, start: int, limit: int, delta: int) -> None:
    found, at = [], start
    while at < limit if delta > 0 else at > limit:
        found.append(at)
        at += delta
    (result,) = run("Range", *(np.array(v, dtype) for v in (start, limit, delta)))
    same(result, np.array(found, dtype))


def test_range_at_the_ends_of_int64() -> None:
    low, high = -(2**63), 2**63 - 1
    (result,) = run("Range", *(np.int64(v) for v in (low, high, 2**62)))
    same(result, np.array([low, low + 2**62, 0, 2**62], np.int64))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_range_of_fractions(dtype: Any) -> None:
    (result,) = run("Range", *(np.array(v, dtype) for v in (1.5, -1.0, -0.5)))
    same(result, np.array([1.5, 1.0, 0.5, 0.0, -0.5], dtype))
    (half,) = run("Range", np.array(0, dtype), np.array(1.25, dtype), np.array([0.5], dtype))
    same(half, np.array([0, 0.5, 1.0], dtype))


def test_range_counts_like_onnxruntime() -> None:
    for limit, delta in itertools.product([0.3, 0.6, 0.7, 1.1], [0.1, 0.2, 0.3]):
        numbers = [np.float32(v) for v in (0, limit, delta)]
        peer = call_onnxruntime("Range", *numbers, opset=11)
        (result,) = run("Range", *numbers)
        assert (result.shape, result.dtype) == (peer.shape, peer.dtype)
        np.testing.assert_allclose(result, peer, rtol=1e-6)


# Identity, Dropout and what every dtype must survive


def test_dropout_does_nothing_outside_of_training() -> None:
    x = counted((2, 3))
    for opset, mask in ((7, np.float32), (10, bool), (12, bool), (28, bool)):
        y, kept = call("Dropout", x, opset=opset, outputs=2)
        same(y, x)
        same(kept, np.ones((2, 3), mask))
    same(call("Dropout", x, np.float32(0.9), np.array(False)), x)


def test_dropout_in_training_drops_and_scales() -> None:
    x = np.ones((200, 200), np.float32)
    y, kept = call("Dropout", x, np.float32(0.25), np.array(True), outputs=2, seed=3)
    same(y, np.where(kept, np.float32(1 / 0.75), np.float32(0)))
    assert kept.dtype == bool
    assert 0.73 < kept.mean() < 0.77
    again = call("Dropout", x, np.float32(0.25), np.array(True), outputs=2, seed=3)
    same(again[1], kept)


@pytest.mark.parametrize("dtype", ODD_DTYPES)
def test_odd_dtypes_pass_through(dtype: Any) -> None:
    x = counted((2, 3), dtype)
    flat = x.ravel().tolist()

    def is_made_of(y: np.ndarray, *places: int) -> None:
        assert y.dtype == x.dtype
        assert y.ravel().tolist() == [flat[p] for p in places]

    is_made_of(call("Identity", x), 0, 1, 2, 3, 4, 5)
    is_made_of(call("Transpose", x), 0, 3, 1, 4, 2, 5)
    is_made_of(call("Reshape", x, np.array([3, 2])), 0, 1, 2, 3, 4, 5)
    is_made_of(call("Slice", x, *(np.array([v]) for v in (5, -9, 1, -2))), 2, 0, 5, 3)
    is_made_of(call("Concat", x, x, axis=1), 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5)
    is_made_of(call("Split", x, axis=1, num_outputs=3, outputs=3)[1], 1, 4)
    is_made_of(call("Expand", x, np.array([2, 1, 1])), *range(6), *range(6))
    is_made_of(call("Tile", x, np.array([1, 2])), 0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5)
    is_made_of(call("Pad", x, np.array([0, 1, 0, 0]), mode="edge"), 0, 0, 1, 2, 3, 3, 4, 5)


# Shape arithmetic over a whole graph


def chain(dims: tuple[Any, ...]) -> Graph:
    """What PyTorch writes for a resize to scaled sizes, and for a reshape by the batch."""
    constants = {
        "zero": np.array(0),
        "two": np.array([2]),
        "four": np.array([4]),
        "rows": np.array([0]),
        "scale": np.array([1.5, 1.5], np.float32),
        "end": np.array([2]),
        "no_scales": np.zeros(0, np.float32),
        "minus": np.array([-1]),
    }
    nodes = [
        ("Shape", ("x",), "shape", {}),
        ("Slice", ("shape", "two", "four", "rows"), "hw", {}),
        ("Cast", ("hw",), "hw_float", {"to": 1}),
        ("Mul", ("hw_float", "scale"), "scaled", {}),
        ("Floor", ("scaled",), "floored", {}),
        ("Cast", ("floored",), "larger", {"to": 7}),
        ("Slice", ("shape", "rows", "end", "rows"), "nc", {}),
        ("Concat", ("nc", "larger"), "sizes", {"axis": 0}),
        ("Resize", ("x", "", "", "sizes"), "resized", {"mode": "nearest"}),
        ("Gather", ("shape", "zero"), "n", {"axis": 0}),
        ("Unsqueeze", ("n", "rows"), "n_list", {}),
        ("Concat", ("n_list", "minus"), "flat", {"axis": 0}),
        ("Reshape", ("resized", "flat"), "y", {}),
    ]
    return Graph(
        "chain",
        (Value("x", TensorType(FLOAT32, dims)),),
        (Value("y", TensorType(FLOAT32)),),
        tuple(Node(y, op, xs, (y,), attributes, "", 13) for op, xs, y, attributes in nodes),
        constants=constants,
    )


def test_shape_arithmetic_folds_once_sizes_are_known() -> None:
    types = infer(chain(("N", 3, "H", "W")), {"x": TensorType(FLOAT32, (2, 3, 5, 7))})
    same(types["sizes"].value, np.array([2, 3, 7, 10]))
    assert types["resized"].shape == (2, 3, 7, 10)
    assert types["y"].shape == (2, 210)
    result = evaluate(chain(("N", 3, "H", "W")), {"x": counted((2, 3, 5, 7))})["y"]
    assert (result.shape, result.dtype) == ((2, 210), FLOAT32)


def test_shape_arithmetic_of_unknown_sizes_contradicts_nothing() -> None:
    types = infer(chain(("N", 3, "H", "W")))
    assert types["sizes"].value is None
    assert types["sizes"].shape == (4,)
    assert types["y"].rank == 2


# Refusals

X = counted((2, 3))
REFUSED: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "permute too few axes": ("Transpose", (X,), {"perm": (0,)}),
    "permute one axis twice": ("Transpose", (X,), {"perm": (0, 0)}),
    "reshape to another size": ("Reshape", (X, [4, 2]), {}),
    "reshape to a part": ("Reshape", (X, [-1, 4]), {}),
    "reshape with two unknowns": ("Reshape", (X, [-1, -1]), {}),
    "reshape to a negative size": ("Reshape", (X, [-2, -3]), {}),
    "reshape copying no size": ("Reshape", (X, [2, 3, 0]), {}),
    "reshape with zero and unknown": ("Reshape", (X, [0, -1]), {"allowzero": 1}),
    "reshape absurdly": ("Reshape", (X, [2**60, 2**60]), {}),
    "flatten beyond the rank": ("Flatten", (X,), {"axis": 3}),
    "squeeze a size of 3": ("Squeeze", (X, [1]), {}),
    "unsqueeze twice in one place": ("Unsqueeze", (X, [0, -4]), {}),
    "blocks of depth 3": ("DepthToSpace", (np.zeros((1, 3, 2, 2)),), {"blocksize": 2}),
    "blocks of nothing": ("DepthToSpace", (np.zeros((1, 4, 2, 2)),), {"blocksize": 0}),
    "blocks of three axes": ("SpaceToDepth", (np.zeros((4, 2, 2)),), {"blocksize": 2}),
    "blocks of height 3": ("SpaceToDepth", (np.zeros((1, 1, 3, 2)),), {"blocksize": 2}),
    "expand 3 to 2": ("Expand", (X, [2, 2]), {}),
    "expand to a negative size": ("Expand", (X, [-1, 3]), {}),
    "expand absurdly": ("Expand", (X, [2**60, 1, 1]), {}),
    "tile with one repeat less": ("Tile", (X, [2]), {}),
    "tile negatively": ("Tile", (X, [1, -1]), {}),
    "tile absurdly": ("Tile", (X, [2**60, 1]), {}),
    "fill a negative size": ("ConstantOfShape", ([-1],), {}),
    "fill absurdly": ("ConstantOfShape", ([2**31, 2**31],), {}),
    "identity of a vector": ("EyeLike", (np.zeros(3),), {}),
    "range without steps": ("Range", (np.int64(0), np.int64(1), np.int64(0)), {}),
    "range to infinity": ("Range", (np.float32(0), np.float32(np.inf), np.float32(1)), {}),
    "range of absurd length": ("Range", (np.int64(0), np.int64(2**60), np.int64(1)), {}),
    "range of vectors": ("Range", (np.zeros(2), np.ones(2), np.ones(2)), {}),
    "drop everything": ("Dropout", (X, np.float32(1), np.array(True)), {}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused(name: str) -> None:
    op, inputs, attributes = REFUSED[name]
    with pytest.raises(MinsegError, match=f"node '{op}'"):
        run(op, *inputs, **attributes)


#: Those that follow from sizes and from values which shape rules look at.
REFUSED_EARLY = [n for n in REFUSED if n.split()[0] not in ("identity", "range", "drop", "fill")]


@pytest.mark.parametrize("name", REFUSED_EARLY)
def test_bad_values_are_refused_where_they_are_inferred(name: str) -> None:
    op, inputs, attributes = REFUSED[name]
    with pytest.raises(ModelError, match=f"node '{op}'"):
        inferred(op, *refusal_types(inputs), **attributes)
