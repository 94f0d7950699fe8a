"""Between plain NCHW and the blocked layout, of floats and bytes.

A plain tensor has its pixels side by side, a blocked one L channels. `reorder_f32_*` moves squares
of L channels × L pixels: L vectors are loaded, exchanged rows for lanes in registers and stored,
so both sides are walked a whole vector at a time. The last square of a plane overlaps the one
before it; pictures of less than L pixels go element by element. So do bytes (`reorder_u8_*`), which
networks seldom need otherwise than they are made.

Layouts: plain [N][C][P], blocked [N][ceil(C/L)][P][L] with P = H·W pixels. NHWC tensors, whose
channels lie side by side already, have their own kernels in channels_last.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minseg.kernels.jit import Code
from minseg.kernels.layout import blocks
from minseg.kernels.machine import target
from minseg.kernels.registry import Kernel, Launch, Layout, Operand
from minseg.kernels.simd import (
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

#: Pixels that one work item covers.
ITEM_PIXELS = 1024


@dataclass(frozen=True)
class Reorder:
    """The same N×C×H×W tensor in the layout ``to``, from the other one."""

    N: int
    C: int
    H: int
    W: int
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


def cost(problem: Reorder) -> float:
    """Nanoseconds: memory traffic."""
    q = problem
    return q.N * q.H * q.W * (q.C + blocks(q.C) * target().lanes) * NS_PER_ELEMENT


#: One f32 read or written at main memory's pace.
NS_PER_ELEMENT = 0.3

KERNELS = (
    Kernel(
        "reorder_f32_plain_to_blocked",
        Reorder,
        prepare,
        reads="plain",
        writes="blocked",
        applies=lambda problem: problem.to == "blocked" and problem.itemsize == 4,
        cost=cost,
    ),
    Kernel(
        "reorder_f32_blocked_to_plain",
        Reorder,
        prepare,
        reads="blocked",
        writes="plain",
        applies=lambda problem: problem.to == "plain" and problem.itemsize == 4,
        cost=cost,
    ),
    Kernel(
        "reorder_u8_plain_to_blocked",
        Reorder,
        prepare_bytes,
        reads="plain",
        writes="blocked",
        applies=lambda problem: problem.to == "blocked" and problem.itemsize == 1,
        cost=cost,
    ),
    Kernel(
        "reorder_u8_blocked_to_plain",
        Reorder,
        prepare_bytes,
        reads="blocked",
        writes="plain",
        applies=lambda problem: problem.to == "plain" and problem.itemsize == 1,
        cost=cost,
    ),
)
