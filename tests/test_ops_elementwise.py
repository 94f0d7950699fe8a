"""Element-wise operators against the math module, integers of any size, and fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from operator_calls import call, call_onnxruntime

from minseg.errors import ModelError
from minseg.graph.model import Node, TensorType
from minseg.ops import lookup
from minseg.ops.infer import infer_node

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
INF, NAN = math.inf, math.nan


def assert_near(
    result: np.ndarray, exact: Iterable[float], ulps: float = 4, cancelled: float = 0
) -> None:
    """Elements within a few units in the last place, plus what cancels in float64 before that."""
    info = ml_dtypes.finfo(result.dtype)
    wanted = np.array(list(exact), np.float64).reshape(result.shape)
    np.testing.assert_allclose(
        result.astype(np.float64),
        wanted,
        rtol=ulps * float(info.eps),
        atol=ulps * float(info.smallest_subnormal) + cancelled,
    )


def small_floats(low: float, high: float) -> st.SearchStrategy[np.ndarray]:
    """Arrays of any floating-point type, with elements that float16 holds."""
    elements = st.floats(low, high, width=16, allow_subnormal=False)
    arrays = hnp.arrays(np.float16, SHAPES, elements=elements)
    kinds = st.sampled_from(FLOATS)
    return st.tuples(arrays, kinds).map(
        lambda drawn: np.clip(drawn[0].astype(drawn[1]).astype(np.float64), low, high).astype(
            drawn[1]
        )
    )


FUNCTIONS: dict[str, tuple[Callable[[float], float], float, float]] = {
    "Neg": (lambda v: -v, -100, 100),
    "Abs": (math.fabs, -100, 100),
    "Sign": (lambda v: float((v > 0) - (v < 0)), -2, 2),
    "Sqrt": (math.sqrt, 0, 100),
    "Reciprocal": (lambda v: 1 / v, 0.0625, 100),
    "Exp": (math.exp, -5, 5),
    "Log": (math.log, 0.0625, 100),
    "Floor": (math.floor, -100, 100),
    "Ceil": (math.ceil, -100, 100),
    "Round": (round, -100, 100),
    "Sin": (math.sin, -6, 6),
    "Cos": (math.cos, -6, 6),
    "Tan": (math.tan, -1.5, 1.5),
    "Asin": (math.asin, -1, 1),
    "Acos": (math.acos, -1, 1),
    "Atan": (math.atan, -50, 50),
    "Sinh": (math.sinh, -5, 5),
    "Cosh": (math.cosh, -5, 5),
    "Tanh": (math.tanh, -5, 5),
    "Asinh": (math.asinh, -50, 50),
    "Acosh": (math.acosh, 1, 50),
    "Atanh": (math.atanh, -0.96875, 0.96875),
    "Erf": (math.erf, -4, 4),
}


@pytest.mark.parametrize("op", FUNCTIONS)
@given(data=st.data())
@settings(max_examples=40)
def test_function_of_one_element(op: str, data: st.DataObject) -> None:
    function, low, high = FUNCTIONS[op]
    x = data.draw(small_floats(low, high))
    result = call(op, x)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    assert_near(result, map(function, x.astype(float).ravel().tolist()))


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


def softplus(v: float) -> float:
    return math.log1p(math.exp(v))


def gelu_tanh(v: float) -> float:
    return 0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)))


ACTIVATIONS: list[tuple[str, dict[str, Any], Callable[[float], float]]] = [
    ("Relu", {}, lambda v: max(v, 0.0)),
    ("LeakyRelu", {}, lambda v: v if v >= 0 else 0.01 * v),
    ("LeakyRelu", {"alpha": 0.25}, lambda v: v if v >= 0 else 0.25 * v),
    ("Elu", {}, lambda v: v if v >= 0 else math.expm1(v)),
    ("Elu", {"alpha": 2.0}, lambda v: v if v >= 0 else 2 * math.expm1(v)),
    (
        "Selu",
        {},
        lambda v: 1.0507010221481323 * (v if v > 0 else 1.6732631921768188 * math.expm1(v)),
    ),
    ("Selu", {"alpha": 2.0, "gamma": 3.0}, lambda v: 3 * (v if v > 0 else 2 * math.expm1(v))),
    ("Celu", {}, lambda v: v if v >= 0 else math.expm1(v)),
    ("Celu", {"alpha": 2.0}, lambda v: v if v >= 0 else 2 * math.expm1(v / 2)),
    ("ThresholdedRelu", {}, lambda v: v if v > 1 else 0.0),
    ("ThresholdedRelu", {"alpha": -0.5}, lambda v: v if v > -0.5 else 0.0),
    ("HardSigmoid", {}, lambda v: min(max(0.2 * v + 0.5, 0.0), 1.0)),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}, lambda v: min(max(v / 2 + 0.25, 0.0), 1.0)),
    ("HardSwish", {}, lambda v: v * min(max(v / 6 + 0.5, 0.0), 1.0)),
    ("Sigmoid", {}, sigmoid),
    ("Softplus", {}, softplus),
    ("Softsign", {}, lambda v: v / (1 + abs(v))),
    ("Gelu", {}, lambda v: 0.5 * v * math.erfc(-v / math.sqrt(2))),
    ("Gelu", {"approximate": "tanh"}, gelu_tanh),
    ("Mish", {}, lambda v: v * math.tanh(softplus(v))),
    ("Swish", {}, lambda v: v * sigmoid(v)),
    ("Swish", {"alpha": 0.5}, lambda v: v * sigmoid(v / 2)),
    ("Shrink", {}, lambda v: v if abs(v) > 0.5 else 0.0),
    (
        "Shrink",
        {"lambd": 1.0, "bias": 0.25},
        lambda v: v + 0.25 if v < -1 else v - 0.25 if v > 1 else 0.0,
    ),
]


@pytest.mark.parametrize(("op", "attributes", "function"), ACTIVATIONS)
@given(x=small_floats(-4, 4))
@settings(max_examples=40)
def test_activation(
    op: str, attributes: dict[str, Any], function: Callable[[float], float], x: np.ndarray
) -> None:
    result = call(op, x, **attributes)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    exact = map(function, x.astype(float).ravel().tolist())
    assert_near(result, exact, cancelled=16 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("op", ["Relu", "Elu", "Selu", "Celu", "LeakyRelu", "Softplus", "Mish"])
def test_activations_keep_nan_and_infinity(op: str) -> None:
    result = call(op, np.array([NAN, INF, 90, 1e30], np.float32))
    assert np.isnan(result[0])
    assert result[1] == INF
    scale = 1.0507010221481323 if op == "Selu" else 1
    np.testing.assert_allclose(result[2:], [scale * 90, scale * 1e30], rtol=1e-6)


def test_sigmoid_saturates_without_overflow() -> None:
    x = np.array([-INF, -1e30, -1000, 1000, 1e30, INF], np.float32)
    assert call("Sigmoid", x).tolist() == [0, 0, 0, 1, 1, 1]


@given(st.data())
def test_p_relu_broadcasts_its_slope(data: st.DataObject) -> None:
    x = data.draw(hnp.arrays(np.float32, (2, 3, 2), elements=st.floats(-4, 4, width=32)))
    shape = data.draw(st.sampled_from([(), (1,), (3, 1), (1, 3, 1), (2,), (2, 3, 2)]))
    slope = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))
    result = call("PRelu", x, slope)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    values = zip(x.ravel().tolist(), np.broadcast_to(slope, x.shape).ravel().tolist(), strict=True)
    assert_near(result, (v if v >= 0 else s * v for v, s in values), ulps=1)


def broadcast_pairs(dtype: Any, elements: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Two arrays of shapes that broadcast with each other."""
    shapes = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3, min_side=0)
    return shapes.flatmap(
        lambda s: st.tuples(*(hnp.arrays(dtype, shape, elements=elements) for shape in s[0]))
    )


