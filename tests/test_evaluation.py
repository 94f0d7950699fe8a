"""Metrics, which class is which, and data sets on disk."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from labelled import (
    LAYOUTS,
    TWELVE,
    H,
    W,
    as_colours,
    as_lists,
    as_scenes,
    class_dict,
    some_scenes,
)

from minseg.cli.demo import write_scenes
from minseg.errors import InputError
from minseg.evaluation.classes import match_named, match_unnamed
from minseg.evaluation.datasets import open_dataset
from minseg.evaluation.metrics import Scores, confusion_matrix
from minseg.images.cards import Classes, load_classes
from minseg.images.scene import street_scene

ALL = load_classes("camvid32")

# Metrics.


def test_figures_computed_by_hand():
    """Rows are truth. Class 3 is predicted once and never true, class 4 is not judged."""
    matrix = [
        [6, 1, 0, 1, 0],
        [2, 5, 1, 0, 0],
        [0, 0, 3, 0, 1],
        [0, 0, 0, 0, 0],
        [1, 0, 1, 0, 2],
    ]
    judged = np.array([True, True, True, True, False])
    scores = Scores(np.array(matrix, np.int64), judged)
    iou = [Fraction(6, 6 + 2 + 3), Fraction(5, 5 + 3 + 1), Fraction(3, 3 + 1 + 2)]
    accuracy = [Fraction(6, 8), Fraction(5, 8), Fraction(3, 4)]
    assert scores.iou.shape == scores.accuracy.shape == (5,)
    assert scores.iou.dtype == np.float64
    np.testing.assert_allclose(scores.iou[:3], np.array(iou, float), rtol=1e-15)
    np.testing.assert_allclose(scores.accuracy[:3], np.array(accuracy, float), rtol=1e-15)
    assert np.isnan(scores.iou[3:]).all() and np.isnan(scores.accuracy[3:]).all()
    assert scores.mean_iou == pytest.approx(float(sum(iou) / 3), rel=1e-15)
    assert scores.mean_accuracy == pytest.approx(float(sum(accuracy) / 3), rel=1e-15)
    assert scores.pixel_accuracy == pytest.approx(float(Fraction(14, 20)), rel=1e-15)
    weighted = (8 * iou[0] + 8 * iou[1] + 4 * iou[2]) / 20
    assert scores.frequency_weighted_iou == pytest.approx(float(weighted), rel=1e-15)


def test_pixels_that_are_not_labelled_are_not_counted():
    truth = np.array([[0, 1], [2, 2]], np.uint8)
    predicted = np.array([[0, 0], [1, 2]], np.uint8)
    counts = confusion_matrix(truth, predicted, 3, ignored=[2])
    assert counts.shape == (3, 3) and counts.dtype == np.int64
    assert counts.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1]]


def test_nothing_labelled_gives_no_figure():
    scores = Scores(np.zeros((2, 2), np.int64), np.array([True, True]))
    assert scores.is_empty
    assert np.isnan([scores.mean_iou, scores.pixel_accuracy, scores.frequency_weighted_iou]).all()


@pytest.mark.parametrize("seed", range(4))
def test_figures_agree_with_scikit_learn(seed):
    """Class 11 is ignored, 10 never occurs in the truth; both are predicted."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = rng.choice([*range(10), 11], size=(3, 40, 50)).astype(np.uint8)
    guess = rng.integers(0, 12, truth.shape)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, guess).astype(np.uint8)
    matrix = sum(confusion_matrix(t, p, 12, [11]) for t, p in zip(truth, predicted, strict=True))
    scores = Scores(matrix, np.arange(12) != 11)
    known = truth != 11
    t, p, present = truth[known], predicted[known], list(range(10))
    expected = metrics.confusion_matrix(t, p, labels=range(12))
    assert matrix.shape == expected.shape and (matrix == expected).all()
    close = {"rtol": 1e-12}
    iou = metrics.jaccard_score(t, p, labels=present, average=None)
    np.testing.assert_allclose(scores.iou[:10], iou, **close)
    np.testing.assert_allclose(scores.mean_iou, iou.mean(), **close)
    recall = metrics.recall_score(t, p, labels=present, average=None)
    np.testing.assert_allclose(scores.accuracy[:10], recall, **close)
    np.testing.assert_allclose(scores.mean_accuracy, recall.mean(), **close)
    np.testing.assert_allclose(scores.pixel_accuracy, metrics.accuracy_score(t, p), **close)
    weighted = metrics.jaccard_score(t, p, labels=present, average="weighted")
    np.testing.assert_allclose(scores.frequency_weighted_iou, weighted, **close)


# Which class is which.


