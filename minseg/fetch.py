"""Fetches the published files of a model that has a card, and finds those fetched before.

This and `minseg.download` are all of minseg that opens a network connection, and only `fetch` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from minseg.errors import InputError
from minseg.images.cards import Card, CardFile, load_card
from minseg.paths import cache_directory, create_private

#: Precisions of published weights: of those that were fetched the first is used.
PRECISIONS = ("FP32", "FP16", "FP16-INT8")

#: Suffixes of the one file of a model that is opened; the others lie beside it.
_MODEL_SUFFIXES = (".xml", ".onnx")

#: Called with a file, the number of its bytes that are there (None while another process fetches
#: it), and their number in all.
Report: TypeAlias = "Callable[[Path, int | None, int], None]"


@dataclass(frozen=True)
class Fetched:
    """A verified file of a model. ``new`` is False where it was there already."""

    path: Path
    new: bool


def fetch(
    name: str,
    precision: str = PRECISIONS[0],
    *,
    base: str | None = None,
    folder: str | os.PathLike[str] | None = None,
    report: Report | None = None,
) -> list[Fetched]:
    """Download the files of the card ``name``, the one that is opened first.

    They go to the cache, where `fetched_model` finds them, or to ``folder``; into a folder of
    their precision in either. ``base`` replaces the address that the card names: paths below it
    must be the same. Raises InputError for a name or precision without files, FetchError where
    they can't be had.
    """
    from minseg.download import download

    card = load_card(name)
    files = _files(card, precision)
    if not files or card.download is None:
        raise InputError(_no_files(card, precision))
    if base is None:
        base = card.download.base
    below = _cache(name) if folder is None else Path(folder)
    if folder is None:
        with suppress(OSError):  # which the download tells of
            create_private(below)
    fetched = []
    for file in files:
        path = below / file.path
        new = download(
            f"{base.rstrip('/')}/{file.path}",
            path,
            file.bytes,
            file.sha256,
            _bound(report, path, file.bytes),
        )
        fetched.append(Fetched(path, new))
    return fetched


def fetched_model(name: str) -> Path | None:
    """The file to open of the model called ``name``, if all its files are in the cache."""
    card = load_card(name)
    for precision in PRECISIONS:
        files = _files(card, precision)
        paths = [_cache(name) / file.path for file in files]
        if files and all(_has_size(p, f.bytes) for p, f in zip(paths, files, strict=True)):
            return paths[0]
    return None


def _cache(name: str) -> Path:
    return cache_directory() / "models" / name


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _files(card: Card, precision: str) -> list[CardFile]:
    """The files of a precision, which is the folder they are in, the one that is opened first."""
    files = [] if card.download is None else card.download.files
    paths = {file: PurePosixPath(file.path) for file in files}
    chosen = [file for file in files if paths[file].parent.name == precision]
    return sorted(chosen, key=lambda file: paths[file].suffix not in _MODEL_SUFFIXES)


def _no_files(card: Card, precision: str) -> str:
    published = [p for p in PRECISIONS if _files(card, p)]
    if published:
        return f"{card.name} is not published in {precision}, only in {', '.join(published)}"
    return f"no files of {card.name} are published; {how_to_build(card.name)}"


def how_to_build(name: str) -> str:
    """What to do in place of fetching a model."""
    return f"'minseg models build {name} -o FILE' writes one with synthetic weights"


def _bound(report: Report | None, path: Path, size: int) -> Callable[[int | None], None]:
    return lambda done: None if report is None else report(path, done, size)
