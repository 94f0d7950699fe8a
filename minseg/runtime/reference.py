"""The `numpy` backend: reference operators, node by node."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.ops.evaluate import evaluate, run_node
from minseg.plan.plan import StepSummary, node_summary
from minseg.runtime.timings import Timings, time_rounds

if TYPE_CHECKING:
    from minseg.kernels.core.jit import OnCompile, Preparation


class ReferenceExecutor:
    """Runs a graph as its operators are defined. Stateless, so any thread may call it."""

    def __init__(self, graph: Graph):
        self._graph = graph if graph.file is None else _in_memory(graph)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], capture: Collection[str]
    ) -> dict[str, np.ndarray]:
        """The named values; every one an array that the caller owns."""
        wanted = dict.fromkeys([*outputs, *capture])
        values = evaluate(self._graph, feeds, capture=tuple(wanted))
        return {name: _own(values[name]) for name in wanted}

    def prepare(
        self, shapes: Mapping[str, tuple[int, ...]], on_compile: OnCompile | None
    ) -> Preparation:
        """Nothing has to be."""
        from minseg.kernels.core.jit import Preparation

        return Preparation(kernels=0, compiled=0, seconds=0.0)

    def time(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], rounds: int) -> Timings:
        """What the nodes of so many runs take."""
        watch = _Watch()
        runs, spans = time_rounds(
            rounds,
            lambda: watch.evaluate(self._graph, feeds),
            lambda: watch.spans,
            perf_counter_ns,
        )
        return Timings(tuple(watch.steps), runs, spans)


class _Watch:
    """Times the nodes of the last run of a graph."""

    def evaluate(self, graph: Graph, feeds: Mapping[str, np.ndarray]) -> None:
        self.steps: list[StepSummary] = []
        self._times: list[tuple[int, int]] = []
        evaluate(graph, feeds, run=self._run_node)

    @property
    def spans(self) -> np.ndarray:
        """[nodes][1][2] as in `Timings`."""
        return np.array(self._times, np.int64).reshape(-1, 1, 2)

    def _run_node(self, node: Node, arguments: Sequence[Any], scope: Mapping[str, Any]) -> Any:
        begin = perf_counter_ns()
        results = run_node(node, arguments, scope)
        self._times.append((begin, perf_counter_ns()))
        self.steps.append(node_summary(node, arguments, results))
        return results


def _in_memory(graph: Graph) -> Graph:
    """A graph whose constants are needed in every run."""
    constants = {name: np.array(array) for name, array in graph.constants.items()}
    return replace(graph, constants=constants, file=None)


def _own(value: np.ndarray) -> np.ndarray:
    return np.array(value) if isinstance(value, np.ndarray) else np.asarray(value)
