"""Writes quantisers into a network of floats: QuantizeLinear and DequantizeLinear of ONNX.

Values become uint8, with any zero point. Weights become int8 without one, from -127 to 127, with
one scale for all or one for each output channel. A bias becomes int32, whose scale is that of the
products it is added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.ops.bytes import Grid
from minseg.ops.infer import infer
from minseg.passes.rewrite import attribute, input_name
from minseg.quantization.points import Points, has_weights

#: The first version of ONNX's operators that quantises per axis.
OPSET = 13

#: The largest weight's integer.
LARGEST = 127

#: A bias of so many steps still leaves room for the sums that it is added to.
BIAS_STEPS = 2**30


@dataclass(frozen=True)
class Quantisation:
    """A network with quantisers. ``values`` tells by the name of each value that became bytes what
    it is called once it is float again; ``weights`` the rounded weights by their node's name."""

    graph: Graph
    values: Mapping[str, str]
    weights: Mapping[str, np.ndarray]


def insert_quantisers(
    graph: Graph, points: Points, grids: Mapping[str, Grid], *, per_channel: bool
) -> Quantisation:
    """``graph`` with quantisers at ``points``, on the ``grids`` of those that are measured.

    Inputs, outputs and metadata stay.
    """
    work = _Work(graph, points, grids, per_channel)
    for value in graph.inputs:
        work.quantise(value.name)
    for node in graph.nodes:
        work.append(node)
    result = replace(
        graph, nodes=tuple(work.nodes), constants=work.constants, types={}, opsets=graph.opsets
    )
    kept = {n: a for n, a in result.constants.items() if n in result.reads}
    result = replace(result, constants=kept)
    return Quantisation(replace(result, types=infer(result)), work.values, work.weights)


@dataclass
class _Work:
    graph: Graph
    points: Points
    grids: Mapping[str, Grid]
    per_channel: bool
    nodes: list[Node] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.constants = dict(self.graph.constants)
        self._taken = {name for scope in self.graph.scopes for name in scope.own_names}

    def append(self, node: Node) -> None:
        """Put in ``node``, its weights in integers, and quantisers behind it."""
        inputs = [self.values.get(n, n) for n in node.inputs]
        if has_weights(node, self.graph) and node.inputs[0] in self.values:
            inputs[1:] = self.integers(node)
        self.nodes.append(replace(node, inputs=tuple(inputs)))
        for name in node.outputs:
            self.quantise(name)

    def quantise(self, name: str) -> None:
        """A quantiser and a dequantiser behind ``name``, where it is a point."""
        if name not in self.points.leader:
            return
        grid = self.grid(name)
        numbers = (
            self.keep(f"{name}/scale", np.array(grid.scale)),
            self.keep(f"{name}/zero_point", np.array(grid.zero_point, np.uint8)),
        )
        bytes_, floats = self.fresh(f"{name}/quantized"), self.fresh(f"{name}/dequantized")
        self.add("QuantizeLinear", (name, *numbers), bytes_)
        self.add("DequantizeLinear", (bytes_, *numbers), floats)
        self.values[name] = floats

    def grid(self, name: str) -> Grid:
        return self.grids[self.points.leader[name]]

    def integers(self, node: Node) -> list[str]:
        """Weights and bias of ``node`` as floats that come from integers."""
        weights = self.constants[node.inputs[1]]
        bias = self.constants.get(input_name(node, 2))
        axis = _output_axis(node, weights) if self.per_channel else None
        x_scale = self.grid(node.inputs[0]).scale
        group = int(attribute(node, "group", 1)) if node.op == "ConvTranspose" else 1
        simple = bias is not None and bias.ndim == 1 and bias.dtype == np.float32
        scale = weight_scale(weights, axis)
        if simple and bias is not None:
            scale = _wide_enough(scale, bias, x_scale, group)
        q, self.weights[node.name] = rounded_weights(weights, scale, axis)
        names = [self.dequantised(node.inputs[1], q, scale, axis)]
        if simple and bias is not None:
            scales = (np.tile(scale, group) if scale.ndim else scale) * x_scale
            steps = np.rint(bias / scales.astype(np.float64)).astype(np.int32)
            names.append(self.dequantised(node.inputs[2], steps, scales, 0 if scale.ndim else None))
        elif input_name(node, 2):
            names.append(node.inputs[2])
        return names

    def dequantised(self, name: str, q: np.ndarray, scale: np.ndarray, axis: int | None) -> str:
        """The name of the floats that stand for the integers ``q``, kept in place of ``name``."""
        inputs = (
            self.keep(f"{name}/quantized", q),
            self.keep(f"{name}/scale", scale.astype(np.float32)),
            self.keep(f"{name}/zero_point", np.zeros(scale.shape, q.dtype)),
        )
        floats = self.fresh(f"{name}/dequantized")
        self.add("DequantizeLinear", inputs, floats, axis)
        return floats

    def add(self, op: str, inputs: tuple[str, ...], output: str, axis: int | None = None) -> None:
        attributes = {} if axis is None else {"axis": axis}
        self.nodes.append(Node(output, op, inputs, (output,), attributes, opset=OPSET))

    def keep(self, name: str, array: np.ndarray) -> str:
        name = self.fresh(name)
        self.constants[name] = array
        return name

    def fresh(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _output_axis(node: Node, weights: np.ndarray) -> int | None:
    """The axis of output channels: of Conv [M, C, ...] it is 0, of ConvTranspose [C, M, ...] 1, of
    a matrix what the product leaves."""
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1
    if weights.ndim != 2:
        return None
    return 0 if attribute(node, "transB", 0) else 1


def weight_scale(weights: np.ndarray, axis: int | None) -> np.ndarray:
    """The float32 scale [] or [size of ``axis``] at which the largest weight is 127."""
    others = None if axis is None else tuple(i for i in range(weights.ndim) if i != axis)
    largest = np.abs(weights).max(axis=others)
    return np.asarray(np.where(largest > 0, largest, 1) / LARGEST, np.float32)


def _wide_enough(
    scale: np.ndarray, bias: np.ndarray, x_scale: np.float32, group: int
) -> np.ndarray:
    """``scale``, larger where the bias would be more than `BIAS_STEPS` steps."""
    largest = np.abs(bias).reshape(group, -1).max(axis=0)
    least = (largest if scale.ndim else largest.max()) / (BIAS_STEPS * np.float64(x_scale))
    return np.asarray(np.maximum(scale, least), np.float32)


def rounded_weights(
    weights: np.ndarray, scale: np.ndarray, axis: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The int8 nearest to ``weights``, and the float32 that they stand for."""
    spread = scale if axis is None else scale.reshape(-1, *[1] * (weights.ndim - 1 - axis))
    q = np.clip(np.rint(weights / spread), -LARGEST, LARGEST)
    return q.astype(np.int8), (q * spread).astype(np.float32)
