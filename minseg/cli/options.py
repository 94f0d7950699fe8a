"""Options that several subcommands share, and the sessions they describe."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minseg.precision import Precision

if TYPE_CHECKING:
    from minseg import Session

RECIPE_OPTIONS = ("channels", "mean", "scale", "layout", "resize")


#: The trained model that minseg brings along.
DEFAULT_MODEL = "camvid-small"


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    default = f" (default: {DEFAULT_MODEL})" if optional else ""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?" if optional else None,
        default=DEFAULT_MODEL if optional else None,
        help=f"an ONNX or OpenVINO IR file, or the name of a card{default}",
    )
    parser.add_argument(
        "--card",
        metavar="NAME",
        help="card with preprocessing and classes (default: the one that the model's metadata "
        "names, or else the one called like the file)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """How the compiled backend runs: its threads, and what algorithms it may use."""
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="worker threads (default: every CPU allowed)"
    )
    add_precision(parser)


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=[member.value for member in Precision],
        default=Precision.F32.value,
        help="exact forbids faster algorithms that round more than the definition does "
        "(Winograd); default: %(default)s",
    )


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Flags for preprocessing: they outrank the model's metadata, its card and guesses."""
    group = parser.add_argument_group(
        "preprocessing",
        "Each of these outranks what the model's metadata and its card say. Pixels are 0 to 255; "
        "the model gets (pixel - mean) / scale, with one value or three in the order of the "
        "channels.",
    )
    group.add_argument(
        "--channels", choices=("rgb", "bgr", "grey"), type=str.lower, help="order of the channels"
    )
    group.add_argument("--mean", metavar="M[,M,M]", help="subtracted from the pixels")
    group.add_argument("--scale", metavar="S[,S,S]", help="the pixels are divided by it")
    group.add_argument(
        "--layout", choices=("NCHW", "NHWC"), type=str.upper, help="order of the axes"
    )
    group.add_argument(
        "--resize",
        choices=("nearest", "bilinear", "bicubic", "lanczos"),
        type=str.lower,
        help="filter that brings the picture to the model's size",
    )
    group.add_argument(
        "--size", type=size, metavar="WxH", help="input size, for models that take any"
    )


def recipe_overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """The preprocessing flags that were given, as `Session.segment` takes them."""
    given = {name: getattr(arguments, name) for name in RECIPE_OPTIONS}
    if arguments.size is not None:
        given["width"], given["height"] = arguments.size
    return {name: value for name, value in given.items() if value is not None}


def load_session(arguments: argparse.Namespace, backend: str) -> Session:
    import minseg
    from minseg.graph.onnx_alone import import_alone

    import_alone()
    return minseg.load(
        arguments.model,
        backend=backend,  # type: ignore[arg-type]
        threads=arguments.threads,
        precision=arguments.precision,
    )


def card_name(arguments: argparse.Namespace, session: Session) -> str | None:
    """The card asked for, or the one called like the model's file if its metadata names none."""
    if arguments.card is not None:
        return str(arguments.card)
    return card_of_file(arguments.model, session)


def card_of_file(model: str, session: Session) -> str | None:
    """The card called like the model's file, if the model's metadata names none."""
    from minseg.images.cards import card_names
    from minseg.images.recipe import CARD_KEY

    stem = Path(model).stem
    return stem if CARD_KEY not in session.graph.metadata and stem in card_names() else None


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above zero")
    return int(text)


def positives(text: str) -> tuple[int, ...]:
    """Whole numbers above zero from "1,2"."""
    return tuple(dict.fromkeys(positive(part.strip()) for part in text.split(",")))


def opacity(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from 0 to 1")
    return value


def size(text: str) -> tuple[int, int]:
    """Width and height from "640x480"."""
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 0 < int(part) <= 65535 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is not a size such as 640x480")
    return int(parts[0]), int(parts[1])


def choices(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated words out of ``known``."""

    def parse(text: str) -> tuple[str, ...]:
        words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
        for word in words:
            if word not in known:
                raise argparse.ArgumentTypeError(f"'{word}' is none of {', '.join(known)}")
        return words

    return parse
