"""Reductions, Softmax and its kin, ArgMax, ArgMin and TopK against loops over Python numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from operator_calls import call, call_onnxruntime

from minseg.errors import ExecutionError, ModelError
from minseg.graph.model import Node, TensorType
from minseg.ops.infer import infer_node

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
INF, NAN = math.inf, math.nan

REDUCTIONS: dict[str, tuple[int, Callable[[list[float]], float]]] = {
    "ReduceSum": (13, math.fsum),
    "ReduceMean": (18, lambda v: math.fsum(v) / len(v)),
    "ReduceProd": (18, math.prod),
    "ReduceMax": (18, max),
    "ReduceMin": (18, min),
    "ReduceL1": (18, lambda v: math.fsum(map(abs, v))),
    "ReduceL2": (18, lambda v: math.sqrt(math.fsum(x * x for x in v))),
    "ReduceSumSquare": (18, lambda v: math.fsum(x * x for x in v)),
    "ReduceLogSum": (18, lambda v: math.log(math.fsum(v))),
    "ReduceLogSumExp": (18, lambda v: math.log(math.fsum(map(math.exp, v)))),
}


def lanes(x: np.ndarray, axes: tuple[int, ...]) -> Iterator[list[float]]:
    """What is reduced into each element of the output, in the output's order."""
    for index in itertools.product(
        *([None] if i in axes else range(n) for i, n in enumerate(x.shape))
    ):
        picked = x[tuple(slice(None) if i is None else i for i in index)]
        yield picked.astype(float).ravel().tolist()


def reduced_shape(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: int) -> tuple[int, ...]:
    return tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes)


@st.composite
def tensors_and_axes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Positive numbers, exact in every floating-point type, and some of their axes."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, max_side=3))
    elements = st.integers(1, 16).map(lambda v: v / 8)
    x = draw(hnp.arrays(np.float32, shape, elements=elements))
    axes = draw(st.lists(st.sampled_from(range(len(shape))), unique=True)) if shape else []
    return x.astype(draw(st.sampled_from(FLOATS))), tuple(axes)


@pytest.mark.parametrize("op", REDUCTIONS)
@given(drawn=tensors_and_axes(), data=st.data())
def test_reduction(op: str, drawn: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject) -> None:
    x, axes = drawn
    since, function = REDUCTIONS[op]
    keepdims = data.draw(st.sampled_from([0, 1]))
    signed = tuple(axis - x.ndim if data.draw(st.booleans()) else axis for axis in axes)
    old = call(op, x, opset=since - 1, keepdims=keepdims, **({"axes": signed} if axes else {}))
    new = call(op, x, np.array(signed, np.int64) if axes else None, opset=since, keepdims=keepdims)
    everything = axes or tuple(range(x.ndim))
    for result in (old, new):
        assert (result.shape, result.dtype) == (
            reduced_shape(x.shape, everything, keepdims),
            x.dtype,
        )
        exact = [function(lane) for lane in lanes(x, everything)]
        found = result.astype(float).ravel()
        limits = ml_dtypes.finfo(x.dtype)
        np.testing.assert_allclose(
            found, exact, rtol=float(limits.eps), atol=float(limits.smallest_subnormal) + 1e-15
        )


@pytest.mark.parametrize("op", REDUCTIONS)
def test_no_axes_reduce_nothing_where_asked(op: str) -> None:
    x = np.float32([[1, 2], [4, 0.5]])
    function = REDUCTIONS[op][1]
    for axes in (None, np.array([], np.int64)):
        result = call(op, x, axes, noop_with_empty_axes=1)
        assert (result.shape, result.dtype) == (x.shape, x.dtype)
        np.testing.assert_allclose(result.ravel(), [function([v]) for v in x.ravel()], rtol=1e-6)
        assert call(op, x, axes).shape == (1, 1)


@pytest.mark.parametrize(
    "op", ["ReduceSum", "ReduceProd", "ReduceMax", "ReduceMin", "ReduceSumSquare"]
)
@given(data=st.data())
@settings(max_examples=30)
def test_reduction_of_integers_wraps(op: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.int32, np.uint32, np.int64, np.uint64]))
    info = np.iinfo(dtype)
    x = data.draw(hnp.arrays(dtype, (3, 2), elements=st.integers(int(info.min), int(info.max))))
    result = call(op, x, np.array([0]), keepdims=0)
    assert (result.shape, result.dtype) == ((2,), x.dtype)
    function = {
        "ReduceSum": sum,
        "ReduceProd": math.prod,
        "ReduceMax": max,
        "ReduceMin": min,
        "ReduceSumSquare": lambda v: sum(x * x for x in v),
    }[op]
    low, count = int(info.min), 1 << info.bits
    expected = [(function(column) - low) % count + low for column in x.T.tolist()]
    assert result.tolist() == expected


