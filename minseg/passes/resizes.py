"""Resizes that enlarge pictures moved down, so that what follows has fewer pixels to work on.

Write R for a Resize that makes k × k equal pixels of each (nearest, by whole factors), and f for
an operator that treats all pixels alike and each by itself: f(R(x)) = R(f(x)), to the last bit.
A convolution sees pixels one by one in this sense when its taps and its padding lie whole
multiples of k apart: then all of a window's taps fall into the same corner of their k × k pixels,
and before R its dilation is 1/k of what it was.

A Resize that interpolates makes every pixel a mean of some, with weights that sum to one. So it
commutes with a 1×1 convolution, bias included, up to rounding.

Every move leaves fewer nodes behind a Resize, so moving ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import TypeAlias

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import Graph, Node, TensorType
from minseg.ops.registry import Trait, has
from minseg.ops.resize import AxisTaps, axis_taps, sampled_axes
from minseg.passes.rewrite import Sweep, attribute, kind, make, sweep, with_attributes

RESIZES = ("Resize", "Upsample")


def push_resizes_down(graph: Graph) -> Graph:
    """Resizes that enlarge move towards the outputs; of two that repeat pixels one is left."""
    return sweep(graph, _merge, _keep_rank, _push_down)


# --- what a Resize does ---


def _sizes(type_: TensorType) -> tuple[int, ...] | None:
    sizes = tuple(d for d in type_.shape or () if isinstance(d, int))
    return sizes if type_.shape is not None and len(sizes) == len(type_.shape) else None


def _taps(resize: Node, state: Sweep) -> list[AxisTaps | None] | None:
    """How each spatial axis is sampled, None for one that stays; None if others are resized, or
    where points lie outside the picture."""
    shape = _sizes(state.type(resize.inputs[0]))
    if shape is None or 0 in shape or not state.parameters_are_constant(resize):
        return None
    taps: list[AxisTaps | None] = [None] * len(shape)
    for axis, sampling in sampled_axes(resize, shape, state.constants):
        if not axis.is_identity and axis.output:
            taps[axis.axis] = axis_taps(axis, sampling)
    if any(t is not None and t.outside is not None and t.outside.any() for t in taps):
        return None
    return None if taps[:2] != [None, None] else taps[2:]


def _repeats(resize: Node, state: Sweep) -> tuple[int, ...] | None:
    """How often a Resize repeats every pixel along each spatial axis; None if it doesn't."""
    taps, shape = _taps(resize, state), _sizes(state.type(resize.inputs[0]))
    if taps is None or shape is None:
        return None
    factors = [_factor(t, size) for t, size in zip(taps, shape[2:], strict=True)]
    known = tuple(f for f in factors if f)
    return known if len(known) == len(factors) else None


def _factor(taps: AxisTaps | None, size: int) -> int:
    """How often each of ``size`` elements is repeated; 0 if they aren't."""
    if taps is None or taps.weights is not None:
        return int(taps is None)
    (indices,) = taps.indices
    factor = len(indices) // size
    return factor if np.array_equal(indices, np.repeat(np.arange(size), factor)) else 0


def averages(resize: Node, state: Sweep) -> bool:
    """Whether every pixel is a mean of some, with weights that sum to one."""
    taps = _taps(resize, state)
    weights = (t.weights for t in taps or () if t is not None and t.weights is not None)
    return taps is not None and all(np.allclose(w.sum(0), 1) for w in weights)


# --- moving ---


def _merge(node: Node, state: Sweep) -> Sequence[Node] | None:
    """Two that repeat pixels are one."""
    before = state.producer(node.inputs[0], *RESIZES) if kind(node) in RESIZES else None
    if before is None:
        return None
    outer, inner = _repeats(node, state), _repeats(before, state)
    if outer is None or inner is None:
        return None
    factors = (1, 1, *(a * b for a, b in zip(inner, outer, strict=True)))
    scales = state.add_constant(np.array(factors, np.float32), f"{node.outputs[0]}/scales")
    resize = make("Resize", (before.inputs[0], "", scales), node.outputs, node.name)
    rounding = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return (with_attributes(resize, mode="nearest", **rounding),)


def _keep_rank(node: Node, state: Sweep) -> Sequence[Node] | None:
    """An index along channels that drops their axis: a Squeeze can drop it later."""
    if kind(node) not in ("ArgMax", "ArgMin") or attribute(node, "keepdims", 1):
        return None
    resize = state.producer(node.inputs[0], *RESIZES)
    if resize is None or _repeats(resize, state) is None:
        return None
    kept = state.fresh(f"{node.outputs[0]}/kept")
    axis = state.add_constant(np.array([attribute(node, "axis", 0)], np.int64), f"{kept}/axis")
    return (
        replace(with_attributes(node, keepdims=1), outputs=(kept,)),
        make("Squeeze", (kept, axis), node.outputs, node.name),
    )


def _push_down(node: Node, state: Sweep) -> Sequence[Node] | None:
    varying = [n for n in node.inputs if n and n not in state.constants]
    move = _elementwise if has(node, Trait.ELEMENTWISE) else _MOVES.get(kind(node))
    if move is None or len(varying) != 1 or not state.is_used_once(varying[0]):
        return None
    resize = state.producer(varying[0], *RESIZES)
    if resize is None:
        return None
    factors = _repeats(resize, state)
    if factors is not None:
        moved = move(node, factors, state)
        return None if moved is None else _exchanged(moved, resize, state)
    if _is_pointwise(node, resize, state) and averages(resize, state):
        return _exchanged(node, resize, state)
    return None


