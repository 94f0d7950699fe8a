"""Convolutions and matrix products of 8-bit integers.

Sums are exact: float64 holds every sum of fewer than 2**37 such products. The requantization
``y = round(sum * (x_scale * w_scale / y_scale)) + y_zero_point`` is float32 and rounds half to
even, as onnxruntime's, so that both give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import one_of, product
from minseg.ops.conv import conv_shape, convolve
from minseg.ops.geometry import AUTO_PADS, convolution, place
from minseg.ops.matmul import matmul_shape
from minseg.ops.registry import Trait, operator
from minseg.ops.types import (
    check_bytes,
    check_dtypes,
    check_fit,
    check_one_dtype,
    check_singles,
    check_singles_or_vectors,
    check_vectors,
    differ,
)

_INT32 = np.dtype(np.int32)


def _centered(x: np.ndarray, zero_point: np.ndarray | None, axis: int | None = None) -> np.ndarray:
    """``x - zero_point`` in int32; a vector of zero points lies along ``axis``."""
    if zero_point is None:
        return x.astype(np.int32)
    return x.astype(np.int32) - _along(zero_point.astype(np.int32), axis, x.ndim)


def _along(parameter: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """A scalar or vector shaped to broadcast along ``axis`` of a tensor; one with axes stays."""
    if parameter.size == 1:
        return parameter.reshape(())
    if parameter.ndim != 1 or axis is None:
        return parameter
    shape = [1] * rank
    shape[axis] = -1
    return parameter.reshape(shape)


def _single(parameter: np.ndarray) -> np.ndarray:
    """A parameter of one element, of whatever rank, as a scalar."""
    return parameter.reshape(())


def _int32(sums: np.ndarray) -> np.ndarray:
    """Exact sums as int32, wrapping where they overflow."""
    return sums.astype(np.int64).astype(np.int32)


def requantize(sums: np.ndarray, multiplier: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """``sums`` (int32) times ``multiplier`` (float32), rounded half to even, plus the zero point.

    The result saturates to the zero point's dtype.
    """
    limits = np.iinfo(zero_point.dtype)
    rounded = np.rint(sums.astype(np.float32) * multiplier) + zero_point.astype(np.float32)
    return np.clip(rounded, limits.min, limits.max).astype(zero_point.dtype)


def _infer_conv_integer(
    x: TensorType,
    w: TensorType,
    x_zero_point: TensorType | None = None,
    w_zero_point: TensorType | None = None,
    **attributes: Any,
) -> TensorType:
    check_singles(x_zero_point=x_zero_point)
    check_singles_or_vectors(_filters(w), w_zero_point=w_zero_point)
    return TensorType(_INT32, conv_shape(x, w, **attributes))


def _filters(w: TensorType) -> Dim:
    """M of weights [M, C/group, *kernel]."""
    return w.shape[0] if w.shape else None


@operator(
    "ConvInteger",
    since=10,
    infer=_infer_conv_integer,
    check=one_of("auto_pad", *AUTO_PADS),
    traits=Trait.QUANTISED,
)
def conv_integer(
    x: np.ndarray,
    w: np.ndarray,
    x_zero_point: np.ndarray | None = None,
    w_zero_point: np.ndarray | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Conv of ``x - x_zero_point`` and ``w - w_zero_point`` (a scalar or [M]), in int32."""
    rules = convolution(x.shape, w.shape, group, kernel_shape, strides, dilations, pads, auto_pad)
    axes = place(rules, x.shape[2:])
    return _int32(convolve(_centered(x, x_zero_point), _centered(w, w_zero_point, 0), axes, group))


def _infer_qlinear_conv(
    x: TensorType,
    x_scale: TensorType,
    x_zero_point: TensorType,
    w: TensorType,
    w_scale: TensorType,
    w_zero_point: TensorType,
    y_scale: TensorType,
    y_zero_point: TensorType,
    b: TensorType | None = None,
    **attributes: Any,
) -> TensorType:
    check_singles(
        x_scale=x_scale, x_zero_point=x_zero_point, y_scale=y_scale, y_zero_point=y_zero_point
    )
    check_singles_or_vectors(_filters(w), w_scale=w_scale, w_zero_point=w_zero_point)
    check_vectors(_filters(w), B=b)
    check_dtypes(np.float32, x_scale=x_scale, w_scale=w_scale, y_scale=y_scale)
    check_bytes(y_zero_point=y_zero_point)
    check_dtypes(np.int32, B=b)
    return TensorType(y_zero_point.dtype, conv_shape(x, w, **attributes))


