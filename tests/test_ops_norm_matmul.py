"""Normalizations and matrix products, against loops and formulas in float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from operator_calls import call, call_onnxruntime

from minseg.errors import ModelError
from minseg.graph.model import Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.infer import infer_node
from minseg.ops.registry import lookup

SHAPES = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(result: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for one rounding to float32, of numbers around 1."""
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(result, expected, rtol=2e-7, atol=1e-7)


def standardized(values: np.ndarray, epsilon: float) -> np.ndarray:
    """A vector with its mean and its variance taken out, in float64."""
    v = values.astype(np.float64)
    mean = sum(v) / len(v)
    return (v - mean) / np.sqrt(sum((v - mean) ** 2) / len(v) + epsilon)


# Normalizations


@given(SHAPES, st.sampled_from([7, 9, 15]))
def test_batch_normalization(shape: tuple[int, ...], opset: int) -> None:
    x = normal(*shape)
    scale, b, mean = (normal(shape[1], seed=s) for s in (1, 2, 3))
    var = normal(shape[1], seed=4) ** 2
    expected = np.empty(shape)
    for c in range(shape[1]):
        deviation = x[:, c].astype(np.float64) - mean[c]
        expected[:, c] = deviation / np.sqrt(float(var[c]) + 1e-3) * scale[c] + b[c]
    result = call("BatchNormalization", x, scale, b, mean, var, opset=opset, epsilon=1e-3)
    assert (result.shape, result.dtype) == (shape, np.float32)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)


