"""Models with branches, and with outputs that no node makes: run, converted, pruned, quantised.

onnxruntime runs every model and every file written of it, and onnx's checker goes over the files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser
from parity import onnxruntime_run
from PIL import Image

import minseg
from minseg.cli import main
from minseg.errors import InputError
from minseg.graph.onnx_writer import write_onnx
from minseg.graph.prune import prune
from minseg.ops.support import load
from minseg.quantization.quantise import quantise
from minseg.quantization.report import layers

X, Y = "float[1, 3, 6, 7]", "float[1, 4, 6, 7]"
CONV = "t = Conv<pads = [1, 1, 1, 1]>(x, w, b)"


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "k": (1, 4, 1, 1), "v": (4, 8, 1, 1)}
    return {n: random.normal(size=s).astype(np.float32) for n, s in shapes.items()}


def model_of(text: str, opset: int = 17) -> ModelProto:
    """The model, with those of `weights` that it names as initializers."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{text}')
    read = _names_read(model.graph)
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in weights().items() if name in read
    )
    return model


def _names_read(graph: onnx.GraphProto) -> set[str]:
    names = {v.name for v in graph.output}
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            names |= _names_read(attribute.g)
    return names


def choice(then: str, other: str, before: str = CONV, result: str = f"{Y} y") -> ModelProto:
    """A convolution, then an If, each branch of which makes ``p``."""
    return model_of(
        f"""agraph ({X} x, bool c) => ({result}) {{
            {before}
            y = If(c) <
                then_branch = yes () => ({Y} p) {{ {then} }},
                else_branch = no () => ({Y} p) {{ {other} }}
            >
        }}"""
    )


def nested(then: str, other: str, condition: str = "c") -> str:
    """An If inside of a branch, each branch of which makes ``q``."""
    return f"""p = If({condition}) <
        then_branch = inner_yes () => ({Y} q) {{ {then} }},
        else_branch = inner_no () => ({Y} q) {{ {other} }}
    >"""


DEEP = f"{CONV} r = Relu(t) u = Sigmoid(t)"
MODELS = {
    "a branch reads an initializer": choice("p = Mul(t, k)", "p = Add(t, k)"),
    "a branch convolves with the same weights": choice(
        "p = Conv<pads = [1, 1, 1, 1]>(x, w, b)", "p = Add(t, k)"
    ),
    "a convolution only in a branch": choice(
        "p = Conv<pads = [1, 1, 1, 1]>(x, w, b)", "p = Conv<pads = [1, 1, 1, 1]>(x, w)", before=""
    ),
    "a branch reads what is joined": choice(
        "p = Sigmoid(s)",
        "p = Neg(t)",
        f"{CONV} s = Add(t, t) j = Concat<axis = 1>(t, s) z = Conv(j, v)",
        f"{Y} y, {Y} z",
    ),
    "a branch reads what is clamped": choice(
        "p = Sigmoid(s)", "p = Neg(s)", f"{CONV} s = Add(t, t) r = Relu(s)", f"{Y} y, {Y} r"
    ),
    "branches inside of branches": choice(
        nested("q = Mul(r, k)", "q = Neg(u)"), nested("q = Mul(r, k)", "q = Sub(u, k)"), DEEP
    ),
    "a condition made inside": choice(
        "d = Not(c) " + nested("q = Relu(t)", "q = Neg(t)", "d"), "p = Add(t, t)"
    ),
    "a branch with one constant": model_of(
        f"""agraph ({X} x, bool c) => ({Y} y) {{
            {CONV}
            f = If(c) <
                then_branch = yes () => (float[1] p) {{
                    p = Constant<value = float[1] {{2.0}}>()
                }},
                else_branch = no () => (float[1, 4, 1, 1] q) {{ q = Neg(k) }}
            >
            y = Mul(t, f)
        }}"""
    ),
    "a branch reads the condition": model_of(
        f"""agraph ({X} x, bool c) => ({Y} y, bool z) {{
            {CONV}
            y, z = If(c) <
                then_branch = yes () => ({Y} p, bool q) {{ p = Relu(t) q = Not(c) }},
                else_branch = no () => ({Y} p, bool q) {{ p = Neg(t) q = Identity(c) }}
            >
        }}"""
    ),
    "outputs that no node makes": model_of(
        f"""agraph ({X} x, bool c) => ({Y} t, float[2] l, float[1, 4, 1, 1] k, {X} x, bool c) {{
            {CONV}
            l = Constant<value = float[2] {{1.0, 2.0}}>()
        }}"""
    ),
    "the weights as an output": model_of(
        f"agraph ({X} x) => ({Y} t, float[4, 3, 3, 3] w) {{ {CONV} }}"
    ),
    "an output named twice": model_of(f"agraph ({X} x) => ({Y} t, {X} x, {Y} t) {{ {CONV} }}"),
    "before opset 13": model_of(
        f"""agraph ({X} x, bool c) => ({Y} y, {Y} t, {Y} t) {{
            {CONV}
            y = If(c) <
                then_branch = yes () => ({Y} p) {{ p = Softmax<axis = 1>(t) }},
                else_branch = no () => ({Y} p) {{ p = Mul(t, k) }}
            >
        }}""",
        opset=11,
    ),
    "weights as inputs": model_of(
        f"""agraph ({X} x, bool c, float[4, 3, 3, 3] w, float[4] b, float[1, 4, 1, 1] k)
            => ({Y} y) {{
            {CONV}
            y = If(c) <
                then_branch = yes () => ({Y} p) {{ p = Mul(t, k) }},
                else_branch = no () => ({Y} p) {{ p = Add(t, k) }}
            >
        }}"""
    ),
    "a decided branch": model_of(
        f"""agraph ({X} x) => ({Y} y, {X} z) {{
            c = Constant<value = bool {{1}}>()
            {CONV}
            y, z = If(c) <
                then_branch = yes () => ({Y} p, {X} s) {{
                    i = Mul(t, k)
                    {nested("q = Mul(i, k)", "q = Neg(i)")}
                    s = Identity(x)
                }},
                else_branch = no () => ({Y} p, {X} s) {{ p = Add(t, k) s = Neg(x) }}
            >
        }}""",
        opset=13,
    ),
}  # fmt: skip


