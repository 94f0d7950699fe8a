"""Files that are damaged or lie: refused with one MinsegError, never a crash or a hang."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

import minseg
from minseg.errors import MinsegError, ModelError
from minseg.ops.support import load

OPSETS = [helper.make_opsetid("", 17)]


def small_network() -> ModelProto:
    """Convolution, shape arithmetic, a branch: enough kinds of content to damage."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        agraph (float[N, 3, 8, 8] x, bool flag) => (float[N, 4, 16, 16] y) {
            c = Conv<pads = [1, 1, 1, 1], kernel_shape = [3, 3]>(x, w)
            r = Relu(c)
            scales = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()
            u = Resize<mode = "nearest">(r, "", scales)
            y = If(flag) <
                then_branch = yes () => (float[N, 4, 16, 16] a) { a = Sigmoid(u) },
                else_branch = no () => (float[N, 4, 16, 16] b) { b = Identity(u) }
            >
        }"""
    )
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    return model


GOOD = small_network().SerializeToString()


def loads_or_refuses(data: bytes) -> None:
    """Loading either works or raises a MinsegError of one plain message."""
    try:
        load(data)
    except MinsegError as error:
        assert str(error)


def test_the_undamaged_network_loads() -> None:
    assert load(GOOD).types["y"].shape is not None


@pytest.mark.parametrize("open_model", [load, minseg.load])
@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not a model", GOOD[:-1], GOOD[10:]])
def test_no_model_at_all(open_model: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(MinsegError):
        open_model(data)


def test_every_truncation() -> None:
    for length in range(0, len(GOOD), 3):
        loads_or_refuses(GOOD[:length])


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1))
def test_flipped_bytes(changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOOD)
    for position, value in changes:
        data[position] = value
    loads_or_refuses(bytes(data))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise(noise: bytes) -> None:
    loads_or_refuses(noise)


# --- graphs that break the rules ------------------------------------------------------------


def node(op: str, inputs: list[str], outputs: list[str]) -> NodeProto:
    return helper.make_node(op, inputs, outputs)


def graph_of(
    nodes: list[NodeProto],
    inputs: tuple[str, ...] = ("x",),
    outputs: tuple[str, ...] = ("y",),
    initializers: tuple[TensorProto, ...] = (),
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in outputs],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=OPSETS)


W = numpy_helper.from_array(np.ones(2, np.float32), "w")

BROKEN = {
    "cycle": graph_of([node("Add", ["x", "z"], ["y"]), node("Relu", ["y"], ["z"])]),
    "own output": graph_of([node("Relu", ["y"], ["y"])]),
    "missing input": graph_of([node("Add", ["x", "nowhere"], ["y"])]),
    "missing output": graph_of([node("Relu", ["x"], ["z"])]),
    "value given twice": graph_of([node("Relu", ["x"], ["y"]), node("Neg", ["x"], ["y"])]),
    "input overwritten": graph_of([node("Relu", ["x"], ["x"])], outputs=("x",)),
    "input listed twice": graph_of([node("Relu", ["x"], ["y"])], inputs=("x", "x")),
    "initializer twice": graph_of([node("Add", ["x", "w"], ["y"])], initializers=(W, W)),
    "nameless input": graph_of([node("Relu", ["x"], ["y"])], inputs=("x", "")),
    "nameless initializer": graph_of(
        [node("Relu", ["x"], ["y"])], initializers=(numpy_helper.from_array(np.ones(2)),)
    ),
    "too few inputs": graph_of([node("Add", ["x"], ["y"])]),
    "no operator": graph_of([node("", ["x"], ["y"])]),
    "unknown operator": graph_of([node("Nonsense", ["x"], ["y"])]),
    "unimported domain": graph_of([helper.make_node("Relu", ["x"], ["y"], domain="org.example")]),
    "shapes that contradict": graph_of(
        [node("Add", ["x", "v"], ["y"])],
        initializers=(numpy_helper.from_array(np.ones(3, np.float32), "v"),),
    ),
}


@pytest.mark.parametrize("model", BROKEN.values(), ids=BROKEN)
def test_broken_graphs(model: ModelProto) -> None:
    with pytest.raises(ModelError):
        load(model)
    with pytest.raises(ModelError):
        minseg.load(model.SerializeToString())


def changed(change: Callable[[ModelProto], object]) -> ModelProto:
    model = graph_of([node("Add", ["x", "w"], ["y"])], initializers=(W,))
    change(model)
    return model


def first_input(model: ModelProto) -> onnx.TypeProto.Tensor:
    return model.graph.input[0].type.tensor_type


BENT: dict[str, Callable[[ModelProto], object]] = {
    "no graph": lambda m: m.ClearField("graph"),
    "no version": lambda m: m.ClearField("ir_version"),
    "negative version": lambda m: setattr(m, "ir_version", -1),
    "no opset": lambda m: m.ClearField("opset_import"),
    "huge opset": lambda m: setattr(m.opset_import[0], "version", 1 << 60),
    "negative opset": lambda m: setattr(m.opset_import[0], "version", -1),
    "two opsets": lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx", 18)),
    "negative size": lambda m: setattr(first_input(m).shape.dim[0], "dim_value", -2),
    "no element type": lambda m: first_input(m).ClearField("elem_type"),
    "unknown element type": lambda m: setattr(first_input(m), "elem_type", 1000),
    "initializer too short": lambda m: setattr(m.graph.initializer[0], "raw_data", b"1234567"),
    "initializer too long": lambda m: setattr(m.graph.initializer[0], "raw_data", b"123456789"),
    "initializer of negative size": lambda m: m.graph.initializer[0].dims.append(-2),
    "initializer of huge size": lambda m: m.graph.initializer[0].dims.extend([1 << 62, 1 << 62]),
    "initializer without data": lambda m: m.graph.initializer[0].ClearField("raw_data"),
    "initializer of no type": lambda m: m.graph.initializer[0].ClearField("data_type"),
    "initializer of unknown type": lambda m: setattr(m.graph.initializer[0], "data_type", 999),
    "initializer of raw strings": lambda m: setattr(m.graph.initializer[0], "data_type", 8),
    "initializer of many dimensions": lambda m: m.graph.initializer[0].dims.extend([1] * 200),
    "initializer in segments": lambda m: setattr(m.graph.initializer[0].segment, "begin", 0),
}


@pytest.mark.parametrize("change", BENT.values(), ids=BENT)
def test_bent_models(change: Callable[[ModelProto], object]) -> None:
    with pytest.raises(ModelError):
        load(changed(change))


def test_typed_data_of_the_wrong_length() -> None:
    for name in ("INT4", "BFLOAT16", "FLOAT8E4M3FN", "BOOL", "INT32"):
        data_type = TensorProto.DataType.Value(name)
        tensor = TensorProto(name="w", data_type=data_type, dims=[5], int32_data=[1, 1])
        with pytest.raises(ModelError, match="'w'"):
            load(graph_of([node("Relu", ["x"], ["y"])], initializers=(tensor,)))


@pytest.mark.parametrize(
    ("dims", "indices"),
    [
        ([4], [4]),
        ([4], [-1]),
        ([2, 2], [[0, 2], [0, 0]]),
        ([2, 2], [[0], [1]]),
        ([1 << 40, 1 << 40], [0, 1]),
        ([-4], [0]),
    ],
)
def test_sparse_indices_outside(dims: list[int], indices: list[object]) -> None:
    index = numpy_helper.from_array(np.array(indices, np.int64), "i")
    values = numpy_helper.from_array(np.ones(len(indices), np.float32), "v")
    model = graph_of([node("Relu", ["x"], ["y"])])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, index, dims))
    with pytest.raises(ModelError, match="'v'"):
        load(model)


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("../secret.bin", {}),
        ("inside/../../secret.bin", {}),
        ("/etc/hostname", {}),
        ("link.bin", {}),
        ("loop.bin", {}),
        ("", {}),
        (".", {}),
        ("nul\0l", {}),
        ("absent.bin", {}),
        ("short.bin", {}),
        ("full.bin", {"offset": "1"}),
        ("full.bin", {"offset": "-1"}),
        ("full.bin", {"offset": "9" * 30}),
        ("full.bin", {"offset": "one"}),
        ("full.bin", {"length": "4"}),
        ("full.bin", {"length": "99999999"}),
    ],
)
def test_external_data_that_leaves_the_folder_or_the_file(
    tmp_path: Path, location: str, entries: dict[str, str]
) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 8)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "loop.bin").symlink_to("loop.bin")
    (folder / "short.bin").write_bytes(b"\0" * 7)
    (folder / "full.bin").write_bytes(b"\0" * 8)
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    model = graph_of([node("Add", ["x", "w"], ["y"])], initializers=(tensor,))
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    elsewhere = tmp_path / "links" / "deep"
    elsewhere.mkdir(parents=True)
    (elsewhere / "m.onnx").symlink_to(path)
    (elsewhere / "link.bin").symlink_to(tmp_path / "secret.bin")
    for known in (path, elsewhere / "m.onnx"):
        with pytest.raises(ModelError, match="'w'") as error:
            load(known)
        assert str(known) in str(error.value)


# --- things that are large or deep on paper --------------------------------------------------


def nested(depth: int) -> ModelProto:
    """If in If in If, each with one branch that goes on and one that does not."""
    model = graph_of([], outputs=("y0",))
    model.graph.input.append(helper.make_tensor_value_info("f", TensorProto.BOOL, []))
    graph = model.graph
    for level in range(depth):
        outer = graph.node.add(op_type="If", input=["f"], output=[f"y{level}"])
        for name in ("else_branch", "then_branch"):
            attribute = outer.attribute.add(name=name, type=onnx.AttributeProto.GRAPH)
            graph = attribute.g
            graph.name = name
            graph.output.add(name=f"y{level + 1}")
            if name == "else_branch":
                graph.node.append(node("Neg", ["x"], [f"y{level + 1}"]))
    graph.node.append(node("Relu", ["x"], [f"y{depth}"]))
    return model


def test_deeply_nested_branches() -> None:
    assert load(nested(8)).types["y0"].shape == (2,)
    with pytest.raises(ModelError, match="deep"):
        load(nested(2000))


def test_a_file_nested_beyond_what_protobuf_reads() -> None:
    graph = onnx.GraphProto(name="innermost").SerializeToString()
    for _ in range(500):
        attribute = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH)
        graph = wrapped(1, wrapped(5, attribute.SerializeToString() + wrapped(6, graph)))
    with pytest.raises(ModelError, match="damaged"):
        load(ModelProto(ir_version=8, opset_import=OPSETS).SerializeToString() + wrapped(7, graph))


def wrapped(field: int, message: bytes) -> bytes:
    """A message as field number ``field`` of another, in protobuf's wire format."""
    length, digits = len(message), []
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    return bytes([field << 3 | 2, *digits, length]) + message


