"""Static quantisation: ranges, points, what is written, and what other engines say to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from graphs import Build
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from parity import onnxruntime_run

import minseg
from minseg.errors import InputError
from minseg.graph.model import Graph
from minseg.graph.onnx_writer import write_onnx
from minseg.ops.bytes import Grid
from minseg.ops.infer import infer
from minseg.quantization import observe
from minseg.quantization.points import find_points
from minseg.quantization.quantise import Quantised, prepared, quantise
from minseg.quantization.ranges import METHODS, Histogram
from minseg.quantization.report import Noise, layers

FLOATS = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


def histogram(*arrays: Any) -> Histogram:
    result = Histogram()
    for array in arrays:
        result.add(np.asarray(array, np.float32))
    return result


@given(st.lists(hnp.arrays(np.float32, hnp.array_shapes(max_dims=1), elements=FLOATS), min_size=1))
def test_a_histogram_counts_every_number_near_where_it_is(arrays: list[np.ndarray]) -> None:
    """Whatever the order in which the numbers come, and however much they grow."""
    counted = histogram(*arrays)
    numbers = np.sort(np.concatenate(arrays).astype(np.float64))
    assert counted.counts.sum() == len(numbers)
    assert (counted.low, counted.high) == (numbers[0], numbers[-1])
    ends = counted.edges[1:].repeat(counted.counts)
    assert (np.abs(ends - counted.width / 2 - numbers) <= counted.width).all()
    assert np.frexp(counted.width)[0] == 0.5


def test_numbers_that_are_none_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(InputError, match="infinite or not a number"):
            histogram([1, bad])


@pytest.mark.parametrize("method", METHODS)
@given(hnp.arrays(np.float32, st.integers(1, 300), elements=FLOATS))
@settings(max_examples=40)
def test_ranges_are_inside_of_all_numbers_and_zero(method: str, numbers: np.ndarray) -> None:
    low, high = METHODS[method](histogram(numbers))
    assert min(numbers.min(), 0) <= low <= high <= max(numbers.max(), 0)


def with_outlier(signed: bool) -> np.ndarray:
    numbers = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    return np.append(numbers if signed else np.abs(numbers), np.float32(100))


@pytest.mark.parametrize("signed", [False, True])
def test_what_methods_make_of_an_outlier(signed: bool) -> None:
    """One number of 200,000 is far out: all but minmax cut it off, but few others."""
    counted = histogram(with_outlier(signed))
    assert METHODS["minmax"](counted)[1] == 100
    for method in ("percentile", "entropy"):
        low, high = METHODS[method](counted)
        assert 2.5 < high < 20
        assert (low < -2.5) if signed else (0 <= low < 0.1)


def test_mse_finds_the_range_with_the_least_error() -> None:
    """No other of its kind has less, by the numbers themselves."""
    numbers = np.random.default_rng(1).laplace(0, 1, 50_000).astype(np.float32)

    def error(range_: tuple[float, float]) -> float:
        return float(((Grid.over(range_).rounded(numbers) - numbers) ** 2).mean())

    found = METHODS["mse"](histogram(numbers))
    low, high = numbers.min(), numbers.max()
    tried = [(low * a, high * b) for a in np.linspace(0.2, 1, 17) for b in np.linspace(0.2, 1, 17)]
    assert error(found) <= 1.02 * min(map(error, tried))
    assert error(found) < 0.95 * error((low, high))


@given(FLOATS, FLOATS)
def test_a_grid_holds_zero_and_both_ends(a: float, b: float) -> None:
    low, high = sorted((a, b))
    grid = Grid.over((low, high))
    assert 0 <= grid.zero_point <= 255
    numbers = np.float32([0, low, high])
    assert grid.rounded(numbers)[0] == 0
    assert (np.abs(grid.rounded(numbers) - numbers) <= 0.51 * grid.scale).all()


def typed(build: Build, *outputs: str, opset: int = 17) -> Graph:
    graph = replace(build.graph(*outputs), opsets={"": opset})
    return replace(graph, types=infer(graph))


def pictures(graph: Graph, count: int = 2) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(3)
    return [
        {v.name: random.normal(0, 1, v.type.shape).astype(np.float32) for v in graph.inputs}
        for _ in range(count)
    ]


def checked(graph: Graph, decibels: float = 25, **options: Any) -> Quantised:
    """``graph`` quantised: near to what it was, and the same in minseg and in onnxruntime."""
    feeds = pictures(graph)
    quantised = quantise(graph, feeds, **options)
    model = write_onnx(quantised.result.graph).SerializeToString()
    results = minseg.load(model).run(None, feeds[0])
    exact = minseg.Session(graph, backend="numpy").run(None, feeds[0])
    for got, want, other in zip(results, exact, onnxruntime_run(model, feeds[0]), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype)
        noise = Noise()
        noise.add(want, got)
        assert noise.decibels > decibels
        # A sum that lies in the middle between two integers is rounded either way.
        apart = np.abs(got - other) > 1e-4 * np.abs(other).max()
        assert apart.mean() < 0.01
    return quantised


def build(**options: Any) -> Build:
    return Build(opset=17, **options)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_network_of_all_operators(method: str, per_channel: bool) -> None:
    b = build()
    x = b.op("Relu", b.norm(b.conv(b.input(1, 3, 16, 16), 8, pads=(1, 1, 1, 1))))
    down = b.op("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
    y = b.op("Relu", b.op("Add", b.conv(down, 8, pads=(1, 1, 1, 1)), down))
    weights = b.some(8, 6, 2, 2, low=-1, high=1)
    up = b.op("ConvTranspose", y, weights, b.some(6), strides=(2, 2))
    mean = b.op("AveragePool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1))
    large = b.op("Resize", y, "", b.constant([1, 1, 2, 2]), mode="nearest")
    joined = b.op("Concat", up, mean, large, axis=1)
    graph = typed(b, b.op("Softmax", b.conv(joined, 5, 1), axis=1))
    quantised = checked(graph, 15, method=method, per_channel=per_channel)
    result = quantised.result.graph
    makers = {o: n for n in result.nodes for o in n.outputs}
    for node in result.nodes:
        if node.op in ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "Resize"):
            assert makers[node.inputs[0]].op == "DequantizeLinear"
        if node.op in ("Add", "Concat"):
            assert all(makers[n].op == "DequantizeLinear" for n in node.inputs)
        if node.op == "Softmax":
            assert makers[node.inputs[0]].op == "Conv"


def weights_of(quantised: Quantised, op: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Integers, scales and axis of the weights of the only ``op``."""
    graph = quantised.result.graph
    (node,) = (n for n in graph.nodes if n.op == op)
    (dequantise,) = (n for n in graph.nodes if node.inputs[1] in n.outputs)
    integers, scale, _ = (graph.constants[n] for n in dequantise.inputs)
    axis: Any = dequantise.attributes.get("axis", 1)
    return integers, scale, axis


