"""Resizing tensors along H and W, by any filter that is separable.

What ONNX Resize means (its modes, coordinate transforms and rounding) is settled when the plan is
made: for each output row, and for each output column, T input positions and T weights. The
kernels are left with arithmetic: for each output row they blend T input rows into a row buffer,
and then T columns of that into each output pixel. T is 1 for nearest, 2 for linear, 4 for cubic,
more for antialiased filters. With T = 1 they copy, through no buffer, and there are no weights.

* `resize_f32_blocked` moves vectors of L channels, `resize_u8_blocked` copies such of bytes.
* `resize_plain` is for tensors of few channels, which leave most lanes of a block empty, and
  where a plain tensor is wanted: rows are blended by vectors of pixels, columns one by one. It
  copies elements of any type; an output row that equals the one before is copied whole.
* `resize_f32_points` blends all T × T elements of an output pixel at once, blocked, in the order
  and with the roundings of the operator's definition. What is quantised next often lies in the very
  middle between two integers, where every bit counts. `resize_u8_points` does the same with bytes,
  which lose their fraction.

Layouts: blocked, x [N][C/L][IH][IW][L], y [N][C/L][OH][OW][L]; plain [N][C][H][W].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address, of_problem
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    as_f32,
    claim,
    clamp,
    fill,
    floor,
    fma,
    load,
    load_f32,
    load_i32,
    nearest_u8,
    store,
)
from minseg.kernels.isa.target import target
from minseg.kernels.move.strided import copy_bytes
from minseg.kernels.rates.family import rates
from minseg.precision import Precision

#: Bytes that one work item writes, about.
ITEM_BYTES = 64 * 1024


@dataclass(frozen=True)
class Resize2d:
    """ONNX Resize of an N×C×IH×IW tensor to OH×OW, with ``taps`` positions an output row and
    column (fewer are filled up with one of them again, at a weight of zero). Elements that are
    neither f32 nor bytes have one tap; bytes have weights of f32 that keep sums below 256."""

    N: int
    C: int
    IH: int
    IW: int
    OH: int
    OW: int
    taps: int
    itemsize: int = 4

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately; none if pixels are only copied."""
        if self.taps == 1:
            return 0
        return 2 * self.N * self.C * self.OH * (self.IW + self.OW) * self.taps


class Taps(NamedTuple):
    """Of each output row or column T input positions, [out][T] i32, and weights, [out][T] f32."""

    positions: Address
    weights: Address = 0


class ResizeArguments(NamedTuple):
    """``planes`` of IH×IW pixels, of L channels each or one. A thread's ``scratch`` is a row."""

    rows: Taps
    columns: Taps
    planes: int
    IH: int
    IW: int
    OH: int
    OW: int
    x: Address = Operand("input")
    y: Address = Operand("output")
    scratch: Address = Operand("workspace")


