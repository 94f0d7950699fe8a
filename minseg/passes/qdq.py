"""One notation for quantised networks: operators of floats between dequantisers and quantisers.

    QLinearConv(x, s, z, w, ...)  =  QuantizeLinear(Conv(DequantizeLinear(x, s, z), ...), ...)

Other notations are spread out to it: operators of integers, as onnxruntime's quantiser writes
them, and FakeQuantize, where its range is a grid of integers. Weights become constant integers
behind a DequantizeLinear. So the pass that makes integer steps knows one notation, and what it
can't make integer steps of is computed in floats by what computes all others. Results are those of
the operators that were there, but for sums of floats that lie next to the middle between two
integers.

An operator whose numbers (scales, zero points) are not constant stays what it is. What only moves
integers is spread out where these are int8; uint8 needs no other notation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from minseg.graph.domains import MICROSOFT
from minseg.graph.fake_quantize import Pair, is_fake_quantize, pair_of
from minseg.graph.model import Attribute, Graph, Node
from minseg.ops.dialects.microsoft import sum_parameters
from minseg.ops.evaluate import run_node
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    input_name,
    is_same_shape,
    kind,
    make,
    make_own,
    moves,
    sweep,
)

INT8 = np.dtype(np.int8)


def spread_quantised(graph: Graph) -> Graph:
    """See the module's docstring."""
    return sweep(graph, _operator, _fake_quantize, _integer_weights, _moved_int8)


@dataclass
class _Spread:
    """Nodes in the making, that stand for ``node``."""

    node: Node
    state: Sweep
    nodes: list[Node] = field(default_factory=list)

    def add(self, op: str, inputs: Sequence[str], **attributes: Attribute) -> str:
        """The output of a new node of floats."""
        name = self.state.fresh(f"{self.node.outputs[0]}/{op}")
        self.nodes.append(make(op, inputs, (name,), name, opset=21, **attributes))
        return name

    def number(self, index: int) -> np.ndarray:
        """The constant input ``index``."""
        return self.state.constants[self.node.inputs[index]]

    def floats(self, index: int, axis: int | None = None) -> str:
        """Inputs ``index`` to ``index + 2``, a tensor, its scale and zero point, as floats."""
        x, scale, zero = (input_name(self.node, i) for i in range(index, index + 3))
        return self.dequantised(x, scale, zero, axis)

    def dequantised(self, x: str, scale: str, zero: str, axis: int | None = None) -> str:
        names = (scale, zero) if zero else (scale,)
        count = max(self.state.constants[name].size for name in names)
        along = {} if axis is None or count == 1 else {"axis": axis}
        parameters = (self.repeated(name, count) for name in names)
        return self.add("DequantizeLinear", (x, *parameters), **along)

    def repeated(self, parameter: str, count: int) -> str:
        """A scale or zero point as a list of ``count``, where it is one number for all of them."""
        given = self.state.constants[parameter]
        if given.size == count:
            return parameter
        return self.state.add_constant(np.broadcast_to(given.reshape(-1), (count,)), parameter)

    def quantised(self, x: str, scale: str, zero: str) -> Sequence[Node]:
        """All nodes, the last of which quantises ``x``; the output has the type that it had."""
        output = self.node.outputs[0]
        if not zero:
            dtype = self.state.type(output).dtype
            zero = self.state.add_constant(np.zeros((), dtype), f"{output}/zero_point")
        inputs = (x, scale, zero)
        return (*self.nodes, make("QuantizeLinear", inputs, (output,), self.node.name, opset=21))

    def result(self, index: int, x: str) -> Sequence[Node]:
        """`quantised` by inputs ``index`` (scale) and ``index + 1`` (zero point)."""
        node = self.node
        return self.quantised(x, input_name(node, index), input_name(node, index + 1))

    def bias(self, index: int, scale: np.ndarray) -> list[str]:
        """Input ``index``, int32 of one scale or one for each of the last axis, as floats; nothing
        where it is left out."""
        name = input_name(self.node, index)
        if not name:
            return []
        rank = self.state.type(name).rank or 1
        scale = np.asarray(scale, np.float32).reshape(-1 if scale.size > 1 else ())
        scales = self.state.add_constant(scale, f"{name}/scale")
        return [self.dequantised(name, scales, "", axis=rank - 1)]


