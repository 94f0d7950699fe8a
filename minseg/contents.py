"""What a file is that was taken for a model, weights or a picture: for error messages."""

from __future__ import annotations

import re

#: How many bytes of a file's beginning `recognised` wants to see.
START = 1024

_KINDS = (
    (rb"\Z", "an empty file"),
    (rb"version https://git-lfs", "a Git LFS pointer ('git lfs pull' fetches the file itself)"),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:.*<)?(?:!doctype html|html)\b", "a web page (HTML)"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
)


def recognised(start: bytes) -> str | None:
    """What a file that begins with ``start`` is, of what is often found in another's place."""
    for pattern, kind in _KINDS:
        if re.match(pattern, start, re.IGNORECASE | re.DOTALL):
            return kind
    return None
