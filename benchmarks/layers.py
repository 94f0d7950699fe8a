"""Single layers to time kernels on: which there are, and kernels bound to one and checked."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minseg.graph.onnx_reader import read_onnx
from minseg.kernels.core.layout import aligned
from minseg.kernels.core.registry import Kernel, Launch, all_kernels
from minseg.measure.launches import BoundLaunch
from minseg.ops.evaluate import run_node
from minseg.passes import optimize, specialise
from minseg.plan.problems import tasks

#: Largest error of a kernel, relative to the largest output: what f32 sums of some thousand
#: products of random numbers stay well inside of, and a wrong kernel does not.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Layer:
    """One node: operator, shapes of its inputs and of its constants, attributes. ``density`` is the
    share of its weights that are not zero."""

    model: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    constants: tuple[tuple[int, ...], ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[int, ...] | None = None
    density: float = 1.0

    @property
    def type(self) -> int:
        """That of its inputs, as ONNX numbers it."""
        return TensorProto.UINT8 if self.op == "QLinearConv" else TensorProto.FLOAT

    def inputs_drawn(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Something for each input, by its name."""
        if self.type == TensorProto.UINT8:
            arrays = [rng.integers(0, 256, shape).astype(np.uint8) for shape in self.inputs]
        else:
            arrays = [rng.standard_normal(shape).astype(np.float32) for shape in self.inputs]
        return {f"x{i}": array for i, array in enumerate(arrays)}

    @property
    def title(self) -> str:
        shapes = " + ".join("×".join(map(str, s)) for s in self.inputs)
        weights = "".join(" * " + "×".join(map(str, s)) for s in self.constants[:1])
        sizes = " to " + "×".join(map(str, self.sizes)) if self.sizes else ""
        extra = [
            f"{k[0]}{v[0]}" for k, v in self.attributes.items() if k in ("strides", "dilations")
        ]
        if self.density < 1:
            extra.append(f"{1 - self.density:.0%} zeros")
        return f"{self.op} {' '.join([shapes + weights + sizes, *extra])}"