def pairs(a: np.ndarray, b: np.ndarray) -> tuple[tuple[int, ...], list[tuple[Any, Any]]]:
    """The broadcast shape and the pairs of elements that meet there, by hand."""
    rank = max(a.ndim, b.ndim)
    left = (1,) * (rank - a.ndim) + a.shape
    right = (1,) * (rank - b.ndim) + b.shape
    shape = tuple(m if n == 1 else n for m, n in zip(left, right, strict=True))
    a, b = a.reshape(left), b.reshape(right)

    def pick(x: np.ndarray, index: tuple[int, ...]) -> Any:
        return x[tuple(0 if n == 1 else i for i, n in zip(index, x.shape, strict=True))].item()

    return shape, [(pick(a, i), pick(b, i)) for i in np.ndindex(shape)]


def wrapped(value: int, dtype: Any) -> int:
    """``value`` in two's complement of the type's width."""
    info = np.iinfo(dtype)
    return (value - int(info.min)) % (1 << info.bits) + int(info.min)


INTEGER_OPERATORS: dict[str, tuple[dict[str, Any], Callable[[int, int], int]]] = {
    "Add": ({}, lambda a, b: a + b),
    "Sub": ({}, lambda a, b: a - b),
    "Mul": ({}, lambda a, b: a * b),
    "Div": ({}, lambda a, b: math.trunc(Fraction(a, b))),
    "Mod": ({}, lambda a, b: a - math.floor(Fraction(a, b)) * b),
    "Mod, fmod": ({"fmod": 1}, lambda a, b: a - math.trunc(Fraction(a, b)) * b),
    "Min": ({}, min),
    "Max": ({}, max),
    "BitwiseAnd": ({}, lambda a, b: a & b),
    "BitwiseOr": ({}, lambda a, b: a | b),
    "BitwiseXor": ({}, lambda a, b: a ^ b),
}


