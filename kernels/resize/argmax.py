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

import numpy as np

from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape, claim, load_i64, store, store_i64
from minseg.kernels.isa.target import target
from minseg.kernels.normalize.softmax import (
    NS_PER_COMPARISON,
    NS_PER_MOVE,
    argmax_column,
    gather_column,
)
from minseg.kernels.resize.resize import NS_PER_VECTOR, Resize2d, positions_table, weighted


@dataclass(frozen=True)
class ResizeArgMax:
    """ArgMax over the channels of what ``resize`` gives, as in `ArgMax`; f32, with weights."""

    resize: Resize2d


def resize_argmax(lanes: int, taps: int) -> Callable[..., None]:
    """The kernel; tables as those of resize.py. A thread's workspace holds [ceil(C/L)][IW][L] of a
    blended row, [ceil(C/L)][L][L] pixels and as many in a column, and L indices."""
    vector, square = TileShape(1, 1, lanes), TileShape(lanes, 1, lanes)
    indices = TileShape(1, 1, lanes, "i32")
    T, L, V = taps, lanes, vector.bytes

    def kernel(
        thread, work, x, y, rows, row_weights, columns, column_weights, scratch, scratch_bytes,
        N, C, IH, IW, OH, OW,
    ):  # fmt: skip
        CB = (C + L - 1) // L
        row = scratch + thread * scratch_bytes
        pixels = row + CB * IW * V
        column = pixels + CB * L * V
        found = column + CB * L * V
        item = claim(work)
        while item < N * OH:
            n, oy = item // OH, item % OH
            above, weights = rows + 4 * oy * T, row_weights + 4 * oy * T
            for cb in range(CB):
                source, to = x + (n * CB + cb) * IH * IW * V, row + cb * IW * V
                for at in range(0, IW * V, V):
                    store(weighted(vector, T, source + at, IW * V, above, weights), to + at, 0, 0)
            for first in range(0, OW, L):
                count = min(L, OW - first)
                for cb in range(CB):
                    for i in range(count):
                        left = columns + 4 * (first + i) * T
                        weights = column_weights + 4 * (first + i) * T
                        pixel = weighted(vector, T, row + cb * IW * V, V, left, weights)
                        store(pixel, pixels + (cb * L + i) * V, 0, 0)
                gather_column(square, L, pixels, L * V, CB, column, count)
                argmax_column(vector, indices, column, found, C, V)
                result = y + (item * OW + first) * 8
                for at in range(0, 8 * count, 8):
                    store_i64(result + at, load_i64(found + at))
            item = claim(work)

    return kernel


def prepare(
    problem: ResizeArgMax,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
) -> Launch:
    """Constants as those of resize.py's kernels. Raises ValueError as those do."""
    q, L = problem.resize, target().lanes
    scratch = blocks(q.C) * (q.IW + 2 * L) * L * 4 + L * 8
    return Launch(
        Code(resize_argmax, (L, q.taps)),
        (
            Operand("input"),
            Operand("output"),
            *(Operand("constant", i) for i in range(4)),
            Operand("workspace"),
            scratch,
            *(q.N, q.C, q.IH, q.IW, q.OH, q.OW),
        ),
        (
            positions_table(rows, q.OH, q.taps, q.IH),
            np.ascontiguousarray(row_weights, np.float32),
            positions_table(columns, q.OW, q.taps, q.IW),
            np.ascontiguousarray(column_weights, np.float32),
        ),
        scratch,
    )


def cost(problem: ResizeArgMax) -> float:
    """Nanoseconds: both passes of the resize, then moving and comparing what they give."""
    q = problem.resize
    vectors = q.N * blocks(q.C) * q.OH * (q.IW + q.OW) * q.taps
    elements = q.N * blocks(q.C) * target().lanes * q.OH * q.OW
    return vectors * NS_PER_VECTOR + elements * (NS_PER_MOVE + NS_PER_COMPARISON)


KERNELS = (
    Kernel("resize_argmax_f32_blocked", ResizeArgMax, prepare, "blocked", "plain", cost=cost),
)