def conv(
    model: str, IC: int, OC: int, H: int, W: int, K: int = 3, stride: int = 1, dilation: int = 1,
    groups: int = 1, density: float = 1.0,
) -> Layer:  # fmt: skip
    """A convolution padded so that stride 1 keeps the picture's size."""
    attributes: dict[str, Any] = {"pads": [K // 2 * dilation] * 4}
    if stride > 1:
        attributes["strides"] = [stride] * 2
    if dilation > 1:
        attributes["dilations"] = [dilation] * 2
    if groups > 1:
        attributes["group"] = groups
    constants = (OC, IC // groups, K, K), (OC,)
    return Layer(model, "Conv", ((1, IC, H, W),), constants, attributes, density=density)


def of_bytes(layer: Layer) -> Layer:
    """The convolution ``layer`` as QLinearConv, from uint8 to uint8 with weights of int8."""
    return replace(layer, op="QLinearConv")


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
    conv(S, 64, 64, 360, 480, stride=2, density=0.4),
    conv(S, 64, 256, 90, 120, K=1, density=0.4),
    conv(S, 512, 512, 23, 30, dilation=4, density=0.4),
    conv(S, 2048, 512, 23, 30, K=1, density=0.4),
    conv(S, 512, 2048, 23, 30, K=1, density=0.4),
    conv(S, 512, 2048, 23, 30, K=1, density=0.1),
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
    of_bytes(conv(U, 3, 64, 368, 480)),
    of_bytes(conv(U, 64, 64, 368, 480)),
    of_bytes(conv(U, 128, 128, 184, 240)),
    of_bytes(conv(U, 512, 512, 46, 60)),
    of_bytes(conv(U, 1024, 1024, 23, 30)),
    of_bytes(conv(U, 64, 12, 368, 480, K=1)),
    of_bytes(conv(Q, 3, 32, 768, 768, stride=2)),
    of_bytes(conv(Q, 32, 32, 384, 384, stride=2)),
    of_bytes(conv(Q, 32, 64, 192, 192)),
    of_bytes(conv(Q, 64, 64, 48, 48)),
    of_bytes(conv(Q, 32, 128, 96, 96, K=1)),
    of_bytes(conv(Q, 1024, 256, 24, 24, K=1)),
    of_bytes(conv(Q, 256, 256, 24, 24, dilation=4)),
    of_bytes(conv(Q, 256, 1024, 24, 24, K=1)),
    of_bytes(conv("others", 128, 128, 92, 120, groups=128)),
    of_bytes(conv("others", 64, 64, 184, 240, stride=2, groups=64)),
    conv("others", 128, 128, 92, 120, groups=128),
    conv("others", 64, 64, 184, 240, stride=2, groups=64),
)


# One layer


def constants_of(layer: Layer, rng: np.random.Generator) -> list[np.ndarray]:
    """What the node takes after the layer's inputs."""
    if layer.op == "QLinearConv":
        return quantised_constants(layer, rng)
    constants = [rng.standard_normal(shape).astype(np.float32) for shape in layer.constants]
    if layer.density < 1:
        constants[0][rng.random(constants[0].shape) >= layer.density] = 0
    return constants


def quantised_constants(layer: Layer, rng: np.random.Generator) -> list[np.ndarray]:
    """Of a QLinearConv: the input's scale and zero point, weights with theirs, the output's scale
    and zero point, and the bias. Results fill the range of a byte."""
    shape = layer.constants[0]
    weights = np.clip(np.rint(rng.normal(0, 30, shape)), -127, 127).astype(np.int8)
    spread = 30 * 74 * np.sqrt(np.prod(shape[1:]))
    return [
        np.array(1.0, np.float32),
        np.array(120, np.uint8),
        weights,
        rng.uniform(0.5, 1.5, len(weights)).astype(np.float32),
        np.zeros(len(weights), np.int8),
        np.array(spread / 40, np.float32),
        np.array(130, np.uint8),
        rng.integers(-1000, 1000, len(weights)).astype(np.int32),
    ]


def model_of(layer: Layer, rng: np.random.Generator) -> onnx.ModelProto:
    """The layer's node as a model, with random weights."""
    names = [f"x{i}" for i in range(len(layer.inputs))]
    constants = constants_of(layer, rng)
    initializers = [numpy_helper.from_array(c, f"c{i}") for i, c in enumerate(constants)]
    inputs = [*names, *(c.name for c in initializers)]
    if layer.sizes is not None:
        initializers.append(numpy_helper.from_array(np.array(layer.sizes, np.int64), "sizes"))
        inputs += ["", "", "sizes"]
    node = helper.make_node(layer.op, inputs, ["y"], **layer.attributes)
    values = [
        helper.make_tensor_value_info(n, layer.type, s)
        for n, s in zip(names, layer.inputs, strict=True)
    ]
    result = TensorProto.INT64 if layer.op == "ArgMax" else layer.type
    outputs = [helper.make_tensor_value_info("y", result, None)]
    graph = helper.make_graph([node], "layer", values, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Checked(BoundLaunch):
    """A kernel on a layer's inputs, with what it is to give."""

    def __init__(
        self, kernel: Kernel, launch: Launch, inputs: Sequence[np.ndarray], expected: np.ndarray
    ):
        self.kernel, self.expected = kernel, expected
        shape = kernel.writes.stored_shape(expected.shape)
        self.output = aligned(np.zeros(shape, expected.dtype))
        stored = [kernel.reads_at(i).store(x) for i, x in enumerate(inputs)]
        super().__init__(launch, stored, self.output)

    def check(self, title: str) -> None:
        """Exits the program if the output is not what the reference operator gives."""
        self()
        y = self.kernel.writes.restore(self.output, self.expected.shape)
        error = np.abs(y.astype(np.float64) - self.expected).max()
        if not error <= TOLERANCE * np.abs(self.expected).max():
            sys.exit(f"{self.kernel.name} is wrong by {error:.3g} on {title}")


@dataclass(frozen=True)
class Trial:
    """A layer with random inputs: its ``model``, what is fed to it, the ``problem`` it poses, and
    the kernels that take it, ready to be timed."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    problem: Any
    kernels: dict[str, Checked]


def trial(layer: Layer) -> Trial:
    """Exits the program where a kernel is wrong."""
    rng = np.random.default_rng(0)
    model = model_of(layer, rng)
    graph = specialise(read_onnx(model.SerializeToString()), {})
    if layer.type == TensorProto.UINT8:
        graph = optimize(graph)
    (node,) = graph.nodes
    feeds = layer.inputs_drawn(rng)
    known = graph.constants | feeds
    (expected,) = run_node(node, [known.get(n) for n in node.inputs], {})
    (task,) = tasks(node, graph)
    kernels = {}
    for kernel in all_kernels():
        if kernel.family is type(task.problem) and kernel.applies(task.problem):
            launch = kernel.prepare(task.problem, *task.constants)
            bound = Checked(kernel, launch, [feeds[str(n)] for n in task.inputs], expected)
            bound.check(layer.title)
            kernels[kernel.name] = bound
    return Trial(model, feeds, task.problem, kernels)
