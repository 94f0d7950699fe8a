"""Quantised islands in integers: between a dequantiser and the next quantiser no float is stored.

The notation is that of QuantizeLinear and DequantizeLinear around operators of floats. A
convolution of two dequantised tensors becomes an integer convolution that gives floats; then a
normalisation, an activation and a quantiser that follow it each become a part of it, so that in
the end bytes go in and bytes come out. A quantiser of anything else that is made of bytes (their
sums, averages, functions of one of them) becomes one operator on bytes. What moves bytes without
looking at them moves the bytes themselves. The operators are in ops/dialects/integers.py.

Values of int8 become uint8 first, with zero points that are 128 more: q + 128 says of z + 128
what q says of z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import Graph, Node
from minseg.ops.bytes import LEVELS, Bytes, Grid
from minseg.ops.dialects.epilogue import Residual, split
from minseg.ops.dialects.fused import CONVOLUTIONS
from minseg.ops.evaluate import run_node
from minseg.ops.registry import Trait, having
from minseg.passes.activations import clamp_of
from minseg.passes.affine import affine_of, per_channel
from minseg.passes.fuse import activation_of
from minseg.passes.quantised_values import (
    OFFSET,
    grid_of,
    quantised,
    quantised_weights,
    signed,
)
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    input_name,
    is_same_shape,
    kind,
    make_own,
    sweep,
    with_epilogue,
)

ALL_BYTES = np.arange(LEVELS, dtype=np.uint8)

#: By the kind of a convolution of bytes what it takes in.
_FUSING = {f"{MINSEG}.{c.bytes}": c for c in CONVOLUTIONS.values()}


def integers(graph: Graph) -> Graph:
    """See the module's docstring."""
    graph = sweep(graph, _unsigned)
    return sweep(
        graph,
        *(_convolution, _factor, _affine, _activation, _open_quantiser, _quantiser, _function),
    )


def _unsigned(node: Node, state: Sweep) -> Sequence[Node] | None:
    """DequantizeLinear(QuantizeLinear(x)) by way of int8, by way of uint8."""
    quantise = state.producer(node.inputs[0], "QuantizeLinear") if node.inputs else None
    if kind(node) != "DequantizeLinear" or quantise is None:
        return None
    before, after = (grid_of(n, state, np.dtype(np.int8)) for n in (quantise, node))
    if before is None or after is None or quantise.inputs[0] in state.constants:
        return None
    made = []
    value = state.fresh(f"{quantise.outputs[0]}/unsigned")
    for old, grid, inputs, outputs in (
        (quantise, before, quantise.inputs, (value,)),
        (node, after, (value, *node.inputs[1:]), node.outputs),
    ):
        zero = np.array(grid.zero_point + OFFSET, np.uint8)
        inputs = (*inputs[:2], state.add_constant(zero, f"{value}/zero_point"))
        attributes = {n: a for n, a in old.attributes.items() if n != "output_dtype"}
        made.append(replace(old, inputs=inputs, outputs=outputs, attributes=attributes))
    return made


def _convolution(node: Node, state: Sweep) -> Sequence[Node] | None:
    """Conv or ConvTranspose of quantised values and weights, with a bias or none."""
    if kind(node) not in CONVOLUTIONS:
        return None
    made: list[Node] = []
    x, w = quantised(node.inputs[0], state, made), quantised_weights(node.inputs[1], state)
    # Weights are (OC, IC / groups, ...) in Conv, (IC, OC / groups, ...) in ConvTranspose.
    axis = 0 if node.op == "Conv" else 1
    if x is None or w is None or (w.scale.size > 1 and w.axis != axis):
        return None
    integers, zeros = signed(w, axis)
    groups: Any = 1 if axis == 0 else attribute(node, "group", 1)
    zeros = np.tile(zeros, groups)
    scale = np.resize(x.grid.scale * w.scale.reshape(-1), zeros.shape)
    bias = _bias(input_name(node, 2), scale, state)
    if bias is None:
        return None
    whole, shift = bias
    y = node.outputs[0]
    inputs: tuple[str, ...] = (
        x.name,
        state.add_constant(integers, f"{y}/weights"),
        "" if whole is None else state.add_constant(whole, f"{y}/bias"),
        state.add_constant(np.ascontiguousarray(scale), f"{y}/scale"),
        state.add_constant(shift, f"{y}/shift"),
    )
    if zeros.any():
        inputs = (*inputs, "", state.add_constant(zeros, f"{y}/weights_zero_point"))
    attributes = {**node.attributes, "x_zero_point": x.grid.zero_point}
    op = CONVOLUTIONS[node.op].bytes
    return (*made, make_own(op, inputs, node.outputs, node.name, **attributes))


