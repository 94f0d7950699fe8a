"""Transposes between NHWC and NCHW whose NCHW side is blocked, in f32.

In both layouts channels lie side by side, so each pixel's block of L channels is copied as a
vector (in part, where C ends): cheaper than a plain transpose and a change of layout after it.
Other transposes are plain: see strided.py.

Layouts: NHWC plain [N][P][C], blocked [N][ceil(C/L)][P][L] with P = H·W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout, blocks
from minseg.kernels.core.planes import PlaneArguments, piece_of, pieces, planes_of
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.simd import TileShape, claim, load, load_lanes, store, store_lanes
from minseg.kernels.isa.target import target
from minseg.kernels.move.strided import Transpose
from minseg.kernels.rates.family import rates

#: For each layout that a transpose reads: its permutation, what it writes, where in its shape are
#: N, C, H and W, and the kernel's name.
DIRECTIONS: dict[Layout, tuple[tuple[int, ...], Layout, tuple[int, ...], str]] = {
    PLAIN: ((0, 3, 1, 2), BLOCKED, (0, 3, 1, 2), "transpose_f32_nhwc_to_blocked"),
    BLOCKED: ((0, 2, 3, 1), PLAIN, (0, 1, 2, 3), "transpose_f32_blocked_to_nhwc"),
}


def exchange(lanes: int, of: Layout) -> Callable[..., None]:
    """The kernel; in blocks it writes zeros into channels past C."""
    vector = TileShape(1, 1, lanes)
    inwards = of == PLAIN
    L, V = lanes, vector.bytes

    def kernel(thread, work, a: PlaneArguments):
        C, P = a.planes.C, a.planes.P
        item = claim(work)
        while item < pieces(a.planes, L):
            piece = piece_of(a.planes, L, item)
            channels = piece.channels
            for p in range(piece.begin, piece.end):
                last = ((piece.n * P + p) * C + piece.first) * 4
                block = (piece.plane * P + p) * V
                if inwards and channels == L:
                    store(load(vector, a.x + last, 0, 0), a.y + block, 0, 0)
                elif inwards:
                    store(load_lanes(vector, a.x + last, 0, 0, channels), a.y + block, 0, 0)
                elif channels == L:
                    store(load(vector, a.x + block, 0, 0), a.y + last, 0, 0)
                else:
                    store_lanes(load(vector, a.x + block, 0, 0), a.y + last, 0, 0, channels)
            item = claim(work)

    return kernel


def nchw(of: Layout, problem: Transpose) -> tuple[int, ...]:
    """N, C, H and W."""
    return tuple(problem.shape[axis] for axis in DIRECTIONS[of][2])


def prepare(of: Layout, problem: Transpose) -> Launch:
    """No constants."""
    code = Code(exchange, (target().lanes, of))
    return Launch(code, PlaneArguments(planes_of(nchw(of, problem))))


def applies(of: Layout, problem: Transpose) -> bool:
    return problem.perm == DIRECTIONS[of][0] and problem.itemsize == 4


class TransposeRates(NamedTuple):
    """One f32, read or written."""

    element: float


def cost(of: Layout, problem: Transpose) -> float:
    """Nanoseconds: memory traffic."""
    N, C, H, W = nchw(of, problem)
    return N * H * W * (C + blocks(C) * target().lanes) * rates("transpose", TransposeRates).element


KERNELS = tuple(
    Kernel(name, Transpose, partial(prepare, of), of, to, partial(applies, of), partial(cost, of))
    for of, (_, to, _, name) in DIRECTIONS.items()
)