# --- operators of integers ---


def _operator(node: Node, state: Sweep) -> Sequence[Node] | None:
    spread = _OPERATORS.get(kind(node))
    if spread is None or not all(n in state.constants for n in _parameters(node)):
        return None
    return spread(_Spread(node, state))


def _parameters(node: Node) -> list[str]:
    """The scales and zero points among the inputs."""
    tensors = _TENSORS.get(kind(node))
    if tensors is None:  # QLinearConcat: two parameters, then a tensor and two parameters each
        return [n for i, n in enumerate(node.inputs) if i % 3 != 2]
    return [n for i, n in enumerate(node.inputs) if i not in tensors and n]


def _conv(s: _Spread) -> Sequence[Node]:
    bias = s.bias(8, s.number(1) * s.number(4))
    inputs = (s.floats(0), s.floats(3, axis=0), *bias)
    return s.result(6, s.add("Conv", inputs, **s.node.attributes))


def _matmul(s: _Spread) -> Sequence[Node] | None:
    """Grids of rows stay: DequantizeLinear has them of whole matrices only."""
    rank = s.state.type(s.node.inputs[3]).rank
    rows, columns = (s.number(i) for i in (1, 2, 6, 7)), (s.number(i) for i in (4, 5))
    if rank is None or any(n.size != 1 for n in rows) or any(n.ndim > 1 for n in columns):
        return None
    return s.result(6, s.add("MatMul", (s.floats(0), s.floats(3, axis=rank - 1))))


def _gemm(s: _Spread) -> Sequence[Node]:
    """``alpha`` goes into the scale of A."""
    columns = 0 if attribute(s.node, "transB", 0) else 1
    scale = np.asarray(np.float32(attribute(s.node, "alpha", 1.0)) * s.number(1), np.float32)
    a = s.state.add_constant(scale, f"{s.node.outputs[0]}/scale")
    floats = s.dequantised(s.node.inputs[0], a, input_name(s.node, 2))
    inputs = (floats, s.floats(3, axis=columns), *s.bias(6, scale * s.number(4)))
    attributes = {n: v for n, v in s.node.attributes.items() if n != "alpha"}
    y = s.add("Gemm", inputs, **attributes)
    if input_name(s.node, 7):
        return s.result(7, y)
    *others, last = s.nodes
    return (*others, replace(last, outputs=s.node.outputs))


def _binary(op: str) -> Callable[[_Spread], Sequence[Node]]:
    return lambda s: s.result(6, s.add(op, (s.floats(0), s.floats(3))))


def _sum(s: _Spread) -> Sequence[Node]:
    """Of integers as they are, where operands of one shape can become an IntegerAdd: of rounded
    floats some sums are others, and of many layers they change all that follows."""
    types = [s.state.type(s.node.inputs[i]) for i in (0, 3)]
    output = s.node.outputs[0]
    dtype = s.state.type(output).dtype
    if not is_same_shape(*types) or dtype is None:
        return _binary("Add")(s)
    parameters: Any = [s.state.constant(input_name(s.node, i)) for i in (1, 2, 4, 5, 6, 7)]
    a_scale, b_scale, shift = map(float, sum_parameters(*parameters))
    one = s.state.add_constant(np.ones((), np.float32), f"{output}/one")
    zero = s.state.add_constant(np.zeros((), dtype), f"{output}/zero")
    integers = tuple(s.dequantised(s.node.inputs[i], one, zero) for i in (0, 3))
    total = s.state.fresh(f"{output}/FusedSum")
    sizes = {"a_scale": a_scale, "b_scale": b_scale, "shift": shift}
    s.nodes.append(make_own("FusedSum", integers, (total,), total, **sizes))
    return s.quantised(total, one, zero)


def _unary(op: str) -> Callable[[_Spread], Sequence[Node]]:
    return lambda s: s.result(3, s.add(op, (s.floats(0),), **s.node.attributes))


