"""Convolution and its transpose, over any number of spatial axes.

Both are a sum over the taps of the kernel, and for one tap all output channels at all pixels are
one matrix product with a strided view of the input. Sums are float64, which is exact for products
of 8-bit integers; the result is cast back.

Letters: N batch, G groups, C input and M output channels (of one group), P output pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.geometry import (
    Axis,
    convolution,
    output_dims,
    place,
    transposed_convolution,
)
from minseg.ops.registry import operator


def pad_spatial(x: np.ndarray, axes: Sequence[Axis], fill: float = 0) -> np.ndarray:
    """``x`` [N, C, *spatial] padded with ``fill`` as far as the windows on it reach."""
    widths = [(a.pad_begin, max(a.reach - a.pad_begin - a.input, 0)) for a in axes]
    return np.pad(x, [(0, 0), (0, 0), *widths], constant_values=fill)


def taps(axes: Sequence[Axis], steps: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Each kernel position with the index of the elements [..., *spatial] that it meets.

    The index takes ``steps`` elements per axis, one stride apart.
    """
    for tap in itertools.product(*(range(a.kernel) for a in axes)):
        starts = [k * a.dilation for k, a in zip(tap, axes, strict=True)]
        yield (
            tap,
            (
                ...,
                *(
                    slice(start, start + (n - 1) * a.stride + 1, a.stride) if n else slice(0, 0)
                    for start, n, a in zip(starts, steps, axes, strict=True)
                ),
            ),
        )


def convolve(x: np.ndarray, w: np.ndarray, axes: Sequence[Axis], group: int = 1) -> np.ndarray:
    """The convolution of ``x`` [N, G*C, *spatial] with ``w`` [G*M, C, *kernel] in float64."""
    batch, outputs = x.shape[0], tuple(a.output for a in axes)
    padded = pad_spatial(x.astype(np.float64), axes)
    kernels = w.astype(np.float64).reshape(group, w.shape[0] // group, *w.shape[1:])
    y = np.zeros((batch, group, w.shape[0] // group, math.prod(outputs)))
    for tap, index in taps(axes, outputs):
        met = padded[index].reshape(batch, group, w.shape[1], y.shape[-1])
        y += kernels[(..., *tap)] @ met
    return y.reshape(batch, w.shape[0], *outputs)


def convolve_transposed(
    x: np.ndarray, w: np.ndarray, axes: Sequence[Axis], group: int = 1
) -> np.ndarray:
    """``x`` [N, G*C, *spatial] spread by ``w`` [G*C, M, *kernel], in float64."""
    batch, channels, *inputs = x.shape
    flat = x.astype(np.float64).reshape(batch, group, channels // group, math.prod(inputs))
    kernels = w.astype(np.float64).reshape(group, channels // group, *w.shape[1:])
    ends = [max((a.input - 1) * a.stride + a.extent, a.pad_begin + a.output) for a in axes]
    full = np.zeros((batch, group, w.shape[1], *ends))
    for tap, index in taps(axes, inputs):
        added = kernels[(..., *tap)].swapaxes(1, 2) @ flat
        full[index] += added.reshape(batch, group, w.shape[1], *inputs)
    kept = tuple(slice(a.pad_begin, a.pad_begin + a.output) for a in axes)
    return full[(..., *kept)].reshape(batch, group * w.shape[1], *(a.output for a in axes))


def _add_bias(y: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    if b is None:
        return y
    if b.shape != y.shape[1:2]:
        raise ValueError(f"the bias has shape {list(b.shape)}; it must be [{y.shape[1]}]")
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
    return TensorType(x.dtype, conv_shape(x, w, **attributes))


@operator("Conv", infer=_infer_conv)
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
    channels = w.shape[1] * group if isinstance(w.shape[1], int) else None
    if not all(isinstance(k, int) for k in w.shape[2:]):
        return TensorType(x.dtype, (x.shape[0], channels, *(None for _ in x.shape[2:])))
    rules = transposed_convolution(x.shape, w.shape, group, **layout)
    return TensorType(x.dtype, (x.shape[0], channels, *output_dims(rules, x.shape[2:])))


@operator("ConvTranspose", infer=_infer_conv_transpose)
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
