"""Times whole models, minseg and onnxruntime taking turns, batch 1, at 1 and 2 threads.

The outputs are compared before anything is timed. The ratio is onnxruntime's median time divided
by minseg's: above 1, minseg is faster.

    python benchmarks/models.py [MODEL …] [--threads 1,2] [--rounds N]

MODEL is an ONNX file or a builder's name (default: all of these, with synthetic weights).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import minseg
from minseg.weights import BUILDERS, build_file


@dataclass(frozen=True)
class Row:
    """Seconds for one picture, and how the first picture's labels agree."""

    model: str
    threads: int
    minseg: list[float]
    onnxruntime: list[float]
    agreement: float

    @property
    def ratio(self) -> float:
        return statistics.median(self.onnxruntime) / statistics.median(self.minseg)

    def __str__(self) -> str:
        times = [f"{statistics.median(t):8.3f} ({min(t):.3f})" for t in self.both]
        cells = [f"{self.model:34}", f"{self.threads:7}", *times, f"{self.ratio:6.2f}"]
        return "  ".join([*cells, f"{self.agreement:9.4%}"])

    @property
    def both(self) -> tuple[list[float], list[float]]:
        return self.minseg, self.onnxruntime


def compare(path: Path, threads: int, rounds: int) -> Row:
    """One model in both engines. Raises SystemExit where their labels disagree."""
    ours = minseg.load(path, threads=threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    theirs = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), np.uint8)
    feeds = {ours.get_inputs()[0].name: ours.recipe.apply(Image.fromarray(noise))}
    engines: list[Callable[[], np.ndarray]] = [
        lambda: ours.run(None, feeds)[0],
        lambda: theirs.run(None, feeds)[0],
    ]
    a, b = (labels(engine()) for engine in engines)
    agreement = float((a == b).mean())
    if agreement < 0.999:
        raise SystemExit(f"{path}: only {agreement:.2%} of labels agree; nothing was timed")
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for engine, spent in zip(engines, times, strict=True):
            begin = time.perf_counter()
            engine()
            spent.append(time.perf_counter() - begin)
    return Row(path.stem, threads, *times, agreement)


def labels(output: np.ndarray) -> np.ndarray:
    """Class indices of an N×C×H×W output; an output of indices as it is."""
    return output if output.dtype.kind in "iu" else output.argmax(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(BUILDERS), metavar="MODEL")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    print("seconds: median (least)                                 minseg      onnxruntime   ratio")
    with tempfile.TemporaryDirectory() as folder:
        for model in chosen.models:
            path = Path(model)
            if not path.exists():
                path = Path(folder) / f"{model}.onnx"
                build_file(model, path)
            for threads in map(int, chosen.threads.split(",")):
                print(compare(path, threads, chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