def test_functions_that_explode_when_inlined() -> None:
    functions = "".join(
        f"""<domain: "local", opset_import: ["": 17, "local": 1]>
        f{i} (a) => (r) {{ s = local.f{i + 1}(a)  r = local.f{i + 1}(s) }}
        """
        for i in range(40)
    )
    model = parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 17, "local": 1]>
        agraph (float[2] x) => (float[2] y) {{ y = local.f0(x) }}
        {functions}
        <domain: "local", opset_import: ["": 17]> f40 (a) => (r) {{ r = Relu(a) }}"""
    )
    with pytest.raises(ModelError, match="more than"):
        load(model)


def test_sizes_beyond_memory_are_only_names_until_the_run() -> None:
    model = graph_of([node("Relu", ["x"], ["y"])])
    dim = model.graph.input[0].type.tensor_type.shape.dim
    dim[0].dim_value = 1 << 62
    dim.add().dim_value = 1 << 62
    assert load(model).types["y"].shape == (1 << 62, 1 << 62)


HUGE = 1 << 31

AMPLIFIERS = {
    "ConstantOfShape": [np.array([HUGE])],
    "Expand": [np.ones(1, np.float32), np.array([HUGE])],
    "Tile": [np.ones(1, np.float32), np.array([HUGE])],
    "Range": [np.array(0), np.array(HUGE), np.array(1)],
    "Pad": [np.ones(1, np.float32), np.array([HUGE - 1, 0])],
    "OneHot": [np.array([1]), np.array(HUGE), np.array([0.0, 1.0], np.float32)],
    "Resize": [
        np.ones((1, 1, 1, 1), np.float32),
        None,
        None,
        np.array([1, 1, 1 << 16, 1 << 15]),
    ],
}


@pytest.mark.parametrize("op", AMPLIFIERS)
def test_a_few_bytes_do_not_become_gigabytes_while_loading(op: str) -> None:
    """Inference says how large the result is, without making it."""
    given = {f"c{i}": a for i, a in enumerate(AMPLIFIERS[op])}
    constants = {n: a for n, a in given.items() if a is not None}
    amplifier = node(op, [n if n in constants else "" for n in given], ["y"])
    tensors = tuple(numpy_helper.from_array(a, n) for n, a in constants.items())
    model = graph_of([amplifier], initializers=tensors)
    tracemalloc.start()
    try:
        types = load(model).types
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 50_000_000
    assert types["y"].value is None
    assert types["y"].shape is not None and np.prod(types["y"].shape) == HUGE


def test_tensors_without_elements() -> None:
    empty = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[0, 3])
    model = graph_of([node("Add", ["x", "w"], ["y"])], initializers=(empty,))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    assert load(model).constants["w"].shape == (0, 3)
    model.graph.initializer[0].dims[:] = [0, 1 << 62, 1 << 62]
    loads_or_refuses(model.SerializeToString())
