"""OpenVINO IR files written by hand: what becomes of them, and which are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minseg
from minseg.errors import MinsegError, ModelError, UnsupportedModelError
from minseg.graph import ir_xml
from minseg.graph.ir_reader import read_ir
from minseg.ops.support import load

PRECISIONS = {"f32": "FP32", "f16": "FP16", "i64": "I64", "i8": "I8", "u8": "U8"}
DTYPES = {"f32": "<f4", "f16": "<f2", "i64": "<i8", "i8": "i1", "u8": "u1"}


@dataclass
class Written:
    """An IR in the making; each method that adds a layer returns its output, (id, port)."""

    version: int = 11
    layers: list[str] = field(default_factory=list)
    edges: list[str] = field(default_factory=list)
    data: bytes = b""
    tail: str = ""

    def layer(
        self,
        kind: str,
        *sources: tuple[int, int],
        out: Sequence[tuple[str, Sequence[int]]] = (),
        opset: str = "opset1",
        name: str = "",
        **attributes: Any,
    ) -> tuple[int, int]:
        number = len(self.layers)
        pairs = " ".join(f'{k}="{v}"' for k, v in attributes.items())
        inputs = "".join(f'<port id="{i}"/>' for i in range(len(sources)))
        outputs = "".join(
            f'<port id="{len(sources) + i}" precision="{PRECISIONS[t]}">'
            + "".join(f"<dim>{d}</dim>" for d in shape)
            + "</port>"
            for i, (t, shape) in enumerate(out)
        )
        self.layers.append(
            f'<layer id="{number}" name="{name or kind.lower() + str(number)}" type="{kind}" '
            f'version="{opset}"><data {pairs}/><input>{inputs}</input>'
            f"<output>{outputs}</output></layer>"
        )
        for port, (layer, source) in enumerate(sources):
            self.edges.append(
                f'<edge from-layer="{layer}" from-port="{source}" '
                f'to-layer="{number}" to-port="{port}"/>'
            )
        return number, len(sources)

    def parameter(self, *shape: int, kind: str = "f32", name: str = "x") -> tuple[int, int]:
        sizes = ",".join(map(str, shape))
        return self.layer(
            "Parameter", out=[(kind, shape)], name=name, shape=sizes, element_type=kind
        )

    def constant(self, value: Any, kind: str = "f32") -> tuple[int, int]:
        array = np.asarray(value, DTYPES[kind])
        offset = len(self.data)
        self.data += array.tobytes()
        return self.layer(
            "Const",
            out=[(kind, array.shape)],
            element_type=kind,
            shape=",".join(map(str, array.shape)),
            offset=offset,
            size=array.nbytes,
        )

    def text(self) -> str:
        return (
            f'<?xml version="1.0"?><net name="net" version="{self.version}">'
            f"<layers>{''.join(self.layers)}</layers><edges>{''.join(self.edges)}</edges>"
            f"{self.tail}</net>"
        )

    def save(self, folder: Path) -> Path:
        path = folder / "net.xml"
        path.write_text(self.text(), encoding="utf-8")
        path.with_suffix(".bin").write_bytes(self.data)
        return path


WEIGHTS = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float16)


def small_network(version: int = 11) -> Written:
    """A convolution with weights in half precision, a bias, ReLU, a slice of its shape."""
    net = Written(version)
    x = net.parameter(1, 3, 8, 8)
    half = net.constant(WEIGHTS, "f16")
    weights = net.layer("Convert", half, out=[("f32", WEIGHTS.shape)], destination_type="f32")
    conv = net.layer(
        "Convolution", x, weights, out=[("f32", (1, 4, 8, 8))], strides="1,1", dilations="1,1",
        pads_begin="1,1", pads_end="1,1", auto_pad="explicit",
    )  # fmt: skip
    bias = net.constant(np.ones((1, 4, 1, 1)))
    add = net.layer("Add", conv, bias, out=[("f32", (1, 4, 8, 8))], auto_broadcast="numpy")
    relu = net.layer("ReLU", add, out=[("f32", (1, 4, 8, 8))], name="features")
    shape = net.layer("ShapeOf", relu, out=[("i64", (4,))], opset="opset3", output_type="i64")
    limits = [net.constant(v, "i64") for v in ([2], [4], [1])]
    sizes = net.layer(
        "StridedSlice", shape, *limits, out=[("i64", (2,))], begin_mask="0", end_mask="0"
    )
    twos = net.constant([2.0, 2.0])
    axes = net.constant([2, 3], "i64")
    resized = net.layer(
        "Interpolate", relu, sizes, twos, axes, out=[("f32", (1, 4, 16, 16))], opset="opset4",
        mode="nearest", shape_calculation_mode="scales",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    net.layer("Result", resized, name="labels")
    return net


def test_a_network_becomes_onnx_nodes(tmp_path: Path) -> None:
    graph = read_ir(small_network().save(tmp_path))
    assert [v.name for v in graph.inputs] == ["x"]
    assert [n.op for n in graph.nodes] == ["Conv", "Add", "Relu", "Resize"]
    assert graph.nodes[2].outputs == ("features",)
    assert {n.domain for n in graph.nodes} == {""}
    weights = graph.constants[graph.nodes[0].inputs[1]]
    assert (weights.dtype, weights.shape) == (np.float32, (4, 3, 3, 3))
    np.testing.assert_array_equal(weights, WEIGHTS.astype(np.float32))
    assert not weights.flags.writeable
    assert not [a for a in graph.constants.values() if a.dtype == np.float16]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_it_runs(tmp_path: Path, backend: str) -> None:
    session = minseg.load(small_network().save(tmp_path), backend=backend)
    assert [(i.name, i.shape, i.type) for i in session.get_inputs()] == [
        ("x", [1, 3, 8, 8], "tensor(float)")
    ]
    (y,) = session.run(None, {"x": np.zeros((1, 3, 8, 8), np.float32)})
    assert (y.shape, y.dtype) == ((1, 4, 16, 16), np.float32)
    assert (y == 1).all()


def test_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    path = small_network().save(tmp_path)
    moved = path.with_suffix(".bin").rename(tmp_path / "other.weights")
    assert read_ir(path, moved).nodes


def test_an_ir_is_known_by_its_content(tmp_path: Path) -> None:
    path = small_network().save(tmp_path)
    assert load(path.rename(tmp_path / "net.model")).nodes
    with pytest.raises(ModelError, match="path of its XML file"):
        load(small_network().text().encode())


def test_each_output_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Two results of one value, and an input that is an output."""
    net = Written()
    x = net.parameter(2)
    relu = net.layer("ReLU", x, out=[("f32", (2,))], name="y")
    for source, name in ((relu, "first"), (relu, "second"), (x, "third")):
        net.layer("Result", source, name=name)
    session = minseg.load(net.save(tmp_path))
    assert [o.name for o in session.get_outputs()] == ["y", "second", "third"]
    results = session.run(None, {"x": np.float32([-1, 1])})
    assert [list(r) for r in results] == [[0, 1], [0, 1], [-1, 1]]


