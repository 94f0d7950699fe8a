"""Which range of a value's numbers the 256 steps of a byte should cover.

What a value holds on the calibration pictures is counted in a `Histogram`, picture by picture, in
bounded memory. A method then chooses where to cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from minseg.errors import InputError
from minseg.ops.bytes import LEVELS

#: Bins of a histogram, half of them below 0: sixteen for each step of a byte.
BINS = 8192

#: Numbers below this are zero: as many steps of it as a histogram has bins make no value.
SMALLEST = 2.0**-60

#: Where `percentile` cuts: of 10,000 numbers one is outside.
PERCENTILE = 99.99

#: How much of the range `mse` tries to keep.
SHARES = np.linspace(0.1, 1.0, 91)

#: By so many bins the ranges differ that `entropy` tries.
ENTROPY_STEP = 16

#: A count so small that it is none, beside those of real numbers.
_NOTHING = 1e-9

Range = tuple[float, float]


class Histogram:
    """Counts of numbers in equal bins around 0, whose width doubles when a number is outside.

    ``counts`` [BINS] are from the lowest bin on, ``width`` is a power of two, ``low`` and ``high``
    are the least and the largest number.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.width = 0.0
        self.low, self.high = np.inf, -np.inf

    def add(self, x: np.ndarray) -> None:
        """Count the numbers ``x``. Raises InputError where one is infinite or none."""
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not np.isfinite([low, high]).all():
            raise InputError("it is infinite or not a number")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        bins = np.floor(x.ravel() * (1 / self.width)).astype(np.int32) + BINS // 2
        self.counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)

    def _widen(self, largest: float) -> None:
        if not self.width:
            exponent = math.ceil(math.log2(max(largest, SMALLEST)))
            self.width = 2.0 ** (exponent + 1) / BINS
        while largest > self.width * (BINS // 2):
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(pairs, BINS // 4)
            self.width *= 2

    @property
    def edges(self) -> np.ndarray:
        """Where bins begin and end, [BINS + 1]."""
        edges: np.ndarray = (np.arange(BINS + 1) - BINS // 2) * self.width
        return edges

    @property
    def centres(self) -> np.ndarray:
        """The numbers in the middle of bins, [BINS]."""
        return self.edges[:-1] + self.width / 2


def minmax(histogram: Histogram) -> Range:
    """All numbers."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram) -> Range:
    """All but as many at either end as `PERCENTILE` says."""
    below = np.cumsum(histogram.counts) / histogram.counts.sum()
    outside = (1 - PERCENTILE / 100) / 2
    first, last = np.searchsorted(below, [outside, 1 - outside])
    edges, last = histogram.edges, min(last, BINS - 1)
    return _inside(histogram, edges[first], edges[last + 1])


def _inside(histogram: Histogram, low: float, high: float) -> Range:
    return max(float(low), histogram.low), min(float(high), histogram.high)


def mse(histogram: Histogram) -> Range:
    """That with the least mean squared error: of numbers between steps, and of those cut off.

    Either end is moved in turn until both stay (or a few times).
    """
    used = histogram.counts > 0
    numbers, counts = histogram.centres[used], histogram.counts[used]
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    ends = [low, high]
    for _ in range(3):
        before = list(ends)
        for side, furthest in enumerate((low, high)):
            if furthest:
                tried = [[*ends[:side], furthest * s, *ends[side + 1 :]] for s in SHARES]
                ends = min(tried, key=lambda e: _squared_error(numbers, counts, e[0], e[1]))
        if ends == before:
            break
    return ends[0], ends[1]


def _squared_error(numbers: np.ndarray, counts: np.ndarray, low: float, high: float) -> float:
    scale = (high - low) / (LEVELS - 1)
    first = np.rint(low / scale)
    steps = np.clip(np.rint(numbers / scale), first, first + LEVELS - 1)
    return float(((steps * scale - numbers) ** 2 * counts).sum())


def entropy(histogram: Histogram) -> Range:
    """That whose steps tell most of how numbers are distributed: the least divergence of Kullback
    and Leibler between the histogram, cut at both ends, and what its steps leave of it.

    Migacz, 8-bit Inference with TensorRT (2017), where 0 is the lowest number; here there are two
    ends. Zeros, which any range has a step for, count as the numbers next to them.
    """
    counts, zero = histogram.counts.copy(), BINS // 2
    counts[zero] = min(counts[zero], counts[zero + 1])
    (used,) = np.nonzero(counts)
    if not len(used):
        return minmax(histogram)
    first, last = used[0], used[-1] + 1
    reach = max(zero - first, last - zero)
    windows = [
        (max(first, zero - r), min(last, zero + r))
        for r in range(ENTROPY_STEP, reach, ENTROPY_STEP)
    ]
    wide = [w for w in windows if w[1] - w[0] >= LEVELS] + [(first, last)]
    first, last = min(wide, key=lambda w: _divergence(counts, *w))
    return _inside(histogram, histogram.edges[first], histogram.edges[last])


def _divergence(counts: np.ndarray, first: int, last: int) -> float:
    """Of the bins from ``first`` to before ``last`` from the `LEVELS` steps that share them."""
    cut = counts[first:last].astype(np.float64)
    kept = cut > 0
    if not kept.any():
        return math.inf
    step = np.arange(last - first) * LEVELS // (last - first)
    bins = np.bincount(step, kept, LEVELS)
    steps = np.bincount(step, cut, LEVELS) / np.maximum(bins, 1)
    left = np.where(kept, steps[step], 0)
    cut[0] += counts[:first].sum()
    cut[-1] += counts[last:].sum()
    p, q = cut / cut.sum(), np.maximum(left, _NOTHING) / left.sum()
    met = p > 0
    return float((p[met] * np.log(p[met] / q[met])).sum())


#: By the name that a user gives.
METHODS: dict[str, Callable[[Histogram], Range]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}
