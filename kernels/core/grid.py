"""Bytes that stand for numbers, and how kernels make and read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from minseg.kernels.core.jit import inline
from minseg.kernels.isa.simd import as_f32, clamp, fill, fma, nearest_u8


@dataclass(frozen=True)
class Grid:
    """A byte q stands for the number (q - zero_point) * scale."""

    scale: float
    zero_point: int


class Limits(NamedTuple):
    """The last arguments of `rounded`."""

    zero_point: int
    low: float
    high: float


@dataclass(frozen=True)
class Bytes:
    """Bytes to be made: ``zero_point`` stands for 0; ``low`` and ``high`` bound them."""

    zero_point: int = 0
    low: int = 0
    high: int = 255

    @property
    def arguments(self) -> Limits:
        zero = self.zero_point
        return Limits(zero, float(self.low - zero), float(self.high - zero))


@inline
def rounded(shape: Any, x: Any, zero_point: int, low: float, high: float) -> Any:
    """A tile of f32 as u8: limited to ``low`` and ``high``, rounded to the nearest integer, halves
    to even, plus ``zero_point``. A NaN counts as ``low``. ``shape`` is that of ``x``."""
    return nearest_u8(clamp(x, fill(shape, low), fill(shape, high)), zero_point)


@inline
def quantised(shape: Any, x: Any, scale: float, zero_point: int) -> Any:
    """The u8 nearest to a tile of f32 on the grid of ``scale`` and ``zero_point``."""
    ratio = x / fill(shape, scale)
    return rounded(shape, ratio, zero_point, -zero_point, 255 - zero_point)


@inline
def divided_sum(
    shape: Any, a: Any, b: Any, a_scale: float, b_scale: float, scale: float, shift: float
) -> Any:
    """(a·a_scale + b·b_scale) / scale, as operators of floats between dequantisers and a quantiser
    compute it. Tiles of f32."""
    return (a * fill(shape, a_scale) + b * fill(shape, b_scale)) / fill(shape, scale)


@inline
def fused_sum(
    shape: Any, a: Any, b: Any, a_scale: float, b_scale: float, scale: float, shift: float
) -> Any:
    """a·a_scale + (b·b_scale + shift), each of the two rounded once. Tiles of f32."""
    return fma(a, fill(shape, a_scale), fma(b, fill(shape, b_scale), fill(shape, shift)))


@inline
def fused_sum_of_last(
    shape: Any, a: Any, b: Any, a_scale: float, b_scale: float, scale: float, shift: float
) -> Any:
    """`fused_sum` of ``b`` and ``a``."""
    return fused_sum(shape, b, a, b_scale, a_scale, scale, shift)


@inline
def dequantised(shape: Any, x: Any, scale: float, zero_point: float) -> Any:
    """A tile of u8 as the f32 it stands for; ``shape`` is the result's."""
    return centred(shape, x, zero_point) * fill(shape, scale)


@inline
def centred(shape: Any, x: Any, zero_point: float) -> Any:
    """A tile of u8 less its zero point, as f32."""
    return as_f32(x) - fill(shape, zero_point)
