"""Legends: which colour is which class, and how much of the picture it covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PAPER = (255, 255, 255)
INK = (28, 28, 32)
FAINT = (120, 120, 128)

#: Text height as a share of the picture's longer side, and its bounds in pixels.
TEXT_SHARE = 1 / 56
TEXT_SMALLEST, TEXT_LARGEST = 12, 64

#: Longer class names are cut.
NAME_LENGTH = 32


@dataclass(frozen=True)
class Entry:
    """A class in a legend; ``share`` of the picture is 0 to 1."""

    name: str
    colour: tuple[int, int, int]
    share: float


def share_text(share: float) -> str:
    """A share as per cent, small ones not rounded away: "31.2 %", "< 0.1 %"."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def draw_legend(entries: Sequence[Entry], width: int, height: int) -> Image.Image:
    """A legend to stand under a picture of ``width``x``height`` pixels, entries in reading order.

    At least ``width`` wide; wider where the picture is too narrow for one entry.
    """
    em = min(max(round(max(width, height) * TEXT_SHARE), TEXT_SMALLEST), TEXT_LARGEST)
    text = ImageFont.load_default(em)
    swatch, gap, row = round(em * 1.15), round(em * 0.5), round(em * 1.75)
    names = [_cut(entry.name) for entry in entries]
    shares = [share_text(entry.share) for entry in entries]
    name_wide = max(_length(text, name) for name in names)
    share_wide = max(_length(text, share) for share in shares)
    cell = swatch + gap + name_wide + gap + share_wide
    margin, between = round(em * 0.9), 2 * em
    columns = max(1, min(len(entries), (width - 2 * margin + between) // (cell + between)))
    rows = -(-len(entries) // columns)
    canvas = Image.new(
        "RGB", (max(width, cell + 2 * margin), rows * row + 2 * round(em * 0.6)), PAPER
    )
    draw = ImageDraw.Draw(canvas)
    step = (canvas.width - 2 * margin + between) // columns
    for i, (entry, name, share) in enumerate(zip(entries, names, shares, strict=True)):
        x = margin + (i % columns) * step
        y = round(em * 0.6) + (i // columns) * row + row // 2
        box = (x, y - swatch // 2, x + swatch - 1, y - swatch // 2 + swatch - 1)
        draw.rounded_rectangle(box, max(1, swatch // 6), fill=entry.colour, outline=FAINT)
        draw.text((x + swatch + gap, y), name, INK, text, anchor="lm")
        draw.text((x + cell, y), share, FAINT, text, anchor="rm")
    return canvas


def stack(picture: Image.Image, legend: Image.Image) -> Image.Image:
    """``picture`` above ``legend``, centred where one of them is narrower."""
    width = max(picture.width, legend.width)
    canvas = Image.new("RGB", (width, picture.height + legend.height), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    canvas.paste(legend, ((width - legend.width) // 2, picture.height))
    return canvas


def _cut(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= NAME_LENGTH else line[: NAME_LENGTH - 3] + "..."


def _length(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, text: str) -> int:
    return round(font.getlength(text)) + 1
