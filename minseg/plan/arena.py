"""Places buffers in one arena so that two share memory only when their lifetimes don't meet.

Greedy by size (Pisarchyk & Lee, "Efficient Memory Management for Deep Neural Net Inference",
2020): the largest buffer first, each in the lowest gap that fits among those alive with it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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


def arrange(
    lifetimes: Mapping[K, Lifetime], inside: Mapping[K, tuple[K, int]]
) -> tuple[dict[K, int], int]:
    """An offset for every buffer, and the size of the arena.

    ``inside`` tells of buffers that are parts of another one: of which, and how many bytes from
    its begin. Parts must hold as long as what they are parts of; before a part is made, its place
    is free for others. Whoever is no part of another starts at a multiple of `ALIGNMENT`.
    """
    places: dict[K, tuple[K, int]] = {}
    groups: dict[K, list[_Piece]] = {}
    for key, own in lifetimes.items():
        holders = list(_holders(key, inside))
        last = max(lifetimes[k].last for k, _ in holders if k in lifetimes)
        places[key] = root, at = holders[-1]
        groups.setdefault(root, []).append(_Piece(at, replace(own, last=last)))
    taken: list[_Piece] = []
    bases: dict[K, int] = {}
    for root in sorted(groups, key=lambda k: -max(p.end for p in groups[k])):
        bases[root] = _lowest(groups[root], taken)
        taken += [replace(p, begin=p.begin + bases[root]) for p in groups[root]]
    offsets = {key: bases[root] + at for key, (root, at) in places.items()}
    return offsets, _rounded(max((p.end for p in taken), default=0))


@dataclass(frozen=True)
class _Piece:
    """Memory from ``begin`` on, for as long as ``lifetime`` says."""

    begin: int
    lifetime: Lifetime

    @property
    def end(self) -> int:
        return self.begin + self.lifetime.nbytes


def _holders(key: K, inside: Mapping[K, tuple[K, int]]) -> Iterator[tuple[K, int]]:
    """``key``, what it is a part of, and so on, each with where in it ``key`` begins."""
    at = 0
    yield key, at
    while key in inside:
        key, offset = inside[key]
        at += offset
        yield key, at


def _lowest(pieces: Sequence[_Piece], taken: Sequence[_Piece]) -> int:
    """The least offset at which ``pieces`` meet none of those ``taken``."""
    between = sorted(
        (other.begin - piece.end, other.end - piece.begin)
        for piece in pieces
        for other in taken
        if piece.lifetime.meets(other.lifetime)
    )
    offset = 0
    for before, after in between:
        if offset <= before:
            break
        offset = max(offset, _rounded(after))
    return offset


def _rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
