"""``minseg quantize``: a network of floats as one of 8-bit integers, for any engine."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.text import Progress, columns, quantity
from minseg.errors import InputError

if TYPE_CHECKING:
    from minseg.evaluation.datasets import Dataset
    from minseg.evaluation.metrics import Scores
    from minseg.graph.model import Graph
    from minseg.images.recipe import Recipe
    from minseg.quantization.observe import Feeds
    from minseg.quantization.report import Layer

SUFFIX = ".onnx"
METHODS = ("minmax", "percentile", "mse", "entropy")

#: Calibration pictures that the report of layers is made on.
REPORTED = 4


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "quantize",
        help="turn a model of floats into one of 8-bit integers",
        description="Writes a model whose convolutions take and give 8-bit integers, as a standard "
        "ONNX file with QuantizeLinear and DequantizeLinear. Ranges are taken from what the model "
        "makes of the calibration pictures. Tells of each layer how much of its signal is left, "
        "and, given labels, what the model's accuracy was and is.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT.onnx", help="the file to write"
    )
    parser.add_argument(
        "--calibration",
        required=True,
        metavar="DIR",
        help="pictures such as the model will see: a folder, a file or a pattern",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default="mse",
        help="how the range of each value is chosen: all of it, all but 0.01 %%, the one with the "
        "least squared error, or with the least loss of information (default mse)",
    )
    parser.add_argument(
        "--per-channel",
        action="store_true",
        help="a scale for each output channel of the weights, not one for all",
    )
    parser.add_argument(
        "--labels",
        metavar="DATASET",
        help="measure the accuracy before and after on a data set, as 'minseg eval' does",
    )
    parser.add_argument("--split", metavar="NAME", help="which part of DATASET (default: test)")
    parser.add_argument(
        "--limit",
        type=options.positive,
        metavar="N",
        help="only N pictures, evenly spread, to calibrate on and to measure with",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options.add_threads(parser)
    options.add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    from minseg.graph.onnx_writer import save_onnx, write_onnx
    from minseg.images.recipe import session_recipe
    from minseg.quantization.quantise import quantise
    from minseg.quantization.report import layers

    target = check_target(arguments)
    dataset = open_labels(arguments)
    session = options.load_session(arguments, "numpy")
    flags = options.recipe_overrides(arguments)
    card = options.card_name(arguments, session)
    recipe = session_recipe(session, {**flags, "card": card})
    pictures = gather(arguments.calibration, arguments.limit)
    quantised = quantise(
        session.graph,
        feeds(pictures, recipe, "calibrating on"),
        method=arguments.method,
        per_channel=arguments.per_channel,
        threads=arguments.threads,
    )
    graph = with_metadata(quantised.result.graph, card, recipe, flags)
    few = feeds(spread(pictures, REPORTED), recipe, "comparing on")
    report = layers(quantised, few, arguments.threads)
    scores: list[Scores] = []
    if dataset is not None:
        overrides = {**flags, "card": card}
        scores = measured(arguments, (session.graph, graph), dataset, overrides)
    files = save_onnx(write_onnx(graph), target)
    if arguments.json:
        facts = {
            "model": arguments.model,
            "method": arguments.method,
            "per_channel": arguments.per_channel,
            "pictures": len(pictures),
            "preprocessing": recipe.to_dict(),
            "layers": [as_dict(layer) for layer in report],
            "miou": dict(zip(("floats", "integers"), (s.mean_iou for s in scores), strict=False)),
            "files": [str(path) for path in files],
        }
        print(json.dumps(facts))
        return 0
    print(f"{arguments.model}  ({arguments.method}, {len(pictures)} calibration pictures)")
    print(recipe.describe())
    print(table(report))
    for label, score in zip(("floats", "integers"), scores, strict=False):
        print(f"mIoU of {label:<8}  {100 * score.mean_iou:.2f} %")
    for path in files:
        print(f"saved {path}  {quantity(path.stat().st_size, 'B')}")
    return 0


def check_target(arguments: argparse.Namespace) -> Path:
    """Complain of the file to write before the work. Raises InputError."""
    target = Path(arguments.output)
    if target.suffix != SUFFIX or target.is_dir():
        raise InputError(f"--output '{target}' does not name a file that ends with {SUFFIX}")
    if not target.parent.is_dir():
        raise InputError(f"--output '{target}': there is no folder '{target.parent}'")
    if target.exists() and target.resolve() == Path(arguments.model).resolve():
        raise InputError(f"--output '{target}' is the model itself")
    return target


def open_labels(arguments: argparse.Namespace) -> Dataset | None:
    from minseg.evaluation.datasets import open_dataset

    if arguments.labels is None:
        if arguments.split is not None:
            raise InputError("--split is a part of the data set that --labels names")
        return None
    dataset = open_dataset(arguments.labels, arguments.split)
    return dataset if arguments.limit is None else dataset.spread(arguments.limit)


def gather(source: str, limit: int | None) -> list[Path]:
    from minseg.images.files import gather_pictures

    found = gather_pictures([source])
    return found if limit is None else spread(found, limit)


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most ``count``, evenly spread: neighbours are often alike."""
    count = min(count, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def feeds(pictures: Sequence[Path], recipe: Recipe, what: str) -> Iterator[Feeds]:
    """The pictures as the model takes them, one after the other."""
    progress = Progress(len(pictures), sys.stderr)
    try:
        for index, path in enumerate(pictures):
            progress.show(index, f"{what} {path.name}")
            yield {recipe.input_name: recipe.apply(path)}
    finally:
        progress.clear()


def with_metadata(graph: Graph, card: str | None, recipe: Recipe, flags: Collection[str]) -> Graph:
    """``graph`` with the name of its card, and what flags said of its preprocessing."""
    from dataclasses import replace

    from minseg.images.recipe import CARD_KEY, RECIPE_KEY

    metadata = dict(graph.metadata)
    if card is not None:
        metadata[CARD_KEY] = card
    if flags:
        known = json.loads(metadata.get(RECIPE_KEY, "{}"))
        metadata[RECIPE_KEY] = json.dumps({**known, **{n: getattr(recipe, n) for n in flags}})
    return replace(graph, metadata=metadata)


def measured(
    arguments: argparse.Namespace, graphs: Sequence[Graph], dataset: Dataset, overrides: Any
) -> list[Scores]:
    """How well each of ``graphs`` labels the data set."""
    from minseg import Session
    from minseg.cli.eval import judge_all
    from minseg.evaluation.engines import by_minseg
    from minseg.evaluation.evaluate import Evaluation, Evaluator

    scores = []
    for graph in graphs:
        engine = by_minseg(Session(graph, threads=arguments.threads))
        evaluator = Evaluator(engine, dataset, overrides)
        results = judge_all(evaluator, dataset)
        scores.append(Evaluation(dataset, evaluator.match, results).scores)
    if scores[0].is_empty:
        raise InputError(f"no picture of '{dataset.folder}' has labels to judge by")
    return scores


def table(report: Sequence[Layer]) -> str:
    """One row per value, with decibels of signal to noise."""
    rows = [("layer", "operator", "scale", "zero", "weights", "alone", "in the network")]
    for layer in report:
        scale, zero = ("", "") if layer.grid is None else _numbers(layer)
        weights, alone, network = map(decibels, (layer.weights, layer.alone, layer.network))
        rows.append((layer.node, layer.op, scale, zero, weights, alone, network))
    return "signal to quantisation noise, dB\n" + columns(rows, "<<>>>>>", "  ")


def _numbers(layer: Layer) -> tuple[str, str]:
    assert layer.grid is not None
    return f"{float(layer.grid.scale):.4g}", str(layer.grid.zero_point)


def decibels(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if math.isfinite(value) else "exact" if value > 0 else "n/a"


def as_dict(layer: Layer) -> dict[str, Any]:
    """Ready for JSON; decibels that are no number are None."""
    grid = layer.grid
    return {
        "value": layer.value,
        "node": layer.node,
        "operator": layer.op,
        "scale": None if grid is None else float(grid.scale),
        "zero_point": None if grid is None else grid.zero_point,
        **{
            f"{name}_db": value if value is not None and math.isfinite(value) else None
            for name, value in (
                ("weights", layer.weights),
                ("alone", layer.alone),
                ("network", layer.network),
            )
        },
    }
