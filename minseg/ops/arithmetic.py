"""Element-wise arithmetic, powers, rounding, trigonometry; and CumSum and Det.

Definitions follow the ONNX operator specification. Integers wrap around as in two's complement;
NaN propagates through everything, Min and Max included.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.arguments import scalar
from minseg.ops.dtypes import in_float64, is_integer, widened
from minseg.ops.registry import ACTIVATION, FUNCTION, Trait, operator
from minseg.ops.types import broadcast, check_singles, same

_FLOAT_MAX = float(np.finfo(np.float32).max)


@operator("Add", since=7, infer=broadcast, traits=FUNCTION | Trait.MIXES)
def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.add(a, b)


@operator("Sub", since=7, infer=broadcast, traits=FUNCTION)
def sub(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.subtract(a, b)


@operator("Mul", since=7, infer=broadcast, traits=FUNCTION)
def mul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.multiply(a, b)


@operator("Div", since=7, infer=broadcast, traits=FUNCTION)
def div(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integer quotients are truncated towards zero."""
    if is_integer(a.dtype):
        return np.floor_divide(a - np.fmod(a, b), b)
    return np.divide(a, b)


@operator("Pow", since=7, infer=broadcast, traits=FUNCTION)
def pow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The result has the base's dtype, whatever the exponent's is."""
    if is_integer(x.dtype) and is_integer(y.dtype) and (y >= 0).all():
        return np.power(x, y.astype(x.dtype))
    return np.power(x.astype(np.float64), y.astype(np.float64)).astype(x.dtype)


@operator("Mod", since=10, infer=broadcast, traits=FUNCTION)
def mod(a: np.ndarray, b: np.ndarray, *, fmod: int = 0) -> np.ndarray:
    """The remainder has the sign of ``b``, or of ``a`` with ``fmod``."""
    return np.fmod(a, b) if fmod else np.mod(a, b)


@operator("Neg", infer=same, traits=FUNCTION)
def neg(x: np.ndarray) -> np.ndarray:
    return np.negative(x)


@operator("Abs", infer=same, traits=FUNCTION | Trait.NON_NEGATIVE)
def abs(x: np.ndarray) -> np.ndarray:
    return np.abs(x)


@operator("Sign", since=9, infer=same, traits=FUNCTION)
def sign(x: np.ndarray) -> np.ndarray:
    return np.sign(x)


@operator("Sqrt", infer=same, traits=FUNCTION | Trait.NON_NEGATIVE)
def sqrt(x: np.ndarray) -> np.ndarray:
    return np.sqrt(x)


@operator("Reciprocal", infer=same, traits=FUNCTION)
def reciprocal(x: np.ndarray) -> np.ndarray:
    return np.reciprocal(x)


@operator("Exp", infer=same, traits=FUNCTION | Trait.NON_NEGATIVE)
def exp(x: np.ndarray) -> np.ndarray:
    return np.exp(x)


@operator("Log", infer=same, traits=FUNCTION)
def log(x: np.ndarray) -> np.ndarray:
    return np.log(x)


@operator("Floor", infer=same, traits=FUNCTION)
def floor(x: np.ndarray) -> np.ndarray:
    return np.floor(x)


@operator("Ceil", infer=same, traits=FUNCTION)
def ceil(x: np.ndarray) -> np.ndarray:
    return np.ceil(x)


@operator("Round", since=11, infer=same, traits=FUNCTION)
def round(x: np.ndarray) -> np.ndarray:
    """Halves go to the nearest even integer."""
    return np.rint(x)


@operator("Min", infer=broadcast, traits=FUNCTION)
def min(*data: np.ndarray) -> np.ndarray:
    return functools.reduce(np.minimum, data)


@operator("Max", infer=broadcast, traits=FUNCTION)
def max(*data: np.ndarray) -> np.ndarray:
    return functools.reduce(np.maximum, data)


@operator("Sum", infer=broadcast, traits=FUNCTION)
@in_float64
def sum(*data: np.ndarray) -> np.ndarray:
    return functools.reduce(np.add, data)


@operator("Mean", infer=broadcast, traits=FUNCTION)
@in_float64
def mean(*data: np.ndarray) -> np.ndarray:
    return functools.reduce(np.add, data) / len(data)


@operator("Clip", since=6, infer=same, traits=ACTIVATION | Trait.FUSED | Trait.CLAMP)
def clip_to_attributes(
    x: np.ndarray, *, min: float = -_FLOAT_MAX, max: float = _FLOAT_MAX
) -> np.ndarray:
    """The form before opset 11: limits are attributes, with defaults that also stop infinity."""
    return clip(x, np.asarray(min, x.dtype), np.asarray(max, x.dtype))


def _infer_clip(
    x: TensorType, min: TensorType | None = None, max: TensorType | None = None
) -> TensorType:
    check_singles(min=min, max=max)
    return same(x)


@operator("Clip", since=11, infer=_infer_clip, traits=ACTIVATION | Trait.FUSED | Trait.CLAMP)
def clip(x: np.ndarray, min: np.ndarray | None = None, max: np.ndarray | None = None) -> np.ndarray:
    """Min(max, Max(x, min)): where the limits cross, ``max`` wins; a missing one limits nothing."""
    if min is not None:
        x = np.maximum(x, scalar(min))
    return x if max is None else np.minimum(x, scalar(max))


@operator("Sin", since=7, infer=same, traits=FUNCTION)
def sin(x: np.ndarray) -> np.ndarray:
    return np.sin(x)


@operator("Cos", since=7, infer=same, traits=FUNCTION)
def cos(x: np.ndarray) -> np.ndarray:
    return np.cos(x)


@operator("Tan", since=7, infer=same, traits=FUNCTION)
def tan(x: np.ndarray) -> np.ndarray:
    return np.tan(x)


@operator("Asin", since=7, infer=same, traits=FUNCTION)
def asin(x: np.ndarray) -> np.ndarray:
    return np.arcsin(x)


@operator("Acos", since=7, infer=same, traits=FUNCTION)
def acos(x: np.ndarray) -> np.ndarray:
    return np.arccos(x)


@operator("Atan", since=7, infer=same, traits=FUNCTION)
def atan(x: np.ndarray) -> np.ndarray:
    return np.arctan(x)


@operator("Sinh", since=9, infer=same, traits=FUNCTION)
def sinh(x: np.ndarray) -> np.ndarray:
    return np.sinh(x)


@operator("Cosh", since=9, infer=same, traits=FUNCTION)
def cosh(x: np.ndarray) -> np.ndarray:
    return np.cosh(x)


@operator("Tanh", infer=same, traits=ACTIVATION)
def tanh(x: np.ndarray) -> np.ndarray:
    return np.tanh(x)


@operator("Asinh", since=9, infer=same, traits=FUNCTION)
def asinh(x: np.ndarray) -> np.ndarray:
    return np.arcsinh(x)


@operator("Acosh", since=9, infer=same, traits=FUNCTION)
def acosh(x: np.ndarray) -> np.ndarray:
    return np.arccosh(x)


@operator("Atanh", since=9, infer=same, traits=FUNCTION)
def atanh(x: np.ndarray) -> np.ndarray:
    return np.arctanh(x)


@operator("Erf", since=9, infer=same, traits=FUNCTION)
@in_float64
def erf(x: np.ndarray) -> np.ndarray:
    """NumPy has no error function, the C library has."""
    return np.fromiter(map(math.erf, x.flat), np.float64, x.size).reshape(x.shape)


def _infer_cum_sum(
    x: TensorType, axis: TensorType, *, exclusive: int = 0, reverse: int = 0
) -> TensorType:
    check_singles(axis=axis)
    return same(x)


@operator("CumSum", since=11, infer=_infer_cum_sum)
def cum_sum(x: np.ndarray, axis: np.ndarray, *, exclusive: int = 0, reverse: int = 0) -> np.ndarray:
    """Running sums along ``axis``, from its end with ``reverse``; ``exclusive`` starts at 0."""
    front = int(scalar(axis))
    along = np.moveaxis(widened(x), front, 0)
    if reverse:
        along = along[::-1]
    if exclusive:
        along = np.concatenate([np.zeros_like(along[:1]), along[:-1]])
    sums = np.cumsum(along, axis=0)
    if reverse:
        sums = sums[::-1]
    return np.moveaxis(sums, 0, front).astype(x.dtype)


def _infer_det(x: TensorType) -> TensorType:
    return TensorType(x.dtype, None if x.shape is None else x.shape[:-2])


@operator("Det", since=11, infer=_infer_det)
@in_float64
def det(x: np.ndarray) -> np.ndarray:
    """Determinants of square matrices: [*, M, M] to [*]."""
    return np.linalg.det(x)
