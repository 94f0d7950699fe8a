"""Where minseg keeps what it can make or fetch again, machine code and models, and whether others
could have put something else there."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from minseg.errors import InputError


def cache_directory() -> Path:
    """``MINSEG_CACHE_DIR``, else the user's cache directory as the platform has it.

    Always absolute: what is kept, and run, must not depend on the current directory. Raises
    InputError where there is no such path.
    """
    if chosen := os.environ.get("MINSEG_CACHE_DIR"):
        if not os.path.isabs(chosen):
            raise InputError(f"MINSEG_CACHE_DIR is '{chosen}', which is no absolute path")
        return Path(chosen)
    for candidate in _candidates():
        if candidate.is_absolute():
            return candidate
    raise InputError(
        "the user has no home folder to keep a cache in; MINSEG_CACHE_DIR can name one"
    )


def _candidates() -> list[Path]:
    """Caches in order of preference. Relative ones don't count: they come of variables that are
    not set or must not be so, and of "~" where no home is known."""
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", ""))
        return [place / "minseg" / "Cache" for place in (local, home)]
    if sys.platform == "darwin":
        return [home / "Library" / "Caches" / "minseg"]
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return [place / "minseg" for place in (cache, home / ".cache")]


def create_private(folder: Path) -> None:
    """Create what is missing of an absolute path, for this user alone. Raises OSError."""
    for part in _parts(folder):
        _make(part)


def check_private(folder: Path, *, create: bool = False) -> None:
    """Make sure that nobody but this user, and root, can change what lies in ``folder``.

    It must be this user's, its parents this user's or root's, and none may be writable by others,
    sticky parents excepted; so must all be that links on the way lead to. With ``create`` missing
    folders are made. Raises PermissionError naming the folder at fault, and OSError.
    """
    for part in _parts(folder):
        if create:
            _make(part)
        _check_part(part, is_own=part == folder)


def read_private(path: Path) -> bytes:
    """The contents of a file that is this user's and that nobody else can write to, in a folder
    that `check_private` has passed. Raises PermissionError naming it, and OSError."""
    with open(os.open(path, _READ_ONLY), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"'{path}' is no file")
        _check_owner(path, status, is_own=True)
        return file.read()


#: No link is followed, and no pipe waited for.
_READ_ONLY = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK")
)


def _parts(path: Path) -> list[Path]:
    """A path's folders from the root on, itself the last."""
    return [*reversed(path.parents), path]


def _make(folder: Path) -> None:
    if not os.path.lexists(folder):
        folder.mkdir(mode=0o700, exist_ok=True)


def _check_part(part: Path, is_own: bool) -> None:
    """Check one folder of a path whose parents have been: so nobody else can exchange it now."""
    status = os.lstat(part)
    if stat.S_ISLNK(status.st_mode):
        _check_owner(part, status, is_own=False)
        os.stat(part)  # raises where links lead round in a circle
        target = part.parent / os.readlink(part)
        for further in _parts(target):
            _check_part(further, is_own=is_own and further == target)
    else:
        _check_owner(part, status, is_own)


def _check_owner(path: Path, status: os.stat_result, is_own: bool) -> None:
    """Of what ``is_own`` this user must be the owner; of parents and links, root may be."""
    if not hasattr(os, "geteuid"):  # Windows, where profiles are private to begin with
        return
    user = os.geteuid()
    if status.st_uid != user and (is_own or status.st_uid != 0):
        raise PermissionError(f"'{path}' belongs to another user")
    is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(status.st_mode)
    if is_shared and (is_own or not status.st_mode & stat.S_ISVTX):
        raise PermissionError(f"others can write to '{path}'")
