"""Networks that are quantised while they run: few integer steps, and the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import assert_types_are_right, feeds_of, kinds
from hypothesis import given
from hypothesis import strategies as st
from test_passes_integers import CONV, Q, Quantising
from test_plan import kernels_of

import minseg
from minseg.graph.model import Graph
from minseg.ops.evaluate import evaluate
from minseg.passes import optimize

QUANTISER = ["minseg.DynamicGrid", Q]


class Dynamic(Quantising):
    """Graphs as onnxruntime's quantiser writes them."""

    def quantiser(self, x):
        """Integers, scale and zero point."""
        return self.op("DynamicQuantizeLinear", x, n_outputs=3)

    def conv(self, x, channels=7, w_scale=0.01, zero=None, **layout):
        """What becomes of a Conv; ``zero`` is the zero point of weights."""
        q, scale, x_zero = self.quantiser(x)
        w = self.integers(channels, self.shape(x)[1] // layout.get("group", 1), 3, 3)
        w_zero = self.constant(0 if zero is None else zero, np.int8)
        sums = self.op("ConvInteger", q, w, x_zero, w_zero, pads=(1, 1, 1, 1), **layout)
        factor = self.op("Mul", scale, self.constant(w_scale))
        return self.op("Mul", self.op("Cast", sums, to=1), factor)

    def integers(self, *shape, dtype=np.int8):
        limits = np.iinfo(dtype)
        return self.constant(self.random.integers(limits.min, limits.max + 1, shape), dtype)

    def bias(self, channels=7):
        return self.constant(self.random.normal(0, 5, (1, channels, 1, 1)))


def same_bits(graph: Graph) -> Graph:
    """The optimised graph: run by the reference or compiled, its results are the graph's own."""
    result, feeds = optimize(graph), feeds_of(graph)
    assert_types_are_right(result)
    session = minseg.Session(graph, threads=2)
    wanted, found = evaluate(graph, feeds), evaluate(result, feeds)
    names = [v.name for v in graph.outputs]
    for name, got in zip(names, session.run(names, feeds), strict=True):
        np.testing.assert_array_equal(found[name], wanted[name], strict=True)
        np.testing.assert_array_equal(got, wanted[name], strict=True)
    assert kinds(optimize(result)) == kinds(result)
    return result


@pytest.mark.parametrize(
    "shape", [(), (1,), (40,), (3, 20), (2, 3, 7), (1, 5, 9, 8), (2, 17, 3, 1)]
)
@pytest.mark.parametrize("low", [-3.0, 0.5])
def test_a_quantiser_is_two_steps(shape, low):
    b = Dynamic()
    x = b.op("Add", b.input(*shape), b.constant(low))
    assert kinds(same_bits(b.graph(*b.quantiser(x)))) == ["Add", *QUANTISER]


@pytest.mark.parametrize("special", [0.0, -0.0, np.nan, np.inf, -np.inf, 3e38, -1e-44])
@pytest.mark.parametrize("others", [0.0, -2.0])
def test_quantised_values_that_are_no_usual_numbers(special, others):
    b = Dynamic()
    graph = b.graph(*b.quantiser(b.input(1, 3, 5, 4)))
    x = np.full((1, 3, 5, 4), others, np.float32)
    x[0, 1, 2, 3] = special
    with np.errstate(all="ignore"):
        wanted = evaluate(graph, {"x": x})
    for got, want in zip(minseg.Session(graph).run(None, {"x": x}), wanted.values(), strict=True):
        np.testing.assert_array_equal(got, want, strict=True)


@pytest.mark.parametrize("w_scale", [0.01, np.linspace(0.01, 0.02, 7).reshape(1, 7, 1, 1)])
@pytest.mark.parametrize("zero", [None, 5])
@pytest.mark.parametrize("layout", [{}, {"strides": (2, 1)}, {"dilations": (1, 2)}], ids=str)
def test_scale_bias_and_activation_are_part_of_the_convolution(layout, zero, w_scale):
    b = Dynamic()
    y = b.op("Add", b.conv(b.input(1, 5, 9, 8), 7, w_scale, zero, **layout), b.bias())
    result = same_bits(b.graph(b.op("Relu", y)))
    assert kinds(result) == [*QUANTISER, CONV]
    assert result.nodes[-1].attributes["activation"] == "Relu"


def test_one_channel_at_a_time():
    b = Dynamic()
    graph = b.graph(b.op("Add", b.conv(b.input(1, 7, 9, 8), 7, zero=5, group=7), b.bias()))
    assert kinds(same_bits(graph)) == [*QUANTISER, CONV]
    assert "conv_i8_depthwise" in kernels_of(graph)


def test_several_convolutions_share_a_quantiser():
    b = Dynamic()
    q, scale, zero = b.quantiser(b.input(1, 5, 9, 8))
    sums = [b.op("ConvInteger", q, b.integers(7, 5, 3, 3), zero) for _ in range(2)]
    outputs = [b.op("Mul", b.op("Cast", s, to=1), scale) for s in sums]
    assert kinds(same_bits(b.graph(*outputs))) == [*QUANTISER, CONV, CONV]


def test_a_factor_after_a_shift_stays():
    """Shifts are not multiplied."""
    b = Dynamic()
    q, scale, zero = b.quantiser(b.input(1, 5, 9, 8))
    sums = b.op("Cast", b.op("ConvInteger", q, b.integers(7, 5, 3, 3), zero), to=1)
    y = b.op("Mul", b.op("Add", sums, b.bias()), scale)
    assert kinds(same_bits(b.graph(y))) == [*QUANTISER, CONV, "Mul"]


def test_a_second_factor_and_one_after_an_activation_stay():
    b = Dynamic()
    numbers = [b.input(1, name=name) for name in "st"]
    y = b.op("Mul", b.conv(b.input(1, 5, 9, 8)), numbers[0])
    z = b.op("Mul", b.op("Sigmoid", b.conv("x")), numbers[1])
    assert kinds(optimize(b.graph(y, z))).count("Mul") == 2


def test_what_is_normalised_after_a_factor():
    b = Dynamic()
    graph = b.graph(b.norm(b.op("Add", b.conv(b.input(1, 5, 9, 8)), b.bias())))
    result, feeds = optimize(graph), feeds_of(graph)
    assert kinds(result) == [*QUANTISER, CONV]
    (want,) = evaluate(graph, feeds).values()
    for got in (*evaluate(result, feeds).values(), *minseg.Session(graph).run(None, feeds)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def test_factors_of_other_shapes_stay():
    b = Dynamic()
    q, scale, zero = b.quantiser(b.input(1, 5, 9, 8))
    sums = b.op("Cast", b.op("ConvInteger", q, b.integers(7, 5, 3, 3), zero), to=1)
    wide = b.op("Mul", sums, b.op("Mul", scale, b.some(7, 6)))
    deep = b.op("Mul", b.op("Cast", b.op("ConvInteger", q, b.integers(7, 5, 3, 3), zero), to=1),
                b.op("Reshape", scale, b.ints(1, 1, 1, 1, 1)))  # fmt: skip
    assert kinds(same_bits(b.graph(wide, deep))).count("Mul") == 3


@pytest.mark.parametrize("shape", [(3, 20), (2, 7, 20)])
def test_a_product_of_matrices_takes_its_scale(shape):
    b = Dynamic()
    q, scale, zero = b.quantiser(b.input(*shape))
    sums = b.op("Cast", b.op("MatMulInteger", q, b.integers(20, 7), zero), to=1)
    y = b.op("Mul", sums, b.op("Mul", scale, b.constant([0.01])))
    found = kinds(same_bits(b.graph(b.op("Add", y, b.some(7)))))
    assert CONV in found and "Mul" not in found and "MatMulInteger" not in found


def test_columns_of_a_product_with_scales_of_their_own():
    b = Dynamic()
    q, scale, zero = b.quantiser(b.input(3, 20))
    sums = b.op("Cast", b.op("MatMulInteger", q, b.integers(20, 7), zero), to=1)
    y = b.op("Mul", sums, b.op("Mul", scale, b.some(7)))
    assert kinds(same_bits(b.graph(y))).count("Mul") == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("product", ["ConvInteger", "MatMulInteger"])
@pytest.mark.parametrize("zero", ["dynamic", "constant", "none"])
def test_sums_of_integers_that_become_floats(zero, product, dtype):
    b = Dynamic()
    shape, weights = (
        ((1, 5, 9, 8), (7, 5, 3, 3)) if product == "ConvInteger" else ((3, 20), (20, 7))
    )
    x, _, x_zero = b.quantiser(b.input(*shape))
    x_zero = {"dynamic": x_zero, "constant": b.constant(90, np.uint8), "none": ""}[zero]
    w = b.integers(*weights, dtype=dtype)
    layout = {"pads": (1, 1, 1, 1), "strides": (2, 1)} if product == "ConvInteger" else {}
    sums = b.op(product, x, w, x_zero, b.constant(5, dtype), **layout)
    graph = b.graph(b.op("Cast", sums, to=1))
    found = kinds(same_bits(graph))
    assert CONV in found and product not in found
    assert "conv_i8_direct" in kernels_of(graph)


def test_sums_of_integers_that_others_read_stay():
    b = Dynamic()
    x, _, zero = b.quantiser(b.input(3, 20))
    sums = b.op("MatMulInteger", x, b.integers(20, 7), zero)
    assert "MatMulInteger" in kinds(optimize(b.graph(sums, b.op("Cast", sums, to=1))))


def test_numbers_from_elsewhere_are_no_constants_either():
    """Scale and zero point that a graph is fed, of one element in any shape."""
    b = Dynamic()
    x, scale = b.input(1, 5, 9, 8), b.input(1, 1, 1, 1, name="scale")
    zero = b.input(1, name="zero", dtype=np.uint8)
    positive = b.op("Add", b.op("Abs", scale), b.constant(0.01))
    q = b.op(Q, x, b.op("Reshape", positive, b.ints(1)), zero)
    sums = b.op("Cast", b.op("ConvInteger", q, b.integers(7, 5, 3, 3), zero), to=1)
    result = same_bits(b.graph(b.op("Mul", sums, positive)))
    assert kinds(result)[-1] == CONV


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_any_size(C, H, W, relu):
    b = Dynamic()
    y = b.op("Add", b.conv(b.input(1, C, H, W), 3), b.bias(3))
    y = b.op("Add", b.conv(b.op("Relu", y) if relu else y, 5), b.bias(5))
    same_bits(b.graph(y))
