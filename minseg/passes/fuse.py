"""Fusion of convolutions with the residual sum and the activation that follow them, and of resizes
with the labels that are made of them.

A kernel adds and activates a tile while it is in registers; as nodes of their own they would read
and write the whole tensor again. See `ops/dialects/fused.py` for what the fused operators mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import Graph, Node
from minseg.ops.dialects.fused import CONVOLUTIONS
from minseg.ops.registry import Trait, attributes_of, has
from minseg.passes.activations import clamp_of
from minseg.passes.resizes import averages
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    input_name,
    is_same_shape,
    kind,
    make_own,
    sweep,
    with_attributes,
    with_epilogue,
)

#: By the kind of a convolution, fused or not yet, what it can be fused to.
_FUSING = {kind: c for op, c in CONVOLUTIONS.items() for kind in (op, f"{MINSEG}.{c.floats}")}


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
    # The opset stays Resize's, whose inputs it tells apart.
    fused = with_attributes(resize, keepdims=attribute(node, "keepdims", 1))
    return (replace(fused, op="ResizeArgMax", domain=MINSEG, name=node.name, outputs=node.outputs),)


def _open_convolution(name: str, state: Sweep) -> Node | None:
    """The convolution that makes ``name`` for one reader alone, has a kernel and no activation
    yet."""
    node = state.producer(name, *_FUSING) if state.is_used_once(name) else None
    if node is None or attribute(node, "activation", ""):
        return None
    x, constants = state.type(node.inputs[0]), [n for n in node.inputs[1:3] if n]
    plain = x.rank == 4 and x.dtype == np.float32 and all(n in state.constants for n in constants)
    return node if plain else None


def _residual(node: Node, state: Sweep) -> Sequence[Node] | None:
    """conv(x) + z. Of two convolutions the later one takes the sum: z is there already."""
    if kind(node) != "Add" or not is_same_shape(*map(state.type, node.inputs)):
        return None
    for made in sorted(node.inputs, key=state.position, reverse=True):
        conv = _open_convolution(made, state)
        if conv is not None and _FUSING[kind(conv)].residual and not input_name(conv, 3):
            (z,) = (name for name in node.inputs if name != made)
            inputs = (*conv.inputs[:2], input_name(conv, 2), z)
            return (_fused(replace(conv, inputs=inputs, outputs=node.outputs)),)
    return None


def _activation(node: Node, state: Sweep) -> Sequence[Node] | None:
    found = activation_of(node, state)
    conv = found and _open_convolution(node.inputs[0], state)
    if not found or not conv:
        return None
    return (_fused(with_epilogue(replace(conv, outputs=node.outputs), **found)),)


def activation_of(node: Node, state: Sweep) -> dict[str, Any] | None:
    """``activation`` and ``parameters`` of an `Epilogue` for what a node computes, None if kernels
    have none such."""
    if not has(node, Trait.FUSED):
        return None
    if kind(node) == "Swish":
        plain = attribute(node, "alpha", 1.0) == 1
        return {"activation": "Silu", "parameters": ()} if plain else None
    if kind(node) == "Clip":
        clamp = clamp_of(node, state)
        bounds = None if clamp is None else (clamp.low, clamp.high)
        return None if bounds is None else {"activation": "Clip", "parameters": bounds}
    numbers: Any = attributes_of(node).values()
    return {"activation": kind(node), "parameters": tuple(map(float, numbers))}


def _fused(conv: Node) -> Node:
    op = _FUSING[kind(conv)].floats
    return make_own(op, conv.inputs, conv.outputs, conv.name, **conv.attributes)
