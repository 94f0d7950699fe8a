"""The command line, through its entry point and through ``python -m minseg``."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_place import (
    EXPECTED,
    PIXELS,
    SCORES,
    TAILS,
    H,
    W,
    call,
    files,
    run_numpy,
    save_model,
)
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import minseg
from minseg.cli import check, main, run
from minseg.cli.text import Progress, columns, quantity, seconds
from minseg.errors import InputError
from minseg.images.files import RESULT_SUFFIXES

# --- run ----------------------------------------------------------------------------------------


def test_the_main_job(place, capsys):
    assert run_numpy("model.onnx", "street.png") == 0
    assert files() == ["model.onnx", "street.png", "street_overlay.png"]
    with Image.open("street_overlay.png") as overlay:
        assert overlay.width >= W
        assert overlay.height > H
    text = capsys.readouterr().out
    for part in ("8x6", "(metadata)", "(model)", "(guess)", "rgb", "street_overlay.png", "class 0"):
        assert part in text
    assert "\x1b" not in text


@pytest.mark.parametrize("kind", TAILS)
def test_every_kind_of_output_gives_the_same_mask(kind, place):
    output_type = TensorProto.INT64 if kind == "indices" else TensorProto.FLOAT
    save_model("other.onnx", TAILS[kind], output_type)
    assert run_numpy("other.onnx", "street.png", "--save", "mask", "-o", "mask.png") == 0
    with Image.open("mask.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), EXPECTED)


def test_a_one_channel_matte(place):
    red = helper.make_node("Slice", ["scores", "zero", "one", "one"], ["red"])
    scale = helper.make_node("Div", ["red", "full"], ["y"])
    path = save_model("matte.onnx", [red, scale])
    model = onnx.load(path)
    for name, array in (
        ("zero", np.array([0])),
        ("one", np.array([1])),
        ("full", np.array(255, np.float32)),
    ):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.node[1].input[3] = "one"
    onnx.save(model, path)
    assert run_numpy(path, "street.png", "--save", "mask", "-o", "m.png") == 0
    with Image.open("m.png") as image:
        np.testing.assert_array_equal(np.asarray(image), PIXELS[..., 0] > 127)


def test_everything_that_can_be_saved(place):
    assert run_numpy("model.onnx", "street.png", "--save", "overlay,mask,color,probs") == 0
    saved = [f"street_{kind}{suffix}" for kind, suffix in sorted(RESULT_SUFFIXES.items())]
    assert files() == ["model.onnx", "street.png", *sorted(saved)]
    probabilities = np.load("street_probs.npy")
    assert probabilities.shape == (4, H, W)
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities.argmax(0), EXPECTED)


def test_json_is_one_document(place, capsys):
    assert run_numpy("model.onnx", "street.png", "street.png", "--save", "none", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "model.onnx"
    assert document["recipe"]["channels"] == "rgb"
    assert document["recipe"]["sources"]["channels"] == "metadata"
    (picture,) = document["pictures"]
    assert (picture["width"], picture["height"]) == (W, H)
    assert picture["seconds"] > 0
    assert picture["files"] == {}
    shares = [picture["shares"][f"class {i}"] for i in range(4)]
    np.testing.assert_allclose(shares, np.bincount(EXPECTED.ravel(), minlength=4) / (H * W))
    assert files() == ["model.onnx", "street.png"]


def test_synthetic_weights_are_told(place, capsys):
    save_model("fake.onnx", TAILS["logits"], metadata={"minseg.synthetic": "true"})
    assert run_numpy("fake.onnx", "street.png") == 0
    assert "synthetic weights" in capsys.readouterr().out


def test_the_compiled_backend_plans_before_the_clock_starts(place, capsys, monkeypatch):
    monkeypatch.setattr(run, "NOTICED", 0.0)
    assert call("run", "model.onnx", "street.png", "--save", "mask") == 0
    assert "planned for this size" in capsys.readouterr().out
    with Image.open("street_mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), EXPECTED)


def test_quiet_says_nothing(place, capsys):
    assert run_numpy("model.onnx", "street.png", "--quiet") == 0
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_many_pictures_go_to_a_folder(place, capsys):
    (place / "photos").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(PIXELS).save(place / "photos" / name)
    assert run_numpy("model.onnx", "photos", "-o", "out", "--save", "mask,overlay") == 0
    assert sorted(os.listdir("out")) == [
        "a_mask.png",
        "a_overlay.png",
        "b_mask.png",
        "b_overlay.png",
    ]
    assert "2 pictures" in capsys.readouterr().out


def test_flags_change_what_the_model_sees(place):
    assert (
        run_numpy("model.onnx", "street.png", "--channels", "BGR", "--save", "mask", "-o", "m.png")
        == 0
    )
    swapped = np.concatenate([SCORES[2::-1], SCORES[3:]]).argmax(0)
    with Image.open("m.png") as image:
        np.testing.assert_array_equal(np.asarray(image), swapped)


def test_names_and_colours(place, capsys):
    Path("colours.gpl").write_text("GIMP Palette\n255 0 0 r\n0 255 0 g\n0 0 255 b\n9 9 9 n\n")
    flags = ("--palette", "colours.gpl", "--save", "color", "-o", "c.png")
    assert run_numpy("model.onnx", "street.png", "--classes", "R,G,B,N", *flags) == 0
    with Image.open("c.png") as image:
        colours = {c for _, c in image.getcolors()}
    assert colours <= {(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9)}
    assert re.search(r"^  [RGB] +\d+\.\d %$", capsys.readouterr().out, re.M)


def test_a_card_is_found_by_the_name_of_the_file(place, capsys):
    save_model("unet-camvid-onnx-0001.onnx", TAILS["logits"])
    assert run_numpy("unet-camvid-onnx-0001.onnx", "street.png") == 0
    assert "(card unet-camvid-onnx-0001)" in capsys.readouterr().out


def test_one_damaged_picture_does_not_stop_the_others(place, capsys):
    Path("bad.png").write_bytes(Path("street.png").read_bytes()[:40])
    assert run_numpy("model.onnx", "bad.png", "street.png") == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "bad.png" in errors[0]
    assert "street_overlay.png" in files()
    assert "bad_overlay.png" not in files()


def test_the_table_has_colours_on_a_terminal_only(place, capsys, monkeypatch):
    monkeypatch.setattr(run, "has_colour", lambda stream: True)
    assert run_numpy("model.onnx", "street.png") == 0
    assert "\x1b[48;2;" in capsys.readouterr().out


class Terminal:
    """A stream that says it is a terminal and keeps what is written."""

    def __init__(self):
        self.text = ""

    def isatty(self):
        return True

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_wishes_about_colour(environment, expected, monkeypatch):
    from minseg.cli.text import has_colour

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_colour(Terminal()) is expected
    with open(os.devnull) as file:
        assert not has_colour(file)


def test_progress_is_for_terminals_and_several_pictures():
    terminal = Terminal()
    progress = Progress(4, terminal)
    progress.show(1, "b.png")
    assert "1/4  b.png" in terminal.text
    progress.clear()
    assert terminal.text.endswith("\r\x1b[K")
    alone = Terminal()
    Progress(1, alone).show(0, "a.png")
    assert alone.text == ""


# --- info, check, models ------------------------------------------------------------------------


def test_info_in_words(place, capsys):
    assert call("info", "model.onnx") == 0
    text = capsys.readouterr().out
    for part in ("1x3x6x8", "tensor(float)", "ai.onnx 13", "Conv 1", "Softmax 1", "channels  rgb"):
        assert part in text


def test_info_as_json(place, capsys):
    assert call("info", "model.onnx", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["inputs"] == [{"name": "x", "type": "tensor(float)", "shape": [1, 3, H, W]}]
    assert document["outputs"][0]["name"] == "y"
    assert document["operators"] == {"Conv": 1, "Softmax": 1}
    assert document["opsets"] == {"ai.onnx": 13}
    assert document["parameters"] == 16
    assert document["zero_share"] == pytest.approx(9 / 12)
    assert document["gflop"] == pytest.approx(2 * 3 * 4 * H * W / 1e9)
    assert document["quantisation"] == {}
    assert document["preprocessing"]["sources"]["mean"] == "metadata"
    assert document["plan"]["steps"] >= 2


def test_info_of_an_open_size(place, capsys):
    save_model("open.onnx", TAILS["logits"], size=("h", "w"))
    assert call("info", "open.onnx", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gflop"] is None
    assert "--size" in document["plan"]["missing"]
    assert call("info", "open.onnx", "--json", "--size", "8x6") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["gflop"] == pytest.approx(2 * 3 * 4 * H * W / 1e9)


def test_info_of_a_model_that_takes_no_picture(place, capsys):
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "ab"],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, "add.onnx")
    assert call("info", "add.onnx") == 0
    assert "a picture goes to a model with one input" in capsys.readouterr().out
    assert call("check", "add.onnx") == 0
    assert "first bad layer" not in capsys.readouterr().out


def test_check_agrees_on_a_good_model(place, capsys):
    assert call("check", "model.onnx", "street.png") == 0
    text = capsys.readouterr().out
    assert "numba: 2 tensors compared" in text
    assert "0.0000 % of pixels flip" in text
    assert "BAD" not in text


def test_check_names_the_first_bad_layer(place, capsys, monkeypatch):
    honest = check.run_onnxruntime

    def wrong(*arguments):
        values = honest(*arguments)
        values["scores"] = values["scores"] + 40
        values["y"] = np.roll(values["y"], 1, axis=1)
        return values

    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(check, "run_onnxruntime", wrong)
    assert call("check", "model.onnx", "street.png") == check.DIFFERENT
    text = capsys.readouterr().out
    assert re.search(r"onnxruntime: .*first bad layer node 'colours' \(Conv, .*'scores'", text)
    assert re.search(r"100\.0000 % of pixels flip", text)
    assert text.count("BAD") == 2


def test_check_goes_on_without_onnxruntime(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert call("check", "model.onnx") == 0
    assert "onnxruntime: not compared, it is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [
        ([1.0, 2.0], [1.0, 2.5], 0.25),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.inf, 2.0], [np.inf, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([1.0, 2.0], [np.nan, 2.0], np.inf),
        ([np.inf, 2.0], [1.0, 2.0], np.inf),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, 2.0], [1.0], np.inf),
        ([], [], 0.0),
        (np.array([10, 100]), np.array([11, 100]), 0.0),
        (np.array([10, 100]), np.array([10, 105]), 0.05),
        (np.array([True]), np.array([False]), 1.0),
        (np.array([1]), np.array([1.0]), np.inf),
    ],
)
def test_errors_of_tensors(expected, actual, error):
    assert check.error_of(np.asarray(expected), np.asarray(actual)) == pytest.approx(error)


def test_models_are_listed(capsys):
    assert call("models") == 0
    text = capsys.readouterr().out
    assert "unet-camvid-onnx-0001" in text
    assert "31.03 M parameters" in text


def test_models_are_built_under_the_name_given(place, capsys, monkeypatch):
    seen = {}

    def build_file(name, path, **options):
        seen.update(name=name, options=options)
        Path(path).write_bytes(b"12345")
        return Path(path)

    monkeypatch.setattr("minseg.weights.build_file", build_file)
    assert (
        call("models", "build", "unet-resnet34-camvid", "-o", "r.onnx", "--set", "classes=32") == 0
    )
    assert seen == {"name": "unet-resnet34-camvid", "options": {"classes": 32}}
    assert "r.onnx" in capsys.readouterr().out


# --- targets and text ---------------------------------------------------------------------------


def targets(pictures, output, kinds=("overlay",)):
    jobs = run.plan_jobs([Path(p) for p in pictures], output, kinds)
    return [str(target) for job in jobs for target in job.targets.values()]


def test_where_results_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dir.d").mkdir()
    assert targets(["p/a.jpg"], None) == ["a_overlay.png"]
    assert targets(["p/a.jpg"], "x.png") == ["x.png"]
    assert targets(["p/a.jpg"], "out") == ["out/a_overlay.png"]
    assert targets(["p/a.jpg"], "out.d/") == ["out.d/a_overlay.png"]
    assert targets(["p/a.jpg"], "dir.d") == ["dir.d/a_overlay.png"]
    assert targets(["a.b.png"], None, ("mask",)) == ["a.b_mask.png"]
    assert targets(["a.png"], "x.png", ("none",)) == []
    with pytest.raises(InputError, match="both be saved"):
        targets(["a.png", "a.jpg"], None)


def test_columns_and_units():
    assert columns([["a", "1"], ["bcd", "22"]], "<>") == "a     1\nbcd  22"
    assert [seconds(s) for s in (0.0123, 0.9994, 0.99951, 12.345)] == [
        "12 ms",
        "999 ms",
        "1.00 s",
        "12.35 s",
    ]
    assert [quantity(v, "B") for v in (5, 31_044_236, 2.5e9)] == ["5 B", "31.04 MB", "2.50 GB"]


# --- the process --------------------------------------------------------------------------------


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "minseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        **options,
    )


def test_as_a_module(place, request):
    root = request.config.rootpath
    done = process(
        *("run", place / "model.onnx", place / "street.png", "-o", place / "o.png"),
        *("--backend", "numpy"),
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "class 0" in done.stdout
    assert (place / "o.png").is_file()
    done = process("run", place / "model.onnx", place / "gone.png", cwd=root)
    assert done.returncode == 2
    assert done.stderr.startswith("minseg: error: ")
    assert len(done.stderr.splitlines()) == 1
    assert process("--version", cwd=root).stdout == f"minseg {minseg.__version__}\n"


@pytest.mark.parametrize(
    "command", [[], ["run"], ["info"], ["check"], ["models"], ["models", "build"]]
)
def test_help(command, capsys):
    assert call(*command, "--help") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"usage: {' '.join(['minseg', *command])}")
    assert captured.err == ""


def test_the_command_line_imports_nothing_heavy(request):
    code = (
        "import sys, minseg.cli; minseg.cli.build_parser();"
        "print([m for m in ('numpy', 'PIL', 'onnx', 'numba', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=request.config.rootpath,
    )
    assert done.stdout.strip() == "[]"


def test_the_command_line_reads_models_with_parts_of_onnx(place):
    """What is imported of onnx later is made of the same parts."""
    code = """
