"""Whole OpenVINO IR models, real ones among them, through minseg and openvino."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from conftest import Count
from models import built_model
from parity import agreement, label_map, openvino_run, picture_feed
from PIL import Image

import minseg

ov = pytest.importorskip("openvino")

UNET_BYTES = 62_064_926


def check(name: str, path: Path, feeds: dict[str, np.ndarray], count: Count) -> np.ndarray:
    """minseg's output, after both engines agree on one file."""
    (expected,) = openvino_run(path, feeds)
    (got,) = minseg.load(path).run(None, feeds)
    assert got.shape == expected.shape
    assert agreement(got, expected) >= 0.9999
    if got.dtype.kind == "f":
        assert got.dtype == expected.dtype
        assert np.abs(got - expected).max() <= 1e-3
    count(
        f"openvino IR, {name}", "labels equal", int((label_map(got) == label_map(expected)).sum())
    )
    count(f"openvino IR, {name}", "labels", label_map(got).size)
    return got


def made_weights(xml: Path, size: int) -> bytes:
    """A ``.bin`` for the network in ``xml``, in half precision: weights after He, small biases.

    The first convolution takes pixels of 0 to 255, less their mean.
    """
    rng = np.random.default_rng(0)
    data = np.zeros(size, np.uint8)
    gain = np.sqrt(2) / 75
    for layer in ET.parse(xml).getroot().iterfind("layers/layer[@type='Const']/data"):
        shape = [int(n) for n in layer.attrib["shape"].split(",")]
        if shape == [1, 3, 1, 1]:
            values = np.float32([105.6567, 103.329, 99.603])
        elif shape[0] == 1:
            values = rng.normal(0, 0.1, shape)
        else:
            taps = shape[0] if shape[2] == 2 else np.prod(shape[1:])
            values = rng.normal(0, gain / np.sqrt(taps), shape)
            gain = np.sqrt(2)
        raw = values.astype(np.float16).tobytes()
        assert len(raw) == int(layer.attrib["size"])
        offset = int(layer.attrib["offset"])
        data[offset : offset + len(raw)] = np.frombuffer(raw, np.uint8)
    return data.tobytes()


@pytest.fixture(scope="session")
def real_unet(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published graph of unet-camvid-onnx-0001 with made weights."""
    published = shared_folder / "real" / "unet-camvid-onnx-0001.xml"
    path = tmp_path_factory.mktemp("unet") / published.name
    path.write_bytes(published.read_bytes())
    path.with_suffix(".bin").write_bytes(made_weights(published, UNET_BYTES))
    return path


def test_the_published_unet(real_unet: Path, camvid_images: list[Path], count: Count) -> None:
    session = minseg.load(real_unet)
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("input.1", [1, 3, 368, 480])]
    assert [(o.name, o.shape) for o in session.get_outputs()] == [("206", [1, 12, 368, 480])]
    assert [s for s in session.plan_summary() if s.kernel == "reference operator"] == []
    probabilities = check("unet", real_unet, picture_feed(session, camvid_images[0]), count)
    assert probabilities.std(axis=(2, 3)).min() > 1e-4


def test_the_published_unet_takes_pixels_as_they_are(real_unet: Path) -> None:
    """The file's meta data say that mean, scale and the exchange of channels are in the graph."""
    recipe = minseg.load(real_unet).recipe
    assert (recipe.channels, recipe.mean, recipe.scale) == ("bgr", (0, 0, 0), (1, 1, 1))
    assert {recipe.sources[k] for k in ("channels", "mean", "scale")} == {"metadata"}
    assert (recipe.width, recipe.height, recipe.layout) == (480, 368, "NCHW")


@pytest.fixture(scope="session")
def road(shared_folder: Path) -> Path:
    name = "road-segmentation-adas-0001"
    return shared_folder / "real" / name / f"{name}.xml"


def road_feed(picture: Path) -> dict[str, np.ndarray]:
    """1×3×512×896, blue first, values 0 to 255."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB").resize((896, 512)), np.float32)
    return {"data": np.ascontiguousarray(pixels[..., ::-1].transpose(2, 0, 1)[None])}


def test_the_road_model(road: Path, camvid_images: list[Path], count: Count) -> None:
    for picture in camvid_images[::60]:
        got = check("road", road, road_feed(picture), count)
        assert got.shape == (1, 4, 512, 896)
        shares = np.bincount(got.argmax(1).ravel(), minlength=4) / got[0, 0].size
        assert 0.05 < shares[1] < 0.5  # a street is seen


#: The models minseg exists for, at sizes that tests have time for.
BUILT = {
    "unet-camvid-onnx-0001": {"height": 96, "width": 128},
    "icnet-camvid-int8-onnx-0001": {"height": 384, "width": 384},
    "icnet-camvid-ava-sparse-60-0001": {},
    "unet-resnet34-camvid": {},
}


@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("name", BUILT)
def test_models_that_openvino_wrote(
    name: str, half: bool, tmp_path: Path, camvid_images: list[Path], count: Count
) -> None:
    """They agree with openvino, and where weights keep their precision with the ONNX file."""
    onnx = built_model(name, **BUILT[name])
    path = tmp_path / "model.xml"
    ov.save_model(ov.convert_model(str(onnx)), path, compress_to_fp16=half)
    session = minseg.load(onnx)
    feeds = picture_feed(session, camvid_images[0])
    got = check(f"{name} {'f16' if half else 'f32'}", path, feeds, count)
    if not half:
        assert agreement(got, session.run(None, feeds)[0]) >= 0.9999
    steps = minseg.load(path).plan_summary({session.get_inputs()[0].name: feeds_shape(feeds)})
    assert [s for s in steps if s.kernel == "reference operator"] == []


def feeds_shape(feeds: dict[str, np.ndarray]) -> tuple[int, ...]:
    (array,) = feeds.values()
    return array.shape


def test_int8_by_nncf(road: Path, tmp_path: Path, camvid_images: list[Path], count: Count) -> None:
    """As near to the quantised model in f32 arithmetic as openvino's own integer kernels.

    Activations within a rounding error of the middle of two steps fall to either side in any
    two engines, and what follows differs by whole steps.
    """
    nncf = pytest.importorskip("nncf")
    feeds = [road_feed(picture) for picture in camvid_images[::24]]
    model = nncf.quantize(ov.Core().read_model(road), nncf.Dataset(feeds), subset_size=len(feeds))
    path = tmp_path / "int8.xml"
    ov.save_model(model, path)
    session = minseg.load(path)
    assert {"FakeQuantize", "DequantizeLinear"} <= {node.op for node in session.graph.nodes}
    assert {a.dtype for a in session.graph.constants.values()} >= {np.dtype(np.int8)}
    exact = {"INFERENCE_PRECISION_HINT": "f32", "LP_TRANSFORMS_MODE": "NO"}
    simulated = ov.Core().compile_model(path, "CPU", exact)
    for feed in feeds[1:4]:
        expected = simulated(feed)[simulated.outputs[0]]
        (got,), (integer,) = session.run(None, feed), openvino_run(path, feed)
        assert got.shape == expected.shape
        assert agreement(got, expected) >= max(0.995, agreement(integer, expected))
        count(
            "openvino IR, nncf int8",
            "labels equal",
            int((label_map(got) == label_map(expected)).sum()),
        )
        count("openvino IR, nncf int8", "labels", label_map(got).size)
