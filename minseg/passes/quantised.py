"""Quantisation that a float plan can do in one step: a quantiser and its dequantiser as one node.

    DequantizeLinear(QuantizeLinear(x, s, z), s, z)  =  minseg.QuantizeDequantize(x, s, z)

The integers in between are never stored; the arithmetic is the same to the last bit. What is on
a quantiser's grid already stays as it is when the same one comes again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import Graph, Node
from minseg.passes.rewrite import Sweep, attribute, input_name, kind, make_own, moves, sweep

#: The integer types whose values f32 holds exactly.
_EXACT = tuple(np.dtype(t) for t in (np.uint8, np.int8, np.uint16, np.int16))


def join_quantisers(graph: Graph) -> Graph:
    """See the module's docstring."""
    return sweep(graph, _join)


def _join(node: Node, state: Sweep) -> Sequence[Node] | None:
    if node.op != "DequantizeLinear":
        return None
    quantise = state.producer(node.inputs[0], "QuantizeLinear")
    if quantise is None or not _are_inverse(quantise, node, state):
        return None
    x, scale, _ = quantise.inputs
    if state.type(x).dtype != np.float32 or state.constants[scale].dtype != np.float32:
        return None
    axis = attribute(quantise, "axis", 1)
    return (make_own("QuantizeDequantize", quantise.inputs, node.outputs, node.name, axis=axis),)


def drop_repeated_quantisers(graph: Graph) -> Graph:
    """A QuantizeDequantize of what the same one made, sampled since or not, is taken out."""
    return sweep(graph, _repeated)


def _repeated(node: Node, state: Sweep) -> str | None:
    if kind(node) != f"{MINSEG}.QuantizeDequantize":
        return None
    kinds = "Resize", "Upsample", kind(node)
    before = state.producer(node.inputs[0], *kinds)
    while before is not None and moves(before):
        before = state.producer(before.inputs[0], *kinds)
    if before is None or kind(before) != kind(node) or before.attributes != node.attributes:
        return None
    parameters = zip(before.inputs[1:], node.inputs[1:], strict=True)
    alike = all(_is_same(state.constant(a), state.constant(b)) for a, b in parameters)
    return node.inputs[0] if alike else None


def _is_same(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)


def _are_inverse(quantise: Node, dequantise: Node, state: Sweep) -> bool:
    for index in (1, 2):
        a = state.constant(input_name(quantise, index))
        b = state.constant(input_name(dequantise, index))
        if not _is_same(a, b):
            return False
    if state.constants[quantise.inputs[2]].dtype not in _EXACT:
        return False
    plain = all(not attribute(n, "block_size", 0) for n in (quantise, dequantise))
    return plain and attribute(quantise, "axis", 1) == attribute(dequantise, "axis", 1)