def _bias(
    name: str, scale: np.ndarray, state: Sweep
) -> tuple[np.ndarray | None, np.ndarray] | None:
    """A bias as integers of ``scale`` [OC] and float32 [OC] besides; None where it varies."""
    none = np.zeros(scale.shape, np.float32)
    if not name:
        return None, none
    node = state.producer(name, "DequantizeLinear")
    floats = state.constant(name)
    if node is None:
        return None if floats is None else (None, floats.astype(np.float32))
    integers, own = state.constant(node.inputs[0]), state.constant(node.inputs[1])
    zero = state.constant(input_name(node, 2))
    if integers is None or own is None or (zero is not None and zero.any()):
        return None
    if integers.dtype == np.int32 and np.array_equal(np.broadcast_to(own, scale.shape), scale):
        return integers, none
    return None, (integers * own).astype(np.float32)


def _open(name: str, state: Sweep) -> Node | None:
    """The integer convolution that makes the floats ``name`` for one reader alone."""
    node = state.producer(name, *_FUSING) if state.is_used_once(name) else None
    return None if node is None or attribute(node, "y", ()) else node


def _rescaled(conv: Node, outputs: Sequence[str], scale: Any, shift: Any, state: Sweep) -> Node:
    """``conv`` with other factors and offsets, float32 [OC]."""
    names = [
        state.add_constant(np.ascontiguousarray(a, np.float32), f"{outputs[0]}/{what}")
        for what, a in (("scale", scale), ("shift", shift))
    ]
    inputs = (*conv.inputs[:3], *names, *conv.inputs[5:])
    return replace(conv, inputs=inputs, outputs=tuple(outputs))


def _factor(node: Node, state: Sweep) -> Sequence[Node] | None:
    """A factor that is known only in a run, after an integer convolution. What has moved since is
    moved afterwards, where all of it has one factor."""
    if kind(node) != "Mul":
        return None
    y = node.outputs[0]
    for made, other in (node.inputs, node.inputs[::-1]):
        moves = _moves(made, state)
        conv = _open(moves[0].inputs[0] if moves else made, state)
        factor = _run_time_factor(other, made, state)
        if conv is None or factor is None or not _takes_factor(conv, state):
            continue
        if is_same_shape(state.type(made), state.type(y)) and (factor.is_single or not moves):
            source, moved = _moved(moves, y, state)
            scale, shift = (state.constants[n] for n in conv.inputs[3:5])
            conv = _rescaled(conv, (source,), scale * factor.constant, shift, state)
            inputs = *(input_name(conv, i) for i in range(8)), factor.number
            return (replace(conv, inputs=inputs), *moved)
    return None


@dataclass(frozen=True)
class _Factor:
    """The float32 ``number`` of one element times ``constant``, (1,) or one for each channel."""

    number: str
    constant: np.ndarray

    @property
    def is_single(self) -> bool:
        return self.constant.size == 1


def _run_time_factor(name: str, x: str, state: Sweep) -> _Factor | None:
    """What the channels of ``x`` are multiplied by where ``name`` is, None if not by such."""
    product = state.producer(name, "Mul")
    for number, other in (product.inputs, product.inputs[::-1]) if product else ():
        single = state.scalar(other)
        constant = per_channel(x, other, state) if single is None else np.array([single])
        if constant is not None and _is_number(number, state):
            return _Factor(number, constant)
    return _Factor(name, np.ones(1)) if _is_number(name, state) else None


def _is_number(name: str, state: Sweep) -> bool:
    """Whether ``name`` is a float32 of one element that is known only in a run."""
    found = state.type(name)
    ones = found.shape is not None and all(d == 1 for d in found.shape)
    return ones and found.dtype == np.float32 and name not in state.constants


def _takes_factor(conv: Node, state: Sweep) -> bool:
    """Whether ``conv`` has no factor yet, nor anything that comes after it."""
    plain = _FUSING[kind(conv)].dynamic and not attribute(conv, "activation", "")
    return plain and not input_name(conv, 8) and not state.constants[conv.inputs[4]].any()


def _affine(node: Node, state: Sweep) -> Sequence[Node] | None:
    """A normalisation, factor or offset of each channel after an integer convolution."""
    affine = affine_of(node, state)
    conv = affine and _open(affine.source, state)
    if not affine or not conv or attribute(conv, "activation", ""):
        return None
    scale, shift = (state.constants[n].astype(np.float64) for n in conv.inputs[3:5])
    scale, shift = scale * affine.scale, shift * affine.scale + affine.shift
    return (_rescaled(conv, node.outputs, scale, shift, state),)


