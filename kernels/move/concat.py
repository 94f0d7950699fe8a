"""Concatenation, of up to eight tensors by one launch.

`concat_plain` joins plain tensors along any axis: for each index before the axis, one run of
bytes from every input. `concat_*_blocked` joins blocked tensors, of floats or bytes, along their
channels. Where an output block is one input's block, pixels are copied as they lie; where channel
counts are no multiples of L it is put together from segments, each some lanes of one input's block.

Where the inputs, as they are stored, follow one another in the output (`is_in_order`), a plan lets
them be made there, and these kernels are left with what cannot be.

Layouts: plain, row-major; or blocked [N][ceil(C/L)][P][L] with P = H·W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import numpy as np

from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import Layout, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape, claim, load_i32, load_i64, load_lanes, store_lanes
from minseg.kernels.isa.target import target
from minseg.kernels.move.strided import ITEM_BYTES, copy_bytes

#: Inputs of one launch.
MAX_INPUTS = 8


@dataclass(frozen=True)
class Concat:
    """ONNX Concat of tensors of ``shapes`` along ``axis`` (not negative)."""

    shapes: tuple[tuple[int, ...], ...]
    axis: int
    itemsize: int = 4

    @property
    def shape(self) -> tuple[int, ...]:
        """The output's."""
        first = self.shapes[0]
        joined = sum(s[self.axis] for s in self.shapes)
        return (*first[: self.axis], joined, *first[self.axis + 1 :])


