"""Times every kernel alone on layers of the four CamVid models, on one core.

Each layer is a model of a single node. Every kernel that takes the node's problem is checked
against the reference operator and then timed, its calls taking turns with those of onnxruntime
on the same model (where it is installed). A kernel that is wrong is not timed. The printed share is
that of the core's own peak, measured first: fused multiply-adds for kernels that compute, exact
products of bytes for those of integers, bytes copied for those that move. Times are CPU times of
the one thread; onnxruntime's include its changes of layout, if any.

    python benchmarks/kernels.py [--only TEXT] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from layers import LAYERS, Layer, trial

from minseg.errors import InputError
from minseg.kernels.isa.target import target
from minseg.measure.peaks import Peaks, measure_peaks
from minseg.measure.peers import PEERS, Model
from minseg.measure.timing import clocked, interleaved, thread_clock

PEER = PEERS["onnxruntime"]


@dataclass
class Row:
    """One kernel on one layer. ``rate`` is in GFLOP/s where operations are counted, in GOP/s where
    they are those of bytes, else in GB/s; ``share`` that of the peak; ``peer_ms`` onnxruntime's
    time."""

    model: str
    layer: str
    kernel: str
    ms: float
    rate: float
    unit: str
    share: float
    peer_ms: float | None


def has_peer() -> bool:
    try:
        PEER.require()
    except InputError:
        return False
    return True


def peer_call(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> Callable[[], float]:
    """Runs the model once with onnxruntime on one thread."""
    shapes = {name: x.shape for name, x in feeds.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        onnx.save(model, path)
        compute = PEER.load(Model(path, shapes, ("y",)), 1)
    return clocked(lambda: compute(["y"], feeds), thread_clock)


def measure(layer: Layer, rounds: int, peaks: Peaks) -> list[Row]:
    """A row for every kernel that takes the layer. Exits the program where one is wrong."""
    tried = trial(layer)
    calls: dict[str, Callable[[], float]] = dict(tried.kernels)
    if has_peer():
        calls[PEER.name] = peer_call(tried.model, tried.feeds)
    timings = interleaved(calls, rounds)
    peer = timings.pop(PEER.name, None)
    flops = getattr(tried.problem, "flops", 0) if "Conv" in layer.op else 0
    rows = []
    for name, timing in timings.items():
        if layer.op == "QLinearConv":
            work, unit, peak = flops, "GOP/s", peaks.integer
        elif flops:
            work, unit, peak = flops, "GFLOP/s", peaks.flops
        else:
            work, unit, peak = tried.kernels[name].nbytes, "GB/s", peaks.bytes
        rate = work / timing.median
        rows.append(
            Row(
                layer.model,
                layer.title,
                name,
                1e3 * timing.median,
                rate / 1e9,
                unit,
                rate / peak,
                None if peer is None else 1e3 * peer.median,
            )
        )
    return rows


# The program


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'layer':56} {'kernel':30} {'ms':>8} {'rate':>14} {'peak':>5} {'onnxruntime':>12}"]
    model = ""
    for row in rows:
        if row.model != model:
            model = row.model
            lines.append(f"-- {model}")
        peer = "" if row.peer_ms is None else f"{row.peer_ms:9.3f} ms"
        lines.append(
            f"{row.layer:56} {row.kernel:30} {row.ms:8.3f} {row.rate:6.1f} {row.unit:7} "
            f"{row.share:4.0%} {peer:>12}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="layers whose line has TEXT")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="calls per kernel")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    peaks = measure_peaks()
    chosen = [layer for layer in LAYERS if options.only in f"{layer.model} {layer.title}"]
    rows = [row for layer in chosen for row in measure(layer, options.rounds, peaks)]
    print(f"one core of {platform.machine()}, {target().cpu}, {os.cpu_count()} in all: ", end="")
    print(f"{peaks.flops / 1e9:.0f} GFLOP/s, {peaks.integer / 1e9:.0f} GOP/s of bytes, ", end="")
    print(f"copies {peaks.bytes / 1e9:.1f} GB/s")
    print(table(rows))
    if options.json is not None:
        record = {"peaks": asdict(peaks), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