def _average_pool(s: _Spread) -> Sequence[Node] | None:
    attributes = dict(s.node.attributes)
    sticks_out = attribute(s.node, "ceil_mode", 0) and attribute(s.node, "count_include_pad", 0)
    if attributes.pop("channels_last", 0) or sticks_out:
        return None
    op = "AveragePool" if s.node.op == "QLinearAveragePool" else "GlobalAveragePool"
    return s.result(3, s.add(op, (s.floats(0),), **attributes))


def _softmax(s: _Spread) -> Sequence[Node] | None:
    """The definition multiplies by a whole number: what 1 / scale is rounded down to."""
    whole = 1 / np.float64(s.number(3).item())
    if whole != np.floor(whole):
        return None
    opset: Any = s.node.attributes["opset"]
    floats, axis = s.floats(0), attribute(s.node, "axis", -1)
    name = s.state.fresh(f"{s.node.outputs[0]}/Softmax")
    s.nodes.append(make("Softmax", (floats,), (name,), name, opset=opset, axis=axis))
    return s.result(3, name)


def _concat(s: _Spread) -> Sequence[Node]:
    parts = [s.floats(i) for i in range(2, len(s.node.inputs), 3)]
    return s.result(0, s.add("Concat", parts, **s.node.attributes))


def _where(s: _Spread) -> Sequence[Node]:
    return s.result(7, s.add("Where", (s.node.inputs[0], s.floats(1), s.floats(4))))


def _standard(s: _Spread) -> Sequence[Node]:
    return (replace(s.node, domain="", opset=21),)


_Rule = Callable[[_Spread], "Sequence[Node] | None"]

#: By operator: which inputs are tensors, and how it is spread out.
_RULES: dict[str, tuple[tuple[int, ...] | None, _Rule]] = {
    "QLinearConv": ((0, 3, 8), _conv),
    "QLinearMatMul": ((0, 3), _matmul),
    f"{MICROSOFT}.QGemm": ((0, 3, 6), _gemm),
    f"{MICROSOFT}.QLinearAdd": ((0, 3), _sum),
    f"{MICROSOFT}.QLinearMul": ((0, 3), _binary("Mul")),
    f"{MICROSOFT}.QLinearWhere": ((0, 1, 4), _where),
    f"{MICROSOFT}.QLinearConcat": (None, _concat),
    f"{MICROSOFT}.QLinearLeakyRelu": ((0,), _unary("LeakyRelu")),
    f"{MICROSOFT}.QLinearSigmoid": ((0,), _unary("Sigmoid")),
    f"{MICROSOFT}.QLinearSoftmax": ((0,), _softmax),
    f"{MICROSOFT}.QLinearAveragePool": ((0,), _average_pool),
    f"{MICROSOFT}.QLinearGlobalAveragePool": ((0,), _average_pool),
    f"{MICROSOFT}.QuantizeLinear": ((0,), _standard),
    f"{MICROSOFT}.DequantizeLinear": ((0,), _standard),
}
_TENSORS = {name: tensors for name, (tensors, _) in _RULES.items()}
_OPERATORS = {name: rule for name, (_, rule) in _RULES.items()}


# --- FakeQuantize ---


def _fake_quantize(node: Node, state: Sweep) -> Sequence[Node] | None:
    if not is_fake_quantize(node):
        return None
    x, *ends = node.inputs
    levels, values = node.attributes["levels"], [state.constant(n) for n in ends]
    known = [v for v in values if v is not None]
    if not isinstance(levels, int) or len(known) < len(ends):
        return None
    pair = pair_of(levels, state.type(x), known)
    if pair is None:
        return None
    weights = state.constant(x)
    if weights is not None:
        return _fake_quantized_weights(node, weights, pair, state)
    return _fake_quantized_values(node, pair, state)


