"""Where a network of floats becomes integers: which of its values, and which share a grid.

Integers pay where sums of products are: what a Conv, ConvTranspose, Gemm or MatMul with constant
weights reads becomes bytes. From there bytes reach back, through what only moves numbers, to sums,
means, concatenations and interpolations, whose operands then are bytes too, so that between two
convolutions no floats are left. An activation is part of what is before it, and only its result
becomes bytes. What no such operator reads (the scores of a last convolution) stays float.

What moves numbers leaves them on their grid. Operands of a Concat that nobody else reads have the
grid of its result, so that joining them is copying.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from minseg.graph.model import Graph, Node, TensorType
from minseg.ops.registry import Trait, has
from minseg.passes.rewrite import (
    attribute,
    has_subgraph,
    input_name,
    is_same_shape,
    kind,
    moves,
)


@dataclass(frozen=True)
class Points:
    """The values that become bytes, in the order in which they are made.

    ``leader`` names for each the value whose range it has, itself for most.
    """

    leader: dict[str, str] = field(default_factory=dict)

    @property
    def measured(self) -> tuple[str, ...]:
        """Values whose range must be known."""
        return tuple(dict.fromkeys(self.leader.values()))


def find_points(graph: Graph) -> Points:
    """The points of ``graph``, which has types."""
    search = _Search(graph)
    wanted = search.wanted()
    names = [v.name for v in graph.inputs] + [o for n in graph.nodes for o in n.outputs]
    return Points({name: search.leader(name, wanted) for name in names if name in wanted})


def data_inputs(node: Node, graph: Graph) -> tuple[str, ...]:
    """The inputs of a weighted, joining or moving node that may become bytes."""
    count = len(node.inputs) if node.op in ("Add", "Concat") else 1
    return tuple(n for n in node.inputs[:count] if n not in graph.constants)


def has_weights(node: Node, graph: Graph) -> bool:
    """Whether ``node`` is a sum of products with constant weights, float32."""
    if not has(node, Trait.WEIGHTED):
        return False
    weights = graph.constants.get(input_name(node, 1))
    plain = node.op != "Gemm" or (
        not attribute(node, "transA", 0)
        and attribute(node, "alpha", 1.0) == 1
        and attribute(node, "beta", 1.0) == 1
    )
    floats = weights is not None and weights.dtype == np.float32 and weights.ndim >= 2
    return floats and plain and node.inputs[0] not in graph.constants


class _Search:
    """Looks at one graph from its outputs on."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.maker = {o: n for n in graph.nodes for o in n.outputs if o}
        self.reads = Counter(n for node in graph.nodes for n in node.inputs)
        self.pinned = {v.name for v in graph.outputs}.union(*(n.captured for n in graph.nodes))

    def wanted(self) -> set[str]:
        """Values that become bytes."""
        wanted: set[str] = set()
        for node in reversed(self.graph.nodes):
            if not has_subgraph(node):
                wanted.update(n for n in self._asks_for(node, wanted) if self._is_float(n))
        return wanted

    def _asks_for(self, node: Node, wanted: set[str]) -> Iterator[str]:
        if has_weights(node, self.graph):
            yield node.inputs[0]
        elif not self._gives_bytes(node, wanted):
            return
        elif self._is_moving(node) or self._is_joining(node):
            yield from data_inputs(node, self.graph)
        elif has(node, Trait.ACTIVATION) and self._makes_bytes(node.inputs[0]):
            yield node.inputs[0]

    def _gives_bytes(self, node: Node, wanted: set[str]) -> bool:
        """Whether the result is wanted, or all that is read of it is clamped and then wanted."""
        result = node.outputs[0]
        if result in wanted:
            return True
        if self.reads[result] != 1 or result in self.pinned or not self._is_joining(node):
            return False
        reader = next(n for n in self.graph.nodes if result in n.inputs)
        return has(reader, Trait.CLAMP) and reader.outputs[0] in wanted

    def _is_float(self, name: str) -> bool:
        return self._type(name).dtype == np.float32

    def _type(self, name: str) -> TensorType:
        return self.graph.types.get(name, TensorType(None))

    def _makes_bytes(self, name: str) -> bool:
        """Whether what makes ``name`` gives bytes for bytes, and takes no activation in."""
        node = self.maker.get(name)
        return node is not None and (self._is_moving(node) or kind(node) == "Concat")

    def _is_moving(self, node: Node) -> bool:
        if kind(node) == "Pad":
            fill = self.graph.constants.get(input_name(node, 2))
            left_out = not input_name(node, 2) and not attribute(node, "value", 0)
            return left_out or (fill is not None and not fill.any())
        # Each result of a Split has a range of its own.
        return moves(node) and kind(node) != "Split"

    def _is_joining(self, node: Node) -> bool:
        if kind(node) == "Add":
            return is_same_shape(*map(self._type, node.inputs))
        return has(node, Trait.MIXES) and not moves(node)

    def leader(self, name: str, wanted: set[str]) -> str:
        """The value whose range ``name`` has."""
        follower = self._joined_as(name, wanted)
        if follower is not None:
            return self.leader(follower, wanted)
        node = self.maker.get(name)
        if node is not None and self._is_moving(node) and node.inputs[0] in wanted:
            return self.leader(node.inputs[0], wanted)
        return name

    def _joined_as(self, name: str, wanted: set[str]) -> str | None:
        """The result of the Concat that alone reads ``name``, or what is moved from it."""
        if self.reads[name] != 1 or name in self.pinned:
            return None
        reader = next(n for n in self.graph.nodes if name in n.inputs)
        if reader.outputs[0] not in wanted:
            return None
        if kind(reader) == "Concat":
            return reader.outputs[0]
        moved = self._is_moving(reader) and reader.inputs[0] == name
        return self._joined_as(reader.outputs[0], wanted) if moved else None