@pytest.mark.parametrize(
    ("op", "shape", "axis", "attributes"),
    [
        ("Conv", (6, 4, 3, 3), 0, {}),
        ("Conv", (8, 2, 3, 3), 0, {"group": 2}),
        ("ConvTranspose", (4, 6, 2, 2), 1, {"strides": (2, 2)}),
        ("ConvTranspose", (4, 3, 2, 2), 1, {"group": 2}),
        ("MatMul", (8, 5), 1, {}),
        ("Gemm", (8, 5), 1, {}),
        ("Gemm", (5, 8), 0, {"transB": 1}),
    ],
)
def test_scales_for_each_output_channel(
    op: str, shape: tuple[int, ...], axis: int, attributes: dict[str, Any]
) -> None:
    """Channels of very different size: the small ones would vanish at one scale for all."""
    b = build()
    x = b.input(1, 4, 8, 8) if op.startswith("Conv") else b.input(6, 8)
    sizes = 10.0 ** -np.arange(shape[axis])
    spread = sizes.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    weights = b.constant(b.random.normal(0, 1, shape) * spread)
    outputs = shape[axis] * (attributes.get("group", 1) if op == "ConvTranspose" else 1)
    bias = [] if op == "MatMul" else [b.constant(np.resize(sizes, outputs))]
    graph = typed(b, b.op(op, x, weights, *bias, **attributes))
    quantised = checked(graph, 30, per_channel=True)
    integers, scale, found = weights_of(quantised, op)
    assert (integers.dtype, found, scale.shape) == (np.int8, axis, (shape[axis],))
    others = tuple(i for i in range(len(shape)) if i != axis)
    assert (np.abs(integers.astype(int)).max(axis=others) == 127).all()
    _, one, _ = weights_of(quantise(graph, pictures(graph)), op)
    assert one.shape == ()


def test_a_bias_far_above_its_weights_fits() -> None:
    b = build()
    weights = b.constant(np.float32([1e-12, 1]).reshape(2, 1, 1, 1) * np.ones((2, 3, 1, 1)))
    graph = typed(b, b.op("Conv", b.input(1, 3, 4, 4), weights, b.constant([5, -5])))
    checked(graph, 30, per_channel=True)


