"""Average pools over blocked tensors of bytes that stand for numbers (see quantised.py).

`pool_u8_average` sums up one window after the other, R neighbouring taps side by side, in i32:
exactly, so that a mean is rounded as if it had been computed at once. Maxima of bytes are pooled
as those of floats are, by pool.py.

Layout: x [N][C/L][IH][IW][L], y [N][C/L][OH][OW][L], both u8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minseg.kernels.core.grid import Bytes, Grid, rounded
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import taps_before
from minseg.kernels.isa.simd import (
    TileShape,
    as_f32,
    as_i32,
    claim,
    fill,
    load,
    load_f32,
    lower_half,
    store,
    upper_half,
    zeros,
)
from minseg.kernels.isa.target import target
from minseg.kernels.pool.pool import Pool2d, window_counts

#: Vectors added at once.
ROWS = 8


@dataclass(frozen=True)
class IntegerAveragePool2d:
    """y = clip(round(mean / scale) + zero_point) of each of the windows of ``windows``."""

    windows: Pool2d
    x: Grid
    scale: float
    y: Bytes

    @property
    def flops(self) -> int:
        """One operation a tap."""
        return self.windows.flops


def average(lanes: int) -> Callable[..., None]:
    """The kernel; ``counts`` is [OH] and then [OW] f32: the elements that a mean divides by are
    the product of a row's and a column's."""
    many, one = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, lanes, "u8")
    sums, total_sum = TileShape(ROWS, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")
    floats = TileShape(1, 1, lanes)
    R, L = ROWS, lanes

    def kernel(
        thread, work, x, y, counts, planes, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        x_scale: float, x_zero, scale: float, zero_point, low: float, high: float,
    ):  # fmt: skip
        item = claim(work)
        while item < planes * OH:
            plane, oy = item // OH, item % OH
            kh0 = taps_before(PT - oy * SH, DH, KH)
            kh1 = taps_before(IH + PT - oy * SH, DH, KH)
            for ox in range(OW):
                kw0 = taps_before(PL - ox * SW, DW, KW)
                kw1 = taps_before(IW + PL - ox * SW, DW, KW)
                several, single = zeros(sums), zeros(total_sum)
                for kh in range(kh0, kh1):
                    row = plane * IH + oy * SH - PT + kh * DH
                    source = x + (row * IW + ox * SW - PL) * L
                    kw = kw0
                    while kw + R <= kw1:
                        several = several + as_i32(load(many, source + kw * DW * L, DW * L, 0))
                        kw += R
                    while kw < kw1:
                        single = single + as_i32(load(one, source + kw * DW * L, 0, 0))
                        kw += 1
                four = upper_half(several) + lower_half(several)
                two = upper_half(four) + lower_half(four)
                total = upper_half(two) + lower_half(two) + single
                inside = (kh1 - kh0) * (kw1 - kw0)
                total = total - fill(total_sum, inside * x_zero)
                count = load_f32(counts + 4 * oy) * load_f32(counts + 4 * (OH + ox))
                mean = as_f32(total) * fill(floats, x_scale) / fill(floats, count)
                result = rounded(floats, mean / fill(floats, scale), zero_point, low, high)
                store(result, y + (item * OW + ox) * L, 0, 0)
            item = claim(work)

    return kernel


def prepare(problem: IntegerAveragePool2d) -> Launch:
    """No constants."""
    q = problem.windows
    return Launch(
        Code(average, (target().lanes,)),
        (
            Operand("input"),
            Operand("output"),
            Operand("constant"),
            q.N * blocks(q.C),
            *(q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW, q.DH, q.DW, q.PT, q.PL),
            problem.x.scale,
            problem.x.zero_point,
            problem.scale,
            *problem.y.arguments,
        ),
        (window_counts(q),),
    )


def cost(problem: IntegerAveragePool2d) -> float:
    """Nanoseconds: one load and widening a tap."""
    return problem.windows.flops / target().lanes * NS_PER_VECTOR


NS_PER_VECTOR = 0.5

KERNELS = (Kernel("pool_u8_average", IntegerAveragePool2d, prepare, cost=cost),)
