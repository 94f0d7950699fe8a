"""Runs nodes and graphs with the reference operators: the `numpy` backend's whole interpreter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from minseg.errors import ExecutionError, MinsegError
from minseg.graph.model import Graph, Node
from minseg.ops.registry import lookup

Scope = Mapping[str, Any]


def run_node(node: Node, arguments: Iterable[Any], scope: Scope) -> tuple[Any, ...]:
    """The outputs of one node on ``arguments`` (None for an omitted input).

    ``scope`` holds the values that subgraphs of the node may name. Raises ExecutionError.
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
    try:
        with np.errstate(all="ignore"):
            result = operator.run(*arguments, **keywords)
    except MinsegError as error:
        raise type(error)(f"{node}: {error}") from error
    except (ValueError, TypeError, IndexError, ArithmeticError, MemoryError) as error:
        raise ExecutionError(f"{node}: {error}") from error
    results = result if isinstance(result, tuple) else (result,)
    return tuple(np.asarray(r) for r in results)  # NumPy makes scalars of arrays without axes


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
