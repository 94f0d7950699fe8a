"""Problems of nodes that reduce windows or axes: convolutions, pools, softmax, arg-max."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.kernels.conv.problem import Conv2d, ConvTranspose2d, Geometry
from minseg.kernels.core.activation import FORMULAS, Activation
from minseg.kernels.core.epilogue import Epilogue
from minseg.kernels.normalize.softmax import ArgMax, Softmax
from minseg.kernels.pool.pool import Pool2d, Windows, global_pool
from minseg.ops.geometry import place, sliding, transposed
from minseg.plan.task import (
    Statement,
    Task,
    around_axis,
    attributes,
    input_name,
    is_f32,
    is_u8,
    shape_of,
)


def activation_of(node: Node) -> Activation | None:
    """The activation fused into a node; None if kernels have no formula for it."""
    kind = str(node.attributes.get("activation", ""))
    parameters: Any = node.attributes.get("activation_params", ())
    return Activation(kind, *map(float, parameters)) if kind in FORMULAS else None


def sizes(node: Node, shape: Sequence[int], w: np.ndarray, transposes: bool) -> dict[str, Any]:
    """Geometry and groups of a `Convolution`, transposed or not."""
    names = ["strides", "dilations", "pads", "auto_pad"]
    groups: Any = node.attributes.get("group", 1)
    if transposes:
        layout = attributes(node, *names, "output_padding", "output_shape")
        v, h = place(transposed(w.shape[2:], **layout), shape[2:])
    else:
        v, h = place(sliding(w.shape[2:], **attributes(node, *names)), shape[2:])
    N, IC = shape[:2]
    OC = w.shape[1] * groups if transposes else len(w)
    geometry = Geometry(
        *(N, IC, v.input, h.input, OC, v.output, h.output, v.kernel, h.kernel),
        *(v.stride, h.stride, v.dilation, h.dilation, v.pad_begin, h.pad_begin),
    )
    return {**geometry._asdict(), "groups": groups}


def convolution(transposes: bool) -> Statement:
    """Conv or ConvTranspose, with what is fused into them."""

    def state(node: Node, graph: Graph) -> list[Task]:
        x, w, b, z = (input_name(node, i) for i in range(4))
        shape, weights, activation = shape_of(graph, x), graph.constants.get(w), activation_of(node)
        if len(shape) != 4 or weights is None or activation is None or not is_f32(graph, x, w):
            return []
        if b and b not in graph.constants:
            return []
        known = sizes(node, shape, weights, transposes)
        known["epilogue"] = Epilogue(activation, residual=bool(z))
        density = np.count_nonzero(weights != 0) / weights.size
        problem = ConvTranspose2d(**known) if transposes else Conv2d(**known, density=density)
        inputs = (x, z) if z else (x,)
        return [Task(problem, inputs, node.outputs[0], (weights, graph.constants.get(b)))]

    return state


def pool_problem(kind: Any, node: Node, graph: Graph) -> Pool2d:
    """The windows of a pool node of rank 4."""
    x = node.inputs[0]
    names = ("kernel_shape", "strides", "dilations", "pads", "auto_pad", "ceil_mode")
    N, C, *size = shape_of(graph, x)
    v, h = place(sliding(**attributes(node, *names)), size)
    windows = Windows(
        *(v.input, h.input, v.output, h.output, v.kernel, h.kernel),
        *(v.stride, h.stride, v.dilation, h.dilation, v.pad_begin, h.pad_begin),
    )
    return Pool2d(
        *(kind, N, C, windows, v.pad_end, h.pad_end),
        count_include_pad=bool(node.attributes.get("count_include_pad", 0)),
        dtype="u8" if is_u8(graph, x) else "f32",
    )


def _is_pooled(kind: Any, graph: Graph, x: str) -> bool:
    return is_f32(graph, x) or (is_u8(graph, x) and kind == "max")


def pool(kind: Any) -> Statement:
    """MaxPool or AveragePool."""

    def state(node: Node, graph: Graph) -> list[Task]:
        (x,), y = node.inputs, node.outputs[0]
        known = len(shape_of(graph, x)) == 4 and _is_pooled(kind, graph, x)
        if not known or any(node.outputs[1:]):
            return []
        return [Task(pool_problem(kind, node, graph), (x,), y)]

    return state


def whole_picture_pool(kind: Any) -> Statement:
    """GlobalMaxPool or GlobalAveragePool."""

    def state(node: Node, graph: Graph) -> list[Task]:
        x = node.inputs[0]
        shape = shape_of(graph, x)
        if len(shape) != 4 or not _is_pooled(kind, graph, x):
            return []
        problem = global_pool(kind, *shape)
        if is_u8(graph, x):
            problem = replace(problem, dtype="u8")
        return [Task(problem, node.inputs, node.outputs[0])]

    return state


def softmax(node: Node, graph: Graph) -> list[Task]:
    x, shape = node.inputs[0], shape_of(graph, node.inputs[0])
    axis: Any = node.attributes.get("axis", -1 if node.opset >= 13 else 1)
    if not is_f32(graph, x) or not shape:
        return []
    if node.opset < 13:
        # Everything from the axis on counts as one.
        shape, axis = (*shape[:axis], int(np.prod(shape[axis:]))), -1
    problem = Softmax(*around_axis(shape, axis), _is_channels(shape, axis))
    return [Task(problem, (x,), node.outputs[0])]


def argmax(node: Node, graph: Graph) -> list[Task]:
    x, shape = node.inputs[0], shape_of(graph, node.inputs[0])
    axis: Any = node.attributes.get("axis", 0)
    if node.attributes.get("select_last_index", 0) or not is_f32(graph, x) or not shape:
        return []
    problem = ArgMax(*around_axis(shape, axis), _is_channels(shape, axis))
    return [Task(problem, (x,), node.outputs[0])]


def _is_channels(shape: tuple[int, ...], axis: int) -> bool:
    return len(shape) == 4 and axis in (1, -3)


STATEMENTS: dict[tuple[str, str], Statement] = {
    ("", "Conv"): convolution(transposes=False),
    ("minseg", "FusedConv"): convolution(transposes=False),
    ("", "ConvTranspose"): convolution(transposes=True),
    ("minseg", "FusedConvTranspose"): convolution(transposes=True),
    ("", "MaxPool"): pool("max"),
    ("", "AveragePool"): pool("average"),
    ("", "GlobalMaxPool"): whole_picture_pool("max"),
    ("", "GlobalAveragePool"): whole_picture_pool("average"),
    ("", "Softmax"): softmax,
    ("", "ArgMax"): argmax,
}
