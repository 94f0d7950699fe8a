"""Picture files on disk: finding them."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from minseg.errors import InputError

#: File names that count as pictures when a whole folder is given.
PICTURE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}
)

#: The results that can be saved of a segmentation, and the usual suffix of each.
RESULT_SUFFIXES = {"overlay": ".png", "mask": ".png", "color": ".png", "probs": ".npy"}


def gather_pictures(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The picture files that ``sources`` name: files, folders (their pictures) and globs.

    Keeps the order given, sorted within a folder or glob, each file once. Raises InputError for
    a source that names nothing.
    """
    found = (path for source in sources for path in _expand(os.fspath(source)))
    return list(dict.fromkeys(found))


def _expand(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        pictures = sorted(p for p in path.iterdir() if _is_picture(p))
        if not pictures:
            raise InputError(f"the folder '{source}' holds no pictures")
        yield from pictures
    elif path.exists() or not glob.has_magic(source):
        yield path
    else:
        matches = sorted(Path(m) for m in glob.glob(source, recursive=True))
        pictures = [p for p in matches if p.is_file()]
        if not pictures:
            raise InputError(f"no picture matches '{source}'")
        yield from pictures


def _is_picture(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return path.suffix.lower() in PICTURE_SUFFIXES and not hidden and path.is_file()


def names_pictures(source: str) -> bool:
    """Whether a name given by the user is a picture's, a folder's or a glob, by its looks."""
    path = Path(source)
    return path.suffix.lower() in PICTURE_SUFFIXES or path.is_dir() or glob.has_magic(source)
