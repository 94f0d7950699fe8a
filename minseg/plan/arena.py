"""Places buffers in one arena so that two share memory only when their lifetimes don't meet.

Greedy by size (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020): the largest buffer first, each in the lowest gap that fits among those alive with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

ALIGNMENT = 64
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Lifetime:
    """A buffer of ``nbytes`` that must hold from step ``first`` to step ``last``, inclusive."""

    nbytes: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


def arrange(lifetimes: Mapping[K, Lifetime]) -> tuple[dict[K, int], int]:
    """An offset for every buffer, multiples of `ALIGNMENT`, and the size of the arena."""
    offsets: dict[K, int] = {}
    end = 0
    for key in sorted(lifetimes, key=lambda k: -lifetimes[k].nbytes):
        size = _rounded(lifetimes[key].nbytes)
        taken = sorted(
            (offsets[other], offsets[other] + _rounded(lifetimes[other].nbytes))
            for other in offsets
            if lifetimes[key].meets(lifetimes[other])
        )
        offset = 0
        for begin, finish in taken:
            if offset + size <= begin:
                break
            offset = max(offset, finish)
        offsets[key] = offset
        end = max(end, offset + size)
    return offsets, end


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
