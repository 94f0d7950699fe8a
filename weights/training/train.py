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

import torch
from data import CLASSES, UNLABELED, Crops, Pictures, camvid, draw_batch, scenes
from export import export
from network import SmallNet, convolutions, enlarge
from quantize import quantize
from torch import Tensor
from torch.nn import functional

#: Small crops for most of a stage, whole pictures at its end.
EARLY = Crops(320, 240, zoom=(0.6, 1.8))
LATE = Crops(480, 360, zoom=(0.75, 1.4))
#: How many of them a step sees. A GPU takes hardly longer for many than for few.
GPU_BATCH, CPU_BATCH = 64, 8
#: Each stage's share of the time, its highest learning rate, and how much of it sees small crops.
#: The second trains the pruned network.
STAGES = (("train", 0.7, 3e-3, 0.65), ("prune", 0.3, 1e-3, 0.4))
#: Which share of a batch is generated scenes, how many there are, and the first one's seed.
SCENE_SHARE, SCENES, FIRST_SCENE = 0.2, 1000, 0
WARM_UP, WEIGHT_DECAY, EMA_DECAY = 0.03, 0.05, 0.999
SPARSITY = 0.6
#: From how many pictures of each source the ranges of 8-bit integers are taken.
CALIBRATION = 30

AfterStep = Callable[[SmallNet], None]


@dataclass(frozen=True)
class Data:
    """What is trained on, how much of it a step sees, and what is measured on."""

    sources: list[tuple[float, Pictures]]
    batch: int
    validation: Pictures


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
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY, fused=True)
    weights = class_weights(data.sources[0][1])
    average = copy.deepcopy(network)
    curve = Curve(stage, data, output)
    for step, progress in enumerate(stage.progress()):
        crops = EARLY if progress < stage.whole_pictures_from else LATE
        for group in optimizer.param_groups:
            group["lr"] = stage.rate_at(progress)
        loss = loss_of(network, *draw_batch(data.sources, crops, data.batch), weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if after_step is not None:
            after_step(network)
        follow(average, network, min(EMA_DECAY, (1 + step) / (10 + step)))
        curve.add(step, progress, loss.detach(), average)
    return average


class Curve:
    """Prints the mean loss and the validation mIoU ten times a stage and appends them to a file."""

    def __init__(self, stage: Stage, data: Data, output: Path):
        self.stage, self.data = stage, data
        self.file = output / "curve.csv"
        self.losses: list[Tensor] = []
        self.next = 0.1

    def add(self, step: int, progress: float, loss: Tensor, average: SmallNet) -> None:
        self.losses.append(loss)
        if progress < self.next:
            return
        self.next = math.floor(10 * progress + 1) / 10
        score = ious(confusion(average, self.data.validation)).mean().item()
        minutes = progress * self.stage.minutes
        line = f"{self.stage.name},{minutes:.1f},{step},{(step + 1) * self.data.batch},"
        line += f"{torch.stack(self.losses).mean():.4f},{score:.4f}"
        print(line, flush=True)
        with self.file.open("a") as file:
            file.write(line + "\n")
        self.losses.clear()
        save(average, self.file.with_name("latest.pt"))


def class_weights(pictures: Pictures) -> Tensor:
    """1 / ln(1.1 + share), as in ENet (Paszke et al., 2016) but flatter; 0 for Unlabeled."""
    weights = 1 / (1.1 + pictures.class_shares()).log()
    return functional.pad(weights / weights.mean(), (0, CLASSES - UNLABELED))


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
    return entropy + 1 - (overlap * present).sum() / present.sum()


@torch.no_grad()
def follow(average: SmallNet, network: SmallNet, decay: float) -> None:
    """Move ``average`` towards ``network``: weights and batch statistics."""
    means, values = (
        [t for t in (*moving.parameters(), *moving.buffers()) if t.is_floating_point()]
        for moving in (average, network)
    )
    torch._foreach_lerp_(means, values, 1 - decay)


@torch.no_grad()
def confusion(network: SmallNet, pictures: Pictures) -> Tensor:
    """11×12 counts over all pictures at full size: rows are true classes, columns predictions."""
    network.eval()
    counts = torch.zeros(CLASSES * CLASSES, dtype=torch.int64, device=pictures.images.device)
    for images, labels in zip(pictures.images.split(8), pictures.labels.split(8), strict=True):
        with torch.autocast(images.device.type, torch.bfloat16):
            logits = network(images.float().contiguous(memory_format=torch.channels_last))
        predicted = enlarge(logits.float(), images).argmax(1)
        counts += (CLASSES * labels.long() + predicted).flatten().bincount(minlength=len(counts))
    network.train()
    return counts.view(CLASSES, CLASSES)[:UNLABELED]


def ious(counts: Tensor) -> Tensor:
    """Intersection over union of the 11 labelled classes."""
    true, hit = counts.sum(1), counts.diagonal()
    return hit / (true + counts[:, :UNLABELED].sum(0) - hit).clamp(min=1)


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
    cache = output / "scenes.pt"
    if not cache.exists():
        drawn = scenes(FIRST_SCENE, SCENES, os.cpu_count() or 1)
        torch.save((drawn.images, drawn.labels), cache)
    generated = Pictures(*torch.load(cache)).to(device)
    sources = [(1 - SCENE_SHARE, camvid(folder, "train").to(device)), (SCENE_SHARE, generated)]
    batch = CPU_BATCH if device.type == "cpu" else GPU_BATCH
    return Data(sources, batch, camvid(folder, "val").to(device))


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
        network.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
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
    torch.backends.cudnn.benchmark = True
    output.mkdir(parents=True, exist_ok=True)
    data = load_data(options.camvid, output, device)
    trained, pruned = output / "trained.pt", output / "pruned.pt"
    stages = [Stage(name, share * options.minutes, *rest) for name, share, *rest in STAGES]
    if not trained.exists():
        save(train(new_network(device), stages[0], data, output), trained)
    if not pruned.exists():
        network = new_network(device, trained)
        keep_zero = prune(network, SPARSITY)
        save(train(network, stages[1], data, output, keep_zero), pruned)
    write_models(trained, pruned, data, output)


def write_models(trained: Path, pruned: Path, data: Data, output: Path) -> None:
    """Write the three ONNX files into ``output``."""
    cpu = torch.device("cpu")
    export(new_network(cpu, trained), output / "camvid-small.onnx", "camvid-small")
    export(new_network(cpu, pruned), output / "camvid-small-sparse60.onnx", "camvid-small-sparse60")
    pictures = [source.images[:: len(source) // CALIBRATION].cpu() for _, source in data.sources]
    quantize(
        output / "camvid-small.onnx",
        output / "camvid-small-int8.onnx",
        "camvid-small-int8",
        torch.cat(pictures),
    )


if __name__ == "__main__":
    main()
