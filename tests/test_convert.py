"""Export to ONNX: what was read is written as it was, and other engines agree."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from conftest import Count
from models import built_model
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from parity import onnxruntime_run, openvino_run
from test_onnx_node_suite import CASES, array, reason_to_skip

from minseg.cli import main
from minseg.errors import InputError, ModelError
from minseg.graph import onnx_writer
from minseg.graph.model import Attribute, Graph, Node, TensorType, Value
from minseg.graph.onnx_reader import read_onnx
from minseg.graph.onnx_standard import standardised
from minseg.graph.onnx_writer import save_onnx, write_onnx
from minseg.ops.support import load

FLOAT = np.dtype(np.float32)


def assert_same(a: Attribute, b: Attribute) -> None:
    """Equal graphs or attributes: types and bytes, not only values."""
    assert type(a) is type(b)
    if isinstance(a, Graph):
        assert (a.name, a.inputs, a.opsets, a.metadata) == (b.name, b.inputs, b.opsets, b.metadata)
        for one, other in zip(a.outputs, b.outputs, strict=True):
            assert one.name == other.name
            assert one.type.dtype in (None, other.type.dtype)
            assert one.type.shape in (None, other.type.shape)
        for one, other in zip(a.nodes, b.nodes, strict=True):
            assert replace(one, attributes={}) == replace(other, attributes={})
            assert_same_items(one.attributes, other.attributes)
        assert_same_items(a.constants, b.constants)
        assert_same_items(a.defaults, b.defaults)
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tolist() == b.tolist() if a.dtype == object else a.tobytes() == b.tobytes()
    else:
        assert a == b or (a != a and b != b)


def assert_same_items(a: Any, b: Any) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert_same(a[key], b[key])


def stored(graph: Graph) -> onnx.ModelProto:
    """What a file of ``graph`` holds, after onnx has checked it."""
    model = onnx.ModelProto.FromString(write_onnx(graph).SerializeToString())
    onnx.checker.check_model(model)
    return model


# Everything official


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.removeprefix("test_"))
def test_official_models_come_back_as_they_were(case: TestCase, count: Count) -> None:
    if reason_to_skip(case) is not None:
        pytest.skip(reason_to_skip(case))
    graph = load(case.model)
    model = stored(graph)
    assert_same(graph, load(model))
    count("official ONNX models written", "equal once read again")
    for inputs, _ in case.data_sets:
        expected = run_where_possible(case.model, inputs)
        if expected is not None:
            for mine, other in zip(run_where_possible(model, inputs), expected, strict=True):
                assert_same(np.asarray(mine), np.asarray(other))
            count("official ONNX models written", "run by onnxruntime with equal results")


def run_where_possible(model: onnx.ModelProto, inputs: Any) -> list[Any] | None:
    """The results of onnxruntime, None if it has no such operator, opset or element type."""
    arrays = map(array, inputs)
    feeds = {i.name: np.asarray(a) for i, a in zip(model.graph.input, arrays, strict=False)}
    try:
        return onnxruntime_run(model.SerializeToString(), feeds)
    except Exception:  # onnxruntime's own classes derive from nothing narrower
        return None


# The CamVid models


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("unet-camvid-onnx-0001", {"height": 32, "width": 48}, (1, 3, 32, 48)),
        ("icnet-camvid-int8-onnx-0001", {"height": 192, "width": 192}, (1, 3, 192, 192)),
        ("icnet-camvid-ava-sparse-60-0001", {}, (1, 720, 960, 3)),
        ("unet-resnet34-camvid", {}, (1, 3, 480, 640)),
    ],
)
def test_camvid_models(
    name: str, options: dict[str, int], shape: tuple[int, ...], tmp_path: Path
) -> None:
    source = built_model(name, **options)
    graph = load(str(source))
    (target,) = save_onnx(write_onnx(graph), tmp_path / "copy.onnx")
    onnx.checker.check_model(str(target), full_check=True)
    assert_same(graph, load(str(target)))
    assert graph.metadata["minseg.card"] == name
    noise = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    feeds = {graph.inputs[0].name: noise}
    assert_same(onnxruntime_run(source, feeds)[0], onnxruntime_run(target, feeds)[0])


# OpenVINO IR


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet-camvid-onnx-0001", {"height": 32, "width": 48}),
        ("icnet-camvid-int8-onnx-0001", {"height": 192, "width": 192}),
        (
            "icnet-camvid-int8-onnx-0001",
            {"height": 192, "width": 192, "notation": "fakequantize"},
        ),
    ],
)
def test_ir_becomes_onnx(name: str, options: dict[str, Any], half: bool, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    source, target = tmp_path / "model.xml", tmp_path / "model.onnx"
    model = openvino.convert_model(str(built_model(name, **options)))
    openvino.save_model(model, source, compress_to_fp16=half)
    shape = (1, 3, options["height"], options["width"])
    noise = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    assert main(["convert", str(source), str(target)]) == 0
    assert_equal_engines(source, target, noise)


def test_a_published_ir_becomes_onnx(shared_folder: Path, tmp_path: Path) -> None:
    name = "road-segmentation-adas-0001"
    source = shared_folder / "real" / name / f"{name}.xml"
    target = tmp_path / "model.onnx"
    assert main(["convert", str(source), str(target)]) == 0
    noise = np.random.default_rng(0).uniform(0, 255, (1, 3, 512, 896)).astype(np.float32)
    assert_equal_engines(source, target, noise)


def assert_equal_engines(ir: Path, exported: Path, x: np.ndarray) -> None:
    """openvino on the IR and onnxruntime on the ONNX file give nearly equal probabilities."""
    onnx.checker.check_model(str(exported), full_check=True)
    graph = load(str(exported))
    assert_same(standardised(load(str(ir))), graph)
    feeds = {graph.inputs[0].name: x}
    (expected,), (result,) = openvino_run(ir, feeds), onnxruntime_run(exported, feeds)
    assert (result.dtype, result.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)
    assert (result.argmax(1) == expected.argmax(1)).mean() >= 0.9999


# Types of everything


def graph_of(*nodes: Node, opset: int = 18, **fields: Any) -> Graph:
    """A graph from the input x, [2, 3] float32, to the output y."""
    kind = TensorType(FLOAT, (2, 3))
    values: dict[str, Any] = {"opsets": {"": opset}, **fields}
    return Graph(
        "g", (Value("x", kind),), (Value("y", TensorType(FLOAT, (None, None))),), nodes, **values
    )


def node(op: str, *inputs: str, opset: int = 18, domain: str = "", **attributes: Any) -> Node:
    return Node("n", op, inputs or ("x",), ("y",), attributes, domain, opset)


DTYPES = [
    *("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8", "c16"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz),
    *(ml_dtypes.float8_e5m2, ml_dtypes.float8_e5m2fnuz, ml_dtypes.float8_e8m0fnu),
    *(ml_dtypes.float4_e2m1fn, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.int2, ml_dtypes.uint2),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (5, 3)], ids=str)
def test_constants_of_every_type(dtype: Any, shape: tuple[int, ...]) -> None:
    weights = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    graph = graph_of(node("Relu"), constants={"w": weights})
    model = stored(graph)
    assert_same(read_onnx(model).constants["w"], weights)
    (tensor,) = model.graph.initializer
    assert tensor.data_type == helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def test_constants_of_text() -> None:
    words = np.array([["é", ""], ["c", "d"]], object)
    model = stored(graph_of(node("Relu"), constants={"w": words}))
    assert_same(read_onnx(model).constants["w"], words)


@pytest.mark.parametrize(
    ("made", "name", "kind"),
    [
        (node("LeakyRelu", alpha=1), "alpha", AttributeProto.FLOAT),
        (node("LeakyRelu", alpha=1.0), "alpha", AttributeProto.FLOAT),
        (node("LeakyRelu", alpha=0), "alpha", AttributeProto.FLOAT),
        (node("Softmax", axis=1), "axis", AttributeProto.INT),
        (node("ReduceSum", opset=11, axes=()), "axes", AttributeProto.INTS),
        (node("Upsample", opset=7, scales=(1, 1)), "scales", AttributeProto.FLOATS),
        (node("Upsample", opset=7, mode="nearest", scales=(1.0,)), "mode", AttributeProto.STRING),
        (node("ConstantOfShape", value=np.ones(1, np.int8)), "value", AttributeProto.TENSOR),
        (node("Other", domain="x.y", opset=1, a=1.0), "a", AttributeProto.FLOAT),
        (node("Other", domain="x.y", opset=1, a=1), "a", AttributeProto.INT),
        (node("Other", domain="x.y", opset=1, a=(1, 2.0)), "a", AttributeProto.FLOATS),
        (node("Other", domain="x.y", opset=1, a=("b",)), "a", AttributeProto.STRINGS),
        (node("Other", domain="x.y", opset=1, a=()), "a", AttributeProto.INTS),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else "",
)
def test_types_of_attributes(made: Node, name: str, kind: int) -> None:
    opsets = {"": 18, made.domain: made.opset}
    model = write_onnx(graph_of(made, opsets=opsets))
    (attribute,) = (a for a in model.graph.node[0].attribute if a.name == name)
    assert attribute.type == kind
    value = helper.get_attribute_value(attribute)
    if kind == AttributeProto.TENSOR:
        assert_same(numpy_helper.to_array(value), made.attributes[name])
    elif kind == AttributeProto.STRING:
        assert value.decode() == made.attributes[name]
    elif kind != AttributeProto.STRINGS:
        assert value == made.attributes[name] or tuple(value) == made.attributes[name]


def test_an_attribute_of_another_type_than_the_operators_is_refused() -> None:
    with pytest.raises(ModelError, match=r"axis = 0\.5 does not have the type"):
        write_onnx(graph_of(node("Softmax", axis=0.5)))


def test_sizes_known_by_name_or_not_at_all() -> None:
    x, y = (Value(n, TensorType(FLOAT, ("batch", None, 3))) for n in "xy")
    graph = replace(graph_of(node("Relu")), inputs=(x,), outputs=(y,))
    back = read_onnx(stored(graph))
    assert (back.inputs, back.outputs) == ((x,), (y,))


def test_an_output_declared_without_type_gets_the_inferred_one() -> None:
    graph = replace(graph_of(node("Relu")), outputs=(Value("y", TensorType(None)),))
    assert load(write_onnx(graph)).outputs[0].type.dtype is None
    types = {"y": TensorType(FLOAT, (2, 3))}
    assert read_onnx(stored(replace(graph, types=types))).outputs[0].type == types["y"]


def test_defaults_may_still_be_overridden() -> None:
    graph = graph_of(node("Add", "x", "w"), defaults={"w": np.ones(3, np.float32)})
    graph = replace(graph, inputs=(*graph.inputs, Value("w", TensorType(FLOAT, (3,)))))
    model = stored(graph)
    back = read_onnx(model)
    assert_same(back.defaults["w"], graph.defaults["w"])
    zeros, twos = np.zeros((2, 3), np.float32), np.full(3, 2, np.float32)
    data = model.SerializeToString()
    assert_same(onnxruntime_run(data, {"x": zeros})[0], zeros + 1)
    assert_same(onnxruntime_run(data, {"x": zeros, "w": twos})[0], zeros + 2)


def test_a_model_of_the_oldest_ir_is_written_in_one_with_standalone_initializers() -> None:
    model = stored(
        graph_of(node("Add", "x", "w", opset=7), opset=7, constants={"w": np.ones(3, "f4")})
    )
    assert model.ir_version == 4
    assert [i.name for i in model.graph.input] == ["x"]
    assert_same(
        onnxruntime_run(model.SerializeToString(), {"x": np.ones((2, 3), "f4")})[0],
        np.full((2, 3), 2, "f4"),
    )


# Opsets


def chain(*nodes: Node, imports: dict[str, int]) -> Graph:
    names = ["x", *(f"v{i}" for i in range(1, len(nodes))), "y"]
    linked = (
        replace(n, name=f"n{i}", inputs=(names[i],), outputs=(names[i + 1],))
        for i, n in enumerate(nodes)
    )
    return graph_of(*linked, opsets=imports)


@pytest.mark.parametrize(
    ("opsets", "imports", "written"),
    [
        ((18, 18), {"": 18}, 18),
        ((14, 14), {"": 18}, 18),  # Relu of opset 14 is that of 18
        ((18, 14), {}, 18),
        ((13, 13), {"": 18}, 13),  # that of 13 is another one
        ((8, 12), {}, 12),
    ],
)
def test_nodes_of_other_opsets_than_the_models(
    opsets: tuple[int, ...], imports: dict[str, int], written: int
) -> None:
    model = stored(chain(*(node("Relu", opset=o) for o in opsets), imports=imports))
    assert {o.domain: o.version for o in model.opset_import} == {"": written}


def test_an_opset_that_no_node_names_may_be_the_only_one_that_suits_all() -> None:
    """Clip is the same from 6 to 10, Dropout from 10 to 11; neither node says 10."""
    graph = chain(node("Clip", opset=7), node("Dropout", opset=11), imports={})
    assert {o.version for o in stored(graph).opset_import} == {10}


def test_nodes_of_opsets_that_cannot_be_in_one_model_are_refused() -> None:
    graph = chain(node("Softmax", opset=12), node("Softmax", opset=13), imports={"": 13})
    with pytest.raises(ModelError, match=r"'n0'.*opset 12.*'n1'.*opset 13.*no opset in which both"):
        write_onnx(graph)


@pytest.mark.parametrize(
    "made",
    [
        node("FusedConv", domain="minseg", opset=1),
        node("Other", domain="org.openvinotoolkit", opset=1),
        node("NoSuchOperator"),
        node("GroupNormalization", opset=17),
    ],
    ids=lambda n: n.op,
)
def test_what_the_standard_lacks_is_refused(made: Node) -> None:
    graph = graph_of(made, opsets={"": 18, made.domain: made.opset})
    with pytest.raises(ModelError, match=rf"{made.op}, opset {made.opset}\) is no operator"):
        write_onnx(graph)


# Files


def weighty() -> Graph:
    constants = {
        "w": np.arange(600, dtype=np.float32).reshape(2, 300),
        "q": np.arange(5000).astype(ml_dtypes.int4),
        "small": np.ones((2, 300), np.float32)[:, :1],
    }
    nodes = (
        Node("a", "Add", ("w", "small"), ("v",), opset=21),
        Node("b", "Add", ("v", "x"), ("y",), opset=21),
    )
    graph = graph_of(*nodes, opset=21, constants=constants)
    return replace(graph, inputs=(Value("x", TensorType(FLOAT, (2, 1))),))


def test_large_weights_go_to_a_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = weighty()
    monkeypatch.setattr(onnx_writer, "EXTERNAL_BYTES", 4000)
    (tmp_path / "m.onnx").write_bytes(b"old")
    (tmp_path / "m.onnx.data").write_bytes(b"old")
    files = save_onnx(write_onnx(graph), tmp_path / "m.onnx")
    assert files == [tmp_path / "m.onnx", tmp_path / "m.onnx.data"]
    assert sorted(tmp_path.iterdir()) == files
    onnx.checker.check_model(str(files[0]))
    assert_same(graph, read_onnx(str(files[0])))
    located = {
        t.name: t.data_location == TensorProto.EXTERNAL
        for t in onnx.load(files[0], load_external_data=False).graph.initializer
    }
    assert located == {"w": True, "q": True, "small": False}
    x = np.ones((2, 1), np.float32)
    assert_same(onnxruntime_run(files[0], {"x": x})[0], graph.constants["w"] + np.float32(2))


@pytest.mark.parametrize("limit", [10**9, 0], ids=["one file", "two files"])
def test_a_place_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(onnx_writer, "EXTERNAL_BYTES", limit)
    model = write_onnx(weighty())
    with pytest.raises(InputError, match=r"cannot write '.*gone/m.onnx': No such file"):
        save_onnx(model, tmp_path / "gone" / "m.onnx")


@pytest.mark.parametrize("limit", [10**9, 0], ids=["one file", "two files"])
def test_a_file_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    target = tmp_path / "m.onnx"
    target.write_bytes(b"precious")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(onnx_writer, "EXTERNAL_BYTES", limit)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        save_onnx(write_onnx(weighty()), target)
    assert target.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [target]


# The command


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_convert(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_onnx(write_onnx(weighty()), "in.onnx")
    assert main(["convert", "in.onnx", "out.onnx"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("out.onnx  ") and "2 nodes, opset 21" in out
    assert not err
    assert_same(read_onnx("in.onnx"), read_onnx("out.onnx"))
    before = (place / "in.onnx").read_bytes()
    assert main(["convert", "in.onnx", "in.onnx"]) == 0
    assert (place / "in.onnx").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.onnx", "out.onnx"], "gone.onnx"),
        (["in.onnx", "out.xml"], "'out.xml' does not end with .onnx"),
        (["in.onnx", "gone/out.onnx"], "cannot write 'gone/out.onnx'"),
        (["in.onnx", "folder.onnx"], "cannot write 'folder.onnx'"),
    ],
)
def test_convert_refuses_in_one_sentence(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    save_onnx(write_onnx(weighty()), "in.onnx")
    (place / "folder.onnx").mkdir()
    assert main(["convert", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1
