"""Every notation of quantisation as QuantizeLinear and DequantizeLinear, before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graphs import Build, kinds
from hypothesis import given, settings
from hypothesis import strategies as st
from test_convert_fakequantize import CHANNELS, NARROW, SHIFTED, SIGNED, UNEVEN, UNSIGNED, samples
from test_ops_qlinear import MICROSOFT, OPERATORS, TYPES, Case

from minseg.graph.model import Graph
from minseg.ops.evaluate import evaluate
from minseg.ops.infer import infer
from minseg.passes.qdq import spread_quantised

OPENVINO = "org.openvinotoolkit"

#: What has no form in floats that is as exact.
KEPT = {"ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}


def spread(graph: Graph) -> Graph:
    """`spread_quantised`, which finds nothing to do the second time."""
    typed = replace(graph, types=infer(graph))
    result = spread_quantised(typed)
    assert spread_quantised(result) is result
    return graph if result is typed else result


def off_powers_of_two(case: Case) -> Case:
    """A call with other scales: nothing then lies in the very middle between two integers, where
    the operators of com.microsoft round by rules of their own. Their ratios must be no fractions,
    whose multiples would meet there."""
    op, inputs, attributes = case
    factors = iter(np.float32(1 + np.sqrt([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31]) / 100))
    is_scale = [x is not None and x.dtype == np.float32 and x.ndim < 2 for x in inputs]
    if op in ("QLinearSoftmax", "QuantizeLinear"):
        return case
    changed = (x * next(factors) if s else x for x, s in zip(inputs, is_scale, strict=True))
    return op, tuple(changed), attributes


#: Inputs that are no constants, where that is not the first one alone.
FED = {"QLinearAdd": (0, 3), "QLinearMul": (0, 3), "QLinearConcat": (2,), "QLinearWhere": (0, 4)}


def call_graph(case: Case, domain: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """A graph of one node whose scales, zero points and weights are constants."""
    op, inputs, attributes = case
    build, feeds, names = Build(), {}, []
    for i, x in enumerate(inputs):
        if x is None:
            names.append("")
        elif i in FED.get(op, (0,)):
            feeds[f"x{i}"] = x
            names.append(build.input(*x.shape, name=f"x{i}", dtype=x.dtype))
        else:
            names.append(build.constant(x, x.dtype))
    y = build.op(op, *names, domain=domain, opset=1 if domain else 13, others=attributes)
    return build.graph(y), feeds


@pytest.mark.parametrize("name", sorted(OPERATORS.keys() - KEPT))
def test_operators_of_integers(name: str) -> None:
    """Equal integers in 99.99 %, never more than 1 apart, by operators of floats."""
    domain, cases = OPERATORS[name]
    case = st.composite(cases)
    differing, total = 0, 0

    @given(case().map(off_powers_of_two))
    @settings(max_examples=100)
    def compare(drawn: Case) -> None:
        nonlocal differing, total
        graph, feeds = call_graph(drawn, domain)
        result = spread(graph)
        if drawn[2].get("channels_last"):
            assert result is graph
        else:
            assert not any(k.startswith(("QLinear", MICROSOFT)) for k in kinds(result))
        (want,), (got,) = evaluate(graph, feeds).values(), evaluate(result, feeds).values()
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        if want.dtype.kind == "f":
            np.testing.assert_allclose(
                got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max(initial=0)
            )
            return
        apart = np.abs(got.astype(np.int64) - want.astype(np.int64))
        assert apart.max(initial=0) <= 1
        differing, total = differing + np.count_nonzero(apart), total + apart.size

    compare()
    assert differing <= 1e-4 * total


def test_what_is_not_constant_stays() -> None:
    build = Build()
    x = build.input(1, 3, 4, 4, dtype=np.uint8)
    scale, zero = build.input(name="s"), build.constant(3, np.uint8)
    build.types["s"] = build.inputs[-1].type
    other = build.constant(0.1)
    y = build.op("QLinearSigmoid", x, scale, zero, other, zero, domain=MICROSOFT, opset=1)
    graph = build.graph(y)
    assert spread(graph) is graph


def fake(ends: list[Any], levels: int, x: np.ndarray | None = None) -> Graph:
    """FakeQuantize of an input, or of the constant ``x``."""
    build = Build()
    source = build.input(2, 3, 4, 4) if x is None else build.constant(x)
    names = [build.constant(e) for e in ends]
    y = build.op("FakeQuantize", source, *names, domain=OPENVINO, opset=1, levels=levels)
    return build.graph(y)


PAIR, CLIPPED = (
    ["QuantizeLinear", "DequantizeLinear"],
    ["Clip", "QuantizeLinear", "DequantizeLinear"],
)
STAYS = [f"{OPENVINO}.FakeQuantize"]


@pytest.mark.parametrize(
    ("ends", "levels", "form"),
    [
        (UNSIGNED, 256, PAIR),
        (SIGNED, 256, PAIR),
        (SHIFTED, 256, PAIR),
        (CHANNELS, 256, PAIR),
        (NARROW, 255, CLIPPED),
        ([-7 / 16, 8 / 16] * 2, 16, CLIPPED),
        ([-127, 127, -12.7, 12.7], 255, CLIPPED),
        (UNEVEN, 256, STAYS),
        ([0, 256] * 2, 257, STAYS),
        ([CHANNELS[0] * 127 / 128, CHANNELS[1]] * 2, 255, STAYS),
    ],
)
def test_fake_quantize(ends: list[Any], levels: int, form: list[str]) -> None:
    graph = fake(ends, levels)
    result = spread(graph)
    assert kinds(result) == form
    feeds = {"x": samples(ends, levels)}
    (want,), (got,) = evaluate(graph, feeds).values(), evaluate(result, feeds).values()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=0, atol=np.abs(want).max() * 2.0**-22)


def channel(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("levels", [255, 256])
@pytest.mark.parametrize("size", [1, 3])
def test_fake_quantized_weights_become_integers(size: int, levels: int) -> None:
    """Also where the range is one for each output channel, and a weight is outside of it."""
    high = channel(*(0.3, 1.1, 0.07)[:size])
    low = -high if levels == 255 else -high * 128 / 127
    weights = np.random.default_rng(0).normal(0, 0.2, (3, 5, 3, 3)).astype(np.float32)
    weights = np.clip(weights, low, high) if levels == 255 else weights
    graph = fake([low, high] * 2, levels, weights)
    result = spread(graph)
    assert kinds(result) == ["DequantizeLinear"]
    assert result.constants[result.nodes[0].inputs[0]].dtype == np.int8
    (want,), (got,) = evaluate(graph, {}).values(), evaluate(result, {}).values()
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=0, atol=np.spacing(high.max()))


def test_weights_of_another_grid_stay_floats() -> None:
    weights = np.random.default_rng(0).normal(0, 0.2, (3, 5, 3, 3)).astype(np.float32)
    graph = fake([-0.31, 0.77] * 2, 256, weights)
    assert spread(graph) is graph


def test_quantised_weights_become_integers() -> None:
    build = Build()
    weights, scale = build.some(4, 3, 3, 3, low=-1, high=1), build.constant([0.01] * 4)
    zero = build.constant([0, 1, 2, 3], np.int8)
    integers = build.op("QuantizeLinear", weights, scale, zero, axis=0)
    graph = build.graph(build.op("DequantizeLinear", integers, scale, zero, axis=0))
    result = spread(graph)
    assert kinds(result) == ["DequantizeLinear"]
    (want,), (got,) = evaluate(graph, {}).values(), evaluate(result, {}).values()
    np.testing.assert_array_equal(got, want)


def pads(build: Build, dtype: Any) -> tuple[str, ...]:
    return build.ints(0, 0, 1, 2, 0, 0, 0, 1), build.constant(-7 if dtype == np.int8 else 7, dtype)


MOVEMENTS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "MaxPool": (lambda b, d: (), {"kernel_shape": (2, 2), "strides": (2, 1)}, 1),
    "MaxPool with indices": (lambda b, d: (), {"kernel_shape": (2, 2)}, 2),
    "Transpose": (lambda b, d: (), {"perm": (0, 2, 3, 1)}, 1),
    "Reshape": (lambda b, d: (b.ints(0, -1),), {}, 1),
    "Pad": (pads, {}, 1),
    "Split": (lambda b, d: (b.ints(1, 2),), {"axis": 1}, 2),
    "Slice": (lambda b, d: (b.ints(1), b.ints(3), b.ints(2)), {}, 1),
    "Resize": (lambda b, d: ("", b.constant([1, 1, 2, 1.5])), {"mode": "nearest"}, 1),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", MOVEMENTS)
def test_what_moves(name: str, dtype: Any) -> None:
    """int8 moves between a dequantiser and a quantiser, and uint8 as it is; equal bytes."""
    inputs, attributes, outputs = MOVEMENTS[name]
    build = Build()
    x = build.input(1, 3, 6, 5)
    grid = build.constant(0.037), build.constant(3, dtype)
    q = build.op("QuantizeLinear", x, *grid)
    made = build.op(name.split()[0], q, *inputs(build, dtype), n_outputs=outputs, **attributes)
    graph = build.graph(*((made,) if outputs == 1 else made))
    result = spread(graph)
    assert (result is graph) == (dtype == np.uint8)
    assert ("DequantizeLinear" in kinds(result)) == (dtype == np.int8)
    feeds = {"x": np.random.default_rng(0).normal(0, 3, (1, 3, 6, 5)).astype(np.float32)}
    want, got = evaluate(graph, feeds), evaluate(result, feeds)
    for key, array in want.items():
        assert got[key].dtype == array.dtype
        np.testing.assert_array_equal(got[key], array)


def test_a_resize_that_interpolates_integers_stays() -> None:
    """Between integers it loses fractions, between floats it doesn't."""
    build = Build()
    grid = build.constant(0.037), build.constant(3, np.int8)
    q = build.op("QuantizeLinear", build.input(1, 3, 6, 5), *grid)
    graph = build.graph(build.op("Resize", q, "", build.constant([1, 1, 2, 2]), mode="linear"))
    assert spread(graph) is graph
