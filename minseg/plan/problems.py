"""What each node asks of the kernels: the bridge between ONNX nodes and kernel problems.

A function here looks at one node whose types are all known and states its problems, or returns
none where no family covers the node (its reference operator will run).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.kernels.activation import FORMULAS, Activation
from minseg.kernels.conv import Conv2d
from minseg.kernels.elementwise import Elementwise
from minseg.kernels.registry import Layout
from minseg.kernels.softmax import ArgMax, Softmax
from minseg.plan.plan import Buffer

#: Operators whose output is the input's elements in the input's order.
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


@dataclass(frozen=True)
class Task:
    """A problem, the tensors it reads (names, or constants of its own), the name of the one it
    writes, and the constants it packs."""

    problem: Any
    inputs: tuple[str | np.ndarray, ...]
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


def _elementwise(op: str, *attributes: tuple[str, float]) -> Callable[[Node, Graph], list[Task]]:
    """An element-wise operator; ``attributes`` are its alpha and beta by name, with defaults."""

    def state(node: Node, graph: Graph) -> list[Task]:
        values = [float(node.attributes.get(n, default)) for n, default in attributes]  # type: ignore[arg-type]
        return _elementwise_task(op, node, graph, node.inputs, *values)

    return state


def _elementwise_task(
    op: str, node: Node, graph: Graph, operands: Sequence[str], alpha: float = 0, beta: float = 0
) -> list[Task]:
    out = node.outputs[0]
    if not _is_f32(graph, out, *operands):
        return []
    shape = _shape(graph, out)
    inputs = tuple(_operand(name, shape, graph) for name in operands)
    shapes = tuple(_shape(graph, x) if isinstance(x, str) else x.shape for x in inputs)
    return [Task(Elementwise(op, shape, shapes, alpha, beta), inputs, out)]


def _operand(name: str, shape: tuple[int, ...], graph: Graph) -> str | np.ndarray:
    """A tensor's name; but one number a channel where a constant says no more than that."""
    constant = graph.constants.get(name)
    if constant is None or len(shape) != 4:
        return name
    padded = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    if padded.shape[0] != 1 or padded.shape[2:] != (1, 1):
        return name
    return np.broadcast_to(padded, (1, shape[1], 1, 1)).astype(np.float32)


def _pairwise(op: str) -> Callable[[Node, Graph], list[Task]]:
    """An operator of any number of inputs that has a kernel for two."""
    state = _elementwise(op)
    return lambda node, graph: state(node, graph) if len(node.inputs) == 2 else []


def _clip(node: Node, graph: Graph) -> list[Task]:
    bounds = [-np.inf, np.inf]
    for i, name in enumerate(node.inputs[1:3]):
        if name:
            if name not in graph.constants:
                return []
            bounds[i] = float(graph.constants[name])
    return _elementwise_task("Clip", node, graph, node.inputs[:1], *bounds)


def _swish(node: Node, graph: Graph) -> list[Task]:
    if node.attributes.get("alpha", 1.0) != 1.0:
        return []
    return _elementwise_task("Silu", node, graph, node.inputs)


def _fake_quantize(node: Node, graph: Graph) -> list[Task]:
    bounds = [graph.constants.get(name) for name in node.inputs[1:]]
    levels = node.attributes.get("levels")
    if any(b is None for b in bounds) or not isinstance(levels, int):
        return []
    if not np.all(bounds[0] < bounds[1]):  # type: ignore[operator]
        return []
    return _elementwise_task("FakeQuantize", node, graph, node.inputs, float(levels - 1))


def _quantize_dequantize(node: Node, graph: Graph) -> list[Task]:
    x, scale, zero_point = node.inputs
    zero = graph.constants.get(zero_point)
    if zero is None or not _is_f32(graph, x, scale, node.outputs[0]):
        return []
    limits = np.iinfo(zero.dtype)
    shape = _shape(graph, node.outputs[0])
    axis: Any = node.attributes.get("axis", 1)
    along = [1] * len(shape)
    if zero.size > 1:
        along[axis] = zero.size
    operands = [graph.constants[scale], zero.astype(np.float32)]
    if len(shape) == 4 and along[0] == along[2] == along[3] == 1:
        along[1], operands = shape[1], [np.broadcast_to(o, (shape[1],)) for o in operands]
    laid = tuple(np.ascontiguousarray(o).reshape(along) for o in operands)
    problem = Elementwise(
        *("QuantizeDequantize", shape, (shape, *(o.shape for o in laid))),
        *(float(limits.min), float(limits.max)),
    )
    return [Task(problem, (x, *laid), node.outputs[0])]


def _along(node: Node, graph: Graph, axis: int) -> tuple[int, int, int]:
    """A shape as outer, axis, inner."""
    shape = _shape(graph, node.inputs[0])
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _softmax(node: Node, graph: Graph) -> list[Task]:
    if node.opset < 13 or not _is_f32(graph, node.inputs[0]):
        return []
    axis: Any = node.attributes.get("axis", -1)
    problem = Softmax(*_along(node, graph, axis))
    return [Task(problem, node.inputs[:1], node.outputs[0])]


def _argmax(node: Node, graph: Graph) -> list[Task]:
    if node.attributes.get("select_last_index", 0) or not _is_f32(graph, node.inputs[0]):
        return []
    axis: Any = node.attributes.get("axis", 0)
    problem = ArgMax(*_along(node, graph, axis))
    return [Task(problem, node.inputs[:1], node.outputs[0])]


_UNARY = ("Abs", "Ceil", "Exp", "Floor", "HardSwish", "Neg", "Reciprocal", "Relu", "Round")
_UNARY += ("Sigmoid", "Sqrt", "Tanh")
_BINARY = ("Add", "Sub", "Mul", "Div", "PRelu")

PROBLEMS: dict[tuple[str, str], Callable[[Node, Graph], list[Task]]] = {
    ("", "Conv"): _conv,
    ("minseg", "FusedConv"): _conv,
    **{("", op): _elementwise(op) for op in _UNARY + _BINARY},
    **{("", op): _pairwise(op) for op in ("Max", "Min")},
    ("", "Sum"): _pairwise("Add"),
    ("", "LeakyRelu"): _elementwise("LeakyRelu", ("alpha", 0.01)),
    ("", "HardSigmoid"): _elementwise("HardSigmoid", ("alpha", 0.2), ("beta", 0.5)),
    ("", "Elu"): _elementwise("Elu", ("alpha", 1.0)),
    ("", "Clip"): _clip,
    ("", "Swish"): _swish,
    ("org.openvinotoolkit", "FakeQuantize"): _fake_quantize,
    ("minseg", "QuantizeDequantize"): _quantize_dequantize,
    ("", "Softmax"): _softmax,
    ("", "ArgMax"): _argmax,
}


def reorder_task(buffer: Buffer, layout: Layout) -> Any:
    """The problem of moving a tensor into another layout."""
    from minseg.kernels.reorder import Reorder

    return Reorder(*buffer.shape, to=layout)
