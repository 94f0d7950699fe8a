"""Shape and dtype inference over a graph, with values where they follow (shape arithmetic)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from minseg.graph.model import Graph, Node, TensorType
from minseg.ops.evaluate import output_types, run_node
from minseg.ops.registry import lookup
from minseg.ops.types import UNKNOWN

#: Nodes whose inputs are known are evaluated during inference up to this many elements, outputs
#: included: enough for any arithmetic on shapes, too little to do the work of constant folding.
EVALUATED_ELEMENTS = 4096


def infer(
    graph: Graph,
    given: Mapping[str, TensorType] | None = None,
    *,
    scope: Mapping[str, TensorType] | None = None,
) -> dict[str, TensorType]:
    """Types of every value of ``graph``; ``given`` replaces the declared types of inputs.

    Raises ModelError, naming the node, where known shapes contradict the operator.
    """
    types: dict[str, TensorType] = dict(scope or {})
    types.update((v.name, v.type) for v in graph.inputs)
    types.update((name, TensorType.of(array)) for name, array in graph.constants.items())
    types.update(given or {})
    for node in graph.nodes:
        results = infer_node(node, types)
        types.update((n, r) for n, r in zip(node.outputs, results, strict=False) if n)
        types.update((n, UNKNOWN) for n in node.outputs[len(results) :] if n)
    return types


def infer_node(node: Node, types: Mapping[str, TensorType]) -> tuple[TensorType, ...]:
    """Types of one node's outputs, from the types of the values it reads."""
    operator = lookup(node.domain, node.op, node.opset)
    if operator is None:
        return (UNKNOWN,) * len(node.outputs)
    inputs = [types.get(name, UNKNOWN) if name else None for name in node.inputs]
    keywords: dict[str, Any] = {
        name: _branch(value, types) if isinstance(value, Graph) else value
        for name, value in node.attributes.items()
    }
    if operator.wants_n_outputs:
        keywords["n_outputs"] = len(node.outputs)
    outputs = output_types(node, operator, inputs, keywords)
    if node.subgraphs or not _are_known(inputs) or not _are_small([*inputs, *outputs]):
        return outputs
    values = [None if t is None else t.value for t in inputs]
    return tuple(TensorType.of(r) for r in run_node(node, values, {}))


def _are_known(inputs: Iterable[TensorType | None]) -> bool:
    return all(t is None or t.value is not None for t in inputs)


def _are_small(types: Iterable[TensorType | None]) -> bool:
    """As far as sizes are known, together at most EVALUATED_ELEMENTS."""
    shapes = [t.shape or () for t in types if t is not None]
    sizes = [math.prod(d for d in shape if isinstance(d, int)) for shape in shapes]
    return sum(sizes) <= EVALUATED_ELEMENTS


def _branch(graph: Graph, types: Mapping[str, TensorType]) -> Any:
    def run() -> tuple[TensorType, ...]:
        inner = infer(graph, scope=types)
        return tuple(inner[v.name] for v in graph.outputs)

    return run
