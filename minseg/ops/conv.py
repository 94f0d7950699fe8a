"""Convolution and its transpose, over any number of spatial axes.

A tap of the kernel meets, at all output pixels, a strided view of the input. Gathered for all taps
over a strip of rows, these views and the weights make one matrix product; the transpose is the
same product turned round, its result scattered to the views. Sums are float64, exact for products
of 8-bit integers; the result is cast back.

Letters: N batch, G groups, C input and M output channels of one group, T taps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.arguments import checked_shape, one_of, times
from minseg.ops.geometry import (
    AUTO_PADS,
    Axis,
    convolution,
    output_dims,
    place,
    transposed_convolution,
)
from minseg.ops.registry import Trait, operator
from minseg.ops.types import check_vectors

#: Elements worked on at a time: 4 MB of float64, near enough to stay in cache.
STRIP_ELEMENTS = 1 << 19


def pad_spatial(x: np.ndarray, axes: Sequence[Axis], fill: float = 0) -> np.ndarray:
    """``x`` [N, C, *spatial] padded with ``fill`` as far as the windows on it reach."""
    widths = [(a.pad_begin, max(a.reach - a.pad_begin - a.input, 0)) for a in axes]
    checked_shape(
        (*x.shape[:2], *(b + a.input + e for a, (b, e) in zip(axes, widths, strict=True)))
    )
    return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)


def taps(axes: Sequence[Axis], steps: Sequence[int]) -> Iterator[Any]:
    """For each kernel position, in C order, the index of the elements [..., *spatial] it meets.

    The index takes ``steps`` elements per axis, one stride apart.
    """
    for tap in itertools.product(*(range(a.kernel) for a in axes)):
        starts = (k * a.dilation for k, a in zip(tap, axes, strict=True))
        yield (
            ...,
            *(
                slice(start, start + max((n - 1) * a.stride + 1, 0), a.stride)
                for start, n, a in zip(starts, steps, axes, strict=True)
            ),
        )


def _strips(rows: int, row_elements: int) -> Iterator[slice]:
    """Rows in strips of about STRIP_ELEMENTS, at least one row each."""
    step = max(1, STRIP_ELEMENTS // max(row_elements, 1))
    return (slice(first, min(first + step, rows)) for first in range(0, rows, step))


def convolve(x: np.ndarray, w: np.ndarray, axes: Sequence[Axis], group: int = 1) -> np.ndarray:
    """The convolution of ``x`` [N, G*C, *spatial] with ``w`` [G*M, C, *kernel] in float64."""
    n, g, (gm, c), t = len(x), group, w.shape[:2], math.prod(w.shape[2:])
    rows, *rest = (a.output for a in axes)
    padded = pad_spatial(x.astype(np.float64), axes)
    weights = w.astype(np.float64).reshape(g, gm // g, c * t)
    y = np.empty((n, gm, rows, *rest))
    for strip in _strips(rows, n * g * c * t * math.prod(rest)):
        steps = (strip.stop - strip.start, *rest)
        below = padded[:, :, strip.start * axes[0].stride :]
        met = np.empty((n, g * c, t, *steps))
        for k, index in enumerate(taps(axes, steps)):
            met[:, :, k] = below[index]
        y[:, :, strip] = (weights @ met.reshape(n, g, c * t, math.prod(steps))).reshape(
            n, gm, *steps
        )
    return y


def convolve_transposed(
    x: np.ndarray, w: np.ndarray, axes: Sequence[Axis], group: int = 1
) -> np.ndarray:
    """``x`` [N, G*C, *spatial] spread by ``w`` [G*C, M, *kernel], in float64."""
    n, g, (gc, m), t = len(x), group, w.shape[:2], math.prod(w.shape[2:])
    rows, *rest = (a.input for a in axes)
    wide = x.astype(np.float64)
    weights = w.astype(np.float64).reshape(g, gc // g, m * t).swapaxes(1, 2)
    reach = [max((a.input - 1) * a.stride + a.extent, a.pad_begin + a.output) for a in axes]
    y = np.zeros(checked_shape((n, g * m, *reach)))
    for strip in _strips(rows, n * g * m * t * math.prod(rest)):
        steps = (strip.stop - strip.start, *rest)
        below = y[:, :, strip.start * axes[0].stride :]
        spread = weights @ wide[:, :, strip].reshape(n, g, gc // g, math.prod(steps))
        spread = spread.reshape(n, g * m, t, *steps)
        for k, index in enumerate(taps(axes, steps)):
            below[index] += spread[:, :, k]
    kept: Any = (..., *(slice(a.pad_begin, a.pad_begin + a.output) for a in axes))
    return y[kept]


def _add_bias(y: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    if b is None:
        return y
    return y + b.astype(np.float64).reshape(-1, *(1,) * (y.ndim - 2))


def conv_shape(
    x: TensorType, w: TensorType, *, group: int = 1, **layout: Any
) -> tuple[Dim, ...] | None:
    """The shape of a convolution's output, as far as it is known. Raises ValueError."""
    if x.shape is None or w.shape is None:
        return None
    if not all(isinstance(k, int) for k in w.shape[2:]):
        return (x.shape[0], w.shape[0], *(None for _ in x.shape[2:]))
    rules = convolution(x.shape, w.shape, group, **layout)
    return (x.shape[0], w.shape[0], *output_dims(rules, x.shape[2:]))


def _infer_conv(
    x: TensorType, w: TensorType, b: TensorType | None = None, **attributes: Any
) -> TensorType:
    shape = conv_shape(x, w, **attributes)
    check_vectors(w.shape[0] if w.shape else None, B=b)
    return TensorType(x.dtype, shape)


@operator("Conv", infer=_infer_conv, check=one_of("auto_pad", *AUTO_PADS), traits=Trait.WEIGHTED)
def conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """``x`` [N, C, *spatial] with ``w`` [M, C/group, *kernel], plus ``b`` [M]."""
    rules = convolution(x.shape, w.shape, group, kernel_shape, strides, dilations, pads, auto_pad)
    return _add_bias(convolve(x, w, place(rules, x.shape[2:]), group), b).astype(x.dtype)


def _infer_conv_transpose(
    x: TensorType,
    w: TensorType,
    b: TensorType | None = None,
    *,
    group: int = 1,
    **layout: Any,
) -> TensorType:
    if x.shape is None or w.shape is None:
        return TensorType(x.dtype)
    channels = times(w.shape[1], group) if len(w.shape) > 1 else None
    check_vectors(channels, B=b)
    if not all(isinstance(k, int) for k in w.shape[2:]):
        return TensorType(x.dtype, (x.shape[0], channels, *(None for _ in x.shape[2:])))
    rules = transposed_convolution(x.shape, w.shape, group, **layout)
    return TensorType(x.dtype, (x.shape[0], channels, *output_dims(rules, x.shape[2:])))


@operator(
    "ConvTranspose",
    infer=_infer_conv_transpose,
    check=one_of("auto_pad", *AUTO_PADS),
    traits=Trait.WEIGHTED,
)
def conv_transpose(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """``x`` [N, C, *spatial] spread by ``w`` [C, M/group, *kernel], plus ``b`` [M]."""
    rules = transposed_convolution(
        x.shape,
        w.shape,
        group,
        kernel_shape,
        strides,
        dilations,
        pads,
        auto_pad,
        output_padding,
        output_shape,
    )
    y = convolve_transposed(x, w, place(rules, x.shape[2:]), group)
    return _add_bias(y, b).astype(x.dtype)
