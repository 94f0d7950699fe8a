"""Quantised islands become integers: which nodes they are, and that they mean the same.

The reference operators run both graphs. Where floats were added up before, the bytes may be one
apart; where they were not, no bit changes.
"""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Build, assert_types_are_right, feeds_of, kinds

from minseg.ops.evaluate import evaluate
from minseg.passes import optimize

CONV, ADD, MEAN = "minseg.IntegerConv", "minseg.IntegerAdd", "minseg.IntegerAveragePool"
LOOKUP = "minseg.IntegerLookup"
Q, DQ = "QuantizeLinear", "DequantizeLinear"


class Quantising(Build):
    """Graphs with quantisers."""

    def quantised(self, x, scale=0.05, zero_point=128, dtype=np.uint8):
        """``x`` through bytes."""
        parameters = self.constant(scale, np.float32), self.constant(zero_point, dtype)
        return self.op(DQ, self.op(Q, x, *parameters), *parameters)

    def weights(self, *shape, axis=0, dtype=np.int8, zero_points=None, scales=None):
        """Integers, dequantised with a scale for each index along ``axis``."""
        limits = np.iinfo(dtype)
        w = self.constant(self.random.integers(limits.min, limits.max + 1, shape), dtype)
        count = shape[axis]
        scales = self.random.uniform(0.001, 0.01, count) if scales is None else scales
        zeros = np.zeros(count) if zero_points is None else zero_points
        scale, zero = self.constant(scales, np.float32), self.constant(zeros, dtype)
        return self.op(DQ, w, scale, zero, axis=axis)


