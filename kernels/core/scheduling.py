"""How threads share a kernel's work where taking one item after the other (`simd.claim`) is not
good enough."""

from __future__ import annotations

from minseg.kernels.core.jit import inline
from minseg.kernels.isa.simd import atomic_add, atomic_load


@inline
def next_item(item, end, work, items, single, threads):
    """The item after ``item`` in a run that goes on to ``end``-1, and the run's end; after that,
    and if both are 0, a new run's. There is none left if the item is the end.

    Items side by side mostly read and write memory side by side: one thread had better do them.
    Runs are shorter and shorter, and the last ``single`` items runs of their own, so that
    ``threads`` finish together ("guided self-scheduling", Polychronopoulos and Kuck, 1987).
    """
    if item + 1 < end:
        return item + 1, end
    count = max(1, (items - single - atomic_load(work)) // (2 * threads))
    begin = atomic_add(work, count)
    return min(items, begin), min(items, begin + count)


@inline
def whole_groups(groups, threads):
    """How many of so many groups of work one thread does whole. The others would leave threads
    idle: all share them."""
    return groups - max(1, groups % threads)


@inline
def share(item, whole, parts):
    """The group that an item is for, its first part and last+1: all for one of the ``whole``
    groups, which come first, and one each after that."""
    if item < whole:
        return item, 0, parts
    part = (item - whole) % parts
    return whole + (item - whole) // parts, part, part + 1