@pytest.mark.parametrize("op", INTEGER_OPERATORS)
@given(data=st.data())
def test_integer_arithmetic(op: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    attributes, function = INTEGER_OPERATORS[op]
    info = np.iinfo(dtype)
    a, b = data.draw(broadcast_pairs(dtype, st.integers(int(info.min), int(info.max))))
    if op.startswith(("Div", "Mod")):
        b = np.where(b == 0, np.asarray(3, dtype), b)
    result = call(op.split(",")[0], a, b, **attributes)
    shape, elements = pairs(a, b)
    assert (result.shape, result.dtype) == (shape, np.dtype(dtype))
    assert result.ravel().tolist() == [wrapped(function(x, y), dtype) for x, y in elements]


FLOAT_OPERATORS: dict[str, tuple[dict[str, Any], Callable[[float, float], float]]] = {
    "Add": ({}, lambda a, b: a + b),
    "Sub": ({}, lambda a, b: a - b),
    "Mul": ({}, lambda a, b: a * b),
    "Div": ({}, lambda a, b: a / b),
    "Mod, fmod": ({"fmod": 1}, math.fmod),
    "Mod": ({}, lambda a, b: a % b),
    "Min": ({}, min),
    "Max": ({}, max),
    "Sum": ({}, lambda a, b: a + b),
    "Mean": ({}, lambda a, b: (a + b) / 2),
}


@pytest.mark.parametrize("op", FLOAT_OPERATORS)
@given(data=st.data())
def test_float_arithmetic(op: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(FLOATS))
    attributes, function = FLOAT_OPERATORS[op]
    # Eighths: exact in every type, so that Mod does not meet rounded inputs.
    elements = st.integers(-32, 32).filter(bool).map(lambda v: v / 8)
    a, b = (x.astype(dtype) for x in data.draw(broadcast_pairs(np.float32, elements)))
    result = call(op.split(",")[0], a, b, **attributes)
    shape, exact = pairs(a, b)
    assert (result.shape, result.dtype) == (shape, np.dtype(dtype))
    assert_near(result, (function(float(x), float(y)) for x, y in exact), ulps=1)


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
}