@operator(
    "QLinearConv",
    since=10,
    infer=_infer_qlinear_conv,
    check=one_of("auto_pad", *AUTO_PADS),
    traits=Trait.QUANTISED,
)
def qlinear_conv(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    w: np.ndarray,
    w_scale: np.ndarray,
    w_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    b: np.ndarray | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Conv of quantized ``x`` and ``w``, quantized again.

    The scale and zero point of ``w`` are scalars or [M]; ``b`` [M] is int32, quantized with scale
    ``x_scale * w_scale``.
    """
    sums = conv_integer(
        x,
        w,
        x_zero_point,
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    if b is not None:
        sums = sums + _along(b, 1, x.ndim)
    multiplier = _single(x_scale) * _along(w_scale, 1, x.ndim) / _single(y_scale)
    return requantize(sums, np.asarray(multiplier), _single(y_zero_point))


def _infer_matmul_integer(
    a: TensorType,
    b: TensorType,
    a_zero_point: TensorType | None = None,
    b_zero_point: TensorType | None = None,
) -> TensorType:
    _check_along(a.shape, -2, a_zero_point=a_zero_point)
    _check_along(b.shape, -1, b_zero_point=b_zero_point)
    return TensorType(_INT32, matmul_shape(a.shape, b.shape))


def _check_along(shape: tuple[Dim, ...] | None, axis: int, **parameters: TensorType | None) -> None:
    """Every scale or zero point of a factor of ``shape`` is one element, a vector along ``axis``,
    or a tensor that broadcasts. Raises ValueError."""
    for name, x in parameters.items():
        if shape is None or x is None or x.shape is None:
            continue
        if len(x.shape) < 2:
            check_singles_or_vectors(shape[axis] if len(shape) > 1 else 1, **{name: x})
        elif differ(product(x.shape), 1):
            check_fit(shape, **{name: x})


@operator("MatMulInteger", since=10, infer=_infer_matmul_integer, traits=Trait.QUANTISED)
def matmul_integer(
    a: np.ndarray,
    b: np.ndarray,
    a_zero_point: np.ndarray | None = None,
    b_zero_point: np.ndarray | None = None,
) -> np.ndarray:
    """``(a - a_zero_point) @ (b - b_zero_point)`` in int32.

    Zero points are scalars, vectors (one per row of ``a``, one per column of ``b``) or tensors
    that broadcast.
    """
    left = _centered(a, a_zero_point, -2).astype(np.float64)
    return _int32(left @ _centered(b, b_zero_point, -1).astype(np.float64))


def _infer_qlinear_matmul(
    a: TensorType,
    a_scale: TensorType,
    a_zero_point: TensorType,
    b: TensorType,
    b_scale: TensorType,
    b_zero_point: TensorType,
    y_scale: TensorType,
    y_zero_point: TensorType,
) -> TensorType:
    shape = matmul_shape(a.shape, b.shape)
    _check_along(a.shape, -2, a_scale=a_scale, a_zero_point=a_zero_point)
    _check_along(b.shape, -1, b_scale=b_scale, b_zero_point=b_zero_point)
    _check_along(shape, -2, y_scale=y_scale, y_zero_point=y_zero_point)
    scales = {"a_scale": a_scale, "b_scale": b_scale, "y_scale": y_scale}
    check_dtypes(np.float32, np.float16, ml_dtypes.bfloat16, **scales)
    check_one_dtype(**scales)
    check_bytes(y_zero_point=y_zero_point)
    return TensorType(y_zero_point.dtype, shape)


@operator("QLinearMatMul", since=10, infer=_infer_qlinear_matmul, traits=Trait.QUANTISED)
def qlinear_matmul(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero_point: np.ndarray,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
) -> np.ndarray:
    """The product of quantized ``a`` and ``b``, quantized again.

    Scales and zero points are scalars, vectors (per row of ``a`` and ``y``, per column of ``b``)
    or tensors that broadcast.
    """
    sums = matmul_integer(a, b, a_zero_point, b_zero_point)
    rank = sums.ndim
    rows, columns, result = (
        _along(scale.astype(np.float32), axis, rank)
        for scale, axis in ((a_scale, -2), (b_scale, -1), (y_scale, -2))
    )
    return requantize(sums, rows * columns / result, _along(y_zero_point, -2, rank))
