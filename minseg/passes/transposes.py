"""Transposes between channels-first and channels-last pushed to the edges, where they cancel.

Write T for the Transpose that makes NHWC of NCHW. An operator f that does not care where its axes
lie satisfies f(T(x)) = T(g(x)), with g being f under renamed axes: axis a of T(x) is axis perm[a]
of x. So a T moves down through f until it meets its inverse, or an output; likewise an inverse
moves up towards an input. Every move turns an operator from NHWC to NCHW and none turns one back,
so moving ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.ops.registry import Trait, has, having
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    kind,
    make,
    sweep,
    with_attributes,
)

Perm: TypeAlias = tuple[int, ...]


def push_transposes_down(graph: Graph) -> Graph:
    """Channels-last transposes move towards the outputs; pairs with one operator between meet."""
    return sweep(graph, _merge, _take_out, _push_down)


def pull_transposes_up(graph: Graph) -> Graph:
    """Channels-first transposes move towards the inputs, where that makes no more of them."""
    return sweep(graph, _merge, _pull_up)


def transposes_to_reshapes(graph: Graph) -> Graph:
    """A Transpose that moves only axes of size one keeps the order of elements: a Reshape."""
    return sweep(graph, _as_reshape)


def is_channels_last(perm: Perm) -> bool:
    """NCHW to NHWC, with one, two or three spatial axes but not the two of a matrix."""
    rank = len(perm)
    return rank >= 4 and perm == (0, *range(2, rank), 1)


def inverse(perm: Perm) -> Perm:
    return tuple(int(i) for i in np.argsort(perm))


def _perm(node: Node | None, state: Sweep) -> Perm | None:
    """The permutation of a Transpose, None for any other node and where the rank is unknown."""
    if node is None or kind(node) != "Transpose":
        return None
    rank = state.type(node.inputs[0]).rank
    default = None if rank is None else range(rank)[::-1]
    perm = attribute(node, "perm", default)
    return None if perm is None else tuple(perm)


def _merge(node: Node, state: Sweep) -> Sequence[Node] | str | None:
    """Two transposes are one: axis i of the second is axis perm2[i] of the first."""
    second = _perm(node, state)
    before = None if second is None else state.producer(node.inputs[0], "Transpose")
    first = _perm(before, state)
    if before is None or first is None or second is None:
        return None
    perm = tuple(first[axis] for axis in second)
    if perm == tuple(range(len(perm))):
        return before.inputs[0]
    return (make("Transpose", before.inputs, node.outputs, node.name, perm=perm),)


def _take_out(node: Node, state: Sweep) -> Sequence[Node] | None:
    """T2(f(T1(x))) = T(g(x)), whatever the permutations are: one transpose less."""
    second = _perm(node, state)
    middle = None if second is None else state.producer(node.inputs[0], *_movable())
    if middle is None or second is None or len(middle.outputs) != 1:
        return None
    first = _perm(state.producer(middle.inputs[0], "Transpose"), state)
    moved = None if first is None else _moved(middle, first, {}, state)
    if moved is None or not state.is_used_once(node.inputs[0]):
        return None
    new, out = moved
    perm = tuple(out[axis] for axis in second)
    if perm == tuple(range(len(perm))):
        return (replace(new, outputs=node.outputs),)
    inner = state.fresh(f"{node.outputs[0]}/moved")
    transpose = make("Transpose", (inner,), node.outputs, node.name, perm=perm)
    return replace(new, outputs=(inner,)), transpose


def _push_down(node: Node, state: Sweep) -> Sequence[Node] | None:
    perms = (_perm(state.producer(name, "Transpose"), state) for name in node.inputs if name)
    perm = next((p for p in perms if p is not None and is_channels_last(p)), None)
    moved = None if perm is None else _moved(node, perm, {}, state)
    if moved is None:
        return None
    new, out = moved
    if out == tuple(range(len(out))):
        return (new,)
    inner = tuple(o and state.fresh(f"{o}/nchw") for o in new.outputs)
    transposes = [
        make("Transpose", (i,), (o,), f"{node.name}/transpose", perm=out)
        for i, o in zip(inner, new.outputs, strict=True)
        if o
    ]
    return (replace(new, outputs=inner), *transposes)


def _pull_up(node: Node, state: Sweep) -> Sequence[Node] | None:
    up = _perm(node, state)
    if up is None or not is_channels_last(perm := inverse(up)):
        return None
    before = state.producer(node.inputs[0], *_movable())
    if before is None or len(before.outputs) != 1 or not state.is_used_once(node.inputs[0]):
        return None
    varying = {name for name in before.inputs if name and name not in state.constants}
    if len(varying) != 1:
        return None
    (source,) = varying
    name = state.fresh(f"{source}/nchw")
    moved = _moved(before, perm, {source: name}, state)
    if moved is None or moved[1] != perm:
        return None
    transpose = make("Transpose", (source,), (name,), node.name, perm=up)
    return transpose, replace(moved[0], outputs=node.outputs)


def _as_reshape(node: Node, state: Sweep) -> Sequence[Node] | None:
    perm, result = _perm(node, state), state.type(node.outputs[0])
    if perm is None or not result.is_static or not result.shape:
        return None
    moving = [axis for axis, size in zip(perm, result.shape, strict=True) if size != 1]
    if moving != sorted(moving) or 0 in result.shape:
        return None
    shape = state.add_constant(np.array(result.shape, np.int64), f"{node.outputs[0]}/shape")
    return (make("Reshape", (node.inputs[0], shape), node.outputs, node.name),)


# --- operators under renamed axes ---

Moved: TypeAlias = "tuple[Node, Perm] | None"


def _moved(node: Node, perm: Perm, known: dict[str, str], state: Sweep) -> Moved:
    """``node`` working before the Transpose ``perm`` of its data, and its outputs' Transpose then.

    ``known`` holds names of untransposed data besides those that the graph has.
    """
    move, broadcasts = _move_of(node), has(node, Trait.ELEMENTWISE)
    if move is None or (broadcasts and state.type(node.outputs[0]).rank != len(perm)):
        return None
    count = len(node.inputs) if broadcasts or node.op == "Concat" else 1
    data = [
        _untransposed(name, perm, known, state, broadcasts) if name else ""
        for name in node.inputs[:count]
    ]
    if any(name is None for name in data):
        return None
    if any(n and n not in state.constants for n in node.inputs[count:]):
        return None
    inputs = (*(name or "" for name in data), *node.inputs[count:])
    return move(replace(node, inputs=inputs), perm, state)


def _untransposed(
    name: str, perm: Perm, known: dict[str, str], state: Sweep, broadcasts: bool
) -> str | None:
    """The value whose Transpose by ``perm`` is ``name``, where there is one for free."""
    if name in known:
        return known[name]
    before = state.producer(name, "Transpose")
    if before is not None and _perm(before, state) == perm:
        return before.inputs[0]
    array = state.constant(name)
    if broadcasts and state.type(name).rank == 0:
        return name
    if array is not None and (broadcasts or array.ndim == len(perm)):
        if array.ndim > len(perm):
            return None
        if array.size == 1 and broadcasts:
            return name
        full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
        moved = np.ascontiguousarray(full.transpose(inverse(perm)))
        return state.add_constant(moved, f"{name}/nchw")
    back = (n for n in state.existing("Transpose", name) if _perm(n, state) == inverse(perm))
    return next((n.outputs[0] for n in back if not state.is_unused(n.outputs[0])), None)


def _same(node: Node, perm: Perm, state: Sweep) -> Moved:
    return node, perm


def _renamed_axis(default: int | None) -> Callable[[Node, Perm, Sweep], Moved]:
    """Operators with one ``axis``."""

    def move(node: Node, perm: Perm, state: Sweep) -> Moved:
        axis = attribute(node, "axis", default)
        return (with_attributes(node, axis=perm[axis % len(perm)]), perm)

    return move


def _softmax(node: Node, perm: Perm, state: Sweep) -> Moved:
    """Before opset 13 the axes from ``axis`` on are one; the last axis means the same in both."""
    axis = attribute(node, "axis", -1 if node.opset >= 13 else 1) % len(perm)
    if node.opset < 13 and axis != len(perm) - 1:
        return None
    return replace(with_attributes(node, axis=perm[axis]), opset=max(13, node.opset)), perm


def _quantiser(node: Node, perm: Perm, state: Sweep) -> Moved:
    """Per tensor, or per axis with a vector of scales; blocks are left alone."""
    scales = state.constant(node.inputs[1])
    if scales is None or scales.ndim > 1 or attribute(node, "block_size", 0):
        return None
    return (node, perm) if scales.size == 1 else _renamed_axis(1)(node, perm, state)


def _per_axis(name: str, index: int) -> Callable[[Node, Perm, Sweep], Moved]:
    """Operators with one number for every axis, or for every one of ``axes``."""

    def move(node: Node, perm: Perm, state: Sweep) -> Moved:
        values = state.parameter(node, name, index)
        if values is None:
            return None
        return state.with_parameter(node, name, index, _reordered(values, perm)), perm

    return move


def _reordered(values: Sequence[Any], perm: Perm) -> tuple[Any, ...]:
    """Values for the axes of a transposed tensor, in the order of the axes before."""
    return tuple(values[axis] for axis in inverse(perm))


def _pad(node: Node, perm: Perm, state: Sweep) -> Moved:
    axes = state.parameter(node, "axes", 3)
    if axes is not None:
        renamed = [perm[a % len(perm)] for a in axes]
        return state.with_parameter(node, "axes", 3, renamed), perm
    pads = state.parameter(node, "pads", 1)
    if pads is None:
        return None
    half = len(perm)
    moved = (*_reordered(pads[:half], perm), *_reordered(pads[half:], perm))
    return state.with_parameter(node, "pads", 1, moved), perm


def _resize(node: Node, perm: Perm, state: Sweep) -> Moved:
    if "axes" in node.attributes:
        renamed = tuple(perm[a % len(perm)] for a in attribute(node, "axes"))
        return with_attributes(node, axes=renamed), perm
    if node.opset < 11:
        return _per_axis("scales", 1)(node, perm, state)
    if attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    for name, index in (("scales", 2), ("sizes", 3)):
        if values := state.parameter(node, name, index):
            node = state.with_parameter(node, name, index, _reordered(values, perm))
    return node, perm


def _slice(node: Node, perm: Perm, state: Sweep) -> Moved:
    starts = state.parameter(node, "starts", 1)
    if starts is None:
        return None
    axes = state.parameter(node, "axes", 3) or range(len(starts))
    return state.with_parameter(node, "axes", 3, [perm[a % len(perm)] for a in axes]), perm


def _reduce(node: Node, perm: Perm, state: Sweep) -> Moved:
    """Reduce* over ``axes``; none means all, or with noop_with_empty_axes nothing."""
    axes = state.parameter(node, "axes", 1)
    keep = attribute(node, "keepdims", 1)
    if not axes:
        if attribute(node, "noop_with_empty_axes", 0):
            return node, perm
        return node, (perm if keep else ())
    renamed = [perm[a % len(perm)] for a in axes]
    new = state.with_parameter(node, "axes", 1, renamed)
    return new, (perm if keep else _without(perm, renamed))


def _arg(node: Node, perm: Perm, state: Sweep) -> Moved:
    axis = perm[attribute(node, "axis", 0) % len(perm)]
    keep = attribute(node, "keepdims", 1)
    return with_attributes(node, axis=axis), (perm if keep else _without(perm, [axis]))


def _squeeze(node: Node, perm: Perm, state: Sweep) -> Moved:
    axes = state.parameter(node, "axes", 1)
    if not axes:
        return None
    renamed = [perm[a % len(perm)] for a in axes]
    return state.with_parameter(node, "axes", 1, renamed), _without(perm, renamed)


def _without(perm: Perm, axes: Sequence[int]) -> Perm:
    """What is left of ``perm`` when ``axes`` of the untransposed tensor are gone."""
    left = [axis for axis in perm if axis not in axes]
    return tuple(sorted(left).index(axis) for axis in left)


_MOVES: dict[str, Callable[[Node, Perm, Sweep], Moved]] = {
    **dict.fromkeys(("Concat", "Split"), _renamed_axis(0)),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), _quantiser),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg),
    "Pad": _pad,
    "Resize": _resize,
    "Upsample": _per_axis("scales", 1),
    "Slice": _slice,
    "Squeeze": _squeeze,
}


def _movable() -> frozenset[str]:
    """The kinds of operators that work under renamed axes."""
    return having(Trait.ELEMENTWISE) | having(Trait.REDUCES) | _MOVES.keys()


def _move_of(node: Node) -> Callable[[Node, Perm, Sweep], Moved] | None:
    if has(node, Trait.ELEMENTWISE):
        return _same
    return _reduce if has(node, Trait.REDUCES) else _MOVES.get(kind(node))
