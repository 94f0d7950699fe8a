"""Times convolutions and a whole network against the share of zeros among their weights.

Layers: every kernel that takes it, on one core, at each density. Few zeros: what the kernel that is
chosen takes beside the one that would be without zeros. The network: the sparse ICNet built with
more or fewer zeros, its sessions taking turns.

    python benchmarks/sparsity.py [--rounds N] [--seconds S] [--threads 1,2] [--json FILE] [--page]

``--page`` puts the tables into benchmarks/README.md and draws benchmarks/sparsity.svg.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from layers import LAYERS, Layer, conv, trial
from networks import PAGE, S, save, tell
from plot import Curve, plot
from report import table, threads, update_page

import minseg
from minseg.cli.options import positives
from minseg.kernels.core.registry import in_blocks, select
from minseg.measure.timing import clocked, interleaved
from minseg.weights import build_file

#: Shares of zeros at which layers are timed, and the network.
LAYER_ZEROS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
NETWORK_ZEROS = (0.0, 0.3, 0.6, 0.8, 0.9)
FEW_ZEROS = (0.1, 0.2, 0.3)

#: A layer of each kind, by the name it has in the plot.
KINDS = {
    "1×1, 512 > 2048": conv("1×1", 512, 2048, 23, 30, K=1),
    "1×1, 64 > 256": conv("1×1", 64, 256, 90, 120, K=1),
    "3×3 of stride 2, 64 > 64": conv("3×3 of stride 2", 64, 64, 360, 480, stride=2),
    "3×3, 128 > 128": conv("3×3", 128, 128, 45, 60),
    "3×3 dilated by 4, 512 > 512": conv("3×3 dilated by 4", 512, 512, 23, 30, dilation=4),
}
PREFIX = "conv_f32_"
SPARSE = "sparse"


@dataclass(frozen=True)
class LayerRow:
    """What each kernel takes in ms, without the prefix of its name, and which one is ``chosen``
    with so many ``zeros``, and with none."""

    layer: str
    zeros: float
    ms: Mapping[str, float]
    chosen: str
    dense: str

    @property
    def gain(self) -> float:
        """The dense choice's time divided by the chosen kernel's."""
        return self.ms[self.dense] / self.ms[self.chosen]

    @property
    def sparse_gain(self) -> float:
        """The dense choice's time divided by the sparse kernel's."""
        return self.ms[self.dense] / self.ms[SPARSE]


def layer_row(layer: Layer, zeros: float, rounds: int) -> LayerRow:
    """Times are the least of ``rounds``, of kernels that take turns."""
    tried = trial(replace(layer, density=1 - zeros))
    timings = interleaved(tried.kernels, rounds)
    ms = {name.removeprefix(PREFIX): 1e3 * timing.least for name, timing in timings.items()}
    chosen, dense = (
        kernel.name.removeprefix(PREFIX)
        for problem in (tried.problem, replace(tried.problem, density=1.0))
        if (kernel := select(problem, extra_cost=in_blocks)) is not None
    )
    row = LayerRow(layer.title, zeros, ms, chosen, dense)
    tell(f"  {layer.title} {zeros:.0%}: " + "  ".join(f"{k} {t:.3f}" for k, t in ms.items()))
    return row


def prunable(layer: Layer) -> bool:
    """Whether a layer is a dense convolution of one of the networks that are not all Winograd's."""
    plain = layer.op == "Conv" and layer.density == 1
    return plain and layer.model in ("icnet-int8", "icnet-sparse", "unet-resnet34")


@dataclass(frozen=True)
class NetworkRow:
    """The network's least and median CPU time a thread, in seconds, with so many ``zeros``."""

    zeros: float
    threads: int
    least: float
    median: float


def network_rows(counts: Sequence[int], rounds: int, seconds: float) -> list[NetworkRow]:
    with tempfile.TemporaryDirectory() as name:
        paths = {
            zeros: build_file(S, Path(name) / f"{zeros}.onnx", sparsity=zeros)
            for zeros in NETWORK_ZEROS
        }
        rows = []
        for count in counts:
            calls = {str(zeros): runner(path, count) for zeros, path in paths.items()}
            for zeros, timing in interleaved(calls, rounds, seconds).items():
                rows.append(NetworkRow(float(zeros), count, timing.least, timing.median))
                tell(f"  network {zeros} zeros, {threads(count)}: {timing.least:.3f} s")
    return rows


def runner(path: Path, threads: int) -> Callable[[], float]:
    """Runs the model in ``path`` once, on noise, and tells its CPU time a thread: threads that wait
    for one another use theirs up, those that the system lets wait don't."""
    session = minseg.load(path, threads=threads)
    (value,) = session.get_inputs()
    shape = [size for size in value.shape if isinstance(size, int)]
    feeds = {value.name: np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)}
    return clocked(lambda: session.run(None, feeds), lambda: time.process_time() / threads)


