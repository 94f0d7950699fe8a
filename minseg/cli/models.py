"""``minseg models``: the cards minseg knows, and files with synthetic weights for them."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import Any

from minseg.cli.text import quantity
from minseg.errors import InputError


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "models",
        help="list the known models, or build one",
        description="Lists the models that minseg has a card of. A card says what a published "
        "model expects and gives; the weights are not included.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=list_models)
    actions = parser.add_subparsers(metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="write a model with synthetic weights",
        description="Writes a known model as an ONNX file at its published size, with synthetic "
        "weights: for measuring speed and comparing engines, not for good labels.",
        allow_abbrev=False,
    )
    build.set_defaults(run=build_model)
    build.add_argument("name", metavar="NAME", help="the name of a card")
    build.add_argument("-o", "--output", metavar="FILE", help="default: NAME.onnx")
    build.add_argument(
        "--set",
        metavar="OPTION=VALUE",
        action="append",
        default=[],
        help="an option of the model's builder, such as classes=32; may be given several times",
    )


def list_models(_: argparse.Namespace) -> int:
    from minseg.images.cards import card_names, load_card

    for name in card_names():
        card = load_card(name)
        size = f"{card.input.width}x{card.input.height} {card.input.layout}"
        facts = (
            f"{size} {card.input.channels}, {card.output.kind}, "
            f"{quantity(card.published.parameters)} parameters, "
            f"{card.published.gflops:g} GFlop, {card.licence}"
        )
        print(name)
        print(textwrap.indent(textwrap.fill(card.description, 86), "  "))
        print(f"  {facts}")
    return 0


def build_model(arguments: argparse.Namespace) -> int:
    from minseg.weights import build_file

    settings = dict(_setting(text) for text in arguments.set)
    path = build_file(arguments.name, arguments.output or f"{arguments.name}.onnx", **settings)
    print(f"{path}  {quantity(os.path.getsize(path), 'B')}, synthetic weights")
    return 0


def _setting(text: str) -> tuple[str, int | float | str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InputError(f"--set {text}: expected OPTION=VALUE")
    for convert in (int, float):
        try:
            return name, convert(value)
        except ValueError:
            continue
    return name, value
