"""``minseg warmup``: machine code made ahead of the first run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from minseg.cli import options
from minseg.cli.info import Shapes, input_shapes
from minseg.cli.text import Progress, seconds
from minseg.errors import InputError, MinsegError
from minseg.paths import cache_directory

if TYPE_CHECKING:
    from minseg import Session
    from minseg.kernels.core.jit import Preparation


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "warmup",
        help="compile ahead of the first run",
        description="Compiles what models need on this machine and keeps it in the cache, so that "
        "the first run starts as fast as any other: for a container image, say. Kernels are "
        "chosen for the size of the input: give it for models that take any.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "models",
        metavar="MODEL",
        nargs="*",
        help="an ONNX or OpenVINO IR file, or the name of a card (default: all models in the box)",
    )
    parser.add_argument(
        "--size", type=options.size, metavar="WxH", help="input size, for models that take any"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options.add_threads(parser)


@dataclass(frozen=True)
class Row:
    """A model, the shapes of its inputs, and what was done for it."""

    model: str
    shapes: Shapes
    done: Preparation

    def __str__(self) -> str:
        shapes = ", ".join("x".join(map(str, shape)) for shape in self.shapes.values())
        kernels = f"{self.done.kernels} kernels, {self.done.compiled} of them new"
        time = f" ({seconds(self.done.seconds)})" if self.done.compiled else ""
        return f"{self.model}  {shapes}  {kernels}{time}"

    def to_dict(self) -> dict[str, Any]:
        """The row, ready for JSON."""
        return {
            "model": self.model,
            "shapes": self.shapes,
            "kernels": self.done.kernels,
            "compiled": self.done.compiled,
            "seconds": round(self.done.seconds, 6),
        }


def run(arguments: argparse.Namespace) -> int:
    from minseg.weights import shipped_models

    rows = []
    for model in arguments.models or shipped_models():
        rows.append(warm_up(model, arguments))
        if not arguments.json:
            print(rows[-1], flush=True)
    if arguments.json:
        told = {"cache": str(cache_directory()), "models": [row.to_dict() for row in rows]}
        print(json.dumps(told))
    else:
        print(f"kept in '{cache_directory()}'")
    return 0


def warm_up(model: str, arguments: argparse.Namespace) -> Row:
    """Compile what one model needs. Raises InputError where that cannot be known or kept."""
    import minseg

    session = minseg.load(model, threads=arguments.threads, precision=arguments.precision)
    shapes = shapes_of(session, model, arguments.size)
    progress = Progress(1, sys.stderr)
    try:
        done = session.prepare(shapes, on_compile=progress.compiling)
    finally:
        progress.clear()
    if done.obstacle:
        raise InputError(f"machine code cannot be kept: {done.obstacle}")
    return Row(model, shapes, done)


def shapes_of(session: Session, model: str, size: tuple[int, int] | None) -> Shapes:
    """The shapes of the model's inputs, for a picture of ``size`` (width, height) if given."""
    from minseg.images.recipe import session_recipe

    width, height = size or (None, None)
    card = options.card_of_file(model, session)
    picture = None
    try:
        recipe = session_recipe(session, {"card": card, "width": width, "height": height})
        picture = recipe.height, recipe.width, recipe.layout
    except MinsegError:
        if size is not None:
            raise
    shapes = input_shapes(session.graph, picture)
    if shapes is None:
        raise InputError(f"'{model}' takes inputs of many sizes: say which with --size")
    return shapes
