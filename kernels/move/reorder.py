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
from typing import NamedTuple

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import BLOCKED, PANELS, PLAIN, Layout, blocks, panels_shape
from minseg.kernels.core.planes import (
    PlaneArguments,
    blocked_to_plain,
    plain_to_blocked,
    planes_of,
)
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    load,
    load_rows,
    load_u8,
    store,
    store_rows,
    store_u8,
    transpose,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates


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


class LineArguments(NamedTuple):
    """CB blocks of P pixels an image, in ``lines`` lines of ``line`` pixels."""

    N: int
    CB: int
    P: int
    lines: int
    line: int
    x: Address = Operand("input")
    y: Address = Operand("output")


@inline
def unchanged(shape, tile, given):
    return tile


@inline
def rest_to_blocked(square, source, result, channels, given, thread, a):
    tile = load_rows(square, source, a.planes.P * 4, 0, channels)
    store(transpose(tile), result, square.bytes, 0)


def to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel from plain to blocked; it writes zeros into channels past C."""
    square, single = TileShape(lanes, 1, lanes), TileShape(1, 1, 1)

    def kernel(thread, work, a: PlaneArguments):
        plain_to_blocked(square, single, 4, unchanged, rest_to_blocked, 0, thread, work, a)

    return kernel


def to_plain(lanes: int) -> Callable[..., None]:
    """The kernel from blocked to plain; it skips channels past C."""
    square, single = TileShape(lanes, 1, lanes), TileShape(1, 1, 1)

    def kernel(thread, work, a: PlaneArguments):
        blocked_to_plain(square, single, square, single, unchanged, work, a)

    return kernel


def lines_exchanged(lanes: int, to: Layout) -> Callable[..., None]:
    """The kernel between blocked and lines; in these it writes zeros for pixels past the last."""
    square = TileShape(lanes, 1, lanes)
    outwards = to == BLOCKED
    L, V = lanes, square.bytes

    def kernel(thread, work, a: LineArguments):
        line_bytes = a.line * 4
        item = claim(work)
        while item < a.N * a.lines * a.CB:
            n, cb = item // (a.lines * a.CB), item % a.CB
            first = item // a.CB % a.lines * a.line
            for p in range(0, a.line, L):
                pixels = a.P - first - p
                block = ((n * a.CB + cb) * a.P + first + p) * V
                line = item * L * line_bytes + p * 4
                if not outwards:
                    tile = load_rows(square, a.x + block, V, 0, pixels)
                    store(transpose(tile), a.y + line, line_bytes, 0)
                elif pixels > 0:
                    tile = load(square, a.x + line, line_bytes, 0)
                    store_rows(transpose(tile), a.y + block, V, 0, pixels)
            item = claim(work)

    return kernel


def bytes_exchanged(lanes: int, to: Layout) -> Callable[..., None]:
    """The kernel for bytes between plain and blocked; it leaves channels past C alone."""
    inwards = to == BLOCKED
    L = lanes

    def kernel(thread, work, a: PlaneArguments):
        C, P = a.planes.C, a.planes.P
        CB = (C + L - 1) // L
        item = claim(work)
        while item < a.planes.N * CB:
            n, cb = item // CB, item % CB
            for c in range(cb * L, min(C, cb * L + L)):
                plain, blocked = (n * C + c) * P, item * P * L + c % L
                for p in range(P):
                    if inwards:
                        store_u8(a.y + blocked + p * L, load_u8(a.x + plain + p))
                    else:
                        store_u8(a.y + plain + p, load_u8(a.x + blocked + p * L))
            item = claim(work)

    return kernel


def prepare(code: Code, problem: Reorder) -> Launch:
    """No constants."""
    q = problem
    return Launch(code, PlaneArguments(planes_of((q.N, q.C, q.H, q.W))))


def prepare_floats(problem: Reorder) -> Launch:
    """No constants."""
    factory = to_blocked if problem.to == BLOCKED else to_plain
    return prepare(Code(factory, (target().lanes,)), problem)


def prepare_bytes(problem: Reorder) -> Launch:
    """No constants."""
    return prepare(Code(bytes_exchanged, (target().lanes, problem.to)), problem)


def prepare_lines(problem: Reorder) -> Launch:
    """No constants."""
    q = problem
    _, lines, _, line = panels_shape((q.N, q.C, q.H, q.W))
    return Launch(
        Code(lines_exchanged, (target().lanes, q.to)),
        LineArguments(N=q.N, CB=blocks(q.C), P=q.H * q.W, lines=lines, line=line),
    )


def between(of: Layout, to: Layout, itemsize: int) -> Callable[[Reorder], bool]:
    """Whether a problem is this change of layout."""
    return lambda problem: (problem.of, problem.to, problem.itemsize) == (of, to, itemsize)


class ReorderRates(NamedTuple):
    """One f32, read or written."""

    element: float


def cost(problem: Reorder) -> float:
    """Nanoseconds: memory traffic."""
    q = problem
    moved = q.N * q.H * q.W * (q.C + blocks(q.C) * target().lanes)
    return moved * rates("reorder", ReorderRates).element


#: Type and bytes of an element, the layouts, and what prepares the change.
CHANGES: tuple[tuple[str, int, Layout, Layout, Callable[[Reorder], Launch]], ...] = (
    ("f32", 4, PLAIN, BLOCKED, prepare_floats),
    ("f32", 4, BLOCKED, PLAIN, prepare_floats),
    ("f32", 4, BLOCKED, PANELS, prepare_lines),
    ("f32", 4, PANELS, BLOCKED, prepare_lines),
    ("u8", 1, PLAIN, BLOCKED, prepare_bytes),
    ("u8", 1, BLOCKED, PLAIN, prepare_bytes),
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
