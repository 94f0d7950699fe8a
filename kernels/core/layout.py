"""The layouts that tensors are kept in, and changes between them in NumPy: for constants and tests.

"plain" is row-major, of any rank. The others are for f32 or u8 tensors N×C×H×W; L are the f32 lanes
of the target's vectors, and what lies in the channels past C is unspecified in both.

"blocked", NCHWc, has L channels of a pixel side by side: [N][ceil(C/L)][H][W][L].

"lines" has pixels of a channel side by side, as many as the sparse kernel computes at once
(`line_vectors`): [N][lines of a plane][channels, whole blocks of L][pixels of a line]. The last
line of a plane may hold more pixels than there are; what they are is unspecified.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np

from minseg.kernels.isa.target import target

Layout: TypeAlias = Literal["plain", "blocked", "lines"]


def blocks(channels: int) -> int:
    """How many blocks of L channels hold ``channels``."""
    return -(-channels // target().lanes)


def blocked_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """[N][C/L][H][W][L] for an N×C×H×W shape."""
    n, c, h, w = shape
    return n, blocks(c), h, w, target().lanes


def line_vectors(pixels: int) -> int:
    """Vectors of a line in planes of so many pixels: three lines and what they are multiplied with
    fit the registers, and little of a plane's last line is empty."""
    t = target()
    widths = range(4, 7) if t.registers == 32 else range(2, 5)
    return min(widths, key=lambda c: -(-pixels // (c * t.lanes)) * (c + 1))


def lines_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The "lines" of an N×C×H×W shape."""
    n, c, h, w = shape
    line = line_vectors(h * w) * target().lanes
    return n, -(-h * w // line), blocks(c) * target().lanes, line


def stored_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """What a tensor of ``shape`` is in ``layout``."""
    if layout == "plain":
        return shape
    return blocked_shape(shape) if layout == "blocked" else lines_shape(shape)


def to_layout(x: np.ndarray, layout: Layout) -> np.ndarray:
    """A plain ``x`` in ``layout``, on a cache line, zeros in what is unspecified."""
    if layout == "plain":
        return aligned(x)
    return to_blocked(x) if layout == "blocked" else to_lines(x)


def from_layout(x: np.ndarray, layout: Layout, shape: tuple[int, ...]) -> np.ndarray:
    """The reverse of `to_layout`."""
    if layout == "plain":
        return x
    return from_blocked(x, shape[1]) if layout == "blocked" else from_lines(x, shape)


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


def to_lines(x: np.ndarray) -> np.ndarray:
    """N×C×H×W to lines."""
    n, lines, channels, line = lines_shape(x.shape)
    padded = np.zeros((n, channels, lines * line), x.dtype)
    padded[:, : x.shape[1], : x.shape[2] * x.shape[3]] = x.reshape(*x.shape[:2], -1)
    return aligned(padded.reshape(n, channels, lines, line).transpose(0, 2, 1, 3))


def from_lines(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The reverse of `to_lines`, for a plain tensor of ``shape``."""
    n, c, h, w = shape
    planes = x.transpose(0, 2, 1, 3).reshape(n, x.shape[2], -1)
    return np.ascontiguousarray(planes[:, :c, : h * w]).reshape(shape)


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
