"""Transposes between NHWC and NCHW whose NCHW side is blocked, in f32.

In both layouts channels lie side by side, so each pixel's block of L channels is copied as a
vector (in part, where C ends): cheaper than a plain transpose and a change of layout after it.
Other transposes are plain: see strided.py.

Layouts: NHWC plain [N][P][C], blocked [N][ceil(C/L)][P][L] with P = H·W pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape, claim, load, load_lanes, store, store_lanes
from minseg.kernels.isa.target import target
from minseg.kernels.move.strided import Transpose

#: Pixels that one work item covers.
ITEM_PIXELS = 2048

TO_NCHW, TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel from NHWC to blocked; it writes zeros into channels past C."""
    vector = TileShape(1, 1, lanes)

    def kernel(thread, work, x, y, N, C, P, items):
        L = lanes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            channels = min(L, C - cb * L)
            source = x + (n * P * C + cb * L) * 4
            result = y + plane * P * L * 4
            for p in range(part * ITEM_PIXELS, min(P, (part + 1) * ITEM_PIXELS)):
                if channels == L:
                    store(load(vector, source + p * C * 4, 0, 0), result + p * L * 4, 0, 0)
                else:
                    pixel = load_lanes(vector, source + p * C * 4, 0, 0, channels)
                    store(pixel, result + p * L * 4, 0, 0)
            item = claim(work)

    return kernel


def to_channels_last(lanes: int) -> Callable[..., None]:
    """The kernel from blocked to NHWC."""
    vector = TileShape(1, 1, lanes)

    def kernel(thread, work, x, y, N, C, P, items):
        L = lanes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            channels = min(L, C - cb * L)
            source = x + plane * P * L * 4
            result = y + (n * P * C + cb * L) * 4
            for p in range(part * ITEM_PIXELS, min(P, (part + 1) * ITEM_PIXELS)):
                pixel = load(vector, source + p * L * 4, 0, 0)
                if channels == L:
                    store(pixel, result + p * C * 4, 0, 0)
                else:
                    store_lanes(pixel, result + p * C * 4, 0, 0, channels)
            item = claim(work)

    return kernel


def _prepare(factory: Callable[..., Callable[..., None]], N: int, C: int, P: int) -> Launch:
    items = -(-P // ITEM_PIXELS)
    return Launch(
        Code(factory, (target().lanes,)),
        (Operand("input"), Operand("output"), N, C, P, items),
    )


def prepare_to_blocked(problem: Transpose) -> Launch:
    """No constants."""
    N, H, W, C = problem.shape
    return _prepare(to_blocked, N, C, H * W)


def prepare_to_channels_last(problem: Transpose) -> Launch:
    """No constants."""
    N, C, H, W = problem.shape
    return _prepare(to_channels_last, N, C, H * W)


def applies_to_blocked(problem: Transpose) -> bool:
    return problem.perm == TO_NCHW and problem.itemsize == 4


def applies_to_channels_last(problem: Transpose) -> bool:
    return problem.perm == TO_NHWC and problem.itemsize == 4


def cost_to_blocked(problem: Transpose) -> float:
    """Nanoseconds: memory traffic."""
    N, H, W, C = problem.shape
    return N * H * W * (C + blocks(C) * target().lanes) * NS_PER_ELEMENT


def cost_to_channels_last(problem: Transpose) -> float:
    """Nanoseconds: memory traffic."""
    N, C, H, W = problem.shape
    return N * H * W * (C + blocks(C) * target().lanes) * NS_PER_ELEMENT


#: One f32 read or written at main memory's pace.
NS_PER_ELEMENT = 0.3

KERNELS = (
    Kernel(
        "transpose_f32_nhwc_to_blocked",
        Transpose,
        prepare_to_blocked,
        reads="plain",
        writes="blocked",
        applies=applies_to_blocked,
        cost=cost_to_blocked,
    ),
    Kernel(
        "transpose_f32_blocked_to_nhwc",
        Transpose,
        prepare_to_channels_last,
        reads="blocked",
        writes="plain",
        applies=applies_to_channels_last,
        cost=cost_to_channels_last,
    ),
)
