"""What minseg's graphs may hold and ONNX files may not, in nodes of the ONNX standard.

FakeQuantize of the domain org.openvinotoolkit: QuantizeLinear and DequantizeLinear say the same of
some (minseg.graph.fake_quantize); elsewhere the definition (OpenVINO's specification of
FakeQuantize-1) is written out in arithmetic. Outputs of a subgraph that it does not make, or puts
out twice: an Identity makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from minseg.errors import ModelError
from minseg.graph.domains import OPENVINO
from minseg.graph.fake_quantize import is_fake_quantize, pair_of
from minseg.graph.model import Graph, Node, TensorType

#: The opset of what is written where the model imports no standard operators itself: the first
#: that quantises per axis.
_DEFAULT_OPSET = 13


def standardised(graph: Graph) -> Graph:
    """``graph`` with every FakeQuantize replaced, and the ranges nobody reads any more left out.

    Quantising needs opset 10, per axis 13, arithmetic 9; raises ModelError, naming the node,
    where the model's opset is too old.
    """
    opsets = {d: v for d, v in graph.opsets.items() if d != OPENVINO}
    replaced = [node for node in all_nodes(graph) if is_fake_quantize(node)]
    if not replaced:
        return replace(graph, opsets=opsets)
    opset = opsets.setdefault("", _DEFAULT_OPSET)
    known = dict(graph.types) | {v.name: v.type for v in graph.inputs}
    result = _Writer(opset, set(_names(graph))).graph(graph, known)
    unread = {name for node in replaced for name in node.inputs} - result.reads
    constants = {n: a for n, a in result.constants.items() if n not in unread}
    return replace(result, constants=constants, opsets=opsets)


def with_own_outputs(graph: Graph) -> Graph:
    """``graph`` with subgraphs whose outputs are values of their own, all different."""
    return _with_own_outputs(graph, set(_names(graph)))


def _with_own_outputs(graph: Graph, taken: set[str]) -> Graph:
    nodes = (_with_own_results(node, taken) if node.subgraphs else node for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _with_own_results(node: Node, taken: set[str]) -> Node:
    attributes = dict(node.attributes)
    for name, branch in node.attributes.items():
        if isinstance(branch, Graph):
            writer = _Writer(node.opset, taken)
            free = set(branch.own_names)
            outputs = []
            for value in branch.outputs:
                if value.name in free:
                    free.remove(value.name)
                else:
                    value = replace(value, name=writer.add(node, "Identity", (value.name,)))
                outputs.append(value)
            inner = _with_own_outputs(branch, taken)
            nodes = (*inner.nodes, *writer.nodes)
            attributes[name] = replace(inner, nodes=nodes, outputs=tuple(outputs))
    return replace(node, attributes=attributes)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """Every node, those of subgraphs included."""
    for scope in graph.scopes:
        yield from scope.nodes


def _names(graph: Graph) -> Iterator[str]:
    """The names of every value and node, those of subgraphs included."""
    for scope in graph.scopes:
        yield from scope.own_names
        yield from (node.name for node in scope.nodes)


@dataclass
class _Writer:
    """Makes nodes of the default domain in ``opset``, with names that are not ``taken``."""

    opset: int
    taken: set[str]
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def graph(self, graph: Graph, known: Mapping[str, TensorType]) -> Graph:
        """``graph`` rewritten; ``known`` are the types of values that its nodes may read."""
        known = {**known, **{n: TensorType.of(a) for n, a in graph.constants.items()}}
        writer = _Writer(self.opset, self.taken)
        for node in graph.nodes:
            if is_fake_quantize(node):
                writer.fake_quantize(node, known)
            else:
                attributes = {
                    name: writer.graph(value, known) if isinstance(value, Graph) else value
                    for name, value in node.attributes.items()
                }
                writer.nodes.append(replace(node, attributes=attributes))
        return replace(
            graph, nodes=tuple(writer.nodes), constants={**graph.constants, **writer.constants}
        )

    def fake_quantize(self, node: Node, known: Mapping[str, TensorType]) -> None:
        levels = node.attributes["levels"]
        if not isinstance(levels, int) or levels < 2:
            raise ModelError(f"{node}: levels must be a whole number above 1, not {levels!r}")
        types = [known.get(name, TensorType(None)) for name in node.inputs]
        if not self.quantised(node, levels, types):
            self.arithmetic(node, levels, types[0].dtype)

    def quantised(self, node: Node, levels: int, types: list[TensorType]) -> bool:
        """Write a pair of QuantizeLinear and DequantizeLinear, if that says the same."""
        x, *ends = types
        values = [t.value for t in ends if t.value is not None]
        pair = pair_of(levels, x, values) if len(values) == len(ends) else None
        if pair is None or self.opset < (13 if pair.axis is not None or pair.limits else 10):
            return False
        axis = {} if pair.axis is None else {"axis": pair.axis}
        zero = self.constant(node, "zero_point", pair.zero_point)
        scale = self.constant(node, "scale", pair.scale)
        other = scale
        if not np.array_equal(pair.scale, pair.output_scale):
            other = self.constant(node, "output_scale", pair.output_scale)
        steps = self.add(node, "QuantizeLinear", (node.inputs[0], scale, zero), axis)
        if pair.limits is not None:
            least, largest = (
                self.constant(node, name, np.array(limit, pair.zero_point.dtype))
                for name, limit in zip(("least", "largest"), pair.limits, strict=True)
            )
            steps = self.add(node, "Clip", (steps, least, largest))
        self.add(node, "DequantizeLinear", (steps, other, zero), axis, output=node.outputs[0])
        return True

    def arithmetic(self, node: Node, levels: int, dtype: np.dtype | None) -> None:
        """Write the definition out."""
        if self.opset < 9:
            raise ModelError(f"{node}: it can be written from opset 9 on, not in {self.opset}")
        x, low, high, output_low, output_high = node.inputs
        dtype = np.dtype(np.float32) if dtype is None else dtype
        most = self.constant(node, "steps", np.asarray(levels - 1, dtype))
        width = self.add(node, "Sub", (high, low))
        share = self.add(node, "Div", (self.add(node, "Sub", (x, low)), width))
        step = self.rounded(node, self.add(node, "Mul", (share, most)), dtype)
        output_width = self.add(node, "Sub", (output_high, output_low))
        share = self.add(node, "Div", (step, most))
        inside = self.add(node, "Add", (self.add(node, "Mul", (share, output_width)), output_low))
        above = self.add(node, "Greater", (x, self.add(node, "Max", (low, high))))
        limited = self.add(node, "Where", (above, output_high, inside))
        not_below = self.add(node, "Greater", (x, self.add(node, "Min", (low, high))))
        self.add(node, "Where", (not_below, limited, output_low), output=node.outputs[0])

    def rounded(self, node: Node, x: str, dtype: np.dtype) -> str:
        """``x`` rounded, halves to even; before there was Round, by adding a number so large
        that floats of its size are integers."""
        if self.opset >= 11:
            return self.add(node, "Round", (x,))
        large = np.asarray(1.5 * 2 ** np.finfo(dtype).nmant, dtype)
        name = self.constant(node, "large", large)
        return self.add(node, "Sub", (self.add(node, "Add", (x, name)), name))

    def add(
        self,
        origin: Node,
        op: str,
        inputs: tuple[str, ...],
        attributes: Mapping[str, int] | None = None,
        output: str | None = None,
    ) -> str:
        """Append a node in place of ``origin`` and return the name of its output."""
        name = self.fresh(f"{origin.name}/{op}")
        result = name if output is None else output
        self.nodes.append(Node(name, op, inputs, (result,), attributes or {}, opset=self.opset))
        return result

    def constant(self, origin: Node, what: str, array: np.ndarray) -> str:
        name = self.fresh(f"{origin.name}/{what}")
        self.constants[name] = array
        return name

    def fresh(self, wanted: str) -> str:
        name, count = wanted, 0
        while name in self.taken:
            count += 1
            name = f"{wanted}_{count}"
        self.taken.add(name)
        return name
