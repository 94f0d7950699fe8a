"""Products of quantised matrices as convolutions of single pixels, which become integer steps.

    MatMul(x, w) = Transpose(Conv(Transpose(x), w))

with the rows of x [..., rows, inner] as pixels and its columns as channels, and the columns of w
[inner, columns] as filters. So one kernel serves both, and what makes and follows a convolution of
bytes serves products too. Only a quantised x and constant quantised w are rewritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.passes.quantised_values import MOVEMENTS, Weights, quantised_weights
from minseg.passes.rewrite import Sweep, attribute, input_name, kind, make, sweep


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
    node = state.producer(name, "DequantizeLinear", *MOVEMENTS)
    while node is not None and node.op in MOVEMENTS:
        node = state.producer(node.inputs[0], "DequantizeLinear", *MOVEMENTS)
    return node is not None and node.inputs[0] not in state.constants


def _convolution(
    node: Node, w: Weights, columns: int, bias: str, state: Sweep
) -> Sequence[Node] | None:
    """``node`` by way of a Conv; the axis ``columns`` of ``w`` becomes that of the filters."""
    known: Any = state.type(node.inputs[0]).shape
    if w.integers.ndim != 2 or (w.scale.size > 1 and w.axis != columns):
        return None
    if known is None or len(known) < 2 or not all(isinstance(d, int) for d in known):
        return None
    *batch, rows, inner = known
    y, made = node.outputs[0], []

    def step(op: str, *inputs: str, **attributes: Any) -> str:
        name = state.fresh(f"{y}/{op}")
        made.append(make(op, inputs, (name,), name, opset=21, **attributes))
        return name

    def shape(*sizes: int) -> str:
        return state.add_constant(np.array(sizes, np.int64), f"{y}/shape")

    swapped = (*range(len(batch)), len(batch) + 1, len(batch))
    x = step("Transpose", node.inputs[0], perm=swapped)
    x = step("Reshape", x, shape(prod(batch), inner, 1, rows))
    filters = np.moveaxis(w.integers, columns, 0)[:, :, None, None]
    weights = step("DequantizeLinear", *_constants(filters, w, y, state), axis=0)
    x = step("Conv", *filter(None, (x, weights, bias)))
    x = step("Reshape", x, shape(*batch, len(filters), rows))
    return (*made, make("Transpose", (x,), node.outputs, node.name, opset=21, perm=swapped))


def _constants(filters: np.ndarray, w: Weights, y: str, state: Sweep) -> list[str]:
    """Names of integers, their scale and zero point."""
    parts = {"weights": filters, "scale": w.scale, "zero_point": w.zero_point}
    return [state.add_constant(np.ascontiguousarray(a), f"{y}/{n}") for n, a in parts.items()]
