"""Cast and CastLike between all element types of ONNX.

The tables of special values (infinity, NaN, out of range) are those of the ONNX specification
of Cast. What it leaves undefined, out-of-range floats to integers, is whatever NumPy does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minseg.graph.model import Node, TensorType
from minseg.ops.arguments import one_of
from minseg.ops.dtypes import (
    E8M0,
    FLOAT8,
    dtype_of,
    element_types,
    is_floating,
    is_integer,
    limits,
    unpacked,
)
from minseg.ops.registry import Trait, operator

_known_type = element_types("to")
_known_rounding = one_of("round_mode", "up", "down", "nearest")

#: The exponents that float8e8m0 can hold: its values are powers of two, and NaN.
_E8M0_EXPONENTS = (-127, 127)


def cast_to(
    x: np.ndarray, dtype: np.dtype, *, saturate: bool = True, round_mode: str = "up"
) -> np.ndarray:
    """``x`` in ``dtype``; ``saturate`` and ``round_mode`` matter to the 8-bit floats alone."""
    if dtype == x.dtype:
        return x.copy()
    if x.dtype.kind in "OU":
        x = _from_strings(x, dtype)
    x = unpacked(x)
    if dtype.kind == "O":
        return _to_strings(x)
    if dtype == E8M0:
        return _to_powers_of_two(x.astype(np.float64), saturate, round_mode)
    if dtype in FLOAT8 and saturate:
        x = np.clip(x.astype(np.float64), *limits(dtype))
    return x.astype(dtype)


def _from_strings(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if is_integer(dtype):
        return np.array([_integer(s) for s in x.flat], object).reshape(x.shape).astype(np.int64)
    return np.array([float(s) for s in x.flat], np.float64).reshape(x.shape)


def _integer(literal: str) -> int:
    try:
        return int(literal)
    except ValueError:
        return int(float(literal))


def _to_strings(x: np.ndarray) -> np.ndarray:
    return np.array([_literal(v) for v in x.flat], object).reshape(x.shape)


def _literal(value: Any) -> str:
    if not is_floating(value.dtype):
        return str(int(value))
    if not np.isfinite(value):
        return "NaN" if np.isnan(value) else "INF" if value > 0 else "-INF"
    return np.format_float_positional(value, trim="-")


def _to_powers_of_two(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """float8e8m0 of the OCP Microscaling Formats specification; it has no sign."""
    fraction, above = np.frexp(np.abs(x))  # |x| = fraction * 2**above, fraction in [0.5, 1)
    least = {"down": 1.0, "nearest": 0.75, "up": np.nextafter(0.5, 1)}[round_mode]
    exponent = np.where(fraction >= least, above, above - 1).astype(np.float64)
    exponent[x == 0] = -np.inf
    exponent[np.isinf(x)] = np.inf
    low, high = _E8M0_EXPONENTS
    lost = np.isnan(x) | ~(saturate | ((exponent >= low) & (exponent <= high)))
    powers = np.exp2(np.clip(exponent, low, high))
    return np.where(lost, np.nan, powers).astype(np.float32).astype(E8M0)


def _check_cast(node: Node) -> str | None:
    return _known_type(node) or _known_rounding(node)


def _infer_cast(x: TensorType, *, to: int, saturate: int = 1, round_mode: str = "up") -> TensorType:
    return TensorType(dtype_of(to), x.shape)


@operator("Cast", since=6, infer=_infer_cast, check=_check_cast, traits=Trait.ELEMENTWISE)
def cast(x: np.ndarray, *, to: int, saturate: int = 1, round_mode: str = "up") -> np.ndarray:
    """Opset 19 added ``saturate``, 24 ``round_mode``, with defaults that change nothing."""
    return cast_to(x, dtype_of(to), saturate=bool(saturate), round_mode=round_mode)


def _infer_cast_like(
    x: TensorType, target: TensorType, *, saturate: int = 1, round_mode: str = "up"
) -> TensorType:
    return TensorType(target.dtype, x.shape)


@operator("CastLike", since=15, infer=_infer_cast_like, check=_known_rounding)
def cast_like(
    x: np.ndarray, target: np.ndarray, *, saturate: int = 1, round_mode: str = "up"
) -> np.ndarray:
    return cast_to(x, target.dtype, saturate=bool(saturate), round_mode=round_mode)
