"""What a quantised network is made of, layer by layer, and what its integers lose on a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.graph.fake_quantize import is_fake_quantize
from minseg.graph.model import Graph, Node, TensorType
from minseg.ops.geometry import convolution, place
from minseg.ops.registry import Trait, has
from minseg.passes import one_notation, specialise
from minseg.passes.rewrite import attribute, input_name, kind, moves
from minseg.quantization.observe import Feeds, observed
from minseg.quantization.saturation import (
    PairSums,
    of_convolution,
    of_product,
    of_transposed_convolution,
)
from minseg.runtime.session import Session

BYTES = (np.dtype(np.uint8), np.dtype(np.int8))

_OF_INTEGERS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}

#: What makes a kernel's uint8 of int8.
_OFFSET = 128


@dataclass(frozen=True)
class Numbers:
    """Integers of ``dtype`` for floats: scales and zero points, each one for all or a list."""

    dtype: np.dtype
    scale: np.ndarray
    zero_point: np.ndarray


@dataclass(frozen=True)
class Clipped:
    """Shares of a layer's results, 0 to 1, that lie below the least and above the largest byte."""

    below: float
    above: float


@dataclass
class Layer:
    """A sum of products: its ``node``, how its bytes are written down ("QDQ", "QOperator",
    "FakeQuantize", "dynamic" or "float"), and the numbers of what it reads, of its weights and of
    its result, None where these are floats or are not constant.

    ``clipped`` and ``pairs`` are known for a picture only.
    """

    node: Node
    notation: str
    x: Numbers | None = None
    weights: Numbers | None = None
    integers: np.ndarray | None = None
    y: Numbers | None = None
    result: str = ""
    clipped: Clipped | None = None
    pairs: PairSums | None = None


def audit(graph: Graph, feeds: Feeds | None = None, threads: int | None = None) -> list[Layer]:
    """The layers of ``graph``, with ``feeds`` also what becomes of these.

    Raises InputError and ExecutionError as running does.
    """
    if feeds is not None:
        graph = specialise(graph, {n: TensorType(a.dtype, a.shape) for n, a in feeds.items()})
    plain = one_notation(graph)
    layers = _Search(graph, plain).layers()
    if feeds is not None:
        _measure(layers, Session(plain, threads=threads), feeds)
    return layers


def _measure(layers: list[Layer], session: Session, feeds: Feeds) -> None:
    """Fill in what the values of a run tell."""
    unknown = [input_name(layer.node, 2) for layer in layers if layer.x is None]
    zeros = dict(observed(session, list(dict.fromkeys(filter(None, unknown))), feeds))
    read = [layer.node.inputs[0] for layer in layers if layer.integers is not None]
    made = [layer.result for layer in layers if layer.result]
    for name, value in observed(session, list(dict.fromkeys([*read, *made])), feeds):
        for layer in layers:
            if layer.integers is not None and layer.node.inputs[0] == name:
                zero = zeros.get(input_name(layer.node, 2))
                layer.pairs = pair_sums(layer, value, 0 if zero is None else int(zero.flat[0]))
            if layer.result == name:
                layer.clipped = clipped(layer, value)


def clipped(layer: Layer, value: np.ndarray) -> Clipped:
    """What the quantiser of the floats ``value`` cuts off: what is off by more than rounding is."""
    assert layer.y is not None
    limits = np.iinfo(layer.y.dtype)
    steps = value / layer.y.scale.reshape(()) + layer.y.zero_point.reshape(())
    return Clipped(
        float((steps < limits.min - 0.5).mean()), float((steps > limits.max + 0.5).mean())
    )


def pair_sums(layer: Layer, value: np.ndarray, zero_point: int = 0) -> PairSums:
    """Of a layer that reads ``value``: floats on the grid ``x``, or bytes with ``zero_point``."""
    node = layer.node
    weights = layer.integers
    assert weights is not None
    data, zero_point = _as_uint8(layer, value, zero_point)
    if weights.dtype == np.uint8:
        weights = (weights.astype(np.int16) - _OFFSET).astype(np.int8)
    group: Any = attribute(node, "group", 1)
    if node.op in ("Conv", "ConvInteger"):
        names = ("strides", "dilations", "pads", "auto_pad")
        layout: dict[str, Any] = {n: node.attributes[n] for n in names if n in node.attributes}
        rules = convolution(data.shape, weights.shape, group, **layout)
        axes = place(rules, data.shape[2:])
        return of_convolution(data, zero_point, weights, axes, group)
    if node.op == "ConvTranspose":
        return of_transposed_convolution(data, weights, group)
    transposed = node.op == "Gemm" and attribute(node, "transB", 0)
    return of_product(data, weights.T if transposed else weights)


