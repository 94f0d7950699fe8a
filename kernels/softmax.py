"""Softmax and arg-max along one axis of a plain f32 tensor, seen as [outer][axis][inner].

Vectors run along ``inner`` (the pixels of a picture, when the axis is the channels), so that each
lane works on its own; the vectors of one position along ``inner`` stay in the L1 cache between
the passes over the axis. What is left past whole vectors is done one position at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from minseg.kernels.jit import Code, inline
from minseg.kernels.machine import target
from minseg.kernels.mathematics import exp
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import (
    TileShape,
    claim,
    fill,
    load,
    maximum,
    select_less,
    store,
    store_wide,
    zeros,
)

#: Positions along ``inner`` that one work item covers.
ITEM_POSITIONS = 1024


@dataclass(frozen=True)
class Softmax:
    """y = exp(x - max) / sum(exp(x - max)) along ``axis``; ONNX Softmax since opset 13."""

    outer: int
    axis: int
    inner: int

    @property
    def flops(self) -> int:
        """Subtract, exp (as one), add, multiply."""
        return 4 * self.outer * self.axis * self.inner


@dataclass(frozen=True)
class ArgMax:
    """y[outer][inner] = index of the greatest along ``axis`` as i64, the first of equals.

    A NaN is never greater; one that comes first wins.
    """

    outer: int
    axis: int
    inner: int


@inline
def softmax_column(shape, x, y, axis, stride):
    """One column of ``axis`` vectors, ``stride`` bytes apart."""
    top = load(shape, x, 0, 0)
    for i in range(1, axis):
        top = maximum(top, load(shape, x + i * stride, 0, 0))
    total = zeros(shape)
    for i in range(axis):
        e = exp(shape, load(shape, x + i * stride, 0, 0) - top)
        store(e, y + i * stride, 0, 0)
        total = total + e
    scale = fill(shape, 1.0) / total
    for i in range(axis):
        store(load(shape, y + i * stride, 0, 0) * scale, y + i * stride, 0, 0)


@inline
def argmax_column(shape, indices, x, y, axis, stride):
    """As `softmax_column`, with one vector of i64 out."""
    top = load(shape, x, 0, 0)
    best = zeros(indices)
    for i in range(1, axis):
        value = load(shape, x + i * stride, 0, 0)
        best = select_less(top, value, fill(indices, i), best)
        top = select_less(top, value, value, top)
    store_wide(best, y)


def softmax() -> Callable[..., None]:
    """The kernel."""
    lanes = target().lanes
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)

    def kernel(thread, work, x, y, outer, axis, inner, parts, part):
        item = claim(work)
        while item < outer * parts:
            first = item % parts * part
            last = min(inner, first + part)
            whole = last - (last - first) % lanes
            base = item // parts * axis * inner * 4
            for at in range(first, whole, lanes):
                softmax_column(vector, x + base + 4 * at, y + base + 4 * at, axis, inner * 4)
            for at in range(whole, last):
                softmax_column(single, x + base + 4 * at, y + base + 4 * at, axis, inner * 4)
            item = claim(work)

    return kernel


def argmax() -> Callable[..., None]:
    """The kernel."""
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


KERNELS = (
    Kernel("softmax_f32_plain", Softmax, prepare_softmax, "plain", "plain"),
    Kernel("argmax_f32_plain", ArgMax, prepare_argmax, "plain", "plain"),
)
