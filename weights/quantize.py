"""Quantised networks under construction, in the two notations that exporters write, or in floats.

`FakeQuantize` of the domain org.openvinotoolkit is what NNCF wrote first, QuantizeLinear and
DequantizeLinear what it and others write today. In both the weights stay 32-bit floats in the
file, with the quantiser behind them, as NNCF exports them. The notation "float" leaves every
quantiser out: the same network before it was quantised.

Rounding to integers amplifies last-bit differences without bound: one value rounded the other
way changes hundreds behind it by a little, some of which then round the other way too. A trained
network's wide margins hide that; a synthetic one has none, and two correct engines would soon
disagree on many pixels. So the numbers here are fitted such that no sum lies near the middle
between two integers: before rounding, values are multiples of 1/D for an odd D of each channel,
which keeps them 1/(2 D) away from it. That is far above the rounding error of 32-bit floats, so
every correct engine rounds alike, and one that is off by one unit in a sum shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from minseg.errors import InputError
from minseg.weights.network import EPSILON, NetworkBuilder, Tensor, measured, statistics

Notation = Literal["qdq", "fakequantize", "float"]
NOTATIONS: tuple[Notation, ...] = get_args(Notation)


def check_notation(notation: str) -> None:
    """Raise InputError for one that is not in NOTATIONS."""
    if notation not in NOTATIONS:
        raise InputError(f"notation must be one of {', '.join(NOTATIONS)}, not '{notation}'")


#: Scales that meet in an addition are whole multiples of one unit; most are this many.
STEPS = 64


@dataclass(frozen=True)
class Quantized(Tensor):
    """A value whose samples are ``unit * steps`` times integers of 8 bits."""

    unit: float
    steps: int

    @property
    def scale(self) -> float:
        return self.unit * self.steps


@dataclass(frozen=True)
class Grid:
    """The numbers ``scale`` * q for integers q from ``low`` to ``high``.

    ``scale`` is a float32 scalar [], or one per output channel [M], which is ``axis`` of the
    weights: [M, C, KH, KW] of a convolution, [C, M, KH, KW] of a transposed one.
    """

    scale: np.ndarray
    low: int
    high: int
    axis: int = 0

    @classmethod
    def for_values(cls, scale: float, signed: bool) -> Grid:
        low, high = (-128, 127) if signed else (0, 255)
        return cls(np.array(scale, np.float32), low, high)

    @classmethod
    def for_weights(cls, weights: np.ndarray, axis: int = 0) -> Grid:
        """Symmetric, without -128, and as wide as each channel."""
        largest = np.abs(weights).max(axis=(1 - axis, 2, 3))
        return cls(measured(largest / 127), -127, 127, axis)

    @property
    def broadcast(self) -> np.ndarray:
        """The scale in a shape that broadcasts with what it scales."""
        return self.scale.reshape(-1, *[1] * (3 - self.axis)) if self.scale.ndim else self.scale

    @property
    def zero_point(self) -> np.ndarray:
        """What stands for 0 as int8 or uint8, in the shape of the scale."""
        signed = self.high == 127
        return np.full(
            self.scale.shape, 0 if signed else -self.low, np.int8 if signed else np.uint8
        )

    def integers(self, x: np.ndarray) -> np.ndarray:
        """The integers q nearest to ``x``, as floats."""
        rounded: np.ndarray = np.clip(np.rint(x / self.broadcast), self.low, self.high)
        return rounded


def odd(x: Any) -> Any:
    """The odd integers next to ``x``, which is positive."""
    return 2 * np.floor(x / 2) + 1


class QuantizedBuilder(NetworkBuilder):
    """A builder of networks whose convolutions take 8-bit integers and give them."""

    def __init__(self, seed: int, notation: Notation):
        super().__init__(seed)
        self.notation = notation

    def quantize(
        self, x: Tensor, unit: float, steps: int = STEPS, low: int | None = None
    ) -> Quantized:
        """``x`` rounded to multiples of ``unit * steps``: 256 of them from ``low`` on, or as many
        as there are of one sign if its sample is of one, else of both."""
        grid = Grid.for_values(unit * steps, signed=bool(x.sample.min() < 0))
        if low is not None:
            grid = Grid(grid.scale, low, low + 255)
        y = self._quantize(x, grid)
        return Quantized(y.name, y.sample, unit, steps)

    def requantize(self, x: Tensor, like: Quantized) -> Quantized:
        """``x``, whose values are on the grid of ``like``, with a quantiser of its own."""
        return self.quantize(x, like.unit, like.steps)

    def average(self, x: Tensor, of: Quantized) -> Quantized:
        """``x``, averages of ``of``, quantised to odd steps: a sum over 2^n times an odd number
        of values, n up to 6, is then never in the middle between two."""
        return self.quantize(x, of.unit, of.steps + 1)

    def sum(self, x: Tensor, of: tuple[Quantized, Quantized]) -> Quantized:
        """``x``, the sum ``of`` two values, quantised.

        On one grid their sum is exact. Else both are whole units, and odd steps, as many as the
        sum needs, keep it from the middle between two.
        """
        first, second = of
        if first.steps == second.steps:
            return self.quantize(x, first.unit, first.steps)
        needed = int(odd(x.sample.max() / (255 * first.unit))) + 2
        return self.quantize(x, first.unit, needed)

    def conv_layer(
        self,
        x: Quantized,
        weights: np.ndarray,
        *,
        relu: bool,
        like: Quantized | None = None,
        low: int | None = None,
        **attributes: Any,
    ) -> Quantized:
        """Conv, BatchNormalization, Relu if asked for, and a quantiser (see `quantize`).

        The quantiser's scale follows from the sample, or is that of ``like``, to which the result
        will be added.
        """
        grid = Grid.for_weights(weights)
        y = self.quantized_conv(x, weights, grid, **attributes)
        mean, variance = statistics(y.sample)
        deviation = np.sqrt(variance.astype(np.float64) + EPSILON)
        wanted, shift = self.affine(y.channels, like)
        gain = wanted / deviation
        if like is None:
            offset, levels = shift - mean * gain, 255 + (low or 0)
            unit, steps = self._scale_for(y.sample, gain, offset, relu, levels) / STEPS, STEPS
        else:
            unit, steps = like.unit, like.steps
        fit = Fit(x.scale * grid.scale, unit * steps, gain)
        gain, offset = fit.gain, fit.offset(shift - mean * gain)
        y = self.normalise(y, gain * deviation, offset + mean * gain, mean, variance)
        return self.quantize(self.relu(y) if relu else y, unit, steps, low)

    def transposed_layer(
        self,
        x: Quantized,
        weights: np.ndarray,
        bias: np.ndarray,
        like: Quantized,
        low: int,
        **attributes: Any,
    ) -> Quantized:
        """ConvTranspose with ``weights`` [C, M, KH, KW], a bias, and the quantiser of ``like``,
        whose integers begin at ``low`` and with which the result will be joined."""
        plain = self._apply("ConvTranspose", [x.sample, weights], attributes)
        deviation = statistics(plain)[1] ** 0.5
        grid = Grid.for_weights(weights, axis=1)
        fit = Fit(x.scale * grid.scale, like.scale, -low / 3 * like.scale / deviation)
        fitted = Grid((fit.gain * grid.scale).astype(np.float32), grid.low, grid.high, axis=1)
        offset = fit.offset(bias * fit.gain * deviation).astype(np.float32)
        y = self.quantized_conv(
            x, grid.integers(weights) * fitted.broadcast, fitted, offset, "ConvTranspose",
            **attributes,
        )  # fmt: skip
        return self.quantize(y, like.unit, like.steps, low)

    def quantized_classifier(self, x: Quantized, classes: int) -> Quantized:
        """The last convolution as in `classifier`, 1x1, its weights and its logits quantised."""
        weights, bias = self.fit_classifier(x, classes, kernel=1)
        logits = self.response(x, weights) + bias[:, None]
        scale = float(measured(np.abs(logits).max() / 127))
        grid = Grid.for_weights(weights)
        fit = Fit(x.scale * grid.scale, scale, np.ones(classes))
        fitted = Grid((fit.gain * grid.scale).astype(np.float32), grid.low, grid.high)
        weights = grid.integers(weights) * fitted.broadcast
        y = self.quantized_conv(x, weights, fitted, fit.offset(bias).astype(np.float32))
        return self.quantize(y, scale / STEPS)

    def quantized_conv(
        self,
        x: Quantized,
        weights: np.ndarray,
        grid: Grid,
        bias: np.ndarray | None = None,
        op: str = "Conv",
        **attributes: Any,
    ) -> Tensor:
        """Conv, or ConvTranspose, with the numbers of ``grid`` that are nearest to ``weights``."""
        name = self.next_name(op)
        exact = (grid.integers(weights) * grid.broadcast).astype(np.float32)
        inputs = [x, self._quantize(self.constant(f"{name}.weight", exact), grid)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
        return self.op(op, *inputs, **attributes)

    def _scale_for(
        self, sample: np.ndarray, gain: np.ndarray, offset: np.ndarray, relu: bool, levels: int
    ) -> float:
        """The scale whose 8 bits, or ``levels`` behind a ReLU, just hold ``sample`` [N, C, H, W] *
        gain [C] + offset [C]."""
        low, high = (f(axis=(0, 2, 3)) * gain + offset for f in (sample.min, sample.max))
        largest = high.max() / levels if relu else max(high.max(), -low.min()) / 127
        return float(measured(largest))

    def _quantize(self, x: Tensor, grid: Grid) -> Tensor:
        if self.notation == "float":
            return x
        write = self._qdq if self.notation == "qdq" else self._fake_quantize
        return write(x, grid)

    def _qdq(self, x: Tensor, grid: Grid) -> Tensor:
        name = self.next_name("QuantizeLinear")
        constants = (
            self.constant(f"{name}.scale", grid.scale),
            self.constant(f"{name}.zero_point", grid.zero_point),
        )
        axis: dict[str, Any] = {"axis": grid.axis} if grid.scale.ndim else {}
        integers = grid.integers(x.sample)
        stored = (integers + grid.zero_point.flat[0]).astype(grid.zero_point.dtype)
        y = self.op("QuantizeLinear", x, *constants, sample=stored, **axis)
        sample = (integers * grid.broadcast).astype(np.float32)
        return self.op("DequantizeLinear", y, *constants, sample=sample, **axis)

    def _fake_quantize(self, x: Tensor, grid: Grid) -> Tensor:
        name = self.next_name("FakeQuantize")
        low = self.constant(f"{name}.low", (grid.low * grid.broadcast).astype(np.float32))
        high = self.constant(f"{name}.high", (grid.high * grid.broadcast).astype(np.float32))
        return self.op(
            "FakeQuantize",
            *(x, low, high, low, high),
            domain="org.openvinotoolkit",
            sample=(grid.integers(x.sample) * grid.broadcast).astype(np.float32),
            levels=grid.high - grid.low + 1,
        )


class Fit:
    """Fits a convolution's factors and offsets [M] to quantised values before and behind it.

    Its sums are multiples of ``unit`` [M], the results are rounded to multiples of ``scale``.
    Behind the ``gain`` nearest to what is wanted, a unit is 1/D of the scale with D odd.
    """

    def __init__(self, unit: np.ndarray, scale: float, wanted_gain: np.ndarray):
        unit = unit.astype(np.float64)
        self._divisor = odd(scale / (unit * wanted_gain))
        self._scale = scale
        self.gain = scale / (unit * self._divisor)

    def offset(self, wanted: np.ndarray) -> np.ndarray:
        """The multiples of 1/D of the scale nearest to ``wanted``."""
        nearest: np.ndarray = np.rint(wanted / self._scale * self._divisor)
        offset: np.ndarray = nearest / self._divisor * self._scale
        return offset
