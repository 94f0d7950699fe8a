"""How convolutions end: what becomes of their sums before they are stored, floats and bytes alike.

A sum of floats, its bias included, may have a residual added, is activated and stored. A sum of
integers is rescaled first: f = sum * scale[c] + shift[c] in f32, rounded once; where the scale is
known only in a run (`Dynamic`) twice, as operators of floats round. Then f is activated and stored
as floats, or rounded to the nearest integer, halves to even, moved by the zero point and clamped;
ReLU and Clip are bounds of that clamp. Other bytes may be added to these, as `IntegerAdd` does it,
before they are stored.

Where the bias of floats enters, first or last, is up to the kernel, since that decides how sums are
rounded. Which code an epilogue needs, its `EpilogueCode`, is a parameter of the kernel's factory;
functions that differ by it are made and kept by `finisher` and `quantiser`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from minseg.kernels.core.activation import FORMULAS, Activation
from minseg.kernels.core.arguments import Address
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
from minseg.kernels.isa.simd import (
    TileShape,
    clamp,
    fill,
    fma,
    load,
    load_f32,
    load_rows,
    load_u8,
    round_even,
    store,
)
from minseg.kernels.isa.target import target


@dataclass(frozen=True)
class Residual:
    """Bytes of the grid ``z`` are added to the bytes ``own``, which stand for numbers of ``grid``.
    ``scale`` and ``shift`` are those of an `IntegerAdd` of both, whose second operand is ``own``
    where this comes ``last``."""

    own: Bytes
    grid: Grid
    z: Grid
    scale: float
    shift: float | None = None
    last: bool = False


#: How the bytes that a convolution makes are added to others.
SUMS = {"divided": divided_sum, "fused": fused_sum, "fused_last": fused_sum_of_last}


@dataclass(frozen=True)
class EpilogueCode:
    """What of an epilogue shapes the machine code. ``residual`` is a key of `SUMS`, "floats", or
    empty where nothing is added."""

    activation: str
    residual: str
    to_bytes: bool
    dynamic: bool = False

    @property
    def itemsize(self) -> int:
        """Bytes of what is stored."""
        return 1 if self.to_bytes else 4

    @property
    def rescale(self) -> Callable[..., Any]:
        """The function that makes sum * scale + shift of three tiles of f32."""
        return multiplied_then_added if self.dynamic else fma


class ResidualArguments(NamedTuple):
    """How bytes are added: the bounds of own ones, what leads from these to the numbers that are
    added, and the others' scale and zero point; then what `SUMS` take."""

    own_low: float
    own_high: float
    own_offset: float
    own_scale: float
    z_scale: float
    z_zero: float
    scale: float
    shift: float


class EpilogueArguments(NamedTuple):
    """The residual; a vector for each block of channels of scales, and of biases or shifts; then
    parameters of the store (see `rounded`), of the activation and of the residual."""

    z: Address
    scale: Address
    shift: Address
    zero_point: int
    low: float
    high: float
    alpha: float
    beta: float
    residual: ResidualArguments


@dataclass(frozen=True)
class Epilogue:
    """What becomes of a convolution's sums. ``residual`` says whether floats are added, or how
    bytes are. ``store`` are the bytes that results become, None where they stay floats: only there
    is ``activation`` applied."""

    activation: Activation = field(default_factory=Activation)
    residual: Residual | bool = False
    store: Bytes | None = None

    def code(self, dynamic: bool = False) -> EpilogueCode:
        added = "floats" if self.residual else ""
        if isinstance(self.residual, Residual):
            fused = "fused_last" if self.residual.last else "fused"
            added = "divided" if self.residual.shift is None else fused
        return EpilogueCode(self.activation.kind, added, self.store is not None, dynamic)

    def arguments(
        self,
        z: Any,
        channels: int,
        shift: np.ndarray | None = None,
        scale: np.ndarray | None = None,
    ) -> EpilogueArguments:
        """Of a residual ``z``, and of so many channels' ``shift``, or bias, and ``scale``; 0 in the
        place of what there isn't."""
        r = self.residual
        if not isinstance(r, Residual):
            r = Residual(Bytes(), Grid(1.0, 0), Grid(1.0, 0), 1.0)
        own = *r.own.arguments[1:], float(r.own.zero_point - r.grid.zero_point), r.grid.scale
        return EpilogueArguments(
            z,
            0 if scale is None else per_channel(scale, channels),
            0 if shift is None else per_channel(shift, channels),
            *(self.store or Bytes()).arguments,
            self.activation.alpha,
            self.activation.beta,
            ResidualArguments(*own, r.z.scale, float(r.z.zero_point), r.scale, r.shift or 0.0),
        )


