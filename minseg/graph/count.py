"""What a model weighs and what it costs: parameters, operations, zero weights.

Counted on the graph as it was read. Quantised weights count like others, whether a file keeps
them as integers or puts a quantiser behind floats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from minseg.errors import ModelError
from minseg.graph.model import Graph, Node

Shape: TypeAlias = tuple[int, ...]

#: Which inputs of an operator hold its kernel (the weights of multiply-adds).
_KERNELS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "ConvInteger": (1,),
    "QLinearConv": (3,),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "Gemm": (0, 1),
}
#: Which inputs hold other learned values: biases, and the scale and shift of normalisations (not
#: the running statistics, which no gradient reaches).
_OTHERS: Mapping[str, tuple[int, ...]] = {
    "Conv": (2,),
    "ConvTranspose": (2,),
    "QLinearConv": (8,),
    "Gemm": (2,),
    "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "PRelu": (1,),
}
#: Biases and scales written as nodes of their own; a single number there is no weight.
_ELEMENTWISE: Mapping[str, tuple[int, ...]] = {"Add": (0, 1), "Mul": (0, 1)}
#: Operators between a constant and its user which give the same weights in another form.
_TRANSPARENT = frozenset(
    ("QuantizeLinear", "DequantizeLinear", "FakeQuantize", "Cast", "Identity", "Transpose")
)


def parameters(graph: Graph) -> int:
    """How many numbers training would adjust: kernels, biases, scales and shifts.

    A tensor that several nodes share counts once. Not counted are the mean and variance of batch
    normalisations, and single numbers that are added or multiplied.
    """
    learned = _constants_used(graph, _KERNELS) | _constants_used(graph, _OTHERS)
    elementwise = _constants_used(graph, _ELEMENTWISE)
    learned |= {name: array for name, array in elementwise.items() if array.size > 1}
    return sum(array.size for array in learned.values())


def zero_share(graph: Graph) -> float:
    """The share of zeros among the kernels of convolutions and matrix products, 0 to 1."""
    kernels = _constants_used(graph, _KERNELS).values()
    total = sum(array.size for array in kernels)
    nonzero = sum(int(np.count_nonzero(array)) for array in kernels)
    return 1 - nonzero / total if total else 0.0


def flops(graph: Graph) -> int:
    """Operations of all convolutions and matrix products, a multiply-add counting as two.

    ``graph.types`` must know their shapes. Raises ModelError, naming the node, where it doesn't.
    """
    return sum(2 * _multiply_adds(node, graph) for node in graph.nodes if node.op in _KERNELS)


def kernel_constants(graph: Graph) -> dict[str, list[str]]:
    """The constants that hold kernels of convolutions and matrix products, and the names of the
    nodes that use each."""
    return _constant_users(graph, _KERNELS)


def _constants_used(graph: Graph, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The constants by name that nodes read through the ``inputs`` listed for their operator."""
    constants = {**graph.constants, **graph.defaults}
    return {name: constants[name] for name in _constant_users(graph, inputs)}


def _constant_users(graph: Graph, inputs: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    constants = {**graph.constants, **graph.defaults}
    users: dict[str, list[str]] = {}
    for node, name in _uses(graph, inputs, {}):
        if name in constants:
            users.setdefault(name, []).append(node.name)
    return users


def _uses(
    graph: Graph, inputs: Mapping[str, tuple[int, ...]], outside: Mapping[str, str]
) -> Iterator[tuple[Node, str]]:
    """Nodes, those of subgraphs included, with what each reads through its ``inputs``; ``outside``
    are the sources of values around the graph."""
    made = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op in _TRANSPARENT}
    sources = {**outside, **made}
    for node in graph.nodes:
        for index in inputs.get(node.op, ()):
            name = node.inputs[index] if index < len(node.inputs) else ""
            while name in sources:
                name = sources[name]
            yield node, name
        for branch in node.subgraphs:
            yield from _uses(branch, inputs, sources)


def _multiply_adds(node: Node, graph: Graph) -> int:
    if node.op == "ConvTranspose":
        x, kernel = _shape(node, node.inputs[0], graph), _shape(node, node.inputs[1], graph)
        return math.prod(x) * math.prod(kernel[1:])
    output = math.prod(_shape(node, node.outputs[0], graph))
    first, second = (_shape(node, node.inputs[i], graph) for i in _operands(node))
    if "Conv" in node.op:
        return output * math.prod(second[1:])
    return output * (first[0] if node.attributes.get("transA") else first[-1])


def _operands(node: Node) -> tuple[int, int]:
    """Positions of the two tensors that are multiplied."""
    return (0, 3) if node.op.startswith("QLinear") else (0, 1)


def _shape(node: Node, name: str, graph: Graph) -> Shape:
    if name in graph.constants:
        return graph.constants[name].shape
    found = graph.types.get(name)
    if found is None or found.shape is None or not all(isinstance(d, int) for d in found.shape):
        raise ModelError(f"{node}: its operations can't be counted, the size of '{name}' is open")
    return tuple(int(d) for d in found.shape if isinstance(d, int))
