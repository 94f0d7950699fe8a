"""Problems of element-wise nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minseg.graph.domains import MINSEG, OPENVINO
from minseg.graph.model import Graph, Node
from minseg.kernels.elementwise.elementwise import Elementwise
from minseg.kernels.elementwise.formulas import formula_of
from minseg.ops.registry import attributes_of
from minseg.passes.rewrite import kind
from minseg.plan.task import Statement, Task, is_f32, shape_of


def elementwise(node: Node, graph: Graph) -> list[Task]:
    """A node whose operator kernels have a formula for; its numbers are the operator's attributes,
    in their order."""
    if formula_of(kind(node)) is None:
        return []
    numbers: list[Any] = list(attributes_of(node).values())
    return _task(kind(node), node, graph, node.inputs, *map(float, numbers))


def _task(
    op: str, node: Node, graph: Graph, operands: Sequence[str], alpha: float = 0, beta: float = 0
) -> list[Task]:
    out = node.outputs[0]
    if not is_f32(graph, out, *operands):
        return []
    shape = shape_of(graph, out)
    inputs = tuple(_operand(name, shape, graph) for name in operands)
    shapes = tuple(shape_of(graph, x) if isinstance(x, str) else x.shape for x in inputs)
    return [Task(Elementwise(op, shape, shapes, alpha, beta), inputs, out)]


def _operand(name: str, shape: tuple[int, ...], graph: Graph) -> str | np.ndarray:
    """A tensor's name; but one number a channel where a constant says no more than that."""
    constant = graph.constants.get(name)
    if constant is None or len(shape) != 4:
        return name
    padded = constant.reshape((1,) * (4 - constant.ndim) + constant.shape)
    if padded.shape[0] != 1 or padded.shape[2:] != (1, 1):
        return name
    return np.ascontiguousarray(np.broadcast_to(padded, (1, shape[1], 1, 1)))


def clip(node: Node, graph: Graph) -> list[Task]:
    bounds: list[Any] = [
        node.attributes.get("min", -np.inf),
        node.attributes.get("max", np.inf),
    ]
    for i, name in enumerate(node.inputs[1:3]):
        if name:
            if name not in graph.constants:
                return []
            bounds[i] = graph.constants[name].item()
    return _task("Clip", node, graph, node.inputs[:1], *map(float, bounds))


def swish(node: Node, graph: Graph) -> list[Task]:
    if node.attributes.get("alpha", 1.0) != 1.0:
        return []
    return _task("Silu", node, graph, node.inputs)


def fake_quantize(node: Node, graph: Graph) -> list[Task]:
    low, high = (graph.constants.get(name) for name in node.inputs[1:3])
    levels = node.attributes.get("levels")
    if low is None or high is None or not isinstance(levels, int) or not np.all(low < high):
        return []
    return _task("FakeQuantize", node, graph, node.inputs, float(levels - 1))


def quantize_dequantize(node: Node, graph: Graph) -> list[Task]:
    x, scale_name, zero_name = node.inputs
    scale, zero = graph.constants.get(scale_name), graph.constants.get(zero_name)
    if scale is None or zero is None or not is_f32(graph, x, scale_name):
        return []
    limits = np.iinfo(zero.dtype)
    shape = shape_of(graph, x)
    operands = [scale, zero.astype(np.float32)]
    if scale.size > 1:
        axis: Any = node.attributes.get("axis", 1)
        after = len(shape) - 1 - axis % len(shape)
        operands = [o.reshape(-1, *(1,) * after) for o in operands]
    elif len(shape) == 4:
        operands = [np.broadcast_to(o.reshape(1, 1, 1), (shape[1], 1, 1)) for o in operands]
    if len(shape) == 4 and operands[0].ndim == 3:
        operands = [o[None] for o in operands]
    laid = tuple(np.ascontiguousarray(o) for o in operands)
    problem = Elementwise(
        *("QuantizeDequantize", shape, (shape, *(o.shape for o in laid))),
        *(float(limits.min), float(limits.max)),
    )
    return [Task(problem, (x, *laid), node.outputs[0])]


def batch_normalization(node: Node, graph: Graph) -> list[Task]:
    x, *names = node.inputs
    constants = [graph.constants.get(n) for n in names]
    shape = shape_of(graph, x)
    if any(c is None for c in constants) or any(node.outputs[1:]) or len(shape) < 2:
        return []
    if node.attributes.get("training_mode", 0) or not is_f32(graph, x):
        return []
    if node.attributes.get("spatial", 1) != 1:
        return []
    gamma, beta, mean, variance = (np.asarray(c, np.float64) for c in constants)
    epsilon: Any = node.attributes.get("epsilon", 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    along = (1, shape[1], *(1,) * (len(shape) - 2))
    operands = [o.astype(np.float32).reshape(along) for o in (scale, beta - mean * scale)]
    problem = Elementwise("Affine", shape, (shape, along, along))
    return [Task(problem, (x, *operands), node.outputs[0])]


STATEMENTS: dict[tuple[str, str], Statement] = {
    ("", "BatchNormalization"): batch_normalization,
    ("", "Clip"): clip,
    ("", "Swish"): swish,
    (OPENVINO, "FakeQuantize"): fake_quantize,
    (MINSEG, "QuantizeDequantize"): quantize_dequantize,
}
