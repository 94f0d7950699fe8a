"""What the ONNX reader makes of a file, feature by feature."""

from __future__ import annotations

import io
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from minseg.errors import ModelError, UnsupportedModelError
from minseg.graph.model import Graph
from minseg.graph.onnx_reader import read_onnx
from minseg.ops.evaluate import evaluate
from minseg.ops.support import check_support, load

HEADER = '<ir_version: 8, opset_import: ["": 17]>'


def model_of(body: str, header: str = HEADER) -> ModelProto:
    return parser.parse_model(f"{header} {body}")


def holding(*initializers: TensorProto) -> ModelProto:
    """A model whose only content are its initializers."""
    graph = helper.make_graph([], "weights", [], [], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def identity_of(name: str = "y") -> str:
    return f"agraph (float[1] x) => (float[1] {name}) {{ {name} = Identity(x) }}"


#: Contents that are found where a model should be, and what they are called.
MISTAKEN = {
    b"": "an empty file",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n": "a Git LFS pointer",
    b"<!DOCTYPE html>\n<html><head><title>404": r"a web page \(HTML\)",
    b"\xef\xbb\xbf\r\n <HTML lang='en'>": r"a web page \(HTML\)",
    b"<?xml version='1.0'?>\n<!DOCTYPE html PUBLIC '-//W3C'>": r"a web page \(HTML\)",
    b"<!-- saved -->\n<html>": r"a web page \(HTML\)",
    b"PK\x03\x04\x14\x00": "a ZIP archive",
    b"\x1f\x8b\x08\x00": "a gzip archive",
}

# --- sources --------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_graph(tmp_path: Path) -> None:
    model = model_of(identity_of())
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    sources = [model, path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())]
    graphs = [read_onnx(source) for source in sources]
    assert all(graph == graphs[0] for graph in graphs)
    assert [n.op for n in graphs[0].nodes] == ["Identity"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"GIF89a.....", "not an ONNX model"),
        *((content, f"this is {what}") for content, what in MISTAKEN.items()),
    ],
)
def test_errors_name_the_file(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as error:
        read_onnx(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("content", "what"), MISTAKEN.items())
@pytest.mark.parametrize("name", ["m.onnx", "m.xml", "m.bin", "data"])
def test_files_that_are_something_else_are_called_what_they_are(
    tmp_path: Path, name: str, content: bytes, what: str
) -> None:
    """In place of the model itself, of an OpenVINO IR's weights, of external data."""
    path = tmp_path / name
    if name == "m.bin":
        path = path.with_suffix(".xml")
        path.write_text(
            '<net version="11"><layers><layer id="0" name="c" type="Const" version="opset1">'
            '<data element_type="f32" shape="500" offset="0" size="2000"/><output><port id="0" '
            'precision="FP32"><dim>500</dim></port></output></layer></layers><edges/></net>'
        )
    elif name == "data":
        path = path.with_name("m.onnx")
        model = holding(external("w", TensorProto.FLOAT, [500], location="data"))
        path.write_bytes(model.SerializeToString())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=what) as error:
        load(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_and_a_text_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a file"):
        read_onnx(tmp_path)
    with pytest.raises(ModelError, match="text mode"):
        read_onnx(io.StringIO("model"))  # type: ignore[arg-type]


# --- tensors --------------------------------------------------------------------------------

NATIVE = [
    *("float16", "float32", "float64", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
]
#: (dtype, TensorProto name, bits) of what NumPy itself lacks.
EXTENDED = [
    ("bfloat16", "BFLOAT16", 16),
    ("float8_e4m3fn", "FLOAT8E4M3FN", 8),
    ("float8_e4m3fnuz", "FLOAT8E4M3FNUZ", 8),
    ("float8_e5m2", "FLOAT8E5M2", 8),
    ("float8_e5m2fnuz", "FLOAT8E5M2FNUZ", 8),
    ("int4", "INT4", 4),
    ("uint4", "UINT4", 4),
    ("float4_e2m1fn", "FLOAT4E2M1", 4),
]
SHAPES = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


def initializer(tensor: TensorProto) -> np.ndarray:
    return read_onnx(holding(tensor)).constants[tensor.name]


@given(st.data(), st.sampled_from(NATIVE), st.booleans())
def test_native_dtypes_survive(data: st.DataObject, dtype: str, raw: bool) -> None:
    array = data.draw(hnp.arrays(dtype, SHAPES))
    onnx_type = helper.np_dtype_to_tensor_dtype(array.dtype)
    content = array.tobytes() if raw else array.ravel().tolist()
    if not raw and dtype == "float16":
        content = array.ravel().view(np.uint16).tolist()
    if raw:
        tensor = helper.make_tensor("w", onnx_type, array.shape, content, raw=True)
    else:
        tensor = TensorProto(name="w", data_type=onnx_type, dims=array.shape)
        if dtype == "bool":
            content = array.ravel().astype(int).tolist()
        if array.dtype.kind == "c":
            content = [part for c in content for part in (c.real, c.imag)]
        getattr(tensor, helper.tensor_dtype_to_field(onnx_type)).extend(content)
    result = initializer(tensor)
    assert (result.dtype, result.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(result, array)
    assert not result.flags.writeable


@pytest.mark.parametrize(("dtype", "name", "bits"), EXTENDED)
@given(data=st.data())
def test_extended_dtypes_survive(dtype: str, name: str, bits: int, data: st.DataObject) -> None:
    """The codes are packed here by hand, low bits first, as onnx.proto describes."""
    codes = data.draw(hnp.arrays(np.uint16, SHAPES, elements=st.integers(0, (1 << bits) - 1)))
    stream = [int(c) for c in codes.ravel()]
    if bits == 4:
        padded = [*stream, 0] if len(stream) % 2 else stream
        stream = [low | high << 4 for low, high in zip(padded[::2], padded[1::2], strict=True)]
    raw = b"".join(code.to_bytes(max(bits, 8) // 8, "little") for code in stream)
    storage = np.uint16 if bits == 16 else np.uint8
    expected = codes.astype(storage).view(getattr(ml_dtypes, dtype))
    if dtype == "int4":  # one byte per element, sign-extended
        expected = np.where(codes > 7, codes.astype(int) - 16, codes).astype(ml_dtypes.int4)
    data_type = TensorProto.DataType.Value(name)
    for tensor in (
        TensorProto(name="w", data_type=data_type, dims=codes.shape, raw_data=raw),
        TensorProto(name="w", data_type=data_type, dims=codes.shape, int32_data=stream),
    ):
        result = initializer(tensor)
        assert (result.dtype, result.shape) == (expected.dtype, codes.shape)
        np.testing.assert_array_equal(result.astype(float), expected.astype(float))


def test_strings() -> None:
    result = initializer(helper.make_tensor("w", TensorProto.STRING, [2], ["Strasse", "Gehweg é"]))
    assert (result.dtype, result.shape) == (np.dtype(object), (2,))
    assert result.tolist() == ["Strasse", "Gehweg é"]


@pytest.mark.parametrize("linear", [True, False])
def test_sparse_initializers_become_dense(linear: bool) -> None:
    expected = np.zeros((3, 4), np.float32)
    expected[0, 1], expected[2, 3] = 5, -2
    indices = np.array([1, 11] if linear else [[0, 1], [2, 3]], np.int64)
    values = numpy_helper.from_array(np.array([5, -2], np.float32), "w")
    model = holding()
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(indices), [3, 4])
    )
    result = read_onnx(model).constants["w"]
    assert (result.dtype, result.shape) == (np.float32, (3, 4))
    np.testing.assert_array_equal(result, expected)


def test_external_data(tmp_path: Path) -> None:
    first, second = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(4, dtype=np.int8)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(first.tobytes() + second.tobytes() + b"tail")
    tensors = [
        external("a", TensorProto.FLOAT, [2, 3], location="data/w.bin"),
        external("b", TensorProto.INT8, [4], location="data/w.bin", offset="24", length="4"),
    ]
    path = tmp_path / "m.onnx"
    path.write_bytes(holding(*tensors).SerializeToString())
    constants = read_onnx(path).constants
    np.testing.assert_array_equal(constants["a"], first)
    np.testing.assert_array_equal(constants["b"], second)
    with pytest.raises(ModelError, match="another file"):
        read_onnx(path.read_bytes())


def test_external_data_in_the_layout_of_hugging_faces_cache(tmp_path: Path) -> None:
    """Model and data are links into a folder of files that are named by their hashes."""
    values = np.arange(6, dtype=np.float32)
    snapshot, blobs = tmp_path / "snapshots" / "1f" / "onnx", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    model = holding(external("a", TensorProto.FLOAT, [6], location="m.onnx.data"))
    for name, content in {"m.onnx": model.SerializeToString(), "m.onnx.data": values}.items():
        (blobs / f"hash of {name}").write_bytes(content)
        (snapshot / name).symlink_to(f"../../../blobs/hash of {name}")
    (tmp_path / "latest").symlink_to(snapshot)
    for path in (snapshot / "m.onnx", tmp_path / "latest" / "m.onnx"):
        np.testing.assert_array_equal(read_onnx(path).constants["a"], values)


def test_external_data_beside_the_file_that_a_link_leads_to(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.float32)
    models = tmp_path / "models"
    models.mkdir()
    model = holding(external("a", TensorProto.FLOAT, [6], location="w.bin"))
    (models / "m.onnx").write_bytes(model.SerializeToString())
    (models / "w.bin").write_bytes(values)
    link = tmp_path / "link.onnx"
    link.symlink_to(models / "m.onnx")
    np.testing.assert_array_equal(read_onnx(link).constants["a"], values)


def external(name: str, data_type: int, dims: list[int], **entries: str) -> TensorProto:
    tensor = TensorProto(name=name, data_type=data_type, dims=dims)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


# --- inputs, initializers, constants ---------------------------------------------------------


def with_default(ir_version: int) -> ModelProto:
    model = model_of("agraph (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }")
    model.ir_version = ir_version
    model.graph.initializer.append(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    return model


def test_an_initializer_that_is_an_input_can_be_overridden_from_ir_4_on() -> None:
    graph = read_onnx(with_default(4))
    assert [v.name for v in graph.inputs] == ["x", "w"]
    assert [v.name for v in graph.required_inputs] == ["x"]
    assert list(graph.defaults) == ["w"] and not graph.constants


def test_before_ir_4_it_is_a_constant() -> None:
    graph = read_onnx(with_default(3))
    assert [v.name for v in graph.inputs] == ["x"]
    assert list(graph.constants) == ["w"] and not graph.defaults


def test_a_default_must_have_the_declared_type() -> None:
    model = with_default(8)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    with pytest.raises(ModelError, match="'w'"):
        read_onnx(model)


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": numpy_helper.from_array(np.eye(2, dtype=np.float16))}, np.eye(2, dtype="f2")),
        ({"value_int": 3}, np.array(3, np.int64)),
        ({"value_ints": [3, 4]}, np.array([3, 4], np.int64)),
        ({"value_float": 0.5}, np.array(0.5, np.float32)),
        ({"value_floats": [0.5, 1.5]}, np.array([0.5, 1.5], np.float32)),
        ({"value_string": "road"}, np.array("road", object)),
        ({"value_strings": ["road", "sky"]}, np.array(["road", "sky"], object)),
    ],
    ids=lambda p: next(iter(p)) if isinstance(p, dict) else "",
)
def test_constant_nodes(attribute: dict[str, object], expected: np.ndarray) -> None:
    graph = read_onnx(constant_model(helper.make_node("Constant", [], ["c"], **attribute)))
    assert not graph.nodes
    assert (graph.constants["c"].dtype, graph.constants["c"].shape) == (
        expected.dtype,
        expected.shape,
    )
    np.testing.assert_array_equal(graph.constants["c"], expected)


def test_constant_node_with_a_sparse_value() -> None:
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.array([7], np.int32), "v"),
        numpy_helper.from_array(np.array([2], np.int64), "i"),
        [4],
    )
    node = helper.make_node("Constant", [], ["c"], sparse_value=sparse)
    constant = read_onnx(constant_model(node)).constants["c"]
    assert (constant.dtype, constant.tolist()) == (np.dtype(np.int32), [0, 0, 7, 0])


