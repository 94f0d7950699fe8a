"""The four CamVid models against onnxruntime and openvino, on pictures and on noise."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import Count
from models import built_model
from parity import (
    agreement,
    noise_feed,
    onnxruntime_run,
    openvino_run,
    picture_feed,
    with_all_values,
)

import minseg

FLOAT_MODELS = (
    "unet-camvid-onnx-0001",
    "icnet-camvid-ava-sparse-60-0001",
    "unet-resnet34-camvid",
)
INT8_MODEL = "icnet-camvid-int8-onnx-0001"
BACKENDS = ("numba", "numpy")


@cache
def _session(path: Path, backend: str) -> minseg.Session:
    return minseg.load(path, backend=backend)


def _feed(session: minseg.Session, kind: str, pictures: list[Path]) -> dict[str, np.ndarray]:
    return noise_feed(session) if kind == "noise" else picture_feed(session, pictures[0])


@cache
def _expected(path: Path, kind: str, picture: Path, engine: str) -> np.ndarray:
    feeds = _feed(_session(path, "numpy"), kind, [picture])
    run = openvino_run if engine == "openvino" else onnxruntime_run
    return run(path, feeds)[0]


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", ["picture", "noise"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FLOAT_MODELS)
def test_float_models_agree_with_onnxruntime(
    name: str, backend: str, kind: str, camvid_images: list[Path], count: Count
) -> None:
    path = built_model(name)
    session = _session(path, backend)
    expected = _expected(path, kind, camvid_images[0], "onnxruntime")
    (got,) = session.run(None, _feed(session, kind, camvid_images))
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    if got.dtype.kind == "f":
        logits = name == "unet-resnet34-camvid"
        a, b = (_softmax(got), _softmax(expected)) if logits else (got, expected)
        assert np.abs(a - b).max() <= 1e-4
    assert agreement(got, expected) >= 0.9999
    count(f"parity {backend}", "float outputs agree with onnxruntime")


@pytest.mark.parametrize("kind", ["picture", "noise"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("notation", "engine"), [("qdq", "onnxruntime"), ("fakequantize", "openvino")]
)
def test_the_int8_model_agrees(
    notation: str, engine: str, backend: str, kind: str, camvid_images: list[Path], count: Count
) -> None:
    path = built_model(INT8_MODEL, notation=notation)
    session = _session(path, backend)
    expected = _expected(path, kind, camvid_images[0], engine)
    (got,) = session.run(None, _feed(session, kind, camvid_images))
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    assert agreement(got, expected) >= 0.999
    count(f"parity {backend}", f"int8 label maps agree with {engine}")


@pytest.mark.parametrize("name", ["unet-resnet34-camvid", "icnet-camvid-ava-sparse-60-0001"])
def test_every_intermediate_value_agrees_with_onnxruntime(
    name: str, camvid_images: list[Path]
) -> None:
    path = built_model(name)
    session = _session(path, "numba")
    feeds = picture_feed(session, camvid_images[1])
    model, names = with_all_values(path)
    expected = dict(zip(names, onnxruntime_run(model, feeds, names), strict=True))
    _, got = session.run(None, feeds, capture=True)
    for value in names:
        assert got[value].shape == expected[value].shape, value
        assert got[value].dtype == expected[value].dtype, value
        scale = np.abs(expected[value]).max()
        assert np.abs(got[value] - expected[value]).max() <= 1e-4 * max(scale, 1), value
