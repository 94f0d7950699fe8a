"""One kernel call, alone on the calling thread, with a clock on it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from minseg.errors import MinsegError
from minseg.kernels.core import jit
from minseg.kernels.core.layout import aligned
from minseg.kernels.core.registry import Launch
from minseg.measure.timing import thread_clock


class BoundLaunch:
    """A launch with memory: called, it runs once and gives the seconds that took, by
    `thread_clock`.

    ``inputs`` and ``output`` are in the layouts that the kernel reads and writes, and aligned.
    Raises MinsegError where kernels run as Python (NUMBA_DISABLE_JIT): that time says nothing.
    """

    def __init__(self, launch: Launch, inputs: Sequence[np.ndarray], output: np.ndarray):
        if jit.jit_disabled():
            raise MinsegError("kernels can't be timed with NUMBA_DISABLE_JIT=1")
        self.nbytes = sum(x.nbytes for x in inputs) + output.nbytes
        workspace = aligned(np.zeros(launch.workspace + 1, np.uint8))
        self._memory = {
            "input": list(inputs),
            "constant": [
                aligned(c) if isinstance(c, np.ndarray) else c.made() for c in launch.constants
            ],
            "output": [output],
            "workspace": [workspace],
        }
        values = launch.values(
            {kind: [int(x.ctypes.data) for x in held] for kind, held in self._memory.items()}
        )
        self._table = ctypes.create_string_buffer(launch.code.pack(values))
        self._counter = ctypes.c_int64(0)
        self._entry = jit.ENTRY_TYPE(jit.addresses([launch.code])[0])

    def __call__(self) -> float:
        self._counter.value = 0
        table, counter = ctypes.addressof(self._table), ctypes.addressof(self._counter)
        begin = thread_clock()
        self._entry(table, 0, counter)
        return thread_clock() - begin
