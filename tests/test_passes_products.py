"""Products of quantised matrices run as convolutions of bytes, with equal integers."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import kinds
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops_qlinear import MICROSOFT, OPERATORS
from test_passes_integers import CONV, DQ, Q, Quantising, integers
from test_passes_qdq import call_graph
from test_plan import kernels_of

import minseg
from minseg.ops.evaluate import evaluate

MOVED = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten"}


def steps(graph):
    return [k for k in kinds(graph) if k not in MOVED]


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("shape", [(1, 20), (7, 20), (3, 7, 20), (2, 3, 7, 20)])
def test_a_product_between_quantisers_is_a_convolution(shape, dtype):
    b = Quantising()
    x = b.quantised(b.input(*shape), zero_point=3, dtype=dtype)
    w = b.weights(20, 5, axis=1)
    y = b.quantised(b.op("MatMul", x, w), 0.2, 3, dtype)
    result = integers(b.graph(y), apart=0.2)
    assert steps(result) == [Q, CONV, DQ]


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_has_its_bias_in_the_convolution(transposed):
    b = Quantising()
    scales = np.array([0.5, 0.25, 1.0], np.float32)
    x = b.quantised(b.input(6, 20), 0.125, 3)
    shape = (3, 20) if transposed else (20, 3)
    w = b.weights(*shape, axis=1 - transposed, scales=scales)
    bias = b.op(DQ, b.constant([700, -900, 31], np.int32), b.constant(0.125 * scales), axis=0)
    y = b.quantised(b.op("Gemm", x, w, bias, transB=transposed), 4.0, 90)
    result = integers(b.graph(y))
    assert steps(result) == [Q, CONV, DQ]
    conv = next(n for n in result.nodes if n.op == "IntegerConv")
    np.testing.assert_array_equal(result.constants[conv.inputs[2]], [700, -900, 31])


@pytest.mark.parametrize(
    "attributes", [{"alpha": 2.0}, {"beta": 0.5}, {"transA": 1}], ids=lambda a: next(iter(a))
)
def test_other_gemms_stay(attributes):
    b = Quantising()
    x = b.quantised(b.input(20, 20))
    y = b.op("Gemm", x, b.weights(20, 5, axis=1), b.some(5), **attributes)
    assert "Gemm" in kinds(integers(b.graph(b.quantised(y, 0.2))))


def test_products_of_floats_and_of_two_values_stay():
    b = Quantising()
    x, z = b.input(7, 20), b.quantised(b.input(20, 5, name="z"))
    floats = b.op("MatMul", x, b.weights(20, 5, axis=1))
    both = b.op("MatMul", b.quantised(x), z)
    assert kinds(integers(b.graph(floats, both))).count("MatMul") == 2


@pytest.mark.parametrize("name", ["QLinearMatMul", "QGemm"])
def test_products_of_integers_compiled(name):
    """Bytes equal the definition's, and kernels make them."""
    domain, cases = OPERATORS[name]
    seen = set()

    @given(st.composite(cases)())
    @settings(max_examples=40)
    def compare(case):
        graph, feeds = call_graph(case, MICROSOFT if domain else "")
        (want,) = evaluate(graph, feeds).values()
        (got,) = minseg.Session(graph).run(None, feeds)
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        seen.update(kernels_of(graph))
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
            return
        # What is asked for as int8 is rounded to float32 before it is divided.
        apart = np.abs(got.astype(int) - want.astype(int))
        assert apart.max(initial=0) <= (want.dtype == np.int8)

    compare()
    assert any(k.startswith("conv_i8") for k in seen)
