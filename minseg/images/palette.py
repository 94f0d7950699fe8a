"""Palettes: a name and a colour for every class."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from minseg.errors import InputError
from minseg.images.cards import load_classes

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Palette:
    """Class ``names`` and their ``colours`` (RGB, 0 to 255), by class index."""

    names: tuple[str, ...]
    colours: tuple[RGB, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.colours):
            raise InputError(
                f"{len(self.names)} class names do not fit {len(self.colours)} colours"
            )
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise InputError(f"the class name '{name}' occurs twice")
            seen.add(name)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def array(self) -> np.ndarray:
        """The colours as a (classes, 3) uint8 array: index it with a mask to colour it."""
        return np.array(self.colours, dtype=np.uint8).reshape(-1, 3)

    @classmethod
    def generated(cls, n: int) -> Palette:
        """``n`` classes without known names, in colours far from each other.

        A shorter generated palette is the beginning of a longer one.
        """
        colours = _separated_colours()
        return cls(
            tuple(f"class {i}" for i in range(n)),
            tuple(colours[i % len(colours)] for i in range(n)),
        )

    def first(self, n: int) -> Palette:
        """The first ``n`` classes, or all where there are fewer."""
        return Palette(self.names[:n], self.colours[:n])

    def with_names(self, names: Sequence[str]) -> Palette:
        """The same colours under other names. Raises InputError for a wrong number of them."""
        return Palette(tuple(names), self.colours)


#: The two classes of a one-channel matte.
MATTE = Palette(("background", "foreground"), ((0, 0, 0), (40, 200, 120)))


def load_palette(source: Any) -> Palette:
    """A palette as it is, from a GIMP palette file, or by the name of a class list ("camvid12").

    In a file a line ``R G B name`` is one class, in order of index (a header and # comments
    are skipped), as in CamVid's own list of colours. Raises InputError.
    """
    if isinstance(source, Palette):
        return source
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"a {type(source).__name__} is not a palette, its name or its file")
    path = os.fspath(source)
    if not os.path.isfile(path):
        classes = load_classes(path)
        return Palette(classes.names, classes.colours)
    entries = [_entry(line, path) for line in _lines(path) if _is_entry(line)]
    if not entries:
        raise InputError(f"palette '{path}' holds no line of the form 'R G B name'")
    names = tuple(name or f"class {i}" for i, (_, name) in enumerate(entries))
    return Palette(names, tuple(colour for colour, _ in entries))


def load_class_names(source: str | os.PathLike[str] | Iterable[str]) -> tuple[str, ...]:
    """Class names in order of index: a file with one on each line, a comma-separated string, or
    any sequence of strings. Raises InputError where a name is empty.
    """
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        is_file = isinstance(source, os.PathLike) or os.path.isfile(text)
        parts = _lines(text) if is_file else text.split(",")
        names = tuple(part.strip() for part in parts)
    else:
        names = tuple(str(name) for name in source)
    if not names or not all(names):
        raise InputError(f"the class names {list(names)!r} are empty, or one of them is")
    return names


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot read '{path}' as text: {error}") from error


def _is_entry(line: str) -> bool:
    """GIMP writes a title, 'Key: value' lines and comments before and between the colours."""
    return line.strip()[:1].isdigit() or line.strip()[:1] == "-"


def _entry(line: str, path: str) -> tuple[RGB, str]:
    parts = line.split(maxsplit=3)
    try:
        red, green, blue = (int(part) for part in parts[:3])
    except ValueError as error:
        raise InputError(f"'{line.strip()}' in palette '{path}' is not 'R G B name'") from error
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"'{line.strip()}' in palette '{path}': a colour is 0 to 255")
    return (red, green, blue), parts[3].strip() if len(parts) > 3 else ""


#: How many separated colours there are before they repeat.
SEPARATED = 256

#: Lightness (CIELAB, 0 to 100) within which generated colours stay, so that none is near black
#: and none vanishes on a white page.
LIGHTNESS = (38.0, 86.0)


@lru_cache(maxsize=1)
def _separated_colours() -> tuple[RGB, ...]:
    """Colours chosen greedily, each as far as possible from those before it in CIELAB."""
    steps = np.linspace(0, 255, 18).round().astype(int)
    colours = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _cielab(colours / 255)
    colourful = np.hypot(lab[:, 1], lab[:, 2]) > 20
    usable = (lab[:, 0] >= LIGHTNESS[0]) & (lab[:, 0] <= LIGHTNESS[1]) & colourful
    colours, lab = colours[usable], lab[usable]
    chosen = [int(np.argmax(lab[:, 1]))]
    distance = np.full(len(lab), np.inf)
    while len(chosen) < SEPARATED:
        distance = np.minimum(distance, np.linalg.norm(lab - lab[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return tuple((int(r), int(g), int(b)) for r, g, b in colours[chosen])


def _cielab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0 to 1, (n, 3), to CIELAB under D65 (IEC 61966-2-1 and CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    epsilon, kappa = (6 / 29) ** 3, (29 / 3) ** 3
    f = np.where(xyz > epsilon, np.cbrt(xyz), (kappa * xyz + 16) / 116)
    x, y, z = f.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
