"""A plan bound to memory: the arena, the argument tables of its kernels, and how to run them.

Nothing is chosen or allocated while an image is in flight, except the arrays that reference
operators make. Inputs are read where the caller has them, outputs made where the caller gets them:
their addresses are put into the tables before a run.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from minseg.kernels.core import jit
from minseg.kernels.core.layout import aligned_empty
from minseg.kernels.core.registry import Operand
from minseg.kernels.core.walk import COUNTER_BYTES, FOREVER, WALK, WalkArguments
from minseg.ops.evaluate import run_node
from minseg.plan.plan import Buffer, KernelStep, Plan, ReferenceStep, Source, Step
from minseg.runtime.packing import unpacked
from minseg.runtime.workers import Workers

Values = dict[str, Any]


class Program:
    """A packed plan, ready to run with ``threads`` threads. Runs must not overlap."""

    def __init__(self, plan: Plan, threads: int):
        self.plan = plan
        self._threads = threads
        self._arena = aligned_empty(plan.arena_bytes)
        self._scratch = aligned_empty(plan.workspace_bytes * threads)
        self._borrowed: dict[Buffer, np.ndarray] = {}
        self._slots: list[tuple[Buffer, np.ndarray, int]] = []
        self._runs: list[Run] = []
        for compiled, group in groupby(plan.steps, _is_compiled):
            steps: Any = list(group)
            if compiled:
                self._runs.append(self._walk(steps, threads))
            else:
                self._runs += [self._alone(step, threads) for step in steps]

    def _walk(self, steps: Sequence[KernelStep], threads: int) -> Run:
        return KernelRun(steps, self, threads)

    def _alone(self, step: Step, threads: int) -> Run:
        return PythonRun(step, self) if isinstance(step, KernelStep) else ReferenceRun(step, self)

    def run(
        self, feeds: Mapping[str, np.ndarray], names: Sequence[str], workers: Workers
    ) -> dict[str, np.ndarray]:
        """The named values for ``feeds``, as arrays that the caller owns."""
        values: Values = {}
        workers.settle()
        try:
            self._borrow(feeds, values)
            for run in self._runs:
                run.run(values, workers)
            return self._results(names, values)
        finally:
            workers.settle()
            self._borrowed.clear()

    def _borrow(self, feeds: Mapping[str, np.ndarray], values: Values) -> None:
        """Have the run read ``feeds``, and write new arrays."""
        for name, source in self.plan.inputs.items():
            if not isinstance(source, Buffer):
                if source is not None:
                    values[source] = feeds[name]
            elif source in self.plan.borrowed:
                self._borrowed[source] = np.require(feeds[name], requirements=("C", "A"))
            else:
                np.copyto(self.view(source), feeds[name])
        for root in self.plan.borrowed - self._borrowed.keys():
            array = aligned_empty(root.nbytes)
            self._borrowed[root] = array.view(root.dtype).reshape(root.stored_shape)
        for root, table, slot in self._slots:
            table[slot] = self.address(root)

    def _results(self, names: Sequence[str], values: Values) -> dict[str, np.ndarray]:
        """Each an array of its own: one that was made for this run, or a copy."""
        results = {}
        made = self.plan.borrowed - set(self.plan.inputs.values())
        for name in names:
            source = self.plan.outputs[name]
            result = self.read(source, values)
            if isinstance(source, Buffer) and source.root in made:
                made -= {source.root}
                results[name] = result
            else:
                results[name] = np.array(result)
        return results

    @property
    def memory(self) -> tuple[Any, ...]:
        """All that runs read and write besides constants."""
        return self._arena, self._scratch, self._borrowed

    def address(self, buffer: Buffer) -> int:
        """Where a buffer begins; of one that is borrowed, 0 between runs."""
        root = buffer.root
        if root.constant is not None:
            return int(root.constant.ctypes.data)
        if root in self.plan.borrowed:
            return int(self._borrowed[root].ctypes.data) if root in self._borrowed else 0
        return int(self._arena.ctypes.data) + self.plan.offsets[root]

    def view(self, buffer: Buffer) -> np.ndarray:
        """A buffer's memory as an array."""
        root = buffer.root
        if root.constant is not None:
            return root.constant.reshape(buffer.stored_shape)
        if root in self.plan.borrowed:
            return self._borrowed[root].reshape(buffer.stored_shape)
        start = self.plan.offsets[root]
        memory = self._arena[start : start + buffer.nbytes]
        return memory.view(buffer.dtype).reshape(buffer.stored_shape)

    def read(self, source: Source, values: Values) -> Any:
        """What a step's input holds now."""
        if source is None:
            return None
        return values[source] if isinstance(source, str) else self.view(source)

    def arguments(self, step: KernelStep) -> list[int | float]:
        """A launch's arguments with every operand resolved to an address."""
        constants: Any = step.launch.constants
        memory = {
            "input": [self.address(b) for b in step.inputs],
            "output": [self.address(b) for b in (step.output, *step.others)],
            "constant": [int(c.ctypes.data) for c in constants],
            "workspace": [int(self._scratch.ctypes.data)],
        }
        return step.launch.values(memory, self._threads)

    def table(self, step: KernelStep) -> np.ndarray:
        """The arguments as a compiled kernel reads them. Runs write the addresses of buffers that
        are borrowed into it."""
        table = np.frombuffer(bytearray(step.launch.code.pack(self.arguments(step))), np.int64)
        buffers = {"input": step.inputs, "output": (step.output, *step.others)}
        for slot, argument in enumerate(step.launch.slots):
            if isinstance(argument, Operand) and argument.kind in buffers:
                root = buffers[argument.kind][argument.index].root
                if root in self.plan.borrowed:
                    self._slots.append((root, table, slot))
        return table