def test_joined_values_have_one_grid_unless_others_read_them() -> None:
    b = build()
    x = b.conv(b.input(1, 3, 8, 8), 4, 1)
    a, other = b.conv(x, 4, 1), b.conv(x, 4, 1)
    joined = b.op("Concat", a, other, axis=1)
    y = b.op("Add", b.conv(joined, 4, 1), other)
    graph = prepared(typed(b, b.conv(y, 2, 1)))
    leader = find_points(graph).leader
    concat = next(n for n in graph.nodes if n.op == "Concat")
    assert leader[concat.inputs[0]] == concat.outputs[0]
    assert leader[concat.inputs[1]] == concat.inputs[1]


def test_what_no_convolution_reads_stays_float() -> None:
    b = build()
    x = b.conv(b.input(1, 3, 8, 8), 4, 1)
    scaled = b.op("Mul", x, b.op("Sigmoid", x))
    graph = typed(b, b.op("Resize", scaled, "", b.constant([1, 1, 2, 2]), mode="linear"))
    assert set(find_points(prepared(graph)).leader) == {"x"}


def test_an_output_that_is_read_too_is_not_rounded() -> None:
    b = build()
    x = b.conv(b.input(1, 3, 8, 8), 4, 1)
    graph = typed(b, x, b.conv(x, 2, 1))
    quantised = checked(graph)
    assert [v.name for v in quantised.result.graph.outputs] == [v.name for v in graph.outputs]
    (maker,) = (n for n in quantised.result.graph.nodes if x in n.outputs)
    assert maker.op == "Conv"


def test_old_opsets_are_converted() -> None:
    b = Build(opset=11)
    x = b.conv(b.input(1, 3, 8, 8), 4, 3)
    graph = typed(b, b.op("Softmax", b.conv(x, 5, 1), axis=1), opset=11)
    result = quantise(graph, pictures(graph)).result.graph
    assert result.opsets[""] >= 13
    feeds = pictures(graph)[0]
    (got,) = minseg.Session(result).run(None, feeds)
    (want,) = minseg.Session(graph).run(None, feeds)
    assert np.abs(got - want).max() < 0.02


def test_refusals() -> None:
    b = build()
    graph = typed(b, b.conv(b.input(1, 3, 8, 8), 4, 1))
    feeds = pictures(graph)
    with pytest.raises(InputError, match="'best' is none of minmax, percentile, mse, entropy"):
        quantise(graph, feeds, method="best")
    with pytest.raises(InputError, match="no pictures"):
        quantise(graph, [])
    with pytest.raises(InputError, match=r"quantised already: node '.*' \(QuantizeLinear"):
        quantise(quantise(graph, feeds).result.graph, feeds)
    bad = {"x": np.full((1, 3, 8, 8), np.nan, np.float32)}
    with pytest.raises(InputError, match="value 'x' on a calibration picture: it is infinite or"):
        quantise(graph, [bad])
    plain = build()
    nothing = typed(plain, plain.op("Relu", plain.input(1, 3, 8, 8)))
    with pytest.raises(InputError, match="no convolution or matrix product"):
        quantise(nothing, feeds)


def test_memory_is_bounded_by_running_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of one value each give the ranges that one group of all gives."""
    b = build()
    x = b.input(1, 3, 8, 8)
    for _ in range(4):
        x = b.op("Relu", b.conv(x, 4, 1))
    graph = typed(b, x)
    together = quantise(graph, pictures(graph)).grids
    monkeypatch.setattr(observe, "HELD_BYTES", 1)
    assert quantise(graph, pictures(graph)).grids == together
    assert len(list(observe.groups(prepared(graph), together))) == len(together)


def test_decibels_of_every_layer() -> None:
    """By the definition, from the values themselves."""
    b = build()
    x = b.op("Relu", b.conv(b.input(1, 3, 8, 8), 4, 3))
    graph = typed(b, b.conv(x, 2, 1))
    feeds = pictures(graph, 3)
    quantised = quantise(graph, feeds, per_channel=True)
    report = {layer.op: layer for layer in layers(quantised, feeds, None)}
    assert list(report) == ["input", "Relu", "Conv"]
    floats, integers = minseg.Session(quantised.source), minseg.Session(quantised.result.graph)
    pairs = [(floats.run(None, f)[0], integers.run(None, f)[0]) for f in feeds]
    signal = sum(float((a.astype(float) ** 2).sum()) for a, _ in pairs)
    noise = sum(float(((a - c.astype(float)) ** 2).sum()) for a, c in pairs)
    assert report["Conv"].network == pytest.approx(10 * np.log10(signal / noise), abs=0.1)
    assert report["Conv"].grid is None
    assert report["Conv"].alone is None
    assert report["input"].alone == report["input"].network
    relu = report["Relu"]
    assert relu.weights is not None
    assert relu.alone is not None
    assert relu.alone > relu.network > 25
