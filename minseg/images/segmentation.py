"""`Segmentation`: a labelled picture, and the pictures that can be made of it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from minseg.errors import InputError, ModelError
from minseg.files import write_file
from minseg.images.enlarge import labels_from_scores, labels_nearest
from minseg.images.files import RESULT_SUFFIXES
from minseg.images.legend import Entry, draw_legend, stack
from minseg.images.output import (
    STRIDE,
    Output,
    interpret_output,
    is_pixel_map,
    label_dtype,
    softmax,
)
from minseg.images.palette import MATTE, Palette, load_class_names, load_palette
from minseg.images.picture import load_picture, resize, save_image
from minseg.images.recipe import Recipe, session_card, session_recipe

if TYPE_CHECKING:
    from minseg.images.cards import Card


@dataclass(frozen=True)
class Segmentation:
    """A picture (HxWx3 uint8 RGB) and what a model says of its pixels.

    ``output`` is what the model said at its own size, ``palette`` has a name and a colour for
    every class.
    """

    picture: np.ndarray
    output: Output
    palette: Palette
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        if len(self.palette) < self.output.n_classes:
            raise InputError(
                f"the palette has {len(self.palette)} colours, but the model gives"
                f" {self.output.n_classes} classes"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by index."""
        return self.palette.names

    @property
    def labels(self) -> np.ndarray:
        """The class of each pixel at the model's size, hxw, uint8 or uint16."""
        return self.output.labels

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """Cxhxw float32 at the model's size, one plane per class; None for an index map.

        Logits are put through softmax; a matte is the planes of background and foreground.
        """
        scores = self.output.scores
        return softmax(scores) if scores is not None and self.output.are_logits else scores

    @cached_property
    def mask(self) -> np.ndarray:
        """The class of each pixel at the picture's size, HxW, uint8 (uint16 above 256 classes)."""
        return self.mask_at(*self.picture.shape[:2])

    def mask_at(self, height: int, width: int) -> np.ndarray:
        """The class of each pixel at another size, ``height`` x ``width``.

        The scores as the model gives them, logits or probabilities, are resized bilinearly and
        the best taken there, so that borders between classes stay smooth; labels of an index map
        are repeated (nearest).
        """
        labels = self.labels
        if labels.shape != (height, width):
            scores = self.output.scores
            if scores is None:
                labels = labels_nearest(labels, height, width)
            else:
                labels = labels_from_scores(scores, labels, height, width)
        return labels.astype(label_dtype(len(self.palette)), copy=False)

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.bincount(self.mask.ravel(), minlength=len(self.palette))

    def shares(self) -> dict[str, float]:
        """The share of the picture's pixels, 0 to 1, that each class has, by index of class."""
        shares = (self._counts / self.mask.size).tolist()
        return dict(zip(self.classes, shares, strict=True))

    def present(self) -> list[Entry]:
        """Name, colour and share of the classes that occur, the largest first."""
        by_size = np.argsort(-self._counts, kind="stable")
        shares = list(self.shares().values())
        return [
            Entry(self.palette.names[i], self.palette.colours[i], shares[i])
            for i in by_size.tolist()
            if self._counts[i]
        ]

    def colorize(self) -> Image.Image:
        """Every pixel in its class's colour; of a matte, the two colours mixed as it says."""
        return Image.fromarray(self._colours())

    def _colours(self) -> np.ndarray:
        if self.output.kind != "matte" or self.probabilities is None:
            return np.asarray(self.palette.array[self.mask])
        height, width = self.picture.shape[:2]
        matte = resize(self.probabilities[1], width, height, "bilinear")[..., None]
        background, foreground = self.palette.array[:2].astype(np.float32)
        mixed = background + (foreground - background) * matte.clip(0, 1)
        return np.asarray(np.rint(mixed), np.uint8)

    def overlay(self, alpha: float = 0.5, *, legend: bool = False) -> Image.Image:
        """The classes' colours over the picture with opacity ``alpha`` (0 to 1).

        With ``legend`` it stands under the picture. Raises InputError for another ``alpha``.
        """
        if not 0 <= alpha <= 1:
            raise InputError(f"alpha must be 0 to 1, not {alpha:g}")
        colours = Image.fromarray(self._colours())
        blended = Image.blend(Image.fromarray(self.picture), colours, alpha)
        return stack(blended, self.legend()) if legend else blended

    def legend(self) -> Image.Image:
        """The classes that occur with their colours and shares, to stand under the picture."""
        height, width = self.picture.shape[:2]
        return draw_legend(self.present(), width, height)

    def save(self, path: str | os.PathLike[str], kind: str = "mask", *, alpha: float = 0.5) -> None:
        """Write one of the results, whole or not at all.

        * "mask": class indices as a PNG with the palette inside (16-bit grey above 256
          classes), or as an array when ``path`` ends with .npy;
        * "overlay": the overlay with its legend; "color": the colours alone; in any format;
        * "probs": the probabilities as a float32 .npy file, Cxhxw.

        Raises InputError for what can't be written so.
        """
        if kind == "mask":
            save_mask(self.mask, self.palette, path)
        elif kind == "overlay":
            save_image(self.overlay(alpha, legend=True), path)
        elif kind == "color":
            save_image(self.colorize(), path)
        elif kind == "probs":
            if self.probabilities is None:
                raise InputError("the model gives class indices only, no probabilities to save")
            _save_array(self.probabilities, Path(path))
        else:
            raise InputError(f"'{kind}' can't be saved; {', '.join(RESULT_SUFFIXES)} can")


