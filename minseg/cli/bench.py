"""``minseg bench``: how long a model takes, beside other engines."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.text import Progress, columns, quantity, seconds
from minseg.errors import ExecutionError

if TYPE_CHECKING:
    from minseg.measure.contest import Result, Task
    from minseg.measure.peers import Engine
    from minseg.measure.timing import Timing

#: Engines to compare with, as `minseg.measure.peers` names them.
PEERS = ("onnxruntime", "openvino", "ncnn", "mnn")

#: Without -n: at least so many runs, and on for so many seconds.
LEAST_RUNS, SECONDS = 5, 10.0

PERCENTILES = (50, 90, 99)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="time a model, beside other engines",
        description="Runs a model again and again on a generated street scene, other engines "
        "taking turns with minseg, and tells how long a run takes. An engine whose labels "
        "differ from the others' is not timed.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument(
        "--vs",
        type=options.choices(PEERS),
        default=(),
        metavar="ENGINE[,ENGINE]",
        help=f"engines to compare with, which must be installed: {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--threads",
        type=options.positives,
        metavar="N[,N]",
        help="numbers of worker threads, one after the other (default: every CPU allowed)",
    )
    parser.add_argument(
        "-n",
        dest="runs",
        type=options.positive,
        metavar="N",
        help="runs of each engine, after one that does not count (default: for "
        f"{SECONDS:g} seconds, at least {LEAST_RUNS})",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options.add_precision(parser)
    options.add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    from minseg.images.recipe import session_recipe
    from minseg.measure.contest import Contest, picture_task
    from minseg.measure.peers import engines_write_to_stderr
    from minseg.runtime.models import read_model
    from minseg.runtime.session import Session, available_cpus

    engines = chosen_engines(arguments)
    versions = {name: engine.version for name, engine in engines.items()}
    session = Session(read_model(arguments.model), backend="numpy")
    overrides = options.recipe_overrides(arguments)
    recipe = session_recipe(session, {**overrides, "card": options.card_name(arguments, session)})
    counts = (arguments.runs, 0.0) if arguments.runs else (LEAST_RUNS, SECONDS)
    progress = Progress(1, sys.stderr)
    with tempfile.TemporaryDirectory() as folder, engines_write_to_stderr():
        task = picture_task(session, arguments.model, recipe, Path(folder))
        progress.note("preparing " + ", ".join(engines))
        contest = Contest(task, engines, Path(folder))
        results = []
        for threads in arguments.threads or (available_cpus(),):
            progress.note(f"measuring on {threads} thread{'s' if threads > 1 else ''}")
            results.append(contest.run(threads, *counts))
        progress.clear()
    if arguments.json:
        print(json.dumps(facts(arguments.model, task, versions, results)))
    else:
        print(render(arguments.model, task, versions, results))
    for result in results:
        if "minseg" in result.excluded:
            raise ExecutionError(f"{arguments.model} was not timed: {result.excluded['minseg']}")
    return 0


def chosen_engines(arguments: argparse.Namespace) -> dict[str, Engine]:
    """minseg and those asked for. Raises InputError where one is not installed."""
    from minseg.measure.peers import ENGINES, minseg_of

    ours = minseg_of(arguments.precision)
    return {ours.name: ours, **{name: ENGINES[name] for name in arguments.vs}}


def render(model: str, task: Task, versions: dict[str, str], results: list[Result]) -> str:
    """The results as text."""
    shape = "x".join(map(str, *task.model.shapes.values()))
    engines = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts = [
        f"{model}  ({shape}, {quantity(task.flops, 'FLOP')})\n{engines}",
        *(table(result, task.flops) for result in results),
    ]
    return "\n\n".join(parts)


def table(result: Result, flops: int) -> str:
    """A row for each engine, minseg first."""
    runs = len(next(iter(result.timings.values())).seconds) if result.timings else 0
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    head = f"{threads}, {runs} runs each, in turns; batch 1"
    rows = [("", "min", *(f"p{p}" for p in PERCENTILES), "GFLOP/s", "minseg is")]
    for name, timing in result.timings.items():
        times = timing.least, *(timing.percentile(p) for p in PERCENTILES)
        rate = f"{flops / timing.median / 1e9:.1f}"
        rows.append((name, *map(seconds, times), rate, compared(name, result.timings)))
    excluded = [f"  not timed: {why}" for why in result.excluded.values()]
    return "\n".join([head, columns(rows, "<" + ">" * 6, "  "), *excluded])


def compared(name: str, timings: dict[str, Timing]) -> str:
    """How much faster minseg is than the engine, by their medians."""
    if name == "minseg" or "minseg" not in timings:
        return ""
    return f"{timings[name].median / timings['minseg'].median:.2f} x as fast"


def facts(
    model: str, task: Task, versions: dict[str, str], results: list[Result]
) -> dict[str, Any]:
    """Everything there is to tell, ready for JSON; times are in seconds."""
    return {
        "model": model,
        "inputs": task.model.shapes,
        "flops": task.flops,
        "versions": versions,
        "results": [
            {
                "threads": result.threads,
                "engines": {
                    name: {
                        "min": timing.least,
                        **{f"p{p}": timing.percentile(p) for p in PERCENTILES},
                        "agreement": result.agreement[name],
                        "seconds": timing.seconds,
                    }
                    for name, timing in result.timings.items()
                },
                "excluded": result.excluded,
            }
            for result in results
        ],
    }
