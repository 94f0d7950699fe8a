"""The trained files that minseg ships: what they weigh, how well they label, who agrees."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array
from parity import agreement, onnxruntime_run, picture_feed
from PIL import Image

import minseg
from minseg.evaluation.metrics import Scores, confusion_matrix
from minseg.graph.count import flops, parameters, zero_share
from minseg.images.cards import load_card
from minseg.images.scene import street_scene
from minseg.ops.infer import infer
from minseg.ops.support import load
from minseg.weights import shipped_file

FLOAT, INT8, SPARSE = "camvid-small", "camvid-small-int8", "camvid-small-sparse60"
MODELS = (FLOAT, INT8, SPARSE)
#: Training sees the scenes 0 to 999.
UNSEEN_SCENES = range(1_000_000, 1_000_008)
UNLABELED = 11


def shipped(name: str) -> Path:
    path = shipped_file(name)
    assert path is not None
    return path


@cache
def session(name: str) -> minseg.Session:
    return minseg.load(str(shipped(name)))


def scores_of(name: str, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Scores:
    """One confusion matrix over pictures (H×W×3 uint8) and their labels (H×W uint8)."""
    matrix = np.zeros((12, 12), np.int64)
    for image, labels in pairs:
        mask = session(name).segment(image).mask
        assert mask.shape == labels.shape
        matrix += confusion_matrix(labels, mask, 12, [UNLABELED])
    return Scores(matrix, np.arange(12) != UNLABELED)


def published(name: str, metric: str, split: str) -> float:
    """A figure in the model's card."""
    (value,) = (
        a.value
        for a in load_card(name).published.accuracy
        if (a.metric, a.split) == (metric, split)
    )
    return value


@pytest.mark.parametrize("name", MODELS)
def test_a_name_loads_the_shipped_file(name: str) -> None:
    by_name = minseg.load(name)
    assert by_name.graph.metadata["minseg.card"] == name
    assert "minseg.synthetic" not in by_name.graph.metadata
    assert [v.shape for v in by_name.get_inputs()] == [[1, 3, 360, 480]]
    assert [v.shape for v in by_name.get_outputs()] == [[1, 12, 360, 480]]


def test_a_model_without_a_shipped_file_has_none() -> None:
    assert shipped_file("unet-camvid-onnx-0001") is None


@pytest.mark.parametrize("name", MODELS)
def test_size_and_cost_are_those_of_the_card(name: str) -> None:
    graph = load(shipped(name))
    graph = replace(graph, types=infer(graph, {v.name: v.type for v in graph.inputs}))
    card = load_card(name).published
    assert shipped(name).stat().st_size <= 4_000_000
    assert parameters(graph) == card.parameters <= 1_000_000
    assert flops(graph) / 1e9 == pytest.approx(card.gflops, abs=0.005)


def test_sixty_percent_of_every_convolution_are_zero() -> None:
    model = onnx.load(shipped(SPARSE))
    weights = {t.name: to_array(t) for t in model.graph.initializer}
    kernels = [weights[n.input[1]] for n in model.graph.node if n.op_type == "Conv"]
    assert len(kernels) == 41
    for kernel in kernels:
        assert (kernel == 0).mean() == pytest.approx(0.6, abs=0.5 / kernel.size)
    assert zero_share(load(shipped(SPARSE))) == pytest.approx(0.6, abs=1e-3)
    assert zero_share(load(shipped(FLOAT))) < 0.01


def test_all_scales_of_the_integers_are_powers_of_two() -> None:
    model = onnx.load(shipped(INT8))
    known = {t.name: to_array(t) for t in model.graph.initializer}
    scales = [known[n.input[1]] for n in model.graph.node if n.op_type == "DequantizeLinear"]
    assert len(scales) > 100
    for scale in scales:
        assert scale.dtype == np.float32
        np.testing.assert_array_equal(np.frexp(scale)[0], 0.5)


@pytest.mark.parametrize("name", MODELS)
def test_unseen_scenes_are_labelled(name: str) -> None:
    scenes = [street_scene(seed) for seed in UNSEEN_SCENES]
    assert scores_of(name, [(s.image, s.labels) for s in scenes]).mean_iou > 0.8


@pytest.mark.parametrize("name", MODELS)
def test_camvid_is_labelled_as_the_card_says(name: str, shared_folder: Path) -> None:
    """On every fourth picture of the test split; the card's figure is on all of them."""
    folder = shared_folder / "camvid"
    rows = [line.split() for line in (folder / "test.txt").read_text().splitlines()][::4]
    pairs = [tuple(np.asarray(Image.open(folder / file)) for file in row) for row in rows]
    figure = published(name, "mIoU", "test")
    assert figure >= 0.65
    assert scores_of(name, pairs).mean_iou == pytest.approx(figure, abs=0.02)


@pytest.mark.parametrize("name", [INT8, SPARSE])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_smaller_files_lose_a_point_at_most(name: str, split: str) -> None:
    assert published(name, "mIoU", split) >= published(FLOAT, "mIoU", split) - 0.01


@pytest.mark.parametrize(("name", "share"), [(FLOAT, 0.9999), (INT8, 0.999), (SPARSE, 0.9999)])
def test_onnxruntime_gives_the_same_labels(name: str, share: float, tmp_path: Path) -> None:
    equal = []
    for seed in UNSEEN_SCENES:
        picture = tmp_path / f"{seed}.png"
        Image.fromarray(street_scene(seed).image).save(picture)
        feeds = picture_feed(session(name), picture)
        ours, theirs = session(name).run(None, feeds)[0], onnxruntime_run(shipped(name), feeds)[0]
        assert ours.shape == theirs.shape == (1, 12, 360, 480)
        assert ours.dtype == theirs.dtype == np.float32
        equal.append(agreement(ours, theirs))
    assert np.mean(equal) >= share
