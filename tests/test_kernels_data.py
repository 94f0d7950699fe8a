"""Kernels that only move elements: layouts, transposes, strided copies, concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import strategies as st
from kernel_harness import FAMILIES, Case, channels, check, family, sizes

from minseg.kernels.core.jit import jit_disabled
from minseg.kernels.core.layout import BLOCKED, PANELS, PLAIN
from minseg.kernels.core.registry import all_kernels
from minseg.kernels.isa.target import target
from minseg.kernels.move.concat import Concat
from minseg.kernels.move.concat import prepare_blocked as concat_blocked
from minseg.kernels.move.reorder import Reorder
from minseg.kernels.move.strided import StridedCopy, Transpose, row_major

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

DTYPES = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.int64}


def distinct(rng: np.random.Generator, shape: tuple[int, ...], itemsize: int = 4) -> np.ndarray:
    """Elements that tell their place as far as their type can, some f32 NaN."""
    count = int(np.prod(shape))
    x = rng.permutation(count).astype(DTYPES[itemsize]).reshape(shape)
    if itemsize == 4:
        x[rng.random(shape) < 0.05] = np.nan
    return x


def moved(x: tuple[np.ndarray, ...], y: np.ndarray) -> Case:
    return Case(x, np.ascontiguousarray(y), dtype=y.dtype)


def edges() -> st.SearchStrategy[int]:
    """Sizes around the vector length and multiples of it, and small ones."""
    lanes = target().lanes
    return st.one_of(
        sizes(6), st.sampled_from([lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 3])
    )


#: From which layout to which, and bytes of an element.
CHANGES = [
    *((BLOCKED, PLAIN, size) for size in (1, 4)),
    *((PLAIN, BLOCKED, size) for size in (1, 4)),
    (BLOCKED, PANELS, 4),
    (PANELS, BLOCKED, 4),
]


@st.composite
def reorders(draw: st.DrawFn) -> Reorder:
    sizes = draw(st.tuples(st.integers(1, 2), channels(3), edges(), edges()))
    return Reorder(*sizes, *draw(st.sampled_from(CHANGES)))


@family(Reorder, reorders())
def reorder_case(q: Reorder, rng: np.random.Generator) -> Case:
    x = distinct(rng, (q.N, q.C, q.H, q.W), q.itemsize)
    return moved((x,), x)


def shapes(least: int, most: int, size: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    return st.lists(size, min_size=least, max_size=most)


@st.composite
def transposes(draw: st.DrawFn) -> Transpose:
    itemsize = draw(st.sampled_from([4, 4, 1, 2, 8]))
    if draw(st.booleans()):
        N, C, H, W = draw(st.integers(1, 2)), draw(channels(3)), draw(sizes(9)), draw(sizes(9))
        if draw(st.booleans()):
            return Transpose((N, H, W, C), (0, 3, 1, 2), itemsize)
        return Transpose((N, C, H, W), (0, 2, 3, 1), itemsize)
    shape = draw(shapes(1, 3, edges()).map(tuple) | shapes(4, 6, sizes(4)).map(tuple))
    return Transpose(shape, tuple(draw(st.permutations(range(len(shape))))), itemsize)


@family(Transpose, transposes())
def transpose_case(q: Transpose, rng: np.random.Generator) -> Case:
    x = distinct(rng, q.shape, q.itemsize)
    return moved((x,), x.transpose(q.perm))


def sliced(
    shape: Sequence[int],
    starts: Sequence[int],
    strides: Sequence[int],
    sizes: Sequence[int],
    itemsize: int = 4,
) -> StridedCopy:
    """Of a tensor of ``shape``: ``sizes`` elements along each axis from ``starts`` on, ``strides``
    apart (which may be negative)."""
    steps = row_major(shape)
    return StridedCopy(
        tuple(sizes),
        tuple(step * stride for step, stride in zip(steps, strides, strict=True)),
        sum(step * start for step, start in zip(steps, starts, strict=True)),
        itemsize,
    )


def expanded(shape: Sequence[int], to: Sequence[int], itemsize: int = 4) -> StridedCopy:
    """A tensor of ``shape`` broadcast to the shape ``to``."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    steps = row_major(padded)
    return StridedCopy(
        tuple(to),
        tuple(0 if d == 1 else s for d, s in zip(padded, steps, strict=True)),
        0,
        itemsize,
    )


