"""What numbers lie between: the grid that DynamicQuantizeLinear gives a tensor of f32.

`limits_f32_*` find the least and the largest number, or 0, of each row of pixels: a row is the same
in both layouts, and a work item. `grid_f32_*` make the scale and the zero point of the limits of
all rows. None of the least is above 0 and none of the largest below, so these need not be told
apart.

Tensors of another rank than 4 are one plane, whose rows lie along their last axis.

Layouts: x plain [N·C][H][W] or blocked [N][ceil(C/L)][H][W][L], limits [H][2].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from minseg.kernels.jit import Code, inline
from minseg.kernels.layout import blocked_shape
from minseg.kernels.machine import target
from minseg.kernels.quantised import rounded
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import (
    TileShape,
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

#: Vectors worked on at once: enough to hide the latency of a minimum.
ROWS = 4


@dataclass(frozen=True)
class Limits:
    """The least and the largest element, or 0, of each row of a tensor of ``shape``."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class ScaleOfLimits:
    """(largest - least) / 255 of all ``rows``; 1 where that is 0 or no number."""

    rows: int


@dataclass(frozen=True)
class ZeroPointOfLimits:
    """The byte that stands for 0 where 0 stands for the least of all ``rows``."""

    rows: int


@inline
def across_lanes(combine, vector, single, tile):
    """One element of all those of ``tile``."""
    result = fill(single, lane(tile, 0))
    for i in range(1, vector.lanes):
        result = combine(result, fill(single, lane(tile, i)))
    return result


def limits(lanes: int) -> Callable[..., None]:
    """The kernel for both layouts: of every ``period``-th plane only the first ``channels`` lanes
    of each vector count."""
    many, vector, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, lanes), TileShape(1, 1, 1)
    L, V = lanes, vector.bytes

    def kernel(thread, work, x, y, planes, rows, width, period, channels):
        item = claim(work)
        while item < rows:
            low, high = zeros(vector), zeros(vector)
            lows, highs = zeros(many), zeros(many)
            for plane in range(planes):
                row = x + (plane * rows + item) * width * 4
                used = channels if plane % period == period - 1 else L
                at = 0
                while used == L and at + ROWS * L <= width:
                    tiles = load(many, row + 4 * at, V, 0)
                    lows, highs = minimum(lows, tiles), maximum(highs, tiles)
                    at += ROWS * L
                while at < width:
                    tile = load_lanes(vector, row + 4 * at, 0, 0, min(used, width - at))
                    low, high = minimum(low, tile), maximum(high, tile)
                    at += L
            two = minimum(upper_half(lows), lower_half(lows))
            low = minimum(low, minimum(upper_half(two), lower_half(two)))
            two = maximum(upper_half(highs), lower_half(highs))
            high = maximum(high, maximum(upper_half(two), lower_half(two)))
            store(across_lanes(minimum, vector, single, low), y + 8 * item, 0, 0)
            store(across_lanes(maximum, vector, single, high), y + 8 * item + 4, 0, 0)
            item = claim(work)

    return kernel


def grid(lanes: int, zero_point: bool) -> Callable[..., None]:
    """The kernel for scales, or for zero points, of ``count`` numbers."""
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)
    L = lanes

    def kernel(thread, work, limits, y, count):
        if claim(work) == 0:
            low, high = zeros(vector), zeros(vector)
            for at in range(0, count, L):
                tile = load_lanes(vector, limits + 4 * at, 0, 0, min(L, count - at))
                low, high = minimum(low, tile), maximum(high, tile)
            least = across_lanes(minimum, vector, single, low)
            largest = across_lanes(maximum, vector, single, high)
            scale = (largest - least) / fill(single, 255.0)
            scale = select_less(least, largest, scale, fill(single, 1.0))
            if zero_point:
                store(rounded(single, (zeros(single) - least) / scale, 0, 0.0, 255.0), y, 0, 0)
            else:
                store(scale, y, 0, 0)

    return kernel


def prepare_plain(problem: Limits) -> Launch:
    """No constants."""
    planes, rows, width = _rows(problem.shape)
    return _limits(planes, rows, width, 1, target().lanes)


def prepare_blocked(problem: Limits) -> Launch:
    """No constants."""
    N, C, H, W = problem.shape
    _, CB, _, _, L = blocked_shape((N, C, H, W))
    return _limits(N * CB, H, W * L, CB, C - (CB - 1) * L)


def _limits(*sizes: int) -> Launch:
    return Launch(Code(limits, (target().lanes,)), (Operand("input"), Operand("output"), *sizes))


def _rows(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Planes of a plain tensor, rows of a plane, elements of a row."""
    if len(shape) == 4:
        N, C, H, W = shape
        return N * C, H, W
    *rows, width = shape or (1,)
    return 1, prod(rows), width


def prepare_grid(problem: ScaleOfLimits | ZeroPointOfLimits) -> Launch:
    """No constants."""
    code = Code(grid, (target().lanes, isinstance(problem, ZeroPointOfLimits)))
    return Launch(code, (Operand("input"), Operand("output"), 2 * problem.rows))


def _is_picture(problem: Limits) -> bool:
    return len(problem.shape) == 4


def plain_cost(problem: Limits) -> float:
    """Nanoseconds: memory traffic."""
    return prod(problem.shape) * NS_PER_ELEMENT


def blocked_cost(problem: Limits) -> float:
    """Nanoseconds: memory traffic, the unused channels counted."""
    N, C, H, W = problem.shape
    return prod(blocked_shape((N, C, H, W))) * NS_PER_ELEMENT


#: One f32 read.
NS_PER_ELEMENT = 0.1

KERNELS = (
    Kernel("limits_f32_plain", Limits, prepare_plain, "plain", "plain", cost=plain_cost),
    Kernel(
        "limits_f32_blocked", Limits, prepare_blocked, "blocked", "plain", _is_picture, blocked_cost
    ),
    Kernel("grid_f32_scale", ScaleOfLimits, prepare_grid, "plain", "plain"),
    Kernel("grid_f32_zero_point", ZeroPointOfLimits, prepare_grid, "plain", "plain"),
)
