"""Figures from one confusion matrix.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (2010), for intersection over
union; Long et al., "Fully Convolutional Networks for Semantic Segmentation" (2015), section 5, for
the others.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property

import numpy as np


def confusion_matrix(
    truth: np.ndarray, predicted: np.ndarray, n: int, ignored: Collection[int] = ()
) -> np.ndarray:
    """How often each class (row) was taken for each class (column), n x n, int64.

    ``truth`` and ``predicted`` are class indices below ``n``, of one shape. Pixels whose truth is
    in ``ignored`` are not counted.
    """
    pairs = truth.astype(np.int64) * n + predicted
    counts = np.bincount(pairs.ravel(), minlength=n * n).astype(np.int64).reshape(n, n)
    counts[list(ignored)] = 0
    return counts


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix (C x C int64, truth in rows) says of a model.

    Shares are 0 to 1. Classes without a pixel of truth, and those not ``judged`` (C, bool), have
    no figure of their own (NaN) and are left out of means; pixels of theirs still count against a
    class they were taken for.
    """

    matrix: np.ndarray
    judged: np.ndarray

    @cached_property
    def present(self) -> np.ndarray:
        """Which classes have a figure, (C,) bool."""
        return np.asarray(self.judged & (self.truths > 0))

    @property
    def truths(self) -> np.ndarray:
        """Pixels of each class, (C,) int64."""
        return np.asarray(self.matrix.sum(axis=1))

    @property
    def hits(self) -> np.ndarray:
        """Pixels of each class that were found, (C,) int64."""
        return np.asarray(self.matrix.diagonal())

    @cached_property
    def iou(self) -> np.ndarray:
        """TP / (TP + FP + FN) of each class, (C,) float64."""
        unions = self.truths + self.matrix.sum(axis=0) - self.hits
        return self._shares(unions)

    @cached_property
    def accuracy(self) -> np.ndarray:
        """TP / (TP + FN) of each class, (C,) float64: the share of its pixels that were found."""
        return self._shares(self.truths)

    def _shares(self, totals: np.ndarray) -> np.ndarray:
        shares = np.full(len(self.matrix), np.nan)
        np.divide(self.hits, totals, out=shares, where=self.present)
        return shares

    @property
    def is_empty(self) -> bool:
        """Whether no class has a figure, and no mean exists: each is NaN."""
        return not self.present.any()

    @property
    def mean_iou(self) -> float:
        """The mean of the classes' IoU."""
        return self._mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """The mean of the classes' accuracy."""
        return self._mean(self.accuracy)

    def _mean(self, shares: np.ndarray) -> float:
        return float("nan") if self.is_empty else float(shares[self.present].mean())

    @property
    def pixel_accuracy(self) -> float:
        """The share of pixels that were found, of all judged classes together."""
        return self._weighted(self.accuracy)

    @property
    def frequency_weighted_iou(self) -> float:
        """The mean of the classes' IoU, each weighted by its pixels."""
        return self._weighted(self.iou)

    def _weighted(self, shares: np.ndarray) -> float:
        if self.is_empty:
            return float("nan")
        weights = self.truths[self.present]
        return float((weights * shares[self.present]).sum() / weights.sum())
