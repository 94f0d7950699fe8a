"""``minseg run``: pictures through a model, results to files and a table."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.text import Progress, columns, has_colour, seconds, swatch
from minseg.errors import InputError
from minseg.files import make_folder
from minseg.images.files import RESULT_SUFFIXES, gather_pictures, names_pictures

if TYPE_CHECKING:
    import numpy as np

    from minseg import Segmentation, Session
    from minseg.images.recipe import Recipe
    from minseg.kernels.core.jit import Preparation

NOTHING = "none"

#: Metadata key of models whose weights are made up.
SYNTHETIC_KEY = "minseg.synthetic"

#: Planning that took less, in seconds, is not worth a line.
NOTICED = 0.05


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "run",
        help="segment pictures",
        description="Segments pictures and writes an overlay with a legend for each. Prints the "
        "preprocessing with the source of every value, the time, and each class's share.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser, optional=True)
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="picture, folder or glob")
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="file for a single result, or folder (default: NAME_overlay.png in this folder)",
    )
    parser.add_argument(
        "--save",
        type=options.choices((*RESULT_SUFFIXES, NOTHING)),
        default=("overlay",),
        metavar="WHAT,...",
        help="overlay (default), mask (class indices, a PNG with palette), color, "
        "probs (a NumPy file), or none",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    parser.add_argument(
        "--alpha", type=options.opacity, default=0.5, help="opacity of the overlay (default 0.5)"
    )
    parser.add_argument(
        "--palette",
        metavar="P",
        help="colours: a class list such as camvid12, or a file of lines 'R G B name'",
    )
    parser.add_argument(
        "--classes", metavar="C", help="class names: comma-separated, or a file with one per line"
    )
    parser.add_argument(
        "--backend",
        choices=("numba", "numpy"),
        default="numba",
        help="numba: compiled, fast (default); numpy: the reference",
    )
    options.add_threads(parser)
    options.add_recipe(parser)


#: Suffixes of models, so that one in a picture's place is told from a damaged picture.
MODEL_SUFFIXES = frozenset({".onnx", ".xml"})


@dataclass(frozen=True)
class Job:
    """A picture and the file that each kind of result goes to."""

    picture: Path
    targets: Mapping[str, Path]


@dataclass(frozen=True)
class Done:
    """A finished job: what was compiled for it, how many seconds that and planning for a new
    input size took, and how many the segmenting itself."""

    job: Job
    result: Segmentation
    compilation: Preparation
    preparation: float
    seconds: float


def run(arguments: argparse.Namespace) -> int:
    from minseg.images.recipe import session_recipe

    choose_model(arguments)
    jobs = plan_jobs(gather_pictures(arguments.images), arguments.output, arguments.save)
    session = options.load_session(arguments, arguments.backend)
    overrides = options.recipe_overrides(arguments)
    overrides["card"] = options.card_name(arguments, session)
    recipe = session_recipe(session, overrides)
    overrides.update(classes=arguments.classes, palette=arguments.palette)
    talks = not arguments.quiet and not arguments.json
    if talks:
        threads = f"{session.threads} thread{'s' if session.threads > 1 else ''}"
        print(f"{arguments.model}  ({session.backend} backend, {threads})")
        print(recipe.describe())
        if session.graph.metadata.get(SYNTHETIC_KEY) == "true":
            print("this model has synthetic weights: its labels mean nothing")
    report = Report(len(jobs), talks)
    failures: list[InputError] = []
    for done in process(session, recipe, jobs, overrides, arguments.alpha, failures):
        report.add(done)
    if arguments.json:
        print(
            json.dumps({"model": arguments.model, "recipe": recipe.to_dict(), **report.to_dict()})
        )
    report.finish()
    return 2 if failures else 0


def choose_model(arguments: argparse.Namespace) -> None:
    """Take MODEL for a picture where it looks like one: then the default model is meant."""
    if names_pictures(arguments.model):
        arguments.images.insert(0, arguments.model)
        arguments.model = options.DEFAULT_MODEL
    for image in arguments.images:
        if Path(image).suffix.lower() in MODEL_SUFFIXES:
            raise InputError(f"'{image}' is a model, where an IMAGE is expected")


def process(
    session: Session,
    recipe: Recipe,
    jobs: Sequence[Job],
    overrides: Mapping[str, Any],
    alpha: float,
    failures: list[InputError],
) -> Iterator[Done]:
    """Segment and save job by job. A picture that can't be read goes to ``failures``, with a line
    on stderr; the others still run.
    """
    from minseg.images.picture import load_picture

    progress = Progress(len(jobs), sys.stderr)
    for index, job in enumerate(jobs):
        progress.show(index, job.picture.name)
        try:
            picture = load_picture(job.picture)
        except InputError as error:
            progress.clear()
            print(f"minseg: error: {error}", file=sys.stderr)
            failures.append(error)
            continue
        try:
            start = time.perf_counter()
            if not index:
                progress.note("planning")
            compilation = prepare(session, recipe, picture, progress)
            prepared = time.perf_counter()
            result = session.segment(picture, **overrides)
            _ = result.mask
            end = time.perf_counter()
            save(result, job, alpha)
        finally:
            progress.clear()
        yield Done(job, result, compilation, prepared - start, end - prepared)


def prepare(
    session: Session, recipe: Recipe, picture: np.ndarray, progress: Progress
) -> Preparation:
    """Have the picture's size planned for and compiled, unless it is, so that the time told for a
    picture is the picture's own.
    """
    shape = recipe.input_shape(*picture.shape[:2])
    return session.prepare({recipe.input_name: shape}, on_compile=progress.compiling)


def save(result: Segmentation, job: Job, alpha: float) -> None:
    for kind, target in job.targets.items():
        make_folder(target.parent)
        result.save(target, kind, alpha=alpha)


def plan_jobs(pictures: Sequence[Path], output: str | None, kinds: Sequence[str]) -> list[Job]:
    """Which file each result goes to. Raises InputError where two would meet, or hit a picture."""
    kinds = [kind for kind in kinds if kind != NOTHING]
    count = len(pictures) * len(kinds)
    if output is not None and count and _is_file_name(output):
        if count > 1:
            raise InputError(
                f"{count} results can't all go to the file '{output}': give a folder to --output"
            )
        jobs = [Job(pictures[0], {kinds[0]: Path(output)})]
    else:
        folder = Path(output or ".")
        jobs = [
            Job(p, {kind: folder / f"{p.stem}_{kind}{RESULT_SUFFIXES[kind]}" for kind in kinds})
            for p in pictures
        ]
    _refuse_collisions(jobs)
    return jobs


def _is_file_name(output: str) -> bool:
    """A folder is one that exists, ends with a slash or has no suffix."""
    looks_like_folder = output.endswith(("/", os.sep)) or not Path(output).suffix
    return not Path(output).is_dir() and (Path(output).exists() or not looks_like_folder)


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    owners: dict[Path, Path] = {}
    pictures = {job.picture.absolute() for job in jobs}
    for job in jobs:
        for target in job.targets.values():
            other = owners.setdefault(target, job.picture)
            if other != job.picture:
                raise InputError(f"'{other}' and '{job.picture}' would both be saved as '{target}'")
            if target.absolute() in pictures:
                raise InputError(f"saving to '{target}' would overwrite a picture that is read")


def told_compilation(done: Preparation) -> str:
    """What was compiled, and whether it will have to be again."""
    kernels = f"{done.compiled} kernel{'s' if done.compiled > 1 else ''}"
    told = f"compiled {kernels} for this machine in {seconds(done.seconds)}; the next start "
    return told + (f"will have to again: {done.obstacle}" if done.obstacle else "will not need to")


class Report:
    """What is said of the results, while they come and at the end."""

    def __init__(self, total: int, talks: bool):
        self._total, self._talks = total, talks
        self._colour = has_colour(sys.stdout)
        self._pictures: list[dict[str, Any]] = []
        self._seconds: list[float] = []
        self._pixels: dict[str, float] = {}
        self._colours: dict[str, tuple[int, int, int]] = {}

    def add(self, done: Done) -> None:
        height, width = done.result.mask.shape
        shares = done.result.shares()
        self._seconds.append(done.seconds)
        for entry in done.result.present():
            pixels = entry.share * height * width
            self._pixels[entry.name] = self._pixels.get(entry.name, 0.0) + pixels
            self._colours[entry.name] = entry.colour
        files = {kind: str(target) for kind, target in done.job.targets.items()}
        self._pictures.append(
            {
                "picture": str(done.job.picture),
                "width": width,
                "height": height,
                "seconds": round(done.seconds, 6),
                "preparation_seconds": round(done.preparation, 6),
                "compiled_kernels": done.compilation.compiled,
                "shares": shares,
                "files": files,
            }
        )
        if self._talks:
            if done.compilation.compiled:
                print(told_compilation(done.compilation))
            planning = done.preparation - done.compilation.seconds
            if planning > NOTICED:
                print(f"planned for this size in {seconds(planning)}")
            saved = f"  -> {', '.join(files.values())}" if files else ""
            print(f"{done.job.picture}  {width}x{height}  {seconds(done.seconds)}{saved}")

    def to_dict(self) -> dict[str, Any]:
        """The results, ready for JSON."""
        return {"pictures": self._pictures}

    def finish(self) -> None:
        """Print the table of shares, over all pictures."""
        if not self._talks or not self._seconds:
            return
        if self._total > 1:
            import statistics

            middle = statistics.median(self._seconds)
            print(f"{len(self._seconds)} pictures, {seconds(middle)} each (median)")
        print(self._table())

    def _table(self) -> str:
        from minseg.images.legend import share_text

        total = sum(self._pixels.values())
        names = sorted(self._pixels, key=lambda name: -self._pixels[name])
        rows = [(name, share_text(self._pixels[name] / total)) for name in names]
        lines = columns(rows, "<>").splitlines()
        if self._colour:
            lines = [
                f"{swatch(self._colours[n])} {line}" for n, line in zip(names, lines, strict=True)
            ]
        return "\n".join("  " + line for line in lines)
