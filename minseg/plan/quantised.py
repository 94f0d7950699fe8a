"""Problems of nodes that make, read and combine bytes that stand for numbers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.kernels.conv.problem import IntegerConv2d, IntegerConvTranspose2d
from minseg.kernels.core.epilogue import Epilogue, Residual
from minseg.kernels.core.grid import Bytes, Grid
from minseg.kernels.elementwise.integer import IntegerAdd, Lookup
from minseg.kernels.pool.integer import IntegerAveragePool2d
from minseg.kernels.quantize.dynamic import DynamicGrid
from minseg.kernels.quantize.quantize import Dequantize, Quantize
from minseg.ops.dialects.epilogue import split
from minseg.plan.task import Statement, Task, input_name, is_f32, is_u8, shape_of
from minseg.plan.windows import activation_of, pool_problem, sizes


def grid_of(node: Node, graph: Graph) -> Grid | None:
    """The one constant grid of bytes that a DequantizeLinear is about."""
    scale, zero = (graph.constants.get(input_name(node, i)) for i in (1, 2))
    if scale is None or scale.size != 1 or scale.dtype != np.float32:
        return None
    if input_name(node, 2) and (zero is None or zero.size != 1):
        return None
    return Grid(float(scale.item()), 0 if zero is None else int(zero.item()))


def quantize(node: Node, graph: Graph) -> list[Task]:
    x, y, scale, zero = node.inputs[0], node.outputs[0], *(input_name(node, i) for i in (1, 2))
    if not is_f32(graph, x, scale) or not is_u8(graph, y):
        return []
    if any(prod(shape_of(graph, name)) != 1 for name in (scale, zero) if name):
        return []
    grid = scale, zero or np.zeros((), np.uint8)
    return [Task(Quantize(shape_of(graph, x)), (x, *grid), y)]


def dequantize(node: Node, graph: Graph) -> list[Task]:
    x, y = node.inputs[0], node.outputs[0]
    grid = grid_of(node, graph)
    if grid is None or not is_u8(graph, x) or not is_f32(graph, y):
        return []
    return [Task(Dequantize(shape_of(graph, x), grid), (x,), y)]


def dynamic_grid(node: Node, graph: Graph) -> list[Task]:
    problem = DynamicGrid(shape_of(graph, node.inputs[0]))
    scale, zero_point = node.outputs
    return [Task(problem, node.inputs, scale, others=(zero_point,))]


def convolution(transposes: bool) -> Statement:
    """IntegerConv or IntegerConvTranspose."""
    family = IntegerConvTranspose2d if transposes else IntegerConv2d

    def state(node: Node, graph: Graph) -> list[Task]:
        x, w, b, scale, shift, z, w_zero, x_zero, x_scale = (input_name(node, i) for i in range(9))
        shape, weights, epilogue = shape_of(graph, x), graph.constants[w], _epilogue(node)
        if len(shape) != 4 or epilogue is None:
            return []
        x_zero_point: Any = node.attributes.get("x_zero_point", 0)
        dynamic: tuple[str | np.ndarray, ...] = ()
        if x_zero or x_scale:
            dynamic = x_zero or np.array(x_zero_point, np.uint8), x_scale or np.ones((), np.float32)
        problem = family(
            **sizes(node, shape, weights, transposes),
            epilogue=epilogue,
            x_zero_point=None if dynamic else x_zero_point,
            asymmetric=bool(w_zero),
        )
        constants = weights, *(graph.constants.get(n) for n in (b, scale, shift, w_zero))
        return [Task(problem, (x, *((z,) if z else ()), *dynamic), node.outputs[0], constants)]

    return state


def _epilogue(node: Node) -> Epilogue | None:
    """What follows the sums of ``node``; None if kernels have no formula for the activation."""
    activation, (given, _) = activation_of(node), split(node.attributes)
    if activation is None:
        return None
    residual: Residual | bool = False
    if (r := given.residual) is not None:
        own, z = (Grid(float(g.scale), g.zero_point) for g in (r.grid, r.z))
        residual = Residual(Bytes(*r.own), own, z, r.scale, r.shift, r.last)
    return Epilogue(activation, residual, Bytes(*given.store) if given.store else None)


def add(node: Node, graph: Graph) -> list[Task]:
    get: Any = node.attributes.__getitem__
    a, b = (Grid(get(f"{n}_scale"), get(f"{n}_zero_point")) for n in "ab")
    shift: Any = node.attributes.get("shift")
    shape = shape_of(graph, node.inputs[0])
    problem = IntegerAdd(shape, a, b, get("scale"), Bytes(*get("y")), shift)
    return [Task(problem, node.inputs, node.outputs[0])]


def lookup(node: Node, graph: Graph) -> list[Task]:
    x, table = node.inputs
    return [Task(Lookup(shape_of(graph, x)), (x,), node.outputs[0], (graph.constants[table],))]


def average_pool(node: Node, graph: Graph) -> list[Task]:
    get: Any = node.attributes.__getitem__
    if len(shape_of(graph, node.inputs[0])) != 4:
        return []
    problem = IntegerAveragePool2d(
        pool_problem("average", node, graph),
        Grid(get("x_scale"), get("x_zero_point")),
        get("scale"),
        Bytes(*get("y")),
    )
    return [Task(problem, node.inputs, node.outputs[0])]


STATEMENTS: dict[tuple[str, str], Statement] = {
    ("", "QuantizeLinear"): quantize,
    ("", "DequantizeLinear"): dequantize,
    ("minseg", "DynamicGrid"): dynamic_grid,
    ("minseg", "IntegerConv"): convolution(transposes=False),
    ("minseg", "IntegerConvTranspose"): convolution(transposes=True),
    ("minseg", "IntegerAdd"): add,
    ("minseg", "IntegerLookup"): lookup,
    ("minseg", "IntegerAveragePool"): average_pool,
}
