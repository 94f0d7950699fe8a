"""The `numpy` backend: reference operators, node by node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from minseg.graph.model import Graph
from minseg.ops.evaluate import evaluate


class ReferenceExecutor:
    """Runs a graph as its operators are defined. Stateless, so any thread may call it."""

    def __init__(self, graph: Graph):
        self._graph = graph

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], capture: Collection[str]
    ) -> dict[str, np.ndarray]:
        """The named values; every one an array that the caller owns."""
        wanted = dict.fromkeys([*outputs, *capture])
        values = evaluate(self._graph, feeds, capture=tuple(wanted))
        return {name: _own(values[name]) for name in wanted}


def _own(value: np.ndarray) -> np.ndarray:
    return np.array(value) if isinstance(value, np.ndarray) else np.asarray(value)
