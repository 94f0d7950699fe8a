"""Quantisers of a network under construction, in the two notations that exporters write.

`FakeQuantize` of the domain org.openvinotoolkit is what NNCF wrote first, QuantizeLinear and
DequantizeLinear what it and others write today. In both the weights stay 32-bit floats in the
file, with the quantiser behind them, as NNCF exports them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from minseg.weights.build import NetworkBuilder, Tensor, measured

Notation = Literal["qdq", "fakequantize"]


@dataclass(frozen=True)
class Grid:
    """The numbers ``scale`` * q for integers q from ``low`` to ``high``.

    ``scale`` is a scalar, or one per output channel [M, 1, 1, 1] for weights.
    """

    scale: np.ndarray
    low: int
    high: int

    @classmethod
    def for_activations(cls, sample: np.ndarray) -> Grid:
        """Unsigned where ``sample`` has no negative value, else signed and symmetric."""
        low, high = (0, 255) if sample.min() >= 0 else (-128, 127)
        return cls(measured(np.abs(sample).max() / high), low, high)

    @classmethod
    def for_weights(cls, weights: np.ndarray) -> Grid:
        """Signed and symmetric for each output channel, without -128."""
        largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
        return cls(measured(largest / 127), -127, 127)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """``x`` rounded to this grid, ties to even multiples."""
        rounded = np.clip(np.rint(x / self.scale), self.low, self.high) * self.scale
        return rounded.astype(np.float32)


class QuantizedBuilder(NetworkBuilder):
    """A builder whose convolutions have quantised weights, with `quantize` for activations."""

    def __init__(self, seed: int, notation: Notation):
        super().__init__(seed)
        self.notation = notation

    def weight(self, name: str, weights: np.ndarray) -> Tensor:
        return self._quantize(super().weight(name, weights), Grid.for_weights(weights))

    def quantize(self, x: Tensor) -> Tensor:
        """``x`` on a grid that reaches as far as its sample."""
        return self._quantize(x, Grid.for_activations(x.sample))

    def _quantize(self, x: Tensor, grid: Grid) -> Tensor:
        write = self._qdq if self.notation == "qdq" else self._fake_quantize
        return write(x, grid)

    def _qdq(self, x: Tensor, grid: Grid) -> Tensor:
        name = self.next_name("QuantizeLinear")
        dtype = np.uint8 if grid.low == 0 else np.int8
        scale = grid.scale.reshape(-1) if grid.scale.ndim else grid.scale
        zero = np.zeros(scale.shape, dtype)
        constants = (self.constant(f"{name}.scale", scale), self.constant(f"{name}.zero", zero))
        axis = {"axis": 0} if scale.ndim else {}
        integers = np.rint(grid.nearest(x.sample) / grid.scale).astype(dtype)
        quantized = self.op("QuantizeLinear", x, *constants, sample=integers, **axis)
        sample = grid.nearest(x.sample)
        return self.op("DequantizeLinear", quantized, *constants, sample=sample, **axis)

    def _fake_quantize(self, x: Tensor, grid: Grid) -> Tensor:
        name = self.next_name("FakeQuantize")
        low = self.constant(f"{name}.low", (grid.low * grid.scale).astype(np.float32))
        high = self.constant(f"{name}.high", (grid.high * grid.scale).astype(np.float32))
        return self.op(
            "FakeQuantize",
            *(x, low, high, low, high),
            domain="org.openvinotoolkit",
            sample=grid.nearest(x.sample),
            levels=grid.high - grid.low + 1,
        )