@inline
def item_rows(a, V):
    """Output rows of a work item, for pixels of V bytes, and how many such items a plane is."""
    rows = max(1, ITEM_BYTES // (a.OW * V))
    return rows, (a.OH + rows - 1) // rows


@inline
def weighted(shape, T, x, step, taps, out):
    """The sum of T tiles that begin ``step`` bytes times a position after ``x``, for the output row
    or column ``out``."""
    positions, weights = taps.positions + 4 * out * T, taps.weights + 4 * out * T
    total = fill(shape, 0.0)
    for t in range(T):
        tile = load(shape, x + load_i32(positions + 4 * t) * step, 0, 0)
        total = fma(tile, fill(shape, load_f32(weights + 4 * t)), total)
    return total


def copy(lanes: int, pixel_bytes: int) -> Callable[..., None]:
    """The kernel for one tap."""
    eight, one = TileShape(8, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")
    pixel, V = TileShape(1, 1, pixel_bytes, "u8"), pixel_bytes

    def kernel(thread, work, a: ResizeArguments):
        row_bytes, (rows, items) = a.OW * V, item_rows(a, V)
        item = claim(work)
        while item < a.planes * items:
            plane, first = item // items, item % items * rows
            for oy in range(first, min(a.OH, first + rows)):
                row = load_i32(a.rows.positions + 4 * oy)
                result = a.y + (plane * a.OH + oy) * row_bytes
                if oy > first and row == load_i32(a.rows.positions + 4 * oy - 4):
                    copy_bytes(eight, one, result, result - row_bytes, row_bytes)
                else:
                    source = a.x + (plane * a.IH + row) * a.IW * V
                    for ox in range(a.OW):
                        at = source + load_i32(a.columns.positions + 4 * ox) * V
                        store(load(pixel, at, 0, 0), result + ox * V, 0, 0)
            item = claim(work)

    return kernel


def blend(lanes: int, taps: int, pixel_lanes: int) -> Callable[..., None]:
    """The kernel for T taps, on pixels of so many lanes: whole vectors, or one."""
    vector, pixel = TileShape(1, 1, lanes), TileShape(1, 1, pixel_lanes)
    T, V = taps, pixel.bytes

    def kernel(thread, work, a: ResizeArguments):
        row_bytes, (rows, items) = a.IW * V, item_rows(a, V)
        row = a.scratch + thread * row_bytes
        whole = row_bytes - row_bytes % vector.bytes
        item = claim(work)
        while item < a.planes * items:
            plane, first = item // items, item % items * rows
            source = a.x + plane * a.IH * row_bytes
            for oy in range(first, min(a.OH, first + rows)):
                for at in range(0, whole, vector.bytes):
                    above = weighted(vector, T, source + at, row_bytes, a.rows, oy)
                    store(above, row + at, 0, 0)
                for at in range(whole, row_bytes, V):
                    above = weighted(pixel, T, source + at, row_bytes, a.rows, oy)
                    store(above, row + at, 0, 0)
                result = a.y + (plane * a.OH + oy) * a.OW * V
                for ox in range(a.OW):
                    store(weighted(pixel, T, row, V, a.columns, ox), result + ox * V, 0, 0)
            item = claim(work)

    return kernel


@inline
def unchanged(shape, x):
    """f32, which are computed with as they are."""
    return x


@inline
def widened(shape, x):
    """Bytes as f32."""
    return as_f32(x)


@inline
def truncated(shape, x):
    """f32 as bytes, without their fraction."""
    return nearest_u8(floor(clamp(x, fill(shape, 0.0), fill(shape, 255.0))), 0)


def blend_points(lanes: int, taps: int, dtype: str) -> Callable[..., None]:
    """`blend` without a row buffer: the sum of all elements times the product of their weights,
    row by row, nothing fused. ``dtype`` is "f32" or "u8"."""
    read, written = (widened, truncated) if dtype == "u8" else (unchanged, unchanged)
    one, stored = TileShape(1, 1, lanes), TileShape(1, 1, lanes, dtype)
    T, V = taps, stored.bytes

    def kernel(thread, work, a: ResizeArguments):
        rows, items = item_rows(a, V)
        item = claim(work)
        while item < a.planes * items:
            plane, first = item // items, item % items * rows
            source = a.x + plane * a.IH * a.IW * V
            for oy in range(first, min(a.OH, first + rows)):
                above, down = a.rows.positions + 4 * oy * T, a.rows.weights + 4 * oy * T
                result = a.y + (plane * a.OH + oy) * a.OW * V
                for ox in range(a.OW):
                    left, across = a.columns.positions + 4 * ox * T, a.columns.weights + 4 * ox * T
                    total = fill(one, 0.0)
                    for i in range(T):
                        row = source + load_i32(above + 4 * i) * a.IW * V
                        row_weight = fill(one, load_f32(down + 4 * i))
                        for j in range(T):
                            weight = row_weight * fill(one, load_f32(across + 4 * j))
                            pixel = load(stored, row + load_i32(left + 4 * j) * V, 0, 0)
                            total = total + weight * read(one, pixel)
                    store(written(one, total), result + ox * V, 0, 0)
            item = claim(work)

    return kernel


def prepare(layout: Layout, problem: Resize2d, *tables: np.ndarray | None) -> Launch:
    """``tables`` are rows' positions and weights, and columns'. Positions, OH×T and OW×T, are whole
    numbers inside the picture; weights have the same shapes, and are None for one tap. Raises
    ValueError otherwise."""
    q, L = problem, target().lanes
    lanes = L if layout == BLOCKED else 1
    if tables[1] is None:
        return _launch(Code(copy, (L, q.itemsize * lanes)), q, lanes, tables)
    return _launch(Code(blend, (L, q.taps, lanes)), q, lanes, tables)


def prepare_points(problem: Resize2d, *tables: np.ndarray) -> Launch:
    """Constants as those of `prepare`, for two taps and more."""
    dtype = "u8" if problem.itemsize == 1 else "f32"
    code = Code(blend_points, (target().lanes, problem.taps, dtype))
    return _launch(code, problem, target().lanes, tables)


def _launch(
    code: Code, problem: Resize2d, lanes: int, tables: Sequence[np.ndarray | None]
) -> Launch:
    """Of pixels of so many lanes."""
    q = problem
    rows, columns = taps_tables(q, tables)
    planes = q.N * -(-q.C // lanes)
    return Launch(
        code,
        of_problem(ResizeArguments, q, rows=rows, columns=columns, planes=planes),
        workspace=0 if tables[1] is None else q.IW * lanes * q.itemsize,
    )


def taps_tables(problem: Resize2d, tables: Sequence[np.ndarray | None]) -> tuple[Taps, Taps]:
    """Rows and columns as kernels read them. Raises ValueError as `positions_table` does."""
    q = problem
    rows, row_weights, columns, column_weights = tables
    row_positions = positions_table(rows, q.OH, q.taps, q.IH)
    column_positions = positions_table(columns, q.OW, q.taps, q.IW)
    if row_weights is None or column_weights is None:
        return Taps(row_positions), Taps(column_positions)
    weights = [np.ascontiguousarray(w, np.float32) for w in (row_weights, column_weights)]
    return Taps(row_positions, weights[0]), Taps(column_positions, weights[1])


def positions_table(positions: np.ndarray | None, outputs: int, taps: int, size: int) -> np.ndarray:
    """``positions`` as kernels read them. Raises ValueError for a table of another shape, or one
    that leads outside of ``size`` elements."""
    if positions is None or positions.shape != (outputs, taps):
        raise ValueError(f"positions are no {outputs}×{taps} table")
    if positions.min() < 0 or positions.max() >= size:
        raise ValueError(f"positions reach {positions.min()} … {positions.max()} of {size}")
    return np.ascontiguousarray(positions, np.int32)


def copies_blocked(itemsize: int, problem: Resize2d) -> bool:
    """Floats or bytes that are copied."""
    return problem.itemsize == itemsize and problem.taps == 1


def blends(itemsize: int, problem: Resize2d) -> bool:
    """Floats or bytes that are computed with."""
    return problem.itemsize == itemsize and problem.taps > 1


def copies(problem: Resize2d) -> bool:
    """Elements of any size that are copied."""
    return problem.taps == 1 and problem.itemsize in (1, 2, 4, 8)


class ResizeRates(NamedTuple):
    """Nanoseconds that one of each takes."""

    #: A tap of an element of a plain tensor.
    element: float
    #: A tap of a vector, in one of two passes.
    vector: float
    #: A pair of taps of a vector, both passes in one.
    point: float
    #: A byte, read or written.
    byte: float


def resize_rates() -> ResizeRates:
    return rates("resize", ResizeRates)


def _traffic(planes: int, problem: Resize2d) -> float:
    q = problem
    return planes * (q.IH * q.IW + q.OH * q.OW) * q.itemsize * resize_rates().byte


def blocked_cost(problem: Resize2d) -> float:
    """Nanoseconds: a vector for each tap, in both passes, and memory traffic."""
    q, planes = problem, problem.N * blocks(problem.C)
    vectors = planes * q.OH * (q.IW + q.OW) * q.taps
    return vectors * resize_rates().vector + _traffic(planes * target().lanes, q)


def points_cost(problem: Resize2d) -> float:
    """Nanoseconds: a vector for each pair of taps, and memory traffic."""
    q, planes = problem, problem.N * blocks(problem.C)
    vectors = planes * q.OH * q.OW * q.taps**2
    return vectors * resize_rates().point + _traffic(planes * target().lanes, q)


def plain_cost(problem: Resize2d) -> float:
    """Nanoseconds: an element for each tap, in rows that are not the one before again, and memory
    traffic."""
    q, planes = problem, problem.N * problem.C
    rows = min(q.IH, q.OH) if q.taps == 1 else q.OH
    taps = planes * rows * q.OW * q.taps
    return taps * resize_rates().element + _traffic(planes, q)


def _kernel(
    name: str,
    applies: Callable[[Resize2d], bool],
    layout: Layout = BLOCKED,
    precision: Precision = Precision.EXACT,
) -> Kernel:
    cost = plain_cost if layout == PLAIN else blocked_cost
    layouts = layout, layout
    return Kernel(name, Resize2d, partial(prepare, layout), *layouts, applies, cost, precision)


KERNELS = (
    _kernel("resize_f32_copied", partial(copies_blocked, 4)),
    _kernel("resize_f32_blocked", partial(blends, 4), precision=Precision.F32),
    Kernel(
        *("resize_f32_points", Resize2d, prepare_points, BLOCKED, BLOCKED),
        *(partial(blends, 4), points_cost),
    ),
    Kernel(
        *("resize_u8_points", Resize2d, prepare_points, BLOCKED, BLOCKED),
        *(partial(blends, 1), points_cost),
    ),
    _kernel("resize_u8_blocked", partial(copies_blocked, 1)),
    _kernel("resize_copied", copies, PLAIN),
    _kernel("resize_plain", partial(blends, 4), PLAIN, precision=Precision.F32),
)
