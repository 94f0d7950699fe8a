"""Where minseg keeps what it can make or fetch again: machine code and models."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_directory() -> Path:
    """``MINSEG_CACHE_DIR``, else the user's cache directory as the platform has it."""
    if chosen := os.environ.get("MINSEG_CACHE_DIR"):
        return Path(chosen)
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home)) / "minseg" / "Cache"
    if sys.platform == "darwin":
        return Path(home) / "Library" / "Caches" / "minseg"
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.join(home, ".cache")) / "minseg"
