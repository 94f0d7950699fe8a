"""Resizing blocked f32 pictures and finding the greatest channel of every pixel, in one step.

A network that ends so makes pixels only to compare their channels. Here each output row is blended
as in resize.py, L pixels at a time: their channels are exchanged for pixels in registers, compared,
and forgotten. What is written is one index a pixel, not the large picture. The arithmetic is that
of `resize_f32_blocked` and `argmax_f32_blocked`, in the same order.

Layouts: x [N][ceil(C/L)][IH][IW][L], y plain [N][OH][OW] i64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address, of_problem
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import BLOCKED, PLAIN, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape, claim, load_i64, store, store_i64
from minseg.kernels.isa.target import target
from minseg.kernels.normalize.softmax import (
    ArgMaxRates,
    argmax_column,
    gather_column,
)
from minseg.kernels.rates.family import rates
from minseg.kernels.resize.resize import Resize2d, Taps, resize_rates, taps_tables, weighted


@dataclass(frozen=True)
class ResizeArgMax:
    """ArgMax over the channels of what ``resize`` gives, as in `ArgMax`; f32, with weights."""

    resize: Resize2d


class ResizeArgMaxArguments(NamedTuple):
    """A thread's workspace holds [ceil(C/L)][IW][L] of a blended row, [ceil(C/L)][L][L] pixels and
    as many in a column, and L indices."""

    rows: Taps
    columns: Taps
    scratch_bytes: int
    N: int
    C: int
    IH: int
    IW: int
    OH: int
    OW: int
    x: Address = Operand("input")
    y: Address = Operand("output")
    scratch: Address = Operand("workspace")


def resize_argmax(lanes: int, taps: int) -> Callable[..., None]:
    """The kernel."""
    vector, square = TileShape(1, 1, lanes), TileShape(lanes, 1, lanes)
    indices = TileShape(1, 1, lanes, "i32")
    T, L, V = taps, lanes, vector.bytes

    def kernel(thread, work, a: ResizeArgMaxArguments):
        CB, row_bytes = (a.C + L - 1) // L, a.IW * V
        row = a.scratch + thread * a.scratch_bytes
        pixels = row + CB * row_bytes
        column = pixels + CB * L * V
        found = column + CB * L * V
        item = claim(work)
        while item < a.N * a.OH:
            n, oy = item // a.OH, item % a.OH
            for cb in range(CB):
                source, to = a.x + (n * CB + cb) * a.IH * row_bytes, row + cb * row_bytes
                for at in range(0, row_bytes, V):
                    above = weighted(vector, T, source + at, row_bytes, a.rows, oy)
                    store(above, to + at, 0, 0)
            for first in range(0, a.OW, L):
                count = min(L, a.OW - first)
                for cb in range(CB):
                    for i in range(count):
                        left = row + cb * row_bytes
                        pixel = weighted(vector, T, left, V, a.columns, first + i)
                        store(pixel, pixels + (cb * L + i) * V, 0, 0)
                gather_column(square, L, pixels, L * V, CB, column, count)
                argmax_column(vector, indices, column, found, a.C, V)
                result = a.y + (item * a.OW + first) * 8
                for at in range(0, 8 * count, 8):
                    store_i64(result + at, load_i64(found + at))
            item = claim(work)

    return kernel


def prepare(problem: ResizeArgMax, *tables: np.ndarray) -> Launch:
    """Constants as those of resize.py's kernels. Raises ValueError as those do."""
    q, L = problem.resize, target().lanes
    rows, columns = taps_tables(q, tables)
    scratch = blocks(q.C) * (q.IW + 2 * L) * L * 4 + L * 8
    return Launch(
        Code(resize_argmax, (L, q.taps)),
        of_problem(ResizeArgMaxArguments, q, rows=rows, columns=columns, scratch_bytes=scratch),
        workspace=scratch,
    )


def cost(problem: ResizeArgMax) -> float:
    """Nanoseconds: both passes of the resize, then moving and comparing what they give."""
    q = problem.resize
    vectors = q.N * blocks(q.C) * q.OH * (q.IW + q.OW) * q.taps
    elements = q.N * blocks(q.C) * target().lanes * q.OH * q.OW
    r = rates("argmax", ArgMaxRates)
    return vectors * resize_rates().vector + elements * (r.move + r.comparison)


KERNELS = (Kernel("resize_argmax_f32_blocked", ResizeArgMax, prepare, BLOCKED, PLAIN, cost=cost),)
