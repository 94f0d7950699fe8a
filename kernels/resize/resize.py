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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocks
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
from minseg.kernels.move.strided import copy_bytes, copy_element

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


@inline
def weighted(shape, taps, x, step, positions, weights):
    """The sum of ``taps`` tiles that begin ``step`` bytes times a position after ``x``."""
    total = fill(shape, 0.0)
    for t in range(taps):
        tile = load(shape, x + load_i32(positions + 4 * t) * step, 0, 0)
        total = fma(tile, fill(shape, load_f32(weights + 4 * t)), total)
    return total


def copy_pixels(lanes: int, dtype: str) -> Callable[..., None]:
    """The kernel for one tap. ``rows`` is [OH] i32, ``columns`` [OW] i32."""
    one = TileShape(1, 1, lanes, dtype)
    V = one.bytes

    def kernel(thread, work, x, y, rows, columns, planes, IH, IW, OH, OW, items, item_rows):
        item = claim(work)
        while item < planes * items:
            plane, first = item // items, item % items * item_rows
            for oy in range(first, min(OH, first + item_rows)):
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
            plane, first = item // items, item % items * item_rows
            source = x + plane * IH * IW * V
            for oy in range(first, min(OH, first + item_rows)):
                above, weights = rows + 4 * oy * T, row_weights + 4 * oy * T
                for at in range(0, IW * V, V):
                    store(weighted(one, T, source + at, IW * V, above, weights), row + at, 0, 0)
                result = y + (plane * OH + oy) * OW * V
                for ox in range(OW):
                    left, weights = columns + 4 * ox * T, column_weights + 4 * ox * T
                    store(weighted(one, T, row, V, left, weights), result + ox * V, 0, 0)
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

    def kernel(
        thread, work, x, y, rows, row_weights, columns, column_weights, scratch, scratch_bytes,
        planes, IH, IW, OH, OW, items, item_rows,
    ):  # fmt: skip
        item = claim(work)
        while item < planes * items:
            plane, first = item // items, item % items * item_rows
            source = x + plane * IH * IW * V
            for oy in range(first, min(OH, first + item_rows)):
                above, weights = rows + 4 * oy * T, row_weights + 4 * oy * T
                result = y + (plane * OH + oy) * OW * V
                for ox in range(OW):
                    left, across = columns + 4 * ox * T, column_weights + 4 * ox * T
                    total = fill(one, 0.0)
                    for i in range(T):
                        row = source + load_i32(above + 4 * i) * IW * V
                        down = fill(one, load_f32(weights + 4 * i))
                        for j in range(T):
                            weight = down * fill(one, load_f32(across + 4 * j))
                            pixel = load(stored, row + load_i32(left + 4 * j) * V, 0, 0)
                            total = total + weight * read(one, pixel)
                    store(written(one, total), result + ox * V, 0, 0)
            item = claim(work)

    return kernel


def copy_elements(lanes: int, itemsize: int) -> Callable[..., None]:
    """`copy_pixels` for plain tensors."""
    eight, one = TileShape(8, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")

    def kernel(thread, work, x, y, rows, columns, planes, IH, IW, OH, OW, items, item_rows):
        size = OW * itemsize
        item = claim(work)
        while item < planes * items:
            plane, first = item // items, item % items * item_rows
            for oy in range(first, min(OH, first + item_rows)):
                row = load_i32(rows + 4 * oy)
                result = y + (plane * OH + oy) * size
                if oy > first and row == load_i32(rows + 4 * oy - 4):
                    copy_bytes(eight, one, result, result - size, size)
                else:
                    source = x + (plane * IH + row) * IW * itemsize
                    for ox in range(OW):
                        left = source + load_i32(columns + 4 * ox) * itemsize
                        copy_element(itemsize, result + ox * itemsize, left)
            item = claim(work)

    return kernel


def blend_elements(lanes: int, taps: int) -> Callable[..., None]:
    """`blend` for plain tensors."""
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)
    T = taps

    def kernel(
        thread, work, x, y, rows, row_weights, columns, column_weights, scratch, scratch_bytes,
        planes, IH, IW, OH, OW, items, item_rows,
    ):  # fmt: skip
        row = scratch + thread * scratch_bytes
        whole = IW - IW % lanes
        item = claim(work)
        while item < planes * items:
            plane, first = item // items, item % items * item_rows
            source = x + plane * IH * IW * 4
            for oy in range(first, min(OH, first + item_rows)):
                above, weights = rows + 4 * oy * T, row_weights + 4 * oy * T
                for at in range(0, 4 * whole, 4 * lanes):
                    store(weighted(vector, T, source + at, 4 * IW, above, weights), row + at, 0, 0)
                for at in range(4 * whole, 4 * IW, 4):
                    store(weighted(single, T, source + at, 4 * IW, above, weights), row + at, 0, 0)
                result = y + (plane * OH + oy) * OW * 4
                for ox in range(OW):
                    left, weights = columns + 4 * ox * T, column_weights + 4 * ox * T
                    store(weighted(single, T, row, 4, left, weights), result + 4 * ox, 0, 0)
            item = claim(work)

    return kernel


