"""When the steps of a model ran."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from minseg.plan.plan import StepSummary


@dataclass(frozen=True)
class Timings:
    """What several runs of the same steps took, in nanoseconds of `time.perf_counter_ns`.

    ``runs`` [rounds][2] has the begin and end of each run; ``spans`` [rounds][steps][threads][2]
    those of each thread's work on each step, not counting what it waited for the others. A thread
    without a part in a step ends when it begins.
    """

    steps: tuple[StepSummary, ...]
    runs: np.ndarray
    spans: np.ndarray


def time_rounds(
    rounds: int,
    run: Callable[[], object],
    spans: Callable[[], np.ndarray],
    clock: Callable[[], int],
) -> tuple[np.ndarray, np.ndarray]:
    """Call ``run`` once to warm up, then ``rounds`` times: begin and end of each by ``clock``, and
    what ``spans`` gives after it."""
    runs, seen = [], []
    run()
    for _ in range(rounds):
        begin = clock()
        run()
        runs.append((begin, clock()))
        seen.append(spans())
    return np.array(runs), np.array(seen)
