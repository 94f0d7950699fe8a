"""Conv, ConvTranspose and their integer kin, against loops over pixels and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_calls import call, call_onnxruntime

from minseg.errors import MinsegError, ModelError
from minseg.graph.model import Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.geometry import convolution, output_dims, place, sliding, transposed
from minseg.ops.infer import infer_node

EPS = np.finfo(np.float32).eps


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(result: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for one rounding to float32 of sums that may cancel."""
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(result, expected, rtol=EPS, atol=1e-12)


@st.composite
def layouts(draw: st.DrawFn, transposed: bool = False) -> tuple[Any, ...]:
    """Shapes of x and w, and the attributes of a convolution that fits them."""
    rank = draw(st.integers(1, 3))
    group = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    begin, end = each(0, 2), each(0, 2)
    extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if transposed:
        begin, end = (
            [min(p, (e - 1) // 2) for p, e in zip(v, extents, strict=True)] for v in (begin, end)
        )
        least = [1] * rank
    else:
        least = [max(e - b - f, 1) for e, b, f in zip(extents, begin, end, strict=True)]
    spatial = [low + more for low, more in zip(least, each(0, 4), strict=True)]
    x = (draw(st.integers(1, 2)), group * inputs, *spatial)
    w = (group * inputs, outputs, *kernel) if transposed else (group * outputs, inputs, *kernel)
    pads = begin + end
    return x, w, {"strides": strides, "dilations": dilations, "pads": pads, "group": group}


@given(layouts(), st.booleans())
def test_conv(layout: Any, has_bias: bool) -> None:
    x, w, attributes = layout
    x, w = normal(*x), normal(*w, seed=1)
    b = normal(len(w), seed=2) if has_bias else None
    inputs = (x, w) if b is None else (x, w, b)
    close(call("Conv", *inputs, **attributes), oracles.conv(x, w, b, **attributes))


@given(layouts(transposed=True), st.booleans(), st.data())
def test_conv_transpose(layout: Any, has_bias: bool, data: st.DataObject) -> None:
    x, w, attributes = layout
    x, w = normal(*x), normal(*w, seed=1)
    group = attributes["group"]
    b = normal(group * w.shape[1], seed=2) if has_bias else None
    extra = [data.draw(st.integers(0, s - 1)) for s in attributes["strides"]]
    attributes["output_padding"] = extra
    inputs = (x, w) if b is None else (x, w, b)
    close(
        call("ConvTranspose", *inputs, **attributes), oracles.conv_transpose(x, w, b, **attributes)
    )


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("size", [5, 6, 7])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (3, 3)])
def test_auto_pad(op: str, auto_pad: str, size: int, kernel: int, stride: int) -> None:
    x, w = normal(1, 2, size, 6), normal(2, 2, kernel, 3, seed=1)
    attributes: dict[str, Any] = {"auto_pad": auto_pad, "strides": (stride, 2)}
    result = call(op, x, w, **attributes)
    expected = call_onnxruntime(op, x, w, opset=11, **attributes)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_a_transposed_kernel_that_leaves_gaps(auto_pad: str) -> None:
    """SAME means input size times stride, which onnxruntime falls short of here."""
    x, w = np.array([[[5.0, 7]]], np.float32), np.array([[[2.0, 3]]], np.float32)
    result = call("ConvTranspose", x, w, strides=(4,), auto_pad=auto_pad)
    np.testing.assert_array_equal(result, [[[10, 15, 0, 0, 14, 21, 0, 0]]])
    shrunk = call("Conv", x, np.ones((1, 1, 1), np.float32), strides=(3,), auto_pad=auto_pad)
    np.testing.assert_array_equal(shrunk, [[[5]]])


def test_same_upper_pads_the_end_and_same_lower_the_beginning() -> None:
    x, w = np.array([[[1.0, 2, 3]]], np.float32), np.array([[[10.0, 1]]], np.float32)
    np.testing.assert_array_equal(call("Conv", x, w, auto_pad="SAME_UPPER"), [[[12, 23, 30]]])
    np.testing.assert_array_equal(call("Conv", x, w, auto_pad="SAME_LOWER"), [[[1, 12, 23]]])


@pytest.mark.parametrize("size", [6, 7, 8, 9, 10])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER"])
def test_output_shape_sets_the_pads(size: int, auto_pad: str) -> None:
    x, w = normal(1, 1, 3, 3), normal(1, 2, 3, 3, seed=1)
    attributes: dict[str, Any] = {
        "strides": (3, 2),
        "output_shape": (size, 7),
        "auto_pad": auto_pad,
    }
    result = call("ConvTranspose", x, w, **attributes)
    assert result.shape == (1, 2, size, 7)
    begin = (max(9 - size, 0) + (auto_pad == "NOTSET")) // 2
    whole = np.pad(oracles.conv_transpose(x, w, None, (3, 2)), ((0, 0), (0, 0), (0, 1), (0, 0)))
    close(result, whole[:, :, begin : begin + size])


