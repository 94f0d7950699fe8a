"""Writes a trained network as ONNX."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
import torch
from data import HEIGHT, WIDTH
from network import FullSize, SmallNet
from onnx.helper import set_model_props
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


def save(model: onnx.ModelProto, path: Path, card: str) -> None:
    """Write ``model`` to ``path``, complete or not at all."""
    set_model_props(model, {"minseg.card": card})
    onnx.checker.check_model(model)
    temporary = path.with_suffix(".part")
    temporary.write_bytes(model.SerializeToString(deterministic=True))
    os.replace(temporary, path)
