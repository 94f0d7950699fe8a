"""Writes an exported network with 8-bit integers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from export import INPUT, save
from onnx.numpy_helper import to_array
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

#: What onnxruntime calls TensorQuantOverrides: scale and zero point by a tensor's name.
Overrides = dict[str, list[dict[str, Any]]]


def quantize(source: Path, path: Path, card: str, pictures: Tensor) -> None:
    """Write the network in ``source`` with 8-bit integers, as QuantizeLinear and DequantizeLinear.

    Weights are symmetric, per output channel; activations have the range that they take on
    ``pictures``, N×3×360×480 uint8. All scales are powers of two: then an engine that computes in
    floats makes no rounding errors in a convolution, and gets the integers that an engine of
    integers gets. Enlarged features and the 1×1 convolutions before them and beside them stay in
    floats: what is enlarged by two lies in the middle between two integers too often.
    """
    ranged = _quantized(source, Feeds(pictures), {})
    overrides = {**_activations(ranged), **_weights(onnx.load(source))}
    save(_quantized(source, Feeds(pictures), overrides), path, card)


def _quantized(source: Path, feeds: Feeds, overrides: Overrides) -> onnx.ModelProto:
    """The network in ``source`` quantised by onnxruntime, whose scales ``overrides`` replace."""
    in_floats = _around_resizes(onnx.load(source).graph.node)
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.onnx"
        quantize_static(
            source,
            raw,
            feeds,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=in_floats,
            extra_options={"TensorQuantOverrides": overrides},
        )
        return onnx.load(raw)


def _around_resizes(nodes: Sequence[onnx.NodeProto]) -> list[str]:
    """Names of the Resizes, of what they are added in, and of the convolutions before either."""
    makers = {node.output[0]: node for node in nodes}
    resizes = {name for name, node in makers.items() if node.op_type == "Resize"}
    around = [node for node in nodes if resizes & {*node.input, *node.output}]
    before = [makers[name] for node in around for name in node.input if name in makers]
    return sorted({node.name for node in (*around, *before)})


def _activations(quantized: onnx.ModelProto) -> Overrides:
    """Each quantised activation's scale as a power of two, with the zero point moved to match."""
    known = {tensor.name: to_array(tensor) for tensor in quantized.graph.initializer}
    overrides = {}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            name, scale, zero = node.input[0], known[node.input[1]], known[node.input[2]]
            power = power_of_two(scale)
            moved = np.rint(zero * (scale / power)).clip(0, 255)
            overrides[name] = [{"scale": power, "zero_point": np.array(moved, np.uint8)}]
    return overrides


def _weights(model: onnx.ModelProto) -> Overrides:
    """A scale for each output channel of each convolution's weights."""
    known = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    overrides = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            weights = known[node.input[1]]
            largest = np.abs(weights).max(axis=(1, 2, 3))
            overrides[node.input[1]] = [
                {"scale": scale, "zero_point": np.array(0, np.int8), "axis": 0}
                for scale in power_of_two(np.maximum(largest, 1e-6) / 127)
            ]
    return overrides


def power_of_two(scale: np.ndarray) -> np.ndarray:
    """The next power of two above ``scale``, or the one below if that cuts off a sixth at most."""
    return np.array(np.exp2(np.ceil(np.log2(scale) - np.log2(1.2))), np.float32)


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Pictures, one after the other, as the exported network takes them."""

    def __init__(self, pictures: Tensor):
        self.pictures = iter(pictures)

    def get_next(self) -> dict[str, Any] | None:
        picture = next(self.pictures, None)
        if picture is None:
            return None
        return {INPUT: picture[None].float().numpy()}