def save_mask(mask: np.ndarray, palette: Palette, path: str | os.PathLike[str]) -> None:
    """Write class indices (HxW, uint8 or uint16) as a PNG, uint8 ones with the palette inside, or
    as an array when ``path`` ends with .npy. Raises InputError.
    """
    target = Path(path)
    if target.suffix.lower() == ".npy":
        _save_array(mask, target)
        return
    if target.suffix.lower() != ".png":
        raise InputError(f"a mask is saved as .png or .npy, not as '{target.name}'")
    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette(palette.array.tobytes())
    save_image(image, target)


def _save_array(array: np.ndarray, path: Path) -> None:
    if path.suffix.lower() != ".npy":
        raise InputError(f"an array is saved as .npy, not as '{path.name}'")
    write_file(path, lambda file: np.save(file, array))


def segment_with(
    session: Any,
    image: Any,
    *,
    classes: str | os.PathLike[str] | Iterable[str] | None = None,
    palette: Any = None,
    card: str | None = None,
    **overrides: Any,
) -> Segmentation:
    """Segment ``image`` with a `minseg.Session`; see `Session.segment`.

    ``card`` names a card to use in place of the one in the model's metadata.
    """
    known = session_card(session, card)
    recipe = session_recipe(session, {**overrides, "card": card})
    picture = load_picture(image)
    output_name = _output_name(session, known)
    array = session.run([output_name], {recipe.input_name: recipe.apply(picture)})[0]
    height, width = recipe.size_for(*picture.shape[:2])
    sized, n_classes = replace(recipe, height=height, width=width), _expected_classes(known)
    if not is_pixel_map(np.shape(array), sized, n_classes):
        raise ModelError(_no_segmentation(session, output_name, np.shape(array), (height, width)))
    kind = known.output.kind if known else None
    output = interpret_output(array, sized, kind=kind, n_classes=n_classes)
    return Segmentation(picture, output, _palette(output, known, classes, palette), recipe)


def _no_segmentation(session: Any, name: str, shape: tuple[int, ...], size: tuple[int, int]) -> str:
    forms = {value.name: value.shape for value in session.get_outputs()} | {name: shape}
    outputs = ", ".join(f"'{n}' {_form(form)}" for n, form in forms.items())
    return (
        f"the model does not segment: its output '{name}' is {_form(shape)}, but a segmentation is"
        f" 1xCxHxW, 1xHxWxC, 1xHxW or HxW, where HxW is in proportion to the input, {_form(size)},"
        f" and no smaller than 1/{STRIDE} of it; its outputs are {outputs}"
    )


def _form(shape: Iterable[Any]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "a single number"


def _output_name(session: Any, card: Card | None) -> str:
    names = [value.name for value in session.get_outputs()]
    return card.output.name if card is not None and card.output.name in names else str(names[0])


def _expected_classes(card: Card | None) -> int | None:
    classes = card.classes_for() if card else None
    return len(classes.names) if classes else None


def _palette(output: Output, card: Card | None, names: Any, colours: Any) -> Palette:
    """Colours: given, the card's, or generated ones; names: given, or those of the colours."""
    class_names = None if names is None else load_class_names(names)
    given = None if colours is None else load_palette(colours)
    n = output.n_classes
    if output.scores is None:  # an index map doesn't say how many classes there are
        n = max(n, len(class_names or ()), len(given or ()) or _expected_classes(card) or 0)
    palette = _known_palette(output, card, n) if given is None else given.first(n)
    if class_names is None or len(palette) < n:
        return palette
    if len(class_names) != n:
        what = "gives" if output.scores is not None else "found at least"
        raise InputError(f"{len(class_names)} classes are named, but the model {what} {n}")
    return palette.with_names(class_names)


def _known_palette(output: Output, card: Card | None, n: int) -> Palette:
    if output.kind == "matte":
        return MATTE
    classes = card.classes_for(n) if card else None
    return Palette(classes.names, classes.colours) if classes else Palette.generated(n)
