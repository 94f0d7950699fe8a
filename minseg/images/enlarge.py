"""Labels at a picture's size, from what a model says at its own."""

from __future__ import annotations

import numpy as np

from minseg.images.output import best_class

#: Positions of the samples before and after each pixel, and the weight of the latter.
Samples = tuple[np.ndarray, np.ndarray, np.ndarray]


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
    if rows.size:
        samples = _around(
            (top[rows], bottom[rows], down[rows]),
            (left[columns], right[columns], across[columns]),
            labels.shape[1],
        )
        planes = (_weighted(plane.ravel(), samples) for plane in scores)
        result[rows, columns] = best_class(planes, len(scores))
    return result


def labels_nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """``labels`` (hxw) at ``height``x``width``: the label in whose cell a pixel's centre lies."""
    rows, columns = (
        (np.arange(size) * 2 + 1) * old // (2 * size)
        for old, size in zip(labels.shape, (height, width), strict=True)
    )
    return np.asarray(labels[rows][:, columns])


def _samples(old: int, new: int) -> Samples:
    """For each of ``new`` pixels: the samples of ``old`` before and after, and the weight of the
    latter (float32)."""
    centres = ((np.arange(new) + 0.5) * (old / new) - 0.5).clip(0, old - 1)
    before = centres.astype(np.intp)
    return before, np.minimum(before + 1, old - 1), (centres - before).astype(np.float32)


def _around(rows: Samples, columns: Samples, stride: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The four samples around each pixel: position in a plane, and bilinear weight."""
    (top, bottom, down), (left, right, across) = rows, columns
    return [
        (top * stride + left, (1 - down) * (1 - across)),
        (top * stride + right, (1 - down) * across),
        (bottom * stride + left, down * (1 - across)),
        (bottom * stride + right, down * across),
    ]


def _weighted(plane: np.ndarray, samples: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.asarray(sum(plane.take(position) * weight for position, weight in samples))
