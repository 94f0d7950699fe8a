"""The grid of bytes for what a tensor of f32 holds, as DynamicQuantizeLinear defines it.

`dynamic_grid_f32_*` find the least and the largest number, or 0, of the chunks of memory that are
their work items. Whoever finishes the last chunk makes scale and zero point of all chunks' limits:
none of the least is above 0 and none of the largest below, so these need not be told apart.

Layouts: x plain, or blocked [N][ceil(C/L)][H][W][L], of which channels past C don't count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.grid import rounded
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout, blocks
from minseg.kernels.core.registry import Launch, Operand
from minseg.kernels.core.runs import elements, kernels_of_run
from minseg.kernels.isa.simd import (
    TileShape,
    atomic_add,
    claim,
    fill,
    lane,
    load,
    load_lanes,
    lower_half,
    maximum,
    minimum,
    select_less,
    store,
    upper_half,
    zeros,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Vectors worked on at once: enough to hide the latency of a minimum.
ROWS = 4
#: Elements that one work item covers, about: whole tiles of any CPU's vectors.
ITEM_ELEMENTS = 4096
#: What a finished work item adds to the counter, which counts those claimed below it.
FINISHED = 2**32


@dataclass(frozen=True)
class DynamicGrid:
    """scale = (largest - least) / 255 of a tensor of ``shape``, 1 where that is 0 or no number, and
    the zero point, a byte: round(-least / scale), limited to 0 … 255. Least and largest hold 0."""

    shape: tuple[int, ...]


@inline
def across_lanes(combine, vector, single, tile):
    """One element of all those of ``tile``."""
    result = fill(single, lane(tile, 0))
    for i in range(1, vector.lanes):
        result = combine(result, fill(single, lane(tile, i)))
    return result


@inline
def store_grid(vector, single, limits, count, scale_at, zero_point_at):
    """Stores the grid for ``count`` numbers at ``limits``."""
    low, high = zeros(vector), zeros(vector)
    for at in range(0, count, vector.lanes):
        tile = load_lanes(vector, limits + 4 * at, 0, 0, min(vector.lanes, count - at))
        low, high = minimum(low, tile), maximum(high, tile)
    least = across_lanes(minimum, vector, single, low)
    largest = across_lanes(maximum, vector, single, high)
    scale = (largest - least) / fill(single, 255.0)
    scale = select_less(least, largest, scale, fill(single, 1.0))
    store(scale, scale_at, 0, 0)
    store(rounded(single, (zeros(single) - least) / scale, 0, 0.0, 255.0), zero_point_at, 0, 0)


@inline
def folded(combine, many):
    """One row of all four of a tile."""
    two = combine(upper_half(many), lower_half(many))
    return combine(upper_half(two), lower_half(two))


class GridArguments(NamedTuple):
    """Memory is ``planes`` of ``size`` elements: of every ``period``-th plane only the first
    ``channels`` lanes of each vector count. ``limits`` are [items][2], of all threads."""

    planes: int
    size: int
    period: int
    channels: int
    x: Address = Operand("input")
    scale: Address = Operand("output", 0)
    zero_point: Address = Operand("output", 1)
    limits: Address = Operand("workspace")


def dynamic_grid(lanes: int) -> Callable[..., None]:
    """The kernel for both layouts."""
    many, vector, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, lanes), TileShape(1, 1, 1)
    L = lanes

    def kernel(thread, work, a: GridArguments):
        parts = (a.size + ITEM_ELEMENTS - 1) // ITEM_ELEMENTS
        items = a.planes * parts
        item = claim(work) % FINISHED
        while item < items:
            plane, at = item // parts, item % parts * ITEM_ELEMENTS
            last = min(a.size, at + ITEM_ELEMENTS)
            source = a.x + plane * a.size * 4
            used = a.channels if plane % a.period == a.period - 1 else L
            low, high = zeros(vector), zeros(vector)
            lows, highs = zeros(many), zeros(many)
            while used == L and at + ROWS * L <= last:
                tiles = load(many, source + 4 * at, 4 * L, 0)
                lows, highs = minimum(lows, tiles), maximum(highs, tiles)
                at += ROWS * L
            while at < last:
                tile = load_lanes(vector, source + 4 * at, 0, 0, min(used, last - at))
                low, high = minimum(low, tile), maximum(high, tile)
                at += L
            low, high = minimum(low, folded(minimum, lows)), maximum(high, folded(maximum, highs))
            limits = a.limits + 8 * item
            store(across_lanes(minimum, vector, single, low), limits, 0, 0)
            store(across_lanes(maximum, vector, single, high), limits + 4, 0, 0)
            if atomic_add(work, FINISHED) // FINISHED == items - 1:
                store_grid(vector, single, a.limits, 2 * items, a.scale, a.zero_point)
            item = claim(work) % FINISHED

    return kernel


def prepare(layout: Layout, problem: DynamicGrid) -> Launch:
    """No constants."""
    L = target().lanes
    planes, size, period, channels = 1, prod(problem.shape), 1, L
    if layout == BLOCKED:
        N, C, H, W = problem.shape
        period, size = blocks(C), H * W * L
        planes, channels = N * period, C - (period - 1) * L
    return Launch(
        Code(dynamic_grid, (L,)),
        GridArguments(planes=planes, size=size, period=period, channels=channels),
        workspace=8 * planes * -(-size // ITEM_ELEMENTS),
    )


class GridRates(NamedTuple):
    """One f32 that is read."""

    element: float


def cost(layout: Layout, problem: DynamicGrid) -> float:
    """Nanoseconds: memory traffic, the channels that pad blocks counted."""
    return elements(problem, layout) * rates("dynamic_grid", GridRates).element


KERNELS = tuple(
    replace(kernel, writes=PLAIN)
    for kernel in kernels_of_run("dynamic_grid_f32", DynamicGrid, prepare, cost)
)
