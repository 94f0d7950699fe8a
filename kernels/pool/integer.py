"""Average pools over blocked tensors of bytes that stand for numbers (see grid.py).

`pool_u8_average` sums up one window after the other, R neighbouring taps side by side, in i32:
exactly, so that a mean is rounded as if it had been computed at once. Maxima of bytes are pooled
as those of floats are, by pool.py.

Layout: x [N][C/L][IH][IW][L], y [N][C/L][OH][OW][L], both u8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.grid import Bytes, Grid, Limits, rounded
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import taps_inside
from minseg.kernels.isa.simd import TileShape, as_f32, as_i32, claim, fill, store, zeros
from minseg.kernels.isa.target import target
from minseg.kernels.pool.pool import (
    Pool2d,
    Windows,
    added,
    count_at,
    folded,
    joined_by_row,
    window_counts,
)
from minseg.kernels.rates.family import rates

#: Vectors added at once.
ROWS = 8


@dataclass(frozen=True)
class IntegerAveragePool2d:
    """y = clip(round(mean / scale) + zero_point) of each of the windows of ``pool``."""

    pool: Pool2d
    x: Grid
    scale: float
    y: Bytes

    @property
    def flops(self) -> int:
        """One operation a tap."""
        return self.pool.flops


class AverageArguments(NamedTuple):
    """``counts`` as in `PoolArguments`."""

    counts: Address
    planes: int
    windows: Windows
    x_scale: float
    x_zero: int
    scale: float
    limits: Limits
    x: Address = Operand("input")
    y: Address = Operand("output")


@inline
def added_bytes(total, octets):
    return total + as_i32(octets)


def average(lanes: int) -> Callable[..., None]:
    """The kernel."""
    many, one = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, lanes, "u8")
    sums, total_sum = TileShape(ROWS, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")
    floats = TileShape(1, 1, lanes)
    L = lanes

    def kernel(thread, work, a: AverageArguments):
        w, to = a.windows, a.limits
        item = claim(work)
        while item < a.planes * w.OH:
            plane, oy = item // w.OH, item % w.OH
            kh0, kh1 = taps_inside(w.IH, w.KH, w.SH, w.DH, w.PT, oy)
            for ox in range(w.OW):
                kw0, kw1 = taps_inside(w.IW, w.KW, w.SW, w.DW, w.PL, ox)
                several, single = zeros(sums), zeros(total_sum)
                for kh in range(kh0, kh1):
                    row = plane * w.IH + oy * w.SH - w.PT + kh * w.DH
                    source = a.x + (row * w.IW + ox * w.SW - w.PL) * L
                    several, single = joined_by_row(
                        added_bytes, many, one, several, single, source, w.DW * L, kw0, kw1
                    )
                inside = (kh1 - kh0) * (kw1 - kw0)
                total = folded(added, several) + single - fill(total_sum, inside * a.x_zero)
                count = count_at(a.counts, w, oy, ox)
                mean = as_f32(total) * fill(floats, a.x_scale) / fill(floats, count)
                ratio = mean / fill(floats, a.scale)
                result = rounded(floats, ratio, to.zero_point, to.low, to.high)
                store(result, a.y + (item * w.OW + ox) * L, 0, 0)
            item = claim(work)

    return kernel


def prepare(problem: IntegerAveragePool2d) -> Launch:
    """No constants."""
    q, pool = problem, problem.pool
    return Launch(
        Code(average, (target().lanes,)),
        AverageArguments(
            counts=window_counts(pool),
            planes=pool.N * blocks(pool.C),
            windows=pool.windows,
            x_scale=q.x.scale,
            x_zero=q.x.zero_point,
            scale=q.scale,
            limits=q.y.arguments,
        ),
    )


class AverageRates(NamedTuple):
    """One vector that is loaded, widened and added."""

    vector: float


def cost(problem: IntegerAveragePool2d) -> float:
    """Nanoseconds: one load and widening a tap."""
    return problem.pool.flops / target().lanes * rates("pool_u8_average", AverageRates).vector


KERNELS = (Kernel("pool_u8_average", IntegerAveragePool2d, prepare, cost=cost),)
