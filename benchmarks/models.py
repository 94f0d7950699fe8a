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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from report import INTEGER, Cost, Machine, Record, Row, markdown, threads, update_page

import minseg
from minseg.cli.options import positives
from minseg.errors import InputError, MinsegError
from minseg.images.files import write_file
from minseg.images.scene import street_scene
from minseg.kernels.machine import target
from minseg.measure.agreement import ALIKE
from minseg.measure.contest import Contest, picture_task
from minseg.measure.fresh import measure_fresh
from minseg.measure.peaks import best, measure_peaks
from minseg.measure.peers import ENGINES, Engine, engines_write_to_stderr
from minseg.weights import build_file

PAGE = Path(__file__).with_name("README.md")

#: Each model is timed at least so often, and on for so many seconds.
LEAST_ROUNDS, SECONDS = 7, 30.0

#: What engines must agree on where a network with random weights was quantised: roundings that
#: differ grow from layer to layer. onnxruntime with its optimisations and without labels 94.8 % of
#: the U-Net's pixels alike, and the network before it was quantised 91.1 % like either.
ALIKE_ROUNDED = 0.93

#: Pictures that a float network is quantised with.
CALIBRATION = 8

U, Q, S, R = (
    "unet-camvid-onnx-0001",
    "icnet-camvid-int8-onnx-0001",
    "icnet-camvid-ava-sparse-60-0001",
    "unet-resnet34-camvid",
)


@dataclass(frozen=True)
class Entry:
    """A model of the list: ``make`` writes it to a file. Ratios are averaged by ``group``;
    engines are to label the share ``alike`` of the pixels alike."""

    title: str
    group: str
    make: Callable[[Path], object]
    alike: float = ALIKE


def quantised(name: str, path: Path) -> None:
    """The float model ``name`` as onnxruntime quantises it: QuantizeLinear and DequantizeLinear,
    weights per channel. Raises InputError without onnxruntime."""
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quant_pre_process,
            quantize_static,
        )
    except ImportError as error:
        raise InputError("onnxruntime, which quantises it, is not installed") from error

    plain, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
    build_file(name, plain)
    recipe = minseg.load(plain, backend="numpy").recipe
    scenes = (street_scene(seed).image for seed in range(CALIBRATION))

    class Scenes(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(scenes, None)
            return None if picture is None else {recipe.input_name: recipe.apply(picture)}

    quant_pre_process(str(plain), str(prepared))
    quantize_static(
        str(prepared),
        str(path),
        Scenes(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


ENTRIES = (
    Entry("U-Net 368×480", "f32", partial(build_file, U)),
    Entry("ResNet34-U-Net 480×640", "f32", partial(build_file, R)),
    Entry("ICNet 768×768", "f32", partial(build_file, Q, notation="float")),
    Entry("ICNet ava 720×960", "f32", partial(build_file, S, sparsity=0.0)),
    Entry("ICNet ava 720×960, 60 % zeros", "sparse f32", partial(build_file, S)),
    Entry("ICNet INT8 768×768", INTEGER, partial(build_file, Q)),
    Entry("U-Net INT8 368×480", INTEGER, partial(quantised, U), ALIKE_ROUNDED),
)


def chosen(words: Sequence[str]) -> list[Entry]:
    """The entries that ``words`` name. Raises InputError where a word names none."""
    entries: list[Entry] = []
    for word in words:
        found = [entry for entry in ENTRIES if word in entry.title]
        if Path(word).is_file():
            found = [Entry(Path(word).stem, "others", partial(link, Path(word)))]
        if not found:
            titles = "; ".join(entry.title for entry in ENTRIES)
            raise InputError(f"'{word}' is no file and occurs in none of: {titles}")
        entries += [entry for entry in found if entry not in entries]
    return entries or list(ENTRIES)


def link(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


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
        contest = Contest(task, engines, folder, entry.alike)
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


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def save(path: Path, text: str) -> None:
    write_file(path, lambda file: file.write(text.encode()))
    tell(f"saved {path}")


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
        save(PAGE, update_page(PAGE, text))


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