@pytest.mark.parametrize(("version", "outside"), [(10, np.float32), (11, np.float16)])
def test_half_precision_at_the_edges(tmp_path: Path, version: int, outside: Any) -> None:
    """Inside it is float32; IR 10 hides it from the caller, as openvino does."""
    net = Written(version)
    x = net.parameter(2, kind="f16")
    y = net.layer("Add", x, net.constant([0.5, 1], "f16"), out=[("f16", (2,))], name="sum")
    net.layer("Result", y)
    path = net.save(tmp_path)
    feeds = {"x": np.array([1, 2], outside)}
    (got,) = minseg.load(path).run(None, feeds)
    assert got.dtype == outside
    assert list(got) == [1.5, 3]
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(path, "CPU")
    assert compiled([feeds["x"]])[compiled.outputs[0]].dtype == outside


def quantised(scale: np.ndarray, zero_point: Any = None) -> tuple[Written, np.ndarray]:
    """A grouped convolution with integer weights, and these weights in real numbers."""
    net = Written()
    x = net.parameter(1, 2, 5, 5)
    values = np.arange(-9, 9, dtype=np.int8).reshape(2, 1, 1, 3, 3)
    shape = values.shape
    weights = net.layer(
        "Convert", net.constant(values, "i8"), out=[("f32", shape)], destination_type="f32"
    )
    real = values.astype(np.float32)
    if zero_point is not None:
        weights = net.layer("Subtract", weights, net.constant(zero_point), out=[("f32", shape)])
        real = real - np.float32(zero_point)
    weights = net.layer("Multiply", weights, net.constant(scale), out=[("f32", shape)])
    y = net.layer(
        "GroupConvolution", x, weights, out=[("f32", (1, 2, 3, 3))], strides="1,1",
        dilations="1,1", pads_begin="0,0", pads_end="0,0",
    )  # fmt: skip
    net.layer("Result", y)
    return net, (real * scale).reshape(2, 1, 3, 3)


