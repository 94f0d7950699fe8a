"""Convolutions, pools and resizing, written down from the ONNX specification as loops over pixels.

They call nothing of minseg, compute in float64 (MaxPool: in the input's dtype) and take any number
of spatial axes; everything is NCHW with ONNX's orders: ``pads`` are all begins, then all ends.
They are slow: use shapes of a few hundred elements.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

Ints = Sequence[int]


def windowed_size(
    size: int,
    kernel: int,
    stride: int,
    begin: int,
    end: int,
    dilation: int,
    ceil_mode: bool = False,
) -> int:
    """How many windows lie on an axis; with ``ceil_mode`` the last may stick out at the end."""
    positions = size + begin + end - ((kernel - 1) * dilation + 1)
    if not ceil_mode:
        return positions // stride + 1
    count = math.ceil(positions / stride) + 1
    while (count - 1) * stride >= size + begin:
        count -= 1  # It would start in the padding at the end.
    return count


def conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    group: int = 1,
) -> np.ndarray:
    """Conv: ``x`` [N, C, *spatial], ``w`` [M, C/group, *kernel], ``b`` [M]."""
    spatial, kernel, strides, pads, dilations = _layout(x, w.shape[2:], strides, pads, dilations)
    rank = len(spatial)
    sizes = [
        windowed_size(spatial[a], kernel[a], strides[a], pads[a], pads[rank + a], dilations[a])
        for a in range(rank)
    ]
    x, w = x.astype(np.float64), w.astype(np.float64)
    y = np.zeros((x.shape[0], w.shape[0], *sizes))
    if b is not None:
        y += b.astype(np.float64).reshape(-1, *[1] * rank)
    inputs, outputs = w.shape[1], w.shape[0] // group
    for n, g, *place in np.ndindex(x.shape[0], group, *sizes):
        for tap in product(*map(range, kernel)):
            at = [
                o * s + k * d - p
                for o, s, k, d, p in zip(place, strides, tap, dilations, pads, strict=False)
            ]
            if all(0 <= i < size for i, size in zip(at, spatial, strict=True)):
                pixel = x[(n, slice(g * inputs, (g + 1) * inputs), *at)]
                weights = w[(slice(g * outputs, (g + 1) * outputs), slice(None), *tap)]
                y[(n, slice(g * outputs, (g + 1) * outputs), *place)] += weights @ pixel
    return y


#: The name by which tests of two-dimensional kernels know it.
conv2d = conv


def conv_transpose(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    group: int = 1,
    output_padding: Ints | None = None,
) -> np.ndarray:
    """ConvTranspose: ``x`` [N, C, *spatial], ``w`` [C, M/group, *kernel], ``b`` [M]."""
    spatial, kernel, strides, pads, dilations = _layout(x, w.shape[2:], strides, pads, dilations)
    rank = len(spatial)
    extra = output_padding or [0] * rank
    sizes = [
        strides[a] * (spatial[a] - 1)
        + extra[a]
        + (kernel[a] - 1) * dilations[a]
        + 1
        - pads[a]
        - pads[rank + a]
        for a in range(rank)
    ]
    x, w = x.astype(np.float64), w.astype(np.float64)
    y = np.zeros((x.shape[0], group * w.shape[1], *sizes))
    if b is not None:
        y += b.astype(np.float64).reshape(-1, *[1] * rank)
    for n, c, *place in np.ndindex(*x.shape):
        first = c // (x.shape[1] // group) * w.shape[1]
        for tap in product(*map(range, kernel)):
            at = [
                i * s + k * d - p
                for i, s, k, d, p in zip(place, strides, tap, dilations, pads, strict=False)
            ]
            if all(0 <= o < size for o, size in zip(at, sizes, strict=True)):
                for m in range(w.shape[1]):
                    y[(n, first + m, *at)] += x[(n, c, *place)] * w[(c, m, *tap)]
    return y


def max_pool(
    x: np.ndarray,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """MaxPool: the values and their indices in the flattened ``x`` (int64, row major)."""
    values: list[object] = []
    indices: list[int] = []
    shape, windows = _windows(x, kernel, strides, pads, dilations, ceil_mode)
    for n, c, met, _ in windows:
        best = met[0]
        for at in met[1:]:
            if x[(n, c, *at)] > x[(n, c, *best)]:
                best = at
        values.append(x[(n, c, *best)])
        indices.append(int(np.ravel_multi_index((n, c, *best), x.shape)))
    return np.array(values, x.dtype).reshape(shape), np.array(indices, np.int64).reshape(shape)


def average_pool(
    x: np.ndarray,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> np.ndarray:
    """AveragePool; ``count_include_pad`` counts declared padding, never what lies beyond it."""
    shape, windows = _windows(x, kernel, strides, pads, dilations, ceil_mode)
    means = [
        sum(float(x[(n, c, *at)]) for at in met)
        / (len(met) + (padding if count_include_pad else 0))
        for n, c, met, padding in windows
    ]
    return np.array(means).reshape(shape)


def lp_pool(
    x: np.ndarray,
    kernel: Ints,
    strides: Ints | None = None,
    pads: Ints | None = None,
    dilations: Ints | None = None,
    ceil_mode: bool = False,
    p: int = 2,
) -> np.ndarray:
    """LpPool: the p-norm of each window."""
    shape, windows = _windows(x, kernel, strides, pads, dilations, ceil_mode)
    norms = [
        sum(abs(float(x[(n, c, *at)])) ** p for at in met) ** (1 / p) for n, c, met, _ in windows
    ]
    return np.array(norms).reshape(shape)


def resize(
    x: np.ndarray,
    sizes: Ints,
    scales: Sequence[float],
    mode: str = "nearest",
    coordinates: str = "half_pixel",
    rounding: str = "round_prefer_floor",
    antialias: bool = False,
    cubic_coeff_a: float = -0.75,
    exclude_outside: bool = False,
    roi: Sequence[float] | None = None,
    extrapolation_value: float = 0.0,
) -> np.ndarray:
    """Resize to ``sizes``, both per axis of ``x``; ``scales`` need not be sizes / input sizes."""
    rank = x.ndim
    roi = roi or [0.0] * rank + [1.0] * rank
    taps: list[list[list[tuple[int, float]] | None]] = []
    for a in range(rank):
        axis: list[list[tuple[int, float]] | None] = []
        for o in range(sizes[a]):
            at = source_coordinate(
                o, x.shape[a], sizes[a], scales[a], coordinates, roi[a], roi[rank + a]
            )
            if coordinates == "tf_crop_and_resize" and not 0 <= at <= x.shape[a] - 1:
                axis.append(None)
            elif mode == "nearest":
                axis.append([(min(max(rounded(at, rounding), 0), x.shape[a] - 1), 1.0)])
            else:
                wide = max(1.0, 1 / scales[a]) if antialias else 1.0
                axis.append(
                    interpolating(at, x.shape[a], mode, wide, cubic_coeff_a, exclude_outside)
                )
        taps.append(axis)
    y = np.zeros(tuple(sizes))
    for place in np.ndindex(*y.shape):
        per_axis = [taps[a][place[a]] for a in range(rank)]
        known = [t for t in per_axis if t is not None]
        y[place] = extrapolation_value
        if len(known) == rank:
            y[place] = sum(
                float(x[tuple(i for i, _ in chosen)]) * math.prod(weight for _, weight in chosen)
                for chosen in product(*known)
            )
    return y


def source_coordinate(
    o: int, size: int, resized: int, scale: float, mode: str, start: float, end: float
) -> float:
    """coordinate_transformation_mode: where on the input output element ``o`` lies."""
    length = scale * size
    if mode == "half_pixel":
        return (o + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - resized / length) + (o + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (o + 0.5) / scale - 0.5 if resized > 1 else 0.0
    if mode == "align_corners":
        return o * (size - 1) / (resized - 1) if resized != 1 else 0.0
    if mode == "asymmetric":
        return o / scale
    if mode == "tf_half_pixel_for_nn":
        return (o + 0.5) / scale
    assert mode == "tf_crop_and_resize"
    if resized == 1:
        return 0.5 * (start + end) * (size - 1)
    return start * (size - 1) + o * (end - start) * (size - 1) / (resized - 1)


def rounded(at: float, rounding: str) -> int:
    """nearest_mode."""
    below, part = math.floor(at), at - math.floor(at)
    up: dict[str, bool] = {
        "round_prefer_floor": part > 0.5,
        "round_prefer_ceil": part >= 0.5,
        "floor": False,
        "ceil": part > 0,
    }
    return below + up[rounding]


def interpolating(
    at: float, size: int, mode: str, wide: float, a: float, exclude_outside: bool
) -> list[tuple[int, float]]:
    """The pixels, and their weights, of the filter around ``at``, ``wide`` times as wide."""
    curve: Callable[[float], float] = triangle if mode == "linear" else lambda d: keys(d, a)
    reach = math.ceil(2 * wide) + 1
    weighed = [
        (i, curve(abs(i - at) / wide))
        for i in range(math.floor(at) - reach, math.floor(at) + reach + 1)
    ]
    if exclude_outside:
        weighed = [(i, v) for i, v in weighed if 0 <= i < size]
    total = sum(v for _, v in weighed) if exclude_outside or wide > 1 else 1.0
    return [(min(max(i, 0), size - 1), v / total) for i, v in weighed if v]


def triangle(distance: float) -> float:
    return max(1 - distance, 0.0)


def keys(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel, 1981."""
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return 0.0


