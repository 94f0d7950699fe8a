"""Tensors that lie alike, plain or blocked, as one long run of elements."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from minseg.kernels.core.jit import inline
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.simd import claim

#: Vectors worked on at once: enough to hide a division's latency.
ROWS = 4
#: Elements that one work item covers.
ITEM_ELEMENTS = 32768


@inline
def over_run(many, many_octets, single, single_octets, each, given, work, a):
    """Calls ``each(shape, octets, at, given, a)`` for ``a.size`` elements from ``at`` on: a tile
    of ``many`` (and one of as many bytes, ``many_octets``), or what is left past such tiles."""
    step = many.rows * many.lanes
    item = claim(work)
    while item * ITEM_ELEMENTS < a.size:
        at = item * ITEM_ELEMENTS
        last = min(a.size, at + ITEM_ELEMENTS)
        while at + step <= last:
            each(many, many_octets, at, given, a)
            at += step
        while at < last:
            each(single, single_octets, at, given, a)
            at += 1
        item = claim(work)


def elements(problem: Any, layout: Layout) -> int:
    """How many elements a tensor of ``problem.shape`` has, those that pad blocks counted."""
    return prod(layout.stored_shape(problem.shape))


def is_picture(problem: Any) -> bool:
    """Rank 4, as blocked tensors have."""
    return len(problem.shape) == 4


def kernels_of_run(
    name: str,
    family: type,
    prepare: Callable[..., Launch],
    cost: Callable[[Layout, Any], float],
    plain_applies: Callable[[Any], bool] = lambda problem: True,
    blocked_applies: Callable[[Any], bool] = is_picture,
) -> tuple[Kernel, ...]:
    """One kernel a layout, plain or blocked, that ``prepare`` and ``cost`` are given first."""
    layouts: tuple[Layout, Layout] = (PLAIN, BLOCKED)
    return tuple(
        Kernel(f"{name}_{at}", family, partial(prepare, at), at, at, applies, partial(cost, at))
        for at, applies in zip(layouts, (plain_applies, blocked_applies), strict=True)
    )