def test_batch_normalization_of_every_element() -> None:
    x = normal(3, 2, 4)
    scale, b, mean, var = (abs(normal(2, 4, seed=s)) for s in range(4))
    result = call("BatchNormalization", x, scale, b, mean, var, opset=7, spatial=0)
    expected = (x.astype(np.float64) - mean) / np.sqrt(var + 1e-5) * scale + b
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_batch_normalization_in_training() -> None:
    x = normal(3, 2, 4)
    scale, b, mean = (normal(2, seed=s) for s in (1, 2, 3))
    var = normal(2, seed=4) ** 2
    y, new_mean, new_var = call(
        "BatchNormalization", x, scale, b, mean, var, outputs=3, training_mode=1, momentum=0.75
    )
    for c in range(2):
        values = x[:, c].ravel().astype(np.float64)
        expected = standardized(values, 1e-5) * scale[c] + b[c]
        np.testing.assert_allclose(y[:, c].ravel(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(new_mean[c], 0.75 * mean[c] + 0.25 * values.mean(), rtol=1e-6)
        np.testing.assert_allclose(new_var[c], 0.75 * var[c] + 0.25 * values.var(), rtol=1e-6)


def test_training_of_old_opsets_is_refused() -> None:
    node = Node("n", "BatchNormalization", tuple("xsbmv"), ("y", "mean"), {}, opset=9)
    operator = lookup("", "BatchNormalization", 9)
    assert operator is not None
    assert operator.check is not None
    assert operator.check(node) == "minseg does not train"


@given(SHAPES.filter(lambda s: len(s) > 2))
def test_instance_normalization(shape: tuple[int, ...]) -> None:
    x, scale, b = normal(*shape), normal(shape[1], seed=1), normal(shape[1], seed=2)
    expected = np.empty(shape)
    for n, c in np.ndindex(*shape[:2]):
        one = standardized(x[n, c].ravel(), 1e-5) * scale[c] + b[c]
        expected[n, c] = one.reshape(shape[2:])
    close(call("InstanceNormalization", x, scale, b), expected)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([18, 21]))
def test_group_normalization(batch: int, groups: int, members: int, opset: int) -> None:
    x = normal(batch, groups * members, 3, 2)
    count = groups if opset == 18 else groups * members
    scale, bias = normal(count, seed=1), normal(count, seed=2)
    expected = np.empty(x.shape)
    for n, g in np.ndindex(batch, groups):
        channels = slice(g * members, (g + 1) * members)
        flat = standardized(x[n, channels].ravel(), 1e-5).reshape(members, 3, 2)
        for m in range(members):
            at = g if opset == 18 else g * members + m
            expected[n, g * members + m] = flat[m] * scale[at] + bias[at]
    close(call("GroupNormalization", x, scale, bias, num_groups=groups, opset=opset), expected)


@given(SHAPES, st.data(), st.booleans())
def test_layer_normalization(shape: tuple[int, ...], data: st.DataObject, has_bias: bool) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = normal(*shape)
    outer, inner = shape[: axis % len(shape)], shape[axis % len(shape) :]
    scale, b = normal(*inner, seed=1), normal(*inner, seed=2)
    inputs = (x, scale, b) if has_bias else (x, scale)
    y, mean, inverse = call("LayerNormalization", *inputs, outputs=3, axis=axis)
    expected = np.empty(shape)
    for place in np.ndindex(*outer):
        part = x[place].astype(np.float64)
        expected[place] = standardized(part.ravel(), 1e-5).reshape(inner) * scale
        expected[place] += b if has_bias else 0
        np.testing.assert_allclose(mean[place].item(), part.mean(), rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(inverse[place].item(), (part.var() + 1e-5) ** -0.5, rtol=1e-6)
    close(y, expected)
    assert mean.shape == inverse.shape == outer + (1,) * len(inner)


@pytest.mark.parametrize(("stash_type", "dtype"), [(1, np.float32), (16, ml_dtypes.bfloat16)])
def test_layer_normalizations_moments_have_the_stash_type(stash_type: int, dtype: Any) -> None:
    x = normal(2, 8).astype(np.float16)
    y, mean, inverse = call(
        "LayerNormalization", x, np.ones(8, np.float16), outputs=3, stash_type=stash_type
    )
    assert y.dtype == np.float16
    assert mean.dtype == inverse.dtype == dtype


@given(SHAPES, st.data())
def test_rms_normalization(shape: tuple[int, ...], data: st.DataObject) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x, scale = normal(*shape), normal(*shape[axis % len(shape) :], seed=1)
    expected = np.empty(shape)
    for place in np.ndindex(*shape[: axis % len(shape)]):
        part = x[place].astype(np.float64)
        expected[place] = part / np.sqrt((part**2).sum() / part.size + 1e-5) * scale
    close(call("RMSNormalization", x, scale, axis=axis), expected)


@given(SHAPES, st.data(), st.sampled_from([1, 2]))
def test_lp_normalization(shape: tuple[int, ...], data: st.DataObject, p: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = normal(*shape)
    norm = sum(abs(part.astype(np.float64)) ** p for part in np.moveaxis(x, axis, 0)) ** (1 / p)
    close(call("LpNormalization", x, axis=axis, p=p), x / np.expand_dims(norm, axis))


def test_lp_normalization_of_nothing_is_zero() -> None:
    np.testing.assert_array_equal(call("LpNormalization", np.zeros((2, 3), np.float32)), 0)


@given(st.integers(1, 7), st.integers(1, 6))
def test_lrn(channels: int, size: int) -> None:
    x = normal(2, channels, 3)
    expected = np.empty(x.shape)
    for n, c, i in np.ndindex(*x.shape):
        region = range(max(0, c - (size - 1) // 2), min(channels - 1, c + size // 2) + 1)
        energy = sum(float(x[n, j, i]) ** 2 for j in region)
        expected[n, c, i] = x[n, c, i] / (2 + 0.3 / size * energy) ** 0.6
    close(call("LRN", x, size=size, alpha=0.3, beta=0.6, bias=2.0), expected)


@pytest.mark.parametrize("axes", [(0, 2, 3), (1,), (-1, 0)])
def test_mean_variance_normalization(axes: tuple[int, ...]) -> None:
    x = normal(3, 2, 4, 5)
    rows = np.moveaxis(x, axes, range(len(axes))).reshape(
        -1, x.size // np.prod([x.shape[a] for a in axes])
    )
    result = call("MeanVarianceNormalization", x, axes=axes)
    kept = np.moveaxis(result, axes, range(len(axes))).reshape(rows.shape)
    close(kept, np.stack([standardized(row, 0) for row in rows.T], 1))


@pytest.mark.parametrize(
    "op", ["InstanceNormalization", "GroupNormalization", "LayerNormalization"]
)
def test_variance_far_from_zero_is_exact(op: str) -> None:
    """Taken as mean of squares minus square of the mean, even in float64, it would be noise."""
    x = (1e5 + np.arange(4, dtype=np.float32) / 64).reshape(1, 1, 4)
    extra = {"num_groups": 1} if op == "GroupNormalization" else {}
    one = np.ones(4 if op == "LayerNormalization" else 1, np.float32)
    result = call(op, x, one, 0 * one, epsilon=0.0, **extra)
    result = result[0] if isinstance(result, tuple) else result
    np.testing.assert_allclose(result.ravel(), np.array([-3, -1, 1, 3]) / 5**0.5, rtol=1e-6)


# Matrix products


@given(st.data())
def test_matmul(data: st.DataObject) -> None:
    sizes = st.integers(1, 4)
    n, k, m = (data.draw(sizes) for _ in range(3))
    batch = data.draw(st.lists(sizes, max_size=2))
    thin = [data.draw(st.sampled_from([1, d])) for d in batch]
    a = normal(*batch, n, k) if data.draw(st.booleans()) else normal(k)
    b = normal(*thin, k, m, seed=1) if data.draw(st.booleans()) else normal(k, seed=1)
    left = a.astype(np.float64)[None] if a.ndim == 1 else a.astype(np.float64)
    right = b.astype(np.float64)[:, None] if b.ndim == 1 else b.astype(np.float64)
    expected = sum(left[..., :, i, None] * right[..., None, i, :] for i in range(k))
    expected = expected[..., 0, :] if a.ndim == 1 else expected
    expected = expected[..., 0] if b.ndim == 1 else expected
    close(call("MatMul", a, b), expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float16, ml_dtypes.bfloat16, np.float64])
def test_matmul_of_other_types(dtype: Any) -> None:
    a, b = np.arange(6).reshape(2, 3).astype(dtype), np.arange(6).reshape(3, 2).astype(dtype)
    result = call("MatMul", a, b)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result.astype(int), [[10, 13], [28, 40]])


def test_matmul_sums_are_wide() -> None:
    a = np.array([[1e8, 1, -1e8]], np.float32)
    assert call("MatMul", a, np.ones((3, 1), np.float32)).item() == 1
    assert call("Gemm", a, np.ones((3, 1), np.float32)).item() == 1
    assert call("Einsum", a, np.ones((3, 1), np.float32), equation="ij,jk->ik").item() == 1
    large = np.array([[2**53 + 1]], np.int64)
    assert call("MatMul", large, np.array([[1]], np.int64)).item() == 2**53 + 1
    assert call("Gemm", large, np.array([[1]], np.int64)).item() == 2**53 + 1


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c_shape", [None, (), (1,), (4,), (3, 1), (3, 4)])
def test_gemm(trans_a: int, trans_b: int, c_shape: tuple[int, ...] | None) -> None:
    a, b = normal(3, 5), normal(5, 4, seed=1)
    c = None if c_shape is None else normal(*c_shape, seed=2)
    expected = sum(0.5 * np.outer(a[:, i].astype(np.float64), b[i]) for i in range(5))
    expected = expected if c is None else expected + 0.25 * c.astype(np.float64)
    inputs = (a.T if trans_a else a, b.T if trans_b else b) + (() if c is None else (c,))
    close(call("Gemm", *inputs, alpha=0.5, beta=0.25, transA=trans_a, transB=trans_b), expected)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij->ji", [(2, 3)]),
        ("i,j->ij", [(2,), (3,)]),
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bij , bjk", [(2, 3, 4), (2, 4, 5)]),
        ("...ij,...jk->...ik", [(2, 1, 3, 4), (1, 5, 4, 2)]),
        ("...ij,jk", [(2, 3, 4), (4, 5)]),
        ("bhwc,hkc->bhwk", [(2, 3, 4, 5), (3, 6, 5)]),
        ("bA,Ac,cA->b", [(2, 3), (3, 4), (4, 3)]),
        ("ij->", [(2, 3)]),
        ("ii->i", [(3, 3)]),
    ],
)
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    result = call("Einsum", *inputs, equation=equation)
    expected = call_onnxruntime("Einsum", *inputs, opset=12, equation=equation)
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("MatMul", [(2, 3), (4, 2)], {}),
        ("MatMul", [(2, 3), ()], {}),
        ("MatMul", [(3, 2, 2), (2, 2, 2)], {}),
        ("Gemm", [(2, 3), (4, 3)], {}),
        ("Gemm", [(2, 3, 3), (3, 3)], {}),
        ("Einsum", [(2, 3), (4, 2)], {"equation": "ij,jk->ik"}),
        ("Einsum", [(2, 3)], {"equation": "ijk->k"}),
        ("Einsum", [(2, 3)], {"equation": "ij,jk->ik"}),
        ("LayerNormalization", [(2, 3), (3,)], {"axis": 2}),
        ("GroupNormalization", [(2, 3, 4), (3,), (3,)], {"num_groups": 2}),
        ("LpNormalization", [(2, 3)], {"p": 3}),
    ],
)
def test_contradictions_name_the_node(op: str, shapes: list[Any], attributes: Any) -> None:
    names = tuple(f"x{i}" for i in range(len(shapes)))
    node = Node("bad", op, names, ("y",), attributes, opset=21)
    with pytest.raises(ModelError, match="'bad'"):
        run_node(node, [normal(*shape) for shape in shapes], {})
    if op in ("MatMul", "Gemm", "Einsum"):
        types = {n: TensorType(np.dtype(np.float32), s) for n, s in zip(names, shapes, strict=True)}
        with pytest.raises(ModelError, match="'bad'"):
            infer_node(node, types)


def test_products_of_unknown_sizes() -> None:
    f = np.dtype(np.float32)
    types = {"a": TensorType(f, ("N", None, 3, 4)), "b": TensorType(f, (4, "K"))}
    (y,) = infer_node(Node("n", "MatMul", ("a", "b"), ("y",), opset=13), types)
    assert y.shape == ("N", None, 3, "K")
    types = {"a": TensorType(f, ("N", 4)), "b": TensorType(f, (7, 4))}
    (y,) = infer_node(Node("n", "Gemm", ("a", "b"), ("y",), {"transB": 1}, opset=13), types)
    assert y.shape == ("N", 7)
    einsum = Node("n", "Einsum", ("a", "b"), ("y",), {"equation": "...i,ji->...j"}, opset=12)
    (y,) = infer_node(einsum, types)
    assert y.shape == ("N", 7)
