"""The domain com.microsoft: operators on 8-bit integers, which onnxruntime's quantiser writes.

Each takes integers with their scale and zero point, and gives integers of a scale and zero point
of its own: real number = (integer - zero point) * scale. No standard says how they round, so they
compute in float32, in the order of onnxruntime's kernels for x86-64, and round half to even.
Pools, sums and products add the zero point before they round, the others after.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minseg.graph.domains import MICROSOFT
from minseg.graph.model import TensorType
from minseg.ops.activation import as_matrix
from minseg.ops.arguments import normalize_axis, one_of
from minseg.ops.conv import pad_spatial, taps
from minseg.ops.cut import infer_concat
from minseg.ops.geometry import AUTO_PADS, Axis, place, sliding
from minseg.ops.integer import matmul_integer, requantize
from minseg.ops.matmul import gemm_shape
from minseg.ops.pool import infer_global, infer_pool
from minseg.ops.quantize import dequantize_linear, quantize_linear, saturated
from minseg.ops.registry import Trait, newest, operator
from minseg.ops.types import (
    broadcast_shapes,
    check_bytes,
    check_dtypes,
    check_fit,
    check_singles,
    check_singles_or_vectors,
)

Parameter = np.ndarray | None

# What these two mean in ONNX from opset 10 on, they mean here in any.
for _same in (newest("QuantizeLinear"), newest("DequantizeLinear")):
    operator(
        _same.name,
        since=1,
        domain=MICROSOFT,
        infer=_same.infer,
        check=_same.check,
        traits=_same.traits,
    )(_same.run)


def _scalar(parameter: Parameter) -> np.float32:
    """A scale or zero point, which may be a list of one, as a number; 0 where it is omitted."""
    return np.float32(0) if parameter is None else np.float32(parameter.reshape(()))


def _rounded(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return saturated(np.rint(y), dtype)


def _fma(a: np.ndarray, b: np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """``a * b + c``, rounded once to float32 (but for rare sums that float64 rounds first)."""
    return (a.astype(np.float64) * np.float64(b) + np.float64(c)).astype(np.float32)


def _check_scales(**scales: TensorType | None) -> None:
    """Every scale is one float32. Raises ValueError."""
    check_singles(**scales)
    check_dtypes(np.float32, **scales)


def _infer_binary(
    a: TensorType,
    a_scale: TensorType,
    a_zero_point: TensorType | None,
    b: TensorType,
    b_scale: TensorType,
    b_zero_point: TensorType | None,
    c_scale: TensorType,
    c_zero_point: TensorType | None = None,
) -> TensorType:
    zeros = {
        "A_zero_point": a_zero_point,
        "B_zero_point": b_zero_point,
        "C_zero_point": c_zero_point,
    }
    _check_scales(A_scale=a_scale, B_scale=b_scale, C_scale=c_scale)
    check_singles(**zeros)
    check_bytes(A=a, B=b, **zeros)
    return TensorType(a.dtype, broadcast_shapes(a.shape, b.shape))


@operator("QLinearAdd", since=1, domain=MICROSOFT, infer=_infer_binary, traits=Trait.QUANTISED)
def qlinear_add(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero_point: Parameter,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: Parameter,
    c_scale: np.ndarray,
    c_zero_point: Parameter = None,
) -> np.ndarray:
    """The sum of ``a`` and ``b``, broadcast, as `fused_sum` of what `sum_parameters` says."""
    parameters = sum_parameters(a_scale, a_zero_point, b_scale, b_zero_point, c_scale, c_zero_point)
    return _rounded(fused_sum(a, b, *parameters), a.dtype)


def sum_parameters(
    a_scale: np.ndarray,
    a_zero_point: Parameter,
    b_scale: np.ndarray,
    b_zero_point: Parameter,
    c_scale: np.ndarray,
    c_zero_point: Parameter,
) -> tuple[np.float32, np.float32, np.float32]:
    """What a QLinearAdd multiplies the integers of ``a`` and ``b`` by, and what it adds to both
    products, before it rounds."""
    of_a, of_b = _scalar(a_scale) / _scalar(c_scale), _scalar(b_scale) / _scalar(c_scale)
    fixed = of_a * _scalar(a_zero_point) + of_b * _scalar(b_zero_point)
    return of_a, of_b, _scalar(c_zero_point) - fixed


def fused_sum(
    a: np.ndarray, b: np.ndarray, a_scale: np.float32, b_scale: np.float32, shift: np.float32
) -> np.ndarray:
    """a * a_scale + (b * b_scale + shift), each of the two rounded once to float32."""
    return _fma(a, a_scale, _fma(b, b_scale, shift))


@operator("QLinearMul", since=1, domain=MICROSOFT, infer=_infer_binary, traits=Trait.QUANTISED)
def qlinear_mul(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero_point: Parameter,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: Parameter,
    c_scale: np.ndarray,
    c_zero_point: Parameter = None,
) -> np.ndarray:
    """The product of ``a`` and ``b``, broadcast."""
    products = (a - _scalar(a_zero_point)) * (b - _scalar(b_zero_point))
    multiplier = _scalar(a_scale) * _scalar(b_scale) / _scalar(c_scale)
    return _rounded(products * multiplier + _scalar(c_zero_point), a.dtype)


def _requantized(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: Parameter,
    y_scale: np.ndarray,
    y_zero_point: Parameter,
    function: Callable[[np.ndarray], np.ndarray] = np.positive,
) -> np.ndarray:
    """``function`` of the real numbers ``x``, quantised again."""
    zero_point = np.zeros((), x.dtype) if y_zero_point is None else y_zero_point
    return quantize_linear(
        function(dequantize_linear(x, x_scale, x_zero_point)), y_scale, zero_point
    )


def _infer_unary(
    x: TensorType,
    x_scale: TensorType,
    x_zero_point: TensorType | None,
    y_scale: TensorType,
    y_zero_point: TensorType | None = None,
    **_: Any,
) -> TensorType:
    _check_one_to_one(x, x_scale, x_zero_point, y_scale, y_zero_point)
    return TensorType(x.dtype, x.shape)


def _check_one_to_one(
    x: TensorType,
    x_scale: TensorType,
    x_zero_point: TensorType | None,
    y_scale: TensorType,
    y_zero_point: TensorType | None = None,
) -> None:
    zeros = {"X_zero_point": x_zero_point, "Y_zero_point": y_zero_point}
    _check_scales(X_scale=x_scale, Y_scale=y_scale)
    check_singles(**zeros)
    check_bytes(X=x, **zeros)


@operator("QLinearLeakyRelu", since=1, domain=MICROSOFT, infer=_infer_unary, traits=Trait.QUANTISED)
def qlinear_leaky_relu(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: Parameter,
    y_scale: np.ndarray,
    y_zero_point: Parameter = None,
    *,
    alpha: float = 0.01,
) -> np.ndarray:
    def leaky_relu(v: np.ndarray) -> np.ndarray:
        return np.where(v >= 0, v, np.float32(alpha) * v)

    return _requantized(x, x_scale, x_zero_point, y_scale, y_zero_point, leaky_relu)


@operator("QLinearSigmoid", since=1, domain=MICROSOFT, infer=_infer_unary, traits=Trait.QUANTISED)
def qlinear_sigmoid(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: Parameter,
    y_scale: np.ndarray,
    y_zero_point: Parameter = None,
) -> np.ndarray:
    def sigmoid(v: np.ndarray) -> np.ndarray:
        return (1 / (1 + np.exp(-v.astype(np.float64)))).astype(np.float32)

    return _requantized(x, x_scale, x_zero_point, y_scale, y_zero_point, sigmoid)


@operator("QLinearSoftmax", since=1, domain=MICROSOFT, infer=_infer_unary, traits=Trait.QUANTISED)
def qlinear_softmax(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: Parameter,
    y_scale: np.ndarray,
    y_zero_point: Parameter = None,
    *,
    opset: int,
    axis: int = -1,
) -> np.ndarray:
    """Softmax as it was in ``opset``: before 13 along all axes from ``axis`` on, later along
    ``axis`` alone.

    The multiplier is 1 / ``y_scale`` rounded down, the sum float32 from first to last.
    """
    if opset < 13:
        rows = as_matrix(x, axis)
        return _softmax(rows, x_scale, y_scale, y_zero_point).reshape(x.shape)
    rows = np.moveaxis(x, normalize_axis(axis, x.ndim), -1)
    return np.moveaxis(_softmax(rows, x_scale, y_scale, y_zero_point), -1, axis)


def _softmax(
    x: np.ndarray, x_scale: np.ndarray, y_scale: np.ndarray, y_zero_point: Parameter
) -> np.ndarray:
    """Along the last axis."""
    powers = _powers(_scalar(x_scale), x.shape[-1])
    distance = x.max(-1, keepdims=True, initial=np.iinfo(x.dtype).min) - x.astype(np.int32)
    terms = powers[distance]
    total = np.add.accumulate(terms, axis=-1)[..., -1:]
    share = terms * np.floor(1 / _scalar(y_scale)) / total
    return saturated(np.rint(share) + _scalar(y_zero_point), x.dtype)


def _powers(scale: np.float32, length: int) -> np.ndarray:
    """exp(-d * ``scale``) for d from 0 to 255 [256], times a factor that keeps all sums of
    ``length`` of them finite and most of them normal numbers."""
    highest = max(0.0, math.log(float(np.finfo(np.float32).max) / max(length, 1)) - 5)
    return np.exp(highest - np.arange(256) * np.float64(scale)).astype(np.float32)


def _infer_concat_pairs(
    y_scale: TensorType, y_zero_point: TensorType, *inputs: TensorType, axis: int
) -> TensorType:
    if not inputs or len(inputs) % 3:
        raise ValueError(f"{len(inputs)} inputs are not a tensor, a scale and a zero point each")
    tensors, scales, zeros = (
        {f"{what} {i}": x for i, x in enumerate(inputs[first::3])}
        for first, what in enumerate(("tensor", "scale", "zero point"))
    )
    _check_scales(Y_scale=y_scale, **scales)
    check_singles(Y_zero_point=y_zero_point, **zeros)
    check_bytes(Y_zero_point=y_zero_point, **tensors, **zeros)
    return infer_concat(*inputs[::3], axis=axis)


@operator(
    "QLinearConcat", since=1, domain=MICROSOFT, infer=_infer_concat_pairs, traits=Trait.QUANTISED
)
def qlinear_concat(
    y_scale: np.ndarray, y_zero_point: np.ndarray, *inputs: np.ndarray, axis: int
) -> np.ndarray:
    """``inputs`` are a tensor, its scale and its zero point each."""
    parts = zip(inputs[::3], inputs[1::3], inputs[2::3], strict=True)
    return np.concatenate([_requantized(*part, y_scale, y_zero_point) for part in parts], axis)


def _infer_where(
    condition: TensorType,
    x: TensorType,
    x_scale: TensorType,
    x_zero_point: TensorType,
    y: TensorType,
    y_scale: TensorType,
    y_zero_point: TensorType,
    z_scale: TensorType,
    z_zero_point: TensorType,
) -> TensorType:
    zeros = {
        "x_zero_point": x_zero_point,
        "y_zero_point": y_zero_point,
        "z_zero_point": z_zero_point,
    }
    _check_scales(x_scale=x_scale, y_scale=y_scale, z_scale=z_scale)
    check_singles(**zeros)
    check_bytes(X=x, Y=y, **zeros)
    return TensorType(x.dtype, broadcast_shapes(condition.shape, x.shape, y.shape))


@operator("QLinearWhere", since=1, domain=MICROSOFT, infer=_infer_where, traits=Trait.QUANTISED)
def qlinear_where(
    condition: np.ndarray,
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    y: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    z_scale: np.ndarray,
    z_zero_point: np.ndarray,
) -> np.ndarray:
    """``x`` where ``condition`` holds, else ``y``, broadcast."""
    return np.where(
        condition,
        _requantized(x, x_scale, x_zero_point, z_scale, z_zero_point),
        _requantized(y, y_scale, y_zero_point, z_scale, z_zero_point),
    )


def _channels_first(x: np.ndarray, channels_last: int) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if channels_last else x


def _channels_back(y: np.ndarray, channels_last: int) -> np.ndarray:
    return np.moveaxis(y, 1, -1) if channels_last else y


def _infer_average(
    x: TensorType, *grids: TensorType | None, channels_last: int = 0, **attributes: Any
) -> TensorType:
    _check_one_to_one(x, *grids)  # type: ignore[arg-type]
    return _in_channels_first(infer_pool, x, channels_last, **attributes)


def _in_channels_first(
    infer: Callable[..., TensorType], x: TensorType, channels_last: int, **attributes: Any
) -> TensorType:
    if not channels_last or x.shape is None:
        return infer(x, **attributes)
    batch, *spatial, channels = x.shape
    y = infer(TensorType(x.dtype, (batch, channels, *spatial)), **attributes)
    batch, channels, *spatial = y.shape or ()
    return TensorType(y.dtype, (batch, *spatial, channels))


@operator(
    "QLinearAveragePool",
    since=1,
    domain=MICROSOFT,
    infer=_infer_average,
    check=one_of("auto_pad", *AUTO_PADS),
    traits=Trait.QUANTISED,
)
def qlinear_average_pool(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: Parameter,
    y_scale: np.ndarray,
    y_zero_point: Parameter = None,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    channels_last: int = 0,
    count_include_pad: int = 0,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """The mean of each window of ``x`` [N, C, *spatial], or [N, *spatial, C].

    ``count_include_pad`` counts every tap of the kernel. A window as large as the input is a
    QLinearGlobalAveragePool.
    """
    first = _channels_first(x, channels_last)
    rules = sliding(kernel_shape, strides, None, pads, auto_pad, ceil_mode)
    axes = place(rules, first.shape[2:])
    if all(a.kernel == a.input and not a.pad_begin and not a.pad_end for a in axes):
        y = _global_average(first, x_scale, x_zero_point, y_scale, y_zero_point)
    else:
        mean = _sums(dequantize_linear(first, x_scale, x_zero_point), axes)
        mean /= np.float32(math.prod(kernel_shape)) if count_include_pad else _counts(axes)
        y = _rounded(mean / _scalar(y_scale) + _scalar(y_zero_point), x.dtype)
    return _channels_back(y, channels_last)


def _sums(x: np.ndarray, axes: Sequence[Axis]) -> np.ndarray:
    """The sum of each window of ``x`` [N, C, *spatial], tap by tap in float32."""
    outputs = tuple(a.output for a in axes)
    padded = pad_spatial(x, axes)
    y = np.zeros((*x.shape[:2], *outputs), np.float32)
    for index in taps(axes, outputs):
        y += padded[index]
    return y


def _counts(axes: Sequence[Axis]) -> np.ndarray:
    """How many elements of the input each window holds, float32."""
    inside = np.ones((1, 1, *(a.input for a in axes)), np.float32)
    return _sums(inside, axes)


def _infer_global(x: TensorType, *grids: TensorType | None, channels_last: int = 0) -> TensorType:
    _check_one_to_one(x, *grids)  # type: ignore[arg-type]
    return _in_channels_first(infer_global, x, channels_last)


@operator(
    "QLinearGlobalAveragePool",
    since=1,
    domain=MICROSOFT,
    infer=_infer_global,
    traits=Trait.QUANTISED,
)
def qlinear_global_average_pool(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: np.ndarray,
    y_scale: np.ndarray,
    y_zero_point: np.ndarray,
    *,
    channels_last: int = 0,
) -> np.ndarray:
    """The mean of each channel of ``x`` [N, C, *spatial], or [N, *spatial, C]."""
    first = _channels_first(x, channels_last)
    y = _global_average(first, x_scale, x_zero_point, y_scale, y_zero_point)
    return _channels_back(y, channels_last)


def _global_average(
    x: np.ndarray,
    x_scale: np.ndarray,
    x_zero_point: Parameter,
    y_scale: np.ndarray,
    y_zero_point: Parameter,
) -> np.ndarray:
    count = np.float32(math.prod(x.shape[2:]))
    sums = (x.astype(np.int32) - np.int32(_scalar(x_zero_point))).sum(
        tuple(range(2, x.ndim)), dtype=np.int32, keepdims=True
    )
    multiplier = np.asarray(_scalar(x_scale) / (_scalar(y_scale) * count))
    return requantize(sums, multiplier, _scalar(y_zero_point).astype(x.dtype))


def _infer_qgemm(
    a: TensorType,
    a_scale: TensorType,
    a_zero_point: TensorType,
    b: TensorType,
    b_scale: TensorType,
    b_zero_point: TensorType,
    c: TensorType | None = None,
    y_scale: TensorType | None = None,
    y_zero_point: TensorType | None = None,
    *,
    transA: int = 0,
    transB: int = 0,
    alpha: float = 1.0,
) -> TensorType:
    shape = gemm_shape(a.shape, b.shape, transA, transB)
    check_singles(a_scale=a_scale, a_zero_point=a_zero_point)
    check_singles(y_scale=y_scale, y_zero_point=y_zero_point)
    check_singles_or_vectors(shape[1], b_scale=b_scale, b_zero_point=b_zero_point)
    check_fit(shape, C=c)
    check_dtypes(np.float32, a_scale=a_scale, b_scale=b_scale, y_scale=y_scale)
    check_bytes(A=a, a_zero_point=a_zero_point, y_zero_point=y_zero_point)
    check_dtypes(np.int32, C=c)
    check_bytes(B=b, b_zero_point=b_zero_point)
    return TensorType(np.dtype(np.float32) if y_scale is None else a.dtype, shape)


@operator("QGemm", since=1, domain=MICROSOFT, infer=_infer_qgemm, traits=Trait.QUANTISED)
def qgemm(
    a: np.ndarray,
    a_scale: np.ndarray,
    a_zero_point: np.ndarray,
    b: np.ndarray,
    b_scale: np.ndarray,
    b_zero_point: np.ndarray,
    c: np.ndarray | None = None,
    y_scale: np.ndarray | None = None,
    y_zero_point: np.ndarray | None = None,
    *,
    transA: int = 0,
    transB: int = 0,
    alpha: float = 1.0,
) -> np.ndarray:
    """``alpha * A' @ B' + C``, where ' transposes if the attribute says so.

    The scale and zero point of ``b`` are scalars or one for each column of B'. ``c`` is int32,
    quantised with scale ``alpha * a_scale * b_scale``. Without ``y_scale`` the result is float32.
    """
    sums = matmul_integer(
        a.T if transA else a, b.T if transB else b, a_zero_point.reshape(()), b_zero_point
    )
    if c is not None:
        sums = sums + c
    factors = b_scale.reshape(()) if b_scale.size == 1 else b_scale
    multiplier = np.float32(alpha) * _scalar(a_scale) * factors
    if y_scale is None:
        return sums.astype(np.float32) * multiplier
    zero_point = _scalar(y_zero_point).astype(a.dtype)
    return requantize(sums, multiplier / _scalar(y_scale), zero_point)
