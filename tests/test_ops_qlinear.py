"""Operators of integers, ONNX's and com.microsoft's, against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_calls import call, call_onnxruntime

MICROSOFT = "com.microsoft"
TYPES = (np.uint8, np.int8)

#: (name, inputs, attributes) of a call.
Case = tuple[str, tuple[Any, ...], dict[str, Any]]
Cases = Callable[[st.DrawFn], Case]


@dataclass
class Source:
    """Random quantised numbers; extreme zero points and values are as likely as others."""

    draw: st.DrawFn
    dtype: Any
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.draw(st.integers(0, 2**32 - 1)))

    def values(self, *shape: int, dtype: Any = None) -> np.ndarray:
        info = np.iinfo(dtype or self.dtype)
        x = self.random.integers(info.min, info.max, shape, endpoint=True)
        if self.draw(st.booleans()):
            x = np.where(x % 2, info.min, info.max)
        return x.astype(dtype or self.dtype)

    def zero_point(self, *shape: int, dtype: Any = None) -> np.ndarray:
        info = np.iinfo(dtype or self.dtype)
        one = self.draw(st.sampled_from([info.min, info.max, 0]) | st.integers(info.min, info.max))
        if shape:
            return self.values(*shape, dtype=dtype)
        return np.array(one, dtype or self.dtype)

    def scale(self, *shape: int, around: float = 0.05) -> np.ndarray:
        """Two in three are a power of two, so that sums lie in the middle between two integers."""
        exponents = self.random.uniform(-1.5, 1.5, shape) + np.log2(around)
        if self.draw(st.integers(0, 2)):
            exponents = np.rint(exponents)
        return np.float32(np.exp2(exponents)).reshape(shape)

    def size(self, most: int = 12) -> int:
        return self.draw(st.integers(1, most))


def binary(op: str) -> Cases:
    def case(draw: st.DrawFn) -> Case:
        s = Source(draw, draw(st.sampled_from(TYPES)))
        shape = [s.size() for _ in range(draw(st.integers(1, 4)))]
        other = [n if draw(st.booleans()) else 1 for n in shape[draw(st.integers(0, len(shape))) :]]
        pairs = [(s.values(*n), s.scale(), s.zero_point()) for n in (shape, other)]
        if draw(st.booleans()):
            pairs.reverse()
        around = 0.05 if op == "QLinearAdd" else 0.05 * 0.05 * 100
        return op, (*pairs[0], *pairs[1], s.scale(around=around), s.zero_point()), {}

    return case


def unary(op: str, **attributes: Any) -> Cases:
    def case(draw: st.DrawFn) -> Case:
        s = Source(draw, draw(st.sampled_from(TYPES)))
        x = s.values(s.size(), s.size(), s.size())
        return op, (x, s.scale(), s.zero_point(), s.scale(), s.zero_point()), attributes

    return case


def softmax(draw: st.DrawFn) -> Case:
    """Of two numbers or more: of one, whose exponential is near the largest float32, onnxruntime
    says 0."""
    s = Source(draw, draw(st.sampled_from(TYPES)))
    x = s.values(*(1 + s.size(20) for _ in range(draw(st.integers(1, 3)))))
    opset, axis = draw(st.sampled_from([12, 13])), draw(st.integers(-x.ndim, x.ndim - 1))
    attributes = {"opset": opset} | ({"axis": axis} if draw(st.booleans()) else {})
    least = np.array(np.iinfo(s.dtype).min, s.dtype)
    return "QLinearSoftmax", (x, s.scale(), s.zero_point(), np.float32(1 / 256), least), attributes


def concat(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from(TYPES)))
    shape = [s.size() for _ in range(draw(st.integers(1, 4)))]
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    scale, zero_point = s.scale(), s.zero_point()
    inputs: list[Any] = [scale, zero_point]
    for _ in range(draw(st.integers(1, 3))):
        sizes = [n if i != axis % len(shape) else s.size() for i, n in enumerate(shape)]
        own = (scale, zero_point) if draw(st.booleans()) else (s.scale(), s.zero_point())
        inputs += [s.values(*sizes), *own]
    return "QLinearConcat", tuple(inputs), {"axis": axis}


def where(draw: st.DrawFn) -> Case:
    s = Source(draw, np.uint8)
    shape = [s.size() for _ in range(draw(st.integers(1, 3)))]
    condition = s.random.integers(0, 2, shape).astype(bool)
    pairs = [p for _ in range(2) for p in (s.values(*shape), s.scale(), s.zero_point())]
    return "QLinearWhere", (condition, *pairs, s.scale(), s.zero_point()), {}


def pool(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from(TYPES)))
    rank = draw(st.integers(1, 3))
    kernel = [s.size(4) for _ in range(rank)]
    spatial = [k + draw(st.integers(0, 8)) for k in kernel]
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    if draw(st.booleans()):
        attributes["strides"] = [s.size(3) for _ in range(rank)]
    if draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
        attributes["count_include_pad"] = draw(st.integers(0, 1))
    scale = s.scale()
    other = scale if draw(st.booleans()) else s.scale()
    shape = (s.size(2), s.size(5), *spatial)
    x = s.values(*shape)
    if draw(st.booleans()):
        x, attributes["channels_last"] = np.moveaxis(x, 1, -1).copy(), 1
    return "QLinearAveragePool", (x, scale, s.zero_point(), other, s.zero_point()), attributes


def global_pool(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from(TYPES)))
    x = s.values(s.size(2), s.size(20), *(s.size(9) for _ in range(draw(st.integers(1, 2)))))
    attributes = {"channels_last": 1} if draw(st.booleans()) else {}
    inputs = (x, s.scale(), s.zero_point(), s.scale(), s.zero_point())
    return "QLinearGlobalAveragePool", inputs, attributes


def weights(s: Source, *shape: int) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Weights of any type, with the shape of their scale and zero point."""
    dtype = np.int8 if s.dtype is np.int8 else s.draw(st.sampled_from(TYPES))
    return s.values(*shape, dtype=dtype), (shape[0],) if s.draw(st.booleans()) else ()


