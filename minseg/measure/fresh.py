"""What an engine costs a process that has just started: memory, loading, the first run.

`measure_fresh` starts this module in a process of its own and reads the figures it prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from minseg.measure.peers import ENGINES, Engine, EngineError, Model

#: Where Linux tells a process's memory, and where writing 5 forgets the peak so far.
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Fresh:
    """Figures of one process.

    ``load_seconds`` from the imported engine to a model that is ready, ``first_seconds`` for the
    first run. ``peak_bytes`` is the largest resident memory while loading and in two runs, above
    what the process held once the engine was imported and the input in memory; None where the
    system does not tell (it is Linux that does).
    """

    load_seconds: float
    first_seconds: float
    peak_bytes: int | None


def measure_fresh(
    engine: Engine, model: Model, threads: int, feeds: Mapping[str, np.ndarray], folder: Path
) -> Fresh:
    """Run the converted ``model`` in a new process; ``folder`` is for files in between.

    Raises EngineError where that process fails.
    """
    inputs = {}
    for index, (name, array) in enumerate(feeds.items()):
        inputs[name] = str(folder / f"input{index}.npy")
        np.save(inputs[name], array)
    job = {
        "engine": engine.name,
        "path": str(model.path.resolve()),
        "inputs": inputs,
        "outputs": model.outputs,
        "threads": threads,
    }
    done = subprocess.run(
        [sys.executable, "-m", "minseg.measure.fresh", json.dumps(job)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise EngineError(f"{engine.name} failed in a new process: {words[-1]}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def main(job_text: str) -> None:
    """Print the figures of one job as a line of JSON."""
    job = json.loads(job_text)
    feeds = {name: np.load(file) for name, file in job["inputs"].items()}
    shapes = {name: array.shape for name, array in feeds.items()}
    model = Model(Path(job["path"]), shapes, tuple(job["outputs"]))
    engine = ENGINES[job["engine"]]
    engine.require()
    held = _begin_peak()
    start = time.perf_counter()
    compute = engine.load(model, job["threads"])
    loaded = time.perf_counter()
    compute(model.outputs, feeds)
    ran = time.perf_counter()
    compute(model.outputs, feeds)
    peak = None if held is None else _status("VmHWM") - held
    print(json.dumps(asdict(Fresh(loaded - start, ran - loaded, peak))))


def _begin_peak() -> int | None:
    """Forget the largest memory so far; the bytes held now, or None where that can't be told."""
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return None


def _status(key: str) -> int:
    """A size from the process's status, in bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {key}")


if __name__ == "__main__":
    main(sys.argv[1])
