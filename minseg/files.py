"""Writing files that are never half there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from minseg.errors import InputError


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
