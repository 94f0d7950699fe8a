"""``minseg bench``: its figures fit together, and mistakes are one sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from labelled import save_colour_model
from onnx import TensorProto, helper

import minseg
from minseg.cli import bench, main
from minseg.measure import peers
from minseg.measure.peers import Compute, Engine, Model


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = save_colour_model(tmp_path_factory.mktemp("models") / "colour.onnx")
    return path


def run(model: object, *arguments: object) -> int:
    return main(["bench", str(model), *map(str, arguments)])


def stand_in(monkeypatch: pytest.MonkeyPatch, turn: int = 0) -> None:
    """In openvino's place: the numpy backend, its classes turned, which writes to file number 1."""

    def load(model: Model, threads: int) -> Compute:
        os.write(1, b"a greeting")
        session = minseg.load(model.path, backend="numpy")

        def compute(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            return [np.roll(y, turn, axis=1) for y in session.run(names, feeds)]

        return compute

    monkeypatch.setitem(peers.ENGINES, "openvino", Engine("openvino", "numpy", "numpy", load))


def test_figures_fit_together(
    colour_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    assert run(colour_model, "--vs", "openvino", "--threads", "1,2", "-n", 3, "--json") == 0
    told = json.loads(capfd.readouterr().out)
    assert told["versions"] == {"minseg": minseg.__version__, "openvino": np.__version__}
    assert [result["threads"] for result in told["results"]] == [1, 2]
    for result in told["results"]:
        assert result["excluded"] == {}
        assert list(result["engines"]) == ["minseg", "openvino"]
        for figures in result["engines"].values():
            assert len(figures["seconds"]) == 3
            assert figures["min"] == min(figures["seconds"]) > 0
            assert figures["p50"] == np.median(figures["seconds"])
            assert figures["min"] <= figures["p50"] <= figures["p90"] <= figures["p99"]
            assert figures["agreement"] == 1.0


def test_the_table_has_a_row_for_each_engine(
    colour_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    assert run(colour_model, "--vs", "openvino", "--threads", 1, "-n", 2) == 0
    lines = capfd.readouterr().out.splitlines()
    assert "a greeting" not in "".join(lines)
    assert f"minseg {minseg.__version__}, openvino {np.__version__}" in lines
    assert "1 thread, 2 runs each, in turns; batch 1" in lines
    assert [line.split()[0] for line in lines[-2:]] == ["minseg", "openvino"]
    assert lines[-1].endswith(" x as fast")


def test_nothing_is_timed_where_labels_differ(
    colour_model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, turn=1)
    assert run(colour_model, "--vs", "openvino", "--threads", 1, "-n", 1) == 2
    output = capfd.readouterr()
    assert "0 runs each" in output.out
    assert "  not timed: openvino labels " in output.out
    assert "colour.onnx was not timed: minseg labels " in output.err


def test_an_engine_that_is_not_installed(
    colour_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert run(colour_model, "--vs", "ncnn") == 2
    message = "minseg: error: ncnn is not installed: pip install ncnn pnnx\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--vs", "abacus"), "'abacus' is none of onnxruntime, openvino, ncnn, mnn"),
        (("--threads", "1,0"), "'0' is not a whole number above zero"),
        (("--threads", "two"), "'two' is not a whole number above zero"),
        (("-n", "0"), "'0' is not a whole number above zero"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: Sequence[str],
    message: str,
    colour_model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(colour_model, *arguments) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1


def test_a_model_that_takes_no_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in "aby"
    ]
    node = helper.make_node("Add", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "sum", values[:2], values[2:])
    onnx.save(helper.make_model(graph, ir_version=8), tmp_path / "sum.onnx")
    assert run(tmp_path / "sum.onnx") == 2
    assert "this one has 'a', 'b'" in capsys.readouterr().err


def test_the_command_knows_every_peer() -> None:
    assert tuple(peers.PEERS) == bench.PEERS