def convolution(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from(TYPES)))
    group, kernel = s.size(3), [s.size(3), s.size(3)]
    inputs, outputs = group * s.size(8), group * s.size(4)
    w, grains = weights(s, outputs, inputs // group, *kernel)
    w_zero_point = np.zeros(grains, w.dtype) if grains else s.zero_point(dtype=w.dtype)
    x = s.values(s.size(2), inputs, *(k + draw(st.integers(0, 6)) for k in kernel))
    attributes: dict[str, Any] = {"group": group}
    if draw(st.booleans()):
        attributes["strides"] = [s.size(2), s.size(2)]
    if draw(st.booleans()):
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(4)]
    y_scale = s.scale(around=0.05 * 0.01 * (inputs // group * w[0, 0].size) ** 0.5 * 60)
    quantised = (x, s.scale(), s.zero_point(), w, s.scale(*grains, around=0.01), w_zero_point)
    bias = [s.random.integers(-20000, 20000, outputs).astype(np.int32)]
    result = (y_scale, s.zero_point())
    return "QLinearConv", (*quantised, *result, *(bias if draw(st.booleans()) else [])), attributes


def conv_integer(draw: st.DrawFn) -> Case:
    _, inputs, attributes = convolution(draw)
    x, _, x_zero_point, w, _, w_zero_point, *_ = inputs
    if x.dtype == np.int8 or w_zero_point.ndim:
        x_zero_point, w_zero_point = x_zero_point.astype(x.dtype), np.array(0, w.dtype)
    return "ConvInteger", (x, w, x_zero_point, w_zero_point), attributes


def matmul(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from(TYPES)))
    rows, inner, columns = s.size(), s.size(60), s.size()
    w, grains = weights(s, columns, inner)
    a = s.values(*([s.size(3)] if draw(st.booleans()) else []), rows, inner)
    w_zero_point = s.zero_point(*grains, dtype=w.dtype)
    quantised = (a, s.scale(), s.zero_point(), w.T.copy(), s.scale(*grains, around=0.01))
    result = (s.scale(around=0.05 * 0.01 * inner**0.5 * 60), s.zero_point())
    return "QLinearMatMul", (*quantised, w_zero_point, *result), {}


def matmul_integer(draw: st.DrawFn) -> Case:
    _, inputs, _ = matmul(draw)
    a, _, a_zero_point, b, _, b_zero_point, *_ = inputs
    return "MatMulInteger", (a, b, a_zero_point, b_zero_point), {}


def gemm(draw: st.DrawFn) -> Case:
    _, inputs, _ = matmul(draw)
    a, a_scale, a_zero_point, b, b_scale, b_zero_point, y_scale, y_zero_point = inputs
    a = a.reshape(-1, a.shape[-1])
    s = Source(draw, a.dtype)
    attributes = {"alpha": draw(st.sampled_from([1.0, 0.5, 1.7]))}
    shape = draw(st.sampled_from([(b.shape[1],), (1, b.shape[1]), (len(a), b.shape[1])]))
    bias = s.random.integers(-20000, 20000, shape).astype(np.int32)
    if draw(st.booleans()):
        a, attributes["transA"] = a.T.copy(), 1
    if draw(st.booleans()):
        b, attributes["transB"] = b.T.copy(), 1
    quantised = (a, a_scale, a_zero_point, b, b_scale, b_zero_point)
    result = (y_scale, y_zero_point) if draw(st.booleans()) else (None, None)
    return "QGemm", (*quantised, bias if draw(st.booleans()) else None, *result), attributes


def dynamic(draw: st.DrawFn) -> Case:
    s = Source(draw, np.uint8)
    x = s.random.normal(s.random.normal(0, 3), 2, (s.size(), s.size(), s.size()))
    return "DynamicQuantizeLinear", (x.astype(np.float32),), {}


def quantize(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from([*TYPES, np.uint16, np.int16])))
    x = s.random.normal(0, 3, (s.size(), s.size(), s.size())).astype(np.float32)
    axis = draw(st.integers(0, 2))
    grains = (x.shape[axis],) if draw(st.booleans()) else ()
    return "QuantizeLinear", (x, s.scale(*grains), s.zero_point(*grains)), {"axis": axis}


