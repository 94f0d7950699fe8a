"""Runs nodes and graphs with the reference operators: the `numpy` backend's whole interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from minseg.errors import ExecutionError, MinsegError, ModelError
from minseg.graph.model import Graph, Node, TensorType
from minseg.graph.onnx_schema import parameters
from minseg.ops.registry import Operator, lookup
from minseg.ops.types import check_one_dtype

Scope = Mapping[str, Any]


def run_node(node: Node, arguments: Iterable[Any], scope: Scope) -> tuple[Any, ...]:
    """The outputs of one node on ``arguments`` (None for an omitted input).

    ``scope`` holds the values that subgraphs of the node may name. Raises ExecutionError, and
    ModelError where the arguments' types or shapes contradict the operator.
    """
    operator = lookup(node.domain, node.op, node.opset)
    if operator is None:
        raise ExecutionError(f"{node}: minseg has no such operator")
    keywords: dict[str, Any] = {
        name: _branch(value, scope) if isinstance(value, Graph) else value
        for name, value in node.attributes.items()
    }
    if operator.wants_n_outputs:
        keywords["n_outputs"] = len(node.outputs)
    arguments = tuple(arguments)
    if not node.subgraphs:
        given = (None if x is None else TensorType(x.dtype, x.shape) for x in arguments)
        output_types(node, operator, given, keywords)
    try:
        with np.errstate(all="ignore"):
            result = operator.run(*arguments, **keywords)
    except MinsegError as error:
        raise type(error)(f"{node}: {error}") from error
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        raise ExecutionError(f"{node}: {error}") from error
    results = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(r) for r in results)  # NumPy makes scalars of arrays without axes


def output_types(
    node: Node, operator: Operator, inputs: Iterable[TensorType | None], keywords: Mapping[str, Any]
) -> tuple[TensorType, ...]:
    """What the operator's rule says of its outputs.

    Raises ModelError, naming the node, where the inputs contradict the operator.
    """
    inputs = tuple(inputs)
    try:
        _check_type_variables(node, inputs)
        result = operator.infer(*inputs, **keywords)
    except (MinsegError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise ModelError(f"{node}: {error}") from error
    return result if isinstance(result, tuple) else (result,)


def _check_type_variables(node: Node, inputs: Sequence[TensorType | None]) -> None:
    """Inputs that ONNX binds to one element type have one. Raises ValueError."""
    formal = parameters(node.op, node.opset, node.domain)
    if formal and formal[-1].is_variadic:
        formal = (*formal, *formal[-1:] * (len(inputs) - len(formal)))
    bound: dict[str, dict[str, TensorType | None]] = {}
    for parameter, name, x in zip(formal, node.inputs, inputs, strict=False):
        if parameter.type_variable:
            operand = f"{parameter.name} '{name}'"
            bound.setdefault(parameter.type_variable, {})[operand] = x
    for operands in bound.values():
        check_one_dtype(**operands)


def _branch(graph: Graph, scope: Scope) -> Any:
    def run() -> tuple[Any, ...]:
        values = evaluate(graph, {}, scope=scope)
        return tuple(values[v.name] for v in graph.outputs)

    return run


def evaluate(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    *,
    capture: Collection[str] = (),
    scope: Scope | None = None,
    run: Callable[..., tuple[Any, ...]] = run_node,
) -> dict[str, Any]:
    """The graph's outputs by name, followed by the values named in ``capture``.

    ``scope`` holds the values around a subgraph; ``run`` is called for each node. Values are
    dropped after their last use.
    """
    values: dict[str, Any] = {**(scope or {}), **graph.constants, **graph.defaults, **feeds}
    wanted = [*(v.name for v in graph.outputs), *capture]
    uses = Counter(name for node in graph.nodes for name in node.reads)
    keep = {*wanted, *(scope or ())}
    for node in graph.nodes:
        arguments = [values[name] if name else None for name in node.inputs]
        results = run(node, arguments, values)
        values.update((n, r) for n, r in zip(node.outputs, results, strict=False) if n)
        for name in node.reads:
            uses[name] -= 1
            if not uses[name] and name not in keep:
                del values[name]
    return {name: values[name] for name in wanted}
