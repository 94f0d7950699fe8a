"""Operands that contradict their operator: refused before anything reads them, by both backends.

Every operator that kernels take, directly or after passes, is called rightly once; then each
operand in turn is given other sizes, ranks and element types. Whatever onnxruntime refuses, minseg
refuses, with a sentence that names the node; what both take has one result.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

import minseg
from minseg.errors import MinsegError, ModelError

MICROSOFT = "com.microsoft"
RANDOM = np.random.default_rng(12)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.uniform(0.5, 2, shape).astype(np.float32)


def bytes_(*shape: int) -> np.ndarray:
    return RANDOM.integers(100, 156, shape, np.uint8)


def scale() -> np.ndarray:
    return np.array(0.02, np.float32)


def zero() -> np.ndarray:
    return np.array(128, np.uint8)


@dataclass(frozen=True)
class Call:
    """One operator with operands that fit. ``opset`` is that of ONNX's own domain."""

    op: str
    operands: tuple[np.ndarray, ...]
    opset: int = 18
    domain: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1

    def __str__(self) -> str:
        kinds = {a: v for a, v in self.attributes.items() if a != "kernel_shape"}
        return f"{self.op}-{self.opset}" + "".join(f"-{a}={v}" for a, v in kinds.items())


X = floats(1, 4, 5, 6)
Q = bytes_(1, 4, 5, 6)


def quantised(*tensors: np.ndarray) -> tuple[np.ndarray, ...]:
    """Each with a scale and a zero point."""
    return tuple(o for x in tensors for o in (x, scale(), zero()))


