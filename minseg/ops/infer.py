"""Shape and dtype inference over a graph, with values where they follow (shape arithmetic)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minseg.errors import MinsegError, ModelError
from minseg.graph.model import Graph, Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.registry import lookup
from minseg.ops.types import UNKNOWN

#: Nodes whose inputs are known are evaluated during inference up to this many elements: enough
#: for any arithmetic on shapes, too little to do the work of constant folding.
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
    has_graph = any(isinstance(a, Graph) for a in node.attributes.values())
    if not has_graph and _is_small_and_known(inputs):
        values = [None if t is None else t.value for t in inputs]
        return tuple(TensorType.of(r) for r in run_node(node, values, {}))
    keywords: dict[str, Any] = {
        name: _branch(value, types) if isinstance(value, Graph) else value
        for name, value in node.attributes.items()
    }
    if operator.wants_n_outputs:
        keywords["n_outputs"] = len(node.outputs)
    try:
        result = operator.infer(*inputs, **keywords)
    except (MinsegError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ModelError(f"{node}: {error}") from error
    return result if isinstance(result, tuple) else (result,)


def _is_small_and_known(inputs: list[TensorType | None]) -> bool:
    values = [t.value for t in inputs if t is not None]
    known = [v for v in values if v is not None]
    return len(known) == len(values) and sum(v.size for v in known) <= EVALUATED_ELEMENTS


def _branch(graph: Graph, types: Mapping[str, TensorType]) -> Any:
    def run() -> tuple[TensorType, ...]:
        inner = infer(graph, scope=types)
        return tuple(inner[v.name] for v in graph.outputs)

    return run
