"""What the command line says of mistakes: one sentence, and nothing is left behind."""

import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_place import (
    PIXELS,
    call,
    files,
    run_numpy,
    save_model,
)
from labelled import as_scenes, some_scenes
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import minseg

MISTAKES = {
    "missing picture": (["run", "model.onnx", "gone.png"], "gone.png"),
    "no picture": (["run", "model.onnx", "two.gpl"], "two.gpl.*not a picture"),
    "truncated picture": (["run", "model.onnx", "cut.png"], "cut.png.*damaged"),
    "EPS as picture": (["run", "model.onnx", "eps.png"], r"eps\.png.*the format EPS"),
    "a classifier": (
        ["run", "classifier.onnx", "street.png"],
        "its output 'classes' is 1x4, .* outputs are 'classes' 1x4, 'boxes' 1x7x9",
    ),
    "evaluation of a classifier": (
        ["eval", "classifier.onnx", "data", "--json", "--backend", "numpy"],
        "'classes' is 1x4",
    ),
    "missing model": (["run", "gone.onnx", "street.png"], "gone.onnx"),
    "a model as picture": (["run", "street.png", "model.onnx"], "model.onnx"),
    "folder without pictures": (["run", "model.onnx", "empty"], "holds no pictures"),
    "glob without matches": (["run", "model.onnx", "*.gif"], "no picture matches"),
    "wrong class count": (
        ["run", "model.onnx", "street.png", "--classes", "a,b"],
        "2 classes .* 4",
    ),
    "repeated class": (["run", "model.onnx", "street.png", "--classes", "a,a,b,c"], "'a' occurs"),
    "unknown palette": (["run", "model.onnx", "street.png", "--palette", "x"], "'x'"),
    "short palette": (["run", "model.onnx", "street.png", "--palette", "two.gpl"], "2 colours"),
    "unknown card": (["run", "model.onnx", "street.png", "--card", "x"], "'x'"),
    "unwritable output": (
        ["run", "model.onnx", "street.png", "-o", "model.onnx/x.png"],
        "cannot (make|write)",
    ),
    "output without format": (["run", "model.onnx", "street.png", "-o", "x.abc"], r"\.abc"),
    "mask as jpeg": (
        ["run", "model.onnx", "street.png", "--save", "mask", "-o", "m.jpg"],
        r"\.png",
    ),
    "two results, one file": (
        ["run", "model.onnx", "street.png", "--save", "mask,color", "-o", "x.png"],
        "2 results",
    ),
    "over the input": (["run", "model.onnx", "street.png", "-o", "street.png"], "overwrite"),
    "two of one name": (["run", "model.onnx", "street.png", "copy/street.png"], "both be saved"),
    "bad alpha": (["run", "model.onnx", "street.png", "--alpha", "2"], "alpha.*0 to 1"),
    "bad threads": (["run", "model.onnx", "street.png", "--threads", "0"], "threads"),
    "bad save": (["run", "model.onnx", "street.png", "--save", "all"], "save.*overlay"),
    "bad size": (["run", "model.onnx", "street.png", "--size", "3"], "640x480"),
    "other size": (["run", "model.onnx", "street.png", "--size", "9x9"], "does not fit the model"),
    "bad mean": (["run", "model.onnx", "street.png", "--mean", "a"], "mean 'a'"),
    "zero scale": (["run", "model.onnx", "street.png", "--scale", "0"], "scale '0'"),
    "bad channels": (["run", "model.onnx", "street.png", "--channels", "rbg"], "channels"),
    "unknown flag": (["run", "model.onnx", "street.png", "--fast"], "--fast"),
    "no picture given": (["run", "model.onnx"], "IMAGE"),
    "unknown command": (["walk"], "walk"),
    "no command": ([], "COMMAND"),
    "info of nothing": (["info", "gone.onnx"], "gone.onnx"),
    "info with bad flag": (["info", "model.onnx", "--scale", "0"], "scale"),
    "check of nothing": (["check", "gone.onnx"], "gone.onnx"),
    "check of no picture": (["check", "model.onnx", "cut.png"], "cut.png"),
    "check tolerance": (["check", "model.onnx", "--tolerance", "nan"], "tolerance"),
    "unknown model": (["models", "build", "x", "-o", "x.onnx"], "'x'"),
    "unknown builder option": (
        ["models", "build", "unet-camvid-onnx-0001", "--set", "x=1"],
        "'x'",
    ),
    "setting without value": (["models", "build", "unet-camvid-onnx-0001", "--set", "x"], "--set"),
    "model to nowhere": (
        ["models", "build", "unet-camvid-onnx-0001", "-o", "gone/x.onnx"],
        "gone",
    ),
}


def save_classifier(path):
    """The model of the other tests, giving the mean of its scores, and a detector's boxes."""
    pool = helper.make_node("GlobalAveragePool", ["scores"], ["mean"])
    model = onnx.load(save_model(path, [pool, helper.make_node("Flatten", ["mean"], ["classes"])]))
    boxes = numpy_helper.from_array(np.zeros((1, 7, 9), np.float32), "b")
    model.graph.node.append(helper.make_node("Constant", [], ["boxes"], value=boxes))
    model.graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [1, 7, 9]))
    onnx.save(model, path)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_sentence_and_leave_nothing(mistake, place, capsys):
    arguments, reason = MISTAKES[mistake]
    save_classifier("classifier.onnx")
    as_scenes(place / "data", some_scenes())
    Path("eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Path("cut.png").write_bytes(Path("street.png").read_bytes()[:60])
    Path("two.gpl").write_text("1 2 3 a\n4 5 6 b\n")
    Path("empty").mkdir()
    Path("copy").mkdir()
    Image.fromarray(PIXELS).save("copy/street.png")
    before = {name: Path(name).read_bytes() for name in files()}
    if arguments[:1] == ["run"]:
        arguments = [*arguments, "--backend", "numpy", "--quiet"]
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith("minseg: error: ")
    assert re.search(reason, captured.err)
    assert {name: Path(name).read_bytes() for name in files()} == before


def test_every_reason_against_a_model_is_told(place, capsys):
    nodes = [
        helper.make_node("StringNormalizer", ["a"], ["b"], name="first"),
        helper.make_node("Bernoulli", ["b"], ["c"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("a", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("c", TensorProto.STRING, [1])],
    )
    onnx.save(helper.make_model(graph), "odd.onnx")
    assert call("info", "odd.onnx") == 2
    error = capsys.readouterr().err
    assert error.startswith("minseg: error: odd.onnx")
    assert re.search(r"'first' \(StringNormalizer.*\n.*'second' \(Bernoulli", error)


def test_a_folder_that_is_read_only(place, capsys):
    locked = place / "locked"
    locked.mkdir()
    locked.chmod(0o500)
    if os.access(locked, os.W_OK):
        pytest.skip("this user may write anywhere")
    assert run_numpy("model.onnx", "street.png", "-o", "locked") == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt, 130), (BrokenPipeError, 141), (MemoryError, 2)]
)
def test_other_endings(raised, code, place, monkeypatch, capsys):
    def load(*_, **__):
        raise raised

    monkeypatch.setattr(minseg, "load", load)
    monkeypatch.setattr("minseg.cli._silence_stdout", lambda: None)
    assert run_numpy("model.onnx", "street.png") == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""
