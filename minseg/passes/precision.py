"""Half precision is for storage: networks in float16 or bfloat16 are computed in float32.

CPUs multiply float32; the narrower types save memory on disk. Constants are widened, casts to a
half type become casts to float32, and inputs and outputs keep their dtype by a Cast at the edge.
Values in between are more exact than the model asks for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from minseg.graph.model import Attribute, Graph, Node, Value
from minseg.ops.infer import infer
from minseg.ops.registry import Trait, has
from minseg.passes.rewrite import has_subgraph, make

#: Half types and their number in ONNX's TensorProto.DataType.
HALVES: dict[np.dtype, int] = {np.dtype(np.float16): 10, np.dtype(ml_dtypes.bfloat16): 16}
FLOAT = 1


def widen_halves(graph: Graph) -> Graph:
    """See the module's docstring. Networks without sums of products in half precision stay."""
    heavy = [n for n in graph.nodes if has(n, Trait.WEIGHTED)]
    if not any(_is_half(graph, n.inputs[0]) for n in heavy) or any(map(has_subgraph, graph.nodes)):
        return graph
    names = _Edges(graph)
    nodes = [_widened(node, names) for node in graph.nodes]
    wide = replace(
        graph,
        nodes=(*names.entering, *nodes, *names.leaving),
        constants={n: _widen_array(a) for n, a in graph.constants.items()},
    )
    return replace(wide, types=infer(wide))


class _Edges:
    """New names for half inputs and outputs inside the graph, and the casts between."""

    def __init__(self, graph: Graph):
        taken = {*graph.types, *graph.constants}
        self.entering: list[Node] = []
        self.leaving: list[Node] = []
        self.inside: dict[str, str] = {}
        for value in graph.inputs:
            if value.type.dtype in HALVES:
                self.inside[value.name] = _fresh(value.name, taken)
                self.entering.append(_cast(value.name, self.inside[value.name], FLOAT))
        for value in self._made(graph):
            self.inside[value.name] = _fresh(value.name, taken)
            to = HALVES[graph.types[value.name].dtype]  # type: ignore[index]
            self.leaving.append(_cast(self.inside[value.name], value.name, to))

    @staticmethod
    def _made(graph: Graph) -> list[Value]:
        """The half outputs that nodes make."""
        own = {o for n in graph.nodes for o in n.outputs}
        return [v for v in graph.outputs if v.name in own and _is_half(graph, v.name)]


def _fresh(name: str, taken: set[str]) -> str:
    fresh = f"{name}_float32"
    while fresh in taken:
        fresh += "_"
    taken.add(fresh)
    return fresh


def _cast(source: str, target: str, to: int) -> Node:
    return make("Cast", [source], [target], f"cast_{target}", to=to)


def _is_half(graph: Graph, name: str) -> bool:
    return name in graph.types and graph.types[name].dtype in HALVES


def _widen_array(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype in HALVES else array


def _widened(node: Node, edges: _Edges) -> Node:
    def attribute(name: str, value: Attribute) -> Any:
        if name in ("to", "dtype", "output_dtype") and value in HALVES.values():
            return FLOAT
        return _widen_array(value) if isinstance(value, np.ndarray) else value

    return replace(
        node,
        inputs=tuple(edges.inside.get(n, n) for n in node.inputs),
        outputs=tuple(edges.inside.get(n, n) for n in node.outputs),
        attributes={name: attribute(name, value) for name, value in node.attributes.items()},
    )
