"""Comparison with other engines: the same model file and picture through each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

import minseg


def onnxruntime_run(
    model: Path | bytes,
    feeds: dict[str, np.ndarray],
    outputs: list[str] | None = None,
    *,
    optimised: bool = False,
) -> list[np.ndarray]:
    """The model through onnxruntime with its optimisations off: node by node, as the file says."""
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, feeds)


def openvino_run(model: Path, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The model through openvino in f32."""
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(str(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled(feeds)
    return [np.array(results[o]) for o in compiled.outputs]


def with_all_values(model: Path) -> tuple[bytes, list[str]]:
    """The model with every value of its graph as an output, and their names."""
    proto = onnx.load(str(model))
    known = {o.name for o in proto.graph.output}
    names = [o for node in proto.graph.node for o in node.output if o and o not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
    return proto.SerializeToString(), names


def picture_feed(session: minseg.Session, picture: Path) -> dict[str, np.ndarray]:
    """The picture as the model's card says it wants it."""
    with Image.open(picture) as image:
        array = session.recipe.apply(image.convert("RGB"))
    return {session.get_inputs()[0].name: array}


def noise_feed(session: minseg.Session, seed: int = 0) -> dict[str, np.ndarray]:
    """A picture of uniform noise, as the model's card says it wants pictures."""
    size = session.recipe.height, session.recipe.width, 3
    noise = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    return {session.get_inputs()[0].name: session.recipe.apply(Image.fromarray(noise))}


def label_map(output: np.ndarray) -> np.ndarray:
    """Class indices of an N×C×H×W output; an output of indices as it is."""
    return output if output.dtype.kind in "iu" else output.argmax(1)


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Share of pixels with equal labels."""
    return float((label_map(a) == label_map(b)).mean())
