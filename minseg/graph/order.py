"""Puts what reads after what is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from typing import TypeVar

from minseg.errors import ModelError

T = TypeVar("T")

#: So many members of a cycle are named.
_NAMED = 5


def in_order(items: Sequence[T], needs: Sequence[Iterable[int]]) -> list[T]:
    """Each item after those that it needs, otherwise as they are (Kahn's algorithm).

    ``needs`` holds for each item the positions of others. Raises ModelError, naming the items, for
    a cycle.
    """
    waiting = [0] * len(items)
    readers: list[list[int]] = [[] for _ in items]
    for reader, sources in enumerate(needs):
        for source in sources:
            waiting[reader] += 1
            readers[source].append(reader)
    ready = [index for index, count in enumerate(waiting) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        index = heappop(ready)
        order.append(index)
        for reader in readers[index]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heappush(ready, reader)
    if len(order) < len(items):
        cycle = _cycle(needs, waiting)
        first, *others = [str(items[index]) for index in cycle[:_NAMED]]
        more = [f"{len(cycle) - _NAMED} others"] if len(cycle) > _NAMED else []
        path = ", which needs ".join([*others, *more, first])
        raise ModelError(f"there is a cycle: {first} needs {path}")
    return [items[index] for index in order]


def _cycle(needs: Sequence[Iterable[int]], waiting: Sequence[int]) -> list[int]:
    """Items of which each needs the next, and the last the first: a walk among those that wait."""
    path = [next(index for index, count in enumerate(waiting) if count)]
    place = {path[0]: 0}
    while True:
        following = next(index for index in needs[path[-1]] if waiting[index])
        if following in place:
            return path[place[following] :]
        place[following] = len(path)
        path.append(following)
