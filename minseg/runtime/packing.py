"""Makes the constants of a plan that kernels are to make: weights, before the first run."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from minseg.kernels.core import jit
from minseg.kernels.core.layout import aligned_empty
from minseg.kernels.core.registry import Packed
from minseg.plan.plan import KernelStep, Plan, Step
from minseg.runtime.workers import Workers


def pack(plan: Plan, workers: Workers) -> Plan:
    """``plan`` with all its constants made. Those that kernels make lie in one block of memory, so
    that large pages hold them and nothing is lost between them."""
    waiting = unpacked(plan)
    block = aligned_empty(sum(_room(constant) for constant in waiting))
    scratch = aligned_empty(
        workers.count * max((constant.launch.workspace for constant in waiting), default=0)
    )
    made: dict[Packed, np.ndarray] = {}
    begin = 0
    for constant in waiting:
        memory = block[begin : begin + constant.nbytes]
        begin += _room(constant)
        _make(constant, memory, scratch, workers)
        made[constant] = memory.view(np.float32).reshape(constant.shape)
    return replace(plan, steps=tuple(_with(step, made) for step in plan.steps))


def unpacked(plan: Plan) -> list[Packed]:
    """The constants of ``plan`` that kernels are yet to make."""
    launches = [step.launch for step in plan.steps if isinstance(step, KernelStep)]
    return [c for launch in launches for c in launch.constants if isinstance(c, Packed)]


def _room(constant: Packed) -> int:
    """Bytes from one constant to the next: whole cache lines."""
    return -(-constant.nbytes // 64) * 64


def _make(constant: Packed, memory: np.ndarray, scratch: np.ndarray, workers: Workers) -> None:
    code, values = constant.launch.code, constant.values(memory, scratch)
    if jit.jit_disabled():
        jit.call(code, values)
    else:
        workers.run(Call(code, values, (constant, memory, scratch)))


def _with(step: Step, made: Mapping[Packed, np.ndarray]) -> Step:
    if not isinstance(step, KernelStep):
        return step
    constants = tuple(made[c] if isinstance(c, Packed) else c for c in step.launch.constants)
    return replace(step, launch=replace(step.launch, constants=constants).complete())


class Call:
    """One call of a kernel in machine code, as a job for a team. ``keep`` is what ``values`` lead
    to."""

    def __init__(self, code: jit.Code, values: Sequence[int | float], keep: object):
        (entry,) = jit.addresses([code])
        self._entry = jit.ENTRY_TYPE(entry)
        self._table = ctypes.create_string_buffer(code.pack(values))
        self._counter = ctypes.c_int64(0)
        self._keep = keep

    def __call__(self, thread: int) -> None:
        self._entry(ctypes.addressof(self._table), thread, ctypes.addressof(self._counter))

    def abandon(self) -> None:
        """Its threads don't wait for one another."""
