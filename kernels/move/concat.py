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
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape, claim, load_i32, load_i64, load_lanes, store_lanes
from minseg.kernels.isa.target import target
from minseg.kernels.move.strided import ITEM_BYTES, copy_bytes
from minseg.kernels.rates.family import rates

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


class Inputs(NamedTuple):
    """As many as there are."""

    x0: Address
    x1: Address = 0
    x2: Address = 0
    x3: Address = 0
    x4: Address = 0
    x5: Address = 0
    x6: Address = 0
    x7: Address = 0


class RunArguments(NamedTuple):
    """``pieces`` is [total][input, offset in it, offset in the output, bytes, bytes of the input's
    run] in i64: what is copied for each of ``outer`` indices before the axis, a ``group`` of which
    is a work item. An index has ``run`` bytes in the output."""

    inputs: Inputs
    pieces: Address
    total: int
    outer: int
    run: int
    group: int
    y: Address = Operand("output")


class ChannelArguments(NamedTuple):
    """``segments`` is [count][input, its blocks, block of it, lane there, lane in the output,
    lanes] in i32, those of output block b from ``firsts[b]`` up to ``firsts[b+1]``."""

    inputs: Inputs
    segments: Address
    firsts: Address
    N: int
    CB: int
    P: int
    y: Address = Operand("output")


def concat_runs(lanes: int) -> Callable[..., None]:
    """The kernel for plain tensors."""
    eight, one = TileShape(8, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")

    def kernel(thread, work, a: RunArguments):
        groups = (a.outer + a.group - 1) // a.group
        item = claim(work)
        while item < groups * a.total:
            piece = a.pieces + item % a.total * 40
            source = a.inputs[load_i64(piece)] + load_i64(piece + 8)
            to = a.y + load_i64(piece + 16)
            size, step = load_i64(piece + 24), load_i64(piece + 32)
            first = item // a.total * a.group
            for o in range(first, min(a.outer, first + a.group)):
                copy_bytes(eight, one, to + o * a.run, source + o * step, size)
            item = claim(work)

    return kernel


def concat_channels(lanes: int, itemsize: int) -> Callable[..., None]:
    """The kernel for blocked tensors."""
    dtype = "u8" if itemsize == 1 else "i32"
    eight, one = TileShape(8, 1, lanes, dtype), TileShape(1, 1, lanes, dtype)
    pixel_bytes = one.bytes
    item_pixels = ITEM_BYTES // pixel_bytes

    def kernel(thread, work, a: ChannelArguments):
        items = (a.P + item_pixels - 1) // item_pixels
        item = claim(work)
        while item < a.N * a.CB * items:
            plane, first = item // items, item % items * item_pixels
            n, cb = plane // a.CB, plane % a.CB
            size = min(a.P - first, item_pixels) * pixel_bytes
            result = a.y + (plane * a.P + first) * pixel_bytes
            for s in range(load_i32(a.firsts + 4 * cb), load_i32(a.firsts + 4 * cb + 4)):
                segment = a.segments + 24 * s
                block = n * load_i32(segment + 4) + load_i32(segment + 8)
                source = a.inputs[load_i32(segment)] + (block * a.P + first) * pixel_bytes
                source += itemsize * load_i32(segment + 12)
                to = result + itemsize * load_i32(segment + 16)
                count = load_i32(segment + 20)
                if count == lanes:
                    copy_bytes(eight, one, to, source, size)
                else:
                    for at in range(0, size, pixel_bytes):
                        some = load_lanes(one, source + at, 0, 0, count)
                        store_lanes(some, to + at, 0, 0, count)
            item = claim(work)

    return kernel


def _inputs(problem: Concat) -> Inputs:
    return Inputs(*(Operand("input", i) for i in range(len(problem.shapes))))


def prepare_plain(problem: Concat) -> Launch:
    """No constants."""
    axis = problem.axis
    runs = [prod(s[axis:]) * problem.itemsize for s in problem.shapes]
    pieces = [
        (i, at, sum(runs[:i]) + at, min(ITEM_BYTES, run - at), run)
        for i, run in enumerate(runs)
        for at in range(0, run, ITEM_BYTES)
    ]
    largest = max(size for *_, size, _ in pieces)
    return Launch(
        Code(concat_runs, (target().lanes,)),
        RunArguments(
            inputs=_inputs(problem),
            pieces=np.array(pieces, np.int64),
            total=len(pieces),
            outer=prod(problem.shape[:axis]),
            run=sum(runs),
            group=max(1, ITEM_BYTES // largest),
        ),
    )


def prepare_blocked(problem: Concat) -> Launch:
    """No constants."""
    N, C, H, W = problem.shape
    L = target().lanes
    segments, firsts = channel_segments([s[1] for s in problem.shapes], L)
    return Launch(
        Code(concat_channels, (L, problem.itemsize)),
        ChannelArguments(
            inputs=_inputs(problem),
            segments=segments,
            firsts=firsts,
            N=N,
            CB=blocks(C),
            P=H * W,
        ),
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
    if layout == PLAIN:
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


class ConcatRates(NamedTuple):
    """One byte, read or written."""

    byte: float


def plain_cost(problem: Concat) -> float:
    """Nanoseconds: memory traffic."""
    return 2 * prod(problem.shape) * problem.itemsize * rates("concat", ConcatRates).byte


def blocked_cost(problem: Concat) -> float:
    """Nanoseconds: memory traffic, the unused channels counted."""
    N, C, H, W = problem.shape
    elements = N * blocks(C) * target().lanes * H * W
    return 2 * elements * problem.itemsize * rates("concat", ConcatRates).byte


KERNELS = (
    Kernel("concat_plain", Concat, prepare_plain, PLAIN, PLAIN, plain_applies, plain_cost),
    Kernel(
        "concat_f32_blocked", Concat, prepare_blocked, BLOCKED, BLOCKED,
        floats_apply, blocked_cost,
    ),
    Kernel(
        "concat_u8_blocked", Concat, prepare_blocked, BLOCKED, BLOCKED,
        bytes_apply, blocked_cost,
    ),
)  # fmt: skip
