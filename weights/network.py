"""Builds ONNX networks with synthetic weights that behave like trained ones.

A `NetworkBuilder` runs each node on sample pictures as it appends it, with minseg's reference
operators. So the statistics of a batch normalisation, the range of a quantiser and the last
layer can be fitted to the very values that reach them: activations keep their scale through any
depth, and every class occurs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from minseg.errors import InputError
from minseg.graph.model import Node
from minseg.graph.prune import smallest_zeroed
from minseg.ops.evaluate import run_node

#: Bits kept of a measured number. The sums behind it differ in their last bits from one BLAS
#: library to the next; the file should not.
MEASURED_BITS = 12
EPSILON = 1e-5
#: Standard deviation of each class's logits over the pixels of the sample pictures.
LOGIT_SPREAD = 3.0

#: Deviation of what a block adds, in deviations of what it adds to.
ADDED_SHARE = 0.5


@dataclass(frozen=True)
class Tensor:
    """A value of the network: its name in the graph, and what it is on the sample pictures."""

    name: str
    sample: np.ndarray

    @property
    def channels(self) -> int:
        """Size of axis 1."""
        return int(self.sample.shape[1])


class NetworkBuilder:
    """Appends nodes to one graph. ``seed`` determines every weight that is drawn.

    With ``sparsity`` that share of the weights of each convolution, the smallest ones, is zero.
    """

    def __init__(self, seed: int, opset: int = 13, sparsity: float = 0.0):
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.sparsity = sparsity
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._domains = {"": opset}
        self._count: Counter[str] = Counter()

    def input(self, name: str, shape: Sequence[int | str], sample: np.ndarray) -> Tensor:
        """Declare a float32 graph input of ``shape``, where a string is a dynamic size."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return Tensor(name, sample)

    def output(self, x: Tensor, shape: Sequence[int | str]) -> None:
        """Declare ``x`` a graph output of ``shape``."""
        dtype = helper.np_dtype_to_tensor_dtype(x.sample.dtype)
        self._outputs.append(helper.make_tensor_value_info(x.name, dtype, shape))

    def constant(self, name: str, array: np.ndarray) -> Tensor:
        """Add an initializer."""
        self._constants.append(numpy_helper.from_array(array, name))
        return Tensor(name, array)

    def op(
        self,
        op: str,
        *inputs: Tensor | None,
        name: str | None = None,
        domain: str = "",
        sample: np.ndarray | None = None,
        **attributes: Any,
    ) -> Tensor:
        """Append a node of one output, called ``name``; ``sample`` is that output, if known."""
        node_name = self.next_name(op)
        self._count[op] += 1
        output = node_name if name is None else name
        names = tuple("" if x is None else x.name for x in inputs)
        self._domains.setdefault(domain, 1)
        if sample is None:
            sample = self._apply(op, [None if x is None else x.sample for x in inputs], attributes)
        self._nodes.append(
            helper.make_node(op, names, (output,), node_name, domain=domain, **attributes)
        )
        return Tensor(output, sample)

    def _apply(
        self, op: str, arguments: Sequence[np.ndarray | None], attributes: Mapping[str, Any]
    ) -> np.ndarray:
        """What operator ``op`` of the default domain gives on ``arguments``."""
        node = Node(f"sample of {op}", op, (), (), attributes, "", self.opset)
        result: np.ndarray = run_node(node, arguments, {})[0]
        return result

    def next_name(self, op: str) -> str:
        """The name that the next node of this kind gets, to name its constants after it."""
        return f"{op}_{self._count[op]}"

    def he_weights(self, shape: Sequence[int], fan_in: int) -> np.ndarray:
        """Normal weights with variance 2 / fan_in (He et al., 2015), pruned to the sparsity."""
        weights = self.rng.standard_normal(shape) * np.sqrt(2 / fan_in)
        return self.prune(weights.astype(np.float32))

    def prune(self, weights: np.ndarray) -> np.ndarray:
        """``weights`` with the share ``sparsity`` of them, the smallest ones, set to zero."""
        return smallest_zeroed(weights, self.sparsity)

    def conv(
        self, x: Tensor, weights: np.ndarray, bias: np.ndarray | None = None, **attributes: Any
    ) -> Tensor:
        """Conv with ``weights`` [M, C, KH, KW]."""
        name = self.next_name("Conv")
        inputs = [x, self.constant(f"{name}.weight", weights)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
        return self.op("Conv", *inputs, **attributes)

    def batch_norm(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """BatchNormalization with the statistics of ``x``, its scale and shift from `affine`."""
        return self.normalise(x, *self.affine(x.channels, like), *statistics(x.sample))

    def normalise(
        self,
        x: Tensor,
        scale: np.ndarray,
        shift: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
    ) -> Tensor:
        """BatchNormalization with the given numbers for each channel."""
        name = self.next_name("BatchNormalization")
        parts = {"scale": scale, "bias": shift, "mean": mean, "var": variance}
        constants = [
            self.constant(f"{name}.{part}", array.astype(np.float32))
            for part, array in parts.items()
        ]
        return self.op("BatchNormalization", x, *constants, epsilon=EPSILON)

    def conv_norm(
        self, x: Tensor, weights: np.ndarray, like: Tensor | None = None, **attributes: Any
    ) -> Tensor:
        """Conv with a batch normalisation folded into its weights and bias (see `affine`)."""
        plain = self._apply("Conv", [x.sample, weights], attributes)
        mean, variance = statistics(plain)
        scale, shift = self.affine(len(weights), like)
        gain = scale / np.sqrt(variance + np.float32(EPSILON))
        bias = shift - gain * mean
        gain = gain.reshape(-1, 1, 1, 1)
        sample = plain * gain[:, 0] + bias.reshape(-1, 1, 1)
        return self.conv(x, weights * gain, bias, sample=sample, **attributes)

    def affine(self, channels: int, like: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scale and shift of a normalisation, spread as in trained networks.

        Most values are above zero, where the ReLU behind is linear: a random network that cuts
        half of them off makes rounding errors grow from layer to layer.
        What will be added to ``like`` gets a part of its deviation, so that the sum is much the
        same, as it is behind the residual blocks of trained networks.
        """
        scale, shift = self.rng.uniform(0.6, 1.4, channels), self.rng.normal(0.5, 0.3, channels)
        factor = 1.0 if like is None else ADDED_SHARE * like.sample.std(dtype=np.float64)
        return (factor * scale).astype(np.float32), (factor * shift).astype(np.float32)

    def relu(self, x: Tensor) -> Tensor:
        return self.op("Relu", x)

    def classifier(
        self, x: Tensor, classes: int, kernel: int = 1, name: str | None = None
    ) -> Tensor:
        """The last convolution, with bias: its logits favour every class on the sample pictures."""
        weights, bias = self.fit_classifier(x, classes, kernel)
        named = {} if name is None else {"name": name}
        return self.conv(x, weights, bias, pads=[kernel // 2] * 4, **named)

    def fit_classifier(self, x: Tensor, classes: int, kernel: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias of a classifier.

        Responses to random kernels are turned to their principal axes, and each class gets a
        random direction among the strongest of these, so that the logits of two classes are
        nearly uncorrelated; then each class is brought to mean 0 and deviation LOGIT_SPREAD.
        """
        candidates = self.rng.standard_normal((4 * classes, x.channels, kernel, kernel))
        directions = self._directions(x, candidates, classes)
        weights = self.prune(measured(np.tensordot(directions, candidates, 1)))
        logits = self.response(x, weights)
        gain = measured(LOGIT_SPREAD / logits.std(axis=1))
        return weights * gain.reshape(-1, 1, 1, 1), measured(-gain * logits.mean(axis=1))

    def _directions(self, x: Tensor, candidates: np.ndarray, classes: int) -> np.ndarray:
        """Combinations [classes, candidates] of the responses to ``candidates``, decorrelated."""
        covariance = np.cov(self.response(x, candidates))
        variances, axes = np.linalg.eigh(covariance)
        strongest = slice(-1, -classes - 1, -1)
        variances, axes = variances[strongest], axes[:, strongest]
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(classes)])
        rotation, triangle = np.linalg.qr(self.rng.standard_normal((classes, classes)))
        rotation = rotation * np.sign(np.diag(triangle))
        directions: np.ndarray = rotation @ (axes / np.sqrt(variances + variances[0] / 50)).T
        return directions

    def response(self, x: Tensor, weights: np.ndarray) -> np.ndarray:
        """What ``weights`` [M, C, K, K] make of the sample of ``x``: [M, pixels], float64."""
        pads = [weights.shape[-1] // 2] * 4
        y = self._apply("Conv", [x.sample, weights.astype(np.float32)], {"pads": pads})
        return y.swapaxes(0, 1).reshape(len(weights), -1).astype(np.float64)

    def model(self, card: str) -> onnx.ModelProto:
        """The finished network, marked as synthetic."""
        graph = helper.make_graph(
            self._nodes, card, self._inputs, self._outputs, initializer=self._constants
        )
        opsets = [helper.make_opsetid(domain, v) for domain, v in self._domains.items()]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=8, producer_name="minseg.weights"
        )
        helper.set_model_props(model, {"minseg.synthetic": "true", "minseg.card": card})
        return model


def statistics(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each channel of ``sample`` [N, C, H, W]."""
    axes = (0, 2, 3)
    wide = sample.astype(np.float64)
    return measured(wide.mean(axis=axes)), measured(wide.var(axis=axes))


def measured(array: np.ndarray) -> np.ndarray:
    """``array`` as float32 with its significands rounded to MEASURED_BITS."""
    fraction, exponent = np.frexp(array)
    integers = np.rint(np.ldexp(fraction, MEASURED_BITS))
    rounded: np.ndarray = np.ldexp(integers, exponent - MEASURED_BITS).astype(np.float32)
    return rounded


def check_size(name: str, value: int, step: int = 1) -> None:
    """Raise InputError unless ``value`` is a positive multiple of ``step``."""
    if value < step or value % step:
        wanted = "positive" if step == 1 else f"a positive multiple of {step}"
        raise InputError(f"{name} must be {wanted}, not {value}")
