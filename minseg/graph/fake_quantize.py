"""FakeQuantize of the domain org.openvinotoolkit as QuantizeLinear and DequantizeLinear.

Where the input and the output range are one grid of small integers, the two say the same, but for
values in the very middle between two steps: both take the even one, which FakeQuantize counts from
the start of the range and QuantizeLinear from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minseg.graph.domains import OPENVINO
from minseg.graph.model import Node, TensorType

#: How far from an integer an end of a range may be, in steps, to count as one: float32 gives the
#: ends of a range of 256 steps no better.
_OFF_GRID = 256 * 2.0**-22


@dataclass(frozen=True)
class Pair:
    """Scales (float32) of a QuantizeLinear and of a DequantizeLinear, and the zero point of both
    (int8 or uint8): [] or one for each slice of ``axis``. ``limits`` are the first and the last
    level, where the type has more.
    """

    scale: np.ndarray
    output_scale: np.ndarray
    zero_point: np.ndarray
    axis: int | None
    limits: tuple[int, int] | None


@dataclass(frozen=True)
class _Steps:
    """Steps of a range, each scalar or one for each slice of ``axis``: step 0 is at 0."""

    scale: np.ndarray
    least: np.ndarray
    axis: int | None


def is_fake_quantize(node: Node) -> bool:
    return (node.domain, node.op) == (OPENVINO, "FakeQuantize")


def pair_of(levels: int, x: TensorType, ends: Sequence[np.ndarray]) -> Pair | None:
    """What says the same as FakeQuantize of ``x``, None where nothing does.

    ``ends`` are the low and the high end of the input range, then of the output range.
    """
    if levels > 256 or x.dtype != np.float32:
        return None
    low, high, output_low, output_high = np.broadcast_arrays(*(e.astype(float) for e in ends))
    given = _grid(low, high, levels, x)
    result = _grid(output_low, output_high, levels, x)
    if given is None or result is None or (given.least != result.least).any():
        return None
    zero_point = _zero_point(given.least, levels)
    if zero_point is None:
        return None
    inside = x.value is not None and bool(np.all((low <= x.value) & (x.value <= high)))
    first = int(given.least.flat[0]) + int(zero_point.flat[0])
    limits = None if levels == 256 or inside else (first, first + levels - 1)
    scales = (given.scale.astype(np.float32), result.scale.astype(np.float32))
    return Pair(*scales, zero_point, given.axis, limits)


def _grid(low: np.ndarray, high: np.ndarray, levels: int, x: TensorType) -> _Steps | None:
    """The range from ``low`` to ``high`` as whole multiples of a scale, or None if it is not."""
    if not np.isfinite(low).all() or not np.isfinite(high).all() or (low >= high).any():
        return None
    axis = _axis(low.shape, x) if low.size > 1 else None
    if low.size > 1 and axis is None:
        return None
    shape = () if axis is None else (-1,)
    scale = ((high - low) / (levels - 1)).reshape(shape)
    exact = low.reshape(shape) / scale
    least = np.asarray(np.rint(exact))
    return _Steps(scale, least, axis) if (np.abs(exact - least) <= _OFF_GRID).all() else None


def _axis(shape: tuple[int, ...], x: TensorType) -> int | None:
    """The axis of ``x`` along which a parameter of this shape varies, if it is a single one."""
    if x.shape is None or len(shape) > len(x.shape):
        return None
    shift = len(x.shape) - len(shape)
    axes = [i for i, size in enumerate(shape) if size > 1]
    if len(axes) != 1 or x.shape[axes[0] + shift] != shape[axes[0]]:
        return None
    return axes[0] + shift


def _zero_point(least: np.ndarray, levels: int) -> np.ndarray | None:
    """0 as int8 where all steps fit, else what moves step ``least`` to 0 of uint8, or None."""
    one = (least == least.flat[0]).all()
    if one and least.flat[0] >= -128 and least.flat[0] + levels - 1 <= 127:
        return np.zeros(least.shape, np.int8)
    if (least > 0).any() or (least < -255).any():
        return None
    return np.asarray(-least, np.uint8)
