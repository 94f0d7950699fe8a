"""Element-wise operators on bytes, element by element of tensors that lie alike.

`add_u8` adds two tensors that stand for numbers (see grid.py), each with a scale of its own,
in the order of roundings that the problem names (see `IntegerAdd`). `lookup_u8` is any function of
one byte: its 256 results come in a table.

Plain or blocked, memory is one long run of elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.grid import (
    Bytes,
    Grid,
    Limits,
    centred,
    divided_sum,
    fused_sum,
    rounded,
)
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import Layout
from minseg.kernels.core.registry import Launch, Operand
from minseg.kernels.core.runs import ROWS, elements, kernels_of_run, over_run
from minseg.kernels.isa.simd import TileShape, load, look_up, store
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates


@dataclass(frozen=True)
class IntegerAdd:
    """y = clip(round((a + b) / scale) + zero_point), of tensors of ``shape``, halves to even.

    a and b are rounded to f32, and so is their sum: what the operators of floats between
    dequantisers and a quantiser give. With a ``shift`` ``scale`` is 1, and what is rounded is
    a + (b + shift), whose products are added unrounded: what QLinearAdd gives.
    """

    shape: tuple[int, ...]
    a: Grid
    b: Grid
    scale: float
    y: Bytes
    shift: float | None = None

    @property
    def flops(self) -> int:
        """One operation an element."""
        return prod(self.shape)


@dataclass(frozen=True)
class Lookup:
    """y = table[x] of a tensor of ``shape``."""

    shape: tuple[int, ...]


class AddArguments(NamedTuple):
    size: int
    a_scale: float
    a_zero: float
    b_scale: float
    b_zero: float
    scale: float
    shift: float
    limits: Limits
    a: Address = Operand("input", 0)
    b: Address = Operand("input", 1)
    y: Address = Operand("output")


class LookupArguments(NamedTuple):
    """``table`` is [256]."""

    table: Address
    size: int
    x: Address = Operand("input")
    y: Address = Operand("output")


@inline
def add_tiles(shape, octets, at, total, a):
    first = centred(shape, load(octets, a.a + at, octets.bytes, 0), a.a_zero)
    second = centred(shape, load(octets, a.b + at, octets.bytes, 0), a.b_zero)
    ratio = total(shape, first, second, a.a_scale, a.b_scale, a.scale, a.shift)
    result = rounded(shape, ratio, a.limits.zero_point, a.limits.low, a.limits.high)
    store(result, a.y + at, octets.bytes, 0)


@inline
def look_up_tile(shape, octets, at, table, a):
    tile = load(octets, a.x + at, octets.bytes, 0)
    store(look_up(tile, table), a.y + at, octets.bytes, 0)


def add(lanes: int, fused: bool) -> Callable[..., None]:
    """The kernel for sums."""
    total = fused_sum if fused else divided_sum
    many, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, 1)
    many_octets, octet = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")

    def kernel(thread, work, a: AddArguments):
        over_run(many, many_octets, single, octet, add_tiles, total, work, a)

    return kernel


def lookup(lanes: int) -> Callable[..., None]:
    """The kernel for functions of one byte."""
    many, octet = TileShape(ROWS, 1, 4 * lanes, "u8"), TileShape(1, 1, 1, "u8")

    def kernel(thread, work, a: LookupArguments):
        over_run(many, many, octet, octet, look_up_tile, a.table, work, a)

    return kernel


def prepare_add(layout: Layout, problem: IntegerAdd) -> Launch:
    """No constants."""
    q = problem
    return Launch(
        Code(add, (target().lanes, q.shift is not None)),
        AddArguments(
            size=elements(q, layout),
            a_scale=q.a.scale,
            a_zero=float(q.a.zero_point),
            b_scale=q.b.scale,
            b_zero=float(q.b.zero_point),
            scale=q.scale,
            shift=q.shift or 0.0,
            limits=q.y.arguments,
        ),
    )


def prepare_lookup(layout: Layout, problem: Lookup, table: np.ndarray) -> Launch:
    """``table`` [256] u8."""
    return Launch(
        Code(lookup, (target().lanes,)),
        LookupArguments(np.ascontiguousarray(table), size=elements(problem, layout)),
    )


class AddRates(NamedTuple):
    """One sum of two bytes."""

    element: float


class LookupRates(NamedTuple):
    """One byte, of a vector that is looked up at once, or alone."""

    in_vectors: float
    alone: float


def add_cost(layout: Layout, problem: IntegerAdd) -> float:
    """Nanoseconds: memory traffic."""
    return elements(problem, layout) * rates("add_u8", AddRates).element


def lookup_cost(layout: Layout, problem: Lookup) -> float:
    """Nanoseconds: memory traffic, or one element after the other in a table where whole vectors
    can't be looked up."""
    r = rates("lookup_u8", LookupRates)
    ns = r.in_vectors if look_up in target().isa.words else r.alone
    return elements(problem, layout) * ns


KERNELS = (
    *kernels_of_run("add_u8", IntegerAdd, prepare_add, add_cost),
    *kernels_of_run("lookup_u8", Lookup, prepare_lookup, lookup_cost),
)
