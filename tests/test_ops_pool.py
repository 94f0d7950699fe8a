"""Pools against loops over pixels, PyTorch and onnxruntime."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import oracles
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from operator_calls import call, call_onnxruntime

import minseg
from minseg.errors import ModelError
from minseg.graph.model import Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.infer import infer_node

EPS = np.finfo(np.float32).eps


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(result: np.ndarray, expected: np.ndarray) -> None:
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result, expected)


def close(result: np.ndarray, expected: np.ndarray) -> None:
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(result, expected, rtol=EPS, atol=1e-12)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[np.ndarray, list[int], dict[str, Any]]:
    """An input, a kernel and a layout in which every window meets at least one element."""
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=rank, max_size=rank))

    kernel, strides, dilations = each(1, 3), each(1, 3), each(1, 2)
    begin, end = each(0, 2), each(0, 2)
    spatial = each(1, 6)
    for k, d, b, e, s in zip(kernel, dilations, begin, end, spatial, strict=True):
        assume((k - 1) * d + 1 <= s + b + e)
    x = normal(
        draw(st.integers(1, 2)), draw(st.integers(1, 2)), *spatial, seed=draw(st.integers(0, 9))
    )
    layout = {"strides": strides, "dilations": dilations, "pads": begin + end}
    layout["ceil_mode"] = draw(st.integers(0, 1))
    assume(np.isfinite(oracles_count(x, kernel, layout)).all())
    return x, kernel, layout


def oracles_count(x: np.ndarray, kernel: list[int], layout: dict[str, Any]) -> np.ndarray:
    """How many elements of ``x`` each window meets, NaN for none."""
    counts = oracles.lp_pool(np.ones_like(x), kernel, **layout, p=1)
    return np.where(counts > 0, counts, np.nan)


@given(layouts())
def test_max_pool(case: Any) -> None:
    x, kernel, layout = case
    expected, indices = oracles.max_pool(x, kernel, **layout)
    y, where = call("MaxPool", x, outputs=2, kernel_shape=kernel, **layout)
    same(y, expected)
    same(where, indices)
    same(call("MaxPool", x, kernel_shape=kernel, **layout), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.float16, np.float64, ml_dtypes.bfloat16])
def test_max_pool_of_other_types(dtype: Any) -> None:
    x = (np.random.default_rng(0).integers(0, 200, (1, 2, 5, 6)) - 100).astype(dtype)
    layout: dict[str, Any] = {"strides": (2, 1), "pads": (1, 0, 1, 1)}
    expected, indices = oracles.max_pool(x, (3, 2), **layout)
    y, where = call("MaxPool", x, outputs=2, kernel_shape=(3, 2), **layout)
    same(y, expected)
    same(where, indices)


def test_of_equal_elements_the_first_has_the_index() -> None:
    x = np.zeros((1, 1, 3, 3), np.float32)
    _, where = call("MaxPool", x, outputs=2, kernel_shape=(2, 2), pads=(1, 1, 0, 0))
    np.testing.assert_array_equal(where[0, 0], [[0, 0, 1], [0, 0, 1], [3, 3, 4]])


def test_minus_infinity_is_a_number_and_not_padding() -> None:
    x = np.full((1, 1, 2), -np.inf, np.float32)
    y, where = call("MaxPool", x, outputs=2, kernel_shape=(2,), pads=(1, 1))
    same(y, np.full((1, 1, 3), -np.inf, np.float32))
    same(where, np.array([[[0, 0, 1]]]))


def test_storage_order_counts_columns_first() -> None:
    x = normal(2, 3, 4, 5)
    _, rows = call("MaxPool", x, outputs=2, kernel_shape=(2, 2))
    _, columns = call("MaxPool", x, outputs=2, kernel_shape=(2, 2), storage_order=1)
    n, c, h, w = np.unravel_index(rows, x.shape)
    same(columns, (n * 3 + c) * 20 + w * 4 + h)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("outputs", [1, 2])
def test_nan_comes_out_of_max_pool(at: int, outputs: int) -> None:
    x = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    x[..., at] = np.nan
    results = call("MaxPool", x, outputs=outputs, kernel_shape=(3,))
    y = results[0] if outputs == 2 else results
    holds = [at in range(o, o + 3) for o in range(3)]
    np.testing.assert_array_equal(np.isnan(y[0, 0]), holds)
    if outputs == 2:
        np.testing.assert_array_equal(results[1][0, 0][holds], at)
    assert np.isnan(call("GlobalMaxPool", x)).all()


@given(layouts(), st.booleans())
def test_average_pool(case: Any, include: bool) -> None:
    x, kernel, layout = case
    expected = oracles.average_pool(x, kernel, **layout, count_include_pad=include)
    close(
        call("AveragePool", x, kernel_shape=kernel, count_include_pad=int(include), **layout),
        expected,
    )


@given(layouts(), st.sampled_from([1, 2, 3]))
def test_lp_pool(case: Any, p: int) -> None:
    x, kernel, layout = case
    close(
        call("LpPool", x, kernel_shape=kernel, p=p, **layout),
        oracles.lp_pool(x, kernel, **layout, p=p),
    )


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("size", range(4, 11))
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("opset", [10, 18, 22])
def test_ceil_mode_is_onnxruntimes_and_pytorchs(
    include: int, size: int, stride: int, opset: int
) -> None:
    torch = pytest.importorskip("torch")
    x = normal(1, 2, size, size)
    layout: dict[str, Any] = {
        "kernel_shape": (3, 3),
        "strides": (stride, stride),
        "pads": (1, 1, 1, 1),
        "ceil_mode": 1,
    }
    result = call("AveragePool", x, opset=opset, count_include_pad=include, **layout)
    expected = call_onnxruntime("AveragePool", x, opset=opset, count_include_pad=include, **layout)
    by_torch = torch.nn.functional.avg_pool2d(
        torch.from_numpy(x), 3, stride, 1, ceil_mode=True, count_include_pad=bool(include)
    ).numpy()
    assert result.shape == expected.shape == by_torch.shape
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result, by_torch, rtol=1e-5, atol=1e-6)
    same(
        call("MaxPool", x, opset=opset, **layout),
        call_onnxruntime("MaxPool", x, opset=opset, **layout),
    )


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 6])
def test_auto_pad(op: str, auto_pad: str, stride: int, size: int) -> None:
    x = normal(1, 2, size, 7)
    layout: dict[str, Any] = {"kernel_shape": (3, 2), "strides": (stride, 2), "auto_pad": auto_pad}
    result = call(op, x, **layout)
    expected = call_onnxruntime(op, x, opset=11, **layout)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
@pytest.mark.parametrize(
    ("size", "stride"), [((9, 10), (2, 3)), ((8, 10), (3, 2)), ((7, 8), (2, 2))]
)
def test_valid_windows_never_stick_out(
    op: str, size: tuple[int, int], stride: tuple[int, int], backend: Any
) -> None:
    """ceil((size - kernel + 1) / stride), the specification's size under VALID, has no window
    beyond the input; onnxruntime's ceil_mode has, so it is asked without."""
    x = normal(1, 2, *size)
    layout: dict[str, Any] = {"kernel_shape": (3, 3), "strides": stride, "auto_pad": "VALID"}
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], ceil_mode=1, **layout)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    (result,) = minseg.load(model, backend=backend).run(None, {"x": x})
    sizes = [math.ceil((n - 3 + 1) / s) for n, s in zip(size, stride, strict=True)]
    assert result.shape == (1, 2, *sizes)
    expected = call_onnxruntime(op, x, opset=11, **layout)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 2, 2)])
