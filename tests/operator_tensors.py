"""Arrays and types that operators which only move elements are tested with."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from minseg.graph.model import Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.infer import infer_node

FLOAT32, INT64 = np.dtype(np.float32), np.dtype(np.int64)
ODD_DTYPES = [object, bool, np.complex64, ml_dtypes.bfloat16, ml_dtypes.int4, np.float16]


def counted(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    """Different numbers in every place, as far as ``dtype`` can tell them apart."""
    numbers = np.arange(math.prod(shape))
    if dtype is object:
        return np.array([str(n) for n in numbers], object).reshape(shape)
    return (numbers % 7 if dtype == ml_dtypes.int4 else numbers).astype(dtype).reshape(shape)


def same(result: np.ndarray, expected: np.ndarray) -> None:
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result, expected)


def node(op: str, inputs: int, opset: int = 28, outputs: int = 1, **attributes: Any) -> Node:
    names = tuple(f"x{i}" for i in range(inputs))
    return Node(op, op, names, tuple(f"y{i}" for i in range(outputs)), attributes, "", opset)


def run(op: str, *inputs: Any, **attributes: Any) -> tuple[np.ndarray, ...]:
    """The outputs, of an operator whose output sizes follow from the values of its inputs.

    Asserts that the inputs stay as they are and that the types inferred without their values do
    not contradict the outputs.
    """
    arrays = [np.asarray(x) for x in inputs]
    before = [x.copy() for x in arrays]
    call = node(op, len(arrays), **attributes)
    results = run_node(call, arrays, {})
    for array, copy in zip(arrays, before, strict=True):
        same(array, copy)
    types = {f"x{i}": TensorType(x.dtype, x.shape) for i, x in enumerate(arrays)}
    for inferred_type, result in zip(infer_node(call, types), results, strict=False):
        assert inferred_type.dtype == result.dtype
        assert inferred_type.shape is not None
        assert len(inferred_type.shape) == result.ndim
        for dim, size in zip(inferred_type.shape, result.shape, strict=True):
            assert dim in (None, size)
    return results


def inferred(op: str, *types: TensorType, **attributes: Any) -> TensorType:
    """The type of the first output of an operator whose inputs have ``types``."""
    named = {f"x{i}": t for i, t in enumerate(types)}
    return infer_node(node(op, len(types), **attributes), named)[0]


def of_shape(*dims: Any) -> TensorType:
    return TensorType(FLOAT32, dims)


def known(*integers: int) -> TensorType:
    return TensorType.of(np.array(integers, np.int64))


def refusal_types(inputs: tuple[Any, ...]) -> list[TensorType]:
    """Types of ``inputs``, of which all but the first carry their values."""
    first, *rest = (np.asarray(x) for x in inputs)
    return [TensorType(first.dtype, first.shape), *map(TensorType.of, rest)]