# What is told


def layer_table(rows: Sequence[LayerRow]) -> str:
    """One layer's times; the kernel that is chosen in bold letters."""
    names = list(rows[0].ms)
    body = []
    for row in rows:
        cells = [
            f"**{row.ms[name]:.2f}**" if name == row.chosen else f"{row.ms[name]:.2f}"
            for name in names
        ]
        body.append([f"{row.zeros:.0%}", *cells, f"{row.gain:.2f}"])
    return table(["zeros", *names, "gain"], body)


def few_zeros_line(rows: Sequence[LayerRow]) -> str:
    """How often the sparse kernel is chosen where zeros are few, and where that was a mistake."""
    switched = [row for row in rows if row.chosen != row.dense]
    lines = [
        f"With {FEW_ZEROS[0]:.0%} to {FEW_ZEROS[-1]:.0%} zeros in {len({r.layer for r in rows})} "
        f"layers of the ICNets and the ResNet34-U-Net, {len(switched)} of {len(rows)} choices are "
        "the sparse kernel. "
        "Where it takes more than 1.02 times as long as the dense choice:"
    ]
    worse = sorted((row for row in switched if row.gain < 1 / 1.02), key=lambda row: row.gain)
    lines += [f"- {r.layer}, {r.zeros:.0%} zeros: {1 / r.gain:.2f} times" for r in worse]
    return "\n".join(lines) if worse else f"{lines[0]} nowhere."


def network_table(rows: Sequence[NetworkRow]) -> str:
    """Least and median times, and how much less they are than without zeros."""
    counts = list(dict.fromkeys(row.threads for row in rows))
    found = {(row.zeros, row.threads): row for row in rows}
    body = []
    for zeros in NETWORK_ZEROS:
        cells = []
        for count in counts:
            row, dense = found[zeros, count], found[0.0, count]
            cells += [f"{row.least:.3f}", f"{row.median:.3f}"]
            cells += [f"**{dense.least / row.least:.2f}**", f"{dense.median / row.median:.2f}"]
        body.append([f"{zeros:.0%}", *cells])
    words = "least, s", "median, s", "gain", "of medians"
    head = [word for count in counts for word in (f"{threads(count)}: {words[0]}", *words[1:])]
    return table(["zeros", *head], body)


def curves(kinds: Mapping[str, Sequence[LayerRow]], network: Sequence[NetworkRow]) -> list[Curve]:
    """The sparse kernel beside the dense choice, and the network beside itself without zeros."""
    lines = [
        Curve(name, [(row.zeros, row.sparse_gain) for row in rows]) for name, rows in kinds.items()
    ]
    for count in dict.fromkeys(row.threads for row in network):
        mine = {row.zeros: row.least for row in network if row.threads == count}
        points = [(zeros, mine[0.0] / seconds) for zeros, seconds in mine.items()]
        lines.append(Curve(f"whole ICNet, {threads(count)}", points, bold=True))
    return lines


def markdown(
    kinds: Mapping[str, Sequence[LayerRow]],
    few: Sequence[LayerRow],
    network: Sequence[NetworkRow],
) -> str:
    parts = [
        "The sparse ICNet, 720×960, CPU time of a run divided by its threads:",
        network_table(network),
        few_zeros_line(few),
    ]
    for name, rows in kinds.items():
        parts += [f"{name}, ms on one core:", layer_table(rows)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="calls at least")
    parser.add_argument("--seconds", type=float, default=20, metavar="S", help="for the network")
    parser.add_argument("--threads", type=positives, default=[1, 2], help="default 1,2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--page", action="store_true", help="write README.md and sparsity.svg")
    options = parser.parse_args()
    network = network_rows(options.threads, options.rounds, options.seconds)
    kinds = {
        name: [layer_row(layer, zeros, options.rounds) for zeros in LAYER_ZEROS]
        for name, layer in KINDS.items()
    }
    few = [
        layer_row(layer, zeros, options.rounds)
        for layer in filter(prunable, LAYERS)
        for zeros in FEW_ZEROS
    ]
    text = markdown(kinds, few, network)
    print(text)
    if options.json is not None:
        record = {"network": network, "kinds": [*chain(*kinds.values())], "few": few}
        listed = {name: [asdict(row) for row in rows] for name, rows in record.items()}
        save(options.json, json.dumps(listed, indent=1) + "\n")
    if options.page:
        save(PAGE.with_name("sparsity.svg"), plot(curves(kinds, network)))
        save(PAGE, update_page(PAGE, text, "sparsity.py"))


if __name__ == "__main__":
    main()
