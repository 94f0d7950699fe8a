"""Between plain NCHW, the blocked layout and lines, of floats and bytes.

A plain tensor has its pixels side by side, a blocked one L channels. `reorder_f32_*` moves squares
of L channels × L pixels: L vectors are loaded, exchanged rows for lanes in registers and stored,
so both sides are walked a whole vector at a time. The last square of a plane overlaps the one
before it; pictures of less than L pixels go element by element. So do bytes (`reorder_u8_*`), which
networks seldom need otherwise than they are made.

Lines are made of blocks only, and only blocks are made of lines.

Layouts: plain [N][C][P], blocked [N][ceil(C/L)][P][L], lines [N][ceil(P/line)][ceil(C/L)·L][line],
with P = H·W pixels. NHWC tensors, whose channels lie side by side already, have their own kernels
in channels_last.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import Layout, blocks, lines_shape
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    load,
    load_f32,
    load_rows,
    load_u8,
    store,
    store_f32,
    store_rows,
    store_u8,
    transpose,
)
from minseg.kernels.isa.target import target

#: Pixels that one work item covers.
ITEM_PIXELS = 1024


@dataclass(frozen=True)
class Reorder:
    """The same N×C×H×W tensor in the layout ``to``, from layout ``of``."""

    N: int
    C: int
    H: int
    W: int
    of: Layout
    to: Layout
    itemsize: int = 4


def to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel from plain to blocked; it writes zeros into channels past C."""
    square = TileShape(lanes, 1, lanes)

    def kernel(thread, work, x, y, N, C, P, items):
        L = lanes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            channels = min(L, C - cb * L)
            source = x + (n * C + cb * L) * P * 4
            result = y + plane * P * L * 4
            last = P if part == items - 1 else (part + 1) * ITEM_PIXELS
            if P < L:
                for p in range(P):
                    for c in range(channels):
                        store_f32(result + (p * L + c) * 4, load_f32(source + (c * P + p) * 4))
            elif channels == L:
                for p in range(part * ITEM_PIXELS, last, L):
                    at = min(p, P - L)
                    tile = load(square, source + at * 4, P * 4, 0)
                    store(transpose(tile), result + at * L * 4, L * 4, 0)
            else:
                for p in range(part * ITEM_PIXELS, last, L):
                    at = min(p, P - L)
                    tile = load_rows(square, source + at * 4, P * 4, 0, channels)
                    store(transpose(tile), result + at * L * 4, L * 4, 0)
            item = claim(work)

    return kernel


def to_plain(lanes: int) -> Callable[..., None]:
    """The kernel from blocked to plain; it skips channels past C."""
    square = TileShape(lanes, 1, lanes)

    def kernel(thread, work, x, y, N, C, P, items):
        L = lanes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            channels = min(L, C - cb * L)
            source = x + plane * P * L * 4
            result = y + (n * C + cb * L) * P * 4
            last = P if part == items - 1 else (part + 1) * ITEM_PIXELS
            if P < L:
                for p in range(P):
                    for c in range(channels):
                        store_f32(result + (c * P + p) * 4, load_f32(source + (p * L + c) * 4))
            else:
                for p in range(part * ITEM_PIXELS, last, L):
                    at = min(p, P - L)
                    tile = load(square, source + at * L * 4, L * 4, 0)
                    store_rows(transpose(tile), result + at * 4, P * 4, 0, channels)
            item = claim(work)

    return kernel


def blocked_to_lines(lanes: int) -> Callable[..., None]:
    """The kernel from blocked to lines; it writes zeros for pixels past the last."""
    square = TileShape(lanes, 1, lanes)

    def kernel(thread, work, x, y, N, CB, P, lines, line):
        L = lanes
        item = claim(work)
        while item < N * lines * CB:
            n, at, cb = item // (lines * CB), item // CB % lines * line, item % CB
            source = x + ((n * CB + cb) * P + at) * L * 4
            for p in range(0, line, L):
                tile = load_rows(square, source + p * L * 4, L * 4, 0, P - at - p)
                store(transpose(tile), y + (item * L * line + p) * 4, line * 4, 0)
            item = claim(work)

    return kernel


