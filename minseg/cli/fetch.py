"""``minseg fetch``: the published files of a known model."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from minseg.cli.text import BAR_WIDTH, quantity

#: Precisions that cards know; the first is the default.
PRECISIONS = ("FP32", "FP16", "FP16-INT8")

#: The bar is drawn at most this often, in seconds.
REDRAW = 0.1


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "fetch",
        help="download a known model",
        description="Downloads the published files of a known model (see 'minseg models') into "
        "the user's cache directory, or that in MINSEG_CACHE_DIR. Then its name stands for it: "
        "'minseg run NAME picture.png'. Size and SHA-256 are verified before a file gets its "
        "name; what was interrupted is resumed.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("name", metavar="NAME", help="the name of a card")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        type=str.upper,
        default=PRECISIONS[0],
        help=f"of the weights (default {PRECISIONS[0]})",
    )
    parser.add_argument(
        "--from",
        metavar="URL",
        dest="base",
        help="where the card's files are, with the same paths below it, in place of the "
        "publisher's address",
    )
    parser.add_argument(
        "--to", metavar="DIR", help="folder for the files (default: the cache directory)"
    )


def run(arguments: argparse.Namespace) -> int:
    from minseg.fetch import fetch

    bar = Bar(sys.stderr)
    try:
        files = fetch(
            arguments.name,
            arguments.precision,
            base=arguments.base,
            folder=arguments.to,
            report=bar.show,
        )
    finally:
        bar.clear()
    for file in files:
        state = "fetched" if file.new else "was there"
        print(f"{file.path}  {quantity(file.path.stat().st_size, 'B')}, {state} and is verified")
    model = arguments.name if arguments.to is None else files[0].path
    print(f"next: minseg run {model} PICTURE")
    return 0


class Bar:
    """Bytes of one file after the other on ``stream``; silent unless that is a terminal."""

    def __init__(self, stream: TextIO):
        self._stream, self._shown = stream, stream.isatty()
        self._path: Path | None = None
        self._drawn = self._began = 0.0
        self._first = 0

    def show(self, path: Path, done: int | None, total: int) -> None:
        """``done`` of ``total`` bytes are there; None: another process is fetching the file."""
        now = time.monotonic()
        if not self._shown or (path == self._path and now - self._drawn < REDRAW and done != total):
            return
        if path != self._path:
            self._path, self._began, self._first = path, now, done or 0
        self._drawn = now
        self._stream.write(f"\r\x1b[K{self._line(path, done, total, now)}")
        self._stream.flush()

    def _line(self, path: Path, done: int | None, total: int, now: float) -> str:
        if done is None:
            return f"another process is fetching {path.name}"
        filled = BAR_WIDTH * done // total
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        speed = (done - self._first) / max(now - self._began, 1e-3)
        return (
            f"[{bar}] {quantity(done, 'B')} of {quantity(total, 'B')}, "
            f"{quantity(speed, 'B')}/s  {path.name}"
        )

    def clear(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
