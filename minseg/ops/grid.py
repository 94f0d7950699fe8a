"""GridSample and AffineGrid: a spatial transformer's sampling of an image at given places.

Jaderberg et al., Spatial Transformer Networks, 2015 (https://arxiv.org/abs/1506.02025).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.arguments import checked_dims, checked_shape
from minseg.ops.registry import operator
from minseg.ops.resize import cubic_kernel
from minseg.ops.types import differ

#: Names that opset 16 had for modes.
_OLDER_NAMES = {"bilinear": "linear", "bicubic": "cubic"}
_CUBIC_COEFF_A = -0.75


def _infer_grid_sample(
    x: TensorType,
    grid: TensorType,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> TensorType:
    if _OLDER_NAMES.get(mode, mode) not in ("nearest", "linear", "cubic"):
        raise ValueError(f"mode is '{mode}'; it must be nearest, linear or cubic")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding_mode is '{padding_mode}'; it must be zeros, border, reflection")
    if x.shape is None or grid.shape is None:
        return TensorType(x.dtype)
    if len(x.shape) != len(grid.shape) or len(x.shape) < 3:
        raise ValueError(f"a grid of shape {list(grid.shape)} does not fit {list(x.shape)}")
    if differ(x.shape[0], grid.shape[0]):
        raise ValueError(f"a grid for {grid.shape[0]} pictures does not fit {x.shape[0]}")
    if differ(grid.shape[-1], len(x.shape) - 2):
        raise ValueError(
            f"a grid of shape {list(grid.shape)} must hold {len(x.shape) - 2} coordinates a point"
        )
    return TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))


@operator("GridSample", since=16, infer=_infer_grid_sample)
def grid_sample(
    x: np.ndarray,
    grid: np.ndarray,
    *,
    align_corners: int = 0,
    mode: str = "linear",
    padding_mode: str = "zeros",
) -> np.ndarray:
    """``x`` [N, C, *spatial] sampled at ``grid`` [N, *output, rank]: [N, C, *output].

    The grid's coordinates go from -1 to 1 over the image, the innermost axis first. Interpolation
    is float64; the coordinates of "nearest", which rounds half to even, are float32.
    """
    mode = _OLDER_NAMES.get(mode, mode)
    batch, channels, *spatial = x.shape
    points = grid.astype(np.float32 if mode == "nearest" else np.float64)
    points = points.reshape(batch, math.prod(grid.shape[1:-1]), len(spatial))
    per_axis = [
        _axis_taps(points[..., -1 - i], size, bool(align_corners), mode, padding_mode)
        for i, size in enumerate(spatial)
    ]
    flat = x.reshape(batch, channels, math.prod(spatial))
    y = np.zeros((batch, channels, points.shape[1]), np.float64)
    for taps in itertools.product(*per_axis):
        index = np.zeros(points.shape[:2], np.intp)
        weight = np.ones(points.shape[:2])
        for (indices, weights), size in zip(taps, spatial, strict=True):
            index, weight = index * size + indices, weight * weights
        met = np.take_along_axis(flat, index[:, None], 2).astype(np.float64)
        y += np.where(weight[:, None] == 0, 0, met * weight[:, None])
    return y.reshape(batch, channels, *grid.shape[1:-1]).astype(x.dtype)


def _axis_taps(
    v: np.ndarray, size: int, align_corners: bool, mode: str, padding_mode: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Indices and weights of the elements that coordinates ``v`` in [-1, 1] meet on one axis."""
    if align_corners:
        at, low, high = (v + 1) / 2 * (size - 1), 0.0, size - 1.0
    else:
        at, low, high = ((v + 1) * size - 1) / 2, -0.5, size - 0.5
    if mode == "nearest":
        at = np.rint(at)
    if padding_mode == "reflection":
        at = _reflect(at, low, high)
    if mode == "nearest":
        taps = [(at, np.ones(at.shape))]
    else:
        reach = 2 if mode == "cubic" else 1
        near = np.floor(at) + np.arange(1 - reach, reach + 1).reshape(-1, 1, 1)
        distances = np.abs(near - at)
        weights = cubic_kernel(distances, _CUBIC_COEFF_A) if mode == "cubic" else 1 - distances
        taps = list(zip(near, weights, strict=True))
    return [_inside(indices, w, size, (low, high), padding_mode) for indices, w in taps]


def _inside(
    indices: np.ndarray, weights: np.ndarray, size: int, border: Any, padding_mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """Indices brought into the image, with weight 0 where padding is zero."""
    if padding_mode == "zeros":
        weights = np.where((indices < 0) | (indices > size - 1), 0, weights)
    elif padding_mode == "reflection":
        indices = np.trunc(_reflect(indices, *border))
    return np.clip(np.nan_to_num(indices), 0, size - 1).astype(np.intp), weights


def _reflect(at: np.ndarray, low: float, high: float) -> np.ndarray:
    """Coordinates mirrored at ``low`` and ``high`` until they lie between them."""
    if high == low:
        return np.full_like(at, low)
    span = high - low
    distance = np.mod(at - low, 2 * span)
    mirrored = low + np.minimum(distance, 2 * span - distance)
    return np.where((at < low) | (at > high), mirrored, at)


def _infer_affine_grid(
    theta: TensorType, size: TensorType, *, align_corners: int = 0
) -> TensorType:
    if size.value is not None:
        n, _, *spatial = (int(d) for d in size.value)
        return TensorType(theta.dtype, checked_dims((n, *spatial, len(spatial))))
    if size.shape is None or not isinstance(size.shape[0], int):
        return TensorType(theta.dtype)
    rank = size.shape[0] - 2
    return TensorType(theta.dtype, (None, *(None,) * rank, rank))


@operator("AffineGrid", since=20, infer=_infer_affine_grid)
def affine_grid(theta: np.ndarray, size: np.ndarray, *, align_corners: int = 0) -> np.ndarray:
    """The grid [N, *spatial, rank] of an image of ``size`` [N, C, *spatial] mapped by ``theta``.

    ``theta`` [N, rank, rank+1] maps homogeneous coordinates, the innermost axis first.
    """
    n, _, *spatial = (int(d) for d in size)
    rank = len(spatial)
    checked_shape((n, *spatial, rank))
    if theta.shape != (n, rank, rank + 1):
        raise ValueError(f"theta has shape {theta.shape}; it must be {(n, rank, rank + 1)}")
    centers = [_centers(d, bool(align_corners)) for d in spatial]
    positions = np.stack([*reversed(np.meshgrid(*centers, indexing="ij")), np.ones(spatial)], -1)
    grid = positions.reshape(-1, rank + 1) @ theta.astype(np.float64).swapaxes(1, 2)
    return grid.reshape(n, *spatial, rank).astype(theta.dtype)


def _centers(size: int, align_corners: bool) -> np.ndarray:
    """The pixel centers of an axis that spans -1 to 1."""
    if align_corners:
        return np.linspace(-1, 1, size) if size > 1 else np.zeros(size)
    return (2 * np.arange(size) + 1) / max(size, 1) - 1
