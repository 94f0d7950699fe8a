"""Labels at a picture's size, from what a model says at its own."""

from __future__ import annotations

import numpy as np

from minseg.images.output import best_class

#: Pixels whose scores are interpolated at a time, so that memory stays small for any picture.
CHUNK = 1 << 16


def labels_from_scores(
    scores: np.ndarray, labels: np.ndarray, height: int, width: int
) -> np.ndarray:
    """The best class of ``scores`` (Cxhxw) resized bilinearly to ``height``x``width``.

    Samples at pixel centres, as PyTorch's ``interpolate`` does without aligned corners.
    ``labels`` (hxw) is the best class of ``scores`` itself. Where the four samples around a pixel
    agree on their best class it is the pixel's too, since every weighted mean of them keeps it
    on top; only the pixels on the borders between classes are interpolated.
    """
    top, bottom, down = _samples(labels.shape[0], height)
    left, right, across = _samples(labels.shape[1], width)
    upper, lower = labels[top], labels[bottom]
    result = np.asarray(upper[:, left])
    agreed = result == upper[:, right]
    agreed &= result == lower[:, left]
    agreed &= result == lower[:, right]
    rows, columns = np.nonzero(~agreed)
    for start in range(0, len(rows), CHUNK):
        y, x = rows[start : start + CHUNK], columns[start : start + CHUNK]
        above = _blend(scores[:, top[y], left[x]], scores[:, top[y], right[x]], across[x])
        below = _blend(scores[:, bottom[y], left[x]], scores[:, bottom[y], right[x]], across[x])
        result[y, x] = best_class(_blend(above, below, down[y]))
    return result


def labels_nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """``labels`` (hxw) at ``height``x``width``: the label in whose cell a pixel's centre lies."""
    rows, columns = (
        (np.arange(size) * 2 + 1) * old // (2 * size)
        for old, size in zip(labels.shape, (height, width), strict=True)
    )
    return np.asarray(labels[rows][:, columns])


def _samples(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``new`` pixels: the samples of ``old`` before and after, and the weight of the
    latter (float32)."""
    centres = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
    before = centres.astype(np.intp)
    return before, np.minimum(before + 1, old - 1), (centres - before).astype(np.float32)


def _blend(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.asarray(a + (b - a) * weight)
