"""Operators of the domain "minseg" on tensors of bytes: what the steps of a quantised network are.

A byte q (uint8) of a tensor stands for the number (q - zero_point) * scale. Sums of products of
bytes are exact in int32 (and wrap). The pass that makes these nodes is integers.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.integer import conv_integer
from minseg.ops.qlinear import fused_sum
from minseg.ops.registry import lookup, operator
from minseg.ops.types import broadcast
from minseg.passes.fused_ops import DOMAIN, activate

BYTES = np.dtype(np.uint8)
FLOATS = np.dtype(np.float32)


def finish(
    sums: np.ndarray,
    scale: np.ndarray,
    shift: np.ndarray,
    y: Sequence[int],
    activation: str,
    activation_params: Sequence[float],
    *,
    stepwise: bool = False,
) -> np.ndarray:
    """What becomes of int32 sums [N, C, ...]: f = sums * scale[c] + shift[c], then ...

    ... the bytes clip(round(f) + zero_point, low, high), halves to even, where ``y`` holds these
    three integers; activation(f) in float32 where ``y`` is empty. f is rounded to float32 once,
    or ``stepwise`` as Mul and Add are.
    """
    along = (-1, *(1 for _ in sums.shape[2:]))
    # The product of two float32 is exact in float64.
    products = sums.astype(np.float32).astype(np.float64) * scale.reshape(along)
    if stepwise:
        products = products.astype(np.float32)
    result = (products + shift.reshape(along)).astype(np.float32)
    return to_bytes(result, y) if y else activate(result, activation, activation_params)


def to_bytes(x: np.ndarray, y: Sequence[int]) -> np.ndarray:
    """clip(round(x) + zero_point, low, high) for ``y`` = (zero_point, low, high)."""
    zero_point, low, high = y
    result: np.ndarray = np.clip(np.rint(x) + zero_point, low, high).astype(np.uint8)
    return result


def _type_rule(name: str) -> Callable[..., Any]:
    """The shape rule of ONNX's operator ``name``; bytes or floats as ``y`` says."""

    def infer(
        x: TensorType, w: TensorType, *_: TensorType | None, y: Sequence[int] = (), **others: Any
    ) -> TensorType:
        layout = {n: a for n, a in others.items() if n in _LAYOUT}
        found = lookup("", name, 24)
        assert found is not None
        return TensorType(BYTES if y else FLOATS, found.infer(x, w, None, **layout).shape)

    return infer


_LAYOUT = frozenset(
    {"auto_pad", "dilations", "group", "kernel_shape", "output_padding", "output_shape", "pads",
     "strides"}
)  # fmt: skip


