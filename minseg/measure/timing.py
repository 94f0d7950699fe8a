"""Calls timed in turns, so that whatever else the machine does disturbs all of them alike."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

#: How long a process must use next to no CPU to count as idle, in seconds; how little "next to no"
#: is, as a share of that; and how long to wait for it at most.
IDLE_SECONDS, IDLE_SHARE, PATIENCE = 0.005, 0.1, 2.0


#: The clock for what the calling thread does alone: its CPU time, which other processes don't add
#: to, where the system counts it finely enough.
_FINE = time.get_clock_info("thread_time").resolution <= 1e-6
thread_clock: Callable[[], float] = time.thread_time if _FINE else time.perf_counter


@dataclass(frozen=True)
class Timing:
    """Seconds of each call, in the order they were made."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return self.percentile(50)

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles, as a share of the median."""
        return (self.percentile(75) - self.percentile(25)) / self.median

    def percentile(self, percent: float) -> float:
        """The time that ``percent`` of the calls stay below, interpolated linearly."""
        return float(np.percentile(self.seconds, percent))


def clocked(
    call: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[], float]:
    """``call``, giving the seconds it took by ``clock``."""

    def timed() -> float:
        begin = clock()
        call()
        return clock() - begin

    return timed


def interleaved(
    calls: Mapping[str, Callable[[], float]],
    rounds: int,
    seconds: float = 0.0,
    before: Callable[[], None] = lambda: None,
) -> dict[str, Timing]:
    """The seconds that each call gives, of rounds in which each is called once.

    There are at least ``rounds``, and more until ``seconds`` have passed; one before these is not
    counted. Each round starts with another call than the last, so that none always follows the
    same one; ``before`` is called ahead of each.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    names = deque(calls)
    begin = time.perf_counter()
    done = -1
    while done < rounds or time.perf_counter() - begin < seconds:
        for name in names:
            before()
            spent[name].append(calls[name]())
        names.rotate(-1)
        done += 1
    return {name: Timing(tuple(s[1:])) for name, s in spent.items()}


def wait_until_idle() -> None:
    """Return when no thread of this process is at work.

    The worker threads of some engines go on looking for work for a while after a run, and would
    take a core from the next engine.
    """
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline:
        used = time.process_time()
        time.sleep(IDLE_SECONDS)
        if time.process_time() - used < IDLE_SHARE * IDLE_SECONDS:
            return
