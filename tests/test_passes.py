"""Passes: each rule fires where it should, stays away where it must, never changes a result.

What concerns convolutions and activations is in test_passes_fusion.py.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from graphs import NCHW, NHWC, Build, assert_same_results, kinds, optimised

from minseg.graph.model import Graph, Node, TensorType, Value
from minseg.passes import optimize, specialise
from minseg.passes.constants import FOLDED_ELEMENTS, fold_constants, fold_quantised_weights
from minseg.passes.rewrite import sweep, until_stable

# --- constants and shapes ---


def test_computed_sizes_become_constants():
    b = Build()
    x = b.input(1, 2, 5, 7)
    size = b.op("Slice", b.op("Shape", x), b.ints(2), b.ints(4), b.ints(0))
    double = b.op("Mul", size, b.ints(2))
    sizes = b.op("Concat", b.ints(1, 2), double, axis=0)
    result = optimised(b.graph(b.op("Resize", x, "", "", sizes, mode="linear")))
    assert kinds(result) == ["Resize"]
    assert result.constants[result.nodes[0].inputs[3]].tolist() == [1, 2, 10, 14]


def test_shapes_fold_once_inputs_are_specialised():
    b = Build()
    x = b.input("n", 2, None, None)
    y = b.op("Reshape", x, b.op("Concat", b.op("Shape", x, end=2), b.ints(-1), axis=0))
    graph = b.graph(y)
    special = specialise(graph, {"x": TensorType(np.dtype(np.float32), (3, 2, 4, 5))})
    assert special.types[y].shape == (3, 2, 20)
    result = optimised(special)
    assert kinds(result) == ["Reshape"]
    assert optimize(graph).nodes  # symbolic sizes are no obstacle


def test_constant_nodes_are_evaluated_and_the_dead_removed():
    b = Build()
    x = b.input(1, 2, 3, 3)
    table = b.op("Mul", b.some(3, 3), b.some(3, 3))
    b.op("Exp", x)
    result = optimised(b.graph(b.op("Add", x, table)))
    assert kinds(result) == ["Add"]
    assert len(result.constants) == 1


def test_large_results_of_small_constants_are_not_kept():
    b = Build()
    x = b.input(1)
    large = b.op("Expand", b.some(1), b.ints(FOLDED_ELEMENTS + 1))
    small = b.op("Expand", b.some(1), b.ints(5000))
    result = optimised(b.graph(b.op("Add", x, large), b.op("Add", x, small)))
    assert Counter(kinds(result)) == {"Expand": 1, "Add": 2}


@pytest.mark.parametrize("size", [3, 40], ids=["evaluated by inference", "large"])
def test_quantised_weights_wait_for_their_pass(size):
    b = Build()
    x = b.input(1, size, 5, 5)
    integers = b.constant(b.random.integers(-127, 128, (3, 3, size, size)), np.int8)
    # per-axis parameters belong to the last axis of the weights as TensorFlow lays them out
    grid = b.some(size), b.constant(np.zeros(size), np.int8)
    weights = b.op("DequantizeLinear", integers, *grid, axis=3)
    turned = b.transpose(weights, (3, 2, 0, 1))
    graph = b.graph(b.op("Conv", x, turned))
    waiting = until_stable(fold_constants)(specialise(graph, {}))
    assert kinds(waiting) == ["DequantizeLinear", "Transpose", "Conv"]
    assert kinds(fold_quantised_weights(waiting)) == ["Conv"]
    assert kinds(optimised(graph)) == ["Conv"]


def test_an_output_may_become_a_constant():
    b = Build()
    x = b.input(2, 3)
    result = optimised(b.graph(b.op("Shape", x)))
    assert not result.nodes


# --- what does nothing, is done twice, or is decided ---

NOTHINGS = {
    "Identity": lambda b, x: b.op("Identity", x),
    "Dropout": lambda b, x: b.op("Dropout", x),
    "Cast": lambda b, x: b.op("Cast", x, to=1),
    "Reshape": lambda b, x: b.op("Reshape", x, b.ints(1, 4, -1, 6)),
    "Transpose": lambda b, x: b.transpose(x, (0, 1, 2, 3)),
    "Slice": lambda b, x: b.op("Slice", x, b.ints(0), b.ints(99), b.ints(2)),
    "Pad": lambda b, x: b.op("Pad", x, b.ints(*[0] * 8)),
    "Concat": lambda b, x: b.op("Concat", x, axis=1),
    "Resize": lambda b, x: b.op("Resize", x, "", b.constant([1.0] * 4, np.float32), mode="cubic"),
    "Resize to its size": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 4, 6, 6)),
    "Sum": lambda b, x: b.op("Sum", x),
    "Expand": lambda b, x: b.op("Expand", x, b.ints(1, 6)),
    "Squeeze and back": lambda b, x: b.op("Unsqueeze", b.op("Squeeze", x, b.ints(0)), b.ints(0)),
    "transposed and back": lambda b, x: b.transpose(b.transpose(x, (0, 2, 1, 3)), (0, 2, 1, 3)),
    "+ 0": lambda b, x: b.op("Add", b.constant(0.0), x),
    "/ 1": lambda b, x: b.op("Div", x, b.constant([1.0])),
}
SOMETHINGS = {
    "Cast": lambda b, x: b.op("Cast", x, to=11),
    "Reshape": lambda b, x: b.op("Reshape", x, b.ints(1, 6, 4, 6)),
    "Transpose of equal sizes": lambda b, x: b.transpose(x, (0, 1, 3, 2)),
    "Slice backwards": lambda b, x: b.op(
        "Slice", x, b.ints(-1), b.ints(-99), b.ints(2), b.ints(-1)
    ),
    "Pad that shifts": lambda b, x: b.op("Pad", x, b.ints(0, 0, 1, 0, 0, 0, -1, 0)),
    "Resize by a shift": lambda b, x: b.op(
        "Resize",
        x,
        b.constant([0, 0, 0, 0, 1, 1, 0.5, 0.5], np.float32),
        "",
        b.ints(1, 4, 6, 6),
        coordinate_transformation_mode="tf_crop_and_resize",
        mode="linear",
    ),
    "+ 0 of another shape": lambda b, x: b.op("Add", b.constant(np.zeros((2, 1, 1, 1))), x),
    "0 -": lambda b, x: b.op("Sub", b.constant(0.0), x),
}


@pytest.mark.parametrize("case", NOTHINGS)
def test_what_does_nothing_is_removed(case):
    b = Build()
    x = b.op("Exp", b.input(1, 4, 6, 6))
    y = NOTHINGS[case](b, x)
    result = optimised(b.graph(b.op("Neg", y), y))
    assert kinds(result) == ["Exp", "Neg"]


@pytest.mark.parametrize("case", SOMETHINGS)
def test_what_does_something_stays(case):
    b = Build()
    x = b.op("Exp", b.input(1, 4, 6, 6))
    result = optimised(b.graph(b.op("Neg", SOMETHINGS[case](b, x))))
    assert len(result.nodes) == 3


def test_outputs_keep_their_names_when_nothing_makes_them():
    b = Build()
    x = b.input(1, 2)
    y = b.op("Exp", x)
    result = optimised(b.graph(b.op("Identity", x), b.op("Identity", y), y))
    assert Counter(kinds(result)) == {"Exp": 1, "Identity": 2}


def test_the_name_of_an_output_reaches_subgraphs():
    b = Build()
    y = b.op("Abs", b.input(2, 3))
    named = b.op("Identity", y)
    part = branch(Node("n", "Neg", (y,), ("t",), opset=18), output="t")
    which = b.input(1, name="which", dtype=bool)
    chosen = b.op("If", which, then_branch=part, else_branch=part)
    graph = b.graph(named, chosen)
    result = optimize(graph)
    assert kinds(result) == ["Abs", "If"]
    assert_same_results(graph, result)


def test_uses_are_counted_under_the_name_that_stays():
    b = Build()
    y = b.op("Exp", b.input(2, 3))
    other = b.op("Neg", b.op("Identity", y))
    used_once = {}

    def rule(node, state):
        used_once[node.op] = state.is_used_once(y)
        return node.inputs[0] if node.op == "Identity" else None

    sweep(b.graph(other), rule)
    assert used_once == {"Exp": True, "Identity": True, "Neg": True}
    sweep(b.graph(other, b.op("Sin", y)), rule)
    assert used_once["Sin"] is False


def test_equal_nodes_are_computed_once():
    b = Build()
    x = b.input(2, 3, 4)
    branches = [b.op("Reshape", x, b.ints(6, 4)) for _ in range(2)]
    different = b.op("Reshape", x, b.ints(4, 6))
    sums = b.op("Concat", *(b.op("Exp", y) for y in branches), axis=0)
    result = optimised(b.graph(sums, different))
    assert Counter(kinds(result)) == {"Reshape": 2, "Exp": 1, "Concat": 1}


def branch(*nodes, output, dtype=np.float32, constants=None):
    value = Value(output, TensorType(np.dtype(dtype), None))
    return Graph("branch", (), (value,), nodes, constants or {})


def if_graph(condition):
    """if condition: -(x + 1) else: exp(x), around a value that only the branches read."""
    b = Build()
    x = b.op("Identity", b.op("Abs", b.input(2, 3)))
    one = {"one": np.ones(1, np.float32)}
    add = Node("a", "Add", (x, "one"), ("t",), opset=18)
    then = branch(add, Node("b", "Neg", ("t",), ("r",), opset=18), output="r", constants=one)
    other = branch(Node("c", "Exp", (x,), ("t",), opset=18), output="t")
    return b.graph(b.op("If", condition(b), then_branch=then, else_branch=other))


@pytest.mark.parametrize(
    ("truth", "left"), [(True, ["Abs", "Add", "Neg"]), (False, ["Abs", "Exp"])]
)
def test_a_decided_if_becomes_its_branch(truth, left):
    result = optimised(if_graph(lambda b: b.constant(truth, bool)))
    assert kinds(result) == left


def test_an_open_if_keeps_what_it_reads():
    graph = if_graph(lambda b: b.input(1, name="which", dtype=bool))
    result = optimize(graph)
    assert kinds(result) == ["Abs", "Identity", "If"]
    assert_same_results(graph, result)


# --- padding ---


@pytest.mark.parametrize("opset", [9, 12, 18])
def test_padding_with_zeros_moves_into_a_convolution(opset):
    b = Build(opset=opset)
    x = b.input(1, 3, 6, 7)
    pads = (0, 0, 1, 2, 0, 0, 3, 0)
    y = b.op("Pad", x, pads=pads) if opset < 11 else b.op("Pad", x, b.ints(*pads))
    result = optimised(b.graph(b.conv(y, pads=(1, 0, 0, 1), strides=(2, 1))))
    assert kinds(result) == ["Conv"]
    assert result.nodes[0].attributes["pads"] == (2, 2, 3, 1)


PADDINGS = {
    "of one": lambda b, x: b.op("Pad", x, b.ints(0, 0, 1, 1, 0, 0, 1, 1), b.constant(1.0)),
    "of channels": lambda b, x: b.op("Pad", x, b.ints(0, 1, 0, 0, 0, 0, 0, 0)),
    "that cuts": lambda b, x: b.op("Pad", x, b.ints(0, 0, -1, 0, 0, 0, 1, 0)),
    "by reflection": lambda b, x: b.op("Pad", x, b.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"),
}


@pytest.mark.parametrize("case", PADDINGS)
def test_other_padding_stays(case):
    b = Build()
    y = PADDINGS[case](b, b.input(1, 3, 6, 7))
    assert kinds(optimised(b.graph(b.conv(y)))) == ["Pad", "Conv"]


POOLS = {
    "average": ("AveragePool", 0.0, False, {}, True),
    "average that leaves pads out": ("AveragePool", 0.0, False, {"pads": (0, 1, 0, 1)}, False),
    "average that counts pads": (
        *("AveragePool", 0.0, False),
        *({"pads": (0, 1, 0, 1), "count_include_pad": 1}, True),
    ),
    "average of ones": ("AveragePool", 1.0, False, {}, False),
    "average to the ceiling": ("AveragePool", 0.0, False, {"ceil_mode": 1}, False),
    "maximum of zeros": ("MaxPool", 0.0, False, {}, False),
    "maximum of zeros after Relu": ("MaxPool", 0.0, True, {}, True),
    "maximum of -inf": ("MaxPool", -np.inf, False, {}, True),
    "maximum with holes": ("MaxPool", -np.inf, False, {"dilations": (2, 2)}, False),
    "maximum in padding alone": ("MaxPool", -np.inf, False, {"pads": (2, 0, 0, 0)}, False),
}


@pytest.mark.parametrize("case", POOLS)
def test_padding_moves_into_a_pool_where_exact(case):
    op, value, relu, attributes, merged = POOLS[case]
    b = Build()
    x = b.input(1, 2, 8, 9)
    x = b.op("Relu", x) if relu else x
    y = b.op("Pad", x, b.ints(0, 0, 1, 0, 0, 0, 1, 2), b.constant(value))
    z = b.op(op, y, kernel_shape=(3, 3), strides=(2, 1), **attributes)
    assert ("Pad" not in kinds(optimised(b.graph(z)))) == merged


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["Conv", "MaxPool", "AveragePool", "ConvTranspose"])
def test_automatic_padding_is_spelt_out(op, mode):
    b = Build()
    x = b.input(1, 3, 8, 11)
    parameters = [b.some(3, 3, 3, 4)] if op.startswith("Conv") else []
    y = b.op(op, x, *parameters, kernel_shape=(3, 4), strides=(2, 3), auto_pad=mode)
    (node,) = optimised(b.graph(y)).nodes
    assert "auto_pad" not in node.attributes and len(node.attributes["pads"]) == 4


@pytest.mark.parametrize("size", [(8, 11), (9, 10), (5, 7)])
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_automatic_padding_has_no_use_for_ceil_mode(op, mode, size):
    b = Build()
    x = b.input(1, 3, *size)
    layout = {"kernel_shape": (3, 3), "strides": (2, 3), "auto_pad": mode}
    y, without = (b.op(op, x, ceil_mode=ceil_mode, **layout) for ceil_mode in (1, 0))
    assert b.shape(y) == b.shape(without)
    (node,) = optimised(b.graph(y)).nodes
    assert "auto_pad" not in node.attributes


def test_output_shape_of_a_transposed_convolution_is_spelt_out():
    b = Build()
    x = b.input(1, 3, 4, 5)
    y = b.op("ConvTranspose", x, b.some(3, 2, 3, 3), strides=(2, 2), output_shape=(8, 10))
    (node,) = optimised(b.graph(y)).nodes
    assert "output_shape" not in node.attributes


# --- transposes ---


def two(b):
    """Two tensors of one shape in channels-last layout, made in channels-first layout."""
    x = b.input(1, 4, 6, 5)
    return [b.transpose(b.op(op, x), NHWC) for op in ("Sin", "Cos")]


MOVES = {
    "Relu": lambda b, x, y: b.op("Relu", x),
    "Add": lambda b, x, y: b.op("Add", x, y),
    "Add a vector": lambda b, x, y: b.op("Add", x, b.some(4)),
    "Mul by rows": lambda b, x, y: b.op("Mul", b.some(6, 1, 1), x),
    "Where": lambda b, x, y: b.op("Where", b.op("Less", x, y), x, b.some()),
    "Clip": lambda b, x, y: b.op("Clip", x, b.constant(0.1), b.constant(0.5)),
    "PRelu": lambda b, x, y: b.op("PRelu", x, b.some(4)),
    "Pad": lambda b, x, y: b.op("Pad", x, b.ints(0, 1, 2, 3, 0, 2, 0, 1), mode="edge"),
    "Pad axes": lambda b, x, y: b.op("Pad", x, b.ints(1, 2, 0, 1), "", b.ints(1, -1)),
    "Concat": lambda b, x, y: b.op("Concat", x, b.some(1, 6, 5, 3), y, axis=-1),
    "Resize": lambda b, x, y: b.op("Resize", x, "", "", b.ints(1, 9, 7, 4), mode="linear"),
    "Resize by scales": lambda b, x, y: b.op("Resize", x, "", b.constant([1, 2, 3, 1], np.float32)),
    "Resize axes": lambda b, x, y: b.op("Resize", x, "", "", b.ints(9, 7), axes=(1, 2)),
    "Resize-10": lambda b, x, y: b.op("Resize", x, b.constant([1, 2, 3, 1], np.float32), opset=10),
    "Upsample-7": lambda b, x, y: b.op("Upsample", x, scales=(1.0, 2.0, 3.0, 1.0), opset=7),
    "Slice": lambda b, x, y: b.op("Slice", x, b.ints(0, 1, 2), b.ints(9, 5, 4)),
    "Slice-9": lambda b, x, y: b.op("Slice", x, starts=(0, 1), ends=(9, 5), opset=9),
    "ReduceMean": lambda b, x, y: b.op("ReduceMean", x, b.ints(1, 2)),
    "ReduceMax-11": lambda b, x, y: b.op("ReduceMax", x, axes=(-1,), opset=11),
    "ReduceSum of all": lambda b, x, y: b.op("ReduceSum", x),
    "ArgMax": lambda b, x, y: b.op("ArgMax", x, axis=2),
    "Softmax": lambda b, x, y: b.op("Softmax", x, axis=-1),
    "Softmax-11": lambda b, x, y: b.op("Softmax", x, axis=3, opset=11),
    "FakeQuantize": lambda b, x, y: b.op(
        "FakeQuantize",
        *(x, b.constant(-1.0), b.some(4), b.constant(-1.0), b.some(4)),
        domain="org.openvinotoolkit",
        opset=1,
        levels=256,
    ),
    "QuantizeLinear": lambda b, x, y: b.op("QuantizeLinear", x, b.some(), b.constant(3, np.uint8)),
    "QuantizeLinear per channel": lambda b, x, y: b.op(
        "QuantizeLinear", x, b.some(4), b.constant([0, 1, 2, 3], np.uint8), axis=3
    ),
}


@pytest.mark.parametrize("case", MOVES)
def test_transposes_cancel_through(case):
    b = Build()
    back = b.transpose(MOVES[case](b, *two(b)), NCHW)
    result = optimised(b.graph(b.op("Identity", back)))
    assert "Transpose" not in kinds(result)


def test_transposes_cancel_through_split():
    b = Build()
    x, _ = two(b)
    parts = b.op("Split", x, b.ints(1, 3), n_outputs=2, axis=3)
    result = optimised(b.graph(*(b.transpose(part, NCHW) for part in parts)))
    assert kinds(result) == ["Sin", "Split"]


@pytest.mark.parametrize(
    "reduce",
    [
        lambda b, x: b.op("ArgMax", x, axis=-1, keepdims=0),
        lambda b, x: b.op("ReduceMin", x, b.ints(1, 2), keepdims=0),
        lambda b, x: b.op("Squeeze", b.op("ArgMax", x, axis=3), b.ints(3)),
        lambda b, x: b.op("ReduceL2", x, keepdims=0),
    ],
)
def test_transposes_vanish_in_a_reduction(reduce):
    b = Build()
    x, _ = two(b)
    assert "Transpose" not in kinds(optimised(b.graph(reduce(b, x))))


def test_a_swap_of_axes_around_softmax_vanishes():
    b = Build()
    x = b.input(1, 4, 6, 5)
    y = b.op("Softmax", b.transpose(x, (0, 3, 2, 1)), axis=3, opset=11)
    result = optimised(b.graph(b.transpose(y, (0, 3, 2, 1))))
    assert kinds(result) == ["Softmax"]
    assert result.nodes[0].attributes["axis"] == 1


@pytest.mark.parametrize("second", [(0, 2, 1, 3), (1, 0, 3, 2), (3, 1, 0, 2)])
@pytest.mark.parametrize("first", [(0, 3, 1, 2), (2, 3, 0, 1), (1, 2, 3, 0)])
def test_two_transposes_around_an_operator_are_one(first, second):
    b = Build()
    y = b.op("Softmax", b.transpose(b.input(2, 4, 6, 5), first), axis=2)
    result = optimised(b.graph(b.op("Exp", b.transpose(y, second)), b.op("Neg", y)))
    shared = Counter(kinds(result))  # y is read by Neg too, and stays where it is
    assert shared == {"Transpose": 2, "Softmax": 1, "Exp": 1, "Neg": 1}
    alone = optimised(b.graph(b.op("Exp", b.transpose(y, second))))
    assert Counter(kinds(alone)) == {"Transpose": 1, "Softmax": 1, "Exp": 1}


def test_transposes_stay_where_they_are_needed():
    b = Build()
    x, y = two(b)
    other = b.op("Exp", b.input(1, 6, 5, 4, name="y"))
    mixed = b.op("Add", x, other)  # would only move the transpose to the other side
    flat = b.op("Reshape", y, b.ints(1, -1))  # needs the order of elements
    softmax = b.op("Softmax", x, axis=1, opset=11)  # over all axes from one on
    result = optimised(b.graph(mixed, flat, b.transpose(softmax, NCHW)))
    assert kinds(result).count("Transpose") == 3


def test_transposes_that_differ_do_not_move_together():
    b = Build()
    x = b.op("Sin", b.input(1, 4, 4, 4))
    y = b.op("Add", b.transpose(x, NHWC), b.transpose(x, (0, 3, 2, 1)))
    assert Counter(kinds(optimised(b.graph(y)))) == {"Sin": 1, "Transpose": 2, "Add": 1}


def test_a_transpose_of_nothing_but_ones_is_a_reshape():
    b = Build()
    x = b.op("Exp", b.input(2, 1, 4, 5))
    result = optimised(b.graph(b.transpose(x, NHWC), b.transpose(x, (0, 1, 3, 2))))
    assert Counter(kinds(result)) == {"Exp": 1, "Reshape": 1, "Transpose": 1}


def test_a_channels_last_network_keeps_transposes_at_its_edges_alone():
    b = Build()

    def conv(x, channels=4, **attributes):
        y = b.conv(b.transpose(x, NCHW), channels, bias=False, **attributes)
        return b.op("Relu", b.op("Add", b.transpose(y, NHWC), b.some(channels)))

    image = b.op("Sub", b.input(1, 16, 12, 3), b.some(3))
    half = b.op("Resize", image, "", "", b.ints(1, 8, 6, 3), mode="linear")
    padded = b.op("Pad", image, b.ints(0, 1, 1, 0, 0, 1, 1, 0))
    fine, coarse = conv(padded, strides=(2, 2)), conv(half, pads=(1, 1, 1, 1))
    joined = b.op("Concat", fine, coarse, axis=3)
    residual = b.op("Add", conv(joined, 8, pads=(1, 1, 1, 1)), joined)
    gate = b.op("Sigmoid", b.op("ReduceMean", residual, b.ints(1, 2)))
    large = b.op("Resize", b.op("Mul", residual, gate), "", "", b.ints(1, 16, 12, 8))
    result = optimised(b.graph(b.op("Softmax", large, axis=-1)))
    assert kinds(result).count("Transpose") <= 2
    assert "Pad" not in kinds(result)
