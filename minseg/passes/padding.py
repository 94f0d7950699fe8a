"""Padding in one place: spelt out as numbers, and inside the operator that slides over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.ops.registry import Trait, having
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    input_name,
    kind,
    sweep,
    with_attributes,
)

WINDOWED = ("Conv", "MaxPool", "AveragePool")

#: Attributes that pads stand for.
_SPELT_OUT = ("auto_pad", "ceil_mode", "output_shape")


def spell_out_padding(graph: Graph) -> Graph:
    """auto_pad and ConvTranspose's output_shape become pads, where sizes are known. What
    ceil_mode says, auto_pad has no use for (see `minseg.ops.geometry.Sliding`)."""
    return sweep(graph, _explicit)


def merge_padding(graph: Graph) -> Graph:
    """A Pad before a Conv, MaxPool or AveragePool becomes part of its pads, where that is exact."""
    return sweep(graph, _merge)


def _explicit(node: Node, state: Sweep) -> Sequence[Node] | None:
    mode = attribute(node, "auto_pad", "NOTSET")
    if mode == "NOTSET" and "output_shape" not in node.attributes:
        return None
    if kind(node) not in (*WINDOWED, "ConvTranspose"):
        return None
    x, y = state.type(node.inputs[0]), state.type(node.outputs[0])
    weights = state.type(input_name(node, 1)).shape if kind(node).startswith("Conv") else None
    kernel = attribute(node, "kernel_shape", None if weights is None else weights[2:])
    if not (x.is_static and y.is_static) or kernel is None or x.shape is None or y.shape is None:
        return None
    size_in, size_out = np.array(x.shape[2:], int), np.array(y.shape[2:], int)
    ones = [1] * len(kernel)
    strides = np.array(attribute(node, "strides", ones))
    extent = (np.array(kernel) - 1) * np.array(attribute(node, "dilations", ones)) + 1
    if node.op == "ConvTranspose":
        more = np.array(attribute(node, "output_padding", [0] * len(kernel)))
        total = strides * (size_in - 1) + more + extent - size_out
    else:
        total = np.maximum((size_out - 1) * strides + extent - size_in, 0)
    if mode == "VALID" and node.op != "ConvTranspose":
        total = 0 * total
    if (total < 0).any():
        return None
    small, large = total // 2, total - total // 2
    # ConvTranspose with an output_shape and no auto_pad splits as SAME_LOWER does.
    begin, end = (small, large) if mode == "SAME_UPPER" else (large, small)
    pads = (*begin.tolist(), *end.tolist())
    rest = {n: a for n, a in node.attributes.items() if n not in _SPELT_OUT}
    return (replace(node, attributes={**rest, "pads": pads}),)


@dataclass(frozen=True)
class Padding:
    """A Pad of spatial axes by a constant: sizes before and after each of them."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    value: float


def _padding(node: Node, state: Sweep) -> Padding | None:
    """What a Pad node adds, None unless it only adds a known number around spatial axes."""
    rank = state.type(node.inputs[0]).rank
    pads = state.parameter(node, "pads", 1)
    if attribute(node, "mode", "constant") != "constant" or rank is None or pads is None:
        return None
    if not state.parameters_are_constant(node):
        return None
    axes = [a % rank for a in state.parameter(node, "axes", 3) or range(rank)]
    begin, end = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = pads[i], pads[i + len(axes)]
    if rank < 3 or min(begin + end) < 0 or any(begin[:2] + end[:2]):
        return None
    value = state.parameter(node, "value", 2) or (0.0,)
    return Padding(tuple(begin[2:]), tuple(end[2:]), value[0])


def _merge(node: Node, state: Sweep) -> Sequence[Node] | None:
    merged = _MERGES.get(kind(node))
    pad = state.producer(node.inputs[0], "Pad") if merged else None
    padding = None if pad is None else _padding(pad, state)
    if merged is None or pad is None or padding is None:
        return None
    if attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        return None
    changes = merged(node, pad, padding, state)
    if changes is None:
        return None
    pads = _pads(node, len(padding.begin))
    added = (*padding.begin, *padding.end)
    changes["pads"] = tuple(int(a + b) for a, b in zip(pads, added, strict=True))
    new = with_attributes(node, **changes)
    return (replace(new, inputs=(pad.inputs[0], *node.inputs[1:])),)


def _pads(node: Node, spatial: int) -> tuple[int, ...]:
    return tuple(attribute(node, "pads", (0,) * (2 * spatial)))


def _into_conv(node: Node, pad: Node, padding: Padding, state: Sweep) -> dict[str, Any] | None:
    """Conv pads with zeros itself."""
    return {} if padding.value == 0 else None


def _into_average(node: Node, pad: Node, padding: Padding, state: Sweep) -> dict[str, Any] | None:
    """Zeros that were data count in the mean: so must the pads, the old ones among them."""
    counts = attribute(node, "count_include_pad", 0) or not any(_pads(node, len(padding.begin)))
    exact = padding.value == 0 and counts and not attribute(node, "ceil_mode", 0)
    return {"count_include_pad": 1} if exact else None


def _into_max(node: Node, pad: Node, padding: Padding, state: Sweep) -> dict[str, Any] | None:
    """MaxPool pads with what never wins.

    The least number of the dtype never does; zero does not where no element is negative. Every
    window must hold an element that is no padding.
    """
    kernel = attribute(node, "kernel_shape")
    pads = np.add(_pads(node, len(kernel)), (*padding.begin, *padding.end))
    plain = not attribute(node, "ceil_mode", 0) and len(node.outputs) == 1
    dilated = any(d != 1 for d in attribute(node, "dilations", ()))
    if not plain or dilated or (pads >= np.array(2 * tuple(kernel))).any():
        return None
    never_wins = padding.value == _least(state.type(pad.inputs[0]).dtype)
    before = state.producer(pad.inputs[0], *having(Trait.NON_NEGATIVE))
    harmless = padding.value == 0 and before is not None
    return {} if never_wins or harmless else None


def _least(dtype: np.dtype | None) -> float:
    """The least number of ``dtype``; the infinite one of floats."""
    integer = dtype is not None and dtype.kind in "iu"
    return float(np.iinfo(dtype).min) if integer and dtype is not None else -np.inf


_MERGES = {"Conv": _into_conv, "AveragePool": _into_average, "MaxPool": _into_max}