@pytest.mark.parametrize(
    ("op", "dtype", "value"),
    [
        ("ReduceSum", np.float32, 0),
        ("ReduceProd", np.float32, 1),
        ("ReduceMax", np.float32, -INF),
        ("ReduceMin", np.float16, INF),
        ("ReduceMax", np.int32, -(2**31)),
        ("ReduceMin", np.uint8, 255),
        ("ReduceMax", bool, False),
        ("ReduceMin", bool, True),
        ("ReduceL1", np.float32, 0),
        ("ReduceL2", np.float32, 0),
        ("ReduceLogSum", np.float32, -INF),
        ("ReduceLogSumExp", np.float32, -INF),
    ],
)
def test_reduction_of_nothing(op: str, dtype: Any, value: Any) -> None:
    result = call(op, np.zeros((2, 0), dtype), np.array([1]))
    assert (result.shape, result.dtype) == ((2, 1), np.dtype(dtype))
    assert result.tolist() == [[value], [value]]


def test_reduction_of_truth_values() -> None:
    x = np.array([[True, False], [False, False]])
    assert call("ReduceMax", x, np.array([1]), keepdims=0).tolist() == [True, False]
    assert call("ReduceMin", x, np.array([1]), keepdims=0).tolist() == [False, False]


def test_half_precision_accumulates_wide() -> None:
    ones = np.ones(5000, np.float16)
    assert call("ReduceSum", ones).tolist() == [5000]
    assert call("ReduceMean", np.full(5000, 60000, np.float16)).tolist() == [60000]
    assert call("ReduceL2", np.full(4, 30000, np.float16)).tolist() == [60000]
    big = np.float32([1e8, 1, -1e8, 1])
    assert call("ReduceSum", big).tolist() == [2]
    assert call("ReduceSum", np.ones(5000, ml_dtypes.bfloat16)).tolist() == [4992]


def test_powers_in_sums_do_not_overflow() -> None:
    x = np.float32([[1000, 1000], [-1000, -1000], [-INF, -INF], [INF, 0], [NAN, 0]])
    result = call("ReduceLogSumExp", x, np.array([1]), keepdims=0)
    expected = [1000 + math.log(2), -1000 + math.log(2), -INF, INF, NAN]
    np.testing.assert_allclose(result, np.float32(expected), rtol=1e-7)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceSum", "ReduceMean"])
def test_nan_propagates(op: str) -> None:
    assert np.isnan(call(op, np.float32([1, NAN, 2]))).all()


def softmax_lane(lane: list[float]) -> list[float]:
    powers = [math.exp(v - max(lane)) for v in lane]
    return [p / math.fsum(powers) for p in powers]


def log_softmax_lane(lane: list[float]) -> list[float]:
    total = math.log(math.fsum(math.exp(v - max(lane)) for v in lane))
    return [v - max(lane) - total for v in lane]


def hardmax_lane(lane: list[float]) -> list[float]:
    return [float(i == lane.index(max(lane))) for i in range(len(lane))]


NORMALIZED = {"Softmax": softmax_lane, "LogSoftmax": log_softmax_lane, "Hardmax": hardmax_lane}


