"""Times every kernel alone on layers of the four CamVid models, on one core.

Each layer is a model of a single node. Every kernel that takes the node's problem is checked
against the reference operator and then timed, its calls taking turns with those of onnxruntime
on the same model (where it is installed). A kernel that is wrong is not timed. The printed share is
that of the core's own peak, measured first: fused multiply-adds for kernels that compute,
bytes copied for those that move. Times are CPU times of the one thread; onnxruntime's include its
changes of layout, if any.

    python benchmarks/kernels.py [--only TEXT] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minseg.errors import InputError
from minseg.graph.onnx_reader import read_onnx
from minseg.kernels.layout import aligned, blocked_shape, from_blocked, to_blocked
from minseg.kernels.machine import target
from minseg.kernels.registry import Kernel, Launch, all_kernels
from minseg.measure.launches import BoundLaunch
from minseg.measure.peaks import Peaks, measure_peaks
from minseg.measure.peers import PEERS, Model
from minseg.measure.timing import clocked, interleaved, thread_clock
from minseg.ops.evaluate import run_node
from minseg.passes import specialise
from minseg.plan.problems import tasks

PEER = PEERS["onnxruntime"]

#: Largest error of a kernel, relative to the largest output: what f32 sums of some thousand
#: products of random numbers stay well inside of, and a wrong kernel does not.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Layer:
    """One node: operator, shapes of its inputs and of its constants, attributes."""

    model: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None

    @property
    def title(self) -> str:
        shapes = " + ".join("×".join(map(str, s)) for s in self.inputs)
        weights = "".join(" * " + "×".join(map(str, s)) for s in self.constants[:1])
        sizes = " to " + "×".join(map(str, self.sizes)) if self.sizes else ""
        extra = [
            f"{k[0]}{v[0]}" for k, v in self.attributes.items() if k in ("strides", "dilations")
        ]
        return f"{self.op} {' '.join([shapes + weights + sizes, *extra])}"


def conv(
    model: str, IC: int, OC: int, H: int, W: int, K: int = 3, stride: int = 1, dilation: int = 1,
    groups: int = 1,
) -> Layer:  # fmt: skip
    """A convolution padded so that stride 1 keeps the picture's size."""
    attributes: dict[str, Any] = {"pads": [K // 2 * dilation] * 4}
    if stride > 1:
        attributes["strides"] = [stride] * 2
    if dilation > 1:
        attributes["dilations"] = [dilation] * 2
    if groups > 1:
        attributes["group"] = groups
    return Layer(model, "Conv", ((1, IC, H, W),), ((OC, IC // groups, K, K), (OC,)), attributes)


def up(model: str, IC: int, OC: int, H: int, W: int) -> Layer:
    """A 2×2 transposed convolution of stride 2."""
    constants = (IC, OC, 2, 2), (OC,)
    return Layer(model, "ConvTranspose", ((1, IC, H, W),), constants, {"strides": [2, 2]})


def pool(model: str, op: str, C: int, H: int, W: int, K: int, stride: int, pad: int = 0) -> Layer:
    attributes = {"kernel_shape": [K] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    return Layer(model, op, ((1, C, H, W),), attributes=attributes)


def resize(model: str, C: int, H: int, W: int, OH: int, OW: int, mode: str = "nearest") -> Layer:
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "linear":
        attributes["coordinate_transformation_mode"] = "align_corners"
    else:
        attributes["nearest_mode"] = "floor"
    return Layer(model, "Resize", ((1, C, H, W),), (), attributes, (1, C, OH, OW))


def concat(model: str, C: Sequence[int], H: int, W: int) -> Layer:
    return Layer(model, "Concat", tuple((1, c, H, W) for c in C), attributes={"axis": 1})


def plain(model: str, op: str, shape: tuple[int, ...], inputs: int = 1, **attributes: Any) -> Layer:
    return Layer(model, op, (shape,) * inputs, attributes=attributes)


U, Q, S, R = "unet", "icnet-int8", "icnet-sparse", "unet-resnet34"

LAYERS = (
    conv(U, 3, 64, 368, 480),
    conv(U, 64, 64, 368, 480),
    conv(U, 128, 64, 368, 480),
    conv(U, 128, 128, 184, 240),
    conv(U, 256, 256, 92, 120),
    conv(U, 512, 512, 46, 60),
    conv(U, 1024, 1024, 23, 30),
    conv(U, 64, 12, 368, 480, K=1),
    up(U, 1024, 512, 23, 30),
    up(U, 512, 256, 46, 60),
    up(U, 256, 128, 92, 120),
    up(U, 128, 64, 184, 240),
    pool(U, "MaxPool", 64, 368, 480, 2, 2),
    pool(U, "MaxPool", 512, 46, 60, 2, 2),
    concat(U, (64, 64), 368, 480),
    concat(U, (512, 512), 46, 60),
    plain(U, "Softmax", (1, 12, 368, 480), axis=1),
    conv(Q, 3, 32, 768, 768, stride=2),
    conv(Q, 32, 32, 384, 384, stride=2),
    conv(Q, 32, 64, 192, 192),
    conv(Q, 64, 32, 96, 96, K=1),
    conv(Q, 128, 64, 96, 96, K=1, stride=2),
    conv(Q, 64, 64, 24, 24),
    conv(Q, 128, 128, 24, 24, dilation=2),
    conv(Q, 1024, 256, 24, 24, K=1),
    conv(Q, 256, 256, 24, 24, dilation=4),
    conv(Q, 256, 1024, 24, 24, K=1),
    conv(Q, 128, 12, 192, 192, K=1),
    pool(Q, "MaxPool", 64, 192, 192, 3, 2, 1),
    pool(Q, "AveragePool", 1024, 24, 24, 4, 4),
    plain(Q, "GlobalAveragePool", (1, 1024, 24, 24)),
    plain(Q, "Add", (1, 1024, 24, 24), inputs=2),
    resize(Q, 3, 768, 768, 384, 384),
    resize(Q, 256, 24, 24, 48, 48),
    resize(Q, 12, 192, 192, 768, 768),
    conv(S, 3, 64, 720, 960, stride=2),
    conv(S, 64, 64, 360, 480, stride=2),
    conv(S, 64, 256, 90, 120, K=1),
    conv(S, 256, 12, 180, 240, K=1),
    conv(S, 512, 512, 23, 30, dilation=4),
    conv(S, 2048, 512, 23, 30, K=1),
    conv(S, 512, 2048, 23, 30, K=1),
    plain(S, "Transpose", (1, 720, 960, 3), perm=[0, 3, 1, 2]),
    plain(S, "Transpose", (1, 256, 90, 120), perm=[0, 2, 3, 1]),
    resize(S, 512, 23, 30, 45, 60, "linear"),
    resize(S, 12, 180, 240, 720, 960, "linear"),
    plain(S, "ArgMax", (1, 12, 720, 960), axis=1),
    conv(R, 3, 64, 480, 640, K=7, stride=2),
    pool(R, "MaxPool", 64, 240, 320, 3, 2, 1),
    conv(R, 64, 64, 120, 160),
    conv(R, 64, 128, 120, 160, K=1, stride=2),
    conv(R, 512, 512, 15, 20),
    conv(R, 768, 256, 30, 40),
    conv(R, 32, 16, 480, 640),
    conv(R, 16, 32, 480, 640),
    resize(R, 512, 15, 20, 30, 40),
    resize(R, 32, 240, 320, 480, 640),
    concat(R, (64, 64), 240, 320),
    conv("others", 128, 128, 92, 120, groups=128),
    conv("others", 64, 64, 184, 240, stride=2, groups=64),
)


@dataclass
class Row:
    """One kernel on one layer. ``rate`` is in GFLOP/s where ``flops`` are counted, else in GB/s;
    ``share`` that of the peak; ``peer_ms`` onnxruntime's time."""

    model: str
    layer: str
    kernel: str
    ms: float
    rate: float
    unit: str
    share: float
    peer_ms: float | None


# One layer


def model_of(layer: Layer, rng: np.random.Generator) -> onnx.ModelProto:
    """The layer's node as a model, with random weights."""
    names = [f"x{i}" for i in range(len(layer.inputs))]
    initializers = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"c{i}")
        for i, shape in enumerate(layer.constants)
    ]
    inputs = [*names, *(c.name for c in initializers)]
    if layer.sizes is not None:
        initializers.append(numpy_helper.from_array(np.array(layer.sizes, np.int64), "sizes"))
        inputs += ["", "", "sizes"]
    node = helper.make_node(layer.op, inputs, ["y"], **layer.attributes)
    values = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in zip(names, layer.inputs, strict=True)
    ]
    result = TensorProto.INT64 if layer.op == "ArgMax" else TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("y", result, None)]
    graph = helper.make_graph([node], "layer", values, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def measure(layer: Layer, rounds: int, peaks: Peaks) -> list[Row]:
    """A row for every kernel that takes the layer. Exits the program where one is wrong."""
    rng = np.random.default_rng(0)
    model = model_of(layer, rng)
    graph = specialise(read_onnx(model.SerializeToString()), {})
    (node,) = graph.nodes
    feeds = {
        f"x{i}": rng.standard_normal(shape).astype(np.float32)
        for i, shape in enumerate(layer.inputs)
    }
    known = graph.constants | feeds
    (expected,) = run_node(node, [known.get(n) for n in node.inputs], {})
    (task,) = tasks(node, graph)
    usable = [
        k for k in all_kernels() if k.family is type(task.problem) and k.applies(task.problem)
    ]
    calls: dict[str, Checked | Callable[[], float]] = {}
    moved = {}
    for kernel in usable:
        launch = kernel.prepare(task.problem, *task.constants)
        bound = Checked(kernel, launch, [feeds[str(n)] for n in task.inputs], expected)
        bound.check(layer.title)
        calls[kernel.name], moved[kernel.name] = bound, bound.nbytes
    if has_peer():
        calls[PEER.name] = peer_call(model, feeds)
    timings = interleaved(calls, rounds)
    peer = timings.pop(PEER.name, None)
    flops = getattr(task.problem, "flops", 0) if layer.op.startswith("Conv") else 0
    rows = []
    for name, timing in timings.items():
        work, unit, peak = (
            (flops, "GFLOP/s", peaks.flops) if flops else (moved[name], "GB/s", peaks.bytes)
        )
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


class Checked(BoundLaunch):
    """A kernel on a layer's inputs, with what it is to give."""

    def __init__(
        self, kernel: Kernel, launch: Launch, inputs: Sequence[np.ndarray], expected: np.ndarray
    ):
        self.kernel, self.expected = kernel, expected
        shape = expected.shape
        if kernel.writes == "blocked":
            shape = blocked_shape(expected.shape)
        self.output = aligned(np.zeros(shape, expected.dtype))
        stored = [to_blocked(x) if kernel.reads == "blocked" else aligned(x) for x in inputs]
        super().__init__(launch, stored, self.output)

    def check(self, title: str) -> None:
        """Exits the program if the output is not what the reference operator gives."""
        self()
        y = self.output
        if self.kernel.writes == "blocked":
            y = from_blocked(y, self.expected.shape[1])
        error = np.abs(y.astype(np.float64) - self.expected).max()
        if not error <= TOLERANCE * np.abs(self.expected).max():
            sys.exit(f"{self.kernel.name} is wrong by {error:.3g} on {title}")


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


# The program


def table(rows: Sequence[Row]) -> str:
    lines = [f"{'layer':52} {'kernel':30} {'ms':>8} {'rate':>14} {'peak':>5} {'onnxruntime':>12}"]
    model = ""
    for row in rows:
        if row.model != model:
            model = row.model
            lines.append(f"-- {model}")
        peer = "" if row.peer_ms is None else f"{row.peer_ms:9.3f} ms"
        lines.append(
            f"{row.layer:52} {row.kernel:30} {row.ms:8.3f} {row.rate:6.1f} {row.unit:7} "
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
    print(f"{peaks.flops / 1e9:.0f} GFLOP/s, copies {peaks.bytes / 1e9:.1f} GB/s")
    print(table(rows))
    if options.json is not None:
        record = {"peaks": asdict(peaks), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
