"""``minseg prune``: which weights become zero, what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from labelled import as_scenes, save_colour_model, some_scenes
from onnx import TensorProto, helper, numpy_helper
from parity import onnxruntime_run

from minseg.cli import main
from minseg.errors import InputError
from minseg.graph.model import Graph
from minseg.graph.onnx_reader import read_onnx
from minseg.graph.onnx_writer import write_onnx
from minseg.graph.prune import prune, smallest_zeroed
from minseg.ops.support import load

SHAPES = {"first": (8, 3, 3, 3), "second": (6, 8, 1, 1), "third": (4, 6, 1, 1)}


def three_layers() -> onnx.ModelProto:
    """Three convolutions; the second has small weights, and an Identity in front of them."""
    rng = np.random.default_rng(0)
    scale = {"first": 1.0, "second": 0.01, "third": 1.0}
    weights = {n: (scale[n] * rng.standard_normal(s)).astype("f4") for n, s in SHAPES.items()}
    names = ["x", "first", "second", "third"]
    nodes = [helper.make_node("Identity", ["second"], ["same"])]
    for i, name in enumerate(SHAPES):
        inputs = [names[i] if i == 0 else f"y{i}", "same" if name == "second" else name]
        inputs += ["bias"] if name == "third" else []
        pads = [SHAPES[name][2] // 2] * 4
        nodes.append(
            helper.make_node("Conv", inputs, [f"y{i + 1}"], name=f"conv/{name}", pads=pads)
        )
    graph = helper.make_graph(
        nodes,
        "three",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 7, 9])],
        [helper.make_tensor_value_info("y3", TensorProto.FLOAT, None)],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.full(4, 1e-6, "f4"), "bias"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def graph() -> Graph:
    return load(three_layers())


def assert_smallest_are_zero(old: np.ndarray, new: np.ndarray, zeros: int) -> None:
    """Weights without ties: exactly the ``zeros`` smallest are gone, the others as they were."""
    kept = new != 0
    assert kept.size - np.count_nonzero(kept) == zeros
    np.testing.assert_array_equal(new[kept], old[kept])
    if zeros:
        assert np.abs(old[~kept]).max() < np.abs(old[kept]).min()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.6, 0.95])
def test_each_layer_loses_its_smallest_weights(graph: Graph, share: float) -> None:
    pruned, report = prune(graph, share)
    for name, shape in SHAPES.items():
        size = int(np.prod(shape))
        assert_smallest_are_zero(graph.constants[name], pruned.constants[name], round(share * size))
    np.testing.assert_array_equal(pruned.constants["bias"], graph.constants["bias"])
    assert [kernel.name for kernel in report] == list(SHAPES)
    assert report[1].nodes == ("conv/second",)


def test_all_layers_together_lose_the_smallest_of_all(graph: Graph) -> None:
    pruned, report = prune(graph, 0.3, "global")
    old, new = (np.concatenate([g.constants[n].ravel() for n in SHAPES]) for g in (graph, pruned))
    assert_smallest_are_zero(old, new, round(0.3 * old.size))
    by_name = {kernel.name: kernel for kernel in report}
    assert by_name["second"].after > 0.9 > by_name["first"].after
    assert by_name["second"].lost > 0.9 > by_name["first"].lost


@pytest.mark.parametrize("pattern", ["second", "conv/second", "*sec*"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_what_is_excluded_stays(graph: Graph, pattern: str, scope: str) -> None:
    pruned, report = prune(graph, 0.5, scope, [pattern])
    np.testing.assert_array_equal(pruned.constants["second"], graph.constants["second"])
    assert [kernel.excluded for kernel in report] == [False, True, False]
    zeros = sum(int((pruned.constants[n] == 0).sum()) for n in ("first", "third"))
    assert zeros == round(0.5 * (8 * 27 + 4 * 6))


def test_what_is_refused(graph: Graph) -> None:
    with pytest.raises(InputError, match=r"at least 0 and less than 1, not 1\.0"):
        prune(graph, 1.0)
    with pytest.raises(InputError, match=r"no weights and no node .* called 'fourth'"):
        prune(graph, 0.5, exclude=["fourth"])
    with pytest.raises(InputError, match="no 32-bit float weights"):
        prune(graph, 0.5, exclude=["*"])


def test_zeros_that_are_there_already_count() -> None:
    weights = np.array([0, 3, 0, -1, 2, 0.5], np.float32)
    np.testing.assert_array_equal(smallest_zeroed(weights, 0.5), [0, 3, 0, -1, 2, 0])
    np.testing.assert_array_equal(smallest_zeroed(weights, 0.0), weights)


def test_sparse_initializers_hold_the_same_weights(graph: Graph) -> None:
    pruned, _ = prune(graph, 0.8)
    dense, sparse = write_onnx(pruned), write_onnx(pruned, list(SHAPES))
    onnx.checker.check_model(sparse)
    assert [t.name for t in sparse.graph.initializer] == ["bias"]
    assert [t.values.name for t in sparse.graph.sparse_initializer] == list(SHAPES)
    again = read_onnx(sparse.SerializeToString())
    for name, array in pruned.constants.items():
        np.testing.assert_array_equal(again.constants[name], array)
    assert sparse.ByteSize() < dense.ByteSize()


@pytest.mark.parametrize("stored", [(), ("--sparse-initializers",)])
def test_the_command_writes_a_model_that_others_run(
    stored: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(three_layers(), source)
    arguments = ["prune", str(source), "--sparsity", "0.5", "-o", str(target), *stored]
    assert main([*arguments, "--exclude", "first"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "excluded" in rows["first"] and "50.0 %" in rows["second"]
    model = onnx.load(target)
    assert len(model.graph.sparse_initializer) == (2 if stored else 0)
    pruned, _ = prune(load(three_layers()), 0.5, exclude=["first"])
    x = np.random.default_rng(1).standard_normal((1, 3, 7, 9)).astype(np.float32)
    (theirs,) = onnxruntime_run(target, {"x": x})
    (expected,) = onnxruntime_run(write_onnx(pruned).SerializeToString(), {"x": x})
    np.testing.assert_allclose(theirs, expected, rtol=1e-6, atol=1e-6)


def test_accuracy_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that loses nothing labels as before; one that loses nearly all labels worse."""
    model, out = save_colour_model(tmp_path / "colour.onnx"), str(tmp_path / "out.onnx")
    as_scenes(tmp_path / "street", some_scenes())
    labels = ["--labels", str(tmp_path / "street"), "--limit", "2"]
    told = {}
    for share in ("0", "0.9"):
        assert main(["prune", str(model), "--sparsity", share, "-o", out, *labels]) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith("mIoU ") and "on 2 pictures of" in line
        told[share] = [float(word) for word in line.split() if word.replace(".", "").isdigit()][:2]
    assert told["0"][0] == told["0"][1] == told["0.9"][0] > told["0.9"][1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sparsity", "1", "-o", "o.onnx"], "'1' is not a number from 0 to below 1"),
        (["--sparsity", "nan", "-o", "o.onnx"], "'nan' is not a number from 0 to below 1"),
        (["--sparsity", "0.5", "-o", "o.pb"], "'o.pb' does not end with .onnx"),
        (["--sparsity", "0.5", "-o", "o.onnx", "--limit", "3"], "--labels, which is missing"),
        (["--sparsity", "0.5", "-o", "o.onnx", "--exclude", "nix"], "is called 'nix'"),
        (["--sparsity", "0.5", "-o", "o.onnx", "--labels", "nowhere"], "nowhere"),
    ],
)
def test_the_command_refuses(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onnx.save(three_layers(), "in.onnx")
    try:
        code = main(["prune", "in.onnx", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert complaint in error and "Traceback" not in error
    assert not list(tmp_path.glob("o.*"))
