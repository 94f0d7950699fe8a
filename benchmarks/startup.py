"""Times whole processes: `minseg run` against the same job in a minimal onnxruntime script.

Both start from nothing, load one model and one picture, and write an overlay. They take turns;
the first turn of each fills caches (minseg's machine code, Python's byte code) and is not
counted. "cpu" is the processor time of a process, which other work on the machine disturbs less
than "wall". The ratio is minseg's median divided by onnxruntime's: below 1, minseg is faster.
What `import minseg` takes is told too.

    python benchmarks/startup.py [MODEL …] [--rounds N]

MODEL is an ONNX file (default: camvid-small, the one that minseg brings along).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from minseg.images.scene import street_scene
from minseg.weights import shipped_file

SCRIPT = Path(__file__).with_name("minimal_onnxruntime.py")

#: Whether byte code is kept is a matter of the installation, not of the program.
ENVIRONMENT = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}

IMPORT = "import time; t = time.perf_counter(); import minseg; print(time.perf_counter() - t)"


@dataclass
class Spent:
    """What a command took in each turn, in seconds."""

    command: list[str]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def turn(self, counts: bool) -> None:
        """Run the command once. Raises SystemExit if it fails."""
        begin, before = time.perf_counter(), os.times()
        done = subprocess.run(self.command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
        end, after = time.perf_counter(), os.times()
        if done.returncode:
            raise SystemExit(f"{' '.join(self.command)} failed")
        if counts:
            self.wall.append(end - begin)
            self.cpu.append(
                after.children_user
                - before.children_user
                + after.children_system
                - before.children_system
            )


def compare(model: Path, folder: Path, rounds: int) -> str:
    """The row of one model."""
    picture, output = folder / "street.png", folder / "overlay.png"
    arguments = [str(model), str(picture)]
    ours = Spent([sys.executable, "-m", "minseg", "run", *arguments, "-o", str(output)])
    theirs = Spent([sys.executable, str(SCRIPT), *arguments, str(output)])
    for turn in range(rounds + 1):
        ours.turn(counts=turn > 0)
        theirs.turn(counts=turn > 0)
    cells = [f"{model.stem:34}"]
    for name in ("wall", "cpu"):
        a, b = (statistics.median(getattr(spent, name)) for spent in (ours, theirs))
        cells.append(f"{a:7.3f} {b:11.3f} {a / b:6.2f}")
    return "   ".join(cells)


def import_seconds(rounds: int) -> float:
    """The median time of ``import minseg`` in fresh processes."""
    command = [sys.executable, "-c", IMPORT]
    return statistics.median(
        float(subprocess.check_output(command, env=ENVIRONMENT)) for _ in range(rounds)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    print(f"import minseg: {import_seconds(chosen.rounds):.3f} s\n")
    print(f"{'median seconds':34}   {'wall: minseg onnxruntime':>19}  ratio   cpu")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.fromarray(street_scene(1, 480, 360).image).save(folder / "street.png")
        for model in chosen.models or [shipped_file("camvid-small")]:
            print(compare(model, folder, chosen.rounds), flush=True)


if __name__ == "__main__":
    main()
