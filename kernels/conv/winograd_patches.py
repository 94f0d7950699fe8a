"""The patches of a picture, for Winograd's algorithm, and how many of them make a group."""

from __future__ import annotations

from math import ceil

import numpy as np

from minseg.kernels.conv.problem import Convolution
from minseg.kernels.rates.family import caches

#: Outputs of a patch along an axis.
OUT = 4
#: What the table of patches says of each: top left input pixel, top left output pixel, and how
#: many rows and columns of outputs the picture has there.
PATCH_COLUMNS = ("iy", "ix", "oy", "ox", "rows", "columns")
PATCH_BYTES = 4 * len(PATCH_COLUMNS)


def patches_of(problem: Convolution) -> np.ndarray:
    """The table of patches (`PATCH_COLUMNS`), phase after phase of a dilated convolution."""
    q = problem
    rows, columns = axis_patches(q.OH, q.DH), axis_patches(q.OW, q.DH)
    table = []
    for oy, height in rows:
        for ox, width in columns:
            parts = (oy[:, None] - q.PT, ox - q.PL, oy[:, None], ox, height[:, None], width)
            table.append(np.stack(np.broadcast_arrays(*parts), -1).reshape(-1, len(parts)))
    return np.concatenate(table).astype(np.int32)


def axis_patches(size: int, D: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each phase of a dilation ``D``, where patches begin along an axis of so many outputs,
    and how many outputs they have there."""
    phases = []
    for phase in range(D):
        at = np.arange(0, -(-(size - phase) // D), OUT)
        phases.append((phase + at * D, np.minimum(OUT, -(-(size - phase) // D) - at)))
    return phases


def patch_count(problem: Convolution) -> int:
    """The rows of that table."""
    q = problem
    along = [sum(len(at) for at, _ in axis_patches(size, q.DH)) for size in (q.OH, q.OW)]
    return along[0] * along[1]


#: About how many patches' products share one pass over the weights: few where the weights stay in
#: the L2 cache and should leave room for V and M, more where each pass fetches them from beyond it;
#: but not so many where that cache is large enough to hold V and M then.
GROUP_OF_CACHED, GROUP_OF_FETCHED, GROUP_IN_LARGE_CACHE = 12, 40, 30
LARGE_CACHE_BYTES = 2 * 2**20
#: Bytes of weights that may stay in the L2 cache.
CACHED_WEIGHT_BYTES = 640 * 1024


def patches_per_group(count: int, weight_bytes: int, rows: int) -> int:
    """T for ``count`` patches: groups of nearly equal size, in whole register tiles of ``rows``;
    rather somewhat larger ones than another one that passes over the weights."""
    about = GROUP_OF_CACHED
    if weight_bytes > CACHED_WEIGHT_BYTES:
        is_large = caches().second >= LARGE_CACHE_BYTES
        about = GROUP_IN_LARGE_CACHE if is_large else GROUP_OF_FETCHED
    groups = max(1, ceil(count / about - 0.25))
    return -(-count // (groups * rows)) * rows