def _activation(node: Node, state: Sweep) -> Sequence[Node] | None:
    """An activation after an integer convolution."""
    found = activation_of(node, state)
    conv = found and _open(node.inputs[0], state)
    if not found or not conv or attribute(conv, "activation", ""):
        return None
    return (with_epilogue(replace(conv, outputs=node.outputs), **found),)


def _open_quantiser(node: Node, state: Sweep) -> Sequence[Node] | None:
    """A quantiser after an integer convolution, with a clamp between or nothing. What has moved
    since is moved as bytes."""
    if kind(node) != "QuantizeLinear":
        return None
    moves = _moves(node.inputs[0], state)
    source = moves[0].inputs[0] if moves else node.inputs[0]
    conv, grid = _open(source, state), grid_of(node, state)
    if conv is None or grid is None:
        return None
    bounds = _bounds(conv)
    if bounds is None:
        return None
    scale, shift = (state.constants[n] / grid.scale for n in conv.inputs[3:5])
    conv = with_epilogue(conv, activation="", store=_bytes(grid, *bounds))
    source, moved = _moved(moves, node.outputs[0], state)
    return (_rescaled(conv, (source,), scale, shift, state), *moved)


def _moves(name: str, state: Sweep) -> list[Node]:
    """The nodes, first to last, that move elements of what becomes ``name`` and of nothing else,
    each for one reader alone."""
    moves: list[Node] = []
    while state.is_used_once(name) and (node := state.producer(name, "Reshape", "Transpose")):
        moves.insert(0, node)
        name = node.inputs[0]
    return moves


def _moved(moves: Sequence[Node], y: str, state: Sweep) -> tuple[str, list[Node]]:
    """The name of what becomes ``y`` by ``moves``, and these."""
    names = [*(state.fresh(f"{y}/moved") for _ in moves), y]
    moved = [
        replace(move, inputs=(source, *move.inputs[1:]), outputs=(target,))
        for move, source, target in zip(moves, names, names[1:], strict=False)
    ]
    return names[0], moved


def _bounds(conv: Node) -> tuple[float, float] | None:
    """What the activation of ``conv`` limits its results to, None if it does anything else."""
    epilogue, _ = split(conv.attributes)
    if epilogue.activation == "Clip":
        low, high = epilogue.parameters
        return low, high
    return {"": (-np.inf, np.inf), "Relu": (0.0, np.inf)}.get(epilogue.activation)


def _bytes(grid: Grid, low: float, high: float) -> Bytes:
    """The bytes of ``grid`` that stand for numbers from ``low`` to ``high``; its last ones where
    these are too far out."""
    ends = (np.rint(np.float32(end) / grid.scale) + grid.zero_point for end in (low, high))
    return Bytes(grid.zero_point, *(int(np.clip(end, 0, LEVELS - 1)) for end in ends))


# --- sums behind convolutions ---


def fuse_integer_sums(graph: Graph) -> Graph:
    """A sum of what a convolution makes for nothing else is made by the convolution."""
    return sweep(graph, _residual)