def test_wide_sums_survive_cancellation() -> None:
    """In float32 the small term would be lost."""
    x = np.array([[[1e8], [1.0], [-1e8]]], np.float32)
    assert call("Conv", x, np.ones((1, 3, 1), np.float32)).item() == 1
    half = np.full((1, 4096, 1), 0.25, np.float16)
    assert call("Conv", half, np.ones((1, 4096, 1), np.float16)).item() == 1024


def test_strips_join_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = normal(2, 2, 9, 5), normal(4, 1, 3, 2, seed=1)
    attributes: dict[str, Any] = {"strides": (2, 1), "pads": (1, 0, 2, 1), "group": 2}
    v = normal(2, 3, 2, 2, seed=2)
    results = []
    for elements in (1, 1 << 19):
        monkeypatch.setattr("minseg.ops.conv.STRIP_ELEMENTS", elements)
        results.append(
            (call("Conv", x, w, **attributes), call("ConvTranspose", x, v, strides=(2, 3)))
        )
    close(results[0][0], oracles.conv(x, w, None, **attributes))
    close(results[0][1], oracles.conv_transpose(x, v, None, (2, 3)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=EPS)


def test_an_empty_batch() -> None:
    assert call("Conv", normal(0, 2, 5, 5), normal(3, 2, 3, 3)).shape == (0, 3, 3, 3)
    assert call("ConvTranspose", normal(0, 2, 5, 5), normal(2, 3, 3, 3)).shape == (0, 3, 7, 7)


def test_nan_reaches_every_window_that_holds_it_and_no_other() -> None:
    x = normal(1, 1, 1, 7)
    x[..., 3] = np.nan
    result = call("Conv", x, np.ones((1, 1, 1, 3), np.float32))
    np.testing.assert_array_equal(np.isnan(result), [[[[False, True, True, True, False]]]])


@pytest.mark.parametrize(
    ("x", "w", "attributes", "said"),
    [
        ((1, 3, 5, 5), (4, 2, 3, 3), {}, "has 3 channels"),
        ((1, 4, 5, 5), (3, 2, 3, 3), {"group": 2}, "3 output channels"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"kernel_shape": (3, 2)}, "kernel_shape is [3, 2]"),
        ((1, 2, 5, 2), (3, 2, 3, 3), {}, "does not fit"),
        ((1, 2, 5), (3, 2, 3, 3), {}, "one rank"),
        ((1, 2), (3, 2), {}, "one rank"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"pads": (1, 1)}, "must have 4 entries"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"pads": (1, 1, -1, 1)}, "below 0"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"strides": (0, 1)}, "below 1"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"group": 0}, "group is 0"),
        ((1, 2, 5, 5), (3, 2, 3, 3), {"auto_pad": "SAME"}, "auto_pad is 'SAME'"),
    ],
)
def test_contradictions_are_named(x: Any, w: Any, attributes: Any, said: str) -> None:
    node = Node("first", "Conv", ("x", "w"), ("y",), attributes, opset=11)
    with pytest.raises(ModelError) as executed:
        run_node(node, [normal(*x), normal(*w)], {})
    types = {n: TensorType(np.dtype(np.float32), s) for n, s in (("x", x), ("w", w))}
    with pytest.raises(ModelError) as inferred:
        infer_node(node, types)
    for error in (executed, inferred):
        assert "'first'" in str(error.value)
        assert said in str(error.value)


def test_a_bias_of_another_length_is_refused() -> None:
    node = Node("n", "Conv", ("x", "w", "b"), ("y",), {}, opset=11)
    with pytest.raises(ModelError, match=r"B has shape \[1\]; it must be \[3\]"):
        run_node(node, [normal(1, 2, 3), normal(3, 2, 1), normal(1)], {})


@pytest.mark.parametrize("attributes", [{"pads": (2**40,) * 2}, {"dilations": (2**40,)}])
def test_hostile_sizes_are_refused_before_memory_is_taken(attributes: Any) -> None:
    node = Node("n", "Conv", ("x", "w"), ("y",), attributes, opset=11)
    with pytest.raises(MinsegError):
        run_node(node, [normal(1, 1, 9), normal(1, 1, 2)], {})