@pytest.mark.parametrize("op", COMPARISONS)
@given(data=st.data())
def test_comparison(op: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float16, np.int64, np.uint8]))
    floats = st.sampled_from([-INF, -1.0, 0.0, -0.0, 1.0, 1.5, INF, NAN])
    is_float = np.issubdtype(dtype, np.floating)
    a, b = data.draw(broadcast_pairs(dtype, floats if is_float else st.integers(0, 3)))
    result = call(op, a, b)
    shape, elements = pairs(a, b)
    assert (result.shape, result.dtype) == (shape, np.dtype(bool))
    assert result.ravel().tolist() == [COMPARISONS[op](x, y) for x, y in elements]


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
@given(inputs=broadcast_pairs(bool, st.booleans()))
def test_logic(op: str, inputs: tuple[np.ndarray, np.ndarray]) -> None:
    function = {
        "And": lambda a, b: a and b,
        "Or": lambda a, b: a or b,
        "Xor": lambda a, b: a is not b,
    }[op]
    result = call(op, *inputs)
    shape, elements = pairs(*inputs)
    assert (result.shape, result.dtype) == (shape, np.dtype(bool))
    assert result.ravel().tolist() == [function(x, y) for x, y in elements]


def test_not_and_bitwise_not() -> None:
    assert call("Not", np.array([True, False])).tolist() == [False, True]
    assert call("BitwiseNot", np.array([0, 5, -1], np.int8)).tolist() == [-1, -6, 0]
    assert call("BitwiseNot", np.array([0, 255], np.uint8)).tolist() == [255, 0]


