"""``minseg demo``: a generated street scene through a model, when there is no picture at hand."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from minseg.cli import options
from minseg.files import make_folder

#: Where everything goes unless told otherwise: nobody's own street.png is there to be lost.
DEFAULT_FOLDER = "minseg-demo"

#: A street in which every class is easily seen.
DEFAULT_SEED = 22


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="segment a generated street scene",
        description="Writes a generated street scene, street.png, and segments it as 'minseg run' "
        "does: no picture needed. With --count the scenes come with their true labels.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    options.add_model(parser, optional=True)
    parser.add_argument(
        "-o",
        "--output",
        metavar="FOLDER",
        default=DEFAULT_FOLDER,
        help=f"folder for everything that is written (default: {DEFAULT_FOLDER})",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=DEFAULT_SEED,
        metavar="N",
        help=f"which street: equal numbers give equal pictures (default {DEFAULT_SEED})",
    )
    parser.add_argument(
        "--size",
        type=options.size,
        default=(480, 360),
        metavar="WxH",
        help="size of the scene in pixels (default 480x360)",
    )
    parser.add_argument(
        "--count",
        type=options.positive,
        metavar="N",
        help="make N scenes, street_000.png and so on, each with its labels, street_000_labels.png "
        "(class indices, a PNG with palette): a small data set",
    )


def run(arguments: argparse.Namespace) -> int:
    from minseg.cli import build_parser

    make_folder(arguments.output)
    folder, (width, height) = Path(arguments.output), arguments.size
    pictures = write_scenes(folder, arguments.seed, width, height, arguments.count)
    model = arguments.model
    words = [f"--output={arguments.output}", "--", model, *map(str, pictures)]
    if arguments.card is not None:
        words.insert(0, f"--card={arguments.card}")
    shown = [model, *map(str, pictures[:1]), *["..."] * (len(pictures) > 1)]
    print(f"$ minseg run {shlex.join(shown)} -o {shlex.quote(arguments.output)}", flush=True)
    command = build_parser().parse_args(["run", *words])
    code: int = command.run(command)
    return code


def write_scenes(
    folder: Path, first: int, width: int, height: int, count: int | None
) -> list[Path]:
    """Write the scene with seed ``first`` as street.png, or with a ``count`` that many scenes as
    street_000.png, ... with their labels; return the pictures' paths. Raises InputError.
    """
    from PIL import Image

    from minseg.images.palette import load_palette
    from minseg.images.picture import save_image
    from minseg.images.scene import street_scene
    from minseg.images.segmentation import save_mask

    if count is None:
        picture = folder / "street.png"
        save_image(Image.fromarray(street_scene(first, width, height).image), picture)
        return [picture]
    palette = load_palette("camvid12")
    pictures = [folder / f"street_{i:03}.png" for i in range(count)]
    for i, picture in enumerate(pictures):
        scene = street_scene(first + i, width, height)
        save_image(Image.fromarray(scene.image), picture)
        save_mask(scene.labels, palette, folder / f"{picture.stem}_labels.png")
    return pictures


def seed(text: str) -> int:
    """A whole number from zero, of 18 digits at most."""
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 0 to {10**18 - 1}")
    return int(text)
