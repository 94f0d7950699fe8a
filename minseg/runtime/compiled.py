"""The `numba` backend: a plan per set of input shapes, followed by machine code."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from minseg.graph.model import Graph
from minseg.kernels.machine import target
from minseg.plan.plan import Plan
from minseg.plan.planner import make_plan
from minseg.runtime.program import Program
from minseg.runtime.workers import Workers

#: Input shapes whose programs are kept; the one used least recently goes first.
KEPT_PROGRAMS = 4

Key: TypeAlias = "tuple[tuple[tuple[str, tuple[int, ...]], ...], tuple[str, ...]]"


class CompiledExecutor:
    """Makes, keeps and runs programs. Runs take turns; a forked child starts its own threads."""

    def __init__(self, graph: Graph, threads: int):
        target()  # says at once when there is nothing to compile with
        self._graph = graph
        self._threads = threads
        self._programs: OrderedDict[Key, Program] = OrderedDict()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._workers = Workers(self._threads)

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], capture: Collection[str]
    ) -> dict[str, np.ndarray]:
        """The named values; every one an array that the caller owns."""
        if os.getpid() != self._process:
            self._begin()
        names = tuple(dict.fromkeys([*outputs, *capture]))
        shapes = {name: array.shape for name, array in feeds.items()}
        with self._lock:
            return self._program(shapes, tuple(capture)).run(feeds, names, self._workers)

    def plan(self, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
        """The plan for inputs of the given shapes; nothing is compiled for it."""
        program = self._programs.get((tuple(sorted(shapes.items())), ()))
        return make_plan(self._graph, shapes) if program is None else program.plan

    def _program(self, shapes: Mapping[str, tuple[int, ...]], capture: tuple[str, ...]) -> Program:
        key = tuple(sorted(shapes.items())), capture
        if key not in self._programs:
            while len(self._programs) >= KEPT_PROGRAMS:
                self._programs.popitem(last=False)
            self._programs[key] = Program(make_plan(self._graph, shapes, capture), self._threads)
        self._programs.move_to_end(key)
        return self._programs[key]
