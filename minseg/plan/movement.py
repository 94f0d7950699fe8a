"""Problems of nodes that move elements: joins, cuts, transposes, resizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.kernels.move.concat import Concat
from minseg.kernels.move.strided import StridedCopy, Transpose
from minseg.kernels.resize.argmax import ResizeArgMax
from minseg.kernels.resize.resize import Resize2d
from minseg.ops.evaluate import run_node
from minseg.ops.resize import AxisTaps, axis_taps, sampled_axes
from minseg.plan.task import Statement, Task, is_f32, is_u8, shape_of


def _itemsize(graph: Graph, name: str) -> int:
    dtype = graph.types[name].dtype
    assert dtype is not None
    return dtype.itemsize


def concat(node: Node, graph: Graph) -> list[Task]:
    shapes = tuple(shape_of(graph, name) for name in node.inputs)
    axis: Any = node.attributes["axis"]
    problem = Concat(shapes, axis % len(shapes[0]), _itemsize(graph, node.inputs[0]))
    return [Task(problem, node.inputs, node.outputs[0])]


def transpose(node: Node, graph: Graph) -> list[Task]:
    shape = shape_of(graph, node.inputs[0])
    perm: Any = node.attributes.get("perm", tuple(reversed(range(len(shape)))))
    problem = Transpose(shape, tuple(perm), _itemsize(graph, node.inputs[0]))
    return [Task(problem, node.inputs, node.outputs[0])]


def cut(node: Node, graph: Graph) -> list[Task]:
    """A node whose reference operator returns views of its input: each is a strided copy.

    The operator runs on an array without contents; where its views lie says what to copy.
    """
    x, *parameters = node.inputs
    if any(n and n not in graph.constants for n in parameters):
        return []
    hollow = np.empty(shape_of(graph, x), graph.types[x].dtype)
    begin, itemsize = hollow.ctypes.data, hollow.itemsize
    views = run_node(node, [hollow, *(graph.constants.get(n) for n in parameters)], {})
    copies = []
    for view, name in zip(views, node.outputs, strict=True):
        if not np.may_share_memory(view, hollow):
            return []
        steps = tuple(s // itemsize for s in view.strides)
        start = (view.ctypes.data - begin) // itemsize
        copies.append(Task(StridedCopy(view.shape, steps, start, itemsize), (x,), name))
    return copies


def resize(node: Node, graph: Graph) -> list[Task]:
    x, y = node.inputs[0], node.outputs[0]
    shape = shape_of(graph, x)
    if len(shape) != 4 or any(n and n not in graph.constants for n in node.inputs[1:]):
        return []
    taps = _resize_taps(node, graph, shape)
    if taps is None:
        return []
    v, h = taps
    weighted = v.weights is not None or h.weights is not None
    if weighted and not is_f32(graph, x) and not (is_u8(graph, x) and _are_singles(taps)):
        return []
    count = max(len(v.indices), len(h.indices))
    N, C, IH, IW = shape
    OH, OW = shape_of(graph, y)[-2:]
    problem = Resize2d(N, C, IH, IW, OH, OW, count, _itemsize(graph, x))
    tables = (*_tables(v, count, weighted), *_tables(h, count, weighted))
    return [Task(problem, (x,), y, tables)]


def resize_argmax(node: Node, graph: Graph) -> list[Task]:
    return [
        replace(task, problem=ResizeArgMax(task.problem))
        for task in resize(node, graph)
        if task.constants[1] is not None and is_f32(graph, node.inputs[0])
    ]


def _resize_taps(
    node: Node, graph: Graph, shape: tuple[int, ...]
) -> tuple[AxisTaps, AxisTaps] | None:
    """What each output row and column is made of; None for resizes of other axes, or with points
    outside the picture."""
    found = {axis: AxisTaps(np.arange(shape[axis])[None], None) for axis in (2, 3)}
    for axis, sampling in sampled_axes(node, shape, graph.constants):
        if axis.is_identity:
            continue
        if axis.axis not in found:
            return None
        taps = axis_taps(axis, sampling)
        if taps.outside is not None and taps.outside.any():
            return None
        found[axis.axis] = taps
    return found[2], found[3]


def _are_singles(taps: Iterable[AxisTaps]) -> bool:
    """Whether the definition computes in float32."""
    return all(t.weights is None or t.weights.dtype == np.float32 for t in taps)


def _tables(taps: AxisTaps, count: int, weighted: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions and weights, output by tap, filled up to ``count`` taps that weigh nothing."""
    missing = count - len(taps.indices)
    positions = np.pad(taps.indices, ((0, missing), (0, 0)), mode="edge").T
    if not weighted:
        return positions, None
    weights = np.ones(taps.indices.shape) if taps.weights is None else taps.weights
    return positions, np.pad(weights, ((0, missing), (0, 0))).T


STATEMENTS: dict[tuple[str, str], Statement] = {
    ("", "Concat"): concat,
    ("", "Transpose"): transpose,
    ("", "Resize"): resize,
    ("", "Upsample"): resize,
    ("minseg", "ResizeArgMax"): resize_argmax,
    **{("", op): cut for op in ("Slice", "Split", "Expand")},
}
