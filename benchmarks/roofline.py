"""The slowest layers of every model beside what the machine allows them, on one thread.

A layer's limit is the roofline's: the longer of the times that its kernel's operations and its
bytes need at one core's measured peaks (see ../minseg/measure/). Noise is as good as a picture
here, since no kernel's time depends on values.

    python benchmarks/roofline.py [MODEL …] [--rounds N] [--slowest N] [--page]

MODEL is chosen as for models.py; ``--page`` puts the tables into benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from networks import PAGE, Entry, chosen, save, tell
from report import table, update_page

import minseg
from minseg.cli.profile import told_peaks
from minseg.errors import MinsegError
from minseg.images.scene import street_scene
from minseg.measure.peaks import Peaks, measure_peaks
from minseg.measure.profile import Profile, StepProfile

HEAD = ("kernel", "output", "ms", "of all", "GFLOP/s", "flop/byte", "of its limit", "limit")


def profile(entry: Entry, rounds: int, peaks: Peaks) -> Profile:
    """A model's profile on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        entry.make(path)
        session = minseg.load(path, threads=1)
        recipe = session.recipe
        feeds = {recipe.input_name: recipe.apply(street_scene(0).image)}
        return session.profile(feeds, rounds=rounds, peaks=peaks)


def section(title: str, told: Profile, slowest: int) -> str:
    """The table of one model, the slowest layer first."""
    steps = sorted(told.steps, key=lambda s: -s.cost.seconds)[:slowest]
    share = sum(s.cost.seconds for s in steps) / told.cost.seconds
    body = [cells(step, told) for step in steps]
    return (
        f"**{title}**: {1e3 * told.seconds:.0f} ms, {share:.0%} of it in these {len(steps)} of "
        f"{len(told.steps)} steps.\n\n{table(HEAD, body)}"
    )


def cells(step: StepProfile, told: Profile) -> tuple[str, ...]:
    """A row of the table."""
    cost, shape = step.cost, step.step.shape
    return (
        step.step.kernel,
        "?" if shape is None else "×".join(map(str, shape)),
        f"{1e3 * cost.seconds:.1f}",
        f"{cost.seconds / told.cost.seconds:.1%}",
        f"{cost.gflops:.0f}" if cost.flops else "–",
        f"{cost.intensity:.1f}" if cost.flops else "–",
        "–" if cost.peak_share is None else f"{cost.peak_share:.0%}",
        cost.bound or "–",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--slowest", type=int, default=10, metavar="N", help="layers a model")
    parser.add_argument("--page", action="store_true", help="put the tables into README.md")
    options = parser.parse_args()
    try:
        peaks = measure_peaks()
        parts = [f"One thread; {told_peaks(peaks)}."]
        for entry in chosen(options.models):
            tell(entry.title)
            told = profile(entry, options.rounds, peaks)
            parts.append(section(entry.title, told, options.slowest))
    except MinsegError as error:
        sys.exit(f"roofline.py: {error}")
    text = "\n\n".join(parts) + "\n"
    print(text)
    if options.page:
        save(PAGE, update_page(PAGE, text, "roofline.py"))


if __name__ == "__main__":
    main()