@pytest.mark.parametrize("zero_point", [None, 3.0, np.float32([1, -2]).reshape(2, 1, 1, 1, 1)])
@pytest.mark.parametrize("scales", [1, 2])
def test_integer_weights_stay_integers(tmp_path: Path, scales: int, zero_point: Any) -> None:
    scale = np.float32([0.5, 0.25])[:scales].reshape(-1, 1, 1, 1, 1)
    net, real = quantised(scale, zero_point)
    graph = read_ir(net.save(tmp_path))
    assert [n.op for n in graph.nodes] == ["DequantizeLinear", "Conv"]
    stored = graph.constants[graph.nodes[0].inputs[0]]
    assert (stored.dtype, stored.shape) == (np.int8, (2, 1, 3, 3))
    session = minseg.load(net.save(tmp_path), backend="numpy")
    x = np.random.default_rng(0).normal(size=(1, 2, 5, 5)).astype(np.float32)
    (y,) = session.run(None, {"x": x})
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), (1, 2))
    expected = np.einsum("chwij,cij->chw", windows, real[:, 0])
    np.testing.assert_allclose(y[0], expected, rtol=1e-5, atol=1e-5)


def test_division_of_integers_rounds_down(tmp_path: Path) -> None:
    """As the specification says, unless m_pythondiv is false."""
    for python, expected in (("true", [-4, 3]), ("false", [-3, 3])):
        net = Written()
        x = net.parameter(2, kind="i64")
        y = net.layer(
            "Divide", x, net.constant([2, 2], "i64"), out=[("i64", (2,))], m_pythondiv=python
        )
        net.layer("Result", y)
        (got,) = minseg.load(net.save(tmp_path)).run(None, {"x": np.array([-7, 7])})
        assert got.dtype == np.int64
        assert list(got) == expected


# Meta data


def recipe_of(tmp_path: Path, tail: str, version: int = 11) -> dict[str, Any]:
    net = small_network(version)
    net.tail = tail
    return json.loads(read_ir(net.save(tmp_path)).metadata.get("minseg.recipe", "{}"))


def options(section: str, **values: str) -> str:
    return (
        f"<{section}>" + "".join(f'<{k} value="{v}"/>' for k, v in values.items()) + f"</{section}>"
    )


PLAIN = {"mean": 0, "scale": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"mean_values": "x[99.6,103,105]", "reverse_input_channels": "True"},
            PLAIN | {"channels": "bgr"},
        ),
        ({"scale_values": "[255]", "reverse_input_channels": "False"}, PLAIN),
        ({"scale": "127.5"}, PLAIN),
        ({"mean_values": "()", "scale_values": "input.1[]"}, {}),
        ({"reverse_input_channels": "True"}, {"channels": "bgr"}),
        ({"framework": "caffe"}, PLAIN | {"channels": "bgr"}),
        ({"framework": "caffe", "reverse_input_channels": "True"}, PLAIN | {"channels": "rgb"}),
    ],
)  # fmt: skip
def test_what_the_converter_put_into_the_graph_is_not_done_again(
    tmp_path: Path, given: dict[str, str], expected: dict[str, Any]
) -> None:
    old = f"<meta_data>{options('cli_parameters', **given)}</meta_data>"
    new = f"<rt_info>{options('conversion_parameters', **given)}</rt_info>"
    assert recipe_of(tmp_path, old, 10) == expected
    assert recipe_of(tmp_path, new, 11) == expected


def test_what_model_api_leaves_to_the_caller(tmp_path: Path) -> None:
    info = {"mean_values": "123.675 116.28 103.53", "scale_values": "58.395 57.12 57.375"}
    tail = f"<rt_info>{options('model_info', reverse_input_channels='True', **info)}</rt_info>"
    recipe = recipe_of(tmp_path, tail)
    assert recipe == {
        "mean": [123.675, 116.28, 103.53],
        "scale": [58.395, 57.12, 57.375],
        "channels": "rgb",
    }
    assert minseg.load(tmp_path / "net.xml").recipe.mean == (123.675, 116.28, 103.53)
    assert "scale" not in recipe_of(tmp_path, tail.replace("57.12", "0"))


# What is refused


def test_every_unsupported_layer_is_named(tmp_path: Path) -> None:
    net = Written()
    x = net.parameter(1, 3, 8, 8)
    odd = net.layer("RandomThing", x, out=[("f32", (1, 3, 8, 8))], name="odd")
    fine = net.layer("ReLU", odd, out=[("f32", (1, 3, 8, 8))])
    new = net.layer("ReLU", fine, out=[("f32", (1, 3, 8, 8))], opset="opset99", name="new")
    net.layer("Proposal", x, out=[("f32", (1,))], opset="extension", name="other")
    net.layer("Result", new)
    with pytest.raises(UnsupportedModelError) as caught:
        load(net.save(tmp_path))
    assert str(tmp_path / "net.xml") in str(caught.value)
    assert [r.split(":")[0] for r in caught.value.reasons] == [
        "layer 'odd' (RandomThing, opset1)",
        "layer 'new' (ReLU, opset99)",
        "layer 'other' (Proposal, extension)",
    ]


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_weights_that_are_missing_or_short(tmp_path: Path) -> None:
    path = small_network().save(tmp_path)
    weights = path.with_suffix(".bin")
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    assert f"'net.bin', have {len(data) - 1} bytes" in refused(path)
    weights.unlink()
    assert "'net.bin' beside it, cannot be read (No such file or directory)" in refused(path)
    weights.mkdir()
    assert "it is not a file" in refused(path)


