"""Fusion of convolutions with the residual sum and the activation that follow them, and of resizes
with the labels that are made of them.

A kernel adds and activates a tile while it is in registers; as nodes of their own they would read
and write the whole tensor again. See fused_ops.py for what the fused operators mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.passes.activations import clamp_of
from minseg.passes.fused_ops import ACTIVATIONS, DOMAIN
from minseg.passes.resizes import averages
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    input_name,
    is_same_shape,
    kind,
    sweep,
    with_attributes,
)

CONVOLUTIONS = ("Conv", "ConvTranspose", "minseg.FusedConv", "minseg.FusedConvTranspose")


def fuse_convolutions(graph: Graph) -> Graph:
    """Conv and ConvTranspose take the sum with a tensor, then an activation, that follow them."""
    return sweep(graph, _residual, _activation)


def fuse_resizes(graph: Graph) -> Graph:
    """A Resize that interpolates takes the ArgMax over channels that follows it: the large picture
    is never stored."""
    return sweep(graph, _labels)


def _labels(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != "ArgMax" or attribute(node, "select_last_index", 0):
        return None
    x = state.type(node.inputs[0])
    resize = (
        state.producer(node.inputs[0], "Resize") if state.is_used_once(node.inputs[0]) else None
    )
    if resize is None or resize.opset < 11 or x.rank != 4 or x.dtype != np.float32:
        return None
    interpolates = attribute(resize, "mode", "nearest") != "nearest" and averages(resize, state)
    if not interpolates or attribute(node, "axis", 0) % 4 != 1:
        return None
    fused = with_attributes(resize, keepdims=attribute(node, "keepdims", 1))
    return (replace(fused, op="ResizeArgMax", domain=DOMAIN, name=node.name, outputs=node.outputs),)


def _open_convolution(name: str, state: Sweep) -> Node | None:
    """The convolution that makes ``name`` for one reader alone and has no activation yet."""
    node = state.producer(name, *CONVOLUTIONS) if state.is_used_once(name) else None
    return None if node is None or attribute(node, "activation", "") else node


def _residual(node: Node, state: Sweep) -> Sequence[Node] | None:
    """conv(x) + z. Of two convolutions the later one takes the sum: z is there already."""
    if kind(node) != "Add" or not is_same_shape(*map(state.type, node.inputs)):
        return None
    if state.type(node.inputs[0]).dtype != state.type(node.inputs[1]).dtype:
        return None
    for made in sorted(node.inputs, key=state.position, reverse=True):
        conv = _open_convolution(made, state)
        if conv is not None and not input_name(conv, 3):
            (z,) = (name for name in node.inputs if name != made)
            inputs = (*conv.inputs[:2], input_name(conv, 2), z)
            return (_fused(replace(conv, inputs=inputs, outputs=node.outputs)),)
    return None


def _activation(node: Node, state: Sweep) -> Sequence[Node] | None:
    found = activation_of(node, state)
    conv = found and _open_convolution(node.inputs[0], state)
    if not found or not conv:
        return None
    name, params = found
    conv = replace(conv, outputs=node.outputs)
    return (_fused(with_attributes(conv, activation=name, activation_params=params)),)


def activation_of(node: Node, state: Sweep) -> tuple[str, tuple[float, ...]] | None:
    """Name and numbers of the activation that a node is, None if kernels have none such."""
    if kind(node) == "Swish":
        return ("Silu", ()) if attribute(node, "alpha", 1.0) == 1 else None
    if kind(node) == "Clip":
        clamp = clamp_of(node, state)
        return None if clamp is None else ("Clip", (clamp.low, clamp.high))
    if kind(node) not in ACTIVATIONS:
        return None
    names = ACTIVATIONS[node.op]
    return node.op, tuple(float(attribute(node, n, _DEFAULTS[node.op, n])) for n in names)


#: What ONNX takes where an attribute is left out.
_DEFAULTS = {
    ("LeakyRelu", "alpha"): 0.01,
    ("HardSigmoid", "alpha"): 0.2,
    ("HardSigmoid", "beta"): 0.5,
}


def _fused(conv: Node) -> Node:
    if conv.domain == DOMAIN:
        return conv
    return replace(conv, op=f"Fused{conv.op}", domain=DOMAIN, opset=1)
