"""Bytes that stand for numbers, and how kernels make and read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minseg.kernels.jit import inline
from minseg.kernels.simd import as_f32, clamp, fill, nearest_u8


@dataclass(frozen=True)
class Grid:
    """A byte q stands for the number (q - zero_point) * scale."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Bytes:
    """Bytes to be made: ``zero_point`` stands for 0; ``low`` and ``high`` bound them."""

    zero_point: int = 0
    low: int = 0
    high: int = 255

    @property
    def arguments(self) -> tuple[int, float, float]:
        """The last three arguments of `rounded`."""
        return (
            self.zero_point,
            float(self.low - self.zero_point),
            float(self.high - self.zero_point),
        )


@inline
def rounded(shape: Any, x: Any, zero_point: int, low: float, high: float) -> Any:
    """A tile of f32 as u8: limited to ``low`` and ``high``, rounded to the nearest integer, halves
    to even, plus ``zero_point``. A NaN counts as ``low``. ``shape`` is that of ``x``."""
    return nearest_u8(clamp(x, fill(shape, low), fill(shape, high)), zero_point)


@inline
def dequantised(shape: Any, x: Any, scale: float, zero_point: float) -> Any:
    """A tile of u8 as the f32 it stands for; ``shape`` is the result's."""
    return (as_f32(x) - fill(shape, zero_point)) * fill(shape, scale)
