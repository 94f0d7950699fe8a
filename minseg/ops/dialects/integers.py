"""The domain minseg, of bytes: what the steps of a quantised network are.

A byte q (uint8) of a tensor stands for the number (q - zero_point) * scale. Sums of products of
bytes are exact in int32 (and wrap). The pass that makes these nodes is minseg/passes/integers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import TensorType
from minseg.ops.bytes import UINT8, Bytes, Grid
from minseg.ops.conv import conv_transpose
from minseg.ops.dialects.epilogue import split, sum_of_bytes
from minseg.ops.dialects.microsoft import fused_sum
from minseg.ops.integer import conv_integer
from minseg.ops.pool import average_pool
from minseg.ops.quantize import dynamic_grid
from minseg.ops.registry import newest, operator
from minseg.ops.types import broadcast

FLOAT32 = np.dtype(np.float32)


def _infer_as(name: str) -> Callable[..., Any]:
    """The shape rule of ONNX's operator ``name``; bytes or floats as the epilogue says."""

    def infer(
        x: TensorType,
        w: TensorType,
        *_: TensorType | None,
        x_zero_point: int = 0,
        **attributes: Any,
    ) -> TensorType:
        epilogue, layout = split(attributes)
        dtype = FLOAT32 if epilogue.store is None else UINT8
        return TensorType(dtype, newest(name).infer(x, w, None, **layout).shape)

    return infer


@operator("IntegerConv", since=1, domain=MINSEG, infer=_infer_as("Conv"))
def integer_conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    z: np.ndarray | None = None,
    w_zero_point: np.ndarray | None = None,
    x_zero: np.ndarray | None = None,
    x_scale: np.ndarray | None = None,
    *,
    x_zero_point: int = 0,
    **attributes: Any,
) -> np.ndarray:
    """Conv of ``x`` - x_zero_point with ``w`` - w_zero_point, plus ``b``; rescaled (see
    `rescaled`), and then what the epilogue says, of which ``z`` is the residual.

    ``x`` uint8 (N, IC, ...), ``w`` int8 (OC, IC / group, ...), ``b`` and ``w_zero_point`` int32
    (OC,), ``scale`` and ``shift`` float32 (OC,), ``z`` uint8. What is known only in a run are of
    one element each: ``x_zero``, uint8, the zero point that x_zero_point is not, and ``x_scale``,
    float32, a factor of all of ``scale``. Then sums are rescaled step by step.
    """
    epilogue, layout = split(attributes)
    zero_point = np.uint8(x_zero_point) if x_zero is None else x_zero.reshape(())
    sums = _with_bias(conv_integer(x, w, zero_point, w_zero_point, **layout), b)
    stepwise = x_zero is not None or x_scale is not None
    factors = scale if x_scale is None else scale * x_scale.reshape(())
    return epilogue.of(rescaled(sums, factors, shift, stepwise=stepwise), z)


@operator("IntegerConvTranspose", since=1, domain=MINSEG, infer=_infer_as("ConvTranspose"))
def integer_conv_transpose(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    _: None = None,
    w_zero_point: np.ndarray | None = None,
    *,
    x_zero_point: int = 0,
    group: int = 1,
    **attributes: Any,
) -> np.ndarray:
    """ConvTranspose as `integer_conv` is Conv; ``w`` is int8 (IC, OC / group, ...)."""
    epilogue, layout = split(attributes)
    centred = w.astype(np.float64)
    if w_zero_point is not None:
        grouped = centred.reshape(group, -1, *w.shape[1:])
        zeros = w_zero_point.reshape(group, 1, -1, *(1 for _ in w.shape[2:]))
        centred = (grouped - zeros).reshape(w.shape)
    exact = conv_transpose(x.astype(np.float64) - x_zero_point, centred, group=group, **layout)
    sums = _with_bias(exact.astype(np.int64).astype(np.int32), b)
    return epilogue.of(rescaled(sums, scale, shift))


def _with_bias(sums: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    return sums if b is None else sums + b.reshape(-1, *(1 for _ in sums.shape[2:]))


def rescaled(
    sums: np.ndarray, scale: np.ndarray, shift: np.ndarray, *, stepwise: bool = False
) -> np.ndarray:
    """sums * scale[c] + shift[c] of int32 sums [N, C, ...], rounded to float32 once, or
    ``stepwise`` as Mul and Add are."""
    along = (-1, *(1 for _ in sums.shape[2:]))
    # The product of two float32 is exact in float64.
    products = sums.astype(np.float32).astype(np.float64) * scale.reshape(along)
    if stepwise:
        products = products.astype(np.float32)
    return np.asarray(products + shift.reshape(along), np.float32)


def _bytes_like_first(x: TensorType, *_: Any, **__: Any) -> TensorType:
    return TensorType(UINT8, x.shape)


@operator("IntegerAdd", since=1, domain=MINSEG, infer=_bytes_like_first)
def integer_add(
    a: np.ndarray,
    b: np.ndarray,
    *,
    a_scale: float,
    a_zero_point: int,
    b_scale: float,
    b_zero_point: int,
    scale: float,
    y: Sequence[int],
    shift: float | None = None,
) -> np.ndarray:
    """The sum of ``a`` and ``b``, uint8 of one shape, as bytes (see `sum_of_bytes`)."""
    a_grid, b_grid = (
        Grid(np.float32(a_scale), a_zero_point),
        Grid(np.float32(b_scale), b_zero_point),
    )
    return sum_of_bytes(a, a_grid, b, b_grid, scale, shift, Bytes(*y))


@operator("FusedSum", since=1, domain=MINSEG, infer=broadcast)
def sum_of_floats(
    a: np.ndarray, b: np.ndarray, *, a_scale: float, b_scale: float, shift: float
) -> np.ndarray:
    """a * a_scale + (b * b_scale + shift) of float32, each of the two rounded once."""
    return fused_sum(a, b, *map(np.float32, (a_scale, b_scale, shift)))


@operator("IntegerLookup", since=1, domain=MINSEG, infer=_bytes_like_first)
def integer_lookup(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """``table`` [256] at each element of ``x``, both uint8."""
    result: np.ndarray = table[x]
    return result


def _infer_average_pool(
    x: TensorType,
    *,
    x_scale: float,
    x_zero_point: int,
    scale: float,
    y: Sequence[int],
    **windows: Any,
) -> TensorType:
    return TensorType(UINT8, newest("AveragePool").infer(x, **windows).shape)


@operator("IntegerAveragePool", since=1, domain=MINSEG, infer=_infer_average_pool)
def integer_average_pool(
    x: np.ndarray,
    *,
    x_scale: float,
    x_zero_point: int,
    scale: float,
    y: Sequence[int],
    **windows: Any,
) -> np.ndarray:
    """AveragePool of what the uint8 ``x`` stands for, in units of ``scale`` as bytes."""
    means = average_pool(x.astype(np.float64) - x_zero_point, **windows)
    values = (means * np.float64(np.float32(x_scale))).astype(np.float32)
    return Bytes(*y).of(values / np.float32(scale))


def _infer_grid(x: TensorType) -> tuple[TensorType, TensorType]:
    return TensorType(FLOAT32, ()), TensorType(UINT8, ())


@operator("DynamicGrid", since=1, domain=MINSEG, infer=_infer_grid)
def dynamic_grid_of(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scale, float32 (), and the zero point, uint8 (), that DynamicQuantizeLinear gives."""
    return dynamic_grid(x)