def dequantize(draw: st.DrawFn) -> Case:
    s = Source(draw, draw(st.sampled_from([*TYPES, np.uint16, np.int16])))
    x, axis = s.values(s.size(), s.size(), s.size()), draw(st.integers(0, 2))
    grains = (x.shape[axis],) if draw(st.booleans()) else ()
    return "DequantizeLinear", (x, s.scale(*grains), s.zero_point(*grains)), {"axis": axis}


#: By name, with the domain each operator is of.
OPERATORS: dict[str, tuple[str, Cases]] = {
    "QLinearAdd": (MICROSOFT, binary("QLinearAdd")),
    "QLinearMul": (MICROSOFT, binary("QLinearMul")),
    "QLinearLeakyRelu": (MICROSOFT, unary("QLinearLeakyRelu", alpha=0.13)),
    "QLinearLeakyRelu, alpha left out": (MICROSOFT, unary("QLinearLeakyRelu")),
    "QLinearSigmoid": (MICROSOFT, unary("QLinearSigmoid")),
    "QLinearSoftmax": (MICROSOFT, softmax),
    "QLinearConcat": (MICROSOFT, concat),
    "QLinearWhere": (MICROSOFT, where),
    "QLinearAveragePool": (MICROSOFT, pool),
    "QLinearGlobalAveragePool": (MICROSOFT, global_pool),
    "QGemm": (MICROSOFT, gemm),
    "QuantizeLinear": (MICROSOFT, quantize),
    "DequantizeLinear": (MICROSOFT, dequantize),
    "QLinearConv": ("", convolution),
    "ConvInteger": ("", conv_integer),
    "QLinearMatMul": ("", matmul),
    "MatMulInteger": ("", matmul_integer),
    "DynamicQuantizeLinear": ("", dynamic),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_integers_are_onnxruntimes(name: str) -> None:
    """Equal in 99.99 % of all that is drawn, and never more than 1 apart."""
    domain, cases = OPERATORS[name]
    opset = 1 if domain else 13
    case = st.composite(cases)
    differing, total = 0, 0

    @given(st.data())
    @settings(max_examples=150)
    def compare(data: st.DataObject) -> None:
        nonlocal differing, total
        op, inputs, attributes = data.draw(case())
        outputs = 3 if op == "DynamicQuantizeLinear" else 1
        arguments = {"others": attributes, "domain": domain, "outputs": outputs}
        expected = call_onnxruntime(op, *inputs, opset=13, **arguments)
        result = call(op, *inputs, opset=opset, **arguments)
        pairs = [(result, expected)] if outputs == 1 else zip(result, expected, strict=True)
        for got, want in pairs:
            assert (got.shape, got.dtype) == (want.shape, want.dtype)
            if want.dtype.kind == "f":
                np.testing.assert_allclose(got, want, rtol=1e-6)
                continue
            apart = np.abs(got.astype(np.int64) - want.astype(np.int64))
            assert apart.max(initial=0) <= 1
            differing, total = differing + np.count_nonzero(apart), total + apart.size

    compare()
    assert differing <= 1e-4 * total