def _as_uint8(layer: Layer, value: np.ndarray, zero: int) -> tuple[np.ndarray, int]:
    """Bytes as a kernel takes them, and their zero point."""
    steps, dtype = value.astype(np.float32), value.dtype
    if layer.x is not None:
        zero, dtype = int(layer.x.zero_point.reshape(())), layer.x.dtype
        steps = np.rint(value / layer.x.scale.reshape(())) + zero
    offset = _OFFSET if dtype == np.int8 else 0
    return np.clip(steps + offset, 0, 255).astype(np.uint8), zero + offset


class _Search:
    """Finds layers in ``graph``, which is ``original`` in one notation."""

    def __init__(self, original: Graph, graph: Graph):
        self.graph = graph
        self.maker = {o: n for n in graph.nodes for o in n.outputs if o}
        self.before = {o: n for n in original.nodes for o in n.outputs if o}
        self.fake = any(map(is_fake_quantize, original.nodes))

    def layers(self) -> list[Layer]:
        return [
            self.layer(node)
            for node in self.graph.nodes
            if has(node, Trait.WEIGHTED) or kind(node) in _OF_INTEGERS
        ]

    def layer(self, node: Node) -> Layer:
        if kind(node) in _OF_INTEGERS:
            return Layer(node, "dynamic", integers=self.graph.constants.get(node.inputs[1]))
        source, stored = self.dequantiser(node.inputs[0]), self.maker.get(node.inputs[1])
        x = None if source is None else self.numbers(source)
        weights = None if stored is None else self.numbers(stored)
        integers = None if stored is None else self.graph.constants.get(stored.inputs[0])
        if x is None or weights is None or integers is None:
            return Layer(node, "float")
        quantiser = self.quantiser(node.outputs[0])
        y = None if quantiser is None else self.numbers(quantiser)
        result = quantiser.inputs[0] if quantiser is not None and y is not None else ""
        return Layer(node, self.notation(quantiser), x, weights, integers, y, result)

    def notation(self, quantiser: Node | None) -> str:
        """By what made the layer's bytes in the original graph."""
        if self.fake:
            return "FakeQuantize"
        made = None if quantiser is None else self.before.get(quantiser.outputs[0])
        of_integers = made is not None and made.op.startswith(("QLinear", "QGemm"))
        return "QOperator" if of_integers else "QDQ"

    def dequantiser(self, name: str) -> Node | None:
        """What made ``name`` of bytes, before it moved."""
        node = self.maker.get(name)
        while node is not None and (moves(node) or kind(node) == "Pad"):
            node = self.maker.get(node.inputs[0])
        return node if node is not None and kind(node) == "DequantizeLinear" else None

    def quantiser(self, name: str) -> Node | None:
        """What makes bytes of ``name``, or of what activations make of it."""
        readers = [n for n in self.graph.nodes if name in n.reads]
        for node in readers:
            if kind(node) == "QuantizeLinear":
                return node
        if len(readers) == 1 and _is_between(readers[0]):
            return self.quantiser(readers[0].outputs[0])
        return None

    def numbers(self, node: Node) -> Numbers | None:
        """The numbers of a quantiser or dequantiser of bytes."""
        if kind(node) not in ("QuantizeLinear", "DequantizeLinear"):
            return None
        scale = self.graph.constants.get(node.inputs[1])
        zero = self.graph.constants.get(input_name(node, 2))
        integers = node.outputs[0] if node.op == "QuantizeLinear" else node.inputs[0]
        dtype = self.graph.types[integers].dtype
        if scale is None or dtype not in BYTES or (input_name(node, 2) and zero is None):
            return None
        assert dtype is not None
        if kind(node) == "QuantizeLinear" and scale.size != 1:
            return None
        return Numbers(dtype, scale, np.zeros((), dtype) if zero is None else zero)


def _is_between(node: Node) -> bool:
    """Whether ``node`` may stand between a layer and the quantiser of its result."""
    return has(node, Trait.ACTIVATION) or kind(node) in ("Add", "BatchNormalization")
