"""A program that notes when each thread began and ended its part of each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from minseg.kernels.core.walk import TIMED_WALK
from minseg.plan.plan import KernelStep, Plan, Step, summary
from minseg.runtime.clock import Clock
from minseg.runtime.program import KernelRun, Program, Run, Values
from minseg.runtime.timings import Timings, time_rounds
from minseg.runtime.workers import Workers


class TimedProgram(Program):
    """A `Program` that notes the times of its last run."""

    def __init__(self, plan: Plan, threads: int):
        self._threads = threads
        self._clock = Clock()
        self._timed: list[_TimedWalk | _TimedAlone] = []
        super().__init__(plan, threads)

    def _walk(self, steps: Sequence[KernelStep], threads: int) -> Run:
        self._timed.append(_TimedWalk(steps, self, threads))
        return self._timed[-1]

    def _alone(self, step: Step, threads: int) -> Run:
        self._timed.append(_TimedAlone(super()._alone(step, threads), self._clock, threads))
        return self._timed[-1]

    def time(
        self,
        feeds: Mapping[str, np.ndarray],
        names: Sequence[str],
        workers: Workers,
        rounds: int,
    ) -> Timings:
        """So many runs, after one that does not count."""
        runs, spans = time_rounds(
            rounds,
            lambda: self.run(feeds, names, workers),
            self._spans,
            self._clock.ticks,
        )
        in_time = self._clock.nanoseconds
        return Timings(tuple(map(summary, self.plan.steps)), in_time(runs), in_time(spans))

    def _spans(self) -> np.ndarray:
        """Ticks of the last run, [steps][threads][2] as in `Timings`."""
        none = np.empty((0, self._threads, 2), np.int64)
        return np.concatenate([none, *(run.spans for run in self._timed)])


class _TimedWalk(KernelRun):
    """Machine code reads the clock."""

    def __init__(self, steps: Sequence[KernelStep], program: Program, threads: int):
        self._ticks = np.zeros((threads, len(steps), 2), np.int64)
        super().__init__(steps, program, threads, TIMED_WALK, int(self._ticks.ctypes.data))

    @property
    def spans(self) -> np.ndarray:
        return self._ticks.transpose(1, 0, 2)


class _TimedAlone:
    """A step that the calling thread runs while the others idle."""

    def __init__(self, run: Run, clock: Clock, threads: int):
        self._run, self._clock = run, clock
        self.spans = np.zeros((1, threads, 2), np.int64)

    def run(self, values: Values, workers: Workers) -> None:
        self.spans[:] = self._clock.ticks()
        self._run.run(values, workers)
        self.spans[0, 0, 1] = self._clock.ticks()
