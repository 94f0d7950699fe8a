"""Trains camvid-small and writes its three files; README.md beside this file says how.

    python weights/training/train.py --camvid FOLDER --output FOLDER --minutes 60

A stage whose result is in the output folder already is not repeated.
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from data import CLASSES, UNLABELED, Crops, Pictures, camvid, draw_batch, scenes
from export import export
from network import SmallNet, convolutions, enlarge
from quantize import quantize
from torch import Tensor
from torch.nn import functional

#: Small crops for most of a stage, whole pictures at its end.
EARLY = Crops(320, 240, zoom=(0.6, 1.6), batch=8)
LATE = Crops(480, 360, zoom=(0.8, 1.3), batch=4)
#: Each stage's share of the time, its highest learning rate, and how much of it sees small crops.
#: The second is a warm restart, the third trains the pruned network.
STAGES = (
    ("train", 0.74, 2.5e-3, 0.7),
    ("again", 0.14, 1.5e-3, 0.4),
    ("prune", 0.12, 1e-3, 0.4),
)
#: Which share of a batch is generated scenes, how many there are, and the first one's seed.
SCENE_SHARE, SCENES, FIRST_SCENE = 0.2, 600, 0
WARM_UP, WEIGHT_DECAY, EMA_DECAY = 0.03, 0.02, 0.996
SPARSITY = 0.6
#: From how many pictures of each source the ranges of 8-bit integers are taken.
CALIBRATION = 30

AfterStep = Callable[[SmallNet], None]


@dataclass(frozen=True)
class Data:
    """What is trained on, what is measured on, and where the computing happens."""

    sources: list[tuple[float, Pictures]]
    validation: Pictures
    device: torch.device

    def batch(self, rng: np.random.Generator, crops: Crops) -> tuple[Tensor, Tensor]:
        """A random batch: B×3×h×w float32, 0 to 255, and B×h×w int64 labels."""
        images, labels = draw_batch(rng, self.sources, crops)
        pictures = torch.from_numpy(images).to(self.device).permute(0, 3, 1, 2).float()
        return pictures, torch.from_numpy(labels).to(self.device).long()


@dataclass(frozen=True)
class Stage:
    """One training run of ``minutes``: the highest learning rate, and when crops grow."""

    name: str
    minutes: float
    rate: float
    whole_pictures_from: float

    def progress(self) -> Iterator[float]:
        """How much of the time is over, from 0 to 1, once for each step."""
        start = time.monotonic()
        while (passed := (time.monotonic() - start) / (60 * self.minutes)) < 1:
            yield passed

    def rate_at(self, progress: float) -> float:
        """Linear warm-up, then half a cosine down to 0 (Loshchilov and Hutter, 2017)."""
        if progress < WARM_UP:
            return self.rate * (progress + 0.001) / WARM_UP
        return self.rate * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def train(
    network: SmallNet, stage: Stage, data: Data, output: Path, after_step: AfterStep | None = None
) -> SmallNet:
    """Train ``network`` and return the moving average of its weights."""
    rng = np.random.default_rng(1)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    weights = class_weights(data.sources[0][1]).to(data.device)
    average = copy.deepcopy(network)
    curve = Curve(stage, data, output)
    for step, progress in enumerate(stage.progress()):
        crops = EARLY if progress < stage.whole_pictures_from else LATE
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(progress)
        loss = loss_of(network, *data.batch(rng, crops), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step is not None:
            after_step(network)
        follow(average, network, min(EMA_DECAY, (1 + step) / (10 + step)))
        curve.add(step, progress, crops, loss.item(), average)
    return average


class Curve:
    """Prints the mean loss and the validation mIoU ten times a stage and appends them to a file."""

    def __init__(self, stage: Stage, data: Data, output: Path):
        self.stage, self.data = stage, data
        self.file = output / "curve.csv"
        self.losses: list[float] = []
        self.pictures = 0
        self.next = 0.1

    def add(self, step: int, progress: float, crops: Crops, loss: float, average: SmallNet) -> None:
        self.losses.append(loss)
        self.pictures += crops.batch
        if progress < self.next:
            return
        self.next = math.floor(10 * progress + 1) / 10
        score = float(np.mean(ious(confusion(average, self.data.validation, self.data.device))))
        minutes = progress * self.stage.minutes
        line = f"{self.stage.name},{minutes:.1f},{step},{self.pictures},"
        line += f"{np.mean(self.losses):.4f},{score:.4f}"
        print(line, flush=True)
        with self.file.open("a") as file:
            file.write(line + "\n")
        self.losses.clear()
        save(average, self.file.with_name("latest.pt"))


def class_weights(pictures: Pictures) -> Tensor:
    """1 / ln(1.1 + share), as in ENet (Paszke et al., 2016) but flatter; 0 for Unlabeled."""
    weights = np.zeros(CLASSES, np.float32)
    weights[:UNLABELED] = 1 / np.log(1.1 + pictures.class_shares())
    return torch.from_numpy(weights / weights[:UNLABELED].mean())


def loss_of(network: SmallNet, pictures: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy plus 1 - soft mIoU (Rahman and Wang, 2016), at half size.

    Of every 2×2 labels one is taken, any of them alike, so that nothing shifts the prediction.
    """
    with torch.autocast(pictures.device.type, torch.bfloat16):
        logits = network(pictures.contiguous(memory_format=torch.channels_last))
    logits = functional.interpolate(
        logits.float(), scale_factor=2, mode="bilinear", align_corners=False
    )
    row, column = torch.randint(2, (2,)).tolist()
    target = labels[:, row::2, column::2]
    entropy = functional.cross_entropy(logits, target, weights, ignore_index=UNLABELED)
    truth = functional.one_hot(target, CLASSES).movedim(-1, 1)[:, :UNLABELED].float()
    known = (target != UNLABELED)[:, None]
    probable = logits.softmax(1)[:, :UNLABELED] * known
    common = (probable * truth).sum((0, 2, 3))
    size = truth.sum((0, 2, 3))
    present = size > 0
    overlap = common / (probable.sum((0, 2, 3)) + size - common + 1)
    return entropy + 1 - overlap[present].mean()