@pytest.mark.parametrize("opset", [7, 11, 13])
@pytest.mark.parametrize("op", NORMALIZED)
@given(data=st.data())
def test_softmax_and_its_kin(op: str, opset: int, data: st.DataObject) -> None:
    """Before opset 13 everything from the axis on is one lane."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=3))
    dtype = data.draw(st.sampled_from(FLOATS))
    x = data.draw(hnp.arrays(np.float32, shape, elements=st.integers(-8, 8))).astype(dtype)
    default = -1 if opset == 13 else 1
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    attributes = {} if axis == default and data.draw(st.booleans()) else {"axis": axis}
    result = call(op, x, opset=opset, **attributes)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    first = axis % len(shape)
    axes = (first,) if opset == 13 else tuple(range(first, len(shape)))
    found = [v for lane in lanes(result, axes) for v in lane]
    exact = [v for lane in lanes(x, axes) for v in NORMALIZED[op](lane)]
    np.testing.assert_allclose(found, exact, rtol=2 * float(ml_dtypes.finfo(dtype).eps), atol=1e-7)


def test_softmax_of_large_numbers_and_infinity() -> None:
    x = np.float32([[1e30, 1e30], [-INF, 0], [NAN, 0]])
    np.testing.assert_array_equal(call("Softmax", x), np.float32([[0.5, 0.5], [0, 1], [NAN, NAN]]))
    np.testing.assert_allclose(
        call("LogSoftmax", np.float32([[1e4, 0], [-INF, 0]])), [[0, -1e4], [-INF, 0]]
    )


@pytest.mark.parametrize("op", NORMALIZED)
def test_softmax_of_nothing(op: str) -> None:
    for opset, shape in itertools.product((11, 13), [(0, 3), (3, 0), (0,)]):
        assert call(op, np.zeros(shape, np.float32), opset=opset, axis=0).shape == shape


@pytest.mark.parametrize("select_last_index", [0, 1])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@given(data=st.data())
def test_arg_max_and_arg_min(op: str, select_last_index: int, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=4, max_side=4))
    dtype = data.draw(st.sampled_from([*FLOATS, np.int32, np.uint8]))
    x = data.draw(hnp.arrays(np.float32, shape, elements=st.integers(0, 3))).astype(dtype)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    keepdims = data.draw(st.sampled_from([0, 1]))
    result = call(op, x, axis=axis, keepdims=keepdims, select_last_index=select_last_index)
    axes = (axis % len(shape),)
    assert (result.shape, result.dtype) == (
        reduced_shape(shape, axes, keepdims),
        np.dtype(np.int64),
    )
    best = max if op == "ArgMax" else min
    for lane, found in zip(lanes(x, axes), result.ravel().tolist(), strict=True):
        places = [i for i, v in enumerate(lane) if v == best(lane)]
        assert found == places[-1 if select_last_index else 0]


@pytest.mark.parametrize("largest", [0, 1])
@given(data=st.data())
def test_top_k(largest: int, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=5))
    dtype = data.draw(st.sampled_from([*FLOATS, np.int32, np.int64, np.uint8]))
    x = data.draw(hnp.arrays(np.float32, shape, elements=st.integers(0, 4))).astype(dtype)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    k = data.draw(st.integers(0, shape[axis]))
    calls = [call("TopK", x, np.array([k]), axis=axis, largest=largest, outputs=2)]
    if largest:
        calls.append(call("TopK", x, np.array([k]), axis=axis, opset=10, outputs=2))
        calls.append(call("TopK", x, axis=axis, k=k, opset=9, outputs=2))
    axes = (axis % len(shape),)
    for values, indices in calls:
        expected_shape = tuple(k if i in axes else n for i, n in enumerate(shape))
        assert (values.shape, values.dtype) == (expected_shape, x.dtype)
        assert (indices.shape, indices.dtype) == (expected_shape, np.dtype(np.int64))
        triples = zip(lanes(x, axes), lanes(values, axes), lanes(indices, axes), strict=True)
        for lane, best, places in triples:
            order = sorted(range(len(lane)), key=lambda i: -lane[i] if largest else lane[i])[:k]
            assert places == order
            assert best == [lane[i] for i in order]


def test_the_least_integer_is_sorted_right() -> None:
    x = np.array([-(2**63), 0, 2**63 - 1])
    values, indices = call("TopK", x, np.array([3]), outputs=2)
    assert values.tolist() == [2**63 - 1, 0, -(2**63)]
    assert indices.tolist() == [2, 1, 0]


def test_top_k_asks_for_too_much() -> None:
    with pytest.raises(ExecutionError, match="k is 4, axis 0 has 3 elements"):
        call("TopK", np.zeros(3, np.float32), np.array([4]), outputs=2)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [("ReduceSum", {"axes": (2,)}), ("ArgMax", {"axis": -3}), ("TopK", {"axis": 2, "k": 1})],
)
def test_axes_out_of_range_are_refused(op: str, attributes: dict[str, Any]) -> None:
    x = np.zeros((2, 2), np.float32)
    node = Node("here", op, ("x",), ("y",), attributes, opset=9)
    with pytest.raises(ModelError, match=r"node 'here'.*axis"):
        infer_node(node, {"x": TensorType(x.dtype, x.shape)})
    with pytest.raises(ModelError, match="axis"):
        call(op, x, opset=9, **attributes)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_unknown_axes_leave_the_rank(keepdims: int) -> None:
    node = Node("n", "ReduceSum", ("x", "axes"), ("y",), {"keepdims": keepdims}, opset=13)
    types = {"x": TensorType(np.dtype(np.float32), (1, 2, 3)), "axes": TensorType(None, (2,))}
    (inferred,) = infer_node(node, types)
    assert inferred.shape == ((None,) * 3 if keepdims else None)


def test_named_sizes_survive_reduction() -> None:
    node = Node("n", "ArgMax", ("x",), ("y",), {"axis": 1, "keepdims": 0}, opset=13)
    (inferred,) = infer_node(node, {"x": TensorType(None, ("batch", 12, None, 480))})
    assert (inferred.shape, inferred.dtype) == (("batch", None, 480), np.dtype(np.int64))


@pytest.mark.parametrize(
    "op", [*REDUCTIONS, "Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin"]
)
@pytest.mark.parametrize("opset", [7, 11, 13, 18])
def test_as_onnxruntime_has_it(op: str, opset: int) -> None:
    x = np.random.default_rng(1).uniform(0.1, 2, (2, 3, 4, 5)).astype(np.float32)
    inputs: list[Any] = [x]
    attributes: dict[str, Any] = {"axis": 1}
    if op in REDUCTIONS and opset >= REDUCTIONS[op][0]:
        inputs, attributes = [x, np.array([1, -1])], {"keepdims": 0}
    elif op in REDUCTIONS:
        attributes = {"axes": (1, 3), "keepdims": 0}
    expected = call_onnxruntime(op, *inputs, opset=opset, **attributes)
    result = call(op, *inputs, opset=opset, **attributes)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(result, expected, rtol=1e-5)
