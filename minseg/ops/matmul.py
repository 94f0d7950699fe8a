"""Matrix products. Floating-point sums are float64 and cast back; integers wrap, as in NumPy."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.dtypes import widened
from minseg.ops.registry import Trait, operator
from minseg.ops.types import broadcast_dims, broadcast_shapes, check_fit


def matmul_shape(a: tuple[Dim, ...] | None, b: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    """The shape of numpy.matmul's result, as far as it is known. Raises ValueError."""
    if a is None or b is None:
        return None
    if not a or not b:
        raise ValueError("a matrix product needs operands of at least one axis")
    inner_a, inner_b = a[-1], b[-2] if len(b) > 1 else b[0]
    if isinstance(inner_a, int) and isinstance(inner_b, int) and inner_a != inner_b:
        raise ValueError(f"shapes {list(a)} and {list(b)} do not fit a matrix product")
    batch = broadcast_shapes(a[:-2], b[:-2])
    return (*(batch or ()), *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def _infer_matmul(a: TensorType, b: TensorType) -> TensorType:
    return TensorType(a.dtype, matmul_shape(a.shape, b.shape))


@operator("MatMul", infer=_infer_matmul, traits=Trait.WEIGHTED)
def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of matrices in the last two axes, as numpy.matmul."""
    return np.asarray(np.matmul(widened(a), widened(b))).astype(a.dtype)


def _infer_gemm(
    a: TensorType,
    b: TensorType,
    c: TensorType | None = None,
    *,
    transA: int = 0,
    transB: int = 0,
    **_: Any,
) -> TensorType:
    shape = gemm_shape(a.shape, b.shape, transA, transB)
    check_fit(shape, C=c)
    return TensorType(a.dtype, shape)


def gemm_shape(
    a: tuple[Dim, ...] | None, b: tuple[Dim, ...] | None, transA: int, transB: int
) -> tuple[Dim, Dim]:
    """The shape of ``A' @ B'``, as far as it is known, of matrices. Raises ValueError."""
    for name, shape in (("A", a), ("B", b)):
        if shape is not None and len(shape) != 2:
            raise ValueError(f"{name} has shape {list(shape)}; it must be a matrix")
    if a is None or b is None:
        return None, None
    left, right = a[:: -1 if transA else 1], b[:: -1 if transB else 1]
    rows, columns = matmul_shape(left, right) or (None, None)
    return rows, columns


@operator("Gemm", since=7, infer=_infer_gemm, traits=Trait.WEIGHTED)
def gemm(
    a: np.ndarray,
    b: np.ndarray,
    c: np.ndarray | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> np.ndarray:
    """``alpha * A' @ B' + beta * C``, where ' transposes if the attribute says so."""
    y = widened(a.T if transA else a) @ widened(b.T if transB else b)
    if alpha != 1:
        y = alpha * y
    if c is not None:
        y = y + (widened(c) if beta == 1 else beta * widened(c))
    return y.astype(a.dtype)


def _infer_einsum(*inputs: TensorType, equation: str) -> TensorType:
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(inputs):
        raise ValueError(f"equation '{equation}' has {len(terms)} terms for {len(inputs)} inputs")
    if not arrow:
        counts = Counter(re.sub(r"[.,]", "", left))
        right = "..." * ("..." in left) + "".join(sorted(c for c, n in counts.items() if n == 1))
    sizes: dict[str, Dim] = {}
    dots: tuple[Dim, ...] | None = ()
    for term, x in zip(terms, inputs, strict=True):
        if x.shape is None:
            dots = None if "..." in term else dots
            continue
        before, ellipsis, after = term.partition("...")
        hidden = len(x.shape) - len(before) - len(after)
        if hidden < 0 or (hidden and not ellipsis):
            raise ValueError(f"term '{term}' of the equation does not fit shape {list(x.shape)}")
        middle = len(before) + hidden
        named = zip(before + after, x.shape[: len(before)] + x.shape[middle:], strict=True)
        for letter, size in named:
            sizes[letter] = broadcast_dims(sizes.get(letter, 1), size)
        if dots is not None and ellipsis:
            dots = broadcast_shapes(dots, x.shape[len(before) : middle])
    before, ellipsis, after = right.partition("...")
    if ellipsis and dots is None:
        return TensorType(inputs[0].dtype)
    shape = (
        *(sizes.get(c) for c in before),
        *((dots or ()) if ellipsis else ()),
        *(sizes.get(c) for c in after),
    )
    return TensorType(inputs[0].dtype, shape)


@operator("Einsum", since=12, infer=_infer_einsum)
def einsum(*inputs: np.ndarray, equation: str) -> np.ndarray:
    """Einstein's summation convention, as numpy.einsum reads it."""
    result = np.einsum(equation, *(widened(x) for x in inputs), optimize=len(inputs) > 1)
    return np.asarray(result).astype(inputs[0].dtype)
