"""The `numba` backend: a plan per set of input shapes, followed by machine code.

All that is chosen for a set of shapes is chosen at once, by `prepare` or in the first run: a plan,
its exact one for numbers that need it, and the machine code of both. A later run at most packs
weights, when it is the first whose numbers need the exact plan; until then they take no memory.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from minseg.graph.model import Graph
from minseg.kernels.core import jit
from minseg.kernels.isa.target import target
from minseg.plan.plan import Plan
from minseg.plan.planner import make_plan
from minseg.precision import Precision
from minseg.runtime.packing import pack
from minseg.runtime.program import Program, plan_codes
from minseg.runtime.workers import Workers

if TYPE_CHECKING:
    from minseg.runtime.timings import Timings

#: Sets of input shapes whose programs are kept; the one used least recently goes first.
KEPT_PROGRAMS = 4

#: Magnitudes of inputs from which on sums might overflow.
LARGEST = 2.0**100
#: Numbers of an input that are looked at at once.
LOOKED_AT = 2**17


@dataclass(frozen=True)
class Key:
    """What programs were made for."""

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    capture: tuple[str, ...] = ()

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], capture: Collection[str] = ()) -> Key:
        return cls(tuple(sorted(shapes.items())), tuple(capture))


@dataclass
class Programs:
    """The program for usual numbers, and the one for others once they were met."""

    usual: Program
    exact: Program | None = None


class CompiledExecutor:
    """Makes, keeps and runs programs. Runs take turns; a forked child starts its own threads."""

    def __init__(self, graph: Graph, threads: int, precision: Precision):
        target()  # says at once when there is nothing to compile with
        self._graph = graph
        self._threads = threads
        self._precision = precision
        self._programs: OrderedDict[Key, Programs] = OrderedDict()
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
            return self._program(feeds, capture).run(feeds, names, self._workers)

    def time(self, outputs: Sequence[str], feeds: Mapping[str, np.ndarray], rounds: int) -> Timings:
        """What the steps of so many runs take."""
        from minseg.runtime.timed import TimedProgram

        with self._turn():
            plan = self._fitting(self._plan(_key(feeds)), feeds)
            program = TimedProgram(self._packed(plan), self._threads)
            return program.time(feeds, outputs, self._workers, rounds)

    def _turn(self) -> threading.Lock:
        """The lock of this process."""
        if os.getpid() != self._process:
            self._begin()
        return self._lock

    def _program(self, feeds: Mapping[str, np.ndarray], capture: Collection[str]) -> Program:
        """The program to run on ``feeds``."""
        key = _key(feeds, capture)
        if key not in self._programs:
            self._keep(key, self._plan(key))
        self._programs.move_to_end(key)
        programs = self._programs[key]
        plan = self._fitting(programs.usual.plan, feeds)
        if plan is programs.usual.plan:
            return programs.usual
        if programs.exact is None:
            programs.exact = Program(self._packed(plan), self._threads)
        return programs.exact

    def _fitting(self, plan: Plan, feeds: Mapping[str, np.ndarray]) -> Plan:
        """``plan``, or its exact one where ``feeds`` need that."""
        if plan.exact is None or all(map(self._is_moderate, feeds.values())):
            return plan
        return plan.exact

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
        key = Key.of(shapes)
        return self._programs[key].usual.plan if key in self._programs else self._plan(key)

    def prepare(
        self, shapes: Mapping[str, tuple[int, ...]], on_compile: jit.OnCompile | None
    ) -> jit.Preparation:
        """Plan and compile for inputs of the given shapes, whatever numbers they will hold."""
        key = Key.of(shapes)
        with self._turn():
            if key in self._programs:
                return jit.prepare(plan_codes(self._programs[key].usual.plan), on_compile)
            plan = self._plan(key)
            preparation = jit.prepare(plan_codes(plan), on_compile)
            self._keep(key, plan)
        return preparation

    def _plan(self, key: Key) -> Plan:
        self._check_file()
        return make_plan(self._graph, dict(key.shapes), key.capture, self._precision)

    def _keep(self, key: Key, plan: Plan) -> None:
        """Make a program of ``plan``, in place of the one used least recently."""
        while len(self._programs) >= KEPT_PROGRAMS:
            self._programs.popitem(last=False)
        done = jit.prepare(plan_codes(plan))
        if done.obstacle:
            warnings.warn(f"machine code cannot be kept: {done.obstacle}", stacklevel=1)
        self._programs[key] = Programs(Program(self._packed(plan), self._threads))

    def _packed(self, plan: Plan) -> Plan:
        self._check_file()
        packed = pack(plan, self._workers)
        if self._graph.file is not None:
            self._graph.file.drop()
        return packed

    def _check_file(self) -> None:
        if self._graph.file is not None:
            self._graph.file.check()


def _key(feeds: Mapping[str, np.ndarray], capture: Collection[str] = ()) -> Key:
    return Key.of({name: array.shape for name, array in feeds.items()}, capture)


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
