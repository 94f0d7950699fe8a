"""How far whole models are from float64: minseg, minseg without inexact algorithms, onnxruntime.

Each model runs on a painted street scene and on noise; the larger error counts. The measure is
minseg's numpy backend on the network in double precision. Printed are the largest error of a
probability and the share of pixels with another label; beside them those of minseg against
onnxruntime.

    python benchmarks/accuracy.py [MODEL …] [--json FILE]

MODEL is an ONNX file of a network in floats, or a builder's name (default: the four networks).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnxruntime

import minseg
from minseg.images.output import interpret_output
from minseg.images.recipe import Recipe
from minseg.measure.double import in_double
from minseg.weights import build_file
from minseg.weights.pictures import street

NETWORKS: Mapping[str, Mapping[str, str]] = {
    "unet-camvid-onnx-0001": {},
    "unet-resnet34-camvid": {},
    "icnet-camvid-int8-onnx-0001": {"notation": "float"},
    "icnet-camvid-ava-sparse-60-0001": {},
}

MEASURE = "float64"


@dataclass(frozen=True)
class Row:
    """One engine against another: the largest difference of a probability (None where the model
    gives labels only) and the share of pixels with another label."""

    model: str
    engine: str
    against: str
    probability: float | None
    flipped: float

    def __str__(self) -> str:
        probability = "-" if self.probability is None else f"{self.probability:.1e}"
        names = f"{self.model:34}  {self.engine:13}  {self.against:11}"
        return f"{names}  {probability:>11}  {self.flipped:9.4%}"


def compare(path: Path) -> list[Row]:
    """The rows of one model."""
    fast = minseg.load(path)
    recipe = fast.recipe
    size = recipe.height or 360, recipe.width or 480
    painted = street(*size, seed=0).round().astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, painted.shape, np.uint8)
    pairs = [("minseg", MEASURE), ("minseg exact", MEASURE), ("onnxruntime", MEASURE)]
    pairs.append(("minseg", "onnxruntime"))
    found: list[list[tuple[float | None, float]]] = [[] for _ in pairs]
    for picture in (painted, noise):
        outputs = run_all(path, {recipe.input_name: recipe.apply(picture)})
        for (engine, other), differences in zip(pairs, found, strict=True):
            differences.append(difference(outputs[engine], outputs[other], recipe))
    rows = []
    for (engine, other), differences in zip(pairs, found, strict=True):
        known = [p for p, _ in differences if p is not None]
        worst = max(known, default=None), max(flipped for _, flipped in differences)
        rows.append(Row(path.stem, engine, other, *worst))
    return rows


def run_all(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first output of every engine."""
    graph = minseg.load(path, backend="numpy").graph
    sessions = {
        "minseg": minseg.Session(graph),
        "minseg exact": minseg.Session(graph, precision="exact"),
        "onnxruntime": onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]),
    }
    outputs = {name: session.run(None, feeds)[0] for name, session in sessions.items()}
    wide = {n: x.astype(np.float64) if x.dtype == np.float32 else x for n, x in feeds.items()}
    double = minseg.Session(in_double(graph), backend="numpy")
    return {**outputs, MEASURE: double.run(None, wide)[0]}


def difference(a: np.ndarray, b: np.ndarray, recipe: Recipe) -> tuple[float | None, float]:
    """As a `Row` has it."""
    one, other = interpret_output(a, recipe), interpret_output(b, recipe)
    flipped = float((one.labels != other.labels).mean())
    if one.scores is None or other.scores is None:
        return None, flipped
    p, q = (softmax(o.scores) if o.are_logits else o.scores for o in (one, other))
    return float(np.abs(p.astype(np.float64) - q).max()), flipped


def softmax(x: np.ndarray) -> np.ndarray:
    """Probabilities from C×H×W logits, in float64."""
    e = np.exp(x.astype(np.float64) - x.max(0))
    return e / e.sum(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(NETWORKS), metavar="MODEL")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    print(f"{'model':34}  {'engine':13}  {'against':11}  {'probability':>11}  {'flipped':>9}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            path = Path(model)
            if not path.exists():
                path = Path(folder) / f"{model}.onnx"
                build_file(model, path, **NETWORKS.get(model, {}))
            for row in compare(path):
                rows.append(row)
                print(row, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
