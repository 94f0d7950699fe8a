"""Writes a trained network as ONNX, in 32-bit floats or in 8-bit integers."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from data import HEIGHT, WIDTH
from network import FullSize, SmallNet
from onnx.helper import set_model_props
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

INPUT, OUTPUT = "image", "logits"
OPSET = 17


def export(network: SmallNet, path: Path, card: str) -> None:
    """Write ``network`` with its batch normalisations folded: 1×3×360×480 RGB, 0 to 255, to
    1×12×360×480 logits. The file's metadata name its ``card``.
    """
    picture = torch.zeros(1, 3, HEIGHT, WIDTH)
    whole = FullSize(network).cpu().eval()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.onnx"
        torch.onnx.export(
            whole,
            (picture,),
            raw,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )
        quant_pre_process(raw, raw, skip_symbolic_shape=True)
        model = onnx.load(raw)
    save(model, path, card)


def quantize(source: Path, path: Path, card: str, pictures: np.ndarray) -> None:
    """Write the network in ``source`` with 8-bit integers, as QuantizeLinear and DequantizeLinear.

    Weights are symmetric, per output channel; activations have the range that they take on
    ``pictures``, N×360×480×3 uint8. The logits are not quantised, nor is their enlargement.
    """
    nodes = onnx.load(source).graph.node
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        raw = Path(folder) / "raw.onnx"
        quantize_static(
            source,
            raw,
            Feeds(pictures),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=[nodes[-1].name],
        )
        model = onnx.load(raw)
    save(model, path, card)


class Feeds(CalibrationDataReader):  # type: ignore[misc]
    """Pictures, one after the other, as the exported network takes them."""

    def __init__(self, pictures: np.ndarray):
        self.pictures = iter(pictures)

    def get_next(self) -> dict[str, Any] | None:
        picture = next(self.pictures, None)
        if picture is None:
            return None
        return {INPUT: picture.transpose(2, 0, 1)[None].astype(np.float32)}


def save(model: onnx.ModelProto, path: Path, card: str) -> None:
    """Write ``model`` to ``path``, complete or not at all."""
    set_model_props(model, {"minseg.card": card})
    onnx.checker.check_model(model)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    os.replace(temporary, path)
