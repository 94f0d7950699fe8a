"""Between real numbers and small integers or floats: QuantizeLinear and its kin.

Definitions follow the ONNX operator specification.
"""

from __future__ import annotations

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import normalize_axis, product, with_size
from minseg.ops.cast import cast_to
from minseg.ops.dtypes import (
    E8M0,
    dtype_of,
    element_types,
    is_floating,
    is_integer,
    limits,
    unpacked,
)
from minseg.ops.registry import Trait, operator
from minseg.ops.types import check_shapes, check_singles_or_vectors, differ


def _infer_quantize_linear(
    x: TensorType,
    y_scale: TensorType,
    y_zero_point: TensorType | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
) -> TensorType:
    _check_grid(x.shape, axis, block_size, y_scale=y_scale, y_zero_point=y_zero_point)
    if y_zero_point is not None:
        return TensorType(y_zero_point.dtype, x.shape)
    return TensorType(dtype_of(output_dtype) if output_dtype else np.dtype(np.uint8), x.shape)


@operator(
    "QuantizeLinear",
    since=10,
    infer=_infer_quantize_linear,
    check=element_types("output_dtype", "precision"),
    traits=Trait.ROUNDS | Trait.QUANTISES | Trait.QUANTISED,
)
def quantize_linear(
    x: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray | None = None,
    *,
    axis: int = 1,
    saturate: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
) -> np.ndarray:
    """saturate(round(x / y_scale) + y_zero_point), halves to even; floats are not rounded first.

    The dtype is that of ``y_zero_point``, else ``output_dtype``, else uint8. Later opsets only
    added types and attributes.
    """
    dtype = dtype_of(output_dtype) if output_dtype else np.dtype(np.uint8)
    if y_zero_point is not None:
        dtype = y_zero_point.dtype
    exact = dtype_of(precision) if precision else _dividing_dtype(x.dtype, y_scale.dtype)
    scale = _spread(y_scale, x.shape, axis, block_size)
    ratio = np.divide(x.astype(exact), scale.astype(exact))
    wide = (np.rint(ratio) if is_integer(dtype) else ratio).astype(np.float64)
    if y_zero_point is not None:
        wide = wide + unpacked(_spread(y_zero_point, x.shape, axis, block_size))
    if is_integer(dtype):
        return saturated(wide, dtype)
    return cast_to(wide, dtype, saturate=bool(saturate))


def _dividing_dtype(x: np.dtype, scale: np.dtype) -> np.dtype:
    """The scale's own dtype, where one can divide in it."""
    if is_floating(scale) and scale != E8M0:
        return scale
    return x if is_floating(x) else np.dtype(np.float64)


def saturated(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Integral ``x`` limited to the range of ``dtype``; NaN becomes the least value."""
    least, largest = limits(dtype)
    return np.fmin(np.fmax(x, least), largest).astype(dtype)


def _spread(
    parameter: np.ndarray, shape: tuple[int, ...], axis: int, block_size: int
) -> np.ndarray:
    """A scale or zero point in a shape that broadcasts with ``shape``.

    One element serves the whole tensor, a list one slice of ``axis`` each, and a tensor of the
    same rank a block of ``block_size`` elements along ``axis`` each.
    """
    if parameter.size == 1:
        return parameter.reshape(())
    axis = normalize_axis(axis, len(shape))
    if block_size:
        return np.take(parameter, np.arange(shape[axis]) // block_size, axis)
    return parameter.reshape(-1, *(1 for _ in shape[axis + 1 :]))


def _check_grid(
    shape: tuple[Dim, ...] | None, axis: int, block_size: int, **parameters: TensorType | None
) -> None:
    """Scale and zero point are of a shape that `_spread` takes, and of as many elements each."""
    if block_size < 0:
        raise ValueError(f"block_size is {block_size}; it must not be negative")
    sizes = [product(x.shape) for x in parameters.values() if x is not None and x.shape is not None]
    if shape is None or not any(differ(size, 1) for size in sizes):
        return
    axis = normalize_axis(axis, len(shape))
    if not block_size:
        check_singles_or_vectors(shape[axis], **parameters)
    else:
        size = shape[axis]
        blocks = -(-size // block_size) if isinstance(size, int) else None
        check_shapes(with_size(shape, axis, blocks), **parameters)
    if len(sizes) > 1 and differ(*sizes):
        raise ValueError(f"scale and zero point have {sizes[0]} and {sizes[1]} elements")


def _infer_dequantize_linear(
    x: TensorType,
    x_scale: TensorType,
    x_zero_point: TensorType | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> TensorType:
    _check_grid(x.shape, axis, block_size, x_scale=x_scale, x_zero_point=x_zero_point)
    return TensorType(dtype_of(output_dtype) if output_dtype else x_scale.dtype, x.shape)


@operator(
    "DequantizeLinear",
    since=10,
    infer=_infer_dequantize_linear,
    check=element_types("output_dtype"),
    traits=Trait.QUANTISES | Trait.QUANTISED,
)
def dequantize_linear(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
) -> np.ndarray:
    """(x - x_zero_point) * x_scale, in ``output_dtype`` or else the dtype of ``x_scale``."""
    steps = x.astype(np.float64)
    if x_zero_point is not None:
        steps = steps - unpacked(_spread(x_zero_point, x.shape, axis, block_size))
    scale = _spread(x_scale, x.shape, axis, block_size).astype(np.float64)
    return cast_to(steps * scale, dtype_of(output_dtype) if output_dtype else x_scale.dtype)


def _infer_dynamic(x: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    uint8 = np.dtype(np.uint8)
    return TensorType(uint8, x.shape), TensorType(x.dtype, ()), TensorType(uint8, ())


@operator(
    "DynamicQuantizeLinear", since=11, infer=_infer_dynamic, traits=Trait.ROUNDS | Trait.QUANTISED
)
def dynamic_quantize_linear(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 with scale and zero point from the range of ``x`` (see `dynamic_grid`)."""
    scale, zero_point = dynamic_grid(x)
    return quantize_linear(x, scale, zero_point), scale, zero_point


def dynamic_grid(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scale and uint8 zero point for the range of ``x``, which is widened to hold 0.

    All zeros leave the specification's scale at 0; then it is 1, as in onnxruntime.
    """
    low, high = np.min(x, initial=0), np.max(x, initial=0)
    scale = np.asarray((high - low) / x.dtype.type(255) if high > low else 1, x.dtype)
    return scale, saturated(np.rint(-low / scale), np.dtype(np.uint8))
