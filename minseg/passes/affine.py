"""Affine maps per channel (normalisations, scales, biases) folded into convolutions.

A map y[c] = a[c] * x[c] + b[c] *after* a convolution scales its filters:
    a * (W * x + bias) + b = (a W) * x + (a bias + b).
*Before* a convolution it scales what each filter reads, W * (a x + b) = (W a) * x + sum(W b),
where the shift b is only seen as a sum if no window reaches into padding, which b does not reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.passes.rewrite import Sweep, attribute, computed, input_name, kind, sweep


def fold_affine_into_convolutions(graph: Graph) -> Graph:
    """BatchNormalization, Mul, Div, Add and Sub by constants per channel, after or before."""
    return sweep(graph, _after, _before)


@dataclass(frozen=True)
class Affine:
    """scale * source + shift; both float64 of shape (C,)."""

    source: str
    scale: np.ndarray
    shift: np.ndarray


def affine_of(node: Node, state: Sweep) -> Affine | None:
    """The map that a node of floats computes, None where it is not affine per channel."""
    found = _MAPS[kind(node)](node, state) if kind(node) in _MAPS else None
    if found is None or not np.isfinite([found.scale, found.shift]).all():
        return None
    dtype = state.type(found.source).dtype
    return found if dtype is not None and dtype.kind == "f" else None


def _normalization(node: Node, state: Sweep) -> Affine | None:
    """scale * (x - mean) / sqrt(var + epsilon) + bias"""
    arrays = [state.constant(name) for name in node.inputs[1:5]]
    inference = attribute(node, "training_mode", 0) == 0 and attribute(node, "spatial", 1) == 1
    if not inference or not all(state.is_unused(o) for o in node.outputs[1:] if o):
        return None
    scale, bias, mean, variance = (None if a is None else a.astype(float) for a in arrays)
    if scale is None or bias is None or mean is None or variance is None:
        return None
    with np.errstate(all="ignore"):
        a = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return Affine(node.inputs[0], a, bias - mean * a)


def _arithmetic(node: Node, state: Sweep) -> Affine | None:
    left, right = node.inputs
    if (c := per_channel(left, right, state)) is not None:
        one, zero = np.ones_like(c), np.zeros_like(c)
        with np.errstate(all="ignore"):
            maps = {"Mul": (c, zero), "Div": (one / c, zero), "Add": (one, c), "Sub": (one, -c)}
        return Affine(left, *maps[node.op])
    if (c := per_channel(right, left, state)) is not None and node.op != "Div":
        one, zero = np.ones_like(c), np.zeros_like(c)
        maps = {"Mul": (c, zero), "Add": (one, c), "Sub": (-one, c)}
        return Affine(right, *maps[node.op])
    return None


_MAPS = {
    "BatchNormalization": _normalization,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
}


def per_channel(x: str, constant: str, state: Sweep) -> np.ndarray | None:
    """``constant`` as float64 of shape (C,), where it varies along axis 1 of ``x`` at most."""
    array, shape = state.constant(constant), state.type(x).shape
    if array is None or shape is None or len(shape) < 3 or array.ndim > len(shape):
        return None
    channels = shape[1]
    sizes = [1] * (len(shape) - array.ndim) + list(array.shape)
    if not isinstance(channels, int) or sizes.pop(1) not in (1, channels) or set(sizes) != {1}:
        return None
    return np.broadcast_to(array.astype(float).ravel(), channels)


def _after(node: Node, state: Sweep) -> Sequence[Node] | None:
    affine = affine_of(node, state)
    conv = affine and state.producer(affine.source, "Conv", "ConvTranspose")
    if not affine or not conv or not state.is_used_once(affine.source):
        return None
    weights, bias = _parameters(conv, state)
    scaled = not (affine.scale == 1).all()
    if bias is None or (scaled and weights is None):
        return None
    inputs = [conv.inputs[0], conv.inputs[1]]
    if scaled and weights is not None:
        # Weights are (OC, IC / groups, ...) in Conv, (IC, OC / groups, ...) in ConvTranspose.
        axis = 1 if conv.op == "Conv" else 2
        inputs[1] = _scaled(conv, weights, affine.scale, axis, state)
    dtype = state.type(affine.source).dtype
    shifted = (affine.scale * bias + affine.shift).astype(dtype)
    inputs.append(state.add_constant(shifted, f"{conv.outputs[0]}/bias"))
    return (replace(conv, inputs=tuple(inputs), outputs=node.outputs),)


def _before(node: Node, state: Sweep) -> Sequence[Node] | None:
    source = state.producer(node.inputs[0], *_MAPS) if kind(node) == "Conv" else None
    affine = source and affine_of(source, state)
    weights, bias = _parameters(node, state) if affine else (None, None)
    if not affine or weights is None or bias is None:
        return None
    padded = any(attribute(node, "pads", ())) or attribute(node, "auto_pad", "NOTSET") != "NOTSET"
    shifted = bool(affine.shift.any())
    if shifted and padded:
        return None
    inputs = [affine.source, _scaled(node, weights, affine.scale, 2, state), *node.inputs[2:]]
    if shifted:
        seen = _times(node, weights, affine.shift, 2).reshape(len(weights), -1).sum(axis=1)
        total = (bias + seen).astype(weights.dtype)
        inputs[2:] = [state.add_constant(total, f"{node.outputs[0]}/bias")]
    return (replace(node, inputs=tuple(inputs)),)


def _parameters(conv: Node, state: Sweep) -> tuple[np.ndarray | None, np.ndarray | float | None]:
    """Constant weights or None; the bias as float64, 0 where there is none, None if it varies."""
    name = input_name(conv, 2)
    array = state.constant(name)
    bias = (None if array is None else array.astype(float)) if name else 0.0
    return state.constant(conv.inputs[1]), bias


def _times(
    conv: Node, weights: np.ndarray, factors: np.ndarray, axis: int, dtype: Any = np.float64
) -> np.ndarray:
    """``weights`` times ``factors``, one for each channel of every group: in float64, the product
    rounded to ``dtype``.

    The weights are seen as (groups, channels per group, channels of the other side, ...);
    ``axis`` 1 or 2 says which of the two the factors belong to.
    """
    groups = attribute(conv, "group", 1)
    grouped = weights.reshape(groups, -1, *weights.shape[1:])
    shape = [groups, *[1] * weights.ndim]
    shape[axis] = -1
    product = np.empty(grouped.shape, dtype)
    np.multiply(grouped, factors.reshape(shape), product, dtype=np.float64, casting="unsafe")
    return product.reshape(weights.shape)


def _scaled(conv: Node, weights: np.ndarray, factors: np.ndarray, axis: int, state: Sweep) -> str:
    def scale(weights: np.ndarray) -> np.ndarray:
        return _times(conv, weights, factors, axis, weights.dtype)

    return state.add_constant(computed(scale, weights), f"{conv.outputs[0]}/weights")