def integers(graph, apart=0.0):
    """The optimised graph; its outputs are at most ``apart`` from what they were."""
    result, feeds = optimize(graph), feeds_of(graph)
    assert_types_are_right(result)
    before, after = evaluate(graph, feeds), evaluate(result, feeds)
    for value in graph.outputs:
        want, got = before[value.name], after[value.name]
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        error = np.abs(got.astype(np.float64) - want.astype(np.float64))
        assert np.count_nonzero(error > 1e-5 * np.abs(want).max()) <= 1e-3 * error.size
        assert error.max(initial=0.0) <= apart + 1e-5 * np.abs(want).max()
        assert want.std() > 0
    again = optimize(result)
    assert kinds(again) == kinds(result)
    return result


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("layout", [{}, {"group": 2, "pads": (1, 2, 1, 0), "strides": (2, 1)}])
def test_a_convolution_between_quantisers_is_one_node(layout, dtype):
    b = Quantising()
    zero = 3 if dtype == np.int8 else 131
    x = b.quantised(b.input(1, 4, 9, 8), zero_point=zero, dtype=dtype)
    w = b.weights(6, 4 // layout.get("group", 1), 3, 3)
    y = b.quantised(b.op("Conv", x, w, b.some(6), **layout), 0.09, zero, dtype)
    assert kinds(integers(b.graph(y), apart=0.09)) == [Q, CONV, DQ]


def test_what_follows_a_convolution_joins_it():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    conv = b.op("Conv", x, b.weights(5, 4, 3, 3))
    y = b.quantised(b.op("Relu", b.norm(conv)), 0.04, 0)
    result = integers(b.graph(y), apart=0.04)
    assert kinds(result) == [Q, CONV, DQ]
    assert result.nodes[1].attributes["y"] == (0, 0, 255)


def test_a_clamp_bounds_the_bytes():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    conv = b.op("Conv", x, b.weights(5, 4, 3, 3))
    clip = b.op("Clip", conv, b.constant(-0.3), b.constant(0.9))
    result = integers(b.graph(b.quantised(clip, 0.02, 100)), apart=0.02)
    assert result.nodes[1].attributes["y"] == (100, 85, 145)


def test_floats_come_out_where_no_quantiser_follows():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    y = b.op("Sigmoid", b.op("Conv", x, b.weights(5, 4, 3, 3), b.some(5)))
    result = integers(b.graph(y))
    assert kinds(result) == [Q, CONV]
    assert result.nodes[1].attributes["activation"] == "Sigmoid"


def test_a_convolution_that_others_read_gives_floats():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    conv = b.op("Conv", x, b.weights(5, 4, 3, 3))
    result = integers(b.graph(conv, b.quantised(conv, 0.09)), apart=0.09)
    assert kinds(result) == [Q, CONV, "minseg.QuantizeDequantize"]


def test_a_bias_of_integers_joins_the_sums():
    b = Quantising()
    scales = np.array([0.5, 0.25, 1.0], np.float32)
    x = b.quantised(b.input(1, 4, 9, 8), 0.125, 3)
    bias = b.op(DQ, b.constant([700, -900, 31], np.int32), b.constant(0.125 * scales), axis=0)
    y = b.op("Conv", x, b.weights(3, 4, 3, 3, scales=scales), bias)
    result = integers(b.graph(b.quantised(y, 2.0, 90)))
    assert kinds(result) == [Q, CONV, DQ]
    np.testing.assert_array_equal(result.constants[result.nodes[1].inputs[2]], [700, -900, 31])


def test_weights_are_quantised_now():
    """Quantisers of constants, as NNCF writes them."""
    b = Quantising()
    scale, zero = b.some(5, low=0.01, high=0.02), b.constant(np.zeros(5), np.int8)
    w = b.op(Q, b.some(5, 4, 3, 3, low=-1, high=1), scale, zero, axis=0)
    w = b.op(DQ, w, scale, zero, axis=0)
    y = b.quantised(b.op("Conv", b.quantised(b.input(1, 4, 9, 8)), w), 0.1)
    assert kinds(integers(b.graph(y), apart=0.1)) == [Q, CONV, DQ]


def test_convolutions_that_are_not_quantised_stay():
    b = Quantising()
    x, floats = b.quantised(b.input(1, 4, 9, 8)), b.input(1, 4, 9, 8, name="floats")
    outputs = [
        b.op("Conv", x, b.some(5, 4, 3, 3)),
        b.op("Conv", floats, b.weights(5, 4, 3, 3)),
        b.op("Conv", x, b.weights(5, 4, 3, 3, axis=1)),
    ]
    assert CONV not in kinds(integers(b.graph(*outputs)))


@pytest.mark.parametrize("relu", [False, True])
def test_a_sum_of_bytes(relu):
    b = Quantising()
    x, z = b.quantised(b.input(1, 4, 9, 8)), b.quantised(b.input(1, 4, 9, 8, name="z"), 0.07, 90)
    y = b.op("Add", x, z)
    y = b.quantised(b.op("Relu", y) if relu else y, 0.06, 20)
    result = integers(b.graph(y))
    assert kinds(result) == [Q, Q, ADD, DQ]
    assert result.nodes[2].attributes["y"] == (20, 20 if relu else 0, 255)


def test_sums_of_other_shapes_stay():
    b = Quantising()
    x, z = b.quantised(b.input(1, 4, 9, 8)), b.quantised(b.input(1, 4, 1, 1, name="z"))
    assert ADD not in kinds(integers(b.graph(b.quantised(b.op("Add", x, z), 0.1))))


MOVES = {
    "MaxPool": lambda b, x: b.op("MaxPool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1)),
    "Resize": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 4, 4, 16), mode="nearest"),
    "Reshape": lambda b, x: b.op("Reshape", x, b.ints(1, 8, 9, 4)),
    "Transpose": lambda b, x: b.op("Transpose", x, perm=(0, 1, 3, 2)),
    "Slice": lambda b, x: b.op("Slice", x, b.ints(1), b.ints(7), b.ints(2)),
}


@pytest.mark.parametrize("case", MOVES)
def test_bytes_are_moved_themselves(case):
    b = Quantising()
    moved = MOVES[case](b, b.quantised(b.input(1, 4, 9, 8)))
    conv = b.op("Conv", moved, b.weights(5, b.shape(moved)[1], 1, 1))
    found = kinds(integers(b.graph(conv, b.quantised(moved))))
    assert sorted(found) == sorted([Q, case, CONV, DQ])


def test_interpolated_bytes_stay_floats():
    b = Quantising()
    x = b.op("Resize", b.quantised(b.input(1, 4, 9, 8)), "", "", b.ints(1, 4, 7, 5), mode="linear")
    found = kinds(integers(b.graph(b.op("Conv", b.quantised(x), b.weights(5, 4, 3, 3)))))
    assert found == ["minseg.QuantizeDequantize", "Resize", Q, CONV]


