"""What a model's output array says: a label for every pixel, and scores where it gives them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.errors import ExecutionError
from minseg.images.recipe import Recipe

#: The kinds of output, as cards name them.
KINDS = ("probabilities", "logits", "indices", "matte")

#: The deepest stride of encoders: a map of pixels has at least one for so many of the input in each
#: direction, and strides may drop or add so many at the border.
STRIDE = 32

#: Infinite logits, with which masked or overflown classes come, become this large: far beyond any
#: other, and still finite where scores are mixed.
LARGE = 1e30


@dataclass(frozen=True)
class Output:
    """A model's output, understood.

    ``labels`` is hxw at the model's size, uint8 or (above 256 classes) uint16. ``scores`` is
    Cxhxw float32, one plane per class: probabilities or logits, as ``are_logits`` says; None for
    an index map. A matte is two classes, background and foreground. ``n_classes`` of an index
    map is one more than the highest label in it.
    """

    kind: str
    labels: np.ndarray
    scores: np.ndarray | None
    are_logits: bool
    n_classes: int


def interpret_output(
    array: np.ndarray,
    recipe: Recipe | None = None,
    *,
    kind: str | None = None,
    n_classes: int | None = None,
) -> Output:
    """Understand one output array: NxCxHxW or NxHxWxC with batch 1, or either without batch or
    channels.

    What the shape leaves open is settled by ``n_classes``, then by the size and layout of the
    input in ``recipe``. ``kind`` settles what the values leave open; without it

    * integers, or floats that are all whole and not only 0 and 1, in one channel are class
      indices; other floats in one channel are a matte, through a sigmoid if outside 0 to 1;
    * several channels are probabilities where all values lie in 0 to 1, otherwise logits.

    Raises ExecutionError for an array that is none of these or holds NaN.
    """
    planes = _channels_first(np.asarray(array), recipe, n_classes)
    if planes.dtype.kind not in "fiub":
        raise ExecutionError(f"the model's output holds {planes.dtype}, not numbers")
    if planes.dtype.kind == "f" and np.isnan(planes.min()):
        raise ExecutionError("the model's output holds values that are not numbers (NaN)")
    if len(planes) == 1:
        if _is_index_map(planes[0], kind):
            return _indices(planes[0])
        return _matte(planes[0].astype(np.float32, copy=False), kind)
    scores = planes.astype(np.float32, copy=False)
    if np.isinf(scores.min()) or np.isinf(scores.max()):
        scores = scores.clip(-LARGE, LARGE)
    are_logits = kind == "logits" or (kind != "probabilities" and not _within_unit(scores))
    name = "logits" if are_logits else "probabilities"
    return Output(name, best_class(scores, len(scores)), scores, are_logits, len(scores))


def _channels_first(array: np.ndarray, recipe: Recipe | None, n: int | None) -> np.ndarray:
    """CxHxW, C being 1 for index maps and mattes."""
    shape = "x".join(map(str, array.shape))
    if array.ndim == 4:
        if array.shape[0] != 1:
            raise ExecutionError(f"the model's output ({shape}) is not one picture's")
        array = array[0]
    if array.size == 0 or array.ndim not in (2, 3):
        raise ExecutionError(f"the model's output ({shape}) is not a map of pixels")
    if array.ndim == 2:
        return array[None]
    return array if _first_is_channels(array.shape, recipe, n) else array.transpose(2, 0, 1)


def _first_is_channels(shape: tuple[int, ...], recipe: Recipe | None, n: int | None) -> bool:
    first, last = shape[0], shape[2]
    if (first == n) != (last == n):
        return first == n
    if recipe is not None:
        size = (recipe.height, recipe.width)
        if (shape[1:] == size) != (shape[:2] == size):
            return shape[1:] == size
        if _shows(shape[1:], size) != _shows(shape[:2], size):
            return _shows(shape[1:], size)
        if first == last:
            return recipe.layout == "NCHW"
    return first <= last


def is_pixel_map(shape: tuple[int, ...], recipe: Recipe, n_classes: int | None = None) -> bool:
    """Whether an output of ``shape`` is a map of the pixels of an input as large as ``recipe``
    says, in any of the forms that `interpret_output` understands.

    Such a map has the input's proportions and is at most STRIDE times smaller, or it lacks the
    same margin on every side.
    """
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3:
        first = _first_is_channels(shape, recipe, n_classes)
        shape = shape[1:] if first else shape[:2]
    return len(shape) == 2 and _shows(shape, (recipe.height, recipe.width))


def _shows(size: tuple[int, ...], of: tuple[int | None, ...]) -> bool:
    (h, w), (height, width) = size, of
    if height is None or width is None or (h, w) == (height, width):
        return True
    if min(h, w) < 2:
        return False
    if height - h == width - w and height <= 2 * h <= 2 * height:  # convolutions without padding
        return True
    # So many pixels of the input go to one of the map at least and at most, in both directions,
    # where strides may have dropped or added some at the border.
    lost = [min(side // 4, STRIDE) for side in (height, width)]
    least = max((height - lost[0]) / h, (width - lost[1]) / w)
    most = min((height + lost[0]) / h, (width + lost[1]) / w)
    return least <= min(most, STRIDE)


def _is_index_map(plane: np.ndarray, kind: str | None) -> bool:
    if plane.dtype.kind != "f":
        return kind != "matte"
    if kind is not None:
        return kind == "indices"
    return bool(plane.max() > 1 and plane.min() >= 0 and np.all(plane == np.rint(plane)))


def _indices(plane: np.ndarray) -> Output:
    lowest, highest = float(plane.min()), float(plane.max())
    if lowest < 0 or highest > np.iinfo(np.uint16).max:
        wrong = lowest if lowest < 0 else highest
        raise ExecutionError(f"the model's output holds {wrong:g}, which is not a class index")
    if plane.dtype.kind == "f" and not np.all(plane == np.rint(plane)):
        raise ExecutionError("the model's output holds fractions where class indices should be")
    n = int(highest) + 1
    return Output("indices", plane.astype(label_dtype(n)), None, False, n)


def _matte(plane: np.ndarray, kind: str | None) -> Output:
    """One value per pixel as two classes: of m, 1-m and m; of a logit x, 0 and x."""
    are_logits = kind == "logits" or not _within_unit(plane)
    background = np.zeros_like(plane) if are_logits else 1 - plane
    scores = np.stack([background, plane])
    return Output("matte", (plane > scores[0]).astype(np.uint8), scores, are_logits, 2)


def _within_unit(values: np.ndarray) -> bool:
    rounding = 1e-3
    return bool(values.min() >= -rounding and values.max() <= 1 + rounding)


def label_dtype(n_classes: int) -> type[np.uint8] | type[np.uint16]:
    """The smallest type of mask that holds ``n_classes`` labels."""
    return np.uint8 if n_classes <= 256 else np.uint16


def best_class(planes: Iterable[np.ndarray], n_classes: int) -> np.ndarray:
    """For every pixel the index of the plane with the greatest score, the lowest where some tie.

    Plane by plane, which reads memory in order; NumPy's argmax over a first axis does not.
    """
    scores = iter(planes)
    best = next(scores).copy()
    labels = np.zeros(best.shape, label_dtype(n_classes))
    for index, plane in enumerate(scores, start=1):
        np.copyto(labels, index, where=plane > best)
        np.maximum(best, plane, out=best)
    return labels


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the first axis."""
    shifted: Any = np.exp(scores - scores.max(axis=0))
    shifted /= shifted.sum(axis=0)
    return np.asarray(shifted)