def prepare_blocked(
    problem: Resize2d,
    rows: np.ndarray,
    row_weights: np.ndarray | None,
    columns: np.ndarray,
    column_weights: np.ndarray | None,
) -> Launch:
    """``rows`` OH×T and ``columns`` OW×T are input positions, whole numbers inside the picture;
    the weights have the same shapes, and are None for one tap. Raises ValueError otherwise."""
    q, L = problem, target().lanes
    codes = Code(copy_pixels, (L, "u8" if q.itemsize == 1 else "f32")), Code(blend, (L, q.taps))
    tables = (rows, row_weights, columns, column_weights)
    return _prepare(q, tables, codes, q.N * blocks(q.C), q.itemsize * L)


def prepare_points(
    problem: Resize2d,
    rows: np.ndarray,
    row_weights: np.ndarray,
    columns: np.ndarray,
    column_weights: np.ndarray,
) -> Launch:
    """Constants as those of `prepare_blocked`, for two taps and more."""
    q, L = problem, target().lanes
    code = Code(blend_points, (L, q.taps, "u8" if q.itemsize == 1 else "f32"))
    tables = (rows, row_weights, columns, column_weights)
    return _prepare(q, tables, (code, code), q.N * blocks(q.C), q.itemsize * L)


def prepare_plain(
    problem: Resize2d,
    rows: np.ndarray,
    row_weights: np.ndarray | None,
    columns: np.ndarray,
    column_weights: np.ndarray | None,
) -> Launch:
    """Constants as those of `prepare_blocked`."""
    q, L = problem, target().lanes
    codes = Code(copy_elements, (L, q.itemsize)), Code(blend_elements, (L, q.taps))
    tables = (rows, row_weights, columns, column_weights)
    return _prepare(q, tables, codes, q.N * q.C, q.itemsize)


