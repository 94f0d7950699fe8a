"""Options may stand before, between and behind the words that belong to no option."""

import itertools

import pytest
from cli_place import call

from minseg.cli import build_parser

#: A command line of every subcommand with positionals: these, and options with their values.
LINES = {
    "run": (["m.onnx", "a.png", "b.png"], [["--threads", "2"], ["--quiet"], ["--save=mask"]]),
    "info": (["m.onnx", "a.png"], [["--quantization"], ["--mean", "0.5"]]),
    "check": (["m.onnx", "a.png"], [["--threads", "2"], ["--card", "c"]]),
    "profile": (["m.onnx", "a.png"], [["--trace", "t.json"], ["--json"]]),
    "bench": (["m.onnx"], [["-n3"], ["--vs", "openvino"]]),
    "eval": (["m.onnx", "CamVid"], [["--split", "val"], ["--json"]]),
    "convert": (["m.xml", "m.onnx"], []),
    "prune": (["m.onnx"], [["--sparsity", "0.5"], ["-o", "p.onnx"]]),
    "quantize": (["m.onnx"], [["--calibration", "photos"], ["-o", "q.onnx"]]),
    "fetch": (["unet-camvid-onnx-0001"], []),
    "warmup": (["m.onnx", "n.onnx", "o.onnx"], [["--size", "64x32"], ["--threads", "1"]]),
}


@pytest.mark.parametrize("command", LINES)
def test_every_order_means_the_same(command):
    positionals, options = LINES[command]
    parser = build_parser([command])
    expected = parser.parse_args([command, *itertools.chain(*options), *positionals])
    groups = [[word] for word in positionals]
    for order in itertools.permutations([*groups, *options]):
        if [group for group in order if group in groups] == groups:
            assert parser.parse_args([command, *itertools.chain(*order)]) == expected


def test_words_behind_two_dashes_are_no_options():
    parser = build_parser(["run"])
    given = parser.parse_args(["run", "m.onnx", "--quiet", "--", "-a.png", "--threads"])
    assert (given.model, given.images, given.quiet) == ("m.onnx", ["-a.png", "--threads"], True)
    assert given.threads is None


def test_commands_of_commands_keep_their_options():
    parser = build_parser(["models"])
    for line in (["build", "x", "-o", "y.onnx"], ["build", "-o", "y.onnx", "x"]):
        given = parser.parse_args(["models", *line])
        assert (given.name, given.output) == ("x", "y.onnx")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (["run", "m.onnx", "a.png", "--threads"], "--threads: expected one argument"),
        (["run", "m.onnx", "--threads", "--quiet", "a.png"], "--threads: expected one argument"),
        (["run", "m.onnx", "--fast", "a.png"], "unrecognized arguments: --fast"),
        (["convert", "a", "b", "c"], "unrecognized arguments: c"),
    ],
)
def test_mistakes_stay_mistakes(line, reason, capsys):
    assert call(*line) == 2
    assert reason in capsys.readouterr().err


def test_an_option_between_model_and_picture(place, capsys):
    assert call("run", "model.onnx", "--backend", "numpy", "street.png") == 0
    assert (place / "street_overlay.png").exists()
    assert call("check", "model.onnx", "--threads", "1", "street.png") == 0