def test_names_match_whatever_their_order_and_spelling():
    model = ["unlabeled", "sign symbol", *reversed(TWELVE.names[:6]), *TWELVE.names[7:11]]
    match = match_named(TWELVE, model)
    assert match.truth.tolist() == list(range(12))
    assert match.predicted.tolist() == [11, 6, 5, 4, 3, 2, 1, 0, 7, 8, 9, 10]
    assert match.judged.tolist() == [True] * 11 + [False]
    assert match.notes == ()


def test_classes_that_one_side_lacks():
    match = match_named(TWELVE, ["background", "road", "curb", "mark"])
    assert match.classes.names == (*TWELVE.names, "(other)")
    assert match.predicted.tolist() == [12, 3, 12, 12]
    assert np.flatnonzero(match.judged).tolist() == [3]
    assert "does not know Sky, Building" in match.notes[0]
    assert "no background, curb, mark" in match.notes[1]


@pytest.mark.parametrize(("data", "model"), [(ALL, TWELVE), (TWELVE, ALL)])
def test_the_32_classes_meet_the_twelve(data, model):
    match = match_named(data, model.names)
    assert match.classes == TWELVE
    lists = {ALL: {}, TWELVE: {}}
    lists[data], lists[model] = match.truth, match.predicted
    assert lists[TWELVE].tolist() == list(range(12))
    fine = {name: TWELVE.names[lists[ALL][i]] for i, name in enumerate(ALL.names)}
    assert fine["Sidewalk"] == fine["RoadShoulder"] == "Pavement"
    assert fine["Truck_Bus"] == "Vehicle" and fine["Bicyclist"] == "Bike"
    assert fine["Void"] == "Unlabeled" and fine["Wall"] == "Building"
    assert match.judged.tolist() == [True] * 11 + [False]


def test_the_32_classes_meet_themselves():
    match = match_named(ALL, ALL.names)
    assert match.classes == ALL and match.judged.sum() == 31


@pytest.mark.parametrize("n", [11, 12, None])
def test_a_model_without_names(n):
    match = match_unnamed(TWELVE, n)
    assert match.predicted.tolist() == list(range(n or 12))
    assert match.judged.sum() == 11
    assert "does not name" in match.notes[0]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda: match_unnamed(TWELVE, 4), "4 classes without names, the data set 12"),
        (lambda: match_named(TWELVE, ["cat", "dog"]), "no name in common"),
        (lambda: match_named(TWELVE, ["unlabeled", "dog"]), "no name in common"),
    ],
)
def test_classes_that_cannot_be_matched(attempt, message):
    with pytest.raises(InputError, match=message):
        attempt()


# Data sets on disk.


@pytest.fixture(scope="module")
def scenes():
    return some_scenes()


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_every_layout_gives_the_same_pairs(layout, scenes, tmp_path):
    layout(tmp_path, scenes)
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.split) == LAYOUTS[layout]
    assert [pair.picture.stem for pair in dataset.pairs] == list(scenes)
    assert dataset.classes == TWELVE
    for pair, scene in zip(dataset.pairs, scenes.values(), strict=True):
        labels = dataset.labels(pair)
        assert labels.shape == (H, W) and labels.dtype == np.uint8
        assert (labels == scene.labels).all()


def test_the_scenes_of_minseg_demo(tmp_path):
    """They hold indices in a picture with a palette."""
    write_scenes(tmp_path, 5, 32, 24, 2)
    dataset = open_dataset(tmp_path)
    assert [pair.picture.name for pair in dataset.pairs] == ["street_000.png", "street_001.png"]
    assert (dataset.labels(dataset.pairs[1]) == street_scene(6, 32, 24).labels).all()


def test_a_part_is_evenly_spread(scenes, tmp_path):
    as_scenes(tmp_path, scenes)
    dataset = open_dataset(tmp_path)
    many = replace(dataset, pairs=dataset.pairs * 4, total=12)
    assert many.spread(3).pairs == (many.pairs[0], many.pairs[4], many.pairs[8])
    assert many.spread(99).pairs == many.pairs
    assert many.spread(3).total == 12


def test_camvid_beside_the_checkout(shared_folder):
    for split, count in (("train", 367), ("val", 101), ("test", 233)):
        dataset = open_dataset(shared_folder / "camvid", split)
        assert (len(dataset.pairs), dataset.classes) == (count, TWELVE)


def test_a_list_of_classes_for_labels_that_are_indices(tmp_path, scenes):
    as_lists(tmp_path, scenes)
    names = tuple(f"thing {i}" for i in range(11))
    classes = Classes((*names, "Void"), TWELVE.colours, ("Void",))
    (tmp_path / "class_dict.csv").write_text(class_dict(classes))
    assert open_dataset(tmp_path).classes == classes


def test_a_folder_that_may_not_be_read(scenes, tmp_path, monkeypatch):
    as_colours(tmp_path, scenes)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"test_labels': Permission denied"):
        open_dataset(tmp_path)
