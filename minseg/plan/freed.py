"""Gives memory that was freed back to the system."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any


def return_freed_memory() -> None:
    """Have the C library return what it keeps of freed arrays for later ones, which may be as
    much as all weights of a model. Only glibc keeps that much and can be asked."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return None if os.name == "nt" else getattr(ctypes.CDLL(None), "malloc_trim", None)
