"""The `numba` backend: a plan per set of input shapes, followed by machine code."""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from minseg.graph.model import Graph
from minseg.kernels.core import jit
from minseg.kernels.isa.target import target
from minseg.plan.plan import Plan
from minseg.plan.planner import make_plan
from minseg.runtime.packing import pack
from minseg.runtime.program import Program, plan_codes
from minseg.runtime.workers import Workers

if TYPE_CHECKING:
    from minseg.runtime.timings import Timings

#: Input shapes whose programs are kept; the one used least recently goes first.
KEPT_PROGRAMS = 4

#: Magnitudes of inputs from which on sums might overflow.
LARGEST = 2.0**100
#: Numbers of an input that are looked at at once.
LOOKED_AT = 2**17


@dataclass(frozen=True)
class Key:
    """What a program was made for."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    capture: tuple[str, ...]
    exact: bool

    @classmethod
    def of(
        cls, shapes: Mapping[str, tuple[int, ...]], capture: Collection[str], exact: bool
    ) -> Key:
        return cls(tuple(sorted(shapes.items())), tuple(capture), exact)


class CompiledExecutor:
    """Makes, keeps and runs programs. Runs take turns; a forked child starts its own threads."""

    def __init__(self, graph: Graph, threads: int, exact: bool):
        target()  # says at once when there is nothing to compile with
        self._graph = graph
        self._threads = threads
        self._exact = exact
        self._programs: OrderedDict[Key, Program] = OrderedDict()
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._workers = Workers(self._threads)
        self._process = os.getpid()

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], capture: Collection[str]
    ) -> dict[str, np.ndarray]:
        """The named values; every one an array that the caller owns."""
        names = tuple(dict.fromkeys([*outputs, *capture]))
        with self._turn():
            key = self._key(feeds, capture)
            return self._program(key).run(feeds, names, self._workers)

    def time(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], rounds: int) -> Timings:
        """What the steps of so many runs take."""
        from minseg.runtime.timed import TimedProgram

        with self._turn():
            key = self._key(feeds, ())
            program = TimedProgram(self._packed(self._plan(key)), self._threads)
            return program.time(feeds, outputs, self._workers, rounds)

    def _turn(self) -> threading.Lock:
        """The lock of this process."""
        if os.getpid() != self._process:
            self._begin()
        return self._lock

    def _key(self, feeds: Mapping[str, np.ndarray], capture: Collection[str]) -> Key:
        """What is to be run for ``feeds``. A program that is exact anyway takes any numbers."""
        shapes = {name: array.shape for name, array in feeds.items()}
        key = Key.of(shapes, capture, self._exact)
        known = self._programs.get(key)
        if key.exact or (known is not None and known.plan.is_exact):
            return key
        return replace(key, exact=not all(map(self._is_moderate, feeds.values())))

    def _is_moderate(self, array: np.ndarray) -> bool:
        """Whether inexact kernels may see it. They spread a NaN or an infinity further than the
        definition does, and their sums overflow sooner."""
        if array.dtype.kind not in "fV":  # V: bfloat16 and the like
            return True
        look = _Look(array.reshape(-1), self._threads)
        self._workers.run(look)
        return look.is_moderate

    def plan(self, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
        """The plan for inputs of the given shapes; nothing is compiled for it."""
        key = Key.of(shapes, (), self._exact)
        return self._programs[key].plan if key in self._programs else self._plan(key)

    def prepare(
        self, shapes: Mapping[str, tuple[int, ...]], on_compile: jit.OnCompile | None
    ) -> jit.Preparation:
        """Plan and compile for inputs of the given shapes."""
        key = Key.of(shapes, (), self._exact)
        with self._turn():
            if key in self._programs:
                return jit.prepare(plan_codes(self._programs[key].plan), on_compile)
            plan = self._plan(key)
            preparation = jit.prepare(plan_codes(plan), on_compile)
            self._keep(key, plan)
        return preparation

    def _plan(self, key: Key) -> Plan:
        if self._graph.file is not None:
            self._graph.file.check()
        return make_plan(self._graph, dict(key.shapes), key.capture, exact=key.exact)

    def _program(self, key: Key) -> Program:
        """The program for ``key``."""
        if key not in self._programs:
            self._keep(key, self._plan(key))
        self._programs.move_to_end(key)
        return self._programs[key]

    def _keep(self, key: Key, plan: Plan) -> None:
        """Make a program of ``plan``, in place of the one used least recently."""
        while len(self._programs) >= KEPT_PROGRAMS:
            self._programs.popitem(last=False)
        self._programs[key] = Program(self._packed(plan), self._threads)

    def _packed(self, plan: Plan) -> Plan:
        done = jit.prepare(plan_codes(plan))
        if done.obstacle:
            warnings.warn(f"machine code cannot be kept: {done.obstacle}", stacklevel=1)
        packed = pack(plan, self._workers)
        if self._graph.file is not None:
            self._graph.file.drop()
        return packed


@dataclass
class _Look:
    """A job for a team: whether all of ``numbers``, of one dimension, are moderate. Threads take
    parts by turns, so small that one is still in a cache when it is looked at again."""

    numbers: np.ndarray
    threads: int
    is_moderate: bool = True

    def __call__(self, thread: int) -> None:
        for begin in range(thread * LOOKED_AT, self.numbers.size, self.threads * LOOKED_AT):
            part = self.numbers[begin : begin + LOOKED_AT]
            if part.itemsize <= 2:
                part = part.astype(np.float32)
            if not (part.min() > -LARGEST and part.max() < LARGEST):
                self.is_moderate = False
                return

    def abandon(self) -> None:
        """Its threads don't wait for one another."""