def test_global_pools(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    flat = x.reshape(*shape[:2], -1).astype(np.float64)
    to = (*shape[:2], *(1,) * (len(shape) - 2))
    close(call("GlobalAveragePool", x), flat.mean(-1).reshape(to))
    same(call("GlobalMaxPool", x), flat.max(-1).reshape(to).astype(np.float32))
    for p in (1, 2, 3):
        norm = (abs(flat) ** p).sum(-1) ** (1 / p)
        close(call("GlobalLpPool", x, p=p), norm.reshape(to))


def test_sums_of_half_precision_are_wide() -> None:
    x = np.full((1, 1, 200, 200), 60.0, np.float16)
    assert call("GlobalAveragePool", x).item() == 60
    assert call("AveragePool", x, kernel_shape=(200, 200)).item() == 60


@given(st.integers(1, 3), st.integers(1, 3), st.integers(2, 7))
def test_max_unpool_puts_back_what_max_pool_took(kernel: int, stride: int, size: int) -> None:
    assume(kernel <= min(stride, size))
    x = normal(2, 2, size)
    layout: dict[str, Any] = {"kernel_shape": (kernel,), "strides": (stride,)}
    y, where = call("MaxPool", x, outputs=2, **layout)
    implied = (y.shape[-1] - 1) * stride + kernel
    n, c, i = np.unravel_index(where, x.shape)
    inside = (n * 2 + c) * implied + i
    expected = np.zeros((2, 2, implied), np.float32)
    expected[n, c, i] = y
    same(call("MaxUnpool", y, inside, **layout), expected)
    whole = call("MaxUnpool", y, inside, np.array([2, 2, implied + 1]), **layout)
    same(whole, np.pad(expected, ((0, 0), (0, 0), (0, 1))))


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"kernel_shape": (3,)}, "1 axes"),
        ({"kernel_shape": (9, 2)}, "does not fit"),
        ({"kernel_shape": (2, 2), "strides": (1, 0)}, "strides"),
        ({"kernel_shape": (2, 2), "pads": (0, 0)}, "pads"),
        ({"kernel_shape": (0, 2)}, "kernel_shape"),
        ({"kernel_shape": (2**31, 2**31), "pads": (2**31,) * 4}, "larger than minseg allows"),
    ],
)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_contradictions_are_named(op: str, attributes: Any, said: str) -> None:
    node = Node("pool", op, ("x",), ("y",), attributes, opset=22)
    with pytest.raises(ModelError, match=said):
        run_node(node, [normal(1, 1, 4, 4)], {})
    with pytest.raises(ModelError, match=said):
        infer_node(node, {"x": TensorType(np.dtype(np.float32), (1, 1, 4, 4))})