def lines_to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel from lines to blocked."""
    square = TileShape(lanes, 1, lanes)

    def kernel(thread, work, x, y, N, CB, P, lines, line):
        L = lanes
        item = claim(work)
        while item < N * lines * CB:
            n, at, cb = item // (lines * CB), item // CB % lines * line, item % CB
            result = y + ((n * CB + cb) * P + at) * L * 4
            for p in range(0, min(line, P - at), L):
                tile = load(square, x + (item * L * line + p) * 4, line * 4, 0)
                store_rows(transpose(tile), result + p * L * 4, L * 4, 0, P - at - p)
            item = claim(work)

    return kernel


def bytes_to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel for bytes from plain to blocked; it writes nothing into channels past C."""

    def kernel(thread, work, x, y, N, C, P):
        L = lanes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * CB:
            n, cb = item // CB, item % CB
            for c in range(cb * L, min(C, cb * L + L)):
                source = x + (n * C + c) * P
                result = y + item * P * L + c % L
                for p in range(P):
                    store_u8(result + p * L, load_u8(source + p))
            item = claim(work)

    return kernel


def bytes_to_plain(lanes: int) -> Callable[..., None]:
    """The kernel for bytes from blocked to plain; it skips channels past C."""

    def kernel(thread, work, x, y, N, C, P):
        L = lanes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * C:
            n, c = item // C, item % C
            source = x + (n * CB + c // L) * P * L + c % L
            for p in range(P):
                store_u8(y + item * P + p, load_u8(source + p * L))
            item = claim(work)

    return kernel


def prepare_bytes(problem: Reorder) -> Launch:
    """No constants."""
    q = problem
    factory = bytes_to_blocked if q.to == "blocked" else bytes_to_plain
    sizes = q.N, q.C, q.H * q.W
    return Launch(Code(factory, (target().lanes,)), (Operand("input"), Operand("output"), *sizes))


def prepare(problem: Reorder) -> Launch:
    """No constants."""
    q = problem
    P = q.H * q.W
    # The last item takes what is left, so that its last square overlaps its own pixels only.
    items = max(1, P // ITEM_PIXELS)
    return Launch(
        Code(to_blocked if q.to == "blocked" else to_plain, (target().lanes,)),
        (Operand("input"), Operand("output"), q.N, q.C, P, items),
    )


def prepare_lines(problem: Reorder) -> Launch:
    """No constants."""
    q = problem
    _, lines, _, line = lines_shape((q.N, q.C, q.H, q.W))
    return Launch(
        Code(blocked_to_lines if q.to == "lines" else lines_to_blocked, (target().lanes,)),
        (Operand("input"), Operand("output"), q.N, blocks(q.C), q.H * q.W, lines, line),
    )


def between(of: Layout, to: Layout, itemsize: int) -> Callable[[Reorder], bool]:
    """Whether a problem is this change of layout."""
    return lambda problem: (problem.of, problem.to, problem.itemsize) == (of, to, itemsize)


def cost(problem: Reorder) -> float:
    """Nanoseconds: memory traffic."""
    q = problem
    return q.N * q.H * q.W * (q.C + blocks(q.C) * target().lanes) * NS_PER_ELEMENT


#: One f32 read or written at main memory's pace.
NS_PER_ELEMENT = 0.3

#: Type and bytes of an element, the layouts, and what prepares the change.
CHANGES: tuple[tuple[str, int, Layout, Layout, Callable[[Reorder], Launch]], ...] = (
    ("f32", 4, "plain", "blocked", prepare),
    ("f32", 4, "blocked", "plain", prepare),
    ("f32", 4, "blocked", "lines", prepare_lines),
    ("f32", 4, "lines", "blocked", prepare_lines),
    ("u8", 1, "plain", "blocked", prepare_bytes),
    ("u8", 1, "blocked", "plain", prepare_bytes),
)

KERNELS = tuple(
    Kernel(
        f"reorder_{dtype}_{of}_to_{to}",
        Reorder,
        prepare_change,
        reads=of,
        writes=to,
        applies=between(of, to, itemsize),
        cost=cost,
    )
    for dtype, itemsize, of, to, prepare_change in CHANGES
)
