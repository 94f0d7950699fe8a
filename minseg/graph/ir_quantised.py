"""Quantised weights: from OpenVINO's layers to DequantizeLinear, also in another shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minseg.graph.ir_translate import Call, Integers


def dequantize(call: Call, weights: Integers) -> str | None:
    """DequantizeLinear on ``weights``; None unless their scale varies along one axis at most."""
    shape = weights.values.shape
    assert weights.scale is not None
    zero_point = weights.zero_point
    if zero_point is None:
        zero_point = np.zeros((), weights.values.dtype)
    scale, zero_point = np.broadcast_arrays(weights.scale, zero_point)
    if scale.ndim > len(shape):
        return None
    spread = (1,) * (len(shape) - scale.ndim) + scale.shape
    axes = [axis for axis, size in enumerate(spread) if size > 1]
    if len(axes) > 1 or any(shape[axis] != spread[axis] for axis in axes):
        return None
    parameters = (a.reshape(-1) if axes else a.reshape(()) for a in (scale, zero_point))
    names = [call.keep(a) for a in (weights.values, *parameters)]
    result = call.op("DequantizeLinear", *names, axis=axes[0] if axes else 0)
    call.draft.integers[result] = weights
    return result


def reshape_weights(call: Call, index: int, shape: Sequence[int]) -> str:
    """An input of the layer in another shape: constants and quantised weights at once."""
    value, integers = call.known(index), call.draft.integers.get(call.inputs[index])
    if value is not None:
        return call.keep(value.reshape(shape))
    if integers is not None and integers.scale is not None:
        result = dequantize(call, _reshaped(integers, shape))
        if result is not None:
            return result
    return call.op("Reshape", call.inputs[index], call.ints(*shape))


def _reshaped(weights: Integers, shape: Sequence[int]) -> Integers:
    def parameter(array: np.ndarray | None) -> np.ndarray | None:
        if array is None:
            return None
        return _without_repeats(np.broadcast_to(array, weights.values.shape).reshape(shape))

    return Integers(
        weights.values.reshape(shape), parameter(weights.zero_point), parameter(weights.scale)
    )


def _without_repeats(array: np.ndarray) -> np.ndarray:
    """The smallest array that broadcasts to ``array``."""
    for axis in range(array.ndim):
        first = array.take([0], axis)
        if (array == first).all():
            array = first
    return array
