"""Runs a network on pictures and hands out its values, few at a time, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from minseg.errors import InputError
from minseg.graph.model import Graph, TensorType
from minseg.passes import specialise
from minseg.quantization.ranges import Histogram
from minseg.runtime.session import Session

#: Values of so many bytes are held at once; for more, the network runs again.
HELD_BYTES = 1 << 28

Feeds = Mapping[str, np.ndarray]


def observed(
    session: Session, names: Sequence[str], feeds: Feeds
) -> Iterator[tuple[str, np.ndarray]]:
    """Each of ``names`` with its value for ``feeds``."""
    shapes = {n: TensorType(a.dtype, a.shape) for n, a in feeds.items()}
    for group in groups(specialise(session.graph, shapes), names):
        inside = [n for n in group if n not in feeds]
        _, values = session.run(None, feeds, capture=inside)
        yield from ((n, feeds[n] if n in feeds else values[n]) for n in group)


def groups(graph: Graph, names: Iterable[str]) -> Iterator[list[str]]:
    """``names`` in lists whose values take about `HELD_BYTES` together; ``graph`` has sizes."""
    group: list[str] = []
    held = 0
    for name in names:
        size = _bytes(graph.types[name])
        if group and held + size > HELD_BYTES:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group


def _bytes(type_: TensorType) -> int:
    dims = type_.shape or ()
    item = 4 if type_.dtype is None else type_.dtype.itemsize
    return item * int(np.prod([d if isinstance(d, int) else 1 for d in dims]))


def histograms(
    session: Session, names: Sequence[str], pictures: Iterable[Feeds]
) -> dict[str, Histogram]:
    """What the values called ``names`` hold on ``pictures``. Raises InputError where that is
    infinite or not a number."""
    result = {name: Histogram() for name in names}
    for feeds in pictures:
        for name, value in observed(session, names, feeds):
            try:
                result[name].add(value)
            except InputError as error:
                raise InputError(f"value '{name}' on a calibration picture: {error}") from error
    return result
