"""Resizing blocked f32 tensors along H and W, by any filter that is separable.

What ONNX Resize means (its modes, coordinate transforms and rounding) is settled when the plan is
made: for each output row, and for each output column, T input positions and T weights. The kernel
`resize_f32_taps_T` is left with arithmetic: for each output row it blends T input rows into a row
buffer, and then T columns of that into each output pixel. T is 1 for nearest, 2 for linear, 4 for
cubic, more for antialiased filters. With T = 1 it copies, through no buffer, and has no weights.

Layout: x [N][C/L][IH][IW][L], y [N][C/L][OH][OW][L].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.kernels.jit import Code
from minseg.kernels.layout import blocks
from minseg.kernels.machine import target
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import TileShape, claim, fill, fma, load, load_f32, load_i32, store

#: Output pixels that one work item covers, about.
ITEM_PIXELS = 1024


@dataclass(frozen=True)
class Resize2d:
    """ONNX Resize of an N×C×IH×IW tensor to OH×OW, with ``taps`` positions an output row and
    column (fewer are filled up with one of them again, at a weight of zero)."""

    N: int
    C: int
    IH: int
    IW: int
    OH: int
    OW: int
    taps: int

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately; none if pixels are only copied."""
        if self.taps == 1:
            return 0
        return 2 * self.N * self.C * self.OH * (self.IW + self.OW) * self.taps


def copy_pixels(lanes: int) -> Callable[..., None]:
    """The kernel for one tap. ``rows`` is [OH] i32, ``columns`` [OW] i32."""
    one = TileShape(1, 1, lanes)
    V = one.bytes

    def kernel(thread, work, x, y, rows, columns, planes, IH, IW, OH, OW, items, item_rows):
        item = claim(work)
        while item < planes * items:
            plane, part = item // items, item % items
            for oy in range(part * item_rows, min(OH, (part + 1) * item_rows)):
                source = x + (plane * IH + load_i32(rows + 4 * oy)) * IW * V
                result = y + (plane * OH + oy) * OW * V
                for ox in range(OW):
                    pixel = load(one, source + load_i32(columns + 4 * ox) * V, 0, 0)
                    store(pixel, result + ox * V, 0, 0)
            item = claim(work)

    return kernel


def blend(lanes: int, taps: int) -> Callable[..., None]:
    """The kernel for T taps. ``rows`` and ``row_weights`` are [OH][T] i32 and f32, ``columns`` and
    ``column_weights`` [OW][T]; the row buffer is the thread's workspace."""
    one = TileShape(1, 1, lanes)
    T, V = taps, one.bytes

    def kernel(
        thread, work, x, y, rows, row_weights, columns, column_weights, scratch, scratch_bytes,
        planes, IH, IW, OH, OW, items, item_rows,
    ):  # fmt: skip
        row = scratch + thread * scratch_bytes
        item = claim(work)
        while item < planes * items:
            plane, part = item // items, item % items
            source = x + plane * IH * IW * V
            for oy in range(part * item_rows, min(OH, (part + 1) * item_rows)):
                for at in range(0, IW * V, V):
                    blended = fill(one, 0.0)
                    for t in range(T):
                        above = source + load_i32(rows + 4 * (oy * T + t)) * IW * V
                        weight = fill(one, load_f32(row_weights + 4 * (oy * T + t)))
                        blended = fma(load(one, above + at, 0, 0), weight, blended)
                    store(blended, row + at, 0, 0)
                result = y + (plane * OH + oy) * OW * V
                for ox in range(OW):
                    blended = fill(one, 0.0)
                    for t in range(T):
                        left = row + load_i32(columns + 4 * (ox * T + t)) * V
                        weight = fill(one, load_f32(column_weights + 4 * (ox * T + t)))
                        blended = fma(load(one, left, 0, 0), weight, blended)
                    store(blended, result + ox * V, 0, 0)
            item = claim(work)

    return kernel


def prepare(
    problem: Resize2d,
    rows: np.ndarray,
    row_weights: np.ndarray | None,
    columns: np.ndarray,
    column_weights: np.ndarray | None,
) -> Launch:
    """``rows`` OH×T and ``columns`` OW×T are input positions, whole numbers inside the picture;
    the weights have the same shapes, and are None for one tap. Raises ValueError otherwise."""
    q = problem
    _check(rows, q.OH, q.taps, q.IH)
    _check(columns, q.OW, q.taps, q.IW)
    item_rows = max(1, ITEM_PIXELS // q.OW)
    sizes = (q.N * blocks(q.C), q.IH, q.IW, q.OH, q.OW, -(-q.OH // item_rows), item_rows)
    positions = _table(rows, np.int32), _table(columns, np.int32)
    ends = Operand("input"), Operand("output")
    constants = [Operand("constant", i) for i in range(4)]
    if row_weights is None or column_weights is None:
        code = Code(copy_pixels, (target().lanes,))
        return Launch(code, (*ends, *constants[:2], *sizes), positions)
    weights = _table(row_weights, np.float32), _table(column_weights, np.float32)
    buffer = q.IW * target().lanes * 4
    return Launch(
        Code(blend, (target().lanes, q.taps)),
        (*ends, *constants, Operand("workspace"), buffer, *sizes),
        (positions[0], weights[0], positions[1], weights[1]),
        buffer,
    )


def _table(values: np.ndarray, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(values, dtype)


def _check(positions: np.ndarray, outputs: int, taps: int, size: int) -> None:
    if positions.shape != (outputs, taps):
        raise ValueError(f"positions have shape {positions.shape}, not {(outputs, taps)}")
    if positions.min() < 0 or positions.max() >= size:
        raise ValueError(f"positions reach {positions.min()} … {positions.max()} of {size}")


def cost(problem: Resize2d) -> float:
    """Nanoseconds: one load a tap and one store, in both passes."""
    q = problem
    return q.N * blocks(q.C) * q.OH * (q.IW + q.OW) * (q.taps + 2) * NS_PER_VECTOR


#: One vector loaded or stored.
NS_PER_VECTOR = 0.5

KERNELS = (Kernel("resize_f32_taps", Resize2d, prepare, cost=cost),)
