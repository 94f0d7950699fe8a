"""QuantizeLinear and its kin against exact fractions, onnxruntime and OpenVINO."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto
from operator_calls import call, call_onnxruntime

from minseg.errors import ModelError
from minseg.ops import lookup

INTEGERS = [np.int8, np.uint8, np.int16, np.uint16]
PACKED = [ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2]
FLOAT8 = [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
FLOAT8 += [ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz]
INF, NAN = math.inf, math.nan


def bounds(dtype: Any) -> tuple[int, int]:
    info = ml_dtypes.iinfo(dtype)
    return int(info.min), int(info.max)


def quantized(x: float, scale: float, zero_point: int, dtype: Any) -> int:
    """The specification's formula; powers of two as scales make every step exact."""
    low, high = bounds(dtype)
    return min(max(round(Fraction(x) / Fraction(scale)) + zero_point, low), high)


@st.composite
def quantization(
    draw: st.DrawFn, dtype: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """Data, scale, zero point and attributes of any granularity."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=5))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    kind = draw(st.sampled_from(["tensor", "axis", "block"]))
    attributes = {} if kind == "tensor" else {"axis": axis}
    grains: tuple[int, ...] = {"tensor": (), "axis": (shape[axis],), "block": shape}[kind]
    if kind == "block":
        attributes["block_size"] = draw(st.integers(1, shape[axis]))
        blocks = -(-shape[axis] // attributes["block_size"])
        grains = tuple(blocks if i == axis % len(shape) else n for i, n in enumerate(shape))
    powers = st.integers(-3, 3).map(lambda e: 2.0**e)
    scale = draw(hnp.arrays(np.float32, grains, elements=powers))
    zero_point = draw(hnp.arrays(np.int64, grains, elements=st.integers(*bounds(dtype))))
    x = draw(hnp.arrays(np.float32, shape, elements=st.integers(-4000, 4000).map(lambda v: v / 16)))
    return x, scale, zero_point.astype(dtype), attributes


def grain(parameter: np.ndarray, index: tuple[int, ...], attributes: dict[str, int]) -> Any:
    """The scale or zero point that serves the element at ``index``."""
    if not attributes:
        return parameter[()].item()
    axis = attributes["axis"] % len(index)
    if "block_size" not in attributes:
        return parameter[index[axis]].item()
    block = index[axis] // attributes["block_size"]
    return parameter[(*index[:axis], block, *index[axis + 1 :])].item()


@pytest.mark.parametrize("dtype", [*INTEGERS, *PACKED])
@given(data=st.data())
@settings(max_examples=60)
def test_quantize_and_dequantize(dtype: Any, data: st.DataObject) -> None:
    x, scale, zero_point, attributes = data.draw(quantization(dtype))
    result = call("QuantizeLinear", x, scale, zero_point, **attributes)
    assert (result.shape, result.dtype) == (x.shape, np.dtype(dtype))
    back = call("DequantizeLinear", result, scale, zero_point, **attributes)
    assert (back.shape, back.dtype) == (x.shape, scale.dtype)
    zero_points = zero_point.astype(np.int64)
    for i in np.ndindex(x.shape):
        s, z = (float(grain(scale, i, attributes)), int(grain(zero_points, i, attributes)))
        assert int(result[i]) == quantized(x[i].item(), s, z, dtype)
        assert float(back[i]) == (int(result[i]) - z) * s


def test_the_output_type() -> None:
    x, scale = np.float32([-1, 300]), np.float32(1)
    assert call("QuantizeLinear", x, scale).dtype == np.uint8
    assert call("QuantizeLinear", x, scale).tolist() == [0, 255]
    packed = call("QuantizeLinear", x, scale, output_dtype=TensorProto.INT4)
    assert packed.dtype == ml_dtypes.int4
    assert packed.astype(int).tolist() == [-1, 7]
    half = call("DequantizeLinear", np.int8([3]), scale, output_dtype=TensorProto.FLOAT16)
    assert (half.dtype, half.tolist()) == (np.dtype(np.float16), [3])


def test_halves_go_to_even_before_the_zero_point() -> None:
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5])
    result = call("QuantizeLinear", x, np.float32(1), np.uint8(7))
    assert result.tolist() == [7, 9, 9, 7, 5]


def test_infinity_and_nan_saturate_as_in_onnxruntime() -> None:
    x = np.float32([INF, -INF, NAN, 1e30] * 8)
    for zero_point in (np.uint8(3), np.int8(-3)):
        result = call("QuantizeLinear", x, np.float32(0.5), zero_point)
        expected = call_onnxruntime("QuantizeLinear", x, np.float32(0.5), zero_point, opset=13)
        assert result.dtype == zero_point.dtype
        assert result.tolist() == expected.tolist()


def test_precision_is_that_of_the_division() -> None:
    """2049 is no float16, its neighbour 2048 is."""
    x, scale, zero_point = np.float32([2049]), np.float32(1), np.int16(0)
    half = {"precision": TensorProto.FLOAT16}
    assert call("QuantizeLinear", x, scale, zero_point).tolist() == [2049]
    assert call("QuantizeLinear", x, scale, zero_point, **half).tolist() == [2048]
    assert call("QuantizeLinear", x, scale.astype(np.float16), zero_point).tolist() == [2048]


def test_int32_both_ways() -> None:
    x = np.array([2**31 - 1, -(2**31), 5], np.int32)
    scale = np.float32(0.5)
    assert call("DequantizeLinear", x, scale).tolist() == [2.0**30, -(2.0**30), 2.5]
    assert call("QuantizeLinear", x, scale, np.int8(0)).tolist() == [127, -128, 10]


@pytest.mark.parametrize("dtype", FLOAT8)
def test_float8(dtype: Any) -> None:
    x = np.float32([[0, 1, 1.0625, 3], [1e9, -1e9, -2, 0.5]])
    scale, zero_point = np.float32([2, 0.5]), np.zeros(2, dtype)
    result = call("QuantizeLinear", x, scale, zero_point, axis=0)
    assert (result.shape, result.dtype) == (x.shape, np.dtype(dtype))
    largest = float(ml_dtypes.finfo(dtype).max)
    expected = [[0, 0.5, 0.5, 1.5], [largest, -largest, -4, 1]]  # 0.53125 is a tie or below
    assert result.astype(float).tolist() == expected
    back = call("DequantizeLinear", result, scale, zero_point, axis=0)
    assert (back.shape, back.dtype) == (x.shape, scale.dtype)
    assert back.tolist() == [[v * 2 for v in expected[0]], [v / 2 for v in expected[1]]]
    lost = call("QuantizeLinear", x, scale, zero_point, axis=0, saturate=0)
    assert not np.isfinite(lost[1, :2].astype(np.float32)).any()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_scales(dtype: Any) -> None:
    x = np.array([-200, 1, 200], dtype)
    result = call("QuantizeLinear", x, np.array(0.5, dtype), np.int16(1000))
    assert result.tolist() == [600, 1002, 1400]
    back = call("DequantizeLinear", result, np.array(0.5, dtype), np.int16(1000))
    assert (back.dtype, back.astype(float).tolist()) == (np.dtype(dtype), [-200, 1, 200])


@pytest.mark.parametrize("opset", [10, 13, 19, 21])
@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_as_onnxruntime_has_it(opset: int, dtype: Any) -> None:
    rng = np.random.default_rng(opset)
    x = rng.normal(0, 3, (3, 4, 5)).astype(np.float32)
    per_axis = opset >= 13
    shape = (4,) if per_axis else ()
    scale = rng.uniform(0.01, 0.05, shape).astype(np.float32)
    zero_point = rng.integers(*bounds(dtype), shape).astype(dtype)
    more = {"axis": 1} if per_axis else {}
    expected = call_onnxruntime("QuantizeLinear", x, scale, zero_point, opset=opset, **more)
    result = call("QuantizeLinear", x, scale, zero_point, opset=opset, **more)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result, expected)
    back = call_onnxruntime("DequantizeLinear", result, scale, zero_point, opset=opset, **more)
    again = call("DequantizeLinear", result, scale, zero_point, opset=opset, **more)
    assert (again.shape, again.dtype) == (back.shape, back.dtype)
    np.testing.assert_array_equal(again, back)


@pytest.mark.parametrize("low", [-5.0, 0.0, 2.0])
@pytest.mark.parametrize("high", [3.0, -1.0])
def test_dynamic_quantize_linear(low: float, high: float) -> None:
    if high < low:
        low, high = high, low
    x = np.random.default_rng(3).uniform(low, high, (2, 3, 7)).astype(np.float32)
    y, scale, zero_point = call("DynamicQuantizeLinear", x, outputs=3)
    expected = call_onnxruntime("DynamicQuantizeLinear", x, opset=11, outputs=3)
    for result, wanted in zip((y, scale, zero_point), expected, strict=True):
        assert (result.shape, result.dtype) == (wanted.shape, wanted.dtype)
        np.testing.assert_array_equal(result, wanted)
    assert abs((y.astype(float) - float(zero_point)) * scale - x).max() <= float(scale)


def test_dynamic_quantize_linear_of_zeros() -> None:
    x = np.zeros((2, 2), np.float32)
    results = call("DynamicQuantizeLinear", x, outputs=3)
    expected = call_onnxruntime("DynamicQuantizeLinear", x, opset=11, outputs=3)
    assert [r.tolist() for r in results] == [e.tolist() for e in expected]
    assert [r.tolist() for r in results] == [[[0, 0], [0, 0]], 1, 0]


@pytest.mark.parametrize(
    ("scale", "attributes"),
    [
        (np.ones(3, np.float32), {"axis": 1}),
        (np.ones((2, 2), np.float32), {"axis": 1}),
        (np.ones((2, 1), np.float32), {"axis": 1, "block_size": 2}),
        (np.ones((2, 3), np.float32), {"axis": 1, "block_size": 2}),
        (np.ones(4, np.float32), {"axis": 2}),
        (np.ones((2, 3), np.float32), {"axis": 1, "block_size": -2}),
    ],
)
def test_scales_that_do_not_fit_are_refused(scale: np.ndarray, attributes: dict[str, int]) -> None:
    x = np.zeros((2, 4), np.float32)
    for op, data in (("QuantizeLinear", x), ("DequantizeLinear", x.astype(np.uint8))):
        with pytest.raises(ModelError, match=op):
            call(op, data, scale, **attributes)


def fake_quantize(x: np.ndarray, *limits: np.ndarray, **attributes: Any) -> np.ndarray:
    result = call("FakeQuantize", x, *limits, domain="org.openvinotoolkit", opset=1, **attributes)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)
    return result


@given(data=st.data())
def test_fake_quantize(data: st.DataObject) -> None:
    """The formula of OpenVINO's specification, element by element in exact fractions."""
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=3))
    levels = data.draw(st.sampled_from([2, 3, 17, 255, 256]))
    values = st.integers(-512, 512).map(lambda v: v / 64)
    x = data.draw(hnp.arrays(np.float32, shape, elements=values))
    per_channel = len(shape) > 1 and data.draw(st.booleans())
    limit_shape = (shape[1], *(1 for _ in shape[2:])) if per_channel else ()
    limits = [data.draw(hnp.arrays(np.float32, limit_shape, elements=values)) for _ in range(4)]
    limits[1] = np.where(limits[0] == limits[1], limits[0] + 1, limits[1]).astype(np.float32)
    result = fake_quantize(x, *limits, levels=levels)
    spread = [np.broadcast_to(limit, shape) for limit in limits]
    for i in np.ndindex(shape):
        v, il, ih, ol, oh = (Fraction(a[i].item()) for a in (x, *spread))
        if v <= min(il, ih):
            exact = ol
        elif v > max(il, ih):
            exact = oh
        else:
            exact = (
                Fraction(round((v - il) / (ih - il) * (levels - 1)), levels - 1) * (oh - ol) + ol
            )
        assert result[i].item() == pytest.approx(float(exact), rel=1e-6, abs=1e-6)