def plan_codes(plan: Plan) -> list[jit.Code]:
    """The kernels that programs of ``plan``, for any numbers, run in machine code, and those that
    pack for them."""
    codes = [s.launch.code for s in plan.steps if isinstance(s, KernelStep)]
    if jit.jit_disabled() or not codes:
        return []
    packing = [constant.launch.code for constant in unpacked(plan)]
    return [WALK, *codes, *packing, *(plan_codes(plan.exact) if plan.exact else ())]


def _is_compiled(step: Step) -> bool:
    return isinstance(step, KernelStep) and not jit.jit_disabled()


class Run(Protocol):
    """Part of a program: one or several steps that are run at once."""

    def run(self, values: Values, workers: Workers) -> None: ...


class KernelRun:
    """Consecutive kernel steps, walked in machine code by all threads at once. ``walk`` is the
    kernel that does it, ``times`` the address that it takes."""

    def __init__(
        self,
        steps: Sequence[KernelStep],
        program: Program,
        threads: int,
        walk: jit.Code = WALK,
        times: int = 0,
    ):
        entries = jit.addresses([walk, *(s.launch.code for s in steps)])
        tables = [program.table(step) for step in steps]
        listing = [[e, int(t.ctypes.data)] for e, t in zip(entries[1:], tables, strict=True)]
        self._list = np.array(listing, np.int64)
        self._counters = np.zeros((len(steps) + 1, COUNTER_BYTES // 8), np.int64)
        counters = int(self._counters.ctypes.data)
        arguments = WalkArguments(
            steps=int(self._list.ctypes.data),
            length=len(steps),
            threads=threads,
            counters=counters,
            arrived=counters + len(steps) * COUNTER_BYTES,
            yield_function=_yield_address(),
            times=times,
        )
        self._table = np.frombuffer(walk.pack(arguments), np.int64)
        self._address = int(self._table.ctypes.data)
        self._walk = jit.ENTRY_TYPE(entries[0])
        self._keep = (tables, steps, program.memory)

    def run(self, values: Values, workers: Workers) -> None:
        self._counters[:] = 0
        workers.run(self)

    def __call__(self, thread: int) -> None:
        self._walk(self._address, thread, 0)

    def abandon(self) -> None:
        """Have no thread wait for another, nor begin another step."""
        self._counters[-1] = FOREVER


class PythonRun:
    """A kernel step with the JIT off: the kernel as a Python function."""

    def __init__(self, step: KernelStep, program: Program):
        self._step, self._program = step, program

    def run(self, values: Values, workers: Workers) -> None:
        jit.call(self._step.launch.code, self._program.arguments(self._step))


@dataclass(frozen=True)
class ReferenceRun:
    """A node without a kernel."""

    step: ReferenceStep
    program: Program

    def run(self, values: Values, workers: Workers) -> None:
        step, program = self.step, self.program
        arguments = [program.read(source, values) for source in step.inputs]
        scope = {name: program.read(source, values) for name, source in step.scope.items()}
        results = run_node(step.node, arguments, scope)
        for target, result in zip(step.outputs, results, strict=False):
            if isinstance(target, Buffer):
                np.copyto(program.view(target), result)
            elif target is not None:
                values[target] = _detached(result)


def _detached(result: Any) -> Any:
    """A value outside the arena, whose memory later steps overwrite."""
    return np.array(result) if isinstance(result, np.ndarray) else result


def _yield_address() -> int:
    """The C library's function that lets another thread have the CPU."""
    if os.name == "nt":
        function: Any = ctypes.windll.kernel32.SwitchToThread  # type: ignore[attr-defined]
    else:
        function = ctypes.CDLL(None).sched_yield
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
