"""Element types: ONNX's numbers for them, and the wider type that operators compute in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from minseg.graph.model import Node

#: TensorProto.DataType, by its numbers; strings are NumPy objects of type str.
_BY_CODE: dict[int, np.dtype] = {
    code: np.dtype(dtype)
    for code, dtype in {
        1: np.float32,
        2: np.uint8,
        3: np.int8,
        4: np.uint16,
        5: np.int16,
        6: np.int32,
        7: np.int64,
        8: object,
        9: bool,
        10: np.float16,
        11: np.float64,
        12: np.uint32,
        13: np.uint64,
        14: np.complex64,
        15: np.complex128,
        16: ml_dtypes.bfloat16,
        17: ml_dtypes.float8_e4m3fn,
        18: ml_dtypes.float8_e4m3fnuz,
        19: ml_dtypes.float8_e5m2,
        20: ml_dtypes.float8_e5m2fnuz,
        21: ml_dtypes.uint4,
        22: ml_dtypes.int4,
        23: ml_dtypes.float4_e2m1fn,
        24: ml_dtypes.float8_e8m0fnu,
        25: ml_dtypes.uint2,
        26: ml_dtypes.int2,
        27: ml_dtypes.float6_e2m3fn,
        28: ml_dtypes.float6_e3m2fn,
    }.items()
}

E8M0 = _BY_CODE[24]
FLOAT8 = frozenset(_BY_CODE[code] for code in (17, 18, 19, 20))
_SMALL_INTEGERS = frozenset(_BY_CODE[code] for code in (21, 22, 25, 26))
_SMALL_FLOATS = FLOAT8 | {E8M0} | {_BY_CODE[code] for code in (16, 23, 27, 28)}


def dtype_of(code: int) -> np.dtype:
    """The dtype that ONNX numbers ``code`` (TensorProto.DataType). Raises ValueError."""
    try:
        return _BY_CODE[code]
    except KeyError:
        raise ValueError(f"{code} is not the number of an ONNX element type") from None


def element_types(*attributes: str) -> Callable[[Node], str | None]:
    """A registry check: each of ``attributes``, where given, is the number of a type, or 0."""

    def check(node: Node) -> str | None:
        for name in attributes:
            code = node.attributes.get(name, 0)
            if not isinstance(code, int) or code not in {0, *_BY_CODE}:
                return f"{name} {code!r} is not the number of an ONNX element type"
        return None

    return check


def is_integer(dtype: np.dtype) -> bool:
    """Whether ``dtype`` is an integer type, those below one byte included; bool is none."""
    return dtype.kind in "iu" or dtype in _SMALL_INTEGERS


def is_floating(dtype: np.dtype) -> bool:
    """Whether ``dtype`` is a floating-point type, those that NumPy lacks included."""
    return dtype.kind == "f" or dtype in _SMALL_FLOATS


def limits(dtype: np.dtype) -> tuple[float, float]:
    """The least and the largest finite value of an integer or floating-point type."""
    describe = ml_dtypes.iinfo if is_integer(dtype) else ml_dtypes.finfo
    info: Any = describe(dtype)
    return float(info.min), float(info.max)


def unpacked(x: np.ndarray) -> np.ndarray:
    """``x`` in a type of NumPy's own that holds all its values: int8, float32 or unchanged."""
    if x.dtype in _SMALL_INTEGERS:
        return x.astype(np.int8)
    return x.astype(np.float32) if x.dtype in _SMALL_FLOATS else x


def widened(x: np.ndarray) -> np.ndarray:
    """Floating-point ``x`` in float64, anything else unchanged: what sums accumulate in."""
    return x.astype(np.float64) if is_floating(x.dtype) else x


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute ``function`` in float64 and give the result the dtype of the first argument."""

    @functools.wraps(function)
    def run(x: np.ndarray, *others: np.ndarray, **attributes: Any) -> np.ndarray:
        wide = [a.astype(np.float64) for a in (x, *others)]
        return np.asarray(function(*wide, **attributes)).astype(x.dtype)

    return run
