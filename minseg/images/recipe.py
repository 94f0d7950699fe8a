"""The preprocessing recipe: how a picture becomes a model's input, and who says so.

Each value of a recipe comes from the first of these that knows it: the model's own input shape
(for what the shape fixes), the user's flags, the model's metadata, its card, and last a guess
that says that it is one.

A model carries its recipe in two metadata keys: ``minseg.card`` names a card, ``minseg.recipe``
holds a JSON object with any of the fields ``width``, ``height``, ``layout``, ``channels``,
``mean``, ``scale`` and ``resize``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from minseg.errors import InputError, MinsegError, ModelError
from minseg.graph.model import Dim, TensorType, Value
from minseg.images.picture import FILTERS, load_picture, resize

if TYPE_CHECKING:
    from minseg.images.cards import Card

LAYOUTS = ("NCHW", "NHWC")

#: Channel orders and how many channels each has.
CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}

#: A dynamic height or width is guessed to want multiples of this: five halvings, as deep as the
#: common encoders go.
DYNAMIC_MULTIPLE = 32

#: What most networks trained from ImageNet weights expect, in RGB, for pixels of 0 to 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_SCALE = (58.395, 57.12, 57.375)

RECIPE_KEY = "minseg.recipe"
CARD_KEY = "minseg.card"


@dataclass(frozen=True)
class Recipe:
    """How a picture becomes the input named ``input_name``.

    The picture is resized to ``width``x``height`` (None: its own size, rounded up to a multiple
    of 32) with the filter ``resize``, its channels put in the order ``channels``, ``mean``
    subtracted and the result divided by ``scale``. Both have one value per channel, in that
    order, for pixels of 0 to 255. ``sources`` says of each field where it comes from: "model",
    "flag", "metadata", "card …" or "guess".
    """

    input_name: str
    dtype: np.dtype
    width: int | None
    height: int | None
    layout: str
    channels: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    resize: str
    sources: Mapping[str, str]

    def size_for(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the model's input for a picture of ``height``x``width``."""
        return self.height or _rounded_up(height), self.width or _rounded_up(width)

    def input_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The shape of the model's input for a picture of ``height``x``width``."""
        height, width = self.size_for(height, width)
        channels = CHANNELS[self.channels]
        if self.layout == "NCHW":
            return 1, channels, height, width
        return 1, height, width, channels

    def apply(self, image: Any) -> np.ndarray:
        """The model's input, 1xCxHxW or 1xHxWxC of ``dtype``, for anything `load_picture` takes."""
        picture = load_picture(image)
        height, width = self.size_for(*picture.shape[:2])
        pixels = self._ordered(resize(picture, width, height, self.resize))
        if self.layout == "NCHW":
            pixels = pixels.transpose(2, 0, 1)
        per_channel = (-1, 1, 1) if self.layout == "NCHW" else (-1,)
        mean = np.array(self.mean, np.float32).reshape(per_channel)
        scale = np.array(self.scale, np.float32).reshape(per_channel)
        values = (np.ascontiguousarray(pixels, np.float32) - mean) / scale
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            values = np.rint(values).clip(limits.min, limits.max)
        return values[None].astype(self.dtype, copy=False)

    def _ordered(self, rgb: np.ndarray) -> np.ndarray:
        if self.channels == "bgr":
            return rgb[..., ::-1]
        if self.channels == "grey":  # luma of ITU-R BT.601, as Pillow and OpenCV weigh it
            luma = np.rint(rgb @ np.array([0.299, 0.587, 0.114]))
            return np.asarray(luma[..., None], np.uint8)
        return rgb

    def to_dict(self) -> dict[str, Any]:
        """Every field with its source, ready for JSON."""
        return {
            "input": self.input_name,
            "dtype": self.dtype.name,
            **{name: getattr(self, name) for name in _FIELDS},
            "sources": dict(self.sources),
        }

    def describe(self) -> str:
        """One line per value: its name, the value, and where it comes from."""
        rows = [
            ("size", self._size_text(), self._size_source()),
            *(
                (name, _text(getattr(self, name)), self.sources[name])
                for name in ("layout", "channels", "mean", "scale", "resize")
            ),
        ]
        wide = max(len(value) for _, value, _ in rows)
        lines = [f"{name:<8}  {value:<{wide}}  ({source})" for name, value, source in rows]
        return "\n".join(lines)

    def _size_text(self) -> str:
        if self.width is None and self.height is None:
            return f"the picture's, up to a multiple of {DYNAMIC_MULTIPLE}"
        return f"{self.width or 'dynamic'}x{self.height or 'dynamic'}"

    def _size_source(self) -> str:
        return ", ".join(dict.fromkeys((self.sources["width"], self.sources["height"])))


