"""Networks quantised by other tools: built once, kept like `models`.

onnxruntime's quantiser writes them node by node with quantisers between (QDQ), with operators of
integers (QOperator), or to be quantised while they run (dynamic); NNCF's quantiser needs an
interpreter of its own, which the environment variable MINSEG_NNCF_PYTHON names.

Of a network with synthetic weights two engines that sum floats in another order make different
labels: a value rounded the other way changes hundreds behind it, and there are no margins. What
can be compared label by label is the trained network, and those whose scales are powers of two,
in which sums of floats are exact. Networks of operators of integers are exact anyway.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import built_model, model_folder
from onnx.numpy_helper import to_array

from minseg.images.scene import street_scene
from minseg.weights import shipped_file

#: Built networks by name: builder, its options, size (height, width) when reduced and in full.
BUILT = {
    "icnet": ("icnet-camvid-int8-onnx-0001", {"notation": "float"}, (192, 192), (768, 768)),
    "unet": ("unet-camvid-onnx-0001", {}, (48, 64), (368, 480)),
}
#: A trained network by name: file, size.
TRAINED = {"small": ("camvid-small", (360, 480))}
NETWORKS = (*BUILT, *TRAINED)

#: Pictures that ranges are taken from.
CALIBRATION_PICTURES = 3

#: What onnxruntime calls TensorQuantOverrides: scale and zero point by a tensor's name.
Overrides = dict[str, list[dict[str, Any]]]

NNCF_SCRIPT = Path(__file__).with_name("quantise_nncf.py")


@dataclass(frozen=True)
class Quantised:
    """How a network was quantised. ``notation`` is "qdq", "qoperator", "dynamic" or "nncf";
    ``activations`` and ``weights`` are "u8" or "s8"; ``powers`` makes all scales of QDQ powers of
    two; ``full`` means the size that a built network has by itself. Of NNCF's models only
    ``network`` and ``full`` count.
    """

    network: str
    notation: str = "qdq"
    activations: str = "u8"
    weights: str = "s8"
    per_channel: bool = False
    powers: bool = False
    full: bool = False

    def __str__(self) -> str:
        parts = [self.network, self.notation]
        if self.notation != "nncf":
            parts += [self.activations + self.weights]
            parts += [name for name in ("per_channel", "powers") if getattr(self, name)]
        return "-".join([*parts, *(["full"] if self.full else [])])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        if self.network in TRAINED:
            return TRAINED[self.network][1]
        return BUILT[self.network][3 if self.full else 2]

    @property
    def input(self) -> str:
        return "image" if self.network in TRAINED else "input.1"

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        """A street scene as the network takes it: [1, 3, H, W], float32, 0 to 255."""
        height, width = self.size
        picture = street_scene(seed, width, height).image
        channels = picture if self.network in TRAINED else picture[..., ::-1]
        return {self.input: channels.transpose(2, 0, 1)[None].astype(np.float32)}


#: Every notation, types and granularity of the static quantisers.
FORMS = tuple(
    Quantised(network, notation, activations, weights, per_channel)
    for network in NETWORKS
    for notation in ("qdq", "qoperator")
    for activations, weights, per_channel in (
        ("u8", "s8", False),
        ("u8", "s8", True),
        ("u8", "u8", False),
        ("s8", "s8", True),
    )
)
DYNAMIC = tuple(
    Quantised(network, "dynamic", "u8", weights) for network in NETWORKS for weights in ("u8", "s8")
)
NNCF = tuple(Quantised(network, "nncf") for network in NETWORKS)
POWERS = tuple(
    Quantised(network, "qdq", activations, "s8", per_channel, powers=True)
    for network in BUILT
    for activations in ("u8", "s8")
    for per_channel in (False, True)
)


def quantised_model(form: Quantised) -> Path:
    """The file of a network quantised as ``form`` says. Skips the test where a tool is missing."""
    path = model_folder([Path(__file__), NNCF_SCRIPT]) / f"{form}.onnx"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            quantise = _by_nncf if form.notation == "nncf" else _by_onnxruntime
            quantise(form, float_model(form), made)
            os.replace(made, path)
    return path


def float_model(form: Quantised) -> Path:
    """The file of the network that ``form`` quantises."""
    if form.network in TRAINED:
        path = shipped_file(TRAINED[form.network][0])
        assert path is not None
        return path
    name, options, *_ = BUILT[form.network]
    height, width = form.size
    return built_model(name, height=height, width=width, **options)


def _calibration(form: Quantised) -> list[dict[str, np.ndarray]]:
    return [form.feeds(seed) for seed in range(CALIBRATION_PICTURES)]


def _by_onnxruntime(form: Quantised, source: Path, target: Path) -> None:
    pytest.importorskip("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_name("prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    if form.notation == "dynamic":
        quantize_dynamic(prepared, target, weight_type=getattr(QuantType, _TYPES[form.weights]))
        return
    _statically(form, prepared, target, {})
    if form.powers:
        _statically(form, prepared, target, _powers_of_two(onnx.load(target)))


_TYPES = {"u8": "QUInt8", "s8": "QInt8"}


def _statically(form: Quantised, source: Path, target: Path, overrides: Overrides) -> None:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        feeds = iter(_calibration(form))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    quantize_static(
        source,
        target,
        Reader(),
        quant_format={"qdq": QuantFormat.QDQ, "qoperator": QuantFormat.QOperator}[form.notation],
        per_channel=form.per_channel,
        activation_type=getattr(QuantType, _TYPES[form.activations]),
        weight_type=getattr(QuantType, _TYPES[form.weights]),
        extra_options={"TensorQuantOverrides": overrides} if overrides else {},
    )


def _powers_of_two(model: onnx.ModelProto) -> Overrides:
    """The quantisation of every tensor but biases, with each scale the next power of two."""
    known = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    overrides: Overrides = {}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale, zero_point = (known[name] for name in node.input[1:])
        if zero_point.dtype == np.int32 or (node.op_type == "DequantizeLinear") == (
            node.input[0] not in known
        ):
            continue  # a bias follows from the others; an activation is named by its quantiser
        power = np.exp2(np.ceil(np.log2(scale))).astype(np.float32)
        moved = np.rint(zero_point * (scale / power)).astype(zero_point.dtype)
        axis = {a.name: a.i for a in node.attribute}
        tensor = node.input[0].removesuffix("_quantized")
        overrides[tensor] = [
            {"scale": np.array(s), "zero_point": np.array(z), **axis}
            for s, z in zip(power.ravel(), moved.ravel(), strict=True)
        ]
    return overrides


def _by_nncf(form: Quantised, source: Path, target: Path) -> None:
    python = os.environ.get("MINSEG_NNCF_PYTHON")
    if not python:
        pytest.skip("MINSEG_NNCF_PYTHON names no interpreter with nncf")
    pictures = target.with_name("pictures.npy")
    np.save(pictures, [feeds[form.input] for feeds in _calibration(form)])
    command = [python, str(NNCF_SCRIPT), str(source), str(pictures), str(target)]
    subprocess.run(command, check=True, capture_output=True)
