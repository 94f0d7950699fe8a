"""Export of FakeQuantize: QuantizeLinear and DequantizeLinear, or arithmetic, of equal values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import built_model
from onnx import TensorProto, helper, numpy_helper
from parity import onnxruntime_run
from test_convert import FLOAT, assert_same, node, stored

from minseg.cli import main
from minseg.errors import ModelError
from minseg.graph.model import Graph, Node, TensorType, Value
from minseg.graph.onnx_reader import read_onnx
from minseg.graph.onnx_writer import write_onnx
from minseg.ops.support import load


def test_a_network_of_fakequantize_becomes_that_of_quantizelinear() -> None:
    """Both notations hold the same grids, so the exported one computes the same bits."""
    size = {"height": 192, "width": 192}
    pairs, fakes = (
        built_model("icnet-camvid-int8-onnx-0001", notation=n, **size)
        for n in ("qdq", "fakequantize")
    )
    model = stored(load(str(fakes)))
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert not kinds & {"FakeQuantize", "Round", "Clip"}
    noise = np.random.default_rng(0).uniform(0, 255, (1, 3, 192, 192)).astype(np.float32)
    feeds = {"input.1": noise}
    expected = onnxruntime_run(pairs, feeds)[0]
    assert_same(onnxruntime_run(model.SerializeToString(), feeds)[0], expected)


def fake(
    ends: list[Any], levels: int, opset: int, shape: tuple[int, ...] = (2, 3, 4, 4), **fields: Any
) -> Graph:
    """A graph of one FakeQuantize whose ranges are constants."""
    names = ("low", "high", "output_low", "output_high")
    constants = {n: np.asarray(e, np.float32) for n, e in zip(names, ends, strict=True)}
    made = node("FakeQuantize", "x", *names, domain="org.openvinotoolkit", opset=1, levels=levels)
    kind = TensorType(FLOAT, shape)
    return Graph(
        "g",
        (Value("x", kind),),
        (Value("y", kind),),
        (made,),
        constants,
        opsets={"": opset, "org.openvinotoolkit": 1},
        **fields,
    )


def by_definition(x: np.ndarray, ends: list[Any], levels: int) -> np.ndarray:
    """OpenVINO's specification of FakeQuantize-1, element by element in Python's floats."""
    arrays = np.broadcast_arrays(x.astype(float), *(np.asarray(e, np.float32) for e in ends))
    result = np.empty(arrays[0].shape)
    for i in np.ndindex(result.shape):
        v, low, high, output_low, output_high = (float(a[i]) for a in arrays)
        if v <= min(low, high):
            result[i] = output_low
        elif v > max(low, high):
            result[i] = output_high
        else:
            step = round((v - low) / (high - low) * (levels - 1))
            result[i] = step / (levels - 1) * (output_high - output_low) + output_low
    return result


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1)


S = 1 / 16
UNSIGNED = [0, 255 * S] * 2
SIGNED = [-128 * S, 127 * S] * 2
NARROW = [-127 * S, 127 * S] * 2
SHIFTED = [-28 * S, 227 * S] * 2
CHANNELS = [column(-128, -64, -32), column(127, 63.5, 31.75)] * 2
OTHER_OUTPUT = [-127, 127, column(-127, -12.7, -1.27), column(127, 12.7, 1.27)]
UNEVEN = [-0.37, 1.29, -0.37, 1.29]
ONE_SIDED = [1.0, 2.0, 1.0, 2.0]
BACKWARDS = [1.0, -1.0, 1.0, -1.0]
FLAT = [column(0, -1, -2), column(0, 1, 2)] * 2
PAIR, PAIR_WITH_CLIP = (
    ["QuantizeLinear", "DequantizeLinear"],
    ["QuantizeLinear", "Clip", "DequantizeLinear"],
)
ARITHMETIC = None


@pytest.mark.parametrize(
    ("ends", "levels", "opset", "form"),
    [
        (UNSIGNED, 256, 10, PAIR),
        (SIGNED, 256, 13, PAIR),
        (SHIFTED, 256, 11, PAIR),
        (CHANNELS, 256, 13, PAIR),
        (NARROW, 255, 13, PAIR_WITH_CLIP),
        ([0, 15 * S] * 2, 16, 21, PAIR_WITH_CLIP),
        ([-8 * S, 7 * S] * 2, 16, 13, PAIR_WITH_CLIP),
        (OTHER_OUTPUT, 255, 13, PAIR_WITH_CLIP),
        (NARROW, 255, 12, ARITHMETIC),
        (CHANNELS, 256, 12, ARITHMETIC),
        (CHANNELS, 256, 10, ARITHMETIC),
        (UNEVEN, 256, 13, ARITHMETIC),
        (UNEVEN, 256, 9, ARITHMETIC),
        (ONE_SIDED, 256, 13, ARITHMETIC),
        (BACKWARDS, 256, 13, ARITHMETIC),
        (FLAT, 256, 13, ARITHMETIC),
        ([0, 1, 0, 255], 257, 13, ARITHMETIC),
        ([0, 1, -1, 1], 256, 13, ARITHMETIC),
        ([-1, 1, -1, 1], 2, 13, ARITHMETIC),
    ],
)
def test_fakequantize(ends: list[Any], levels: int, opset: int, form: list[str] | None) -> None:
    model = stored(fake(ends, levels, opset))
    onnx.checker.check_model(model, full_check=True)
    ops = [n.op_type for n in model.graph.node]
    assert ops == form if form is not None else ops[-1] == "Where" and "QuantizeLinear" not in ops
    assert [o.domain for o in model.opset_import] == [""]
    x = samples(ends, levels)
    (result,) = onnxruntime_run(model.SerializeToString(), {"x": x})
    expected = by_definition(x, ends, levels)
    assert (result.dtype, result.shape) == (FLOAT, x.shape)
    scale = max(np.abs(np.asarray(e)).max() for e in ends[2:])
    np.testing.assert_allclose(result, expected, rtol=0, atol=scale * 2.0**-21)


def samples(ends: list[Any], levels: int) -> np.ndarray:
    """Inputs on both sides of the range and inside of it, quarters of a step off the middles
    between two steps; both ends; the middles too where floats are exact and the first step is an
    even one: FakeQuantize counts from there, QuantizeLinear from 0.
    """
    low, high = (np.broadcast_to(np.asarray(e, np.float32), (3, 1, 1)) for e in ends[:2])
    random = np.random.default_rng(0)
    steps = random.integers(-9, levels + 9, (2, 3, 4, 4)).astype(float)
    steps += random.choice([-0.25, 0, 0.25], steps.shape)
    scale = (high - low).astype(float) / (levels - 1)
    if (np.frexp(scale)[0] == 0.5).all() and (low / scale % 2 == 0).all():
        steps[1] = random.integers(0, levels - 1, (3, 4, 4)) + 0.5
    x = low + scale * steps
    x[0, :, 0, 0], x[0, :, 0, 1] = low[:, 0, 0], high[:, 0, 0]
    return x.astype(np.float32)


def test_fakequantize_before_opset_9_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'n'.*FakeQuantize.*opset 9 on, not in 8"):
        write_onnx(fake(UNEVEN, 256, 8))


def test_weights_inside_their_range_need_no_clip() -> None:
    weights = np.float32(S) * np.arange(-127, 128, 2, dtype=np.float32).reshape(64, 2)
    graph = fake(NARROW, 255, 13, weights.shape)
    graph = replace(graph, inputs=(), constants={**graph.constants, "x": weights})
    model = stored(graph)
    assert [n.op_type for n in model.graph.node] == PAIR
    assert_same(onnxruntime_run(model.SerializeToString(), {})[0], weights)


def test_ranges_that_are_computed_are_written_as_arithmetic() -> None:
    graph = fake([0, 255, 0, 255], 256, 13)
    (made,) = graph.nodes
    moving = Node("twice", "Add", ("high", "high"), ("computed",), opset=13)
    made = replace(made, inputs=("x", "low", "computed", "low", "computed"))
    model = stored(replace(graph, nodes=(moving, made)))
    x = samples([0, 510], 256)
    (result,) = onnxruntime_run(model.SerializeToString(), {"x": x})
    np.testing.assert_allclose(
        result, by_definition(x, [0, 510, 0, 510], 256), rtol=0, atol=510 * 2.0**-21
    )


def test_names_that_are_taken_and_constants_that_others_read_survive() -> None:
    graph = fake(UNSIGNED, 256, 13)
    taken = {"n/scale": np.zeros(1, np.float32)}
    other = Node("n/QuantizeLinear", "Identity", ("high",), ("z",), opset=13)
    graph = replace(
        graph,
        nodes=(*graph.nodes, other),
        outputs=(*graph.outputs, Value("z", TensorType(FLOAT, ()))),
        constants={**graph.constants, **taken},
    )
    back = read_onnx(stored(graph))
    assert {"high", "n/scale"} <= back.constants.keys()
    assert not {"low", "output_low", "output_high"} & back.constants.keys()
    assert_same(back.constants["n/scale"], taken["n/scale"])


def test_fakequantize_in_a_branch() -> None:
    inner = fake(UNSIGNED, 256, 13)
    branch = replace(
        inner, inputs=(), opsets={}, name="then", outputs=(Value("inner", TensorType(None)),)
    )
    branch = replace(branch, nodes=(replace(branch.nodes[0], name="quantize", outputs=("inner",)),))
    otherwise = Graph(
        "else",
        (),
        (Value("same", TensorType(None)),),
        (Node("i", "Identity", ("x",), ("same",), opset=13),),
    )
    choose = Node(
        "if", "If", ("yes",), ("y",), {"then_branch": branch, "else_branch": otherwise}, opset=13
    )
    yes = Value("yes", TensorType(np.dtype(bool), ()))
    graph = replace(inner, nodes=(choose,), inputs=(*inner.inputs, yes), constants={})
    model = stored(graph)
    x = samples(UNSIGNED, 256)
    for flag in (True, False):
        (result,) = onnxruntime_run(model.SerializeToString(), {"x": x, "yes": np.array(flag)})
        expected = by_definition(x, UNSIGNED, 256).astype(np.float32) if flag else x
        np.testing.assert_array_equal(result, expected)


def test_convert_says_what_became_of_fakequantize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    even, uneven = fake(UNSIGNED, 256, 13), fake(UNEVEN, 256, 13)
    names = {n: f"other_{n}" for n in uneven.constants}
    second = replace(uneven.nodes[0], name="m", inputs=("y", *names.values()), outputs=("z",))
    graph = replace(
        even,
        nodes=(*even.nodes, second),
        outputs=(Value("z", even.outputs[0].type),),
        constants={**even.constants, **{names[n]: a for n, a in uneven.constants.items()}},
    )
    onnx.save(as_read(graph), "in.onnx")
    assert main(["convert", "in.onnx", "out.onnx"]) == 0
    out = capsys.readouterr().out
    assert "2 FakeQuantize: 1 as QuantizeLinear and DequantizeLinear, 1 as arithmetic" in out
    assert main(["convert", "out.onnx", "again.onnx"]) == 0
    assert "FakeQuantize" not in capsys.readouterr().out


def as_read(graph: Graph) -> onnx.ModelProto:
    """A model with FakeQuantize nodes, made by hand, since `write_onnx` replaces them."""
    nodes = [
        helper.make_node(n.op, n.inputs, n.outputs, n.name, domain=n.domain, **n.attributes)
        for n in graph.nodes
    ]
    values = [
        [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.type.shape) for v in vs]
        for vs in (graph.inputs, graph.outputs)
    ]
    weights = [numpy_helper.from_array(a, n) for n, a in graph.constants.items()]
    imports = [helper.make_opsetid(d, v) for d, v in graph.opsets.items()]
    proto = helper.make_graph(nodes, "g", *values, weights)
    return helper.make_model(proto, opset_imports=imports, ir_version=8)
