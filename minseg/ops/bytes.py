"""Bytes that stand for numbers, as all that is quantised in minseg sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

UINT8 = np.dtype(np.uint8)

#: How many numbers a byte tells apart.
LEVELS = 256


@dataclass(frozen=True)
class Grid:
    """The numbers (q - zero_point) * scale for bytes q."""

    scale: np.float32
    zero_point: int

    @classmethod
    def over(cls, range_: tuple[float, float]) -> Grid:
        """The grid that covers a range, which is widened to hold 0."""
        low, high = min(range_[0], 0.0), max(range_[1], 0.0)
        scale = np.float32((high - low) / (LEVELS - 1))
        if not scale:
            return cls(np.float32(1), 0)
        return cls(scale, int(np.rint(-low / scale)))

    def floats(self, q: np.ndarray) -> np.ndarray:
        """The float32 that bytes stand for."""
        return np.asarray((q.astype(np.float32) - np.float32(self.zero_point)) * self.scale)

    def rounded(self, x: np.ndarray) -> np.ndarray:
        """``x`` as the grid has it, float32."""
        q = np.clip(np.rint(x / self.scale) + self.zero_point, 0, LEVELS - 1)
        return np.asarray((q - np.float32(self.zero_point)) * self.scale)


class Bytes(NamedTuple):
    """Bytes to be made: ``zero_point`` stands for 0; ``low`` and ``high`` bound them."""

    zero_point: int = 0
    low: int = 0
    high: int = LEVELS - 1

    def of(self, x: np.ndarray) -> np.ndarray:
        """The uint8 clip(round(x) + zero_point, low, high), halves to even."""
        result: np.ndarray = np.clip(np.rint(x) + self.zero_point, self.low, self.high)
        return result.astype(np.uint8)
