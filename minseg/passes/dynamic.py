"""Networks that are quantised while they run: their integers as those of other networks.

    DynamicQuantizeLinear(x) = QuantizeLinear(x, scale, zero_point)

where scale and zero point are made of the limits of x, each a node of its own. Limits are those of
rows, which are the same in any layout of x and which several threads can look for.

ConvInteger and MatMulInteger become an IntegerConv where their sums are cast to float32 at once;
the zero point of x may be known only then. What such sums are multiplied by, integers.py folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from minseg.graph.model import Attribute, Dim, Graph, Node, TensorType
from minseg.ops.quantize import dynamic_scale, dynamic_zero_point
from minseg.ops.registry import operator
from minseg.passes.fused_ops import DOMAIN
from minseg.passes.integer_ops import BYTES, FLOATS
from minseg.passes.products import Steps, filters_of
from minseg.passes.quantised_values import Weights, signed
from minseg.passes.rewrite import Sweep, input_name, kind, make, sweep


def quantised_while_running(graph: Graph) -> Graph:
    """See the module's docstring."""
    return sweep(graph, _quantiser, _sums)


def _quantiser(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != "DynamicQuantizeLinear" or len(node.outputs) != 3:
        return None
    (x,), (y, scale, zero_point) = node.inputs, node.outputs
    if state.type(x).dtype != np.float32:
        return None
    limits = state.fresh(f"{y}/limits")
    return (
        _own("Limits", (x,), limits),
        _own("ScaleOfLimits", (limits,), scale),
        _own("ZeroPointOfLimits", (limits,), zero_point),
        make("QuantizeLinear", (x, scale, zero_point), (y,), node.name),
    )


def _own(
    op: str, inputs: Sequence[str], output: str, attributes: Mapping[str, Attribute] | None = None
) -> Node:
    """A node of minseg's domain, named as its output."""
    return Node(output, op, tuple(inputs), (output,), dict(attributes or {}), DOMAIN, 1)


# --- sums of integers that become floats ---


def _sums(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != "Cast" or state.type(node.outputs[0]).dtype != np.float32:
        return None
    sums = state.producer(node.inputs[0], "ConvInteger", "MatMulInteger")
    if sums is None or not state.is_used_once(node.inputs[0]):
        return None
    x, w, x_zero, w_zero = (input_name(sums, i) for i in range(4))
    integers = state.constant(w)
    zero = np.zeros((), np.int8) if not w_zero else state.constant(w_zero)
    if integers is None or zero is None or state.type(x).dtype != np.uint8:
        return None
    if x_zero and state.type(x_zero).shape not in ((), (1,)):
        return None
    steps = Steps(node.outputs[0], state)
    if sums.op == "ConvInteger":
        _integer_conv(steps, x, integers, zero, x_zero, sums.attributes)
        *others, last = steps.nodes
        return (*others, replace(last, outputs=node.outputs))
    if integers.ndim != 2 or zero.ndim > 1:
        return None
    filters = filters_of(integers)
    return steps.of_pixels(
        node,
        x,
        len(filters),
        lambda pixels: _integer_conv(steps, pixels, filters, zero, x_zero, {}),
    )


def _integer_conv(
    steps: Steps,
    x: str,
    w: np.ndarray,
    w_zero: np.ndarray,
    x_zero: str,
    attributes: Mapping[str, Attribute],
) -> str:
    """The sums of ConvInteger as float32."""
    known = steps.state.constant(x_zero) if x_zero else np.zeros((), np.uint8)
    ones = np.ones(len(w), np.float32)
    integers, zeros = signed(Weights(w, ones, w_zero, 0), 0)
    inputs = [x, steps.constant(integers), "", steps.constant(ones), steps.constant(0 * ones), ""]
    inputs.append(steps.constant(zeros) if zeros.any() else "")
    if known is None:
        inputs.append(x_zero)
    else:
        attributes = {**attributes, "x_zero_point": int(known.item())}
    y = steps.state.fresh(f"{steps.y}/IntegerConv")
    steps.nodes.append(_own("IntegerConv", inputs, y, attributes))
    return y


# --- what they mean ---


def _infer_limits(x: TensorType) -> TensorType:
    return TensorType(FLOATS, (_rows(x.shape), 2))


def _rows(shape: tuple[Dim, ...] | None) -> Dim:
    """How many rows a tensor has: those of pictures, else all vectors along the last axis."""
    if shape is None:
        return None
    if len(shape) == 4:
        return shape[2]
    known = [d for d in shape[:-1] if isinstance(d, int)]
    return prod(known) if len(known) == len(shape[:-1]) else None


@operator("Limits", domain=DOMAIN, infer=_infer_limits)
def limits(x: np.ndarray) -> np.ndarray:
    """The least and the largest element, or 0, of each row of ``x``: float32 (rows, 2). Those of
    (N, C, H, W) are H, else rows lie along the last axis. NaN where a row has one."""
    along: Any = (0, 1, 3) if x.ndim == 4 else -1
    ends = [end(np.atleast_1d(x), axis=along, initial=0) for end in (np.min, np.max)]
    return np.stack(ends, axis=-1).reshape(-1, 2)


@operator("ScaleOfLimits", domain=DOMAIN, infer=lambda limits: TensorType(FLOATS, ()))
def scale_of_limits(limits: np.ndarray) -> np.ndarray:
    """The scale that DynamicQuantizeLinear gives, float32 ()."""
    return dynamic_scale(limits.min(initial=0), limits.max(initial=0))


@operator("ZeroPointOfLimits", domain=DOMAIN, infer=lambda limits: TensorType(BYTES, ()))
def zero_point_of_limits(limits: np.ndarray) -> np.ndarray:
    """The zero point that DynamicQuantizeLinear gives, uint8 ()."""
    low, high = limits.min(initial=0), limits.max(initial=0)
    return dynamic_zero_point(low, dynamic_scale(low, high))