FIRST_EDGE = 'from-layer="0" from-port="0" to-layer="3"'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version="11"', 'version="7"', "IR version is '7'; minseg reads 10 and 11"),
        ('<layer id="1"', '<layer id="0"', "two layers have one id"),
        ('id="0" name="x"', 'id="" name="x"', "a layer has no id"),
        ('<edge from-layer="0"', '<edge from-layer="77"', "of layer '77'"),
        ('to-layer="3" to-port="0"', 'to-layer="3" to-port="1"', "two edges go to port 1"),
        (f'<edge {FIRST_EDGE} to-port="0"/>', "", "no edge goes to port 0"),
        (FIRST_EDGE, 'from-layer="6" from-port="1" to-layer="3"', "cycle"),
        ('size="216"', 'size="215"', "needs 216"),
        ('shape="4,3,3,3"', 'shape="4,3,3,-3"', "shape [4, 3, 3, -3]"),
        ('shape="4,3,3,3"', 'shape="4000000000,4000000000,4000000000"', "it has 216 bytes"),
        ('offset="0"', 'offset="-2"', "at byte -2"),
        ('offset="0"', 'offset="9999999999999999999999"', "not whole numbers"),
        ('strides="1,1"', 'strides="1"', "2 numbers are needed"),
        ('strides="1,1"', 'strides="0,1"', "must be positive"),
        ('strides="1,1"', "", "no attribute 'strides'"),
        ("<dim>8</dim>", "<dim>eight</dim>", "'eight', not a number"),
        ('shape="1,3,8,8"', 'shape="1,3,8,x"', "'x' is not a size"),
        ("<layers>", "<layers></layers><old>", "not XML"),
        ("<?xml", '<!DOCTYPE net [<!ENTITY a "b">]><?xml', "document type"),
    ],
)  # fmt: skip
def test_a_file_that_breaks_a_rule(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = small_network().save(tmp_path)
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert message in refused(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"net",
        b"<html></html>",
        b'<?xml version="1.0"?><net version="11"><layers/></net>',
        '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a><net/>'.encode("utf-16"),
        b"<net>" + b"<a>" * 200_000,
        b"<net>" + b"<a/>" * 2_100_000,
    ],
    ids=["empty", "text", "html", "no layers", "utf-16", "deep", "many"],
)
def test_garbage(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "net.xml"
    path.write_bytes(data)
    refused(path)


def test_a_file_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ir_xml, "MAX_XML_BYTES", 1 << 10)
    path = small_network().save(tmp_path)
    assert "more than 0 MiB" in refused(path)


TEXT = small_network().text()
HOSTILE = [
    "", "0", "-1", "1", "7", "2147483648", "-9223372036854775808", "99999999999999999999", "1,2",
    "1,1,1,1,1,1,1,1", "nan", "x", "opset8", "f16", "i8", "boolean", "TopK", "Reshape", "Split",
    "Transpose", "Pad", "MVN", "AvgPool", "AdaptiveAvgPool", "Broadcast", "Result", "Const",
]  # fmt: skip


def loads_or_refuses(folder: Path, text: str) -> None:
    path = folder / "net.xml"
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".bin").write_bytes(small_network().data)
    try:
        load(path)
    except MinsegError as error:
        assert str(error)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, 10_000), st.sampled_from(HOSTILE)), min_size=1, max_size=3)
)
def test_hostile_attributes(tmp_path: Path, changes: list[tuple[int, str]]) -> None:
    """Values of attributes replaced, whatever they are."""
    parts = TEXT.split('"')
    for place, value in changes:
        parts[2 * (place % (len(parts) // 2)) + 1] = value
    loads_or_refuses(tmp_path, '"'.join(parts))


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(0, len(TEXT) - 1), st.characters(max_codepoint=255)), min_size=1)
)
def test_changed_characters(tmp_path: Path, changes: list[tuple[int, str]]) -> None:
    text = list(TEXT)
    for place, character in changes:
        text[place] = character
    loads_or_refuses(tmp_path, "".join(text))


def test_every_truncation(tmp_path: Path) -> None:
    for length in range(0, len(TEXT), 37):
        loads_or_refuses(tmp_path, TEXT[:length])
