"""The grid of bytes for what a tensor of f32 holds, as DynamicQuantizeLinear defines it.

`dynamic_grid_f32_*` find the least and the largest number, or 0, of the chunks of memory that are
their work items. Whoever finishes the last chunk makes scale and zero point of all chunks' limits:
none of the least is above 0 and none of the largest below, so these need not be told apart.

Layouts: x plain, or blocked [N][ceil(C/L)][H][W][L], of which channels past C don't count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from minseg.kernels.core.grid import rounded
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocked_shape
from minseg.kernels.core.registry import Kernel, Launch, Operand
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


def dynamic_grid(lanes: int) -> Callable[..., None]:
    """The kernel for both layouts, memory as planes of ``size`` elements in ``parts`` chunks: of
    every ``period``-th plane only the first ``channels`` lanes of each vector count. ``limits`` are
    [items][2], of all threads."""
    many, vector, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, lanes), TileShape(1, 1, 1)
    L = lanes

    def kernel(
        thread, work, x, scale, zero_point, limits, planes, size, parts, period, channels
    ):  # fmt: skip
        items = planes * parts
        item = claim(work) % FINISHED
        while item < items:
            plane, at = item // parts, item % parts * ITEM_ELEMENTS
            last = min(size, at + ITEM_ELEMENTS)
            source = x + plane * size * 4
            used = channels if plane % period == period - 1 else L
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
            two = minimum(upper_half(lows), lower_half(lows))
            low = minimum(low, minimum(upper_half(two), lower_half(two)))
            two = maximum(upper_half(highs), lower_half(highs))
            high = maximum(high, maximum(upper_half(two), lower_half(two)))
            store(across_lanes(minimum, vector, single, low), limits + 8 * item, 0, 0)
            store(across_lanes(maximum, vector, single, high), limits + 8 * item + 4, 0, 0)
            if atomic_add(work, FINISHED) // FINISHED == items - 1:
                store_grid(vector, single, limits, 2 * items, scale, zero_point)
            item = claim(work) % FINISHED

    return kernel


def prepare_plain(problem: DynamicGrid) -> Launch:
    """No constants."""
    return _prepare(1, prod(problem.shape), 1, target().lanes)


def prepare_blocked(problem: DynamicGrid) -> Launch:
    """No constants."""
    N, C, H, W = problem.shape
    _, CB, _, _, L = blocked_shape((N, C, H, W))
    return _prepare(N * CB, H * W * L, CB, C - (CB - 1) * L)


def _prepare(planes: int, size: int, period: int, channels: int) -> Launch:
    parts = -(-size // ITEM_ELEMENTS)
    outputs = Operand("output", 0), Operand("output", 1)
    return Launch(
        Code(dynamic_grid, (target().lanes,)),
        (
            Operand("input"),
            *outputs,
            Operand("workspace"),
            *(planes, size, parts, period, channels),
        ),
        workspace=8 * planes * parts,
    )


def _is_picture(problem: DynamicGrid) -> bool:
    return len(problem.shape) == 4


def plain_cost(problem: DynamicGrid) -> float:
    """Nanoseconds: memory traffic."""
    return prod(problem.shape) * NS_PER_ELEMENT


def blocked_cost(problem: DynamicGrid) -> float:
    """Nanoseconds: memory traffic, the unused channels counted."""
    N, C, H, W = problem.shape
    return prod(blocked_shape((N, C, H, W))) * NS_PER_ELEMENT


#: One f32 read.
NS_PER_ELEMENT = 0.1

KERNELS = (
    Kernel(
        "dynamic_grid_f32_plain", DynamicGrid, prepare_plain, "plain", "plain", cost=plain_cost
    ),
    Kernel(
        "dynamic_grid_f32_blocked", DynamicGrid, prepare_blocked, "blocked", "plain",
        _is_picture, blocked_cost,
    ),
)  # fmt: skip