CALLS = [
    *(Call(op, (X, floats(4, 1, 1))) for op in ("Add", "Sub", "Mul", "Div", "PRelu", "Pow")),
    *(Call(op, (X, floats(4, 1, 1))) for op in ("Max", "Min", "Sum", "Mean")),
    Call("Pow", (X, floats(4, 1, 1)), 7),
    Call("Clip", (X, np.float32(0.7), np.float32(1.5))),
    Call("Where", (X > 1, X, floats(6))),
    *(Call(op, (X, floats(6)), 18) for op in ("Equal", "Greater", "Less")),
    Call("BatchNormalization", (X, *(floats(4) for _ in range(4))), 9),
    Call("BatchNormalization", (X, *(floats(4) for _ in range(4))), 15),
    Call("InstanceNormalization", (X, floats(4), floats(4))),
    Call("LayerNormalization", (X, floats(6), floats(6))),
    Call("GroupNormalization", (X, floats(4), floats(4)), 21, attributes={"num_groups": 2}),
    Call("Conv", (X, floats(8, 4, 3, 3), floats(8))),
    Call("Conv", (X, floats(8, 2, 3, 3), floats(8)), attributes={"group": 2}),
    Call("Conv", (X, floats(4, 1, 3, 3), floats(4)), attributes={"group": 4}),
    Call("ConvTranspose", (X, floats(4, 3, 2, 2), floats(3))),
    Call("ConvTranspose", (X, floats(4, 3, 2, 2), floats(6)), attributes={"group": 2}),
    Call("Gemm", (floats(3, 4), floats(4, 5), floats(5))),
    Call("Gemm", (floats(3, 4), floats(5, 4), floats(3, 1)), attributes={"transB": 1}),
    Call("MatMul", (floats(2, 3, 4), floats(4, 5))),
    Call("Concat", (X, floats(1, 3, 5, 6)), attributes={"axis": 1}),
    Call("Concat", (X, floats(1, 4, 5, 2)), attributes={"axis": -1}),
    Call("Concat", (Q, bytes_(1, 3, 5, 6)), attributes={"axis": 1}),
    Call("Pad", (X, np.int64([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0.5))),
    Call("Slice", (X, np.int64([1]), np.int64([3]), np.int64([2]))),
    Call("Split", (X, np.int64([1, 3])), attributes={"axis": 1}, outputs=2),
    Call("Expand", (floats(4, 1, 1), np.int64([2, 4, 5, 6]))),
    Call("Resize", (X, np.float32([]), np.float32([1, 1, 2, 2]))),
    Call("Softmax", (X,), attributes={"axis": 1}),
    Call("ArgMax", (X,), attributes={"axis": 1}),
    Call("MaxPool", (X,), attributes={"kernel_shape": [2, 2]}),
    Call("AveragePool", (X,), attributes={"kernel_shape": [2, 2]}),
    Call("TopK", (X, np.int64([2])), outputs=2),
    Call("CumSum", (X, np.array(1))),
    Call("OneHot", (np.array([0, 2]), np.array(3), floats(2))),
    Call("Range", (np.float32(0), np.float32(5), np.float32(1))),
    Call("Trilu", (X, np.array(1))),
    Call("QuantizeLinear", (X, scale(), zero()), 13),
    Call("QuantizeLinear", (X, floats(4), bytes_(4)), 13),
    Call("DequantizeLinear", (Q, scale(), zero()), 13),
    Call("DequantizeLinear", (Q, floats(4), bytes_(4)), 13),
    Call("ConvInteger", (Q, bytes_(8, 4, 3, 3), zero(), zero()), 13),
    Call("MatMulInteger", (bytes_(3, 4), bytes_(4, 5), zero(), zero()), 13),
    Call(
        "QLinearConv",
        (*quantised(Q, bytes_(8, 4, 3, 3)), scale(), zero(), RANDOM.integers(-9, 9, 8, np.int32)),
        13,
    ),
    Call(
        "QLinearConv",
        (Q, scale(), zero(), bytes_(8, 4, 3, 3), floats(8) / 50, np.full(8, 128, np.uint8),
         scale(), zero(), RANDOM.integers(-9, 9, 8, np.int32)),
        13,
    ),
    Call("QLinearMatMul", (*quantised(bytes_(3, 4), bytes_(4, 5)), scale(), zero()), 13),
    *(
        Call(op, (*quantised(Q, bytes_(1, 4, 5, 6)), scale(), zero()), 13, MICROSOFT)
        for op in ("QLinearAdd", "QLinearMul")
    ),
    Call("QLinearAdd", (*quantised(Q, bytes_(4, 1, 1)), scale(), zero()), 13, MICROSOFT),
    Call("QLinearConcat", (scale(), zero(), *quantised(Q, bytes_(1, 3, 5, 6))), 13, MICROSOFT,
         {"axis": 1}),
    Call("QLinearSigmoid", (*quantised(Q), scale(), zero()), 13, MICROSOFT),
    Call("QLinearLeakyRelu", (*quantised(Q), scale(), zero()), 13, MICROSOFT),
    Call("QLinearGlobalAveragePool", (*quantised(Q), scale(), zero()), 13, MICROSOFT),
    Call("QLinearAveragePool", (*quantised(Q), scale(), zero()), 13, MICROSOFT,
         {"kernel_shape": [2, 2]}),
    Call(
        "QGemm",
        (*quantised(bytes_(3, 4), bytes_(4, 5)), RANDOM.integers(-9, 9, 5, np.int32),
         scale(), zero()),
        13,
        MICROSOFT,
    ),
]  # fmt: skip


def changed(x: np.ndarray) -> list[np.ndarray]:
    """``x`` with other sizes, ranks and element types."""
    others = [x.astype(t) for t in (np.float32, np.float64, np.int8, np.uint8, np.int32, bool)]
    for axis in range(x.ndim if x.size else 0):
        others += [np.concatenate([x, x], axis), x.take([0], axis)]
        others.append(x.take(range(x.shape[axis] - 1), axis))
    others += [np.resize(x, n) for n in (1, 2, 3, 6)]
    others += [np.resize(x, (1, 1, 1, 1)), x[None], x[..., None]]
    kinds = {(o.shape, o.dtype): o for o in others if o.size}
    kinds.pop((x.shape, x.dtype), None)
    return list(kinds.values())


#: How operands beside the first arrive: as constants, or fed, of sizes known by name alone.
WAYS = ("constant", "fed")


def model_of(call: Call, operands: tuple[np.ndarray, ...], way: str) -> ModelProto:
    """The model whose node is called "it"; the first operand is fed always."""
    names = [f"x{i}" for i in range(len(operands))]
    given = dict(zip(names, operands, strict=True))
    fed = names if way == "fed" else names[:1]
    inputs = [
        helper.make_tensor_value_info(
            n,
            helper.np_dtype_to_tensor_dtype(given[n].dtype),
            [f"{n}_{i}" for i in range(given[n].ndim)] if way == "fed" else given[n].shape,
        )
        for n in fed
    ]
    outputs = [f"y{i}" for i in range(call.outputs)]
    node = helper.make_node(call.op, names, outputs, "it", domain=call.domain, **call.attributes)
    graph = helper.make_graph(
        [node],
        "g",
        inputs,
        [helper.make_empty_tensor_value_info(y) for y in outputs],
        [numpy_helper.from_array(np.asarray(given[n]), n) for n in names if n not in fed],
    )
    opsets = [helper.make_opsetid("", call.opset)]
    if call.domain:
        opsets.append(helper.make_opsetid(call.domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def feeds_of(model: ModelProto, operands: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    return {i.name: operands[int(i.name[1:])] for i in model.graph.input}


def outcome(model: ModelProto, feeds: dict[str, np.ndarray], backend: Any) -> Any:
    """What a run gives, or the MinsegError that it or loading raises."""
    try:
        return minseg.load(model, backend=backend, threads=1).run(None, feeds)
    except MinsegError as error:
        return error


def onnxruntime_outcome(model: ModelProto, feeds: dict[str, np.ndarray]) -> Any:
    """What onnxruntime gives, or its exception."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return session.run(None, feeds)
    except Exception as error:
        return error


def are_close(results: list[np.ndarray], wanted: list[np.ndarray]) -> bool:
    """Of one dtype and shape; integers of a grid may be a step apart."""
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.allclose(a.astype(float), b.astype(float), 1e-4, 1 if a.dtype.kind in "iu" else 1e-4)
        for a, b in zip(results, wanted, strict=True)
    )


#: What onnxruntime says of an element type that the operator has at all, but not in this place.
#: minseg is not as strict where both backends compute the same.
OTHER_TYPE = "of input parameter"

#: Operators that give more than onnxruntime's kernels do: lists of numbers in any shape, a grid for
#: each row of a product, scale and zero point of which one is a list and the other is not.
WIDER = {"Slice", "Split", "Pad", "Expand", "TopK", "MatMulInteger", "QLinearConv",
         "QLinearMatMul", "QGemm"}  # fmt: skip

#: Operators of which minseg takes less than onnxruntime: a slope larger than the input, what
#: broadcasts to a list of channels, lists of scales in two axes or where one is needed, and a
#: picture smaller than the kernel.
STRICTER = {"PRelu", "GroupNormalization", "Resize", "QLinearConcat", "MaxPool", "AveragePool",
            "QLinearAveragePool"}  # fmt: skip


def fault(
    call: Call, at: int, x: np.ndarray, operands: tuple[np.ndarray, ...], way: str
) -> str | None:
    """What is wrong with what comes of ``operands``, of which ``x`` was the one at ``at``."""
    model = model_of(call, operands, way)
    feeds = feeds_of(model, operands)
    ours, reference = (outcome(model, feeds, backend) for backend in ("numba", "numpy"))
    wanted = onnxruntime_outcome(model, feeds)
    if x.ndim == 0 and operands[at].dtype == x.dtype and operands[at].size == 1:
        # A scalar as a vector of one: what the scalar gives.
        whole = (*operands[:at], x, *operands[at + 1 :])
        plain = model_of(call, whole, way)
        wanted = onnxruntime_outcome(plain, feeds_of(plain, whole))
    if isinstance(reference, MinsegError):
        if (
            type(ours) is not type(reference)
            or "'it'" not in f"{ours}"
            or "'it'" not in f"{reference}"
        ):
            return f"refused otherwise: {ours} | {reference}"
        taken = isinstance(wanted, list) and call.op not in STRICTER
        return f"refused: {reference}" if taken else None
    if isinstance(ours, MinsegError) or not are_close(ours, reference):
        return f"backends differ: {ours} | {reference}"
    if isinstance(wanted, list):
        return None if are_close(ours, wanted) else f"{ours}, but it is {wanted}"
    accepted = "NOT_IMPLEMENTED" in str(wanted) or OTHER_TYPE in str(wanted) or call.op in WIDER
    return (
        None if accepted and "bound to different types" not in str(wanted) else f"taken: {wanted}"
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_operands_that_fit(call: Call, way: str) -> None:
    operands = tuple(map(np.asarray, call.operands))
    model = model_of(call, operands, way)
    wanted = onnxruntime_outcome(model, feeds_of(model, operands))
    assert isinstance(wanted, list)
    for backend in ("numba", "numpy"):
        assert are_close(outcome(model, feeds_of(model, operands), backend), wanted)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_operands_that_may_not_fit(call: Call, way: str) -> None:
    operands = tuple(map(np.asarray, call.operands))
    faults = []
    for at, x in enumerate(operands):
        for other in changed(x):
            given = (*operands[:at], other, *operands[at + 1 :])
            said = fault(call, at, x, given, way)
            if said is not None:
                faults.append(f"operand {at} as {other.dtype} {other.shape}: {said}"[:400])
    assert not faults


def run_nodes(
    nodes: list[NodeProto], feeds: dict[str, np.ndarray], backend: Any, **constants: np.ndarray
) -> np.ndarray:
    """What minseg gives as "y" for a model of ``nodes``; the feeds' sizes are known by name."""
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(x.dtype), [f"{n}{i}" for i in range(x.ndim)]
            )
            for n, x in feeds.items()
        ],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(x, n) for n, x in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return minseg.load(model, backend=backend, threads=1).run(None, feeds)[0]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("W", [7, 10**6])
@pytest.mark.parametrize("after_conv", [False, True])
@pytest.mark.parametrize("fed", [False, True])
def test_a_slope_shorter_than_the_input_is_not_read_past(
    W: int, after_conv: bool, fed: bool, backend: Any
) -> None:
    x, slope, w = np.ones((1, 3, 5, W), np.float32), floats(3), floats(3, 3, 1, 1)
    nodes = [helper.make_node("PRelu", ["c" if after_conv else "x", "slope"], ["y"], "it")]
    if after_conv:
        nodes.insert(0, helper.make_node("Conv", ["x", "w"], ["c"]))
    feeds, constants = {"x": x}, {"w": w}
    (feeds if fed else constants)["slope"] = slope
    with pytest.raises(ModelError, match=rf"'it'.*slope.*\[3\].*\[1, 3, 5, {W}\]"):
        run_nodes(nodes, feeds, backend, **constants)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("fed", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_bounds_of_one_element_in_a_written_out_hard_swish(
    shape: tuple[int, ...], fed: bool, backend: Any
) -> None:
    x = np.linspace(-5, 5, 60, dtype=np.float32).reshape(1, 3, 4, 5)
    low, high = np.full(shape, 0, np.float32), np.full(shape, 6, np.float32)
    nodes = [
        helper.make_node("Add", ["x", "three"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["clipped"]),
        helper.make_node("Mul", ["x", "clipped"], ["product"]),
        helper.make_node("Div", ["product", "six"], ["y"]),
    ]
    feeds, constants = {"x": x}, {"three": np.float32([3]), "six": np.float32([6])}
    (feeds if fed else constants).update(low=low, high=high)
    y = run_nodes(nodes, feeds, backend, **constants)
    np.testing.assert_allclose(y, x * np.clip(x + 3, 0, 6) / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_parameters_of_every_element_of_an_old_normalisation(backend: Any) -> None:
    """With ``spatial`` 0 they have the shape of one input without its batch."""
    operands = {n: floats(3, 4, 5) for n in ("scale", "b", "mean", "var")}
    node = helper.make_node("BatchNormalization", ["x", *operands], ["y"], "it", spatial=0)
    x = floats(2, 3, 4, 5)
    types = [helper.make_tensor_value_info("x", 1, x.shape)]
    for parameters, fits in ((operands, True), (operands | {"mean": floats(3)}, False)):
        arrays = [numpy_helper.from_array(a, n) for n, a in parameters.items()]
        outputs = [helper.make_empty_tensor_value_info("y")]
        graph = helper.make_graph([node], "g", types, outputs, arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=8)
        if not fits:
            with pytest.raises(ModelError, match=r"'it'.*mean has shape \[3\]"):
                minseg.load(model, backend=backend)
            continue
        (y,) = minseg.load(model, backend=backend).run(None, {"x": x})
        root = np.sqrt(operands["var"] + 1e-5)
        expected = (x - operands["mean"]) / root * operands["scale"] + operands["b"]
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(("opset", "axis"), [(12, 5), (12, -5), (13, 4), (13, -5), (13, 7)])
def test_softmax_along_no_axis(opset: int, axis: int, backend: Any) -> None:
    call = Call("Softmax", (X,), opset, attributes={"axis": axis})
    with pytest.raises(ModelError, match=f"'it'.*axis {axis}"):
        minseg.load(model_of(call, call.operands, "fed"), backend=backend).run(None, {"x0": X})


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_layers_of_an_ir_are_asked_the_same(tmp_path: Path, backend: Any) -> None:
    ov = pytest.importorskip("openvino")
    x = ov.opset1.parameter([1, 3, 5, 7], np.float32, name="x")
    slope = ov.opset1.constant(floats(3))
    path = tmp_path / "model.xml"
    ov.save_model(ov.Model([ov.opset1.prelu(x, slope)], [x], "m"), path, compress_to_fp16=False)
    minseg.load(path, backend=backend)
    text = path.read_text()
    changed_text = text.replace("1,3,5,7", "1,4,5,7")
    assert changed_text != text
    path.write_text(changed_text)
    with pytest.raises(ModelError, match=r"PRelu.*slope"):
        minseg.load(path, backend=backend)