def per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """``values`` [channels] filled up with zeros to whole vectors."""
    return aligned(np.pad(values, (0, blocks(channels) * target().lanes - channels)))


class Place(NamedTuple):
    """Where a tile lies in the output and in the residual: from byte ``at`` on, and no more than
    its first ``rows`` rows."""

    at: int
    row_bytes: int
    col_bytes: int
    rows: int


@cache
def finisher(code: EpilogueCode, shape: TileShape) -> Callable[..., Any]:
    """The function that makes of a tile of f32 of ``shape``, sums with their bias or rescaled sums,
    what is stored at a `Place`; it takes these and `EpilogueArguments`."""
    activate, add = FORMULAS[code.activation], SUMS.get(code.residual, divided_sum)
    adds_floats, adds_bytes = code.residual == "floats", code.residual in SUMS
    to_bytes, octets = code.to_bytes, replace(shape, dtype="u8")

    @inline
    def finish(f, place, e):
        if adds_floats:
            f = f + load_rows(shape, e.z + place.at, place.row_bytes, place.col_bytes, place.rows)
        if adds_bytes:
            z = load_rows(octets, e.z + place.at, place.row_bytes, place.col_bytes, place.rows)
            f = with_residual(add, shape, f, z, e.residual)
        if to_bytes:
            return rounded(shape, f, e.zero_point, e.low, e.high)
        return activate(shape, f, e.alpha, e.beta)

    return finish


@inline
def with_residual(add, shape, f, z, r):
    """The sum, by ``add``, of the bytes that ``f`` is rounded to and of the bytes ``z``; ``r`` are
    `ResidualArguments`."""
    limited = clamp(f, fill(shape, r.own_low), fill(shape, r.own_high))
    own = round_even(limited) + fill(shape, r.own_offset)
    other = centred(shape, z, r.z_zero)
    return add(shape, own, other, r.own_scale, r.z_scale, r.scale, r.shift)


@inline
def multiplied_then_added(a, b, c):
    """a·b + c, rounded twice."""
    return a * b + c


class Dynamic(NamedTuple):
    """Of an input that is quantised dynamically, its zero point and a factor of all scales being
    known only in a run: the addresses of the former, a byte, and of the latter, f32; and of the
    sums of the weights that each of ``starts`` vectors of sums takes the zero point's share of."""

    zero_point: Address = 0
    factor: Address = 0
    totals: Address = 0
    starts: int = 0
    blocks: int = 0

    @property
    def bytes(self) -> int:
        """Scratch memory for a `Quantisation`."""
        return (self.starts + self.blocks + 1) * 4 * target().lanes


class Quantisation(NamedTuple):
    """What sums start at, scales, and a vector of the input's zero points."""

    start: Address
    scale: Address
    pixel: Address


@cache
def quantiser(dynamic: bool, lanes: int) -> Callable[..., Any]:
    """The function that finds a `Quantisation` among a kernel's constants, or makes it of them, in
    the thread's scratch memory right before ``end``: sums start at less by the zero point times
    ``totals``, scales are multiplied by the factor."""
    vector, sums, octets = (TileShape(1, 1, lanes, dtype) for dtype in ("f32", "i32", "u8"))
    V = vector.bytes

    @inline
    def quantise(end, start, pixel, e, d):
        if dynamic:
            pixels = end - V
            scales = pixels - d.blocks * V
            starts = scales - d.starts * V
            zero_point, factor = load_u8(d.zero_point), load_f32(d.factor)
            for at in range(0, d.starts * V, V):
                share = load(sums, d.totals + at, 0, 0) * fill(sums, zero_point)
                store(load(sums, start + at, 0, 0) - share, starts + at, 0, 0)
            for at in range(0, d.blocks * V, V):
                scaled = load(vector, e.scale + at, 0, 0) * fill(vector, factor)
                store(scaled, scales + at, 0, 0)
            store(fill(octets, zero_point), pixels, 0, 0)
            return Quantisation(starts, scales, pixels)
        return Quantisation(start, e.scale, pixel)

    return quantise
