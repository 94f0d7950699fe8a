"""A model's profile: what each step takes, and how far that is from what the machine can do.

The measure is the roofline (Williams, Waterman and Patterson, "Roofline: an insightful visual
performance model for multicore architectures", 2009): a step needs at least the time of its
operations at the cores' peak, and at least that of its bytes at the memory's. The operations of
the roofline are those that the step's kernel does. Rates count those of the definition, so that a
kernel which does fewer (Winograd's, or one that skips zeros) may pass the peak. Bytes are those of
tensors and constants, each counted once, which a step may find in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from minseg.errors import MinsegError
from minseg.measure.peaks import Peaks, measure_peaks
from minseg.plan.plan import StepSummary
from minseg.precision import Precision
from minseg.runtime.timings import Timings

#: What is computed at the peak of integers.
BYTES = frozenset({"uint8", "int8"})

#: Where the roofline explains less than this share of the time, something else takes it.
EXPLAINED = 0.25


@dataclass(frozen=True)
class Least:
    """The seconds that the machine's peaks allow for operations and for bytes."""

    compute: float
    memory: float


@dataclass(frozen=True)
class Cost:
    """What something took, and what it had to do.

    ``idle`` is the part of ``seconds`` that a thread waited, on average; ``least`` is None where
    the peaks are not known.
    """

    seconds: float
    idle: float
    flops: int
    bytes: int
    least: Least | None

    @property
    def gflops(self) -> float:
        """10⁹ operations a second."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def intensity(self) -> float:
        """Operations for each byte."""
        return self.flops / self.bytes if self.bytes else 0.0

    @property
    def waiting(self) -> float:
        """The share of the threads' time that they waited for one another."""
        return self.idle / self.seconds if self.seconds else 0.0

    @property
    def peak_share(self) -> float | None:
        """The least time, as a share of the time taken."""
        if self.least is None or not self.seconds:
            return None
        return max(self.least.compute, self.least.memory) / self.seconds

    @property
    def bound(self) -> str | None:
        """What limits it: "compute", "memory", or "overhead" where neither explains the time."""
        if self.least is None or self.peak_share is None:
            return None
        if self.peak_share < EXPLAINED:
            return "overhead"
        return "compute" if self.least.compute >= self.least.memory else "memory"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "seconds": self.seconds,
            "waiting": self.waiting,
            "flops": self.flops,
            "bytes": self.bytes,
            "gflops": self.gflops,
            "intensity": self.intensity,
            "peak_share": self.peak_share,
            "bound": self.bound,
        }


def total(costs: Sequence[Cost]) -> Cost:
    """What they took together."""
    least = [c.least for c in costs if c.least is not None]
    return Cost(
        sum(c.seconds for c in costs),
        sum(c.idle for c in costs),
        sum(c.flops for c in costs),
        sum(c.bytes for c in costs),
        Least(sum(x.compute for x in least), sum(x.memory for x in least)) if least else None,
    )


@dataclass(frozen=True)
class StepProfile:
    """A step and its cost."""

    step: StepSummary
    cost: Cost


@dataclass(frozen=True)
class Total:
    """All steps of one operator that one kernel runs."""

    op: str
    kernel: str
    steps: int
    cost: Cost


@dataclass(frozen=True)
class Profile:
    """What runs of a model took. ``peaks`` are those of one core, None where unknown."""

    timings: Timings
    peaks: Peaks | None

    @property
    def rounds(self) -> int:
        return int(self.timings.spans.shape[0])

    @property
    def threads(self) -> int:
        return int(self.timings.spans.shape[2])

    @property
    def precision(self) -> Precision:
        """What the least exact step kept."""
        kept = (Precision(step.precision) for step in self.timings.steps)
        return min(kept, default=Precision.EXACT)

    @property
    def seconds(self) -> float:
        """A whole run, copies of inputs and outputs among it: the median."""
        return float(np.median(np.diff(self.timings.runs, axis=1))) / 1e9

    @property
    def outside(self) -> float:
        """The part of that in which no step ran: the median."""
        runs = np.diff(self.timings.runs, axis=1)[:, 0]
        return float(np.median(runs - self._taken.sum(axis=1))) / 1e9

    @cached_property
    def _taken(self) -> np.ndarray:
        """Nanoseconds from when the last thread was done with the step before to when the last
        one was done with the step: [rounds][steps]."""
        spans = self.timings.spans
        done = spans[..., 1].max(axis=2)
        return np.diff(done, axis=1, prepend=spans[:, :1, :, 0].min(axis=2))

    @cached_property
    def steps(self) -> tuple[StepProfile, ...]:
        """In the order in which they run; the median of all rounds."""
        taken, spans = self._taken, self.timings.spans
        worked = (spans[..., 1] - spans[..., 0]).mean(axis=2)
        idle = 1 - worked.sum(axis=0) / np.maximum(taken.sum(axis=0), 1)
        seconds = np.median(taken, axis=0) / 1e9
        return tuple(
            StepProfile(step, self._cost(step, float(s), float(share)))
            for step, s, share in zip(self.timings.steps, seconds, idle, strict=True)
        )

    def _cost(self, step: StepSummary, seconds: float, idle_share: float) -> Cost:
        least = None
        if self.peaks is not None:
            operations = self.peaks.integer if step.dtype in BYTES else self.peaks.flops
            least = Least(
                step.work / operations / self.threads, step.bytes / self.peaks.bytes / self.threads
            )
        return Cost(seconds, seconds * idle_share, step.flops, step.bytes, least)

    @property
    def cost(self) -> Cost:
        """Of all steps."""
        return total([s.cost for s in self.steps])

    @property
    def totals(self) -> tuple[Total, ...]:
        """By operator and kernel, the slowest first."""
        groups: dict[tuple[str, str], list[Cost]] = {}
        for s in self.steps:
            groups.setdefault((s.step.op, s.step.kernel), []).append(s.cost)
        totals = [Total(*key, len(costs), total(costs)) for key, costs in groups.items()]
        return tuple(sorted(totals, key=lambda t: -t.cost.seconds))

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; seconds, operations, bytes, and shares from 0 to 1."""
        return {
            "precision": self.precision.value,
            "threads": self.threads,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "outside_seconds": self.outside,
            "peaks": None if self.peaks is None else asdict(self.peaks),
            "all": self.cost.to_dict(),
            "totals": [
                {"op": t.op, "kernel": t.kernel, "steps": t.steps, **t.cost.to_dict()}
                for t in self.totals
            ],
            "steps": [{**asdict(s.step), **s.cost.to_dict()} for s in self.steps],
        }


def known_peaks() -> Peaks | None:
    """What one core can do, or None where there is nothing to measure it with."""
    try:
        return measure_peaks()
    except MinsegError:
        return None
