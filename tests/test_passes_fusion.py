"""Passes that make convolutions larger, and all passes together on random and exported graphs."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
from graphs import NCHW, NHWC, Build, activations, feeds_of, kinds, optimised
from hypothesis import given, settings
from hypothesis import strategies as st

from minseg.graph.model import TensorType
from minseg.graph.onnx_reader import read_onnx
from minseg.ops.evaluate import evaluate
from minseg.passes import specialise

# --- affine maps into convolutions ---

AFFINES = {
    "BatchNormalization": lambda b, x: b.norm(x),
    "Mul": lambda b, x: b.op("Mul", b.some(4, 1, 1), x),
    "Mul by a number": lambda b, x: b.op("Mul", x, b.some()),
    "Div": lambda b, x: b.op("Div", x, b.some(1, 4, 1, 1)),
    "Add": lambda b, x: b.op("Add", x, b.some(4, 1, 1)),
    "Sub": lambda b, x: b.op("Sub", x, b.some(4, 1, 1)),
    "Sub from": lambda b, x: b.op("Sub", b.some(4, 1, 1), x),
}


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("case", AFFINES)
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_affine_maps_fold_into_the_convolution_before(op, case, group):
    b = Build()
    x = b.input(1, 4, 6, 5)
    weights = b.some(4, 4 // group, 3, 2, low=-1, high=1)
    y = b.op(op, x, weights, *([b.some(4)] if group == 1 else []), group=group)
    assert kinds(optimised(b.graph(AFFINES[case](b, y)))) == [op]


def test_a_chain_of_affine_maps_folds():
    b = Build(np.float64)
    y = b.conv(b.input(1, 3, 6, 5), bias=False)
    for make in AFFINES.values():
        y = make(b, y)
    assert kinds(optimised(b.graph(y))) == ["Conv"]


def test_a_bias_is_added_to_varying_weights():
    b = Build()
    x, w = b.input(1, 2, 5, 5), b.input(3, 2, 3, 3, name="w")
    biased = b.op("Add", b.op("Conv", x, w), b.some(3, 1, 1))
    result = optimised(b.graph(b.op("Mul", biased, b.some(3, 1, 1))))
    assert kinds(result) == ["Conv", "Mul"]


def test_affine_maps_stay_where_folding_changes_or_doubles_work():
    b = Build()
    x = b.input(1, 4, 6, 5)
    seen = b.conv(x)  # an output itself
    twice = b.conv(x)  # read by two
    columns = b.op("Mul", b.conv(x), b.some(3))  # not per channel
    wider = b.op("Add", b.conv(x), b.some(2, 4, 1, 1))  # a larger batch
    longer = b.op("Add", b.conv(x), b.some(1, 4, 1, 1, 1))  # of a larger rank
    infinite = b.op("Div", b.conv(x), b.constant(np.zeros((4, 1, 1))))
    norm, free = b.norm(seen), b.norm(x)  # one behind an output, one behind nothing
    graph = b.graph(
        *(seen, norm, b.norm(twice), b.op("Exp", twice), columns, wider, longer, infinite, free)
    )
    once = dict.fromkeys(["Exp", "Mul", "Div"], 1)
    found = Counter(kinds(optimised(graph)))
    assert found == {"Conv": 6, "BatchNormalization": 3, "Add": 2, **once}


def test_batch_norm_in_training_stays():
    b = Build()
    y = b.conv(b.input(2, 3, 5, 5))
    parameters = [b.some(4) for _ in range(4)]
    norm, _, _ = b.op("BatchNormalization", y, *parameters, n_outputs=3, training_mode=1)
    assert kinds(optimised(b.graph(norm))) == ["Conv", "BatchNormalization"]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("pads", "left"), [((0, 0, 0, 0), ["Conv"]), ((1, 0, 0, 0), ["Sub", "Conv"])]
)
def test_normalised_input_folds_into_the_convolution_behind(pads, left, group):
    b = Build()
    x = b.input(1, 4, 7, 7)
    normal = b.op("Div", b.op("Sub", x, b.some(1, 4, 1, 1)), b.some(4, 1, 1))
    y = b.conv(normal, channels=6, group=group, bias=group == 1, pads=pads)
    assert kinds(optimised(b.graph(y))) == left


# --- activations and fusion ---

SWISH = {
    "x sigmoid(x)": lambda b, x: b.op("Mul", x, b.op("Sigmoid", x)),
    "Swish": lambda b, x: b.op("Swish", x, opset=24),
}


def ramp(b, x):
    return b.op("Clip", b.op("Add", x, b.constant(3.0)), b.constant(0.0), b.constant(6.0))


HARD_SWISH = {
    "x ramp / 6": lambda b, x: b.op("Div", b.op("Mul", x, ramp(b, x)), b.constant(6.0)),
    "x (ramp / 6)": lambda b, x: b.op("Mul", x, b.op("Div", ramp(b, x), b.constant(6.0))),
    "ramp (x / 6)": lambda b, x: b.op("Mul", ramp(b, x), b.op("Mul", x, b.constant(1 / 6))),
    "Min and Max": lambda b, x: b.op(
        "Mul",
        b.op(
            *("Min", b.constant(6.0)),
            b.op("Max", b.op("Add", b.constant(3.0), x), b.constant(0.0)),
        ),
        b.op("Mul", x, b.constant(1 / 6)),
    ),
    "HardSigmoid": lambda b, x: b.op("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6)),
}


def erf_part(b, x, scale=0.5**0.5):
    return b.op("Add", b.op("Erf", b.op("Mul", x, b.constant(scale))), b.constant(1.0))


GELU = {
    "last half": lambda b, x: b.op("Mul", b.op("Mul", x, erf_part(b, x)), b.constant(0.5)),
    "first half": lambda b, x: b.op("Mul", b.op("Mul", b.constant(0.5), x), erf_part(b, x)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("op", "spelling"),
    [
        *(("Swish", s) for s in SWISH.values()),
        *(("HardSwish", s) for s in HARD_SWISH.values()),
        *(("Gelu", s) for s in GELU.values()),
        ("HardSigmoid", lambda b, x: b.op("Div", ramp(b, x), b.constant(6.0))),
        ("Mish", lambda b, x: b.op("Mul", x, b.op("Tanh", b.op("Softplus", x)))),
        ("LeakyRelu", lambda b, x: b.op("PRelu", x, b.some(1))),
        ("Relu", lambda b, x: b.op("Max", b.constant(0.0), x)),
        ("Clip", lambda b, x: b.op("Min", b.op("Relu", x), b.constant(6.0))),
    ],
)
def test_an_activation_written_out_is_recognised(op, spelling, dtype):
    b = Build(dtype)
    x = b.op("Sin", b.input(2, 3, 4, 5))
    assert kinds(optimised(b.graph(spelling(b, b.op("Mul", x, x))))) == ["Sin", "Mul", op]


@pytest.mark.parametrize(
    "spelling",
    [
        lambda b, x: b.op("Mul", x, b.op("Sigmoid", b.op("Neg", x))),
        lambda b, x: b.op("Mul", b.op("Mul", x, erf_part(b, x, 0.7)), b.constant(0.5)),
        lambda b, x: b.op("Mul", b.op("Mul", x, erf_part(b, x)), b.constant(0.6)),
        lambda b, x: b.op("Div", b.op("Mul", x, ramp(b, x)), b.constant(5.0)),
        lambda b, x: b.op("PRelu", x, b.some(3, 1, 1)),
        lambda b, x: b.op("Max", x, b.some(3, 1, 1)),
    ],
)
def test_what_only_looks_like_an_activation_stays(spelling):
    b = Build()
    graph = b.graph(spelling(b, b.op("Sin", b.input(2, 3, 4, 5))))
    assert kinds(optimised(graph)) == kinds(graph)


def test_activations_that_share_a_part_stay():
    b = Build()
    x = b.op("Sin", b.input(2, 3, 4, 5))
    gate, relu = b.op("Sigmoid", x), b.op("Relu", x)
    graph = b.graph(b.op("Mul", x, gate), gate, b.op("Min", relu, b.constant(0.5)), relu)
    found = Counter(kinds(optimised(graph)))
    assert found == dict.fromkeys(["Sin", "Sigmoid", "Mul", "Relu", "Clip"], 1)


@pytest.mark.parametrize("bounds", [(2.0, 1.0), (-1.0, 0.5), (0.2, 9.0)])
@pytest.mark.parametrize("others", [(0.4, 0.1), (-0.5, 0.7)])
def test_clips_in_a_chain_are_one(bounds, others):
    b = Build()
    x = b.op("Sin", b.input(2, 3, 4, 5))
    y = b.op("Clip", x, *map(b.constant, bounds))
    result = optimised(b.graph(b.op("Clip", y, *map(b.constant, others))))
    assert kinds(result) == ["Sin", "Clip"]


FUSED = {
    "Relu": lambda b, x: b.op("Relu", x),
    "Clip": lambda b, x: b.op("Clip", x, b.constant(0.5), b.constant(6.0)),
    "LeakyRelu": lambda b, x: b.op("LeakyRelu", x),
    "HardSigmoid": lambda b, x: b.op("HardSigmoid", x),
    "HardSwish": lambda b, x: b.op("HardSwish", x),
    "Sigmoid": lambda b, x: b.op("Sigmoid", x),
    "Silu": SWISH["x sigmoid(x)"],
}


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("name", FUSED)
def test_activations_fuse(name, op):
    b = Build()
    conv = b.op(op, b.input(1, 3, 6, 6), b.some(3, 3, 3, 3, low=-1, high=1))
    result = optimised(b.graph(FUSED[name](b, conv)))
    assert kinds(result) == [f"minseg.Fused{op}"]
    assert activations(result) == [name]


@pytest.mark.parametrize("name", FUSED)
def test_sums_fuse(name):
    b = Build()
    x = b.input(1, 3, 6, 6)
    result = optimised(b.graph(FUSED[name](b, b.op("Add", x, b.conv(x, 3, pads=(1, 1, 1, 1))))))
    assert kinds(result) == ["minseg.FusedConv"]
    assert activations(result) == [name]
    assert result.nodes[0].inputs[3] == x


def test_what_no_kernel_takes_in_one_step_stays_apart():
    """Convolutions of one axis, or whose filters vary."""
    b = Build()
    x, w, row = b.input(1, 3, 6, 6), b.input(3, 3, 3, 3, name="w"), b.input(1, 3, 9, name="row")
    outputs = [b.op("Relu", y) for y in (b.op("Conv", row, b.some(4, 3, 3)), b.op("Conv", x, w))]
    found = Counter(kinds(optimised(b.graph(*outputs))))
    assert found == {"Conv": 2, "Relu": 2}


def test_a_clip_leaves_alone_the_relu_that_others_read():
    b = Build()
    relu = b.op("Relu", b.conv(b.input(1, 3, 6, 6)))
    result = optimised(b.graph(b.op("Min", relu, b.constant(0.5)), b.op("Exp", relu)))
    assert Counter(kinds(result)) == {"minseg.FusedConv": 1, "Clip": 1, "Exp": 1}


def test_one_sided_clips_fuse():
    b = Build()
    y = b.op("Clip", b.conv(b.input(1, 3, 6, 6)), "", b.constant(1.0))
    (node,) = optimised(b.graph(y)).nodes
    assert node.attributes["activation_params"] == (-np.inf, 1.0)


def test_the_later_of_two_convolutions_takes_the_sum():
    b = Build()
    x = b.input(1, 4, 6, 6)
    first = b.conv(x, pads=(1, 1, 1, 1))
    second = b.conv(b.op("Relu", b.conv(x, kernel=1)), pads=(1, 1, 1, 1))
    result = optimised(b.graph(b.op("Relu", b.op("Add", second, first))))
    assert kinds(result) == ["Conv", "minseg.FusedConv", "minseg.FusedConv"]
    assert result.nodes[-1].inputs[3] == first


def test_sums_of_many_tensors_are_taken_one_by_one():
    b = Build()
    x = b.input(1, 4, 6, 6)
    y = b.op("Sum", b.conv(x, pads=(1, 1, 1, 1)), x)
    many = b.op("Sum", b.op("Exp", x), y, b.some(4, 1, 1), b.op("Max", x, y, b.op("Neg", x)))
    result = optimised(b.graph(many))
    assert Counter(kinds(result)) == {"minseg.FusedConv": 1, "Exp": 1, "Neg": 1, "Add": 3, "Max": 2}


def test_fusion_leaves_alone_what_others_read():
    b = Build()
    x = b.input(1, 4, 6, 6)
    output, shared, shape = b.conv(x), b.conv(x), b.conv(x)
    after_output, after_shared = b.op("Relu", output), b.op("Relu", shared)
    double = b.op("Add", shared, shared)
    broadcast = b.op("Add", shape, b.op("ReduceMean", after_shared, b.ints(2, 3)))
    swish = b.op("Mish", b.conv(x))
    result = optimised(b.graph(output, after_output, double, broadcast, swish))
    assert not any(node.domain for node in result.nodes)


def test_a_convolution_takes_one_sum_and_none_after_the_activation():
    b = Build()
    x = b.input(1, 4, 6, 6)
    two = b.op("Add", b.op("Add", b.conv(x, pads=(1, 1, 1, 1)), x), b.op("Exp", x))
    late = b.op("Add", b.op("Relu", b.conv(x, pads=(1, 1, 1, 1))), x)
    result = optimised(b.graph(two, late))
    assert Counter(kinds(result)) == {"minseg.FusedConv": 2, "Add": 2, "Exp": 1}


# --- everything together ---


CHANNELS_LAST = [
    lambda b, x: b.op("Add", x, b.some(b.shape(x)[3])),
    lambda b, x: b.op("Pad", x, b.ints(1, 2, 0, 1), "", b.ints(1, -1)),
    lambda b, x: b.op("Softmax", x, axis=-1),
    lambda b, x: b.op("Resize", x, "", b.constant([1, 2, 1, 1], np.float32)),
    lambda b, x: b.op("Concat", x, b.op("Relu", x), axis=3),
]


def steps(b, values, data):
    """One random step on a random one of ``values``, all of them (N, C, H, W)."""
    pick = data.draw
    x = pick(st.sampled_from(values))
    n, c, h, w = b.shape(x)
    twins = [v for v in values if b.shape(v) == (n, c, h, w)]
    siblings = [v for v in values if b.shape(v)[2:] == (h, w)]
    side = st.integers(0, 2)
    choices = {
        "conv": lambda: b.conv(
            *(x, pick(st.sampled_from([2, 4])), min(pick(st.integers(1, 3)), h, w)),
            bias=pick(st.booleans()),
            pads=tuple(pick(side) for _ in range(4)),
            strides=(pick(st.integers(1, 2)), 1),
        ),
        "spread": lambda: b.op("ConvTranspose", x, b.some(c, 2, 2, 2), strides=(1, 2)),
        "norm": lambda: b.norm(x),
        "scale": lambda: b.op(pick(st.sampled_from(["Mul", "Div"])), x, b.some(c, 1, 1)),
        "shift": lambda: b.op(pick(st.sampled_from(["Add", "Sub"])), x, b.some(1, c, 1, 1)),
        "pad": lambda: b.op("Pad", x, b.ints(0, 0, pick(side), pick(side), 0, 0, pick(side), 1)),
        "activate": lambda: pick(st.sampled_from(list(FUSED.values())))(b, x),
        "sum": lambda: b.op("Add", x, pick(st.sampled_from(twins))),
        "concat": lambda: b.op("Concat", x, pick(st.sampled_from(siblings)), axis=1),
        "resize": lambda: b.op("Resize", x, "", "", b.ints(n, c, 7, 5), mode="linear"),
        "maximum": lambda: b.op("MaxPool", x, kernel_shape=(2, 2), pads=(0, 1, 1, 0)),
        "average": lambda: b.op(
            *("AveragePool", x),
            kernel_shape=(2, 2),
            pads=(1, 0, 0, 1),
            count_include_pad=pick(st.integers(0, 1)),
        ),
        "last": lambda: b.transpose(
            pick(st.sampled_from(CHANNELS_LAST))(b, b.transpose(x, NHWC)), NCHW
        ),
        "turn": lambda: b.transpose(x, (0, 1, 3, 2)),
    }
    return choices[pick(st.sampled_from(sorted(choices)))]()


@settings(max_examples=150)
@given(st.data())
def test_random_graphs_keep_their_results(data):
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    b = Build(dtype, seed=data.draw(st.integers(0, 99)))
    values = [b.input(1, data.draw(st.integers(1, 3)), *(data.draw(st.integers(3, 9)),) * 2)]
    for _ in range(data.draw(st.integers(1, 10))):
        values.append(steps(b, values, data))
    outputs = {values[-1], data.draw(st.sampled_from(values[1:]))}
    optimised(b.graph(*sorted(outputs)))


def exported_by_torch():
    """A small encoder and decoder with BatchNormalization and a resize to a computed size."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.nn import functional

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.Sequential(
                *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish()),
                *(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.BatchNorm2d(8), nn.SiLU()),
            )
            self.up = nn.Sequential(nn.Conv2d(8, 5, 1), nn.BatchNorm2d(5), nn.Dropout(), nn.ReLU6())

        def forward(self, x):
            features = self.down(x)
            y = self.up(features + functional.gelu(features))
            y = functional.interpolate(y, size=x.shape[2:], mode="bilinear")
            return y.softmax(1).permute(0, 2, 3, 1).argmax(-1), y

    torch.manual_seed(0)
    net = Net().train()
    for _ in range(3):
        net(torch.randn(4, 3, 16, 16))  # statistics that are not the identity
    return torch, net.eval()


@pytest.mark.parametrize("opset", [11, 17])
def test_a_network_exported_by_torch(opset):
    torch, net = exported_by_torch()
    file = io.BytesIO()
    axes = {"x": {0: "n", 2: "h", 3: "w"}}
    torch.onnx.export(
        *(net, torch.randn(1, 3, 16, 16), file),
        dynamo=False,
        input_names=["x"],
        dynamic_axes=axes,
        opset_version=opset,
    )
    graph = read_onnx(file.getvalue())
    special = specialise(graph, {"x": TensorType(np.dtype(np.float32), (2, 3, 19, 23))})
    result = optimised(special)
    assert Counter(kinds(result)) == {
        **dict.fromkeys(["minseg.FusedConv"], 3),
        **dict.fromkeys(["Gelu", "Add", "Resize", "Softmax", "ArgMax"], 1),
    }
    x = feeds_of(special)["x"]
    with torch.no_grad():
        _, expected = net(torch.from_numpy(x))
    actual = list(evaluate(result, {"x": x}).values())[1]
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=1e-5)
