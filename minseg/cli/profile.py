"""``minseg profile``: where the time of a model goes, step by step."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.check import make_feeds
from minseg.cli.text import Progress, columns, quantity, seconds
from minseg.errors import InputError

if TYPE_CHECKING:
    from minseg.measure.peaks import Peaks
    from minseg.measure.profile import Cost, Profile

ROUNDS = 10

NOTES = """\
GFLOP/s counts convolutions by their definition: kernels that do fewer operations (Winograd's,
sparse) may pass the peak. peak: the time that the core's peaks allow for what the kernel does, as a
share of the time taken; tensors found in a cache are read faster than it says. bound: by operations
or bytes; overhead where neither explains a quarter of the time. wait: the share of the threads'
time in which they did not work on the step."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "profile",
        help="tell where a model's time goes",
        description="Runs a model as usual, but with a clock on every step, and tells what each "
        "takes, how far that is from what this machine can do, and what limits it.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser)
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a picture (default: noise)")
    parser.add_argument(
        "--rounds",
        type=options.positive,
        default=ROUNDS,
        metavar="N",
        help=f"runs that are timed, after one that is not (default {ROUNDS}); medians are shown",
    )
    parser.add_argument(
        "--order",
        choices=("time", "graph"),
        default="time",
        help="the slowest step first (default), or as they run",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--trace",
        metavar="FILE.json",
        help="also write one run as a trace, to be opened with ui.perfetto.dev",
    )
    parser.add_argument(
        "--backend",
        choices=("numba", "numpy"),
        default="numba",
        help="numba: compiled, fast (default); numpy: the reference, node by node",
    )
    options.add_threads(parser)
    options.add_recipe(parser)


def run(arguments: argparse.Namespace) -> int:
    from minseg.files import write_file
    from minseg.measure.trace import trace

    if arguments.trace is not None and not arguments.trace.endswith(".json"):
        raise InputError(f"--trace '{arguments.trace}' is not the name of a .json file")
    session = options.load_session(arguments, arguments.backend)
    _, feeds = make_feeds(session, arguments)
    progress = Progress(1, sys.stderr)
    progress.note("compiling kernels that are new to this machine, then measuring")
    try:
        profile = session.profile(feeds, rounds=arguments.rounds)
    finally:
        progress.clear()
    if arguments.json:
        told = {"model": arguments.model, "backend": arguments.backend, **profile.to_dict()}
        print(json.dumps(told))
    else:
        how = f"{arguments.backend} backend, precision {profile.precision.value}"
        print(f"{arguments.model}  ({how}, {profile.rounds} rounds)")
        print(render(profile, arguments.order))
    if arguments.trace is not None:
        content = json.dumps(trace(profile, arguments.model)).encode()
        write_file(arguments.trace, lambda file: file.write(content))
        if not arguments.json:
            print(f"saved {arguments.trace}")
    return 0


def render(profile: Profile, order: str) -> str:
    """The profile as text."""
    parts = head(profile), step_table(profile, order), totals_table(profile), NOTES
    return "\n\n".join(parts)


def head(profile: Profile) -> str:
    """What the tables are about."""
    threads = f"{profile.threads} thread{'s' if profile.threads > 1 else ''}"
    return (
        f"a run on {threads} takes {seconds(profile.seconds)}, "
        f"{seconds(profile.outside)} of that before and after the {len(profile.steps)} steps\n"
        f"{told_peaks(profile.peaks)}"
    )


def told_peaks(peaks: Peaks | None) -> str:
    if peaks is None:
        return "what a core can do is not known: nothing is compiled here"
    flops, operations = quantity(peaks.flops, "FLOP"), quantity(peaks.integer, "OP")
    moved = quantity(peaks.bytes, "B")
    return f"a core can do {flops}/s, on bytes {operations}/s, and move {moved}/s"


COST_COLUMNS = ("ms", "share", "GFLOP/s", "peak", "bound", "MB", "flop/B", "wait")
COST_ALIGN = ">>>><>>>"


def step_table(profile: Profile, order: str) -> str:
    """A row for each step."""
    rows: list[Sequence[str]] = [(*COST_COLUMNS, "operator", "kernel", "shape", "node")]
    steps = list(profile.steps)
    if order == "time":
        steps.sort(key=lambda s: -s.cost.seconds)
    for s in steps:
        shape = "?" if s.step.shape is None else "x".join(map(str, s.step.shape)) or "scalar"
        named = s.step.op, s.step.kernel, shape, s.step.name
        rows.append((*cost_cells(s.cost, profile.cost), *named))
    return columns(rows, COST_ALIGN + "<<<<")


def totals_table(profile: Profile) -> str:
    """A row for each operator and kernel, and one for all."""
    rows: list[Sequence[str]] = [(*COST_COLUMNS, "steps", "operator", "kernel")]
    for t in profile.totals:
        rows.append((*cost_cells(t.cost, profile.cost), str(t.steps), t.op, t.kernel))
    rows.append((*cost_cells(profile.cost, profile.cost), str(len(profile.steps)), "all", ""))
    return columns(rows, COST_ALIGN + "><<")


def cost_cells(cost: Cost, whole: Cost) -> Sequence[str]:
    """The cells of `COST_COLUMNS`."""
    share = cost.peak_share
    return (
        f"{cost.seconds * 1e3:.3f}",
        f"{cost.seconds / whole.seconds:.1%}" if whole.seconds else "-",
        f"{cost.gflops:.1f}" if cost.flops else "-",
        "-" if share is None else f"{share:.0%}",
        cost.bound or "-",
        f"{cost.bytes / 1e6:.2f}",
        f"{cost.intensity:.1f}" if cost.flops else "-",
        f"{cost.waiting:.0%}",
    )
