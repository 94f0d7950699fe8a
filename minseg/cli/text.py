"""Text for terminals: aligned columns, colour swatches, a progress bar."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

BAR_WIDTH = 30


def has_colour(stream: TextIO) -> bool:
    """Whether colour may be written: a terminal, and no wish against it (no-color.org)."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return wanted and stream.isatty()


def swatch(colour: tuple[int, int, int]) -> str:
    """Two cells in a 24-bit colour."""
    return "\x1b[48;2;{};{};{}m  \x1b[0m".format(*colour)


def columns(rows: Sequence[Sequence[str]], align: str, indent: str = "") -> str:
    """``rows`` as lines with aligned columns; ``align`` has "<" or ">" for each column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        )
        for row in rows
    )
    return "\n".join((indent + line).rstrip() for line in lines)


def seconds(duration: float) -> str:
    """A duration with three digits that matter."""
    return f"{duration * 1e3:.0f} ms" if duration < 0.9995 else f"{duration:.2f} s"


def quantity(value: float, unit: str = "") -> str:
    """A number with a metric prefix: 31.04 M."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.2f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()


class Progress:
    """A bar on ``stream`` that counts to ``total``; silent unless the stream is a terminal."""

    def __init__(self, total: int, stream: TextIO):
        self._total, self._stream = total, stream
        self._is_terminal = stream.isatty()

    def show(self, done: int, label: str) -> None:
        """Redraw the bar with ``done`` finished and ``label`` under way."""
        if self._is_terminal and self._total > 1:
            filled = BAR_WIDTH * done // self._total
            bar = "#" * filled + "." * (BAR_WIDTH - filled)
            self.note(f"[{bar}] {done}/{self._total}  {label}")

    def note(self, text: str) -> None:
        """Show ``text`` in the bar's place."""
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()

    def compiling(self, number: int, total: int) -> None:
        """Show that kernel ``number`` of ``total`` is being compiled."""
        self.note(f"compiling kernel {number} of {total}")

    def clear(self) -> None:
        """Take the bar away, so that something else can be written on its line."""
        self.note("")
