"""Networks that are quantised while they run: their integers as those of other networks.

    DynamicQuantizeLinear(x) = QuantizeLinear(x, *DynamicGrid(x))

ConvInteger and MatMulInteger become an IntegerConv where their sums are cast to float32 at once;
the zero point of x may be known only then. What such sums are multiplied by, integers.py folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from minseg.graph.model import Attribute, Graph, Node
from minseg.ops.dialects.fused import CONVOLUTIONS
from minseg.passes.products import Steps, filters_of
from minseg.passes.quantised_values import Weights, signed
from minseg.passes.rewrite import Sweep, input_name, kind, make, make_own, sweep


def quantised_while_running(graph: Graph) -> Graph:
    """See the module's docstring."""
    return sweep(graph, _quantiser, _sums)


def _quantiser(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != "DynamicQuantizeLinear" or len(node.outputs) != 3:
        return None
    (x,), (y, scale, zero_point) = node.inputs, node.outputs
    if state.type(x).dtype != np.float32:
        return None
    return (
        make_own("DynamicGrid", (x,), (scale, zero_point), f"{node.name}/grid"),
        make("QuantizeLinear", (x, scale, zero_point), (y,), node.name),
    )


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
    steps.nodes.append(make_own(CONVOLUTIONS["Conv"].bytes, inputs, (y,), y, **attributes))
    return y