@operator("IntegerConv", domain=DOMAIN, infer=_type_rule("Conv"))
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
    y: Sequence[int] = (),
    own: Sequence[int] = (),
    own_scale: float = 1.0,
    own_zero_point: int = 0,
    own_last: int = 0,
    z_scale: float = 1.0,
    z_zero_point: int = 0,
    sum_scale: float = 1.0,
    sum_shift: float | None = None,
    activation: str = "",
    activation_params: Sequence[float] = (),
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Conv of ``x`` - x_zero_point with ``w`` - w_zero_point, plus ``b``; then see `finish`.

    ``x`` uint8 (N, IC, ...), ``w`` int8 (OC, IC / group, ...), ``b`` and ``w_zero_point`` int32
    (OC,), ``scale`` and ``shift`` float32 (OC,). Where there is a ``z`` the result is IntegerAdd
    of the bytes that ``own`` says and of the uint8 ``z``; own_last swaps the two. What is known
    only now are of one element each: ``x_zero``, uint8, the zero point that x_zero_point is not,
    and ``x_scale``, float32, a factor of all of ``scale``. Then f is rounded step by step.
    """
    sums = conv_integer(
        x,
        w,
        np.uint8(x_zero_point) if x_zero is None else x_zero.reshape(()),
        w_zero_point,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    if b is not None:
        sums = sums + b.reshape(-1, *(1 for _ in x.shape[2:]))
    stepwise = x_zero is not None or x_scale is not None
    if x_scale is not None:
        scale = scale * x_scale.reshape(())
    if z is None:
        return finish(sums, scale, shift, y, activation, activation_params, stepwise=stepwise)
    operands = [
        (finish(sums, scale, shift, own, "", (), stepwise=stepwise), own_scale, own_zero_point),
        (z, z_scale, z_zero_point),
    ]
    (first, a_scale, a_zero), (second, b_scale, b_zero) = operands[:: -1 if own_last else 1]
    total: np.ndarray = integer_add(
        first,
        second,
        a_scale=a_scale,
        a_zero_point=a_zero,
        b_scale=b_scale,
        b_zero_point=b_zero,
        scale=sum_scale,
        shift=sum_shift,
        y=y,
    )
    return total


@operator("IntegerConvTranspose", domain=DOMAIN, infer=_type_rule("ConvTranspose"))
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
    y: Sequence[int] = (),
    activation: str = "",
    activation_params: Sequence[float] = (),
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """ConvTranspose as `integer_conv` is Conv; ``w`` is int8 (IC, OC / group, ...)."""
    found = lookup("", "ConvTranspose", 22)
    assert found is not None
    centred = w.astype(np.float64)
    if w_zero_point is not None:
        grouped = centred.reshape(group, -1, *w.shape[1:])
        zeros = w_zero_point.reshape(group, 1, -1, *(1 for _ in w.shape[2:]))
        centred = (grouped - zeros).reshape(w.shape)
    exact = found.run(
        x.astype(np.float64) - x_zero_point,
        centred,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        output_padding=output_padding,
        output_shape=output_shape,
        pads=pads,
        strides=strides,
    )
    sums = exact.astype(np.int64).astype(np.int32)
    if b is not None:
        sums = sums + b.reshape(-1, *(1 for _ in x.shape[2:]))
    return finish(sums, scale, shift, y, activation, activation_params)


def as_floats(x: np.ndarray, scale: float | np.float32, zero_point: int) -> np.ndarray:
    """The float32 that bytes stand for."""
    return (x.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _bytes_like_first(x: TensorType, *_: Any, **__: Any) -> TensorType:
    return TensorType(BYTES, x.shape)


@operator("IntegerAdd", domain=DOMAIN, infer=_bytes_like_first)
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
    """The sum of ``a`` and ``b``, uint8 of one shape, in units of ``scale`` as bytes (see
    `to_bytes`): what Add of float32 between DequantizeLinear and QuantizeLinear gives; with a
    ``shift`` what FusedSum does there, whose ``scale`` is 1."""
    if shift is not None:
        a, b = as_floats(a, 1.0, a_zero_point), as_floats(b, 1.0, b_zero_point)
        return to_bytes(fused_sum(a, b, *map(np.float32, (a_scale, b_scale, shift))), y)
    total = as_floats(a, a_scale, a_zero_point) + as_floats(b, b_scale, b_zero_point)
    return to_bytes(total / np.float32(scale), y)


@operator("FusedSum", domain=DOMAIN, infer=broadcast)
def sum_of_floats(
    a: np.ndarray, b: np.ndarray, *, a_scale: float, b_scale: float, shift: float
) -> np.ndarray:
    """a * a_scale + (b * b_scale + shift) of float32, each of the two rounded once."""
    return fused_sum(a, b, *map(np.float32, (a_scale, b_scale, shift)))


@operator("IntegerLookup", domain=DOMAIN, infer=_bytes_like_first)
def integer_lookup(x: np.ndarray, table: np.ndarray) -> np.ndarray:
    """``table`` [256] at each element of ``x``, both uint8."""
    result: np.ndarray = table[x]
    return result


def _infer_average_pool(x: TensorType, **others: Any) -> TensorType:
    found = lookup("", "AveragePool", 22)
    assert found is not None
    layout = {n: a for n, a in others.items() if n in found.attributes}
    return TensorType(BYTES, found.infer(x, **layout).shape)


@operator("IntegerAveragePool", domain=DOMAIN, infer=_infer_average_pool)
def integer_average_pool(
    x: np.ndarray,
    *,
    x_scale: float,
    x_zero_point: int,
    scale: float,
    y: Sequence[int],
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """AveragePool of what the uint8 ``x`` stands for, in units of ``scale`` as bytes."""
    found = lookup("", "AveragePool", 22)
    assert found is not None
    means = found.run(
        x.astype(np.float64) - x_zero_point,
        kernel_shape=kernel_shape,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        dilations=dilations,
        pads=pads,
        strides=strides,
    )
    values = (means * np.float64(np.float32(x_scale))).astype(np.float32)
    return to_bytes(values / np.float32(scale), y)
