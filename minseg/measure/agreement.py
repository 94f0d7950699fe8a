"""Do engines say the same? What is wrong is not worth timing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

#: The share of pixels that two engines must label alike at least. Rounding decides where a pixel's
#: best two classes are nearly equal, and more often in quantised networks; a wrong layer changes
#: far more.
ALIKE = 0.99


def agreements(labels: Mapping[str, np.ndarray]) -> dict[str, float]:
    """For each engine the share of pixels, 0 to 1, that it labels like another one.

    ``labels`` are the engines' label maps for one picture. Of the other engines the one counts
    that is the median in likeness, the more alike of two: what half of the others agree with is
    right, however wrong the rest are. 1 where there are no others.
    """
    return {name: _typical(name, labels) for name in labels}


def _typical(name: str, labels: Mapping[str, np.ndarray]) -> float:
    likeness = sorted(
        (_share(labels[name], other) for key, other in labels.items() if key != name), reverse=True
    )
    return likeness[(len(likeness) - 1) // 2] if likeness else 1.0


def _share(a: np.ndarray, b: np.ndarray) -> float:
    return float((a == b).mean()) if a.shape == b.shape else 0.0