import sys
from minseg.cli import main
assert main(["run", "--backend", "numpy", "--quiet", "model.onnx", "street.png"]) == 0
assert "onnx" not in sys.modules
import onnx
from minseg.graph import onnx_proto
assert onnx.ModelProto is onnx_proto.ModelProto and onnx.defs.C is onnx_proto.native.defs
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX pipe and signals")
def test_a_reader_that_leaves_early_is_no_error(request):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "minseg", "models"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=request.config.rootpath,
        preexec_fn=lambda: signal.signal(signal.SIGPIPE, signal.SIG_IGN),
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode == 141


def test_run_without_a_model_takes_the_one_in_the_box(tmp_path, monkeypatch, capsys):
    from minseg.cli.options import DEFAULT_MODEL
    from minseg.images.scene import street_scene

    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.PNG"):
        Image.fromarray(street_scene(3, 96, 72).image).save(name)
    for arguments in (["a.png"], ["a.png", "b.PNG"], ["."], [DEFAULT_MODEL, "a.png"]):
        assert main(["run", *arguments, "-o", "out/"]) == 0
        assert capsys.readouterr().out.splitlines()[0].startswith(DEFAULT_MODEL)
    assert {p.name for p in Path("out").iterdir()} == {"a_overlay.png", "b_overlay.png"}
