"""A model on a data set: every picture through it, one confusion matrix, figures."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minseg.errors import InputError
from minseg.evaluation.classes import Match, match_named, match_unnamed
from minseg.evaluation.datasets import Dataset, Pair
from minseg.evaluation.engines import ClockedSession
from minseg.evaluation.metrics import Scores, confusion_matrix
from minseg.images.palette import Palette
from minseg.images.picture import load_picture
from minseg.images.segmentation import Segmentation, segment_with


@dataclass(frozen=True)
class PictureResult:
    """What became of one picture. ``size`` is that of its labels, ``model_size`` that of the
    model's output (both height and width); ``seconds`` from the picture's file to the labels of
    its pixels, ``model_seconds`` the network alone.
    """

    pair: Pair
    scores: Scores
    size: tuple[int, int]
    model_size: tuple[int, int]
    gives_scores: bool
    seconds: float
    model_seconds: float


class Evaluator:
    """Judges pictures of ``dataset`` by what ``engine`` says of them.

    ``overrides`` are those of `minseg.Session.segment`. ``match`` is known after the first
    picture: some models only then say how many classes they have.
    """

    def __init__(self, engine: ClockedSession, dataset: Dataset, overrides: Mapping[str, Any]):
        self.engine, self.dataset, self._overrides = engine, dataset, overrides
        self._match: Match | None = None

    @property
    def match(self) -> Match:
        if self._match is None:
            raise InputError("no picture was evaluated")
        return self._match

    def judge(self, pair: Pair) -> PictureResult:
        """Segment the picture and compare. Raises InputError for a pair that can't be compared,
        ExecutionError where the model fails.
        """
        labels = self.dataset.labels(pair)
        preparation, model_seconds = self.engine.preparation, self.engine.seconds
        start = time.perf_counter()
        picture = load_picture(pair.picture)
        _check_sizes(pair, picture, labels)
        segmentation = segment_with(self.engine, picture, **self._overrides)
        mask = segmentation.mask_at(*labels.shape)
        seconds = time.perf_counter() - start - (self.engine.preparation - preparation)
        if self._match is None:
            self._match = _match_classes(self.dataset, segmentation)
        match = self._match
        matrix = confusion_matrix(
            match.truth[labels], _mapped(mask, match), len(match.classes.names), match.ignored
        )
        return PictureResult(
            pair,
            Scores(matrix, match.judged),
            (labels.shape[0], labels.shape[1]),
            (segmentation.labels.shape[0], segmentation.labels.shape[1]),
            segmentation.output.scores is not None,
            seconds,
            self.engine.seconds - model_seconds,
        )

    def compare(self, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The picture (HxWx3 uint8), and truth and prediction at the size of the labels (HxW,
        indices of ``match.classes``).
        """
        picture, labels = load_picture(pair.picture), self.dataset.labels(pair)
        mask = segment_with(self.engine, picture, **self._overrides).mask_at(*labels.shape)
        return picture, self.match.truth[labels], _mapped(mask, self.match)


def _check_sizes(pair: Pair, picture: np.ndarray, labels: np.ndarray) -> None:
    """Labels may be larger or smaller than their picture, but must show the same."""
    (height, width), (rows, columns) = picture.shape[:2], labels.shape
    if height * columns != width * rows:
        raise InputError(
            f"'{pair.picture}' has {width}x{height} pixels and its labels '{pair.labels}' "
            f"{columns}x{rows}: they don't have one shape"
        )


def _match_classes(dataset: Dataset, segmentation: Segmentation) -> Match:
    names, n = segmentation.classes, segmentation.output.n_classes
    if names == Palette.generated(len(names)).names:
        return match_unnamed(dataset.classes, None if segmentation.output.scores is None else n)
    return match_named(dataset.classes, names)


