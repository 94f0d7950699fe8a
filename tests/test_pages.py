"""The Python on the pages that people start from runs as it is written there."""

import re
import textwrap
from pathlib import Path

import onnx
import pytest
from labelled import as_lists, save_colour_model, some_scenes
from PIL import Image

onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the pages name: a model, a picture, a folder of pictures, a data set."""
    monkeypatch.chdir(tmp_path)
    save_colour_model("model.onnx")
    model = onnx.load("model.onnx")
    names = {"x": "input", "scores": "Conv_3"}
    model.graph.input[0].name = "input"
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    onnx.save(model, "model.onnx")
    scenes = some_scenes()
    as_lists(tmp_path / "CamVid", scenes)
    Path("photos").mkdir()
    for name, scene in scenes.items():
        Image.fromarray(scene.image).save(f"photos/{name}.png")
    Image.fromarray(scene.image).save("street.png")
    return tmp_path


def snippet(page):
    """The one indented block of a page that begins with an import."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", (ROOT / page).read_text("utf-8"), re.M)
    texts = [textwrap.dedent(block).strip() for block in blocks]
    (code,) = [text for text in texts if re.match(r"import |from ", text)]
    return compile(code, page, "exec")


def test_the_first_page(here):
    names = {}
    exec(snippet("README.md"), names)
    assert names["result"].mask.shape == (72, 96)
    assert names["outputs"][0].shape == (1, 12, 36, 48)
    assert set(names["inside"]) == {"Conv_3"}
    assert names["profile"].steps
    assert Path("overlay.png").stat().st_size


def test_evaluation(here, capsys):
    exec(snippet("minseg/evaluation/README.md"), {})
    assert 0 < float(capsys.readouterr().out) < 1


def test_quantisation(here):
    exec(snippet("minseg/quantization/README.md"), {})
    operators = {node.op_type for node in onnx.load("int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators
    onnxruntime.InferenceSession("int8.onnx")