_FIELDS = tuple(f.name for f in fields(Recipe) if f.name not in ("input_name", "dtype", "sources"))


def _rounded_up(size: int) -> int:
    return -(-size // DYNAMIC_MULTIPLE) * DYNAMIC_MULTIPLE


def _text(value: Any) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)


# Reading one field, whoever gives it. Each parser returns the value or raises ValueError with
# what was expected.


def _size(value: Any) -> int:
    size = int(value)
    if isinstance(value, bool) or size != float(value) or not 0 < size <= 65535:
        raise ValueError
    return size


def _choice(options: Iterable[str], change: Callable[[str], str]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        text = change(str(value))
        if text not in options:
            raise ValueError
        return text

    return parse


def _numbers(value: Any) -> tuple[float, ...]:
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    elif isinstance(value, int | float):
        value = (value,)
    numbers = tuple(float(v) for v in value)
    if len(numbers) not in (1, 3) or not all(math.isfinite(v) for v in numbers):
        raise ValueError
    return numbers


def _divisors(value: Any) -> tuple[float, ...]:
    numbers = _numbers(value)
    if 0.0 in numbers:
        raise ValueError
    return numbers


_PARSERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "width": (_size, "a whole number of pixels from 1 to 65535"),
    "height": (_size, "a whole number of pixels from 1 to 65535"),
    "layout": (_choice(LAYOUTS, str.upper), "NCHW or NHWC"),
    "channels": (_choice(CHANNELS, str.lower), "rgb, bgr or grey"),
    "mean": (_numbers, "one number or three"),
    "scale": (_divisors, "one number or three, none of them zero"),
    "resize": (_choice(FILTERS, str.lower), ", ".join(FILTERS)),
}