def _fake_quantized_values(node: Node, pair: Pair, state: Sweep) -> Sequence[Node] | None:
    s = _Spread(node, state)
    x = node.inputs[0]
    if pair.limits is not None:
        if pair.axis is not None:
            return None
        zero = int(pair.zero_point)
        ends = (np.float32((level - zero) * pair.scale) for level in pair.limits)
        names = (state.add_constant(np.asarray(e), f"{node.outputs[0]}/limit") for e in ends)
        x = s.add("Clip", (x, *names))
    axis = {} if pair.axis is None else {"axis": pair.axis}
    scale, zero_point = _numbers(node, pair.scale, pair, state)
    integers = s.add("QuantizeLinear", (x, scale, zero_point), **axis)
    numbers = _numbers(node, pair.output_scale, pair, state)
    last = make("DequantizeLinear", (integers, *numbers), node.outputs, node.name, opset=21, **axis)
    return (*s.nodes, last)


def _numbers(node: Node, scale: np.ndarray, pair: Pair, state: Sweep) -> tuple[str, str]:
    """Names of a scale and of the zero point."""
    y = node.outputs[0]
    return state.add_constant(scale, f"{y}/scale"), state.add_constant(pair.zero_point, f"{y}/zero")


def _fake_quantized_weights(
    node: Node, weights: np.ndarray, pair: Pair, state: Sweep
) -> Sequence[Node] | None:
    """Integers and a DequantizeLinear, where that gives the same weights as far as float32 tells
    the ends of their range."""
    axis = {} if pair.axis is None else {"axis": pair.axis}
    y = node.outputs[0]
    quantise, dequantise = (
        make(op, ("x", "scale", "zero"), (y,), node.name, opset=21, **axis)
        for op in ("QuantizeLinear", "DequantizeLinear")
    )
    (integers,) = run_node(quantise, (weights, pair.scale, pair.zero_point), {})
    (floats,) = run_node(dequantise, (integers, pair.output_scale, pair.zero_point), {})
    (exact,) = run_node(node, [state.constants[n] for n in node.inputs], {})
    widest = np.maximum(*(np.abs(state.constants[n]) for n in node.inputs[3:]))
    if (np.abs(floats - exact) > np.spacing(widest)).any():
        return None
    inputs = (
        state.add_constant(integers, f"{y}/integers"),
        *_numbers(node, pair.output_scale, pair, state),
    )
    return (replace(dequantise, inputs=inputs),)


# --- weights ---


def _integer_weights(node: Node, state: Sweep) -> Sequence[Node] | None:
    """What a QuantizeLinear makes of constants."""
    if kind(node) != "QuantizeLinear" or not all(n in state.constants for n in node.inputs if n):
        return None
    arguments = [state.constants[n] if n else None for n in node.inputs]
    state.set_constant(node.outputs[0], run_node(node, arguments, {})[0])
    return ()


# --- int8 that moves ---


def _moved_int8(node: Node, state: Sweep) -> Sequence[Node] | None:
    """What moves int8 moves floats between a dequantiser and quantisers of the same grid."""
    moved = moves(node) or kind(node) == "Pad"
    quantise = state.producer(node.inputs[0], "QuantizeLinear") if moved else None
    if quantise is None or state.type(node.inputs[0]).dtype != INT8:
        return None
    scale, zero = quantise.inputs[1:]
    numbers = [state.constants[n] for n in (scale, zero) if n in state.constants]
    if len(numbers) != 2 or any(n.size != 1 for n in numbers):
        return None
    s = _Spread(node, state)
    inputs = [s.dequantised(node.inputs[0], scale, zero), *node.inputs[1:]]
    if node.op == "Pad" and attribute(node, "mode", "constant") == "constant":
        fill = state.constant(input_name(node, 2))
        if fill is None:
            return None
        real = (fill.astype(np.float32) - numbers[1]) * numbers[0]
        inputs[2] = state.add_constant(real.astype(np.float32), f"{node.outputs[0]}/fill")
    results = node.outputs[:1] if node.op == "MaxPool" else node.outputs
    floats = [state.fresh(f"{name}/floats") for name in results]
    outputs = (*floats, *node.outputs[len(results) :])
    s.nodes.append(replace(node, inputs=tuple(inputs), outputs=outputs))
    ends = (
        make("QuantizeLinear", (x, scale, zero), (y,), f"{node.name}/{y}", opset=21)
        for x, y in zip(floats, results, strict=True)
    )
    return (*s.nodes, *ends)
