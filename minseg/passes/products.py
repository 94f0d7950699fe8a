"""Products of quantised matrices as convolutions of single pixels, which become integer steps.

    MatMul(x, w) = Transpose(Conv(Transpose(x), w))

with the rows of x [..., rows, inner] as pixels and its columns as channels, and the columns of w
[inner, columns] as filters. So one kernel serves both, and what makes and follows a convolution of
bytes serves products too. Only a quantised x and constant quantised w are rewritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.ops.registry import Trait, having
from minseg.passes.quantised_values import Weights, quantised_weights
from minseg.passes.rewrite import Sweep, attribute, input_name, kind, make, moves, sweep


def products_to_convolutions(graph: Graph) -> Graph:
    """See the module's docstring."""
    return sweep(graph, _matmul, _gemm)


def _matmul(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != "MatMul" or not _is_quantised(node.inputs[0], state):
        return None
    w = quantised_weights(node.inputs[1], state)
    return None if w is None else _convolution(node, w, 1, "", state)


def _gemm(node: Node, state: Sweep) -> Sequence[Node] | None:
    """A bias for each column alone, which a convolution has too."""
    if kind(node) != "Gemm" or not _is_quantised(node.inputs[0], state):
        return None
    factors = [attribute(node, name, 1.0) for name in ("alpha", "beta")]
    w, bias = quantised_weights(node.inputs[1], state), input_name(node, 2)
    columns = 0 if attribute(node, "transB", 0) else 1
    if w is None or factors != [1.0, 1.0] or attribute(node, "transA", 0):
        return None
    if bias and state.type(bias).shape != w.integers.shape[columns : columns + 1]:
        return None
    return _convolution(node, w, columns, bias, state)


def _is_quantised(name: str, state: Sweep) -> bool:
    """Whether ``name`` is made by a dequantiser, or has only moved since."""
    kinds = "DequantizeLinear", *having(Trait.MOVES)
    node = state.producer(name, *kinds)
    while node is not None and moves(node):
        node = state.producer(node.inputs[0], *kinds)
    if node is None or kind(node) != "DequantizeLinear":
        return False
    return node.inputs[0] not in state.constants


def _convolution(
    node: Node, w: Weights, columns: int, bias: str, state: Sweep
) -> Sequence[Node] | None:
    """``node`` by way of a Conv; the axis ``columns`` of ``w`` becomes that of the filters."""
    if w.integers.ndim != 2 or (w.scale.size > 1 and w.axis != columns):
        return None
    steps = Steps(node.outputs[0], state)

    def convolve(x: str) -> str:
        parts = filters_of(w.integers, columns), w.scale, w.zero_point
        names = [steps.constant(part) for part in parts]
        weights = steps.add("DequantizeLinear", *names, axis=0)
        return steps.add("Conv", *filter(None, (x, weights, bias)))

    return steps.of_pixels(node, node.inputs[0], w.integers.shape[columns], convolve)


def filters_of(w: np.ndarray, columns: int = 1) -> np.ndarray:
    """A matrix as filters of single pixels, its axis ``columns`` first."""
    return np.moveaxis(w, columns, 0)[:, :, None, None]


@dataclass
class Steps:
    """Nodes in the making, for the value ``y``."""

    y: str
    state: Sweep
    nodes: list[Node] = field(default_factory=list)

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = self.state.fresh(f"{self.y}/{op}")
        self.nodes.append(make(op, inputs, (name,), name, opset=21, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        return self.state.add_constant(np.ascontiguousarray(array), f"{self.y}/constant")

    def reshape(self, x: str, *sizes: int) -> str:
        return self.add("Reshape", x, self.constant(np.array(sizes, np.int64)))

    def of_pixels(
        self, node: Node, x: str, columns: int, convolve: Callable[[str], str]
    ) -> Sequence[Node] | None:
        """All nodes for the product ``node`` of the matrices ``x``, whose rows ``convolve`` gets as
        pixels and returns with ``columns`` channels."""
        known: Any = self.state.type(x).shape
        if known is None or len(known) < 2 or not all(isinstance(d, int) for d in known):
            return None
        *batch, rows, inner = known
        swapped = (*range(len(batch)), len(batch) + 1, len(batch))
        x = self.add("Transpose", x, perm=swapped)
        x = convolve(self.reshape(x, prod(batch), inner, 1, rows))
        x = self.reshape(x, *batch, columns, rows)
        last = make("Transpose", (x,), node.outputs, node.name, opset=21, perm=swapped)
        return (*self.nodes, last)
