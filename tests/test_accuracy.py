"""Rounding errors, measured against float64: of each Winograd layer of the four networks, and of
whole networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import Count
from graphs import Build
from kernel_harness import run, stored
from models import built_model
from oracles import conv2d
from parity import agreement

import minseg
from minseg.graph.model import Graph
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.layout import BLOCKED
from minseg.kernels.core.registry import Kernel, all_kernels
from minseg.measure.double import in_double
from minseg.ops.evaluate import evaluate
from minseg.plan.planner import planned_graph
from minseg.plan.problems import tasks
from minseg.precision import Precision
from minseg.runtime.models import read_model
from minseg.weights.pictures import street

INEXACT = [k for k in all_kernels() if k.family is Conv2d and k.precision < Precision.EXACT]
(DIRECT,) = (k for k in all_kernels() if k.name == "conv_f32_direct")

#: Input channels, output channels and dilation of the networks' layers that inexact kernels take.
LAYERS = (
    *[(3, 64, 1), (16, 12, 1), (16, 16, 1), (32, 16, 1), (32, 32, 1), (32, 64, 1), (64, 64, 1)],
    *[(64, 128, 1), (128, 32, 1), (128, 64, 1), (128, 128, 1), (128, 128, 2), (128, 256, 1)],
    *[(192, 64, 1), (256, 128, 1), (256, 128, 2), (256, 256, 1), (256, 256, 2), (256, 256, 4)],
    *[(256, 512, 1), (384, 128, 1), (512, 256, 1), (512, 256, 2), (512, 512, 1), (512, 512, 4)],
    *[(512, 1024, 1), (768, 256, 1), (1024, 512, 1), (1024, 1024, 1)],
)

#: Outputs are alike; so many of a layer's are enough.
OUTPUTS = 128

NETWORKS = {
    "unet-camvid-onnx-0001": {},
    "unet-resnet34-camvid": {},
    "icnet-camvid-ava-sparse-60-0001": {},
    "icnet-camvid-int8-onnx-0001": {"notation": "float"},
}

#: Largest error as a share of the largest output, and as one of the outputs' root mean square:
#: twice what F(4×4, 3×3) was seen to make on any layer here.
OF_LARGEST, OF_SCALE = 2e-5, 1e-4
#: The same of the direct kernel's sums.
DIRECT_OF_LARGEST, DIRECT_OF_SCALE = 3e-6, 1.2e-5
#: How much larger the root mean square of the errors may be than the direct kernel's.
TIMES_DIRECT = 16

#: What whole networks may be off by: the largest error of a probability, and the least share of
#: equal labels.
PROBABILITY, ALIKE = 1e-4, 0.9999


def errors(kernel: Kernel, q: Conv2d, x: np.ndarray, w: np.ndarray, y: np.ndarray) -> np.ndarray:
    launch = kernel.prepare(q, w, None)
    output = run(launch, [stored(x, BLOCKED)], BLOCKED.stored_shape(y.shape))
    return np.abs(BLOCKED.restore(output, y.shape) - y)


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


@pytest.mark.kernels
@pytest.mark.parametrize("kernel", INEXACT, ids=lambda k: k.name)
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: "{}to{}by{}".format(*layer))
def test_errors_of_a_layer(kernel: Kernel, layer: tuple[int, int, int]) -> None:
    """Inputs as a ReLU leaves them, weights as He et al. draw them."""
    IC, OC, D = layer
    H, W, OC = 9, 7, min(OC, OUTPUTS)
    rng = np.random.default_rng(layer)
    q = Conv2d(1, IC, H, W, OC, H, W, 3, 3, DH=D, DW=D, PT=D, PL=D)
    assert kernel.applies(q)
    x = np.maximum(rng.standard_normal((1, IC, H, W)), 0).astype(np.float32)
    w = (rng.standard_normal((OC, IC, 3, 3)) * np.sqrt(2 / (9 * IC))).astype(np.float32)
    y = conv2d(x, w, None, (1, 1), (D, D, D, D), (D, D), 1)
    largest, scale = np.abs(y).max(), root_mean_square(y)
    error = errors(kernel, q, x, w, y)
    assert error.max() <= OF_LARGEST * largest
    assert error.max() <= OF_SCALE * scale
    direct = errors(DIRECT, q, x, w, y)
    assert direct.max() <= DIRECT_OF_LARGEST * largest
    assert direct.max() <= DIRECT_OF_SCALE * scale
    assert root_mean_square(error) <= TIMES_DIRECT * root_mean_square(direct)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_the_networks_is_measured(name: str) -> None:
    graph = minseg.load(built_model(name, **NETWORKS[name]), backend="numpy").graph
    shapes = {
        v.name: tuple(d if isinstance(d, int) else 1 for d in v.type.shape or ())
        for v in graph.inputs
    }
    planned = planned_graph(graph, shapes)
    problems = [t.problem for node in planned.nodes for t in tasks(node, planned)]
    convolutions = [q for q in problems if isinstance(q, Conv2d)]
    assert convolutions
    taken = {(q.IC, q.OC, q.DH) for q in convolutions if any(k.applies(q) for k in INEXACT)}
    assert taken
    assert taken <= set(LAYERS)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def resized(graph: Graph, height: int, width: int) -> Graph:
    """The network for pictures of another size."""
    (value,) = graph.inputs
    type_ = replace(value.type, shape=(1, 3, height, width))
    return replace(graph, inputs=(replace(value, type=type_),), types={})


def feeds_of(session: minseg.Session, picture: str, height: int, width: int) -> dict:
    pixels = street(height, width, seed=5).round().astype(np.uint8)
    if picture == "noise":
        pixels = np.random.default_rng(5).integers(0, 256, pixels.shape, np.uint8)
    (value,) = session.get_inputs()
    return {value.name: session.recipe.apply(pixels)}


@pytest.mark.parametrize("picture", ["street", "noise"])
@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("unet-camvid-onnx-0001", 96, 128),
        ("unet-resnet34-camvid", 160, 192),
        ("icnet-camvid-int8-onnx-0001", 192, 192),
    ],
)
def test_whole_networks_against_float64(
    name: str, height: int, width: int, picture: str, count: Count
) -> None:
    if name.startswith("icnet"):  # its resizes have the sizes of one picture
        graph = read_model(built_model(name, height=height, width=width, **NETWORKS[name]))
    else:
        graph = resized(read_model(built_model(name)), height, width)
    session = minseg.Session(graph, threads=2)
    feeds = feeds_of(session, picture, height, width)
    chosen = {s.kernel for s in session.plan_summary()}
    assert chosen & {k.name for k in INEXACT}
    (got,) = session.run(None, feeds)
    double = evaluate(in_double(graph), {n: x.astype(np.float64) for n, x in feeds.items()})
    (expected,) = double.values()
    assert expected.dtype == np.float64
    assert got.shape == expected.shape
    a, b = got.astype(np.float64), expected
    if name == "unet-resnet34-camvid":  # it gives logits
        a, b = softmax(a), softmax(b)
    assert np.abs(a - b).max() <= PROBABILITY
    assert agreement(got, expected) >= ALIKE
    count("accuracy", "outputs of whole networks agree with float64")


def test_networks_in_double_are_computed_in_double() -> None:
    b = Build()
    x = b.input(1, 3, 6, 8)
    y = b.op("Cast", b.op("Relu", b.conv(x)), to=1)
    scales = b.constant([1, 1, 2, 2])
    graph = b.graph(b.op("Resize", y, "", scales, mode="linear"))
    wide = in_double(graph)
    array = np.random.default_rng(0).standard_normal((1, 3, 6, 8)).astype(np.float32)
    names = [n.outputs[0] for n in graph.nodes]
    narrow = evaluate(graph, {"x": array}, capture=names)
    values = evaluate(wide, {"x": array.astype(np.float64)}, capture=names)
    for name in names:
        assert values[name].dtype == wide.types[name].dtype == np.float64
        assert 0 < np.abs(values[name] - narrow[name]).max() < 1e-5