@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
@given(data=st.data())
def test_bit_shift(direction: str, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    info = np.iinfo(dtype)
    x = data.draw(hnp.arrays(dtype, 4, elements=st.integers(int(info.min), int(info.max))))
    y = data.draw(hnp.arrays(dtype, 4, elements=st.integers(max(int(info.min), -3), 70)))
    result = call("BitShift", x, y, direction=direction)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    for value, amount, found in zip(x.tolist(), y.tolist(), result.tolist(), strict=True):
        if not 0 <= amount < info.bits:
            assert found == (-1 if value < 0 and direction == "RIGHT" else 0)
        elif direction == "LEFT":
            assert found == wrapped(value << amount, dtype)
        else:
            assert found == value >> amount


@pytest.mark.parametrize("op", ["Min", "Max", "Sum", "Mean"])
def test_variadic(op: str) -> None:
    a, b, c = np.float32([[1], [4]]), np.float32([2, NAN, 0]), np.float32(3)
    function = {"Min": min, "Max": max, "Sum": sum, "Mean": lambda v: sum(v) / 3}[op]
    result = call(op, a, b, c)
    assert (result.shape, result.dtype) == ((2, 3), np.dtype(np.float32))
    expected = [[NAN if j == 1 else function([i, b[j], 3]) for j in range(3)] for i in (1, 4)]
    np.testing.assert_array_equal(result, np.float32(expected))
    np.testing.assert_array_equal(call(op, b), b)


def test_half_precision_sums_do_not_round_in_between() -> None:
    ones = [np.ones(1, np.float16)] * 3
    assert call("Sum", np.full(1, 2048, np.float16), *ones).tolist() == [2052]  # 2051, to even
    assert call("Mean", *[np.full(2, 60000, np.float16)] * 2).tolist() == [60000, 60000]


@pytest.mark.parametrize(
    "exponent", [np.int8, np.int32, np.int64, np.uint64, np.float32, np.float64]
)
@pytest.mark.parametrize("base", [np.int32, np.int64, np.float32, np.float64])
def test_pow_keeps_the_type_of_the_base(base: Any, exponent: Any) -> None:
    x, y = np.array([[1, 2], [3, 5]], base), np.array([2, 3], exponent)
    result = call("Pow", x, y)
    assert (result.shape, result.dtype) == ((2, 2), np.dtype(base))
    assert result.tolist() == [[1, 8], [9, 125]]


def test_pow_of_integers_is_exact_and_takes_negative_exponents() -> None:
    assert call("Pow", np.int64([3]), np.int64([39])).tolist() == [3**39]
    assert call("Pow", np.int64([1, -1, 2]), np.int64([-2, -3, -1])).tolist() == [1, -1, 0]


def test_modulus_at_infinity() -> None:
    a, b = np.float32([1, -1, INF, 5, NAN, 0]), np.float32([INF, INF, 2, 0, 1, -2])
    np.testing.assert_array_equal(call("Mod", a, b), np.float32([1, INF, NAN, NAN, NAN, -0.0]))
    np.testing.assert_array_equal(call("Mod", a, b, fmod=1), np.float32([1, -1, NAN, NAN, NAN, 0]))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_clip(dtype: Any) -> None:
    x, low, high = np.arange(6).astype(dtype), np.asarray(2, dtype), np.asarray(4, dtype)
    for limits, expected in (
        ((low, high), [2, 2, 2, 3, 4, 4]),
        ((low,), [2, 2, 2, 3, 4, 5]),
        ((None, high), [0, 1, 2, 3, 4, 4]),
        ((high, low), [2] * 6),
        ((), [0, 1, 2, 3, 4, 5]),
    ):
        result = call("Clip", x, *limits)
        assert (result.shape, result.dtype) == (x.shape, x.dtype)
        assert result.astype(int).tolist() == expected


def test_limits_and_slopes_that_do_not_fit_are_refused() -> None:
    x = np.float32(3)
    assert call("Clip", x, np.float32([4])).shape == ()
    with pytest.raises(ModelError, match="must be one element"):
        call("Clip", x, np.float32([4, 5]))
    with pytest.raises(ModelError, match="broadcast"):
        call("PRelu", x, np.float32([4, 5]))


def test_clip_with_attributes() -> None:
    x = np.float32([-INF, -3, 0.5, 7, INF, NAN])
    largest = float(np.finfo(np.float32).max)
    np.testing.assert_array_equal(
        call("Clip", x, opset=6, min=-1.0, max=2.0), np.float32([-1, -1, 0.5, 2, 2, NAN])
    )
    np.testing.assert_array_equal(
        call("Clip", x, opset=10), np.float32([-largest, -3, 0.5, 7, largest, NAN])
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_is_nan_and_is_inf(dtype: Any) -> None:
    x = np.array([NAN, INF, -INF, 0, -1]).astype(dtype)
    assert call("IsNaN", x).tolist() == [True, False, False, False, False]
    assert call("IsInf", x).tolist() == [False, True, True, False, False]
    assert call("IsInf", x, detect_negative=0).tolist() == [False, True, False, False, False]
    assert call("IsInf", x, detect_positive=0).tolist() == [False, False, True, False, False]
    assert not call("IsInf", x, detect_positive=0, detect_negative=0).any()


def test_where_chooses_among_any_type() -> None:
    condition = np.array([[True], [False]])
    words = np.array(["a", "bcd", ""], object), np.array("x", object)
    result = call("Where", condition, *words)
    assert (result.shape, result.dtype) == ((2, 3), np.dtype(object))
    assert result.tolist() == [["a", "bcd", ""], ["x", "x", "x"]]
    for dtype in (*FLOATS, *INTEGERS, bool):
        result = call("Where", condition, np.ones(2, dtype), np.zeros((), dtype))
        assert (result.shape, result.dtype) == ((2, 2), np.dtype(dtype))
        assert result.astype(int).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize("reverse", [0, 1])
@given(data=st.data())
def test_cum_sum(exclusive: int, reverse: int, data: st.DataObject) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4))
    dtype = data.draw(st.sampled_from([np.int32, np.int64, np.float32, np.float64]))
    x = data.draw(hnp.arrays(dtype, shape, elements=st.integers(-1000, 1000)))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    result = call("CumSum", x, np.array(axis, np.int32), exclusive=exclusive, reverse=reverse)
    assert (result.shape, result.dtype) == (shape, x.dtype)
    for index in np.ndindex(shape):
        i = index[axis]
        at = np.moveaxis(x, axis, 0)[(slice(None), *np.delete(index, axis))]
        summed = at[i + exclusive :] if reverse else at[: i + 1 - exclusive]
        assert result[index] == sum(summed.tolist())