def test_geometry_of_unknown_sizes() -> None:
    rules = convolution(("N", 3, None, 9), (8, 3, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    assert output_dims(rules, (None, 9)) == (None, 5)
    (axis,) = place(sliding((3,), (2,), (2,), (1, 2)), (10,))
    assert (axis.output, axis.pad_begin, axis.pad_end, axis.extent, axis.reach) == (5, 1, 2, 5, 13)
    (axis,) = place(transposed((3,), (2,), None, (1, 1), output_padding=(1,)), (4,))
    assert axis.output == 8


# Integers


def integers(dtype: Any, *shape: int, seed: int = 0) -> np.ndarray:
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(seed)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@given(layouts(), st.sampled_from([np.uint8, np.int8]), st.sampled_from([np.uint8, np.int8]))
def test_conv_integer_is_exact(layout: Any, x_dtype: Any, w_dtype: Any) -> None:
    x_shape, w_shape, attributes = layout
    x, w = integers(x_dtype, *x_shape), integers(w_dtype, *w_shape, seed=1)
    x_zero, w_zero = integers(x_dtype, seed=2), integers(w_dtype, len(w), seed=3)
    zeros = w_zero.reshape(-1, *[1] * (w.ndim - 1)).astype(int)
    result = call("ConvInteger", x, w, x_zero, w_zero, **attributes)
    expected = oracles.conv(x.astype(int) - x_zero, w.astype(int) - zeros, None, **attributes)
    assert (result.shape, result.dtype) == (expected.shape, np.int32)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("w_dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("group", [1, 4])
def test_qlinear_conv_gives_onnxruntimes_bits(w_dtype: Any, per_channel: bool, group: int) -> None:
    x, w = integers(np.uint8, 2, 8, 9, 7), integers(w_dtype, 12, 8 // group, 3, 3, seed=1)
    count = (12,) if per_channel else ()
    w_scale = np.random.default_rng(2).uniform(0.001, 0.01, count).astype(np.float32)
    w_zero = np.full(count, 3 if w_dtype is np.uint8 else 0, w_dtype)
    b = np.arange(-600, 600, 100, np.int32)
    inputs = (
        *(x, np.float32(0.02), np.uint8(117), w, w_scale, w_zero),
        *(np.float32(0.07), np.uint8(131), b),
    )
    attributes: dict[str, Any] = {"pads": (1, 1, 0, 2), "strides": (2, 1), "group": group}
    result = call("QLinearConv", *inputs, **attributes)
    expected = call_onnxruntime("QLinearConv", *inputs, opset=10, **attributes)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    assert len(np.unique(expected)) > 20
    np.testing.assert_array_equal(result, expected)


def test_qlinear_conv_rounds_half_to_even_and_saturates() -> None:
    x = np.array([[[1, 3, 5, 250, 0]]], np.uint8)
    one, zero = np.float32(1), np.uint8(0)
    y = call(
        "QLinearConv", x, one, zero, np.array([[[1]]], np.int8), one, np.int8(0), np.float32(2),
        np.int8(-3),
    )  # fmt: skip
    assert y.dtype == np.int8
    np.testing.assert_array_equal(y, [[[-3, -1, -1, 122, -3]]])


def test_matmul_integer_with_zero_points_per_row_and_column() -> None:
    a, b = integers(np.uint8, 2, 3, 4), integers(np.int8, 4, 5, seed=1)
    rows, columns = integers(np.uint8, 2, 3, 1, seed=2), integers(np.int8, 5, seed=3)
    result = call("MatMulInteger", a, b, rows, columns)
    expected = (a.astype(object) - rows) @ (b.astype(object) - columns)
    assert (result.shape, result.dtype) == ((2, 3, 5), np.int32)
    np.testing.assert_array_equal(result, expected)
    vector = integers(np.uint8, 3, seed=4)
    expected = (a[0].astype(object) - vector[:, None].astype(object)) @ b.astype(object)
    np.testing.assert_array_equal(call("MatMulInteger", a[0], b, vector), expected)
    np.testing.assert_array_equal(call("MatMulInteger", a, b), a.astype(object) @ b.astype(object))


@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul_gives_onnxruntimes_bits(per_column: bool) -> None:
    a, b = integers(np.uint8, 6, 11), integers(np.int8, 11, 5, seed=1)
    count = (5,) if per_column else ()
    b_scale = np.random.default_rng(2).uniform(0.005, 0.02, count).astype(np.float32)
    inputs = (
        *(a, np.float32(0.02), np.uint8(120), b, b_scale, np.zeros(count, np.int8)),
        *(np.float32(0.05), np.uint8(128)),
    )
    result = call("QLinearMatMul", *inputs)
    expected = call_onnxruntime("QLinearMatMul", *inputs, opset=10)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result, expected)
