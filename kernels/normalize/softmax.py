"""Softmax and arg-max of f32 tensors along one axis.

Vectors run along the pixels, so that each lane works on its own, and the vectors of one column
stay in the L1 cache between the passes over the axis.

* `*_f32_plain` see a plain tensor as [outer][axis][inner]. What is left past whole vectors of
  ``inner`` is done one position at a time.
* `*_f32_blocked` are for the channels of blocked tensors. They exchange channels for pixels of L
  pixels at a time, on the way into a column of their own, and write plain: no change of layout
  is left to do.

Layouts: plain; x blocked [N][ceil(C/L)][P][L] with P = H·W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.mathematics import exp
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    fill,
    load,
    load_i64,
    load_rows,
    maximum,
    select_less,
    store,
    store_i64,
    store_lanes,
    store_wide,
    transpose,
    zeros,
)
from minseg.kernels.isa.target import target

#: Positions along ``inner`` that one work item covers.
ITEM_POSITIONS = 1024


@dataclass(frozen=True)
class Softmax:
    """y = exp(x - max) / sum(exp(x - max)) along ``axis``; ONNX Softmax since opset 13.

    ``over_channels`` tells that x is N×C×H×W, the axis C and the others N and H·W.
    """

    outer: int
    axis: int
    inner: int
    over_channels: bool = False

    @property
    def flops(self) -> int:
        """Subtract, exp (as one), add, multiply."""
        return 4 * self.outer * self.axis * self.inner


@dataclass(frozen=True)
class ArgMax:
    """y[outer][inner] = index of the greatest along ``axis`` as i64, the first of equals.

    A NaN is never greater; one that comes first wins. ``over_channels`` as in `Softmax`.
    """

    outer: int
    axis: int
    inner: int
    over_channels: bool = False


@inline
def softmax_column(shape, x, x_step, e, e_step, y, y_step, axis):
    """One column of ``axis`` vectors, so many bytes apart. The exponentials wait in ``e``, which
    may be x or y."""
    top = load(shape, x, 0, 0)
    for i in range(1, axis):
        top = maximum(top, load(shape, x + i * x_step, 0, 0))
    total = zeros(shape)
    for i in range(axis):
        power = exp(shape, load(shape, x + i * x_step, 0, 0) - top)
        store(power, e + i * e_step, 0, 0)
        total = total + power
    scale = fill(shape, 1.0) / total
    for i in range(axis):
        store(load(shape, e + i * e_step, 0, 0) * scale, y + i * y_step, 0, 0)


@inline
def argmax_column(shape, indices, x, y, axis, stride):
    """As `softmax_column`, ``stride`` bytes apart, with one vector of i64 out."""
    top = load(shape, x, 0, 0)
    best = zeros(indices)
    for i in range(1, axis):
        value = load(shape, x + i * stride, 0, 0)
        best = select_less(top, value, fill(indices, i), best)
        top = select_less(top, value, value, top)
    store_wide(best, y)


@inline
def gather_column(square, L, x, plane_bytes, blocks, column, pixels):
    """Of ``pixels`` blocked pixels, L at most, one vector for each channel in ``column``."""
    for cb in range(blocks):
        source = x + cb * plane_bytes
        if pixels == L:
            tile = load(square, source, 4 * L, 0)
        else:
            tile = load_rows(square, source, 4 * L, 0, pixels)
        store(transpose(tile), column + cb * L * L * 4, 4 * L, 0)


def softmax() -> Callable[..., None]:
    """The kernel for plain tensors."""
    lanes = target().lanes
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)

    def kernel(thread, work, x, y, outer, axis, inner, parts, part):
        item = claim(work)
        while item < outer * parts:
            first = item % parts * part
            last = min(inner, first + part)
            whole = last - (last - first) % lanes
            base = item // parts * axis * inner * 4
            step = 4 * inner
            for at in range(base + 4 * first, base + 4 * whole, 4 * lanes):
                softmax_column(vector, x + at, step, y + at, step, y + at, step, axis)
            for at in range(base + 4 * whole, base + 4 * last, 4):
                softmax_column(single, x + at, step, y + at, step, y + at, step, axis)
            item = claim(work)

    return kernel


def softmax_channels(lanes: int) -> Callable[..., None]:
    """The kernel for the channels of blocked tensors."""
    square, vector = TileShape(lanes, 1, lanes), TileShape(1, 1, lanes)
    L, V = lanes, vector.bytes

    def kernel(thread, work, x, y, scratch, scratch_bytes, N, C, P, parts, part):
        column = scratch + thread * scratch_bytes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * parts:
            n, first = item // parts, item % parts * part
            for p in range(first, min(P, first + part), L):
                pixels = min(L, P - p)
                gather_column(square, L, x + (n * CB * P + p) * V, P * V, CB, column, pixels)
                to = y + (n * C * P + p) * 4
                if pixels == L:
                    softmax_column(vector, column, V, column, V, to, 4 * P, C)
                else:
                    softmax_column(vector, column, V, column, V, column, V, C)
                    for c in range(C):
                        some = load(vector, column + c * V, 0, 0)
                        store_lanes(some, to + c * P * 4, 0, 0, pixels)
            item = claim(work)

    return kernel


def argmax_channels(lanes: int) -> Callable[..., None]:
    """The kernel for the channels of blocked tensors."""
    square, vector = TileShape(lanes, 1, lanes), TileShape(1, 1, lanes)
    indices = TileShape(1, 1, lanes, "i32")
    L, V = lanes, vector.bytes

    def kernel(thread, work, x, y, scratch, scratch_bytes, N, C, P, parts, part):
        column = scratch + thread * scratch_bytes
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * parts:
            n, first = item // parts, item % parts * part
            for p in range(first, min(P, first + part), L):
                pixels = min(L, P - p)
                gather_column(square, L, x + (n * CB * P + p) * V, P * V, CB, column, pixels)
                to = y + (n * P + p) * 8
                if pixels == L:
                    argmax_column(vector, indices, column, to, C, V)
                else:
                    found = column + CB * L * V
                    argmax_column(vector, indices, column, found, C, V)
                    for at in range(0, 8 * pixels, 8):
                        store_i64(to + at, load_i64(found + at))
            item = claim(work)

    return kernel


def argmax() -> Callable[..., None]:
    """The kernel for plain tensors."""
    lanes = target().lanes
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)
    indices, index = TileShape(1, 1, lanes, "i32"), TileShape(1, 1, 1, "i32")

    def kernel(thread, work, x, y, outer, axis, inner, parts, part):
        item = claim(work)
        while item < outer * parts:
            first = item % parts * part
            last = min(inner, first + part)
            whole = last - (last - first) % lanes
            source = x + item // parts * axis * inner * 4
            sink = y + item // parts * inner * 8
            for at in range(first, whole, lanes):
                argmax_column(vector, indices, source + 4 * at, sink + 8 * at, axis, inner * 4)
            for at in range(whole, last):
                argmax_column(single, index, source + 4 * at, sink + 8 * at, axis, inner * 4)
            item = claim(work)

    return kernel


def _prepare(factory: Callable[..., Callable[..., None]], problem: Softmax | ArgMax) -> Launch:
    q = problem
    parts = -(-q.inner // ITEM_POSITIONS)
    return Launch(
        Code(factory),
        (
            Operand("input"),
            Operand("output"),
            *(q.outer, q.axis, q.inner, parts, min(q.inner, ITEM_POSITIONS)),
        ),
    )


def prepare_softmax(problem: Softmax) -> Launch:
    """No constants."""
    return _prepare(softmax, problem)


def prepare_argmax(problem: ArgMax) -> Launch:
    """No constants."""
    return _prepare(argmax, problem)


def _prepare_channels(
    factory: Callable[..., Callable[..., None]], problem: Softmax | ArgMax
) -> Launch:
    q, L = problem, target().lanes
    # A column of vectors, and one of i64.
    scratch = blocks(q.axis) * L * L * 4 + L * 8
    return Launch(
        Code(factory, (L,)),
        (
            Operand("input"),
            Operand("output"),
            Operand("workspace"),
            scratch,
            *(q.outer, q.axis, q.inner, -(-q.inner // ITEM_POSITIONS), ITEM_POSITIONS),
        ),
        workspace=scratch,
    )


def prepare_softmax_channels(problem: Softmax) -> Launch:
    """No constants."""
    return _prepare_channels(softmax_channels, problem)


def prepare_argmax_channels(problem: ArgMax) -> Launch:
    """No constants."""
    return _prepare_channels(argmax_channels, problem)


def over_channels(problem: Softmax | ArgMax) -> bool:
    """Channels of N×C×H×W."""
    return problem.over_channels


def softmax_cost(problem: Softmax) -> float:
    """Nanoseconds: the passes over every element."""
    return problem.outer * problem.axis * problem.inner * NS_PER_POWER


def plain_argmax_cost(problem: ArgMax) -> float:
    """Nanoseconds: a comparison of every element."""
    return problem.outer * problem.axis * problem.inner * NS_PER_COMPARISON


def blocked_argmax_cost(problem: ArgMax) -> float:
    """Nanoseconds: moving every element into a column, and a comparison."""
    q = problem
    moved = q.outer * blocks(q.axis) * target().lanes * q.inner * NS_PER_MOVE
    return moved + plain_argmax_cost(problem)


#: One element, of those that a column is made of.
NS_PER_POWER, NS_PER_COMPARISON, NS_PER_MOVE = 1.1, 0.12, 0.08

KERNELS = (
    Kernel("softmax_f32_plain", Softmax, prepare_softmax, "plain", "plain", cost=softmax_cost),
    Kernel("argmax_f32_plain", ArgMax, prepare_argmax, "plain", "plain", cost=plain_argmax_cost),
    Kernel(
        *("softmax_f32_blocked", Softmax, prepare_softmax_channels, "blocked", "plain"),
        *(over_channels, softmax_cost),
    ),
    Kernel(
        *("argmax_f32_blocked", ArgMax, prepare_argmax_channels, "blocked", "plain"),
        *(over_channels, blocked_argmax_cost),
    ),
)
