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
from functools import partial
from typing import NamedTuple

from minseg.kernels.core.arguments import Address, of_problem
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout, blocks
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
from minseg.kernels.rates.family import rates

#: Positions along ``inner`` that one work item covers.
ITEM_POSITIONS = 1024


@dataclass(frozen=True)
class AlongAxis:
    """A problem along one ``axis``. ``over_channels`` tells that x is N×C×H×W, the axis C and the
    others N and H·W."""

    outer: int
    axis: int
    inner: int
    over_channels: bool = False


@dataclass(frozen=True)
class Softmax(AlongAxis):
    """y = exp(x - max) / sum(exp(x - max)); ONNX Softmax since opset 13."""

    @property
    def flops(self) -> int:
        """Subtract, exp (as one), add, multiply."""
        return 4 * self.outer * self.axis * self.inner


@dataclass(frozen=True)
class ArgMax(AlongAxis):
    """y[outer][inner] = index of the greatest along the axis as i64, the first of equals.

    A NaN is never greater; one that comes first wins.
    """


class AxisArguments(NamedTuple):
    """The kernels for channels have ``scratch_bytes`` of workspace a thread."""

    outer: int
    axis: int
    inner: int
    scratch_bytes: int
    x: Address = Operand("input")
    y: Address = Operand("output")
    scratch: Address = Operand("workspace")


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


@inline
def softmax_plain(shape, indices, a, outer, at):
    """Of plain tensors, the column ``at`` of ``inner``."""
    step = 4 * a.inner
    offset = outer * a.axis * step + 4 * at
    x, y = a.x + offset, a.y + offset
    softmax_column(shape, x, step, y, step, y, step, a.axis)


@inline
def argmax_plain(shape, indices, a, outer, at):
    """As `softmax_plain`."""
    x = a.x + (outer * a.axis * a.inner + at) * 4
    argmax_column(shape, indices, x, a.y + (outer * a.inner + at) * 8, a.axis, 4 * a.inner)


@inline
def softmax_channels(shape, indices, a, column, found, outer, at, pixels):
    """Of blocked tensors, a column of so many pixels from ``at`` on, into the plain output."""
    V, step = shape.bytes, 4 * a.inner
    y = a.y + (outer * a.axis * a.inner + at) * 4
    if pixels == shape.lanes:
        softmax_column(shape, column, V, column, V, y, step, a.axis)
    else:
        softmax_column(shape, column, V, column, V, column, V, a.axis)
        for c in range(a.axis):
            store_lanes(load(shape, column + c * V, 0, 0), y + c * step, 0, 0, pixels)


@inline
def argmax_channels(shape, indices, a, column, found, outer, at, pixels):
    """As `softmax_channels`; ``found`` has room for a vector of i64."""
    y = a.y + (outer * a.inner + at) * 8
    if pixels == shape.lanes:
        argmax_column(shape, indices, column, y, a.axis, shape.bytes)
    else:
        argmax_column(shape, indices, column, found, a.axis, shape.bytes)
        for i in range(0, 8 * pixels, 8):
            store_i64(y + i, load_i64(found + i))


#: What is done with a column of a plain tensor, and with one of channels.
COLUMNS: dict[str, tuple[Callable[..., None], Callable[..., None]]] = {
    "softmax": (softmax_plain, softmax_channels),
    "argmax": (argmax_plain, argmax_channels),
}


def plain(kind: str, lanes: int) -> Callable[..., None]:
    """The kernel for plain tensors; ``kind`` is a key of `COLUMNS`."""
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)
    indices, index = TileShape(1, 1, lanes, "i32"), TileShape(1, 1, 1, "i32")
    column = COLUMNS[kind][0]

    def kernel(thread, work, a: AxisArguments):
        parts = (a.inner + ITEM_POSITIONS - 1) // ITEM_POSITIONS
        item = claim(work)
        while item < a.outer * parts:
            outer, first = item // parts, item % parts * ITEM_POSITIONS
            last = min(a.inner, first + ITEM_POSITIONS)
            whole = last - (last - first) % lanes
            for at in range(first, whole, lanes):
                column(vector, indices, a, outer, at)
            for at in range(whole, last):
                column(single, index, a, outer, at)
            item = claim(work)

    return kernel


def over_channels(kind: str, lanes: int) -> Callable[..., None]:
    """The kernel for the channels of blocked tensors; ``kind`` is a key of `COLUMNS`."""
    square, vector = TileShape(lanes, 1, lanes), TileShape(1, 1, lanes)
    indices = TileShape(1, 1, lanes, "i32")
    finish = COLUMNS[kind][1]
    L, V = lanes, vector.bytes

    def kernel(thread, work, a: AxisArguments):
        column = a.scratch + thread * a.scratch_bytes
        P, CB = a.inner, (a.axis + L - 1) // L
        found = column + CB * L * V
        parts = (P + ITEM_POSITIONS - 1) // ITEM_POSITIONS
        item = claim(work)
        while item < a.outer * parts:
            n, first = item // parts, item % parts * ITEM_POSITIONS
            for p in range(first, min(P, first + ITEM_POSITIONS), L):
                pixels = min(L, P - p)
                gather_column(square, L, a.x + (n * CB * P + p) * V, P * V, CB, column, pixels)
                finish(vector, indices, a, column, found, n, p, pixels)
            item = claim(work)

    return kernel


def prepare(kind: str, layout: Layout, problem: AlongAxis) -> Launch:
    """No constants."""
    q, L = problem, target().lanes
    # A column of vectors, and one of i64.
    scratch = 0 if layout == PLAIN else blocks(q.axis) * L * L * 4 + L * 8
    return Launch(
        Code(plain if layout == PLAIN else over_channels, (kind, L)),
        of_problem(AxisArguments, q, scratch_bytes=scratch),
        workspace=scratch,
    )


class SoftmaxRates(NamedTuple):
    """One element in all passes."""

    element: float


class ArgMaxRates(NamedTuple):
    """One element that is compared, and one that is moved into a column first."""

    comparison: float
    move: float


def softmax_cost(layout: Layout, problem: Softmax) -> float:
    """Nanoseconds: the passes over every element."""
    return problem.outer * problem.axis * problem.inner * rates("softmax", SoftmaxRates).element


def argmax_cost(layout: Layout, problem: ArgMax) -> float:
    """Nanoseconds: a comparison of every element, which in blocks is moved into a column first."""
    q = problem
    channels = 0 if layout == PLAIN else blocks(q.axis) * target().lanes
    r = rates("argmax", ArgMaxRates)
    return q.outer * q.inner * (channels * r.move + q.axis * r.comparison)


LAYOUTS: tuple[tuple[Layout, Callable[[AlongAxis], bool]], ...] = (
    (PLAIN, lambda problem: True),
    (BLOCKED, lambda problem: problem.over_channels),
)

KERNELS = tuple(
    Kernel(
        *(f"{kind}_f32_{layout}", family, partial(prepare, kind, layout), layout, PLAIN),
        *(applies, partial(cost, layout)),
    )
    for layout, applies in LAYOUTS
    for kind, family, cost in (("softmax", Softmax, softmax_cost), ("argmax", ArgMax, argmax_cost))
)
