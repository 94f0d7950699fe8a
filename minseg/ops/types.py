"""Shape rules that many operators share (see minseg.ops.registry for how they are called)."""

from __future__ import annotations

from typing import Any

import numpy as np

from minseg.graph.model import Dim, TensorType

UNKNOWN = TensorType(None, None)


def same(x: TensorType, *_: Any, **__: Any) -> TensorType:
    """The output is typed as the first input."""
    return TensorType(x.dtype, x.shape)


def broadcast_dims(a: Dim, b: Dim) -> Dim:
    """One dimension under NumPy's rule; an unknown one next to a size above 1 takes that size."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    for one, other in ((a, b), (b, a)):
        if isinstance(one, int) and not isinstance(other, int):
            return one
    if isinstance(a, int) and isinstance(b, int):
        raise ValueError(f"sizes {a} and {b} do not broadcast")
    return None


def broadcast_shapes(*shapes: tuple[Dim, ...] | None) -> tuple[Dim, ...] | None:
    """NumPy's broadcasting on shapes that may be unknown in part."""
    result: tuple[Dim, ...] = ()
    for shape in shapes:
        if shape is None:
            return None
        rank = max(len(result), len(shape))
        left = (1,) * (rank - len(result)) + result
        right = (1,) * (rank - len(shape)) + shape
        result = tuple(broadcast_dims(a, b) for a, b in zip(left, right, strict=True))
    return result


def broadcast(*inputs: TensorType | None, **_: Any) -> TensorType:
    """Element-wise on any number of inputs of one dtype."""
    given = [x for x in inputs if x is not None]
    return TensorType(given[0].dtype, broadcast_shapes(*(x.shape for x in given)))


def broadcast_bool(*inputs: TensorType | None, **attributes: Any) -> TensorType:
    """Element-wise with a boolean result."""
    return TensorType(np.dtype(bool), broadcast(*inputs, **attributes).shape)