@pytest.mark.parametrize("last_scale", [0.05, 0.07])
def test_concatenated_bytes(last_scale):
    b = Quantising()
    parts = [b.quantised(b.input(1, 3, 4, 5, name=f"x{i}"), s) for i, s in enumerate((0.05, 0.06))]
    y = b.quantised(b.op("Concat", *parts, axis=1), last_scale)
    requantised = 1 if last_scale == 0.05 else 2
    found = kinds(integers(b.graph(y)))
    assert found.count(LOOKUP) == requantised
    assert [k for k in found if k != LOOKUP] == [Q, Q, "Concat", DQ]


def test_bytes_on_one_grid_are_concatenated_before_a_convolution():
    b = Quantising()
    parts = [b.quantised(b.input(1, 3, 4, 5, name=f"x{i}")) for i in range(2)]
    y = b.op("Conv", b.op("Concat", *parts, axis=1), b.weights(2, 6, 1, 1))
    assert kinds(integers(b.graph(y))) == [Q, Q, "Concat", CONV]


@pytest.mark.parametrize("pool", ["AveragePool", "GlobalAveragePool"])
def test_means_of_bytes(pool):
    b = Quantising()
    x = b.quantised(b.input(1, 3, 9, 8))
    windows = {"kernel_shape": (3, 2), "strides": (2, 2), "pads": (1, 0, 1, 0)}
    y = b.op(pool, x, **(windows if pool == "AveragePool" else {}))
    assert kinds(integers(b.graph(b.quantised(y, 0.013, 17)), apart=0.013)) == [Q, MEAN, DQ]


