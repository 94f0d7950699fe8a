"""Runs a list of kernels one after the other on several threads: the innermost loop of a session.

Every thread walks the same list. In a step the threads share the work through the step's counter;
after it they wait for each other. A thread that waits long lets others have its CPU. A walk that
was abandoned, by an arrival count of `FOREVER`, ends after the step it is at. A walk that is timed
also notes when.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code
from minseg.kernels.isa.simd import (
    atomic_add,
    atomic_load,
    call_kernel,
    call_yield,
    load_i64,
    pause,
    store_i64,
    ticks,
)

#: Bytes of one step in the list: the addresses of its entry and of its arguments.
STEP_BYTES = 16
#: Bytes between the work counters of two steps, so that they don't share a cache line.
COUNTER_BYTES = 64
#: Pauses (some tens of cycles each) before a waiting thread offers its CPU to others.
SPINS = 4000
#: More arrivals than any number of steps and threads can ask for.
FOREVER = 2**62
#: Bytes of a thread's times of one step: the `ticks` at which its work began and ended.
TIMES_BYTES = 16


class WalkArguments(NamedTuple):
    """``steps`` are ``length``; ``arrived`` is a counter of its own, 0 at the start as those of
    the steps; ``yield_function`` takes no arguments and yields the CPU. A timed walk fills in
    ``times`` [threads][length]."""

    steps: Address
    length: int
    threads: int
    counters: Address
    arrived: Address
    yield_function: Address
    times: Address


def walk(timed: bool) -> Callable[..., None]:
    """The kernel."""

    def kernel(thread, work, a: WalkArguments):
        for i in range(a.length):
            step, counter = a.steps + i * STEP_BYTES, a.counters + i * COUNTER_BYTES
            now = a.times + (thread * a.length + i) * TIMES_BYTES
            if timed:
                store_i64(now, ticks())
            call_kernel(load_i64(step), load_i64(step + 8), thread, counter)
            if timed:
                store_i64(now + 8, ticks())
            if a.threads > 1:
                atomic_add(a.arrived, 1)
                spins = 0
                seen = atomic_load(a.arrived)
                while seen < (i + 1) * a.threads:
                    pause()
                    spins += 1
                    if spins > SPINS:
                        call_yield(a.yield_function)
                    seen = atomic_load(a.arrived)
                if seen >= FOREVER:
                    return

    return kernel


WALK = Code(walk, (False,))
TIMED_WALK = Code(walk, (True,))


class ClockArguments(NamedTuple):
    now: Address


def read_ticks() -> Callable[..., None]:
    """The kernel that stores the time, as the walk does."""

    def kernel(thread, work, a: ClockArguments):
        store_i64(a.now, ticks())

    return kernel


READ_TICKS = Code(read_ticks)