def _mapped(mask: np.ndarray, match: Match) -> np.ndarray:
    highest, known = int(mask.max()), len(match.predicted)
    if highest >= known:
        raise InputError(
            f"the model found class {highest}, but {known} are known: name all with --classes"
        )
    return np.asarray(match.predicted[mask])


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on ``pictures`` of ``dataset``."""

    dataset: Dataset
    match: Match
    pictures: Sequence[PictureResult]

    @cached_property
    def scores(self) -> Scores:
        """Those of one confusion matrix over all pictures."""
        matrices = [picture.scores.matrix for picture in self.pictures]
        return Scores(np.sum(matrices, axis=0), self.match.judged)

    @property
    def pictures_per_second(self) -> tuple[float, float]:
        """From files to labels, and by the network alone."""
        count = len(self.pictures)
        total = sum(picture.seconds for picture in self.pictures)
        return count / total, count / sum(picture.model_seconds for picture in self.pictures)

    @property
    def ignored_share(self) -> float:
        """The share of all pixels that are not labelled."""
        pixels = sum(height * width for height, width in (p.size for p in self.pictures))
        return float(1 - self.scores.matrix.sum() / pixels)

    def worst(self, count: int) -> list[PictureResult]:
        """The ``count`` pictures with the lowest mIoU, the lowest first."""
        judged = [picture for picture in self.pictures if not picture.scores.is_empty]
        return sorted(judged, key=lambda picture: picture.scores.mean_iou)[:count]

    def policy(self) -> tuple[str, ...]:
        """How the figures came about: what a reader must know to compare them with others."""
        dataset, classes = self.dataset, self.match.classes
        used, total = len(self.pictures), dataset.total
        of = "" if used == total else f" of {total}, evenly spread"
        lines = [
            f"one confusion matrix over {used} picture{'s' if used > 1 else ''}{of}; "
            "IoU = TP / (TP + FP + FN)"
        ]
        ignored = ", ".join(classes.ignored)
        if ignored:
            lines.append(
                f"pixels labelled {ignored} are ignored ({100 * self.ignored_share:.1f} %); "
                f"{ignored} predicted elsewhere is wrong"
            )
        absent = [
            name
            for name, judged, present in zip(
                classes.names, self.match.judged, self.scores.present, strict=True
            )
            if judged and not present
        ]
        if absent:
            lines.append(f"absent from the labels and left out of means: {', '.join(absent)}")
        return (*lines, self._resolution(), *self.match.notes)

    def _resolution(self) -> str:
        sizes, model_sizes = (
            ", ".join(dict.fromkeys(f"{width}x{height}" for height, width in which))
            for which in (
                [picture.size for picture in self.pictures],
                [picture.model_size for picture in self.pictures],
            )
        )
        text = f"judged at the labels' size, {sizes}; labels are never resized"
        if sizes == model_sizes:
            return f"{text}, nor are the model's"
        how = "scores, bilinearly" if self.pictures[0].gives_scores else "indices, to the nearest"
        return f"{text}, the model's {model_sizes} are ({how})"

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON: shares of 0 to 1, None where there is no figure."""
        scores, dataset = self.scores, self.dataset
        total, model = self.pictures_per_second
        return {
            "dataset": {
                "folder": str(dataset.folder),
                "layout": dataset.layout,
                "split": dataset.split,
                "pictures": len(self.pictures),
                "of": dataset.total,
            },
            "policy": list(self.policy()),
            **_figures(scores),
            "pictures_per_second": {"total": round(total, 3), "model": round(model, 3)},
            "classes": [
                {
                    "name": name,
                    "iou": _number(iou),
                    "accuracy": _number(accuracy),
                    "pixels": int(pixels),
                    "predicted": int(predicted),
                    "ignored": name in self.match.classes.ignored,
                }
                for name, iou, accuracy, pixels, predicted in zip(
                    self.match.classes.names,
                    scores.iou,
                    scores.accuracy,
                    scores.truths,
                    scores.matrix.sum(axis=0),
                    strict=True,
                )
            ],
            "confusion": scores.matrix.tolist(),
            "pictures": [
                {
                    "picture": _relative(picture.pair.picture, dataset.folder),
                    "miou": _number(picture.scores.mean_iou),
                    "pixel_accuracy": _number(picture.scores.pixel_accuracy),
                    "seconds": round(picture.seconds, 6),
                    "model_seconds": round(picture.model_seconds, 6),
                }
                for picture in self.pictures
            ],
        }


def _figures(scores: Scores) -> dict[str, float | None]:
    return {
        "miou": _number(scores.mean_iou),
        "pixel_accuracy": _number(scores.pixel_accuracy),
        "mean_accuracy": _number(scores.mean_accuracy),
        "frequency_weighted_iou": _number(scores.frequency_weighted_iou),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _relative(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