def _exchanged(node: Node, resize: Node, state: Sweep) -> Sequence[Node] | None:
    """``node`` before ``resize``, which it comes after now."""
    shape = state.type(node.outputs[0]).shape
    if shape is None:
        return None
    small = state.fresh(f"{node.outputs[0]}/small")
    inputs = tuple(resize.inputs[0] if n == resize.outputs[0] else n for n in node.inputs)
    sizes = state.parameter(resize, "sizes", 3)
    if sizes:
        axes = attribute(resize, "axes", range(len(shape)))
        kept = (shape[1] if a % len(shape) == 1 else s for a, s in zip(axes, sizes, strict=True))
        resize = state.with_parameter(resize, "sizes", 3, tuple(kept))
    return (
        replace(node, inputs=inputs, outputs=(small,)),
        replace(resize, inputs=(small, *resize.inputs[1:]), outputs=node.outputs),
    )


# --- operators before a Resize that repeats pixels ---

Move: TypeAlias = Callable[[Node, tuple[int, ...], Sweep], "Node | None"]


def _elementwise(node: Node, factors: tuple[int, ...], state: Sweep) -> Node | None:
    """With constants that are the same for all pixels."""
    spatial = len(factors)
    constants = [a for a in map(state.constant, node.inputs) if a is not None]
    alike = all(set(a.shape[max(0, a.ndim - spatial) :]) <= {1} for a in constants)
    return node if alike and state.type(node.outputs[0]).rank == spatial + 2 else None


def _by_constants(move: Move) -> Move:
    """Of operators that work on their first input."""

    def checked(node: Node, factors: tuple[int, ...], state: Sweep) -> Node | None:
        return move(node, factors, state) if state.parameters_are_constant(node) else None

    return checked


def _per_channel(node: Node, factors: tuple[int, ...], state: Sweep) -> Node | None:
    """With constants that are single numbers or one for each channel."""
    alike = attribute(node, "axis", 1) == 1 or state.constants[node.inputs[1]].size == 1
    plain = not attribute(node, "block_size", 0) and not attribute(node, "training_mode", 0)
    return node if alike and plain and len(node.outputs) == 1 else None


def _over_channels(node: Node, factors: tuple[int, ...], state: Sweep) -> Node | None:
    """Along the channels, which stay an axis."""
    is_arg = node.op.startswith("Arg")
    if not is_arg and node.opset < 13:
        return None  # there Softmax takes all axes from its own on as one
    axis = attribute(node, "axis", 0 if is_arg else -1) % (len(factors) + 2)
    return node if axis == 1 and attribute(node, "keepdims", 1) else None


def _convolution(node: Node, factors: tuple[int, ...], state: Sweep) -> Node | None:
    """Of stride 1, with taps and padding whole multiples of the factors apart."""
    count = len(factors)
    weights = _sizes(state.type(node.inputs[1]))
    strides = attribute(node, "strides", (1,) * count)
    if weights is None or attribute(node, "auto_pad", "NOTSET") != "NOTSET" or set(strides) != {1}:
        return None
    dilations = attribute(node, "dilations", (1,) * count)
    steps = [d if k > 1 else f for k, d, f in zip(weights[2:], dilations, factors, strict=True)]
    lengths = np.array([*steps, *attribute(node, "pads", (0,) * (2 * count))])
    if (lengths % (3 * factors)).any():
        return None
    small = (lengths // (3 * factors)).tolist()
    return with_attributes(node, dilations=tuple(small[:count]), pads=tuple(small[count:]))


_PER_CHANNEL = ("QuantizeLinear", "DequantizeLinear", "BatchNormalization")
_OVER_CHANNELS = ("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin")

_MOVES: dict[str, Move] = {
    **dict.fromkeys((*_PER_CHANNEL, f"{MINSEG}.QuantizeDequantize"), _by_constants(_per_channel)),
    **dict.fromkeys(_OVER_CHANNELS, _by_constants(_over_channels)),
    **dict.fromkeys(("Conv", f"{MINSEG}.IntegerConv"), _by_constants(_convolution)),
    f"{MINSEG}.IntegerLookup": _by_constants(lambda node, factors, state: node),
}


# --- a convolution before a Resize that interpolates ---


def _is_pointwise(node: Node, resize: Node, state: Sweep) -> bool:
    """A 1×1 convolution with fewer pixels before ``resize``, and not more channels after it."""
    if kind(node) != "Conv" or not state.parameters_are_constant(node):
        return False
    names = (resize.inputs[0], resize.outputs[0], node.outputs[0])
    before, after, result = (_sizes(state.type(name)) for name in names)
    if before is None or after is None or result is None:
        return False
    unpadded = not any(attribute(node, "pads", ()))  # and auto_pad never pads a 1×1 window
    alone = {1, *attribute(node, "strides", ()), *state.constants[node.inputs[1]].shape[2:]} == {1}
    return unpadded and alone and prod(before) < prod(after) and result[1] <= after[1]