FUNCTIONS = {
    "another grid": lambda b, x: x,
    "Sigmoid": lambda b, x: b.op("Sigmoid", x),
    "Relu": lambda b, x: b.op("Relu", x),
    "a chain": lambda b, x: b.op("Clip", b.op("Neg", x), b.constant(-1), b.constant(0.5)),
    "times a number": lambda b, x: b.op("Mul", x, b.constant(-3.0)),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_of_a_byte_are_tables(case):
    b = Quantising()
    y = FUNCTIONS[case](b, b.quantised(b.input(1, 3, 9, 8)))
    assert kinds(integers(b.graph(b.quantised(y, 0.02, 100)))) == [Q, LOOKUP, DQ]


def test_the_same_grid_again_is_nothing():
    b = Quantising()
    x = b.quantised(b.input(1, 3, 9, 8))
    assert kinds(integers(b.graph(b.quantised(x), b.op("Neg", b.quantised(x))))).count(Q) <= 1


def test_a_function_of_two_values_is_no_table():
    b = Quantising()
    y = b.op("Mul", b.quantised(b.input(1, 3, 9, 8)), b.some(1, 3, 1, 1))
    assert LOOKUP not in kinds(integers(b.graph(b.quantised(y))))


def test_bytes_that_are_asked_for_come_out_as_they_were():
    b = Quantising()
    scale, zero = b.constant(0.05, np.float32), b.constant(-5, np.int8)
    x = b.quantised(b.input(1, 4, 9, 8))
    q = b.op(Q, b.op("Conv", x, b.weights(5, 4, 3, 3)), scale, zero)
    y = b.op("Conv", b.op(DQ, q, scale, zero), b.weights(2, 5, 1, 1))
    result = integers(b.graph(q, y), apart=1.0)
    assert kinds(result).count(CONV) == 2


def test_a_resize_of_bytes_comes_after_a_convolution_of_them():
    """With its dilation, and with a padding that stands for 0."""
    b = Quantising()
    x = b.op("Resize", b.quantised(b.input(1, 4, 5, 4)), "", "", b.ints(1, 4, 10, 8))
    conv = b.op("Conv", x, b.weights(3, 4, 3, 3), dilations=(2, 2), pads=(2, 2, 2, 2))
    result = integers(b.graph(b.quantised(conv, 0.09)), apart=0.09)
    assert kinds(result) == [Q, CONV, DQ, "Resize"]
    assert result.nodes[1].attributes["dilations"] == (1, 1)


@pytest.mark.parametrize("relu", [False, True])
def test_a_sum_is_part_of_the_convolution_before_it(relu):
    """As in a ResNet: convolution, quantiser, sum, ReLU, quantiser. No bit of the sum changes."""
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    first = b.quantised(b.op("Conv", x, b.weights(4, 4, 1, 1)), 0.03, 120)
    total = b.op("Add", first, x)
    y = b.quantised(b.op("Relu", total) if relu else total, 0.05, 10)
    result = integers(b.graph(y), apart=0.05)
    assert kinds(result) == [Q, CONV, DQ]
    assert result.nodes[1].attributes["own"] == (120, 0, 255)
    assert result.nodes[1].attributes["y"] == (10, 10 if relu else 0, 255)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_a_sum_of_integers_keeps_its_roundings(dtype, last):
    """A QLinearAdd behind a QLinearConv: no bit changes, of sums that lie next to the middle
    between two integers either."""
    b = Quantising()
    zero = b.constant(3, dtype)
    x_scale, own_scale, y_scale = (b.constant(s) for s in (0.1, 0.05, 0.3))
    x = b.op(Q, b.input(1, 4, 40, 40), x_scale, zero)
    w = b.constant(b.random.integers(-128, 128, (4, 4, 1, 1)), np.int8)
    weights = w, b.constant(0.01), b.constant(0, np.int8)
    own = b.op("QLinearConv", x, x_scale, zero, *weights, own_scale, zero)
    pairs = [(own, own_scale, zero), (x, x_scale, zero)]
    operands = [n for pair in pairs[:: -1 if last else 1] for n in pair]
    y = b.op("QLinearAdd", *operands, y_scale, zero, domain="com.microsoft", opset=1)
    result = integers(b.graph(b.op(DQ, y, y_scale, zero)))
    assert kinds(result) == [Q, CONV, DQ]
    assert result.nodes[1].attributes["own_last"] == last


def test_a_sum_of_bytes_that_others_read_stays_a_node():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    first = b.quantised(b.op("Conv", x, b.weights(4, 4, 1, 1)), 0.03, 120)
    total = b.quantised(b.op("Add", first, x), 0.05, 10)
    result = integers(b.graph(total, b.op("MaxPool", first, kernel_shape=(2, 2))), apart=0.05)
    assert ADD in kinds(result) and CONV in kinds(result)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_weights_with_zero_points_of_their_own(dtype, group):
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8), zero_point=7)
    zeros = np.array([90, 128, 127, 3, 60, 100]) - (0 if dtype == np.uint8 else 100)
    w = b.weights(6, 4 // group, 3, 3, dtype=dtype, zero_points=zeros)
    y = b.quantised(b.norm(b.op("Conv", x, w, group=group, pads=(1, 1, 1, 1))), 0.3)
    result = integers(b.graph(y), apart=0.3)
    assert kinds(result) == [Q, CONV, DQ]
    assert len(result.nodes[1].inputs) == 7


def test_zero_points_that_leave_eight_bits_are_taken_away_now():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 9, 8))
    w = b.weights(6, 4, 3, 3, dtype=np.uint8, zero_points=[128] * 6)
    result = integers(b.graph(b.quantised(b.op("Conv", x, w), 0.3)), apart=0.3)
    assert kinds(result) == [Q, CONV, DQ]
    assert len(result.nodes[1].inputs) == 5


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("zero_points", [None, (3, 200, 90)])
def test_a_transposed_convolution_has_its_channels_on_axis_1(group, zero_points):
    b = Quantising()
    x = b.quantised(b.input(1, 4, 5, 4), zero_point=7)
    dtype = np.int8 if zero_points is None else np.uint8
    w = b.weights(4, 3, 2, 2, axis=1, dtype=dtype, zero_points=zero_points)
    conv = b.op("ConvTranspose", x, w, b.some(3 * group), strides=(2, 2), group=group)
    result = integers(b.graph(b.quantised(b.op("Relu", conv), 0.09, 0)), apart=0.09)
    assert kinds(result) == [Q, "minseg.IntegerConvTranspose", DQ]


def test_a_transposed_convolution_with_channels_on_axis_0_stays():
    b = Quantising()
    x = b.quantised(b.input(1, 4, 5, 4))
    result = integers(b.graph(b.op("ConvTranspose", x, b.weights(4, 3, 2, 2), strides=(2, 2))))
    assert "ConvTranspose" in kinds(result)