def constant_model(node: onnx.NodeProto) -> ModelProto:
    graph = helper.make_graph([node], "g", [], [onnx.ValueInfoProto(name="c")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_a_size_written_as_minus_one_is_not_known() -> None:
    model = model_of("agraph (float[7,2] x) => (float[7,2] y) { y = Relu(x) }")
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = -1
    graph = read_onnx(model)
    assert graph.inputs[0].type.shape == (None, 2)
    x = np.ones((3, 2), np.float32)
    assert evaluate(graph, {"x": x})["y"].shape == (3, 2)


def test_dimensions_metadata_and_opsets() -> None:
    model = model_of("agraph (float[N, 3, 4] x, float s, float[] t) => (float y) { y = Mul(x, s) }")
    model.graph.input[0].type.tensor_type.shape.dim.add()
    helper.set_model_props(model, {"author": "a student"})
    graph = read_onnx(model)
    assert graph.inputs[0].type.shape == ("N", 3, 4, None)
    assert graph.inputs[1].type.shape == ()
    assert graph.inputs[2].type.shape is None
    assert graph.metadata == {"author": "a student"}
    assert graph.opsets == {"": 17}
    assert graph.nodes[0].opset == 17


# --- nodes ----------------------------------------------------------------------------------


def test_empty_optional_inputs_stay_and_names_become_unique() -> None:
    model = model_of(
        """agraph (float[4] x, float hi) => (float[4] z) {
            y = Clip(x, "", hi)
            z = Clip(y)
        }"""
    )
    model.graph.node[1].name = "Clip_0"
    graph = read_onnx(model)
    assert graph.nodes[0].inputs == ("x", "", "hi")
    names = [n.name for n in graph.nodes]
    assert names[1] == "Clip_0"
    assert len(set(names)) == 2 and all(names)


def test_attributes_are_plain_values() -> None:
    node = helper.make_node(
        "Anything",
        ["x"],
        ["y"],
        domain="org.example",
        i=1,
        f=0.5,
        s="text",
        ints=[1, 2],
        floats=[0.5],
        strings=["a"],
        t=numpy_helper.from_array(np.zeros((2, 2), ml_dtypes.bfloat16)),
    )
    graph_proto = helper.make_graph([node], "g", [float_value("x")], [float_value("y")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("org.example", 3)]
    (result,) = read_onnx(helper.make_model(graph_proto, opset_imports=imports)).nodes
    tensor = result.attributes["t"]
    assert isinstance(tensor, np.ndarray) and tensor.dtype == ml_dtypes.bfloat16
    rest = {name: value for name, value in result.attributes.items() if name != "t"}
    assert rest == {
        "i": 1,
        "f": 0.5,
        "s": "text",
        "ints": (1, 2),
        "floats": (0.5,),
        "strings": ("a",),
    }
    assert (result.domain, result.opset) == ("org.example", 3)


def float_value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def test_the_schema_is_checked() -> None:
    with pytest.raises(ModelError, match="Relu"):
        read_onnx(model_of("g (float[1] x) => (float[1] y) { y = Relu(x, x) }"))
    with pytest.raises(ModelError, match="slope"):
        read_onnx(model_of("g (float[1] x) => (float[1] y) { y = Relu<slope = 1>(x) }"))


def test_if_reads_values_around_it() -> None:
    graph = load(
        model_of(
            """agraph (bool flag, float[2] x) => (float[2] y) {
                two = Constant<value = float[1] {2.0}>()
                y = If(flag) <
                    then_branch = yes () => (float[2] a) { a = Mul(x, two) },
                    else_branch = no () => (float[2] b) {
                        one = Constant<value = float[1] {1.0}>()
                        b = Sub(x, one)
                    }
                >
            }"""
        )
    )
    branch = graph.nodes[0].attributes["else_branch"]
    assert isinstance(branch, Graph) and list(branch.constants) == ["one"]
    assert graph.types["y"].shape == (2,)
    x = np.array([3, 4], np.float32)
    for flag, expected in ((True, [6, 8]), (False, [2, 3])):
        y = evaluate(graph, {"flag": np.array(flag), "x": x})["y"]
        assert (y.dtype, y.tolist()) == (np.dtype(np.float32), expected)


FUNCTIONS = """
<ir_version: 9, opset_import: ["": 18, "local": 1]>
agraph (float[2] x) => (float[2] y, float[2] z) {
    y = local.scaled <factor = 3.0> (x)
    z = local.scaled (y)
}
<domain: "local", opset_import: ["": 18, "local": 1]>
scaled <factor: float = 2.0> (v) => (r) {
    f = Constant <value_float: float = @factor>()
    r = local.times (v, f)
}
<domain: "local", opset_import: ["": 13]>
times (a, b) => (r) { t = Mul(a, b)  r = Identity(t) }
"""


def test_functions_are_inlined() -> None:
    graph = load(parser.parse_model(FUNCTIONS))
    assert [n.op for n in graph.nodes] == ["Mul", "Identity"] * 2
    assert len({n.name for n in graph.nodes}) == 4
    assert {n.opset for n in graph.nodes} == {13}  # of the innermost function
    results = evaluate(graph, {"x": np.array([1, 2], np.float32)})
    assert results["y"].tolist() == [3, 6]
    assert results["z"].tolist() == [6, 12]


def test_a_function_that_passes_its_input_through_and_one_argument_less() -> None:
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18, "local": 1]>
        agraph (float[2] x) => (float[2] y, float[2] z) { y, z = local.f (x) }
        <domain: "local", opset_import: ["": 18]>
        f (a, lowest) => (a, r) { r = Clip(a, lowest) }"""
    )
    graph = load(model)
    clip = next(n for n in graph.nodes if n.op == "Clip")
    assert clip.inputs == ("x", "")
    results = evaluate(graph, {"x": np.array([-1, 2], np.float32)})
    assert results["y"].tolist() == results["z"].tolist() == [-1, 2]


def test_recursive_functions_are_refused() -> None:
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18, "local": 1]>
        agraph (float[2] x) => (float[2] y) { y = local.f (x) }
        <domain: "local", opset_import: ["": 18, "local": 1]> f (a) => (r) { r = local.g(a) }
        <domain: "local", opset_import: ["": 18, "local": 1]> g (a) => (r) { r = local.f(a) }"""
    )
    with pytest.raises(ModelError, match="calls itself"):
        read_onnx(model)


# --- the order of nodes ----------------------------------------------------------------------


def ops_of(text: str) -> list[str]:
    return [node.op for node in read_onnx(model_of(text)).nodes]


def test_nodes_come_in_topological_order_and_otherwise_as_in_the_file() -> None:
    assert ops_of(
        """agraph (float[2] x) => (float[2] y) {
            y = Add(b, d)
            d = Exp(c)
            b = Neg(a)
            c = Abs(x)
            a = Relu(x)
        }"""
    ) == ["Abs", "Exp", "Relu", "Neg", "Add"]
    assert ops_of(
        "agraph (float[2] x) => (float[2] y) { b = Neg(x) a = Abs(x) c = Relu(x) y = Sum(c, a, b) }"
    ) == ["Neg", "Abs", "Relu", "Sum"]


def test_what_branches_read_comes_before_them_and_their_nodes_are_sorted_too() -> None:
    """``d`` is read two branches down."""
    graph = load(
        model_of(
            """agraph (bool flag, float[2] x) => (float[2] y) {
                y = If(flag) <
                    then_branch = yes () => (float[2] a) {
                        a = If(flag) <
                            then_branch = inner_yes () => (float[2] p) { p = Neg(q) q = Exp(d) },
                            else_branch = inner_no () => (float[2] r) { r = Abs(d) }
                        >
                    },
                    else_branch = no () => (float[2] b) { b = Add(e, x) e = Neg(x) }
                >
                d = Relu(x)
            }"""
        )
    )
    assert [node.op for node in graph.nodes] == ["Relu", "If"]
    x = np.array([-1, 2], np.float32)
    results = [evaluate(graph, {"flag": np.array(f), "x": x})["y"] for f in (True, False)]
    np.testing.assert_allclose(results[0], -np.exp(np.array([0, 2], np.float32)), rtol=1e-6)
    np.testing.assert_array_equal(results[1], [0, 0])


def test_nodes_of_functions_are_sorted() -> None:
    model = parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18, "local": 1]>
        agraph (float[2] x) => (float[2] y) { y = Neg(z)  z = local.f (x) }
        <domain: "local", opset_import: ["": 18]>
        f (a) => (r) { r = Add(s, t)  s = Exp(t)  t = Abs(a) }"""
    )
    assert [node.op for node in load(model).nodes] == ["Abs", "Exp", "Add", "Neg"]


CYCLES = {
    "two": ("a = Add(x, b) b = Neg(a) y = Relu(b)", ["Add_0", "Neg_1"]),
    "one": ("y = Add(x, y)", ["Add_0"]),
    "behind others": ("y = Neg(c) c = Abs(b) b = Add(a, x) a = Exp(b)", ["Add_2", "Exp_3"]),
    "through a branch": (
        """y = If(flag) <
            then_branch = yes () => (float[2] p) { p = Neg(a) },
            else_branch = no () => (float[2] q) { q = Abs(x) }
        >
        a = Relu(y)""",
        ["If_0", "Relu_1"],
    ),
}


@pytest.mark.parametrize("case", CYCLES)
def test_a_cycle_is_refused_by_the_names_of_its_nodes(case: str) -> None:
    body, names = CYCLES[case]
    model = model_of(f"agraph (bool flag, float[2] x) => (float[2] y) {{ {body} }}")
    with pytest.raises(ModelError, match="cycle") as error:
        read_onnx(model)
    assert set(re.findall(r"'(\w+_\d)'", str(error.value))) == set(names)
    assert len(str(error.value).splitlines()) == 1


def test_a_long_graph_written_backwards_is_sorted() -> None:
    count = 20_000
    chain = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    model = model_of(f"agraph (float[2] v0) => (float[2] v{count}) {{ v{count} = Relu(v0) }}")
    del model.graph.node[:]
    model.graph.node.extend(reversed(chain))
    nodes = read_onnx(model).nodes
    assert [node.outputs[0] for node in nodes] == [f"v{i + 1}" for i in range(count)]


# --- support --------------------------------------------------------------------------------


def test_a_refusal_lists_every_reason() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17, "com.example": 2, "org.other": 1]>
        agraph (float[2] x, bool flag, seq(float[2]) many) => (float[2] y, float[2] z) {
            a = com.example.Whirl(x)
            y = org.other.Twist<speed = 3>(a)
            z = If(flag) <
                then_branch = yes () => (float[2] b) { b = com.example.Deep(x) },
                else_branch = no () => (float[2] c) { c = Neg(x) }
            >
        }"""
    )
    model.graph.node[0].name = "first"
    with pytest.raises(UnsupportedModelError) as error:
        load(model)
    text = str(error.value)
    assert len(error.value.reasons) == 4
    for part in ("input 'many' has type sequence", "'first' (com.example.Whirl, opset 2)"):
        assert part in text
    assert "(org.other.Twist, opset 1)" in text and "(com.example.Deep, opset 2)" in text


def test_an_attribute_that_the_operator_does_not_know_is_a_reason() -> None:
    graph = read_onnx(model_of(identity_of()))
    node = graph.nodes[0]
    bent = type(node)(node.name, node.op, node.inputs, node.outputs, {"speed": 3}, opset=17)
    with pytest.raises(UnsupportedModelError, match="speed = 3"):
        check_support(Graph("g", graph.inputs, graph.outputs, (bent,), opsets={"": 17}), "m")


@pytest.mark.parametrize("opset", [6, 1000])
def test_opsets_out_of_range_are_a_reason(opset: int) -> None:
    model = model_of(identity_of())
    model.opset_import[0].version = opset
    with pytest.raises(UnsupportedModelError, match=f"opset {opset} is outside"):
        load(model)


def test_a_newer_ir_version_is_refused() -> None:
    model = model_of(identity_of())
    model.ir_version = onnx.IR_VERSION + 1
    with pytest.raises(ModelError, match="IR version"):
        read_onnx(model)
