"""Comparison, boolean and bitwise logic, and selection, element by element.

Definitions follow the ONNX operator specification.
"""

from __future__ import annotations

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.arguments import one_of
from minseg.ops.registry import Trait, operator
from minseg.ops.types import broadcast, broadcast_bool, broadcast_shapes, same


@operator("Equal", since=7, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.equal(a, b)


@operator("Greater", since=7, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def greater(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.greater(a, b)


@operator("GreaterOrEqual", since=12, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def greater_or_equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.greater_equal(a, b)


@operator("Less", since=7, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def less(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.less(a, b)


@operator("LessOrEqual", since=12, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def less_or_equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.less_equal(a, b)


@operator("And", since=7, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def and_(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.logical_and(a, b)


@operator("Or", since=7, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def or_(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.logical_or(a, b)


@operator("Xor", since=7, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def xor(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.logical_xor(a, b)


@operator("Not", infer=same, traits=Trait.ELEMENTWISE)
def not_(x: np.ndarray) -> np.ndarray:
    return np.logical_not(x)


@operator("BitwiseAnd", since=18, infer=broadcast, traits=Trait.ELEMENTWISE)
def bitwise_and(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_and(a, b)


@operator("BitwiseOr", since=18, infer=broadcast, traits=Trait.ELEMENTWISE)
def bitwise_or(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_or(a, b)


@operator("BitwiseXor", since=18, infer=broadcast, traits=Trait.ELEMENTWISE)
def bitwise_xor(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_xor(a, b)


@operator("BitwiseNot", since=18, infer=same, traits=Trait.ELEMENTWISE)
def bitwise_not(x: np.ndarray) -> np.ndarray:
    return np.bitwise_not(x)


@operator(
    "BitShift",
    since=11,
    infer=broadcast,
    check=one_of("direction", "LEFT", "RIGHT"),
    traits=Trait.ELEMENTWISE,
)
def bit_shift(x: np.ndarray, y: np.ndarray, *, direction: str) -> np.ndarray:
    """Shifts by the width of the type or more, and negative ones, leave the sign alone."""
    return np.left_shift(x, y) if direction == "LEFT" else np.right_shift(x, y)


@operator("IsNaN", since=9, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def is_nan(x: np.ndarray) -> np.ndarray:
    return np.isnan(x)


@operator("IsInf", since=10, infer=broadcast_bool, traits=Trait.ELEMENTWISE)
def is_inf(x: np.ndarray, *, detect_negative: int = 1, detect_positive: int = 1) -> np.ndarray:
    """Infinities of the signs asked for."""
    wanted = np.where(np.signbit(x), bool(detect_negative), bool(detect_positive))
    return np.isinf(x) & wanted


def _infer_where(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    return TensorType(x.dtype, broadcast_shapes(condition.shape, x.shape, y.shape))


@operator("Where", since=9, infer=_infer_where, traits=Trait.ELEMENTWISE)
def where(condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(condition, x, y)
