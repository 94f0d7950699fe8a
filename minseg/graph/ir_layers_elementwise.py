"""Layers that treat each element by itself: activations, arithmetic, comparisons, Convert."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from minseg.graph.domains import OPENVINO
from minseg.graph.ir_quantised import dequantize
from minseg.graph.ir_translate import Call, Integers, layer
from minseg.graph.ir_weights import Unsupported, layer_dtype, widened

#: Layers with one input that ONNX has under the same or another name.
_UNARY = {
    "Abs": "Abs",
    "Acos": "Acos",
    "Acosh": "Acosh",
    "Asin": "Asin",
    "Asinh": "Asinh",
    "Atan": "Atan",
    "Atanh": "Atanh",
    "Ceiling": "Ceil",
    "Cos": "Cos",
    "Cosh": "Cosh",
    "Erf": "Erf",
    "Exp": "Exp",
    "Floor": "Floor",
    "HSwish": "HardSwish",
    "Log": "Log",
    "LogicalNot": "Not",
    "Mish": "Mish",
    "Negative": "Neg",
    "ReLU": "Relu",
    "Sigmoid": "Sigmoid",
    "Sign": "Sign",
    "Sin": "Sin",
    "Sinh": "Sinh",
    "SoftPlus": "Softplus",
    "SoftSign": "Softsign",
    "Sqrt": "Sqrt",
    "Tan": "Tan",
    "Tanh": "Tanh",
}

#: Layers with two inputs, broadcast as NumPy does.
_BINARY = {
    "Add": "Add",
    "Equal": "Equal",
    "Greater": "Greater",
    "GreaterEqual": "GreaterOrEqual",
    "Less": "Less",
    "LessEqual": "LessOrEqual",
    "LogicalAnd": "And",
    "LogicalOr": "Or",
    "LogicalXor": "Xor",
    "Maximum": "Max",
    "Minimum": "Min",
    "Power": "Pow",
}


def _unary(op: str, call: Call) -> str:
    return call.op(op, call.inputs[0])


def _binary(op: str, call: Call) -> str:
    _check_broadcast(call)
    return call.op(op, *call.inputs[:2])


def _check_broadcast(call: Call) -> None:
    call.choice("auto_broadcast", ("numpy", "none"), "numpy")


for _kind, _op in _UNARY.items():
    layer(_kind, 1)(partial(_unary, _op))
for _kind, _op in _BINARY.items():
    layer(_kind, 1)(partial(_binary, _op))


@layer("Convert", 1)
def convert(call: Call) -> str:
    """Constants are converted here; of narrow integers it is remembered where they come from."""
    dtype = widened(layer_dtype(call.layer, "destination_type"))
    value = call.known(0)
    if call.inputs[0] in call.draft.integers and dtype == np.float32:
        return call.inputs[0]
    if value is None:
        return call.cast(call.inputs[0], dtype)
    if value.dtype == dtype:
        return call.inputs[0]
    with np.errstate(all="ignore"):
        name = call.keep(value.astype(dtype))
    if value.dtype in (np.int8, np.uint8) and dtype == np.float32:
        call.draft.integers[name] = Integers(value)
    return name


@layer("ConvertLike", 1)
def convert_like(call: Call) -> str:
    return call.cast(call.inputs[0], call.dtype(1))


@layer("Subtract", 1)
def subtract(call: Call) -> str:
    _check_broadcast(call)
    result = call.op("Sub", *call.inputs[:2])
    integers, zero_point = call.draft.integers.get(call.inputs[0]), call.known(1)
    if integers and zero_point is not None and integers.zero_point is None:
        exact = zero_point.astype(integers.values.dtype)
        if np.array_equal(exact, zero_point):
            call.draft.integers[result] = Integers(integers.values, exact)
    return result


@layer("Multiply", 1)
def multiply(call: Call) -> str:
    """The scaling of quantised weights becomes DequantizeLinear."""
    _check_broadcast(call)
    integers, scale = call.draft.integers.get(call.inputs[0]), call.known(1)
    if integers and integers.scale is None and scale is not None and scale.dtype == np.float32:
        scaled = Integers(integers.values, integers.zero_point, scale)
        dequantised = dequantize(call, scaled)
        if dequantised is not None:
            return dequantised
    return call.op("Mul", *call.inputs[:2])


@layer("Divide", 1)
def divide(call: Call) -> str:
    """Integers are divided towards minus infinity with m_pythondiv, else towards zero."""
    _check_broadcast(call)
    a, b = call.inputs[:2]
    if call.dtype(0).kind in "iu" and call.layer.truth("m_pythondiv", True):
        a = call.op("Sub", a, call.op("Mod", a, b))
    return call.op("Div", a, b)


@layer("FloorMod", 1)
def floor_mod(call: Call) -> str:
    _check_broadcast(call)
    a, b = call.inputs[:2]
    if call.dtype(0).kind in "iu":
        return call.op("Mod", a, b)
    quotient = call.op("Floor", call.op("Div", a, b))
    return call.op("Sub", a, call.op("Mul", quotient, b))


@layer("Mod", 1)
def mod(call: Call) -> str:
    _check_broadcast(call)
    return call.op("Mod", *call.inputs[:2], fmod=1)


@layer("NotEqual", 1)
def not_equal(call: Call) -> str:
    return call.op("Not", _binary("Equal", call))


@layer("SquaredDifference", 1)
def squared_difference(call: Call) -> str:
    _check_broadcast(call)
    difference = call.op("Sub", *call.inputs[:2])
    return call.op("Mul", difference, difference)


@layer("Select", 1)
def select(call: Call) -> str:
    _check_broadcast(call)
    return call.op("Where", *call.inputs[:3])


@layer("PReLU", 1)
def prelu(call: Call) -> str:
    """A list of slopes has one per channel, on axis 1."""
    slope = call.inputs[1]
    if call.rank(1) == 1 and call.rank(0) > 2 and call.shape(1) != (1,):
        slope = call.op("Reshape", slope, call.ints(-1, *(1 for _ in call.shape(0)[2:])))
    return call.op("PRelu", call.inputs[0], slope)


@layer("Elu", 1)
def elu(call: Call) -> str:
    return call.op("Elu", call.inputs[0], alpha=call.layer.real("alpha"))


def _scalar(call: Call, index: int, what: str) -> float:
    value = call.fixed(index, what)
    if value.size != 1:
        raise Unsupported(f"its {what} must be one number")
    return float(value.reshape(()))


@layer("Selu", 1)
def selu(call: Call) -> str:
    alpha, gamma = _scalar(call, 1, "alpha"), _scalar(call, 2, "lambda")
    return call.op("Selu", call.inputs[0], alpha=alpha, gamma=gamma)


@layer("HardSigmoid", 1)
def hard_sigmoid(call: Call) -> str:
    alpha, beta = _scalar(call, 1, "alpha"), _scalar(call, 2, "beta")
    return call.op("HardSigmoid", call.inputs[0], alpha=alpha, beta=beta)


@layer("HSigmoid", 1)
def h_sigmoid(call: Call) -> str:
    """min(max(x + 3, 0), 6) / 6"""
    return call.op("HardSigmoid", call.inputs[0], alpha=1 / 6, beta=0.5)


@layer("Swish", 1)
def swish(call: Call) -> str:
    """x · sigmoid(beta · x)"""
    x = call.inputs[0]
    scaled = call.op("Mul", x, call.inputs[1]) if len(call.inputs) > 1 else x
    return call.op("Mul", x, call.op("Sigmoid", scaled))


@layer("Gelu", 1, 7)
def gelu(call: Call) -> str:
    mode = call.choice("approximation_mode", ("erf", "tanh"), "erf")
    return call.op("Gelu", call.inputs[0], approximate={"erf": "none", "tanh": "tanh"}[mode])


@layer("Clamp", 1)
def clamp(call: Call) -> str:
    """The limits of integers are rounded inwards."""
    low, high = call.layer.real("min"), call.layer.real("max")
    dtype = call.dtype(0)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        low, high = max(math.ceil(low), limits.min), min(math.floor(high), limits.max)
    return call.op("Clip", call.inputs[0], call.keep(low, dtype), call.keep(high, dtype))


@layer("Round", 5)
def round_(call: Call) -> str:
    if (
        call.choice("mode", ("half_to_even", "half_away_from_zero"), "half_to_even")
        == "half_to_even"
    ):
        return call.op("Round", call.inputs[0])
    size = call.op("Floor", call.op("Add", call.op("Abs", call.inputs[0]), call.number(0.5)))
    return call.op("Mul", call.op("Sign", call.inputs[0]), size)


@layer("FakeQuantize", 1)
def fake_quantize(call: Call) -> str:
    _check_broadcast(call)
    levels = call.layer.integer("levels")
    return call.op("FakeQuantize", *call.inputs[:5], domain=OPENVINO, levels=levels)
