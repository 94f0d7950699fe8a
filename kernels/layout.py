"""The blocked layout NCHWc in NumPy: for packing constants, and for tests."""

from __future__ import annotations

import numpy as np

from minseg.kernels.machine import target


def blocks(channels: int) -> int:
    """How many blocks of L channels hold ``channels``."""
    return -(-channels // target().lanes)


def blocked_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """[N][C/L][H][W][L] for an N×C×H×W shape."""
    n, c, h, w = shape
    return n, blocks(c), h, w, target().lanes


def to_blocked(x: np.ndarray) -> np.ndarray:
    """N×C×H×W to the blocked layout, zeros in the channels past C."""
    n, cb, h, w, lanes = blocked_shape(x.shape)
    padded = np.zeros((n, cb * lanes, h, w), x.dtype)
    padded[:, : x.shape[1]] = x
    return aligned(padded.reshape(n, cb, lanes, h, w).transpose(0, 1, 3, 4, 2))


def from_blocked(x: np.ndarray, channels: int) -> np.ndarray:
    """The reverse of `to_blocked`."""
    n, cb, h, w, lanes = x.shape
    planes = x.transpose(0, 1, 4, 2, 3).reshape(n, cb * lanes, h, w)
    return np.ascontiguousarray(planes[:, :channels])


def aligned(x: np.ndarray, boundary: int = 64) -> np.ndarray:
    """A contiguous copy that starts on a cache line."""
    copy = aligned_empty(x.nbytes, boundary).view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def aligned_empty(nbytes: int, boundary: int = 64) -> np.ndarray:
    """Bytes that start on a cache line, with nothing in them."""
    raw = np.empty(nbytes + boundary, np.uint8)
    start = -raw.ctypes.data % boundary
    return raw[start : start + nbytes]