def concat_runs(lanes: int) -> Callable[..., None]:
    """The kernel for plain tensors. ``pieces`` is [count][input, offset in it, offset in the
    output, bytes, bytes of the input's run] in i64: what is copied for each index before the
    axis."""
    eight, one = TileShape(8, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")
    vector_bytes = one.bytes

    def kernel(thread, work, x0, x1, x2, x3, x4, x5, x6, x7, y, pieces, count, outer, run, group):
        inputs = (x0, x1, x2, x3, x4, x5, x6, x7)
        groups = (outer + group - 1) // group
        item = claim(work)
        while item < groups * count:
            piece = pieces + item % count * 40
            source = inputs[load_i64(piece)] + load_i64(piece + 8)
            to = y + load_i64(piece + 16)
            size, step = load_i64(piece + 24), load_i64(piece + 32)
            first = item // count * group
            for o in range(first, min(outer, first + group)):
                copy_bytes(eight, one, vector_bytes, to + o * run, source + o * step, size)
            item = claim(work)

    return kernel


def concat_channels(lanes: int, itemsize: int) -> Callable[..., None]:
    """The kernel for blocked tensors. ``segments`` is [count][input, its blocks, block of it, lane
    there, lane in the output, lanes] in i32, those of output block b from ``firsts[b]`` up to
    ``firsts[b+1]``."""
    dtype = "u8" if itemsize == 1 else "i32"
    eight, one = TileShape(8, 1, lanes, dtype), TileShape(1, 1, lanes, dtype)
    pixel_bytes = one.bytes

    def kernel(
        thread, work, x0, x1, x2, x3, x4, x5, x6, x7, y, segments, firsts,
        N, CB, P, items, item_pixels,
    ):  # fmt: skip
        inputs = (x0, x1, x2, x3, x4, x5, x6, x7)
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            first = part * item_pixels
            pixels = min(P - first, item_pixels)
            for s in range(load_i32(firsts + 4 * cb), load_i32(firsts + 4 * cb + 4)):
                segment = segments + 24 * s
                block = n * load_i32(segment + 4) + load_i32(segment + 8)
                source = inputs[load_i32(segment)] + (block * P + first) * pixel_bytes
                source += itemsize * load_i32(segment + 12)
                to = y + (plane * P + first) * pixel_bytes + itemsize * load_i32(segment + 16)
                count = load_i32(segment + 20)
                if count == lanes:
                    copy_bytes(eight, one, pixel_bytes, to, source, pixels * pixel_bytes)
                else:
                    for at in range(0, pixels * pixel_bytes, pixel_bytes):
                        some = load_lanes(one, source + at, 0, 0, count)
                        store_lanes(some, to + at, 0, 0, count)
            item = claim(work)

    return kernel


def _inputs(problem: Concat) -> list[Operand]:
    """Eight operands, the first one again in place of those that there are not."""
    count = len(problem.shapes)
    return [Operand("input", i if i < count else 0) for i in range(MAX_INPUTS)]


def prepare_plain(problem: Concat) -> Launch:
    """No constants."""
    axis = problem.axis
    outer = prod(problem.shape[:axis])
    runs = [prod(s[axis:]) * problem.itemsize for s in problem.shapes]
    pieces = [
        (i, at, sum(runs[:i]) + at, min(ITEM_BYTES, run - at), run)
        for i, run in enumerate(runs)
        for at in range(0, run, ITEM_BYTES)
    ]
    largest = max(size for *_, size, _ in pieces)
    return Launch(
        Code(concat_runs, (target().lanes,)),
        (
            *_inputs(problem),
            Operand("output"),
            Operand("constant"),
            len(pieces),
            outer,
            sum(runs),
            max(1, ITEM_BYTES // largest),
        ),
        (np.array(pieces, np.int64),),
    )


def prepare_blocked(problem: Concat) -> Launch:
    """No constants."""
    N, C, H, W = problem.shape
    L, P = target().lanes, H * W
    segments, firsts = channel_segments([s[1] for s in problem.shapes], L)
    item_pixels = ITEM_BYTES // (problem.itemsize * L)
    return Launch(
        Code(concat_channels, (L, problem.itemsize)),
        (
            *_inputs(problem),
            Operand("output"),
            Operand("constant", 0),
            Operand("constant", 1),
            *(N, blocks(C), P, -(-P // item_pixels), item_pixels),
        ),
        (segments, firsts),
    )


def channel_segments(channels: list[int], L: int) -> tuple[np.ndarray, np.ndarray]:
    """The tables of `concat_channels`. A last segment of a last input block is a whole block if
    nothing follows it, since the channels past C may be anything."""
    segments: list[list[int]] = []
    firsts = [0]
    C = 0
    for i, count in enumerate(channels):
        c = 0
        while c < count:
            if len(firsts) == C // L:
                firsts.append(len(segments))
            lanes = min(L - c % L, L - C % L, count - c)
            segments.append([i, -(-count // L), c // L, c % L, C % L, lanes])
            c, C = c + lanes, C + lanes
    if segments[-1][3] == segments[-1][4] == 0:
        segments[-1][5] = L
    return np.array(segments, np.int32), np.array([*firsts, len(segments)], np.int32)


def is_in_order(problem: Concat, layout: Layout) -> bool:
    """Whether the inputs, as they are stored, lie in the output one after the other."""
    if layout == "plain":
        return prod(problem.shape[: problem.axis]) == 1
    return problem.shape[0] == 1 and all(s[1] % target().lanes == 0 for s in problem.shapes[:-1])


def plain_applies(problem: Concat) -> bool:
    """Up to eight tensors that all have elements."""
    shapes = problem.shapes
    return 0 < len(shapes) <= MAX_INPUTS and all(prod(s) > 0 for s in shapes)


def floats_apply(problem: Concat) -> bool:
    """Up to eight f32 tensors of rank 4, along their channels."""
    return _blocked_applies(problem) and problem.itemsize == 4


def bytes_apply(problem: Concat) -> bool:
    """Up to eight tensors of bytes of rank 4, along their channels."""
    return _blocked_applies(problem) and problem.itemsize == 1


def _blocked_applies(problem: Concat) -> bool:
    four = all(len(s) == 4 for s in problem.shapes)
    return plain_applies(problem) and four and problem.axis == 1


def plain_cost(problem: Concat) -> float:
    """Nanoseconds: memory traffic."""
    return 2 * prod(problem.shape) * problem.itemsize * NS_PER_BYTE


def blocked_cost(problem: Concat) -> float:
    """Nanoseconds: memory traffic, the unused channels counted."""
    N, C, H, W = problem.shape
    return 2 * N * blocks(C) * target().lanes * H * W * problem.itemsize * NS_PER_BYTE


#: One byte read or written at main memory's pace.
NS_PER_BYTE = 0.075

KERNELS = (
    Kernel("concat_plain", Concat, prepare_plain, "plain", "plain", plain_applies, plain_cost),
    Kernel(
        "concat_f32_blocked", Concat, prepare_blocked, "blocked", "blocked",
        floats_apply, blocked_cost,
    ),
    Kernel(
        "concat_u8_blocked", Concat, prepare_blocked, "blocked", "blocked",
        bytes_apply, blocked_cost,
    ),
)  # fmt: skip
