"""Problems of nodes that make, read and combine bytes that stand for numbers."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.kernels.conv.direct_integer import IntegerConv2d
from minseg.kernels.conv.transpose_integer import IntegerConvTranspose2d
from minseg.kernels.core.epilogue import Residual
from minseg.kernels.core.grid import Bytes, Grid
from minseg.kernels.elementwise.integer import IntegerAdd, Lookup
from minseg.kernels.pool.integer import IntegerAveragePool2d
from minseg.kernels.quantize.dynamic import DynamicGrid
from minseg.kernels.quantize.quantize import Dequantize, Quantize
from minseg.ops.geometry import place, sliding, transposed
from minseg.plan.task import Statement, Task, attributes, input_name, is_f32, is_u8, shape_of
from minseg.plan.windows import activation_of, pool_problem


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


def conv(node: Node, graph: Graph) -> list[Task]:
    x, w, b, scale, shift, z, w_zero, x_zero, x_scale = (input_name(node, i) for i in range(9))
    shape, weights, activation = shape_of(graph, x), graph.constants[w], activation_of(node)
    if len(shape) != 4 or activation is None:
        return []
    layout = attributes(node, "strides", "dilations", "pads", "auto_pad")
    v, h = place(sliding(weights.shape[2:], **layout), shape[2:])
    y, x_zero_point, group = _values(node, y=(), x_zero_point=0, group=1)
    late: tuple[str | np.ndarray, ...] = ()
    if x_zero or x_scale:
        late = x_zero or np.array(x_zero_point, np.uint8), x_scale or np.ones((), np.float32)
    problem = IntegerConv2d(
        *(*shape[:2], v.input, h.input, len(weights), v.output, h.output, v.kernel, h.kernel),
        *(v.stride, h.stride, v.dilation, h.dilation, v.pad_begin, h.pad_begin),
        groups=group,
        x_zero_point=None if late else x_zero_point,
        asymmetric=bool(w_zero),
        y=Bytes(*y) if y else None,
        activation=activation,
        residual=_residual(node) if z else None,
    )
    constants = weights, *(graph.constants.get(n) for n in (b, scale, shift, w_zero))
    return [Task(problem, (x, *((z,) if z else ()), *late), node.outputs[0], constants)]


def conv_transpose(node: Node, graph: Graph) -> list[Task]:
    x, w, b, scale, shift, _, w_zero = (input_name(node, i) for i in range(7))
    shape, weights, activation = shape_of(graph, x), graph.constants[w], activation_of(node)
    if len(shape) != 4 or activation is None:
        return []
    names = ("strides", "dilations", "pads", "auto_pad", "output_padding", "output_shape")
    v, h = place(transposed(weights.shape[2:], **attributes(node, *names)), shape[2:])
    y, x_zero_point, group = _values(node, y=(), x_zero_point=0, group=1)
    problem = IntegerConvTranspose2d(
        *(*shape[:2], v.input, h.input, weights.shape[1] * group, v.output, h.output),
        *(v.kernel, h.kernel, v.stride, h.stride, v.dilation, h.dilation),
        *(v.pad_begin, h.pad_begin),
        groups=group,
        x_zero_point=x_zero_point,
        asymmetric=bool(w_zero),
        y=Bytes(*y) if y else None,
        activation=activation,
    )
    constants = weights, *(graph.constants.get(n) for n in (b, scale, shift, w_zero))
    return [Task(problem, (x,), node.outputs[0], constants)]


def _residual(node: Node) -> Residual:
    get: Any = node.attributes.__getitem__
    own, z = (Grid(get(f"{n}_scale"), get(f"{n}_zero_point")) for n in ("own", "z"))
    shift: Any = node.attributes.get("sum_shift")
    return Residual(Bytes(*get("own")), own, z, get("sum_scale"), shift, bool(get("own_last")))


def _values(node: Node, **defaults: Any) -> list[Any]:
    """Attributes in the order in which their defaults are given."""
    return [node.attributes.get(name, default) for name, default in defaults.items()]


def add(node: Node, graph: Graph) -> list[Task]:
    get: Any = node.attributes.__getitem__
    a, b = (Grid(get(f"{n}_scale"), get(f"{n}_zero_point")) for n in "ab")
    shape, shift = shape_of(graph, node.inputs[0]), _values(node, shift=None)[0]
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
    ("minseg", "IntegerConv"): conv,
    ("minseg", "IntegerConvTranspose"): conv_transpose,
    ("minseg", "IntegerAdd"): add,
    ("minseg", "IntegerLookup"): lookup,
    ("minseg", "IntegerAveragePool"): average_pool,
}
