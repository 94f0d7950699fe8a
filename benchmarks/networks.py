"""The models that benchmarks run: choosing of them, and telling and saving what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from report import INTEGER

import minseg
from minseg.errors import InputError
from minseg.images.files import write_file
from minseg.images.scene import street_scene
from minseg.measure.agreement import ALIKE
from minseg.weights import build_file

PAGE = Path(__file__).with_name("README.md")

#: What engines must agree on where a network with random weights was quantised: roundings that
#: differ grow from layer to layer. onnxruntime with its optimisations and without labels 94.8 % of
#: the U-Net's pixels alike, and the network before it was quantised 91.1 % like either.
ALIKE_ROUNDED = 0.93

#: Pictures that a float network is quantised with.
CALIBRATION = 8

U, Q, S, R = (
    "unet-camvid-onnx-0001",
    "icnet-camvid-int8-onnx-0001",
    "icnet-camvid-ava-sparse-60-0001",
    "unet-resnet34-camvid",
)


@dataclass(frozen=True)
class Entry:
    """A model of the list: ``make`` writes it to a file. Ratios are averaged by ``group``;
    engines are to label the share ``alike`` of the pixels alike."""

    title: str
    group: str
    make: Callable[[Path], object]
    alike: float = ALIKE


def quantised(name: str, path: Path) -> None:
    """The float model ``name`` as onnxruntime quantises it: QuantizeLinear and DequantizeLinear,
    weights per channel. Raises InputError without onnxruntime."""
    try:
        from onnxruntime.quantization import (
            CalibrationDataReader,
            QuantFormat,
            QuantType,
            quant_pre_process,
            quantize_static,
        )
    except ImportError as error:
        raise InputError("onnxruntime, which quantises it, is not installed") from error

    plain, prepared = path.with_suffix(".float.onnx"), path.with_suffix(".prepared.onnx")
    build_file(name, plain)
    recipe = minseg.load(plain, backend="numpy").recipe
    scenes = (street_scene(seed).image for seed in range(CALIBRATION))

    class Scenes(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            picture = next(scenes, None)
            return None if picture is None else {recipe.input_name: recipe.apply(picture)}

    quant_pre_process(str(plain), str(prepared))
    quantize_static(
        str(prepared),
        str(path),
        Scenes(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


ENTRIES = (
    Entry("U-Net 368×480", "f32", partial(build_file, U)),
    Entry("ResNet34-U-Net 480×640", "f32", partial(build_file, R)),
    Entry("ICNet 768×768", "f32", partial(build_file, Q, notation="float")),
    Entry("ICNet ava 720×960", "f32", partial(build_file, S, sparsity=0.0)),
    Entry("ICNet ava 720×960, 60 % zeros", "sparse f32", partial(build_file, S)),
    Entry("ICNet INT8 768×768", INTEGER, partial(build_file, Q)),
    Entry("U-Net INT8 368×480", INTEGER, partial(quantised, U), ALIKE_ROUNDED),
)


def chosen(words: Sequence[str]) -> list[Entry]:
    """The entries that ``words`` name. Raises InputError where a word names none."""
    entries: list[Entry] = []
    for word in words:
        found = [entry for entry in ENTRIES if word in entry.title]
        if Path(word).is_file():
            found = [Entry(Path(word).stem, "others", partial(link, Path(word)))]
        if not found:
            titles = "; ".join(entry.title for entry in ENTRIES)
            raise InputError(f"'{word}' is no file and occurs in none of: {titles}")
        entries += [entry for entry in found if entry not in entries]
    return entries or list(ENTRIES)


def link(source: Path, target: Path) -> None:
    target.symlink_to(source.resolve())


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def save(path: Path, text: str) -> None:
    write_file(path, lambda file: file.write(text.encode()))
    tell(f"saved {path}")