@st.composite
def copies(draw: st.DrawFn) -> StridedCopy:
    itemsize = draw(st.sampled_from([1, 2, 4, 8]))
    shape = draw(shapes(1, 3, edges()) | shapes(4, 5, sizes(4)))
    if draw(st.booleans()):
        kept = [d if draw(st.booleans()) else 1 for d in shape]
        return expanded(kept[draw(st.integers(0, len(kept) - 1)) :], shape, itemsize)
    starts, strides, counts = [], [], []
    for size in shape:
        start, stride = draw(st.integers(0, size - 1)), draw(st.sampled_from([1, 1, 2, -1, -3]))
        room = (size - 1 - start) // stride if stride > 0 else start // -stride
        starts.append(start)
        strides.append(stride)
        counts.append(draw(st.integers(0, room)) + 1)
    return sliced(shape, starts, strides, counts, itemsize)


@family(StridedCopy, copies())
def copy_case(q: StridedCopy, rng: np.random.Generator) -> Case:
    reached = [
        q.start + sum((n - 1) * s for n, s in zip(q.shape, q.steps, strict=True) if s * sign > 0)
        for sign in (1, -1)
    ]
    assert reached[1] >= 0
    x = distinct(rng, (reached[0] + 1,), q.itemsize)
    strides = tuple(s * q.itemsize for s in q.steps)
    y = np.lib.stride_tricks.as_strided(x[q.start :], q.shape, strides)
    return moved((x,), y)


def test_slices_and_broadcasts_are_what_numpy_makes_of_them() -> None:
    (kernel,) = [k for k in all_kernels() if k.family is StridedCopy]
    x = distinct(np.random.default_rng(0), (3, 20, 18))
    check(
        kernel,
        sliced(x.shape, (2, 1, 17), (-1, 3, -2), (3, 5, 8)),
        moved((x,), x[2::-1, 1:14:3, 17:2:-2]),
    )
    z = distinct(np.random.default_rng(1), (20, 1))
    check(kernel, expanded(z.shape, (3, 20, 18)), moved((z,), np.broadcast_to(z, (3, 20, 18))))


@st.composite
def concats(draw: st.DrawFn) -> Concat:
    count = draw(st.integers(1, 8))
    if draw(st.booleans()):
        N, H, W = draw(st.integers(1, 2)), draw(edges()), draw(sizes(9))
        joined = tuple((N, draw(channels(2)), H, W) for _ in range(count))
        return Concat(joined, 1, draw(st.sampled_from([1, 4])))
    shape = draw(shapes(1, 3, edges()))
    axis = draw(st.integers(0, len(shape) - 1))
    joined = [(*shape[:axis], draw(edges()), *shape[axis + 1 :]) for _ in range(count)]
    return Concat(tuple(joined), axis, draw(st.sampled_from([1, 2, 4, 8])))


@family(Concat, concats())
def concat_case(q: Concat, rng: np.random.Generator) -> Case:
    x = tuple(distinct(rng, s, q.itemsize) for s in q.shapes)
    return moved(x, np.concatenate(x, q.axis))


@pytest.mark.parametrize("last", [1, 3])
def test_whole_blocks_are_joined_by_whole_vectors(last: int) -> None:
    """When every input but the last fills its blocks, no block is put together from parts."""
    L = target().lanes
    launch = concat_blocked(Concat(((1, 2 * L, 3, 3), (1, L, 3, 3), (1, last, 3, 3)), 1))
    segments, _ = launch.constants
    assert segments.shape == (4, 6)
    assert (segments[:, 5] == L).all()


BIG = [
    *(Reorder(1, 20, 40, 53, *change) for change in CHANGES),
    Transpose((1, 40, 105, 20), (0, 3, 1, 2)),
    Transpose((1, 20, 40, 105), (0, 2, 3, 1)),
    Transpose((3, 70, 90), (2, 0, 1)),
    sliced((9, 70000), (8, 60000), (-2, -1), (4, 50000), 2),
    sliced((9, 70000), (0, 1), (1, 1), (9, 60001), 4),
    Concat(((3, 30000), (3, 20001)), 1),
    Concat(((1, 16, 40, 53), (1, 7, 40, 53), (1, 16, 40, 53)), 1),
    Concat(((1, 16, 99, 53), (1, 7, 99, 53), (1, 16, 99, 53)), 1, 1),
]


@pytest.mark.skipif(jit_disabled(), reason="too many elements for Python")
@pytest.mark.parametrize("problem", BIG, ids=lambda q: type(q).__name__)
def test_more_than_one_work_item(problem: object) -> None:
    usable = [k for k in all_kernels() if k.family is type(problem) and k.applies(problem)]
    assert usable
    for kernel in usable:
        case = FAMILIES[kernel.family].case(problem, np.random.default_rng(5))
        check(kernel, problem, case, threads=2)