def _prepare(
    problem: Resize2d,
    tables: tuple[np.ndarray | None, ...],
    codes: tuple[Code, Code],
    planes: int,
    pixel_bytes: int,
) -> Launch:
    """The first of ``codes`` copies, the second one blends."""
    q = problem
    rows, row_weights, columns, column_weights = tables
    positions = (
        positions_table(rows, q.OH, q.taps, q.IH),
        positions_table(columns, q.OW, q.taps, q.IW),
    )
    item_rows = max(1, ITEM_BYTES // (q.OW * pixel_bytes))
    sizes = (planes, q.IH, q.IW, q.OH, q.OW, -(-q.OH // item_rows), item_rows)
    ends = Operand("input"), Operand("output")
    constants = [Operand("constant", i) for i in range(4)]
    if row_weights is None or column_weights is None:
        return Launch(codes[0], (*ends, *constants[:2], *sizes), positions)
    weights = [np.ascontiguousarray(w, np.float32) for w in (row_weights, column_weights)]
    buffer = q.IW * pixel_bytes
    return Launch(
        codes[1],
        (*ends, *constants, Operand("workspace"), buffer, *sizes),
        (positions[0], weights[0], positions[1], weights[1]),
        buffer,
    )


def positions_table(positions: np.ndarray | None, outputs: int, taps: int, size: int) -> np.ndarray:
    """``positions`` as kernels read them. Raises ValueError for a table of another shape, or one
    that leads outside of ``size`` elements."""
    if positions is None or positions.shape != (outputs, taps):
        raise ValueError(f"positions are no {outputs}×{taps} table")
    if positions.min() < 0 or positions.max() >= size:
        raise ValueError(f"positions reach {positions.min()} … {positions.max()} of {size}")
    return np.ascontiguousarray(positions, np.int32)


def floats_apply(problem: Resize2d) -> bool:
    """Elements of 4 bytes that are copied."""
    return problem.itemsize == 4 and problem.taps == 1


def blends(problem: Resize2d) -> bool:
    """f32 that are computed with."""
    return problem.itemsize == 4 and problem.taps > 1


def blends_bytes(problem: Resize2d) -> bool:
    """Bytes that are computed with."""
    return problem.itemsize == 1 and problem.taps > 1


def bytes_apply(problem: Resize2d) -> bool:
    """Bytes that are copied."""
    return problem.itemsize == 1 and problem.taps == 1


def copies(problem: Resize2d) -> bool:
    """Elements of any size that are copied."""
    return problem.taps == 1 and problem.itemsize in (1, 2, 4, 8)


def blocked_cost(problem: Resize2d) -> float:
    """Nanoseconds: a vector for each tap, in both passes, and memory traffic."""
    q, planes = problem, problem.N * blocks(problem.C)
    vectors = planes * q.OH * (q.IW + q.OW) * q.taps
    touched = planes * (q.IH * q.IW + q.OH * q.OW) * target().lanes * q.itemsize
    return vectors * NS_PER_VECTOR + touched * NS_PER_BYTE


def points_cost(problem: Resize2d) -> float:
    """Nanoseconds: a vector for each pair of taps, and memory traffic."""
    q, planes = problem, problem.N * blocks(problem.C)
    vectors = planes * q.OH * q.OW * q.taps**2
    touched = planes * (q.IH * q.IW + q.OH * q.OW) * target().lanes * q.itemsize
    return vectors * NS_PER_POINT + touched * NS_PER_BYTE


def plain_cost(problem: Resize2d) -> float:
    """Nanoseconds: an element for each tap, in rows that are not the one before again, and memory
    traffic."""
    q, planes = problem, problem.N * problem.C
    rows = min(q.IH, q.OH) if q.taps == 1 else q.OH
    touched = planes * (q.IH * q.IW + q.OH * q.OW) * q.itemsize
    return planes * rows * q.OW * q.taps * NS_PER_ELEMENT + touched * NS_PER_BYTE


#: Columns are taken one by one by plain kernels, and by vectors of blocked ones.
NS_PER_ELEMENT, NS_PER_VECTOR, NS_PER_POINT = 0.5, 0.25, 0.6
#: Read or written at main memory's pace.
NS_PER_BYTE = 0.05

KERNELS = (
    Kernel(
        "resize_f32_copied", Resize2d, prepare_blocked,
        applies=floats_apply, cost=blocked_cost,
    ),
    Kernel(
        "resize_f32_blocked", Resize2d, prepare_blocked,
        applies=blends, cost=blocked_cost, exact=False,
    ),
    Kernel(
        "resize_f32_points", Resize2d, prepare_points,
        applies=blends, cost=points_cost,
    ),
    Kernel(
        "resize_u8_points", Resize2d, prepare_points,
        applies=blends_bytes, cost=points_cost,
    ),
    Kernel(
        "resize_u8_blocked", Resize2d, prepare_blocked,
        applies=bytes_apply, cost=blocked_cost,
    ),
    Kernel(
        "resize_copied", Resize2d, prepare_plain, "plain", "plain", copies, plain_cost,
    ),
    Kernel(
        "resize_plain", Resize2d, prepare_plain, "plain", "plain", blends, plain_cost, exact=False,
    ),
)  # fmt: skip