def _layout(
    x: np.ndarray,
    kernel: Ints,
    strides: Ints | None,
    pads: Ints | None,
    dilations: Ints | None,
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    ones = [1] * len(kernel)
    return (
        x.shape[2:],
        kernel,
        ones if strides is None else strides,
        [0] * 2 * len(kernel) if pads is None else pads,
        ones if dilations is None else dilations,
    )


Window = tuple[int, int, list[list[int]], int]


def _windows(
    x: np.ndarray,
    kernel: Ints,
    strides: Ints | None,
    pads: Ints | None,
    dilations: Ints | None,
    ceil_mode: bool,
) -> tuple[tuple[int, ...], list[Window]]:
    """The output's shape, and per output: N, C, the input places met, how much declared padding."""
    spatial, kernel, strides, pads, dilations = _layout(x, kernel, strides, pads, dilations)
    rank = len(spatial)
    sizes = [
        windowed_size(
            spatial[a], kernel[a], strides[a], pads[a], pads[rank + a], dilations[a], ceil_mode
        )
        for a in range(rank)
    ]
    windows: list[Window] = []
    for n, c, *place in np.ndindex(*x.shape[:2], *sizes):
        met: list[list[int]] = []
        padding = 0
        for tap in product(*map(range, kernel)):
            at = [
                o * s + k * d - p
                for o, s, k, d, p in zip(place, strides, tap, dilations, pads, strict=False)
            ]
            if all(0 <= i < size for i, size in zip(at, spatial, strict=True)):
                met.append(at)
            elif all(at[a] < spatial[a] + pads[rank + a] for a in range(rank)):
                padding += 1
        windows.append((n, c, met, padding))
    return (*x.shape[:2], *sizes), windows
