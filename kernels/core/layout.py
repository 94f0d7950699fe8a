"""The layouts that tensors are kept in, and changes between them in NumPy: for constants and tests.

`PLAIN` is row-major, of any rank. The others are for f32 or u8 tensors N×C×H×W; L are the f32 lanes
of the target's vectors, and what lies in the channels past C is unspecified in both.

`BLOCKED`, NCHWc, has L channels of a pixel side by side: [N][ceil(C/L)][H][W][L].

`PANELS` has pixels of a channel side by side, as many as the sparse kernel computes at once
(`panel_vectors`): [N][panels of a plane][channels, whole blocks of L][pixels of a panel]. The last
panel of a plane may hold more pixels than there are; what they are is unspecified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from minseg.kernels.isa.target import target

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """How a tensor lies in memory.

    ``stored_shape`` is what a shape becomes, ``store`` puts a plain array on a cache line with
    zeros in what is unspecified, ``restore`` undoes that, given the plain shape. ``rank`` is None
    where any will do.
    """

    name: str
    stored_shape: Callable[[Shape], Shape]
    store: Callable[[np.ndarray], np.ndarray]
    restore: Callable[[np.ndarray, Shape], np.ndarray]
    rank: int | None = 4

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def fitting(self, rank: int | None) -> Layout:
        """This layout, or the plain one where tensors of ``rank`` have no other."""
        return self if self.rank in (None, rank) else PLAIN

    @property
    def made_from(self) -> tuple[Layout, ...]:
        """The layouts that kernels make this one of; the first is tried first, and made itself
        where a tensor is in none of them."""
        return {PLAIN: (BLOCKED,), BLOCKED: (PLAIN, PANELS), PANELS: (BLOCKED,)}[self]


def blocks(channels: int) -> int:
    """How many blocks of L channels hold ``channels``."""
    return -(-channels // target().lanes)


def blocked_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int, int]:
    """[N][C/L][H][W][L] for an N×C×H×W shape."""
    n, c, h, w = shape
    return n, blocks(c), h, w, target().lanes


def panel_vectors(pixels: int) -> int:
    """Vectors of a panel's row in planes of so many pixels: three rows and what they are multiplied
    with fit the registers, and little of a plane's last panel is empty."""
    t = target()
    widths = range(4, 7) if t.registers == 32 else range(2, 5)
    return min(widths, key=lambda c: -(-pixels // (c * t.lanes)) * (c + 1))


def panels_shape(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[N][panels][C][pixels] for an N×C×H×W shape."""
    n, c, h, w = shape
    panel = panel_vectors(h * w) * target().lanes
    return n, -(-h * w // panel), blocks(c) * target().lanes, panel


def to_blocked(x: np.ndarray) -> np.ndarray:
    """N×C×H×W to the blocked layout, zeros in the channels past C."""
    n, cb, h, w, lanes = blocked_shape(x.shape)
    padded = np.zeros((n, cb * lanes, h, w), x.dtype)
    padded[:, : x.shape[1]] = x
    return aligned(padded.reshape(n, cb, lanes, h, w).transpose(0, 1, 3, 4, 2))


def from_blocked(x: np.ndarray, shape: Shape) -> np.ndarray:
    """The reverse of `to_blocked`, for a plain tensor of ``shape``."""
    n, cb, h, w, lanes = x.shape
    planes = x.transpose(0, 1, 4, 2, 3).reshape(n, cb * lanes, h, w)
    return np.ascontiguousarray(planes[:, : shape[1]])


def to_panels(x: np.ndarray) -> np.ndarray:
    """N×C×H×W to panels of pixels."""
    n, panels, channels, panel = panels_shape(x.shape)
    padded = np.zeros((n, channels, panels * panel), x.dtype)
    padded[:, : x.shape[1], : x.shape[2] * x.shape[3]] = x.reshape(*x.shape[:2], -1)
    return aligned(padded.reshape(n, channels, panels, panel).transpose(0, 2, 1, 3))


def from_panels(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The reverse of `to_panels`, for a plain tensor of ``shape``."""
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


PLAIN = Layout("plain", lambda shape: shape, aligned, lambda x, shape: x, rank=None)
BLOCKED = Layout("blocked", blocked_shape, to_blocked, from_blocked)
PANELS = Layout("panels", panels_shape, to_panels, from_panels)