def _residual(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != f"{MINSEG}.IntegerAdd":
        return None
    get: Any = node.attributes.get
    grids = [Grid(np.float32(get(f"{n}_scale")), get(f"{n}_zero_point")) for n in "ab"]
    for own, z in ((0, 1), (1, 0)):
        made = node.inputs[own]
        conv = state.producer(made, *_FUSING) if state.is_used_once(made) else None
        if conv is None or not _FUSING[kind(conv)].byte_residual or input_name(conv, 5):
            continue
        store = split(conv.attributes)[0].store
        if store is not None:
            last = bool(own)
            residual = Residual(store, grids[own], grids[z], get("scale"), get("shift"), last)
            inputs = (*conv.inputs[:5], node.inputs[z], *conv.inputs[6:])
            joined = replace(conv, inputs=inputs, outputs=node.outputs)
            return (with_epilogue(joined, residual=residual, store=Bytes(*get("y"))),)
    return None


# --- quantisers of what is made of bytes ---


@dataclass(frozen=True)
class Target:
    """What a quantiser asks for: of numbers in steps of ``scale`` the bytes ``store``."""

    node: Node
    scale: np.float32
    store: Bytes

    def made(self, op: str, inputs: Sequence[str], **attributes: Any) -> Node:
        """The node of the integer operator ``op`` that makes what is asked for."""
        attributes = {**attributes, "scale": float(self.scale), "y": self.store}
        return make_own(op, inputs, self.node.outputs, self.node.name, **attributes)


def _quantiser(node: Node, state: Sweep) -> Sequence[Node] | None:
    """A quantiser of a sum, mean or concatenation of bytes, with a clamp between or nothing."""
    grid = grid_of(node, state) if kind(node) == "QuantizeLinear" else None
    if grid is None:
        return None
    clamp = clamp_of(state.producer(node.inputs[0], *having(Trait.CLAMP)), state)
    source, low, high = (
        (clamp.source, clamp.low, clamp.high) if clamp else (node.inputs[0], -np.inf, np.inf)
    )
    before = state.producer(source, *_OF_BYTES)
    target = Target(node, grid.scale, _bytes(grid, low, high))
    return None if before is None else _OF_BYTES[kind(before)](before, target, state)


def _sum(node: Node, target: Target, state: Sweep) -> Sequence[Node] | None:
    made: list[Node] = []
    parts = [quantised(name, state, made) for name in node.inputs]
    if not is_same_shape(*map(state.type, node.inputs)):
        return None
    a, b = parts
    if a is None or b is None:
        return None
    own = node.attributes  # those of a FusedSum, whose operands are integers
    if own and any(scale != 1 for scale in (a.grid.scale, b.grid.scale, target.scale)):
        return None
    sizes: dict[str, Any] = {"a_scale": float(a.grid.scale), "b_scale": float(b.grid.scale), **own}
    zeros = {"a_zero_point": a.grid.zero_point, "b_zero_point": b.grid.zero_point}
    return (*made, target.made("IntegerAdd", (a.name, b.name), **sizes, **zeros))


def _mean(node: Node, target: Target, state: Sweep) -> Sequence[Node] | None:
    made: list[Node] = []
    x = quantised(node.inputs[0], state, made)
    shape = state.type(node.inputs[0]).shape
    if x is None or shape is None or not all(isinstance(d, int) for d in shape[2:]):
        return None
    windows = dict(node.attributes) if node.op == "AveragePool" else {"kernel_shape": shape[2:]}
    grid = {"x_scale": float(x.grid.scale), "x_zero_point": x.grid.zero_point}
    return (*made, target.made("IntegerAveragePool", (x.name,), **windows, **grid))


def _concatenation(node: Node, target: Target, state: Sweep) -> Sequence[Node] | None:
    made: list[Node] = []
    parts = [quantised(name, state, made) for name in node.inputs]
    names = []
    for part in parts:
        if part is None:
            return None
        table = _table(part.grid, target)
        if not np.array_equal(table, ALL_BYTES):
            part = replace(part, name=_looked_up(part.name, table, state, made))
        names.append(part.name)
    return (*made, replace(node, inputs=tuple(names), outputs=target.node.outputs))


_OF_BYTES = {
    "Add": _sum,
    f"{MINSEG}.FusedSum": _sum,
    "AveragePool": _mean,
    "GlobalAveragePool": _mean,
    "Concat": _concatenation,
}


def _table(grid: Grid, target: Target) -> np.ndarray:
    """What a quantiser makes of each byte of ``grid``."""
    return target.store.of(grid.floats(ALL_BYTES) / target.scale)


def _looked_up(name: str, table: np.ndarray, state: Sweep, made: list[Node]) -> str:
    """The value of ``name`` through ``table``, by a node put into ``made``."""
    result = state.fresh(f"{name}/looked_up")
    inputs = (name, state.add_constant(table, f"{result}/table"))
    made.append(make_own("IntegerLookup", inputs, (result,), result))
    return result


def _function(node: Node, state: Sweep) -> Sequence[Node] | str | None:
    """A quantiser of a function of one byte, or of bytes as they are."""
    grid = grid_of(node, state) if kind(node) == "QuantizeLinear" else None
    if grid is None:
        return None
    made: list[Node] = []
    chain = [node]
    while (x := quantised(chain[-1].inputs[0], state, made)) is None:
        before = state.producer(chain[-1].inputs[0], *having(Trait.FUNCTION))
        if before is None or not _is_of_one_number(before, state):
            return None
        chain.append(before)
    values = x.grid.floats(ALL_BYTES)
    for step in reversed(chain):
        parameters = [state.constants[n] if n else None for n in step.inputs[1:]]
        values = run_node(step, [values, *parameters], {})[0].reshape(LEVELS)
    if not np.array_equal(values, ALL_BYTES):
        _looked_up(x.name, values, state, made)
    elif not made:
        return x.name
    return (*made[:-1], replace(made[-1], outputs=node.outputs))


def _is_of_one_number(node: Node, state: Sweep) -> bool:
    """Whether all other operands are single numbers."""
    numbers = all(state.scalar(n) is not None for n in node.inputs[1:] if n)
    return numbers and is_same_shape(*map(state.type, (node.inputs[0], node.outputs[0])))
