"""How many 16-bit pair sums a CPU without VNNI would have saturated. Exact, on any CPU.

The instruction that such CPUs have for bytes, vpmaddubsw, multiplies uint8 by int8, adds two
neighbouring products and keeps 16 bits: a sum above 32767 or below -32768 becomes that. Kernels
that use it lay bytes out so that two neighbours are input channels 2j and 2j + 1 under one tap of
the filter; that is the pairing here. Values of int8 are 128 more there, weights of uint8 128 less,
and the last of an odd number of channels stands alone.

A pair of weights saturates only with values that are large together, and few pairs of values are.
So for each tap those are collected once, and only pairs of weights that are large enough meet them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minseg.ops.conv import pad_spatial, taps
from minseg.ops.geometry import Axis

LEAST, LARGEST = -(2**15), 2**15 - 1


@dataclass(frozen=True)
class PairSums:
    """How many pair sums there are, and how many of them saturate."""

    total: int
    saturated: int

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(self.total + other.total, self.saturated + other.saturated)


NONE = PairSums(0, 0)


def of_convolution(
    x: np.ndarray, zero_point: int, w: np.ndarray, axes: Sequence[Axis], group: int
) -> PairSums:
    """Of ``x`` uint8 [N, G*C, *spatial], padded with ``zero_point``, and ``w`` int8
    [G*M, C, *kernel]."""
    padded = pad_spatial(x, axes, zero_point)
    weights = w.reshape(group, len(w) // group, w.shape[1], -1)
    met = (padded[index] for index in taps(axes, [a.output for a in axes]))
    return _over_taps(met, weights)


def of_transposed_convolution(x: np.ndarray, w: np.ndarray, group: int) -> PairSums:
    """Of ``x`` uint8 [N, G*C, *spatial] and ``w`` int8 [G*C, M, *kernel]: every pixel meets every
    tap."""
    channels, outputs = w.shape[0] // group, w.shape[1]
    weights = w.reshape(group, channels, outputs, -1).swapaxes(1, 2)
    return _over_taps((x for _ in range(weights.shape[-1])), weights)


def of_product(a: np.ndarray, b: np.ndarray) -> PairSums:
    """Of ``a`` uint8 [..., K] and ``b`` int8 [K, M]."""
    rows = a.reshape(-1, a.shape[-1])
    return _over_taps(iter([rows]), b.T[None, :, :, None])


def _over_taps(met: Iterator[np.ndarray], weights: np.ndarray) -> PairSums:
    """``met`` gives for each tap the values [N, G*C, ...] that it meets; ``weights`` are
    [G, M, C, taps]."""
    groups, _, channels, _ = weights.shape
    total = NONE
    for tap, values in enumerate(met):
        planes = np.moveaxis(values, 1, 0).reshape(groups, channels, -1)
        for plane, filters in zip(planes, weights[..., tap], strict=True):
            for first in range(0, channels, 2):
                pair = plane[first : first + 2]
                total += _of_pair(pair, filters[:, first : first + 2].astype(np.int64))
    return total


def _of_pair(values: np.ndarray, weights: np.ndarray) -> PairSums:
    """Of ``values`` uint8 [1 or 2, P] and ``weights`` int64 [M, 1 or 2]."""
    count = values.shape[1] * len(weights)
    if len(values) == 1:
        return PairSums(count, 0)  # one product fits
    large = weights[can_saturate(weights)]
    a, b = values.astype(np.int64)
    together = a + b > LARGEST // 128
    if not large.size or not together.any():
        return PairSums(count, 0)
    codes, counts = np.unique(a[together] * 256 + b[together], return_counts=True)
    sums = large[:, :1] * (codes // 256) + large[:, 1:] * (codes % 256)
    outside = (sums > LARGEST) | (sums < LEAST)
    return PairSums(count, int((outside * counts).sum()))


def can_saturate(weights: np.ndarray) -> np.ndarray:
    """Which pairs of weights, int64 [..., 2], saturate with the largest values."""
    sums = np.array([[255, 255], [255, 0], [0, 255]]) @ weights[..., None]
    return np.asarray(((sums > LARGEST) | (sums < LEAST)).any(axis=(-2, -1)))
