"""The builders of the CamVid models: what is published about them holds for what they build."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from models import built_model

from minseg import weights
from minseg.errors import InputError, ModelError
from minseg.graph.count import flops, parameters, zero_share
from minseg.graph.model import Graph, Node, TensorType, Value
from minseg.images.cards import card_names, load_card
from minseg.ops.evaluate import evaluate
from minseg.ops.infer import infer
from minseg.ops.support import load
from minseg.weights.pictures import street

UNET = "unet-camvid-onnx-0001"
ICNET = "icnet-camvid-int8-onnx-0001"
SPARSE = "icnet-camvid-ava-sparse-60-0001"
RESNET = "unet-resnet34-camvid"
MODELS = (UNET, ICNET, SPARSE, RESNET)
#: A small ICNet: every layer of the published one, on a picture of 192 x 192.
SMALL = {"height": 192, "width": 192}
#: Those that have quantised notations, small: convolutions with weights, quantisers of values that
#: are computed.
QUANTISED = {ICNET: (SMALL, 64, 99), UNET: ({"height": 96, "width": 128}, 23, 24)}
quantised = pytest.mark.parametrize("name", QUANTISED)


def static(graph: Graph) -> Graph:
    """The graph with types for a batch of one."""
    given = {
        v.name: TensorType(
            v.type.dtype, tuple(d if isinstance(d, int) else 1 for d in v.type.shape)
        )
        for v in graph.inputs
    }
    return replace(graph, types=infer(graph, given))


def feed(name: str, picture: np.ndarray) -> dict[str, np.ndarray]:
    """An RGB picture [H, W, 3] of the right size as the model takes it."""
    taken = load_card(name).input
    x = picture if taken.channels == "rgb" else picture[..., ::-1]
    x = (np.rint(x) - np.array(taken.mean)) / np.array(taken.scale)
    x = x if taken.layout == "NHWC" else x.transpose(2, 0, 1)
    return {taken.name: np.ascontiguousarray(x[None], dtype=np.float32)}


def labels(output: np.ndarray) -> np.ndarray:
    return output if output.dtype == np.int64 else output.argmax(axis=1)


def run_onnxruntime(path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    return onnxruntime.InferenceSession(path).run(None, feeds)[0]


def test_every_card_has_a_builder_or_a_trained_file():
    shipped = {name for name in card_names() if weights.shipped_file(name) is not None}
    assert shipped.isdisjoint(weights.BUILDERS)
    assert shipped | set(weights.BUILDERS) == set(card_names())


def test_importing_the_package_imports_no_onnx():
    code = "import sys, minseg.weights; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("unet-camvid", {}, "no model is called 'unet-camvid'; did you mean unet-"),
        (UNET, {"clases": 3}, "no option 'clases'; did you mean classes"),
        (UNET, {"classes": 0}, "classes must be positive, not 0"),
        (UNET, {"height": 360}, "height must be a positive multiple of 16, not 360"),
        (ICNET, {"width": 0}, "width must be a positive multiple of 192, not 0"),
        (ICNET, {"notation": "int8"}, "notation must be one of qdq, fakequantize, float, not"),
        (SPARSE, {"sparsity": 1.0}, "sparsity must be at least 0 and less than 1, not 1.0"),
        (RESNET, {"classes": -1}, "classes must be positive, not -1"),
    ],
)
def test_wrong_requests_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        weights.build(name, **options)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        weights.build_file(ICNET, tmp_path / "missing" / "model.onnx")
    path = weights.build_file(ICNET, tmp_path / "model.onnx", **SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(path).graph.name == ICNET


@pytest.mark.parametrize(
    ("name", "counted", "gigaflops"),
    [
        (UNET, 31_044_236, 259.9),
        (ICNET, 6_685_708, 16.0),
        (SPARSE, 26_704_140, 75.94),
    ],
)
def test_published_size_and_cost(name, counted, gigaflops):
    graph = static(load(built_model(name)))
    published = load_card(name).published
    assert parameters(graph) == counted
    assert parameters(graph) == pytest.approx(published.parameters, rel=0.005)
    assert flops(graph) / 1e9 == pytest.approx(published.gflops, rel=0.005)
    assert flops(graph) / 1e9 == pytest.approx(gigaflops, abs=0.05)


@pytest.mark.parametrize(
    ("classes", "counted", "gigaflops"),
    [(1, 24_436_369, 73.25), (12, 24_437_964, 74.23), (32, 24_440_864, 76.0)],
)
def test_size_and_cost_of_the_resnet_unet(classes, counted, gigaflops):
    published = load_card(RESNET).published
    graph = load(built_model(RESNET) if classes == 12 else weights.build(RESNET, classes=classes))
    assert graph.outputs[0].type.shape == ("batch", classes, 480, 640)
    assert parameters(graph) == counted
    assert flops(static(graph)) / 1e9 == pytest.approx(gigaflops, abs=0.05)
    if classes == 1:
        assert parameters(graph) == published.parameters
    if classes == 32:
        assert flops(static(graph)) / 1e9 == pytest.approx(published.gflops, rel=0.005)


@pytest.mark.parametrize("name", MODELS)
def test_models_follow_their_cards(name):
    model, card = onnx.load(built_model(name)), load_card(name)
    metadata = {p.key: p.value for p in model.metadata_props}
    assert metadata == {"minseg.synthetic": "true", "minseg.card": name}
    (taken,), (given,) = model.graph.input, model.graph.output
    assert (taken.name, given.name) == (card.input.name, card.output.name)
    shape = [d.dim_value or d.dim_param for d in taken.type.tensor_type.shape.dim]
    batch = "batch" if name == RESNET else 1
    size = [card.input.height, card.input.width]
    assert shape == [batch, *([*size, 3] if card.input.layout == "NHWC" else [3, *size])]
    shape = [d.dim_value or d.dim_param for d in given.type.tensor_type.shape.dim]
    assert shape == [batch, *(size if name == SPARSE else [12, *size])]


@pytest.mark.parametrize("name", MODELS)
def test_models_pass_the_onnx_checker(name):
    onnx.checker.check_model(built_model(name), full_check=True)


@quantised
@pytest.mark.parametrize("notation", ["qdq", "fakequantize"])
def test_quantised_notations_pass_the_onnx_checker(name, notation):
    path = built_model(name, notation=notation, **QUANTISED[name][0])
    onnx.checker.check_model(path, full_check=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_class_occurs(name):
    taken = load_card(name).input
    feeds = feed(name, street(taken.height, taken.width, seed=100))
    output = run_onnxruntime(built_model(name), feeds)
    card = load_card(name)
    if card.output.kind == "indices":
        assert output.shape == (1, taken.height, taken.width)
        assert output.dtype == np.int64
    else:
        assert output.shape == (1, 12, taken.height, taken.width)
        assert output.dtype == np.float32
        assert np.isfinite(output).all()
    if card.output.kind == "probabilities":
        np.testing.assert_allclose(output.sum(axis=1), 1, atol=1e-5)
    shares = np.bincount(labels(output).ravel(), minlength=12) / labels(output).size
    assert shares.shape == (12,)
    assert shares.min() > 0.0005
    assert shares.max() < 0.7


def test_sixty_percent_of_each_convolution_is_zero():
    graph = load(built_model(SPARSE))
    convs = [node for node in graph.nodes if node.op == "Conv"]
    assert len(convs) == 64
    for node in convs:
        kernel = graph.constants[node.inputs[1]]
        assert kernel.size - np.count_nonzero(kernel) == round(0.6 * kernel.size)
    assert zero_share(graph) == pytest.approx(0.6, abs=1e-6)


def test_builds_repeat_byte_by_byte():
    built = weights.build(ICNET, **SMALL).SerializeToString(deterministic=True)
    assert built == built_model(ICNET, **SMALL).read_bytes()


@quantised
def test_both_notations_have_the_same_weights(name):
    options, convolutions, _ = QUANTISED[name]
    qdq, fake = (load(built_model(name, notation=n, **options)) for n in ("qdq", "fakequantize"))
    kinds = [{node.op for node in graph.nodes} for graph in (qdq, fake)]
    assert kinds[0] ^ kinds[1] == {"QuantizeLinear", "DequantizeLinear", "FakeQuantize"}
    kernels = [
        [array for name, array in graph.constants.items() if name.endswith(".weight")]
        for graph in (qdq, fake)
    ]
    assert len(kernels[0]) == len(kernels[1]) == convolutions
    assert all(np.array_equal(a, b) for a, b in zip(*kernels, strict=True))
    assert parameters(qdq) == parameters(fake)


@quantised
def test_quantised_values_are_rounded_alike_by_every_engine(name):
    options, _, quantisers = QUANTISED[name]
    path = built_model(name, notation="qdq", **options)
    graph = load(path)
    feeds = feed(name, street(*options.values(), seed=100))
    rounded = [
        (node.inputs[0], graph.constants[node.inputs[1]])
        for node in graph.nodes
        if node.op == "QuantizeLinear" and node.inputs[0] not in graph.constants
    ]
    inner = [(name, scale) for name, scale in rounded if name not in feeds]
    captured = evaluate(graph, feeds, capture=[name for name, _ in inner])
    assert len(inner) == quantisers
    for value, scale in inner:
        steps = captured[value].astype(np.float64) / float(scale)
        from_middle = np.abs(steps - np.floor(steps) - 0.5).min()
        assert from_middle > 5e-5, value
    ours = captured[graph.outputs[0].name]
    theirs = run_onnxruntime(path, feeds)
    assert ours.shape == theirs.shape == (1, 12, *options.values())
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.array_equal(labels(ours), labels(theirs))


@quantised
def test_both_notations_give_the_same_labels(name):
    openvino = pytest.importorskip("openvino")
    options = QUANTISED[name][0]
    feeds = feed(name, street(*options.values(), seed=100))
    expected = labels(run_onnxruntime(built_model(name, notation="qdq", **options), feeds))
    path = built_model(name, notation="fakequantize", **options)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    got = labels(openvino.Core().compile_model(path, "CPU", exact)(feeds)[0])
    assert got.shape == expected.shape == (1, *options.values())
    assert np.unique(expected).size > 6
    assert np.array_equal(got, expected)


# What counts, on graphs small enough to count by hand.


def typed(nodes, constants, shape=(1, 4, 8, 8)) -> Graph:
    x = Value("x", TensorType(np.dtype(np.float32), shape))
    outputs = (Value(nodes[-1].outputs[0], TensorType(np.dtype(np.float32))),)
    graph = Graph("counted", (x,), outputs, tuple(nodes), constants)
    return replace(graph, types=infer(graph))


def array(*shape) -> np.ndarray:
    return np.ones(shape, np.float32)


def node(op, inputs, output="y", **attributes) -> Node:
    return Node(output, op, tuple(inputs), (output,), attributes, opset=13)


def test_operations_of_a_strided_grouped_convolution():
    conv = node("Conv", "xwb", group=2, strides=(2, 2))
    graph = typed([conv], {"w": array(6, 2, 3, 3), "b": array(6)})
    assert flops(graph) == 2 * (6 * 3 * 3) * (2 * 3 * 3)
    assert parameters(graph) == 6 * 2 * 3 * 3 + 6


def test_operations_of_a_transposed_convolution():
    graph = typed([node("ConvTranspose", "xw", strides=(2, 2))], {"w": array(4, 5, 2, 2)})
    assert flops(graph) == 2 * (4 * 8 * 8) * (5 * 2 * 2)
    assert parameters(graph) == 4 * 5 * 2 * 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_operations_of_gemm(transposed):
    shape = (7, 5) if transposed else (5, 7)
    gemm = node("Gemm", "xwc", transA=transposed)
    graph = typed([gemm], {"w": array(7, 3), "c": array(3)}, shape)
    assert flops(graph) == 2 * 5 * 7 * 3
    assert parameters(graph) == 7 * 3 + 3


def test_operations_of_a_batched_matrix_product():
    graph = typed([node("MatMul", "xw")], {"w": array(8, 3)})
    assert flops(graph) == 2 * (4 * 8 * 3) * 8


def test_running_statistics_and_lone_numbers_are_no_parameters():
    constants = {name: array(4) for name in "sbmv"} | {"one": array(), "many": array(4, 1, 1)}
    nodes = [
        node("BatchNormalization", "xsbmv", "n"),
        node("Add", ("n", "one"), "a"),
        node("Mul", ("a", "many")),
    ]
    assert parameters(typed(nodes, constants)) == 4 + 4 + 4


def test_shared_weights_count_once_and_quantised_ones_too():
    constants = {
        "w": array(4, 4, 1, 1),
        "scale": np.float32(0.1).reshape(()),
        "zero": np.zeros((), np.int8),
    }
    constants["w"][:3] = 0
    nodes = [
        node("QuantizeLinear", ("w", "scale", "zero"), "q"),
        node("DequantizeLinear", ("q", "scale", "zero"), "d"),
        node("Conv", ("x", "d"), "first"),
        node("Conv", ("first", "d")),
    ]
    graph = typed(nodes, constants)
    assert parameters(graph) == 16
    assert zero_share(graph) == 0.75
    assert flops(graph) == 2 * 2 * (4 * 8 * 8 * 4)


def test_open_sizes_cannot_be_counted():
    graph = typed([node("Conv", "xw")], {"w": array(4, 4, 1, 1)}, ("batch", 4, 8, 8))
    with pytest.raises(ModelError, match="the size of 'y' is open"):
        flops(graph)


def test_the_float_notation_is_the_same_network_without_quantisers():
    qdq, plain = (load(built_model(ICNET, notation=n, **SMALL)) for n in ("qdq", "float"))
    operators = [node.op for node in qdq.nodes if "uantizeLinear" not in node.op]
    assert [node.op for node in plain.nodes] == operators
    kernels = [
        [array for name, array in graph.constants.items() if name.endswith(".weight")]
        for graph in (qdq, plain)
    ]
    *rest, (last_of_qdq, last_of_plain) = zip(*kernels, strict=True)
    assert len(rest) == 63
    assert all(np.array_equal(a, b) for a, b in rest)
    assert last_of_qdq.shape == last_of_plain.shape  # a classifier fitted to other features


def test_every_class_occurs_in_the_float_notation():
    feeds = feed(ICNET, street(SMALL["height"], SMALL["width"], seed=100))
    output = run_onnxruntime(built_model(ICNET, notation="float", **SMALL), feeds)
    np.testing.assert_allclose(output.sum(axis=1), 1, atol=1e-5)
    assert np.unique(labels(output)).size == 12
