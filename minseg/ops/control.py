"""Control flow: the branch that is not taken is not run."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minseg.graph.model import Dim, TensorType
from minseg.ops.registry import operator


def _branches_type(
    cond: TensorType,
    *,
    then_branch: Callable[[], tuple[TensorType, ...]],
    else_branch: Callable[[], tuple[TensorType, ...]],
) -> tuple[TensorType, ...]:
    if cond.value is not None:
        return then_branch() if cond.value.item() else else_branch()
    return tuple(_common(a, b) for a, b in zip(then_branch(), else_branch(), strict=True))


def _common(a: TensorType, b: TensorType) -> TensorType:
    """What is true of both types."""
    dtype = a.dtype if a.dtype == b.dtype else None
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(dtype)
    shape: tuple[Dim, ...] = tuple(
        d if d == e else None for d, e in zip(a.shape, b.shape, strict=True)
    )
    return TensorType(dtype, shape)


@operator("If", infer=_branches_type)
def if_(
    cond: np.ndarray,
    *,
    then_branch: Callable[[], tuple[np.ndarray, ...]],
    else_branch: Callable[[], tuple[np.ndarray, ...]],
) -> tuple[np.ndarray, ...]:
    """The outputs of ``then_branch`` where ``cond``, one boolean, is true, else ``else_branch``."""
    return then_branch() if cond.item() else else_branch()
