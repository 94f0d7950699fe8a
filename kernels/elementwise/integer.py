"""Element-wise operators on bytes, element by element of tensors that lie alike.

`add_u8` adds two tensors that stand for numbers (see quantised.py), each with a scale of its own,
in the order of roundings that the problem names (see `IntegerAdd`). `lookup_u8` is any function of
one byte: its 256 results come in a table.

Plain or blocked, memory is one long run of elements.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from minseg.kernels.core.grid import Bytes, Grid, centred, divided_sum, fused_sum, rounded
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import blocked_shape
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape, claim, load, look_up, store
from minseg.kernels.isa.target import target

#: Vectors worked on at once: enough to hide a division's latency.
ROWS = 4
#: Elements that one work item covers.
ITEM_ELEMENTS = 32768


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


def add(lanes: int, fused: bool) -> Callable[..., None]:
    """The kernel for sums."""
    total = fused_sum if fused else divided_sum
    many, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, 1)
    many_bytes, single_byte = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")
    step = ROWS * lanes

    def kernel(
        thread, work, a, b, y, count, items,
        a_scale: float, a_zero: float, b_scale: float, b_zero: float,
        scale: float, shift: float, zero_point, low: float, high: float,
    ):  # fmt: skip
        item = claim(work)
        while item < items:
            at = item * ITEM_ELEMENTS
            last = min(count, at + ITEM_ELEMENTS)
            while at + step <= last:
                first = centred(many, load(many_bytes, a + at, lanes, 0), a_zero)
                second = centred(many, load(many_bytes, b + at, lanes, 0), b_zero)
                ratio = total(many, first, second, a_scale, b_scale, scale, shift)
                result = rounded(many, ratio, zero_point, low, high)
                store(result, y + at, lanes, 0)
                at += step
            while at < last:
                first = centred(single, load(single_byte, a + at, 0, 0), a_zero)
                second = centred(single, load(single_byte, b + at, 0, 0), b_zero)
                ratio = total(single, first, second, a_scale, b_scale, scale, shift)
                result = rounded(single, ratio, zero_point, low, high)
                store(result, y + at, 0, 0)
                at += 1
            item = claim(work)

    return kernel


def lookup(lanes: int) -> Callable[..., None]:
    """The kernel for functions of one byte; ``table`` is [256]."""
    many, single = TileShape(ROWS, 1, 4 * lanes, "u8"), TileShape(1, 1, 1, "u8")
    step = ROWS * 4 * lanes

    def kernel(thread, work, x, y, table, count, items):
        item = claim(work)
        while item < items:
            at = item * ITEM_ELEMENTS
            last = min(count, at + ITEM_ELEMENTS)
            while at + step <= last:
                tile = load(many, x + at, 4 * lanes, 0)
                store(look_up(tile, table), y + at, 4 * lanes, 0)
                at += step
            while at < last:
                store(look_up(load(single, x + at, 0, 0), table), y + at, 0, 0)
                at += 1
            item = claim(work)

    return kernel


def prepare_add_plain(problem: IntegerAdd) -> Launch:
    """No constants."""
    return _add(problem, problem.shape)


def prepare_add_blocked(problem: IntegerAdd) -> Launch:
    """No constants."""
    return _add(problem, _stored(problem.shape))


def _add(problem: IntegerAdd, stored: tuple[int, ...]) -> Launch:
    q = problem
    grids = [v for g in (q.a, q.b) for v in (g.scale, float(g.zero_point))]
    return Launch(
        Code(add, (target().lanes, q.shift is not None)),
        (
            *(Operand("input", 0), Operand("input", 1), Operand("output")),
            *(*_run(stored), *grids, q.scale, q.shift or 0.0, *q.y.arguments),
        ),
    )


def prepare_lookup_plain(problem: Lookup, table: np.ndarray) -> Launch:
    """``table`` [256] u8."""
    return _lookup(problem.shape, table)


def prepare_lookup_blocked(problem: Lookup, table: np.ndarray) -> Launch:
    """``table`` [256] u8."""
    return _lookup(_stored(problem.shape), table)


def _lookup(stored: tuple[int, ...], table: np.ndarray) -> Launch:
    operands = Operand("input"), Operand("output"), Operand("constant")
    code = Code(lookup, (target().lanes,))
    return Launch(code, (*operands, *_run(stored)), (np.ascontiguousarray(table),))


def _run(stored: tuple[int, ...]) -> tuple[int, int]:
    """Elements and work items."""
    count = prod(stored)
    return count, -(-count // ITEM_ELEMENTS)


def _stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    N, C, H, W = shape
    return blocked_shape((N, C, H, W))


def _is_picture(problem: IntegerAdd | Lookup) -> bool:
    return len(problem.shape) == 4


def plain_cost(problem: IntegerAdd | Lookup) -> float:
    """Nanoseconds: memory traffic, and one element after the other in a table where whole vectors
    can't be looked up."""
    return prod(problem.shape) * _ns_per_element(problem)


def blocked_cost(problem: IntegerAdd | Lookup) -> float:
    """Nanoseconds: as `plain_cost`, the unused channels counted."""
    return prod(_stored(problem.shape)) * _ns_per_element(problem)


def _ns_per_element(problem: IntegerAdd | Lookup) -> float:
    if isinstance(problem, Lookup):
        return NS_PER_LOOKED_UP if look_up in target().isa.words else NS_PER_SINGLE
    return NS_PER_SUM


NS_PER_SUM, NS_PER_LOOKED_UP, NS_PER_SINGLE = 0.15, 0.06, 0.4

KERNELS = (
    Kernel("add_u8_plain", IntegerAdd, prepare_add_plain, "plain", "plain", cost=plain_cost),
    Kernel(
        "add_u8_blocked", IntegerAdd, prepare_add_blocked, "blocked", "blocked",
        _is_picture, blocked_cost,
    ),
    Kernel("lookup_u8_plain", Lookup, prepare_lookup_plain, "plain", "plain", cost=plain_cost),
    Kernel(
        "lookup_u8_blocked", Lookup, prepare_lookup_blocked, "blocked", "blocked",
        _is_picture, blocked_cost,
    ),
)  # fmt: skip
