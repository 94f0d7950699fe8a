"""The command ``minseg quantize``, on the trained network and pictures of CamVid."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from labelled import as_lists, save_colour_model, some_scenes
from parity import agreement, onnxruntime_run, openvino_run, with_all_values

import minseg
from minseg.cli import main
from minseg.images.recipe import CARD_KEY, RECIPE_KEY
from minseg.ops.evaluate import run_node
from minseg.ops.support import load


@pytest.fixture
def photos(camvid_images: list[Path], tmp_path: Path) -> Path:
    """Six pictures to calibrate on."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in camvid_images[::40][:6]:
        shutil.copy(path, folder)
    return folder


def quantise(*arguments: object) -> int:
    return main(["quantize", *map(str, arguments)])


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "entropy"])
def test_other_engines(
    method: str, photos: Path, camvid_images: list[Path], tmp_path: Path
) -> None:
    """Every node gives onnxruntime's integers for onnxruntime's inputs. From end to end, one
    integer of millions that is rounded the other way moves some labels, in onnxruntime with and
    without its optimisations too; openvino rounds sums later (see the folder's README).
    """
    out = tmp_path / "out.onnx"
    assert quantise("camvid-small", "-o", out, "--calibration", photos, "--method", method) == 0
    ours, floats = minseg.load(str(out)), minseg.load("camvid-small")
    feeds = {"image": ours.recipe.apply(camvid_images[20])}
    assert integers_apart(out, feeds) <= 1e-4
    shares = []
    for path in camvid_images[20::60]:
        feeds = {"image": ours.recipe.apply(path)}
        got, was = ours.run(None, feeds)[0], floats.run(None, feeds)[0]
        others = onnxruntime_run(out, feeds)[0], openvino_run(out, feeds)[0], was
        shares.append([agreement(got, other) for other in others])
    onnxruntime, openvino, exact = np.mean(shares, axis=0)
    assert onnxruntime >= 0.997
    assert openvino >= 0.99
    assert exact >= 0.98


def integers_apart(path: Path, feeds: dict[str, np.ndarray]) -> float:
    """The share of all integers that differ, each quantiser with what is before it run alone."""
    model, names = with_all_values(path)
    values = dict(zip(names, onnxruntime_run(model, feeds, names), strict=True))
    graph = load(path)
    values.update({**graph.constants, **feeds})
    makers = {o: n for n in graph.nodes for o in n.outputs}
    differing, total = 0, 0
    for node in graph.nodes:
        if node.op == "QuantizeLinear" and node.inputs[0] in makers:
            before = makers[node.inputs[0]]
            (x,) = run_node(before, [values[n] if n else None for n in before.inputs], {})
            (got,) = run_node(node, [x, *(values[n] for n in node.inputs[1:])], {})
            differing += np.count_nonzero(got != values[node.outputs[0]])
            total += got.size
    assert total
    return differing / total


def test_per_channel_weights_keep_more_of_the_signal(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = []
    for flags in ((), ("--per-channel",)):
        out = tmp_path / f"out{len(flags)}.onnx"
        arguments = ("camvid-small", "-o", out, "--calibration", photos, "--json", *flags)
        assert quantise(*arguments) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["pictures"] == 6
        assert facts["files"] == [str(out)]
        weights = [row["weights_db"] for row in facts["layers"] if row["weights_db"] is not None]
        last.append((np.mean(weights), facts["layers"][-1]["network_db"]))
    assert last[1] > last[0]
    model = onnx.load(out)
    scales = {t.name: t.dims for t in model.graph.initializer}
    lists = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and scales[n.input[1]]]
    assert {a.i for n in lists for a in n.attribute} == {0}
    onnxruntime_run(out, {"image": np.zeros((1, 3, 360, 480), np.float32)})


def test_the_report_and_what_is_kept(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metadata, inputs and outputs; with flags, the recipe that they changed."""
    out = tmp_path / "out.onnx"
    flags = ("--channels", "bgr", "--mean", "1,2,3", "--limit", "2")
    assert quantise("camvid-small", "-o", out, "--calibration", photos, *flags) == 0
    text = capsys.readouterr().out
    assert "2 calibration pictures" in text
    assert "signal to quantisation noise, dB" in text
    assert f"saved {out}" in text
    before, after = minseg.load("camvid-small"), minseg.load(str(out))
    assert after.get_inputs() == before.get_inputs()
    assert after.get_outputs() == before.get_outputs()
    assert after.graph.metadata[CARD_KEY] == "camvid-small"
    assert json.loads(after.graph.metadata[RECIPE_KEY]) == {"channels": "bgr", "mean": [1, 2, 3]}
    assert (after.recipe.channels, after.recipe.mean) == ("bgr", (1, 2, 3))
    assert out.stat().st_size < 1_200_000


def test_accuracy_before_and_after(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On generated streets, by a network of one convolution."""
    as_lists(tmp_path / "data", some_scenes())
    model, out = save_colour_model(tmp_path / "model.onnx"), tmp_path / "out.onnx"
    data = tmp_path / "data"
    arguments = (model, "-o", out, "--calibration", data / "test", "--labels", data)
    assert quantise(*arguments, "--json") == 0
    figures = json.loads(capsys.readouterr().out)["miou"]
    for name, path in (("floats", model), ("integers", out)):
        assert main(["eval", str(path), str(data), "--json"]) == 0
        assert figures[name] == pytest.approx(json.loads(capsys.readouterr().out)["miou"])
    assert quantise(*arguments) == 0
    text = capsys.readouterr().out
    assert f"mIoU of floats    {100 * figures['floats']:.2f} %" in text
    assert f"mIoU of integers  {100 * figures['integers']:.2f} %" in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("-o", "out.txt", "--calibration", "photos"), "does not name a file that ends with .onnx"),
        (("-o", "no/out.onnx", "--calibration", "photos"), "there is no folder 'no'"),
        (("-o", "out.onnx", "--calibration", "none"), "none"),
        (("-o", "out.onnx", "--calibration", "empty"), "the folder 'empty' holds no pictures"),
        (("-o", "model.onnx", "--calibration", "photos"), "is the model itself"),
        (("-o", "out.onnx", "--calibration", "photos", "--split", "x"), "--labels names"),
        (("-o", "out.onnx", "--calibration", "photos", "--labels", "gone"), "no folder 'gone'"),
        (("-o", "out.onnx", "--calibration", "photos", "--method", "best"), "invalid choice"),
        (("-o", "out.onnx"), "--calibration"),
    ],
)
def test_refusals(
    flags: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    save_colour_model(tmp_path / "model.onnx")
    as_lists(tmp_path / "data", some_scenes())
    (tmp_path / "data" / "test").rename("photos")
    (tmp_path / "empty").mkdir()
    assert quantise("model.onnx", *flags) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_of_integers_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    as_lists(tmp_path / "data", some_scenes())
    arguments = ("camvid-small-int8", "-o", "out.onnx", "--calibration", "data/test")
    assert quantise(*arguments) == 2
    assert "the model is quantised already: node" in capsys.readouterr().err
