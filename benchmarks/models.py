"""Times whole models: minseg and every installed peer take turns, batch 1.

Each peer gets the same ONNX file, converted once if it has a format of its own, and the same
picture. Engines whose labels differ from the others' are not timed. Then each engine runs each
model in a new process, for its memory and its start. The ratio is the fastest peer's median time
divided by minseg's: above 1, minseg is faster.

    python benchmarks/models.py [MODEL …] [--threads 1,2] [--json FILE] [--markdown FILE] [--page]

MODEL is an ONNX file, or text that occurs in a title of the list below (default: all of it).
``--page`` puts the tables into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from networks import PAGE, Entry, chosen, save, tell
from report import Cost, Machine, Record, Row, markdown, threads, update_page

import minseg
from minseg.cli.options import positives
from minseg.errors import InputError, MinsegError
from minseg.kernels.isa.target import target
from minseg.measure.contest import Contest, picture_task
from minseg.measure.fresh import measure_fresh
from minseg.measure.peaks import best, measure_peaks
from minseg.measure.peers import ENGINES, Engine, engines_write_to_stderr

#: Each model is timed at least so often, and on for so many seconds.
LEAST_ROUNDS, SECONDS = 7, 30.0


def installed() -> tuple[dict[str, Engine], dict[str, str]]:
    """The engines that are here, and what there is to say of the others."""
    engines, missing = {}, {}
    for name, engine in ENGINES.items():
        try:
            engine.require()
            engines[name] = engine
        except InputError as error:
            missing[name] = str(error)
    return engines, missing


def measure(
    entry: Entry, engines: Mapping[str, Engine], counts: Sequence[int], seconds: float
) -> tuple[list[Row], Cost]:
    """A row for each number of threads, and what a new process needs with the last of these."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "network.onnx"
        entry.make(path)
        session = minseg.load(path, backend="numpy")
        task = picture_task(session, str(path), session.recipe, folder)
        contest = Contest(task, engines, folder)
        rows = []
        for count in counts:
            tell(f"{entry.title}, {threads(count)}")
            result = contest.run(count, LEAST_ROUNDS, seconds)
            row = Row(
                entry.title,
                entry.group,
                count,
                task.flops,
                result.timings,
                result.agreement,
                result.excluded,
            )
            rows.append(row)
            tell("  " + "  ".join(f"{e} {t.median:.3f}" for e, t in row.timings.items()))
        tell(f"{entry.title}, in new processes")
        fresh, failed = {}, {}
        for engine in row.timings:
            try:
                fresh[engine] = measure_fresh(
                    engines[engine], contest.models[engine], counts[-1], task.feeds, folder
                )
            except MinsegError as error:
                failed[engine] = str(error)
        return rows, Cost(entry.title, counts[-1], fresh, failed)


def this_machine() -> Machine:
    return Machine(
        cpu_name(), target().cpu, os.cpu_count() or 1, platform.system(), platform.python_version()
    )


def cpu_name() -> str:
    """The CPU as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--threads", type=positives, default=(1, 2), metavar="N[,N]")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="how long to time each row, at least"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every time there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there")
    parser.add_argument("--page", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    try:
        entries = chosen(options.models)
        with engines_write_to_stderr():
            record = run(entries, options.threads, options.seconds)
    except MinsegError as error:
        sys.exit(f"models.py: {error}")
    text = markdown(record)
    print(text)
    if options.json is not None:
        save(options.json, json.dumps(asdict(record), indent=1) + "\n")
    if options.markdown is not None:
        save(options.markdown, text)
    if options.page:
        save(PAGE, update_page(PAGE, text, "models.py"))


def run(entries: Sequence[Entry], counts: Sequence[int], seconds: float) -> Record:
    engines, missing = installed()
    for reason in missing.values():
        tell(reason)
    versions = {name: engine.version for name, engine in engines.items()}
    before = measure_peaks()
    rows: list[Row] = []
    costs: list[Cost] = []
    for entry in entries:
        try:
            of_entry, cost = measure(entry, engines, counts, seconds)
        except MinsegError as error:
            missing[entry.title] = f"{entry.title}: {error}"
            tell(missing[entry.title])
            continue
        rows += of_entry
        costs.append(cost)
    peaks = best(before, measure_peaks())
    return Record(this_machine(), versions, missing, peaks, rows, costs)


if __name__ == "__main__":
    main()
