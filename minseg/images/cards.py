"""Cards: what is known of a published model, read from the TOML files in minseg.weights."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib.resources import files
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from minseg.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

T = TypeVar("T")
Triple = tuple[float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """A data set's classes by index, each with its RGB colour; metrics leave out ``ignored``."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class CardInput:
    """The picture a model takes, ``width`` x ``height`` pixels, resized with filter ``resize``.

    Pixel values 0-255 are put in the order ``channels``; then ``mean`` is subtracted and the
    result divided by ``scale``, both given in that order.
    """

    name: str
    width: int
    height: int
    layout: Literal["NCHW", "NHWC"]
    channels: Literal["bgr", "rgb"]
    mean: Triple
    scale: Triple
    resize: Literal["nearest", "bilinear", "bicubic", "lanczos"]

    @property
    def value_range(self) -> tuple[float, float]:
        """The lowest and the highest value that a picture can become."""
        pairs = tuple(zip(self.mean, self.scale, strict=True))
        return min((0 - m) / s for m, s in pairs), max((255 - m) / s for m, s in pairs)


@dataclass(frozen=True)
class CardOutput:
    """The output that holds the segmentation, and what its numbers are."""

    name: str
    kind: Literal["probabilities", "logits", "indices", "matte"]


@dataclass(frozen=True)
class Accuracy:
    """One published accuracy, ``value`` between 0 and 1."""

    metric: str
    split: str
    value: float


@dataclass(frozen=True)
class Published:
    """Figures as published: multiply and add count as two operations in ``gflops``."""

    parameters: int
    gflops: float
    accuracy: tuple[Accuracy, ...]
    zero_share: float = 0.0


@dataclass(frozen=True)
class CardFile:
    """One published file: its path under the base address, its size and SHA-256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Download:
    """Where a model's files are published; ``base`` ends with a slash."""

    base: str
    files: tuple[CardFile, ...]


@dataclass(frozen=True)
class Card:
    """A published model. ``classes`` names its class lists (`load_classes`), the usual first."""

    name: str
    description: str
    classes: tuple[str, ...]
    source: str
    licence: str
    input: CardInput
    output: CardOutput
    published: Published
    download: Download | None = None

    def classes_for(self, count: int | None = None) -> Classes | None:
        """The model's list of ``count`` classes, or None; without a count its usual list."""
        lists = [load_classes(name) for name in self.classes]
        return next((c for c in lists if count is None or len(c.names) == count), None)


def card_names() -> tuple[str, ...]:
    """Names of all cards, sorted."""
    return _names(_folder())


@cache
def load_card(name: str) -> Card:
    """The card called ``name``. Raises InputError for an unknown name or a damaged card."""
    card: Card = _read(Card, _table(_folder(), name, "model"), f"{name}.toml", name=name)
    _check(card)
    return card


@cache
def load_classes(name: str) -> Classes:
    """The class list called ``name``, such as "camvid12". Raises InputError as `load_card` does."""
    folder = _folder().joinpath("classes")
    classes: Classes = _read(Classes, _table(folder, name, "class list"), f"classes/{name}.toml")
    if len(classes.names) != len(classes.colours) or not set(classes.ignored) <= {*classes.names}:
        raise InputError(f"classes/{name}.toml: names, colours and ignored do not match")
    return classes


def _check(card: Card) -> None:
    """What the types of the fields can't say. Raises InputError."""
    taken = card.input
    downloads = card.download.files if card.download is not None else ()
    lengths = {len(load_classes(classes).names) for classes in card.classes}
    problems = {
        "input: width and height must be positive": min(taken.width, taken.height) < 1,
        "input: scale must not be zero": 0.0 in taken.scale,
        "classes: one list at least, of different lengths": len(card.classes) != len(lengths)
        or not lengths,
        "download: sha256 must be 64 hexadecimal digits": not all(
            _is_sha256(f.sha256) for f in downloads
        ),
    }
    for problem, holds in problems.items():
        if holds:
            raise InputError(f"{card.name}.toml: {problem}")


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def suggest(name: str, known: tuple[str, ...]) -> str:
    """The end of an error message about an unknown ``name``: a guess, then all known ones."""
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"; did you mean {close[0]}?" if close else ""
    return f"{guess} (known: {', '.join(known)})"


def _folder() -> Traversable:
    return files("minseg.weights").joinpath("cards")


def _names(folder: Traversable) -> tuple[str, ...]:
    names = (entry.name for entry in folder.iterdir())
    return tuple(sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml")))


def _table(folder: Traversable, name: str, what: str) -> dict[str, Any]:
    known = _names(folder)
    if name not in known:
        raise InputError(f"no {what} is called '{name}'{suggest(name, known)}")
    try:
        return tomllib.loads(folder.joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name}.toml: {error}") from error


def _read(cls: type[T], table: Any, where: str, **given: Any) -> T:
    """``table`` as the dataclass ``cls``, every key checked against the field of that name."""
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: expected a table, got {table!r}")
    hints = get_type_hints(cls)
    known = tuple(f.name for f in fields(cls) if f.name not in given)  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'{suggest(key, known)}")
    values = {k: _convert(hints[k], value, f"{where}: {k}") for k, value in table.items()}
    try:
        return cls(**given, **values)
    except TypeError:
        optional = {f.name for f in fields(cls) if f.default is not MISSING}  # type: ignore[arg-type]
        missing = [k for k in known if k not in values and k not in optional]
        raise InputError(f"{where}: missing key '{missing[0]}'") from None


def _convert(hint: Any, value: Any, where: str) -> Any:
    """``value`` from a TOML file as the type ``hint``, exactly."""
    if hint in (int, str) and type(value) is hint:
        return value
    if hint is float and type(value) in (int, float):
        return float(value)
    if get_origin(hint) is Literal and value in get_args(hint):
        return value
    if get_origin(hint) is tuple and isinstance(value, list):
        kinds = get_args(hint)
        if kinds[-1] is ...:
            kinds = kinds[:1] * len(value)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_convert(kind, item, f"{where}[{i}]") for i, (kind, item) in pairs)
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return _read(hint, value, where)
    if NoneType in get_args(hint):
        return _convert(get_args(hint)[0], value, where)
    raise InputError(f"{where}: {value!r} is not {_expected(hint)}")


def _expected(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return f"a {hint.__name__}" if isinstance(hint, type) else str(hint)
