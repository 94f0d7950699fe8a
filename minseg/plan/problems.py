"""What each node asks of the kernels: the bridge between ONNX nodes and kernel problems.

A function here looks at one node whose types are all known and states its problems, or returns
none where no family covers the node (its reference operator will run).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.kernels.activation import FORMULAS, Activation
from minseg.kernels.conv import Conv2d
from minseg.kernels.registry import Layout
from minseg.plan.plan import Buffer

#: Operators whose output is the input's elements in the input's order.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})


@dataclass(frozen=True)
class Task:
    """A problem with the names of the tensors it reads and writes and the constants it packs."""

    problem: Any
    inputs: tuple[str, ...]
    output: str
    constants: tuple[np.ndarray | None, ...] = ()


def tasks(node: Node, graph: Graph) -> list[Task]:
    """The node's problems; empty where no family covers it."""
    state = PROBLEMS.get((node.domain, node.op))
    return [] if state is None else state(node, graph)


def _shape(graph: Graph, name: str) -> tuple[int, ...]:
    return tuple(int(d) for d in graph.types[name].shape or () if isinstance(d, int))


def _is_f32(graph: Graph, *names: str) -> bool:
    return all(graph.types[n].dtype == np.float32 for n in names)


def _input(node: Node, index: int) -> str:
    return node.inputs[index] if index < len(node.inputs) else ""


def _activation(node: Node) -> Activation | None:
    kind = str(node.attributes.get("activation", ""))
    if kind not in FORMULAS:
        return None
    parameters: Any = node.attributes.get("activation_params", ())
    return Activation(kind, *(float(p) for p in parameters))


def _conv(node: Node, graph: Graph) -> list[Task]:
    x, w, b, z = (_input(node, i) for i in range(4))
    shape, weights = _shape(graph, x), graph.constants.get(w)
    activation = _activation(node)
    if len(shape) != 4 or weights is None or not _is_f32(graph, x, w) or activation is None:
        return []
    if b and b not in graph.constants:
        return []
    if node.attributes.get("auto_pad", "NOTSET") not in ("NOTSET", ""):
        return []
    (N, IC, IH, IW), (_, OC, OH, OW) = shape, _shape(graph, node.outputs[0])
    SH, SW = _pair(node, "strides")
    DH, DW = _pair(node, "dilations")
    pads: Any = node.attributes.get("pads", (0, 0, 0, 0))
    problem = Conv2d(
        *(N, IC, IH, IW, OC, OH, OW, *weights.shape[2:], SH, SW, DH, DW, pads[0], pads[1]),
        groups=int(node.attributes.get("group", 1)),  # type: ignore[arg-type]
        residual=bool(z),
        activation=activation,
    )
    tensors = (x, z) if z else (x,)
    return [Task(problem, tensors, node.outputs[0], (weights, graph.constants.get(b)))]


def _pair(node: Node, name: str) -> tuple[int, int]:
    a, b = node.attributes.get(name, (1, 1))  # type: ignore[misc]
    return int(a), int(b)


PROBLEMS: dict[tuple[str, str], Callable[[Node, Graph], list[Task]]] = {
    ("", "Conv"): _conv,
    ("minseg", "FusedConv"): _conv,
}


def reorder_task(buffer: Buffer, layout: Layout) -> Any:
    """The problem of moving a tensor into another layout."""
    from minseg.kernels.reorder import Reorder

    return Reorder(*buffer.shape, to=layout)