def _parse(given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The recipe's fields in ``given``, checked. Raises InputError naming field and source."""
    parsed = {}
    for name, value in given.items():
        if value is None:
            continue
        if name not in _PARSERS:
            known = ", ".join(_PARSERS)
            raise InputError(f"'{name}' ({source}) is no part of a recipe; those are {known}")
        parse, expected = _PARSERS[name]
        try:
            parsed[name] = parse(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"{name} {value!r} ({source}) must be {expected}") from error
    return parsed


def resolve_recipe(
    input_name: str,
    input_type: TensorType,
    metadata: Mapping[str, str] | None = None,
    card: Card | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe for one input of a model, each field from the first source that knows it.

    Raises InputError for values out of range, for overrides that contradict the model's input,
    and for an input that isn't a picture; ModelError for metadata that can't be read.
    """
    fixed, count = _fixed_by_shape(input_name, input_type)
    stated = [
        ("flag", _parse(overrides or {}, "flag")),
        ("metadata", _from_metadata(metadata or {})),
        (f"card {card.name}" if card else "", _from_card(card)),
    ]
    _refuse_contradiction(input_name, fixed, stated[0][1])
    values: dict[str, Any] = dict(fixed)
    sources = dict.fromkeys(fixed, "model")
    for source, given in stated:
        for name, value in given.items():
            if name not in values:
                values[name], sources[name] = value, source
    dtype = input_type.dtype if input_type.dtype is not None else np.dtype(np.float32)
    if dtype.kind not in "fiu":
        raise InputError(f"input '{input_name}' takes {dtype}, which a picture can't become")
    guesses = _guesses(dtype, values.get("channels"), count)
    for name, value in guesses.items():
        if name not in values:
            values[name], sources[name] = value, "guess"
    _fit_channels(input_name, values, sources, count)
    return Recipe(input_name, dtype, sources=sources, **values)


def _fixed_by_shape(name: str, type_: TensorType) -> tuple[dict[str, Any], int | None]:
    """What the input's shape leaves no choice about, and how many channels it has, if known."""
    if type_.shape is None:
        return {}, None
    shape = type_.shape
    if len(shape) != 4:
        raise InputError(f"input '{name}' has {len(shape)} dimensions: a picture takes four")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise InputError(
            f"input '{name}' takes batches of {shape[0]}: one picture at a time wants 1"
        )
    counts = tuple(CHANNELS.values())
    fits = {layout: c for layout, c in (("NCHW", shape[1]), ("NHWC", shape[3])) if c in counts}
    if not fits:
        if isinstance(shape[1], int) and isinstance(shape[3], int):
            raise InputError(f"input '{name}' has neither one channel nor three: {_dims(shape)}")
        return {}, None
    if len(fits) == 2:
        return {}, None if shape[1] != shape[3] else int(shape[1])  # type: ignore[arg-type]
    layout, count = next(iter(fits.items()))
    height, width = shape[2:4] if layout == "NCHW" else shape[1:3]
    fixed: dict[str, Any] = {"layout": layout}
    fixed.update((k, d) for k, d in (("height", height), ("width", width)) if isinstance(d, int))
    return fixed, int(count)


def _dims(shape: tuple[Dim, ...]) -> str:
    return "x".join("?" if d is None else str(d) for d in shape)


def _refuse_contradiction(
    name: str, fixed: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    for field, value in overrides.items():
        if fixed.get(field, value) != value:
            raise InputError(
                f"{field} {value} does not fit the model: its input '{name}' has {field}"
                f" {fixed[field]}"
            )


def _from_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    text = metadata.get(RECIPE_KEY)
    if text is None:
        return {}
    try:
        given = json.loads(text)
    except ValueError as error:
        raise ModelError(f"the model's metadata '{RECIPE_KEY}' is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ModelError(f"the model's metadata '{RECIPE_KEY}' is not a JSON object")
    try:
        return _parse(given, f"the model's metadata '{RECIPE_KEY}'")
    except InputError as error:
        raise ModelError(str(error)) from error


def _from_card(card: Card | None) -> dict[str, Any]:
    if card is None:
        return {}
    return _parse({name: getattr(card.input, name, None) for name in _FIELDS}, f"card {card.name}")


def _guesses(dtype: np.dtype, channels: str | None, count: int | None) -> dict[str, Any]:
    if channels is None:
        channels = "grey" if count == 1 else "rgb"
    guessed: dict[str, Any] = {
        "width": None,
        "height": None,
        "layout": "NCHW",
        "channels": channels,
        "resize": "bilinear",
    }
    if dtype.kind in "iu":
        return {**guessed, "mean": (0.0,), "scale": (1.0,)}
    if CHANNELS[channels] == 1:
        return {**guessed, "mean": (0.0,), "scale": (255.0,)}
    step = -1 if channels == "bgr" else 1
    return {**guessed, "mean": IMAGENET_MEAN[::step], "scale": IMAGENET_SCALE[::step]}


def _fit_channels(
    name: str, values: dict[str, Any], sources: Mapping[str, str], count: int | None
) -> None:
    """Repeat a single mean or scale for every channel; refuse what doesn't fit the input."""
    wanted = CHANNELS[values["channels"]]
    if count is not None and wanted != count:
        raise InputError(
            f"channels {values['channels']} ({sources['channels']}) does not fit the model:"
            f" its input '{name}' has {count} channel{'s' if count > 1 else ''}"
        )
    for field in ("mean", "scale"):
        numbers = values[field]
        if len(numbers) == 1:
            values[field] = numbers * wanted
        elif len(numbers) != wanted:
            raise InputError(f"{field} ({sources[field]}) has three values for one channel")


def session_recipe(session: Any, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe of a session's picture input; ``overrides`` may also name a ``card``."""
    given = dict(overrides)
    card = session_card(session, given.pop("card", None))
    value = picture_input(session.graph.required_inputs)
    return resolve_recipe(value.name, value.type, session.graph.metadata, card, given)


def session_card(session: Any, name: str | None = None) -> Card | None:
    """The card called ``name``, or else the one that the model's metadata names, or None.

    Raises InputError for a ``name`` without a card; metadata may name one of another version of
    minseg, and is then passed over.
    """
    from minseg.images.cards import load_card

    if name is not None:
        return load_card(name)
    try:
        named = session.graph.metadata.get(CARD_KEY)
        return None if named is None else load_card(named)
    except MinsegError:
        return None


def picture_input(inputs: tuple[Value, ...]) -> Value:
    """The only input a picture can go to. Raises InputError where other inputs want feeding too."""
    if len(inputs) != 1:
        names = ", ".join(f"'{v.name}'" for v in inputs) or "none"
        raise InputError(f"a picture goes to a model with one input; this one has {names}")
    return inputs[0]
