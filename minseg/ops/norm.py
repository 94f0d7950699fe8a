"""Normalizations. All are computed in float64 and cast back once at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minseg.graph.model import Dim, Node, TensorType
from minseg.ops.arguments import normalize_axis
from minseg.ops.dtypes import dtype_of, element_types
from minseg.ops.registry import operator
from minseg.ops.types import check_fit, check_shapes, check_vectors, same


def _per_channel(v: np.ndarray, rank: int) -> np.ndarray:
    """A vector [C] shaped to broadcast over [N, C, *spatial]."""
    return v.astype(np.float64).reshape(-1, *(1,) * (rank - 2))


def _moments(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population variance over ``axes``, kept as axes of size 1."""
    return x.mean(axes, keepdims=True), x.var(axes, keepdims=True)


def _scale_and_shift(normalized: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    rank = normalized.ndim
    return normalized * _per_channel(scale, rank) + _per_channel(bias, rank)


def _batch_normalize(x: np.ndarray, parameters: Sequence[np.ndarray], epsilon: float) -> np.ndarray:
    """``x`` normalized by parameters scale, B, mean and var, each of shape [C] or [C, *spatial]."""
    scale, b, mean, var = (
        v.astype(np.float64).reshape(v.shape + (1,) * (x.ndim - 1 - v.ndim)) for v in parameters
    )
    return ((x - mean) / np.sqrt(var + epsilon) * scale + b).astype(x.dtype)


def _check_inference(node: Node) -> str | None:
    return "minseg does not train" if any(node.outputs[1:]) else None


def _infer_batch_normalization_7(
    x: TensorType,
    scale: TensorType,
    b: TensorType,
    mean: TensorType,
    var: TensorType,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
) -> TensorType:
    if spatial:
        check_vectors(_channels(x), scale=scale, B=b, mean=mean, var=var)
    elif x.shape is not None:
        check_shapes(x.shape[1:], scale=scale, B=b, mean=mean, var=var)
    return same(x)


def _channels(x: TensorType) -> Dim:
    """C of [N, C, *spatial]; of [N], which counts as [N, 1], one."""
    if x.shape is None:
        return None
    return x.shape[1] if len(x.shape) > 1 else 1


@operator("BatchNormalization", since=7, infer=_infer_batch_normalization_7, check=_check_inference)
def batch_normalization_7(
    x: np.ndarray,
    scale: np.ndarray,
    b: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    spatial: int = 1,
) -> np.ndarray:
    """Inference only, as a node with one output asks for.

    The parameters have shape [C], or [C, *spatial] with ``spatial`` 0.
    """
    return _batch_normalize(x, (scale, b, mean, var), epsilon)


def _infer_batch_normalization(
    x: TensorType,
    scale: TensorType,
    b: TensorType,
    mean: TensorType,
    var: TensorType,
    *,
    training_mode: int = 0,
    **_: Any,
) -> tuple[TensorType, ...]:
    check_vectors(_channels(x), scale=scale, B=b, input_mean=mean, input_var=var)
    return (same(x), same(mean), same(var)) if training_mode else (same(x),)


@operator("BatchNormalization", since=14, infer=_infer_batch_normalization)
def batch_normalization(
    x: np.ndarray,
    scale: np.ndarray,
    b: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[np.ndarray, ...]:
    """``x`` [N, C, *spatial] with per-channel parameters [C].

    With ``training_mode`` the batch's own mean and variance normalize it, and the running ones
    are returned as second and third output.
    """
    if not training_mode:
        return (_batch_normalize(x, (scale, b, mean, var), epsilon),)
    axes = (0, *range(2, x.ndim))
    wide = x.astype(np.float64)
    current = wide.mean(axes), wide.var(axes)
    y = _batch_normalize(x, (scale, b, *current), epsilon)
    running = [
        (old * momentum + new * (1 - momentum)).astype(old.dtype)
        for old, new in zip((mean, var), current, strict=True)
    ]
    return y, *running


def _infer_instance_normalization(
    x: TensorType, scale: TensorType, b: TensorType, *, epsilon: float = 1e-5
) -> TensorType:
    if x.shape is not None and len(x.shape) < 2:
        raise ValueError(f"an input [N, C, *spatial] is needed; its shape is {list(x.shape)}")
    check_vectors(_channels(x), scale=scale, B=b)
    return same(x)


@operator("InstanceNormalization", since=6, infer=_infer_instance_normalization)
def instance_normalization(
    x: np.ndarray, scale: np.ndarray, b: np.ndarray, *, epsilon: float = 1e-5
) -> np.ndarray:
    """Each channel of each image of ``x`` [N, C, *spatial] on its own; parameters [C]."""
    wide = x.astype(np.float64)
    mean, var = _moments(wide, tuple(range(2, x.ndim)))
    return _scale_and_shift((wide - mean) / np.sqrt(var + epsilon), scale, b).astype(x.dtype)


def _check_groups(x: TensorType, num_groups: int) -> None:
    if x.shape is None:
        return
    C = x.shape[1] if len(x.shape) > 1 else 1
    if num_groups < 1 or len(x.shape) < 2 or (isinstance(C, int) and C % num_groups):
        raise ValueError(f"{num_groups} groups cannot share the channels of shape {list(x.shape)}")


def _infer_group_normalization_18(
    x: TensorType,
    scale: TensorType,
    bias: TensorType,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
) -> TensorType:
    _check_groups(x, num_groups)
    check_vectors(num_groups, scale=scale, bias=bias)
    return same(x)


def _infer_group_normalization(
    x: TensorType,
    scale: TensorType,
    bias: TensorType,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> TensorType:
    _check_groups(x, num_groups)
    check_vectors(_channels(x), scale=scale, bias=bias)
    return same(x)


def _group_normalize(x: np.ndarray, num_groups: int, epsilon: float) -> np.ndarray:
    groups = x.astype(np.float64).reshape(x.shape[0], num_groups, -1)
    mean, var = _moments(groups, (2,))
    return ((groups - mean) / np.sqrt(var + epsilon)).reshape(x.shape)


@operator("GroupNormalization", since=18, infer=_infer_group_normalization_18)
def group_normalization_18(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
) -> np.ndarray:
    """``x`` [N, C, *spatial] normalized over groups of channels; parameters [num_groups]."""
    normalized = _group_normalize(x, num_groups, epsilon)
    members = x.shape[1] // num_groups
    return _scale_and_shift(normalized, np.repeat(scale, members), np.repeat(bias, members)).astype(
        x.dtype
    )


@operator(
    "GroupNormalization",
    since=21,
    infer=_infer_group_normalization,
    check=element_types("stash_type"),
)
def group_normalization(
    x: np.ndarray,
    scale: np.ndarray,
    bias: np.ndarray,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> np.ndarray:
    """``x`` [N, C, *spatial] normalized over groups of channels; parameters [C]."""
    return _scale_and_shift(_group_normalize(x, num_groups, epsilon), scale, bias).astype(x.dtype)


def _axes_from(axis: int, rank: int) -> tuple[int, ...]:
    """``axis`` and all axes behind it."""
    return tuple(range(normalize_axis(axis, rank), rank))


def _infer_layer_normalization(
    x: TensorType,
    scale: TensorType,
    b: TensorType | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[TensorType, TensorType, TensorType]:
    stash = dtype_of(stash_type)
    check_fit(x.shape, Scale=scale, B=b)
    if x.shape is None:
        return same(x), TensorType(stash), TensorType(stash)
    reduced = _axes_from(axis, len(x.shape))
    moment = TensorType(stash, (*x.shape[: reduced[0]], *(1 for _ in reduced)))
    return same(x), moment, moment


@operator(
    "LayerNormalization",
    since=17,
    infer=_infer_layer_normalization,
    check=element_types("stash_type"),
)
def layer_normalization(
    x: np.ndarray,
    scale: np.ndarray,
    b: np.ndarray | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``x`` normalized over ``axis`` and those behind it, the mean and 1 / standard deviation."""
    stash = dtype_of(stash_type)
    wide = x.astype(np.float64)
    mean, var = _moments(wide, _axes_from(axis, x.ndim))
    inverse = 1 / np.sqrt(var + epsilon)
    y = (wide - mean) * inverse * scale.astype(np.float64)
    if b is not None:
        y = y + b.astype(np.float64)
    return y.astype(x.dtype), mean.astype(stash), inverse.astype(stash)


def _infer_rms_normalization(
    x: TensorType,
    scale: TensorType,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> TensorType:
    check_fit(x.shape, scale=scale)
    if x.shape is not None:
        normalize_axis(axis, len(x.shape))
    return same(x)


@operator(
    "RMSNormalization",
    since=23,
    infer=_infer_rms_normalization,
    check=element_types("stash_type"),
)
def rms_normalization(
    x: np.ndarray,
    scale: np.ndarray,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> np.ndarray:
    """``x`` divided by its root mean square over ``axis`` and those behind it."""
    wide = x.astype(np.float64)
    mean_square = np.square(wide).mean(_axes_from(axis, x.ndim), keepdims=True)
    return (wide / np.sqrt(mean_square + epsilon) * scale.astype(np.float64)).astype(x.dtype)


def _infer_lp_normalization(x: TensorType, *, axis: int = -1, p: int = 2) -> TensorType:
    if p not in (1, 2):
        raise ValueError(f"p is {p}; it must be 1 or 2")
    if x.shape is not None:
        normalize_axis(axis, len(x.shape))
    return same(x)


@operator("LpNormalization", infer=_infer_lp_normalization)
def lp_normalization(x: np.ndarray, *, axis: int = -1, p: int = 2) -> np.ndarray:
    """``x`` divided by its p-norm along ``axis``, zero where the norm is zero."""
    wide = x.astype(np.float64)
    norm = (np.abs(wide) ** p).sum(axis, keepdims=True) ** (1 / p)
    return np.where(norm == 0, 0, wide / norm).astype(x.dtype)


@operator("LRN", infer=same)
def lrn(
    x: np.ndarray, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> np.ndarray:
    """``x`` [N, C, *spatial] divided by the energy of ``size`` neighbouring channels.

    Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks, 2012.
    """
    wide = x.astype(np.float64)
    squares = np.square(wide)
    energy = np.zeros_like(squares)
    channels = x.shape[1]
    for c in range(channels):
        first, last = c - (size - 1) // 2, c + math.ceil((size - 1) / 2)
        energy[:, c] = squares[:, max(first, 0) : min(last, channels - 1) + 1].sum(1)
    return (wide / (bias + alpha / size * energy) ** beta).astype(x.dtype)


@operator("MeanVarianceNormalization", since=9, infer=same)
def mean_variance_normalization(x: np.ndarray, *, axes: Sequence[int] = (0, 2, 3)) -> np.ndarray:
    """``x`` with mean 0 and variance 1 over ``axes``."""
    wide = x.astype(np.float64)
    mean, var = _moments(wide, tuple(axes))
    return ((wide - mean) / (np.sqrt(var) + 1e-9)).astype(x.dtype)
