"""A network in double precision: what the rounding errors of engines are measured by."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from minseg.graph.model import Attribute, Graph, Node, Value
from minseg.ops.infer import infer

#: The types and their numbers in ONNX's TensorProto.DataType.
SINGLE, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
FLOAT, FLOAT64 = 1, 11

#: Operators whose inputs past the first are float32 whatever the first is.
_SIZED = frozenset({"Resize", "Upsample"})


def in_double(graph: Graph) -> Graph:
    """The network with float64 wherever it has float32, for the numpy backend.

    Meant for networks in floats: quantised ones round to the same steps in any precision. Nodes
    with subgraphs keep these as they are.
    """
    sizes = {name for n in graph.nodes if n.op in _SIZED for name in n.inputs[1:]}
    wide = replace(
        graph,
        nodes=tuple(map(_node, graph.nodes)),
        inputs=tuple(map(_input, graph.inputs)),
        constants={n: a if n in sizes else _array(a) for n, a in graph.constants.items()},
        defaults={n: _array(a) for n, a in graph.defaults.items()},
    )
    return replace(wide, types=infer(wide))


def _array(array: np.ndarray) -> np.ndarray:
    return array.astype(DOUBLE) if array.dtype == SINGLE else array


def _input(value: Value) -> Value:
    if value.type.dtype != SINGLE:
        return value
    return replace(value, type=replace(value.type, dtype=DOUBLE))


def _node(node: Node) -> Node:
    def attribute(name: str, value: Attribute) -> Any:
        if name in ("to", "dtype") and value == FLOAT:
            return FLOAT64
        return _array(value) if isinstance(value, np.ndarray) else value

    changed = {name: attribute(name, value) for name, value in node.attributes.items()}
    return replace(node, attributes=changed)