def test_det() -> None:
    x = np.float32([[[1, 2], [3, 4]], [[2, 0], [0, 5]]])
    result = call("Det", x)
    assert (result.shape, result.dtype) == ((2,), np.dtype(np.float32))
    assert result.tolist() == [-2, 10]


SPECIAL = np.float32(
    [
        [-INF, -1e30, -100, -20, -3, -1.5],
        [-1, -0.5, -0.25, -1e-7, -0.0, 0],
        [1e-7, 0.25, 0.5, 1, 1.5, INF],
    ]
)


@pytest.mark.parametrize(
    ("op", "opset", "attributes"),
    [
        *((op, 7, {}) for op in ["Neg", "Abs", "Exp", "Floor", "Ceil", "Sigmoid", "Tanh", "Relu"]),
        *((op, 9, {}) for op in ["Sign", "Erf", "Elu", "Selu", "LeakyRelu", "Softplus", "Shrink"]),
        *((op, 11, {}) for op in ["Round", "ThresholdedRelu", "HardSigmoid", "Softsign"]),
        *((op, 14, {}) for op in ["Celu", "Sin", "Cos", "Atan", "Asinh"]),
        ("Clip", 7, {"min": -1.0, "max": 0.5}),
        ("Gelu", 20, {}),
        ("Gelu", 20, {"approximate": "tanh"}),
        ("Log", 13, {}),
        ("Sqrt", 13, {}),
        ("Reciprocal", 13, {}),
    ],
)
def test_special_values_as_onnxruntime_has_them(
    op: str, opset: int, attributes: dict[str, Any]
) -> None:
    expected = call_onnxruntime(op, SPECIAL, opset=opset, **attributes)
    result = call(op, SPECIAL, opset=opset, **attributes)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=2e-7)


def test_shapes_that_do_not_broadcast_are_named() -> None:
    a, b = TensorType(np.dtype(np.float32), (2, 3)), TensorType(np.dtype(np.float32), (4,))
    with pytest.raises(ModelError, match=r"node 'sum'.*\[2, 3\] and \[4\] do not broadcast"):
        infer_node(Node("sum", "Add", ("a", "b"), ("c",), opset=14), {"a": a, "b": b})
    with pytest.raises(ModelError, match="node 'Add'"):
        call("Add", np.zeros((2, 3)), np.zeros(4))


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("BitShift", {"direction": "UP"}),
        ("Gelu", {"approximate": "sigmoid"}),
        ("Cast", {"to": 99}),
        ("Cast", {"to": 1, "round_mode": "odd"}),
        ("CastLike", {"round_mode": "odd"}),
        ("QuantizeLinear", {"output_dtype": -1}),
    ],
)
def test_attributes_out_of_range_are_refused(op: str, attributes: dict[str, Any]) -> None:
    operator = lookup("", op, 25)
    assert operator is not None
    assert operator.check is not None
    (name,) = (n for n in attributes if n != "to" or attributes[n] == 99)
    reason = operator.check(Node(op, op, ("x",), ("y",), attributes, opset=25))
    assert reason is not None
    assert name in reason
