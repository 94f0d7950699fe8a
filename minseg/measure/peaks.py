"""What one core can do at most: the yardstick that kernels and whole models are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minseg.kernels.jit import Code
from minseg.kernels.layout import aligned
from minseg.kernels.machine import target
from minseg.kernels.registry import Launch, Operand
from minseg.kernels.simd import TileShape, claim, fill, fma, store
from minseg.kernels.strided import StridedCopy, prepare_copy
from minseg.measure.launches import BoundLaunch

#: Independent sums of the multiply-add loop: more than any core has in flight at once, fewer than
#: the registers of the smallest instruction set.
SUMS = 12
STEPS = 2_000_000

#: Elements of the tensor that is copied, f32: no cache holds it.
COPIED = 2**25


@dataclass(frozen=True)
class Peaks:
    """Of one core, in a second: floating-point operations (f32, a multiply-add is two), and bytes
    of memory, read and written ones together."""

    flops: float
    bytes: float


def measure_peaks() -> Peaks:
    """The best of many runs, about a second in all: a multiply-add loop without memory, and a copy
    of a tensor that no cache holds. Raises MinsegError where kernels are not compiled."""
    compute, move = _multiply_adds(), _copy()
    flops = 2 * SUMS * target().lanes * STEPS
    return Peaks(
        flops / min(compute() for _ in range(50)), move.nbytes / min(move() for _ in range(20))
    )


def multiply_adds(tile: TileShape) -> Callable[..., None]:
    """The kernel that only multiplies and adds, in registers."""
    vector_bytes = tile.bytes

    def kernel(thread: int, work: int, y: int, steps: int) -> None:
        if claim(work) == 0:
            acc, a, b = fill(tile, 1.0), fill(tile, 0.5), fill(tile, 0.25)
            for _ in range(steps):
                acc = fma(acc, a, b)
            store(acc, y, vector_bytes, 0)

    return kernel


def _multiply_adds() -> BoundLaunch:
    tile = TileShape(SUMS, 1, target().lanes)
    launch = Launch(Code(multiply_adds, (tile,)), (Operand("output"), STEPS))
    return BoundLaunch(launch, [], aligned(np.zeros((SUMS, target().lanes), np.float32)))


def _copy() -> BoundLaunch:
    problem = StridedCopy((COPIED,), (1,))
    source, copy = (aligned(np.ones(COPIED, np.float32)) for _ in range(2))
    return BoundLaunch(prepare_copy(problem), [source], copy)
