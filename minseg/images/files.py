"""Picture files on disk: finding them, and writing results that are never half there."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

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


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it, unless it exists. Raises InputError."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make '{os.fspath(path)}': {error.strerror}") from error


def write_file(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file under a temporary name in the same folder, then rename it.

    Whatever goes wrong, ``path`` is left as it was. Something that is no regular file (a pipe,
    ``/dev/null``) is written to directly. Raises InputError where the file can't be written.
    """
    target = Path(path)
    try:
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                write(file)
            return
        _write_and_rename(target, write)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot write '{target}': {reason}") from error


def _write_and_rename(target: Path, write: Callable[[BinaryIO], object]) -> None:
    scratch = target.with_name(f".minseg-{os.urandom(8).hex()}.part")
    try:
        with scratch.open("xb") as file:
            write(file)
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
