"""The models that benchmarks run: choosing of them, and telling and saving what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from report import INTEGER

from minseg.errors import InputError
from minseg.files import write_file
from minseg.weights import build_file

PAGE = Path(__file__).with_name("README.md")

U, Q, S, R = (
    "unet-camvid-onnx-0001",
    "icnet-camvid-int8-onnx-0001",
    "icnet-camvid-ava-sparse-60-0001",
    "unet-resnet34-camvid",
)


@dataclass(frozen=True)
class Entry:
    """A model of the list: ``make`` writes it to a file. Ratios are averaged by ``group``."""

    title: str
    group: str
    make: Callable[[Path], object]


ENTRIES = (
    Entry("U-Net 368×480", "f32", partial(build_file, U)),
    Entry("ResNet34-U-Net 480×640", "f32", partial(build_file, R)),
    Entry("ICNet 768×768", "f32", partial(build_file, Q, notation="float")),
    Entry("ICNet ava 720×960", "f32", partial(build_file, S, sparsity=0.0)),
    Entry("ICNet ava 720×960, 60 % zeros", "sparse f32", partial(build_file, S)),
    Entry("ICNet INT8 768×768", INTEGER, partial(build_file, Q)),
    Entry("U-Net INT8 368×480", INTEGER, partial(build_file, U, notation="qdq")),
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