def feeds_of(model: ModelProto, flag: bool) -> dict[str, np.ndarray]:
    x = np.random.default_rng(5).normal(size=(1, 3, 6, 7)).astype(np.float32)
    named = {v.name for v in model.graph.input}
    return {n: a for n, a in {"x": x, "c": np.array(flag)}.items() if n in named}


def run_checked(
    model: ModelProto, feeds: dict[str, np.ndarray], *, infer: bool = True
) -> list[np.ndarray]:
    """What onnxruntime makes of a model that onnx finds nothing wrong with."""
    onnx.checker.check_model(model, full_check=infer)
    return onnxruntime_run(model.SerializeToString(), feeds)


def assert_close(actual: list[np.ndarray], expected: list[np.ndarray], share: float) -> None:
    """Equal up to a share of the largest number."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        atol = share * np.abs(other.astype(np.float64)).max()
        np.testing.assert_allclose(one.astype(np.float64), other, rtol=0, atol=atol)


each_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
each_flag = pytest.mark.parametrize("flag", [True, False])


@each_flag
@each_model
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_session_gives_what_onnxruntime_gives(
    model: ModelProto, flag: bool, backend: Literal["numpy", "numba"]
) -> None:
    feeds = feeds_of(model, flag)
    session = minseg.InferenceSession(model.SerializeToString(), backend=backend)
    assert_close(session.run(None, feeds), run_checked(model, feeds), 1e-5)


@each_flag
@each_model
def test_a_converted_model_is_valid_and_the_same(model: ModelProto, flag: bool) -> None:
    feeds = feeds_of(model, flag)
    assert_close(run_checked(write_onnx(load(model)), feeds), run_checked(model, feeds), 1e-5)


@each_flag
@each_model
@pytest.mark.parametrize("sparse", [False, True])
def test_a_pruned_model_is_valid(model: ModelProto, flag: bool, sparse: bool) -> None:
    """Half of the weights are zero, here by hand."""
    pruned, report = prune(load(model), 0.5)
    names = [kernel.name for kernel in report]
    assert "w" in names
    by_hand = ModelProto()
    by_hand.CopyFrom(model)
    for tensor in by_hand.graph.initializer:
        if tensor.name in names:
            array = numpy_helper.to_array(tensor).copy()
            array[np.abs(array) < np.median(np.abs(array))] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    feeds = feeds_of(model, flag)
    written = write_onnx(pruned, names if sparse else ())
    # onnx's shape inference gives sparse initializers no shape that a Conv can read.
    actual = run_checked(written, feeds, infer=not sparse)
    assert_close(actual, run_checked(by_hand, feeds), 1e-5)


@each_model
def test_a_quantised_model_is_valid_and_close(
    model: ModelProto, request: pytest.FixtureRequest
) -> None:
    pictures = [feeds_of(model, flag) for flag in (True, False)]
    if "only in a branch" in request.node.name:
        with pytest.raises(InputError, match="inside branches"):
            quantise(load(model), pictures)
        return
    quantised = quantise(load(model), pictures, method="minmax", per_channel=True)
    written = write_onnx(quantised.result.graph)
    assert any(node.op_type == "QuantizeLinear" for node in written.graph.node)
    for feeds in pictures:
        for one, other in zip(run_checked(written, feeds), run_checked(model, feeds), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)
            error = np.linalg.norm(one.astype(np.float64) - other.astype(np.float64))
            assert error <= 0.03 * np.linalg.norm(other.astype(np.float64))
    reported = [layer.value for layer in layers(quantised, pictures, None)]
    assert reported[0] == "x" and len(set(reported)) == len(reported)


def test_what_is_made_has_names_that_no_branch_has() -> None:
    model = choice("a = Relu(t) p = Neg(a)", "p = Neg(t)")
    then = model.graph.node[-1].attribute[0].g
    then.node[0].output[0] = then.node[1].input[0] = "w/quantized"
    feeds = feeds_of(model, True)
    written = write_onnx(quantise(load(model), [feeds]).result.graph)
    assert_close(run_checked(written, feeds), run_checked(model, feeds), 0.05)


OWN_OUTPUTS = {
    "twice": (f"({Y} p, {Y} p) {{ p = Relu(t) }}", lambda t: (np.maximum(t, 0),) * 2),
    "a value around it": (f"({Y} t, {Y} p) {{ p = Neg(t) }}", lambda t: (t, -t)),
    "both": (f"({Y} t, {Y} t) {{ }}", lambda t: (t, t)),
}


@pytest.mark.parametrize("case", OWN_OUTPUTS)
def test_outputs_of_branches_that_engines_refuse_or_get_wrong(case: str) -> None:
    """onnxruntime refuses values around a branch as its outputs, and leaves the second of two
    outputs of one name unwritten; minseg takes both, and writes them otherwise."""
    then, expected = OWN_OUTPUTS[case]
    model = model_of(
        f"""agraph ({X} x, bool c) => ({Y} y, {Y} z, {Y} t) {{
            {CONV}
            y, z = If(c) <
                then_branch = yes () => {then},
                else_branch = no () => ({Y} p, {Y} q) {{ p = Abs(t) q = Exp(t) }}
            >
        }}"""
    )
    feeds = feeds_of(model, True)
    written = write_onnx(load(model))
    onnx.checker.check_model(written, full_check=True)
    runs: list[Callable[[], list[np.ndarray]]] = [
        lambda: minseg.load(model, backend="numpy").run(None, feeds),
        lambda: minseg.load(model, backend="numba").run(None, feeds),
        lambda: onnxruntime_run(written.SerializeToString(), feeds),
    ]
    for run in runs:
        *results, t = run()
        assert_close(results, list(expected(t)), 1e-6)


COMMANDS = {
    "convert": ["convert", "model.onnx", "out.onnx"],
    "prune": ["prune", "model.onnx", "--sparsity", "0.5", "-o", "out.onnx"],
    "quantize": ["quantize", "model.onnx", "--calibration", "picture.png", "-o", "out.onnx"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_commands_write_models_that_engines_run(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture decides which branch is taken; one output has two names, one is a constant."""
    monkeypatch.chdir(tmp_path)
    model = model_of(
        f"""agraph ({X} x) => ({Y} y, {Y} y, float[4] b) {{
            y = If(c) <
                then_branch = yes () => ({Y} p) {{ {nested("q = Mul(t, k)", "q = Neg(t)")} }},
                else_branch = no () => ({Y} p) {{ p = Add(t, k) }}
            >
            c = Greater(m, zero)
            m = ReduceMax<keepdims = 0>(t)
            zero = Constant<value = float {{0.0}}>()
            {CONV}
        }}"""
    )
    onnx.save(model, "model.onnx")
    Image.fromarray(np.zeros((6, 7, 3), np.uint8)).save("picture.png")
    assert main(command) == 0
    written = onnx.load("out.onnx")
    feeds = feeds_of(model, True)
    y, again, b = run_checked(written, feeds)
    np.testing.assert_array_equal(y, again)
    assert y.shape == (1, 4, 6, 7)
    np.testing.assert_array_equal(b, weights()["b"])
    for backend in ("numpy", "numba"):
        assert_close(minseg.load("out.onnx", backend=backend).run(None, feeds), [y, y, b], 1e-5)
    assert main(["info", "model.onnx"]) == 0
    assert main(["run", "model.onnx", "picture.png"]) == 0
