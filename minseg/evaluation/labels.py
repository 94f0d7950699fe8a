"""True labels: the classes of a data set, and label pictures as class indices."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from minseg.errors import InputError
from minseg.images.cards import Classes, load_classes
from minseg.images.output import label_dtype
from minseg.images.palette import RGB, load_palette
from minseg.images.picture import open_picture

#: Files in a data set's folder that list its classes: the first that exists is read.
CLASS_DICT, LABEL_COLOURS = "class_dict.csv", "label_colors.txt"

#: The classes of a data set that doesn't list them.
USUAL_CLASSES = "camvid12"

#: Names, simplified, of the label that stands for "not labelled".
NOT_LABELLED = frozenset({"unlabeled", "unlabelled", "void", "ignore", "ignored"})

#: Pillow's modes of one channel: their values are class indices.
INDEX_MODES = ("1", "L", "P", "I", "I;16")


def simplified(name: str) -> str:
    """A class name without case, spaces and punctuation: "Sign_Symbol" is "SignSymbol"."""
    return "".join(c for c in name.casefold() if c.isalnum())


def read_classes(folder: Path) -> tuple[Classes, str | None]:
    """The classes of the data set in ``folder``, and the name of the file that lists them.

    That is class_dict.csv (a header ``name,r,g,b``, then one class on each line, in order of
    index) or label_colors.txt (lines ``R G B name``, as CamVid comes); without either the classes
    are CamVid's twelve, and the name is None. Raises InputError.
    """
    if (folder / CLASS_DICT).is_file():
        colours = _class_dict(folder / CLASS_DICT)
        source = CLASS_DICT
    elif (folder / LABEL_COLOURS).is_file():
        palette = load_palette(folder / LABEL_COLOURS)
        colours = list(zip(palette.names, palette.colours, strict=True))
        source = LABEL_COLOURS
    else:
        return load_classes(USUAL_CLASSES), None
    for what, values in (
        ("name", [simplified(name) for name, _ in colours]),
        ("colour", [colour for _, colour in colours]),
    ):
        value, count = Counter[object](values).most_common(1)[0]
        if count > 1:
            raise InputError(f"'{folder / source}' lists the {what} {value} {count} times")
    ignored = tuple(name for name, _ in colours if simplified(name) in NOT_LABELLED)
    names, values_ = zip(*colours, strict=True)
    return Classes(names, values_, ignored), source


def _class_dict(path: Path) -> list[tuple[str, RGB]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    except (OSError, UnicodeError, csv.Error) as error:
        raise InputError(f"cannot read '{path}' as a table: {error}") from error
    header = [cell.lower() for cell in rows[0]] if rows else []
    missing = [column for column in ("name", "r", "g", "b") if column not in header]
    if missing or len(rows) < 2:
        raise InputError(
            f"'{path}' is not a list of classes: its first line must be 'name,r,g,b', with one "
            "class on each line after it"
        )
    return [_class(dict(zip(header, row, strict=False)), path, row) for row in rows[1:]]


def _class(entry: Mapping[str, str], path: Path, row: Sequence[str]) -> tuple[str, RGB]:
    try:
        name, (red, green, blue) = entry["name"], (int(entry[c]) for c in "rgb")
    except (KeyError, ValueError):
        name, red, green, blue = "", 0, 0, 0
    if not name or not all(0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"'{path}': '{','.join(row)}' is not a name and a colour of 0 to 255")
    return name, (red, green, blue)


def read_labels(path: Path, classes: Classes, source: str | None) -> np.ndarray:
    """The label picture at ``path`` as class indices, HxW, uint8 (uint16 above 256 classes).

    A picture of one channel holds indices, also one with a palette; a picture in colours holds
    the colours that the file ``source`` gives the ``classes``. Raises InputError for a picture
    that can't be read, an index out of range, and a colour that is no class's.
    """
    pixels = _pixels(path)
    if pixels.ndim == 3:
        if source is None:
            raise InputError(
                f"'{path}' has labels in colours, but the data set has neither {CLASS_DICT} nor "
                f"{LABEL_COLOURS} that says which class each is"
            )
        return _from_colours(pixels, classes, path, source)
    n = len(classes.names)
    lowest, highest = int(pixels.min()), int(pixels.max())
    if lowest < 0 or highest >= n:
        wrong = highest if highest >= n else lowest
        raise InputError(f"'{path}' holds the label {wrong}, but the classes are 0 to {n - 1}")
    return pixels.astype(label_dtype(n))


def _pixels(path: Path) -> np.ndarray:
    """HxW indices or HxWx3 colours."""
    try:
        with open_picture(path) as image:
            if image.mode in INDEX_MODES:
                pixels = np.asarray(image)
            elif image.mode in ("RGB", "RGBA"):
                pixels = np.asarray(image.convert("RGB"))
            else:
                raise InputError(f"'{path}' holds neither labels nor colours, but {image.mode}")
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything in Pillow
        raise InputError(f"cannot read the labels in '{path}': {error}") from error
    if pixels.size == 0:
        raise InputError(f"'{path}' has no pixels")
    return pixels


def _from_colours(pixels: np.ndarray, classes: Classes, path: Path, source: str) -> np.ndarray:
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    known = np.array([r << 16 | g << 8 | b for r, g, b in classes.colours], np.uint32)
    order = np.argsort(known)
    nearest = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    labels = order[nearest]
    strange = known[labels] != codes
    if strange.any():
        colour = ", ".join(map(str, pixels[strange][0]))
        raise InputError(
            f"'{path}' has {np.count_nonzero(strange)} pixels in colours that {source} gives to "
            f"no class, such as {colour}"
        )
    return np.asarray(labels, label_dtype(len(known)))
