"""The clock that kernels read, from Python."""

from __future__ import annotations

from time import perf_counter_ns

import numpy as np

from minseg.errors import MinsegError
from minseg.kernels.core import jit
from minseg.kernels.core.walk import READ_TICKS
from minseg.kernels.isa import simd

#: Readings of both clocks of which the best counts: between two calls anything may happen.
READINGS = 5


class Clock:
    """`simd.ticks`, whose rate is known from `time.perf_counter_ns` since this clock was made."""

    def __init__(self) -> None:
        self._now = np.zeros(1, np.int64)
        address = int(self._now.ctypes.data)
        self._table = np.frombuffer(READ_TICKS.pack([address]), np.int64)
        if not jit.jit_disabled():
            self._read = jit.ENTRY_TYPE(jit.addresses([READ_TICKS])[0])
        self._start = self._reading()

    def ticks(self) -> int:
        """The time now."""
        if jit.jit_disabled():
            return simd.ticks()
        self._read(int(self._table.ctypes.data), 0, 0)
        return int(self._now[0])

    def nanoseconds(self, ticks: np.ndarray) -> np.ndarray:
        """``ticks`` as times of `time.perf_counter_ns`. Raises MinsegError where they do not
        count."""
        (ticks_then, then), (ticks_now, now) = self._start, self._reading()
        if ticks_now == ticks_then:
            raise MinsegError("steps can't be timed: minseg knows no clock of this CPU")
        rate = (now - then) / (ticks_now - ticks_then)
        return then + ((ticks - ticks_then) * rate).astype(np.int64)

    def _reading(self) -> tuple[int, int]:
        """One moment on both clocks."""
        readings = []
        for _ in range(READINGS):
            begin, ticks, end = perf_counter_ns(), self.ticks(), perf_counter_ns()
            readings.append((end - begin, ticks, (begin + end) // 2))
        _, ticks, nanoseconds = min(readings)
        return ticks, nanoseconds
