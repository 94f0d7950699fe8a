"""Plain tensors copied with another order or another step along each axis: Transpose, Slice,
Split, Expand.

The output is written in order; each of its axes moves a fixed number of elements through the
input (`StridedCopy`): another order of these steps is a transpose, larger or negative ones a
slice, a step of zero repeats. Neighbouring axes that move alike are merged first. Then

* `copy_runs` copies runs of the innermost axis: whole vectors where the input lies contiguous
  too, else element by element; elements of 1, 2, 4 or 8 bytes;
* `copy_squares` is for 4-byte elements whose contiguous axis is another one than the output's: it
  exchanges rows and lanes of squares of L × L in registers, so that both sides move by vectors.

Elements are only moved, never computed with: 4-byte ones travel as i32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import PLAIN
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    load,
    load_i32,
    load_i64,
    load_lanes,
    load_rows,
    load_u8,
    store,
    store_i32,
    store_i64,
    store_lanes,
    store_rows,
    store_u8,
    transpose,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Bytes that one work item writes, about.
ITEM_BYTES = 64 * 1024


@dataclass(frozen=True)
class StridedCopy:
    """``y[i, j, …] = x[start + i*steps[0] + j*steps[1] + …]``, in elements of ``itemsize`` bytes.

    ``shape`` is y's; x is whatever plain tensor the steps stay inside of.
    """

    shape: tuple[int, ...]
    steps: tuple[int, ...]
    start: int = 0
    itemsize: int = 4


@dataclass(frozen=True)
class Transpose:
    """ONNX Transpose of a tensor of ``shape``: y's axis k is x's axis ``perm[k]``."""

    shape: tuple[int, ...]
    perm: tuple[int, ...]
    itemsize: int = 4


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Elements between neighbours along each axis of a plain tensor."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def as_copy(problem: Transpose) -> StridedCopy:
    """The copy that a transpose is."""
    steps = row_major(problem.shape)
    return StridedCopy(
        tuple(problem.shape[p] for p in problem.perm),
        tuple(steps[p] for p in problem.perm),
        0,
        problem.itemsize,
    )


def merged(shape: Sequence[int], steps: Sequence[int]) -> list[tuple[int, int]]:
    """(size, step) of the axes left when those of size 1 are dropped and an axis that continues
    the one inside it is joined with that. At least one."""
    axes: list[tuple[int, int]] = []
    for size, step in zip(shape, steps, strict=True):
        if size == 1:
            continue
        if axes and axes[-1][1] == size * step:
            axes[-1] = axes[-1][0] * size, step
        else:
            axes.append((size, step))
    return axes or [(1, 1)]


@inline
def place(index, axes, rank):
    """Where the ``index``-th point of ``rank`` outer axes lies, in bytes; ``axes`` is the address
    of [rank][size, step] i64."""
    offset = 0
    for axis in range(rank - 1, -1, -1):
        size = load_i64(axes + 16 * axis)
        offset += index % size * load_i64(axes + 16 * axis + 8)
        index = index // size
    return offset


@inline
def copy_bytes(eight, one, to, source, count):
    """Copies bytes between places that don't overlap. ``eight`` and ``one`` are the shapes of so
    many vectors."""
    at, vector_bytes = 0, one.bytes
    while at + 8 * vector_bytes <= count:
        store(load(eight, source + at, vector_bytes, 0), to + at, vector_bytes, 0)
        at += 8 * vector_bytes
    while at + vector_bytes <= count:
        store(load(one, source + at, 0, 0), to + at, 0, 0)
        at += vector_bytes
    while at + 4 <= count:
        store_i32(to + at, load_i32(source + at))
        at += 4
    while at < count:
        store_u8(to + at, load_u8(source + at))
        at += 1


@inline
def copy_element(itemsize, to, source):
    """Copies one element of 1, 2, 4 or 8 bytes."""
    if itemsize == 8:
        store_i64(to, load_i64(source))
    elif itemsize == 4:
        store_i32(to, load_i32(source))
    else:
        for byte in range(itemsize):
            store_u8(to + byte, load_u8(source + byte))


class Nest(NamedTuple):
    """The outer axes: ``points`` in all, where x ``start`` bytes further and y have them
    (see `place`). A work item is a ``group`` of what a kernel takes one by one."""

    x_axes: Address
    y_axes: Address
    rank: int
    points: int
    start: int
    group: int
    x: Address = Operand("input")
    y: Address = Operand("output")


@inline
def source_of(nest, index):
    return nest.x + nest.start + place(index, nest.x_axes, nest.rank)


class RunArguments(NamedTuple):
    """Runs of ``run`` elements, ``step`` bytes apart in x."""

    nest: Nest
    run: int
    step: int


def copy_runs(lanes: int, itemsize: int, contiguous: bool) -> Callable[..., None]:
    """The kernel: runs of the output's innermost axis, in pieces shared by the threads."""
    eight, one = TileShape(8, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")

    def kernel(thread, work, a: RunArguments):
        piece = min(a.run, ITEM_BYTES // itemsize)
        pieces = (a.run + piece - 1) // piece
        group, count = a.nest.group, a.nest.points * pieces
        item = claim(work)
        while item * group < count:
            for index in range(item * group, min(count, (item + 1) * group)):
                r, first = index // pieces, index % pieces * piece
                length = min(piece, a.run - first)
                source = source_of(a.nest, r) + first * a.step
                to = a.nest.y + (r * a.run + first) * itemsize
                if contiguous:
                    copy_bytes(eight, one, to, source, length * itemsize)
                else:
                    for i in range(length):
                        copy_element(itemsize, to + i * itemsize, source + i * a.step)
            item = claim(work)

    return kernel


class SquareArguments(NamedTuple):
    """A is the axis along which x is contiguous, B the one along which y is; along the other one
    they go by ``x_step`` and ``y_step`` bytes."""

    nest: Nest
    A: int
    B: int
    x_step: int
    y_step: int


@inline
def copy_strip(square, a, source, to):
    """Copies L of B, all of A. Squares at the end of A overlap those before them; a shorter A or B
    is filled up in registers."""
    L = square.lanes
    if a.A < L and a.B < L:
        for i in range(a.A):
            for j in range(a.B):
                store_i32(to + i * a.y_step + j * 4, load_i32(source + i * 4 + j * a.x_step))
    elif a.A < L:
        tile = load_lanes(square, source, a.x_step, 0, a.A)
        store_rows(transpose(tile), to, a.y_step, 0, a.A)
    else:
        for i in range(0, a.A, L):
            at = min(i, a.A - L)
            if a.B < L:
                tile = load_rows(square, source + at * 4, a.x_step, 0, a.B)
                store_lanes(transpose(tile), to + at * a.y_step, a.y_step, 0, a.B)
            else:
                tile = load(square, source + at * 4, a.x_step, 0)
                store(transpose(tile), to + at * a.y_step, a.y_step, 0)


def copy_squares(lanes: int) -> Callable[..., None]:
    """The kernel. A strip is L of B; the last one overlaps that before it."""
    square = TileShape(lanes, 1, lanes, "i32")

    def kernel(thread, work, a: SquareArguments):
        L, group = lanes, a.nest.group
        strips = (a.B + L - 1) // L
        count = a.nest.points * strips
        item = claim(work)
        while item * group < count:
            for number in range(item * group, min(count, (item + 1) * group)):
                index, strip = number // strips, number % strips
                b = max(0, min(strip * L, a.B - L))
                source = source_of(a.nest, index) + b * a.x_step
                to = a.nest.y + place(index, a.nest.y_axes, a.nest.rank) + b * 4
                copy_strip(square, a, source, to)
            item = claim(work)

    return kernel


def prepare_copy(problem: StridedCopy) -> Launch:
    """No constants."""
    axes = merged(problem.shape, problem.steps)
    steps = [step for _, step in axes]
    if problem.itemsize == 4 and steps[-1] != 1 and 1 in steps:
        return _prepare_squares(problem, axes)
    return _prepare_runs(problem, axes)


def _nest(
    problem: StridedCopy,
    axes: Sequence[tuple[int, int]],
    y_axes: Sequence[tuple[int, int]],
    group_bytes: int,
) -> Nest:
    """Of ``axes``, (size, step) of x, and ``y_axes``, those of y if it isn't walked in order."""
    return Nest(
        x_axes=_table(axes, problem.itemsize),
        y_axes=_table(y_axes, problem.itemsize),
        rank=len(axes),
        points=prod(size for size, _ in axes),
        start=problem.start * problem.itemsize,
        group=max(1, ITEM_BYTES // group_bytes),
    )


def _prepare_runs(problem: StridedCopy, axes: list[tuple[int, int]]) -> Launch:
    *outer, (run, step) = axes
    size = problem.itemsize
    nest = _nest(problem, outer, [], run * size)
    return Launch(
        Code(copy_runs, (target().lanes, size, step == 1)),
        RunArguments(nest, run=run, step=step * size),
    )


def _prepare_squares(problem: StridedCopy, axes: list[tuple[int, int]]) -> Launch:
    sizes, steps = zip(*axes, strict=True)
    inner = steps.index(1)
    y_steps = row_major(sizes)
    outer = [k for k in range(len(axes) - 1) if k != inner]
    x_axes, y_axes = [axes[k] for k in outer], [(sizes[k], y_steps[k]) for k in outer]
    A, B, L = sizes[inner], sizes[-1], target().lanes
    nest = _nest(problem, x_axes, y_axes, 4 * A * min(B, L))
    return Launch(
        Code(copy_squares, (L,)),
        SquareArguments(nest, A=A, B=B, x_step=steps[-1] * 4, y_step=y_steps[inner] * 4),
    )


def _table(axes: Sequence[tuple[int, int]], itemsize: int) -> np.ndarray:
    """What `place` reads; not empty, so that it has an address."""
    rows = [(size, step * itemsize) for size, step in axes] or [(1, 0)]
    return np.array(rows, np.int64)


def prepare_transpose(problem: Transpose) -> Launch:
    """No constants."""
    return prepare_copy(as_copy(problem))


def copy_applies(problem: StridedCopy) -> bool:
    """Elements of a size that is moved at once, and at least one of them."""
    return problem.itemsize in (1, 2, 4, 8) and prod(problem.shape) > 0


def transpose_applies(problem: Transpose) -> bool:
    return copy_applies(as_copy(problem))


class CopyRates(NamedTuple):
    """One byte, read or written."""

    byte: float


def copy_cost(problem: StridedCopy) -> float:
    """Nanoseconds: memory traffic."""
    return 2 * prod(problem.shape) * problem.itemsize * rates("copy", CopyRates).byte


def transpose_cost(problem: Transpose) -> float:
    """Nanoseconds: memory traffic."""
    return copy_cost(as_copy(problem))


KERNELS = (
    Kernel("copy_strided", StridedCopy, prepare_copy, PLAIN, PLAIN, copy_applies, copy_cost),
    Kernel(
        *("transpose_plain", Transpose, prepare_transpose, PLAIN, PLAIN),
        *(transpose_applies, transpose_cost),
    ),
)