def test_fake_quantize_rounds_halves_to_even() -> None:
    x = np.float32([0.5, 1.5, 2.5, -1, 9, NAN])
    limits = [np.float32(v) for v in (0, 4, 0, 4)]
    np.testing.assert_array_equal(
        fake_quantize(x, *limits, levels=5), np.float32([0, 2, 2, 0, 4, NAN])
    )


@pytest.mark.parametrize("levels", [2, 16, 255, 256])
@pytest.mark.parametrize("per_channel", [False, True])
def test_fake_quantize_as_openvino_has_it(levels: int, per_channel: bool) -> None:
    """Equal but for inputs that lie on the edge between two levels, where float32 decides."""
    openvino = pytest.importorskip("openvino")
    rng = np.random.default_rng(levels)
    x = rng.normal(0, 2, (2, 3, 16, 16)).astype(np.float32)
    shape = (1, 3, 1, 1) if per_channel else (1,)
    low, high = -rng.uniform(0.5, 3, shape), rng.uniform(0.5, 3, shape)
    limits = [np.float32(v) for v in (low, high, low, high)]
    opset = openvino.opset13
    data = opset.parameter(x.shape, np.float32)
    model = openvino.Model([opset.fake_quantize(data, *limits, levels)], [data])
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = compiled(x)[0]
    result = fake_quantize(x, *limits, levels=levels)
    assert (expected.shape, expected.dtype) == (result.shape, result.dtype)
    step = (limits[1] - limits[0]) / (levels - 1)
    position = (x - limits[0]) / step % 1
    on_edge = np.abs(position - 0.5) < 1e-4
    assert on_edge.mean() < 0.01
    np.testing.assert_allclose(result[~on_edge], expected[~on_edge], atol=2e-6)


def test_fake_quantize_tolerates_the_name_of_its_broadcasting() -> None:
    operator = lookup("org.openvinotoolkit", "FakeQuantize", 1)
    assert operator is not None
    assert operator.attributes == {"levels", "auto_broadcast"}
    limits = [np.float32(v) for v in (0, 1, 0, 1)]
    x = np.float32([0.2, 0.7])
    assert fake_quantize(x, *limits, levels=2, auto_broadcast="numpy").tolist() == [0, 1]