@torch.no_grad()
def follow(average: SmallNet, network: SmallNet, decay: float) -> None:
    """Move ``average`` towards ``network``: weights and batch statistics."""
    for mean, value in zip(
        average.state_dict().values(), network.state_dict().values(), strict=True
    ):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)


@torch.no_grad()
def confusion(network: SmallNet, pictures: Pictures, device: torch.device) -> np.ndarray:
    """11×12 counts over all pictures at full size: rows are true classes, columns predictions."""
    network.eval()
    counts = np.zeros(CLASSES * CLASSES, np.int64)
    for image, labels in zip(pictures.images, pictures.labels, strict=True):
        picture = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()
        with torch.autocast(device.type, torch.bfloat16):
            logits = network(picture.contiguous(memory_format=torch.channels_last))
        predicted = enlarge(logits.float(), picture)[0].argmax(0).byte().cpu().numpy()
        pairs = CLASSES * labels.reshape(-1).astype(np.int64) + predicted.reshape(-1)
        counts += np.bincount(pairs, minlength=len(counts))
    network.train()
    return counts.reshape(CLASSES, CLASSES)[:UNLABELED]


def ious(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of the 11 labelled classes."""
    true, hit = counts.sum(1), np.diagonal(counts)
    return np.asarray(hit / np.maximum(true + counts[:, :UNLABELED].sum(0) - hit, 1))


def prune(network: SmallNet, share: float) -> AfterStep:
    """Zero the smallest weights of each convolution, and give what keeps them zero."""
    masks = []
    for layer in convolutions(network):
        magnitude = layer.weight.detach().abs()
        masks.append(magnitude > magnitude.flatten().kthvalue(round(share * magnitude.numel()))[0])

    @torch.no_grad()
    def apply(pruned: SmallNet) -> None:
        for layer, mask in zip(convolutions(pruned), masks, strict=True):
            layer.weight.mul_(mask)

    apply(network)
    return apply


def load_data(folder: Path, output: Path, device: torch.device) -> Data:
    """CamVid and the generated scenes; these are drawn once and kept in ``output``."""
    cache = output / "scenes.npz"
    if not cache.exists():
        drawn = scenes(FIRST_SCENE, SCENES, os.cpu_count() or 1)
        np.savez(cache, images=drawn.images, labels=drawn.labels)
    with np.load(cache) as kept:
        generated = Pictures(kept["images"], kept["labels"])
    sources = [(1 - SCENE_SHARE, camvid(folder, "train")), (SCENE_SHARE, generated)]
    return Data(sources, camvid(folder, "val"), device)


def save(network: SmallNet, path: Path) -> None:
    """Write the weights to ``path``, complete or not at all."""
    temporary = path.with_suffix(".part")
    torch.save(network.state_dict(), temporary)
    os.replace(temporary, path)


def new_network(device: torch.device, weights: Path | None = None) -> SmallNet:
    """A network, with the weights in a file or with random ones."""
    torch.manual_seed(0)
    network = SmallNet()
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    return network.to(device, memory_format=torch.channels_last)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train camvid-small.")
    parser.add_argument("--camvid", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--output", type=Path, required=True, help="where results go")
    parser.add_argument("--minutes", type=float, default=60, help="time for all training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    output, device = options.output, torch.device(options.device)
    output.mkdir(parents=True, exist_ok=True)
    data = load_data(options.camvid, output, device)
    first, trained, pruned = (output / f"{name}.pt" for name in ("first", "trained", "pruned"))
    stages = [Stage(name, share * options.minutes, *rest) for name, share, *rest in STAGES]
    if not first.exists():
        save(train(new_network(device), stages[0], data, output), first)
    if not trained.exists():
        save(train(new_network(device, first), stages[1], data, output), trained)
    if not pruned.exists():
        network = new_network(device, trained)
        keep_zero = prune(network, SPARSITY)
        save(train(network, stages[2], data, output, keep_zero), pruned)
    write_models(trained, pruned, data, output)


def write_models(trained: Path, pruned: Path, data: Data, output: Path) -> None:
    """Write the three ONNX files into ``output``."""
    cpu = torch.device("cpu")
    export(new_network(cpu, trained), output / "camvid-small.onnx", "camvid-small")
    export(new_network(cpu, pruned), output / "camvid-small-sparse60.onnx", "camvid-small-sparse60")
    pictures = [source.images[:: len(source) // CALIBRATION] for _, source in data.sources]
    quantize(
        output / "camvid-small.onnx",
        output / "camvid-small-int8.onnx",
        "camvid-small-int8",
        np.concatenate(pictures),
    )


if __name__ == "__main__":
    main()
