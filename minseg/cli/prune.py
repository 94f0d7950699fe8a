"""``minseg prune``: zero for the smallest weights of a model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.convert import SUFFIX
from minseg.cli.text import columns, quantity
from minseg.errors import InputError

if TYPE_CHECKING:
    from minseg.evaluation.datasets import Dataset
    from minseg.evaluation.evaluate import Evaluation
    from minseg.graph.model import Graph
    from minseg.graph.prune import PrunedKernel


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "prune",
        help="set a model's smallest weights to zero",
        description="Sets the weights of convolutions and matrix products that are smallest in "
        "magnitude to zero, which minseg then skips where that is faster, and reports layer by "
        "layer. Nothing is trained: a model of many zeros wants training afterwards. With "
        "--labels it says what that costs in accuracy.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument(
        "--sparsity", type=share, required=True, metavar="S", help="share of zeros, 0 to below 1"
    )
    parser.add_argument(
        "--scope",
        choices=("layer", "global"),
        default="layer",
        help="that share of each layer's weights, or of all weights together (default layer)",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NAME",
        help="leave these weights alone: the name of a node or a tensor, or a pattern such as "
        "'*decoder*'; may be given more than once",
    )
    parser.add_argument(
        "--sparse-initializers",
        action="store_true",
        help="store pruned weights as ONNX sparse tensors: smaller above two thirds of zeros",
    )
    parser.add_argument(
        "--labels", metavar="DATASET", help="data set to measure mIoU on, as 'minseg eval' takes it"
    )
    parser.add_argument("--split", metavar="NAME", help="which part of it (default: test)")
    parser.add_argument(
        "--limit", type=options.positive, metavar="N", help="only N pictures, evenly spread"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT.onnx", help="file to write")
    options.add_threads(parser)
    options.add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    if not arguments.output.endswith(SUFFIX):
        raise InputError(
            f"'{arguments.output}' does not end with {SUFFIX}: ONNX is what is written"
        )
    if arguments.labels is None and (arguments.split or arguments.limit):
        raise InputError("--split and --limit choose pictures of --labels, which is missing")
    from minseg.graph.onnx_writer import save_onnx, write_onnx
    from minseg.graph.prune import prune
    from minseg.runtime.models import read_model

    dataset = labelled_pictures(arguments)
    graph = read_model(arguments.model)
    pruned, report = prune(graph, arguments.sparsity, arguments.scope, arguments.exclude)
    print(table(report), flush=True)
    chosen = [kernel.name for kernel in report if not kernel.excluded]
    model = write_onnx(pruned, chosen if arguments.sparse_initializers else ())
    for path in save_onnx(model, arguments.output):
        print(f"{path}  {quantity(path.stat().st_size, 'B')}", flush=True)
    if dataset is not None:
        before, after = (evaluation(arguments, g, dataset).scores for g in (graph, pruned))
        print(
            f"mIoU {100 * before.mean_iou:.2f} % before, {100 * after.mean_iou:.2f} % after, "
            f"on {len(dataset.pairs)} pictures of {dataset.folder}"
        )
    return 0


def share(text: str) -> float:
    """A number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to below 1")
    return value


def table(report: Sequence[PrunedKernel]) -> str:
    """One row per kernel, and their sum."""
    rows = [("weights", "shape", "zeros before", "after", "magnitude lost")]
    for kernel in report:
        after = (
            ("excluded", "") if kernel.excluded else (percent(kernel.after), percent(kernel.lost))
        )
        shape = "x".join(map(str, kernel.shape))
        rows.append((kernel.name, shape, percent(kernel.before), *after))
    rows.append(("all", "", percent(zeros(report, "before")), percent(zeros(report, "after")), ""))
    return columns(rows, "<<>>>")


def zeros(report: Sequence[PrunedKernel], when: str) -> float:
    """The share of zeros in all kernels."""
    sizes = [math.prod(kernel.shape) for kernel in report]
    counts = (getattr(k, when) * size for k, size in zip(report, sizes, strict=True))
    return float(sum(counts)) / sum(sizes)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def labelled_pictures(arguments: argparse.Namespace) -> Dataset | None:
    if arguments.labels is None:
        return None
    from minseg.evaluation.datasets import open_dataset

    dataset = open_dataset(arguments.labels, arguments.split)
    return dataset if arguments.limit is None else dataset.spread(arguments.limit)


def evaluation(arguments: argparse.Namespace, graph: Graph, dataset: Dataset) -> Evaluation:
    """``graph`` on the pictures."""
    from minseg.cli.eval import judge_all
    from minseg.evaluation.engines import by_minseg
    from minseg.evaluation.evaluate import Evaluation, Evaluator
    from minseg.runtime.session import Session

    session = Session(graph, threads=arguments.threads, precision=arguments.precision)
    overrides = options.recipe_overrides(arguments)
    overrides["card"] = options.card_name(arguments, session)
    evaluator = Evaluator(by_minseg(session), dataset, overrides)
    results = judge_all(evaluator, dataset)
    judged = Evaluation(dataset, evaluator.match, results)
    if judged.scores.is_empty:
        raise InputError(f"no picture of '{dataset.folder}' has labels to judge by")
    return judged
