"""A model's file as memory: read when touched, and let go of without being forgotten."""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

from minseg.errors import ModelError

#: Whether pages of a mapped file can be let go of; where not, mapping it gains nothing.
CAN_DROP = hasattr(mmap, "MADV_DONTNEED")


class ModelFile:
    """The file at ``path``, mapped read-only. Raises OSError, and ValueError for an empty file.

    Arrays over `memory` are as good as any others while the file's contents stay as they were.
    It may be renamed, replaced or deleted, but not written to: `check` finds out.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)
        self._version = self._current_version()
        self._map = mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ)

    @property
    def memory(self) -> memoryview:
        return memoryview(self._map)

    def check(self) -> None:
        """Raise ModelError if the file was written to since it was opened."""
        if self._current_version() != self._version:
            raise ModelError(f"{self._path}: the file was changed after it was loaded")

    def drop(self) -> None:
        """Take no memory for what was read so far; it is read anew when touched."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def _current_version(self) -> tuple[int, int]:
        status = os.fstat(self._handle)
        return status.st_size, status.st_mtime_ns

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied or pickled it is None: the arrays of a graph go along with it, as contents."""
        return type(None), ()
