"""How convolutions of bytes end: what becomes of exact sums of integers.

A sum s of channel c is f = s * scale[c] + shift[c] in f32, rounded once; where the scale is known
only in a run (see late.py) twice, as operators of floats round. A convolution that gives bytes
rounds f to the nearest integer, halves to even, adds the zero point and clamps; ReLU and Clip are
bounds of that clamp. Other bytes may be added to these, as `add_u8` does it, before they are
stored. One that gives floats applies its activation to f.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.activation import Activation
from minseg.kernels.core.grid import (
    Bytes,
    Grid,
    centred,
    divided_sum,
    fused_sum,
    fused_sum_of_last,
    rounded,
)
from minseg.kernels.core.jit import inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.isa.simd import as_f32, clamp, fill, load, round_even
from minseg.kernels.isa.target import target


@dataclass(frozen=True)
class Residual:
    """What is added to the bytes ``own``, which stand for numbers of ``grid``: bytes of the grid
    ``z``. ``scale`` and ``shift`` are those of an `IntegerAdd` of both, whose second operand is
    ``own`` where this comes ``last``."""

    own: Bytes
    grid: Grid
    z: Grid
    scale: float
    shift: float | None = None
    last: bool = False

    @property
    def addition(self) -> str:
        """A key of `SUMS`."""
        if self.shift is None:
            return "divided"
        return "fused_last" if self.last else "fused"


#: How the bytes that a convolution makes are added to others.
SUMS = {"divided": divided_sum, "fused": fused_sum, "fused_last": fused_sum_of_last}


class Ending(NamedTuple):
    """What f becomes: bytes, by the first three (see `rounded`), or the activation of f with alpha
    and beta."""

    zero_point: int
    low: float
    high: float
    alpha: float
    beta: float


class Addition(NamedTuple):
    """How other bytes are added: the bounds of own ones, what leads from these to the numbers that
    are added, and the others' scale and zero point; then what `SUMS` take."""

    own_low: float
    own_high: float
    own_offset: float
    own_scale: float
    z_scale: float
    z_zero: float
    scale: float
    shift: float


def ending_arguments(y: Bytes | None, activation: Activation) -> Sequence[int | float]:
    """The fields of `Ending`."""
    return *(y or Bytes()).arguments, activation.alpha, activation.beta


def addition_arguments(residual: Residual | None) -> Sequence[float]:
    """The fields of `Addition`."""
    r = residual or Residual(Bytes(), Grid(1.0, 0), Grid(1.0, 0), 1.0)
    own = *r.own.arguments[1:], float(r.own.zero_point - r.grid.zero_point), r.grid.scale
    return *own, r.z.scale, float(r.z.zero_point), r.scale, r.shift or 0.0


def per_channel(values: np.ndarray, OC: int) -> np.ndarray:
    """``values`` [OC] filled up with zeros to whole vectors."""
    return aligned(np.pad(values, (0, blocks(OC) * target().lanes - OC)))


@inline
def multiplied_then_added(a, b, c):
    """a·b + c, rounded twice."""
    return a * b + c


@inline
def scaled(add, shape, sums, scale, shift, col_bytes):
    """f, a tile of ``shape``, of sums whose channels' ``scale`` and ``shift`` lie at these
    addresses; ``add`` is `fma` or `multiplied_then_added`."""
    factor, offset = load(shape, scale, 0, col_bytes), load(shape, shift, 0, col_bytes)
    return add(as_f32(sums), factor, offset)


@inline
def with_residual(add, shape, f, z, terms):
    """The sum, by ``add``, of the bytes that ``f`` is rounded to and of the bytes ``z``; ``terms``
    are an `Addition`."""
    limited = clamp(f, fill(shape, terms.own_low), fill(shape, terms.own_high))
    return add(
        shape,
        round_even(limited) + fill(shape, terms.own_offset),
        centred(shape, z, terms.z_zero),
        terms.own_scale,
        terms.z_scale,
        terms.scale,
        terms.shift,
    )


@inline
def as_bytes(activate, shape, f, ending):
    """The bytes that ``f`` becomes; ``activate`` is not asked."""
    return rounded(shape, f, ending.zero_point, ending.low, ending.high)


@inline
def as_floats(activate, shape, f, ending):
    """What ``activate`` makes of ``f``."""
    return activate(shape, f, ending.alpha, ending.beta)
