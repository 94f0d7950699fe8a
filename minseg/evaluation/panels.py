"""Pictures of an evaluation: the confusion matrix, and one picture beside its truth."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from minseg.evaluation.classes import Match
from minseg.evaluation.metrics import Scores
from minseg.images.cards import Classes
from minseg.images.legend import FAINT, INK, PAPER, Entry, draw_legend
from minseg.images.picture import resize

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
RGB = tuple[int, int, int]

# The confusion matrix. All lengths in pixels.

CELL, EDGE, SWATCH, GAP = 58, 24, 18, 8
TITLE_TEXT, LABEL_TEXT, CELL_TEXT = 24, 17, 16

#: Colours of a share of 1: found, and taken for another class.
RIGHT, WRONG = (18, 92, 150), (196, 60, 20)

#: A ramp from paper to a colour is bent by this power, so that small shares are seen.
BEND = 0.6


def draw_confusion(scores: Scores, classes: Classes, title: str) -> Image.Image:
    """The confusion matrix with each row divided by its sum: the share of a class's pixels, in per
    cent, that were taken for each class. Classes that occur on neither side are left out.
    """
    rows = np.flatnonzero(scores.truths > 0)
    columns = np.flatnonzero((scores.truths > 0) | (scores.matrix.sum(axis=0) > 0))
    shares = scores.matrix[rows] / scores.truths[rows, None]
    title_font, font = ImageFont.load_default(TITLE_TEXT), ImageFont.load_default(LABEL_TEXT)
    widest = max(round(font.getlength(classes.names[i])) for i in columns)
    left = EDGE + widest + 2 * GAP + SWATCH
    top = EDGE + 2 * TITLE_TEXT + LABEL_TEXT + GAP + widest + 2 * GAP + SWATCH
    note = "rows: truth; columns: prediction; per cent of the row's pixels"
    text = max(title_font.getlength(title), font.getlength(note))
    wide = max(left + (len(columns) + 1) * CELL + GAP, EDGE + round(text)) + EDGE
    canvas = Image.new("RGB", (wide, top + len(rows) * CELL + EDGE), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((EDGE, EDGE), title, INK, title_font)
    draw.text((EDGE, EDGE + round(1.4 * TITLE_TEXT)), note, FAINT, font)
    for place, index in enumerate(columns.tolist()):
        x = left + place * CELL
        _swatch(draw, x + (CELL - SWATCH) // 2, top - GAP - SWATCH, classes.colours[index])
        _upward(canvas, x + CELL // 2, top - 2 * GAP - SWATCH, classes.names[index], font)
    last = left + len(columns) * CELL + GAP
    _upward(canvas, last + CELL // 2, top - GAP, "IoU", font)
    for place, index in enumerate(rows.tolist()):
        y = top + place * CELL
        middle = y + CELL // 2
        draw.text((left - 2 * GAP - SWATCH, middle), classes.names[index], INK, font, anchor="rm")
        _swatch(draw, left - GAP - SWATCH, middle - SWATCH // 2, classes.colours[index])
        for column, other in enumerate(columns.tolist()):
            ramp = RIGHT if other == index else WRONG
            _cell(draw, left + column * CELL, y, float(shares[place, other]), ramp)
        if scores.present[index]:
            iou = f"{100 * scores.iou[index]:.1f}"
            draw.text((last + CELL // 2, middle), iou, INK, font, anchor="mm")
    return canvas


def _cell(draw: ImageDraw.ImageDraw, x: int, y: int, share: float, ramp: RGB) -> None:
    strength = share**BEND
    red, green, blue = (
        round(paper + (full - paper) * strength) for paper, full in zip(PAPER, ramp, strict=True)
    )
    box = (x + 1, y + 1, x + CELL - 2, y + CELL - 2)
    draw.rectangle(box, (red, green, blue), outline=(228, 228, 232))
    if share >= 0.0005:
        ink = PAPER if strength > 0.6 else INK
        font = ImageFont.load_default(CELL_TEXT)
        draw.text((x + CELL // 2, y + CELL // 2), f"{100 * share:.1f}", ink, font, anchor="mm")


def _swatch(draw: ImageDraw.ImageDraw, x: int, y: int, colour: RGB) -> None:
    box = (x, y, x + SWATCH - 1, y + SWATCH - 1)
    draw.rounded_rectangle(box, SWATCH // 6, fill=colour, outline=FAINT)


def _upward(canvas: Image.Image, x: int, bottom: int, text: str, font: Font) -> None:
    """``text`` that runs upward from ``bottom``, its middle at ``x``."""
    height = round(1.5 * LABEL_TEXT)
    line = Image.new("RGB", (round(font.getlength(text)) + 2, height), PAPER)
    ImageDraw.Draw(line).text((0, height // 2), text, INK, font, anchor="lm")
    upright = line.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(upright, (x - height // 2, bottom - upright.height))


# One picture beside its truth.

#: Wrong pixels, pixels that are not judged, and how much of the picture is left behind them.
MISTAKE, NOT_JUDGED, FADED = (230, 30, 60), (40, 60, 110), 0.45


def draw_comparison(
    picture: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    match: Match,
    scores: Scores,
    title: str,
) -> Image.Image:
    """Picture (HxWx3 uint8), truth and prediction (HxW, indices of the match's classes) and their
    differences side by side, two above two, and the IoU of each class in this picture below.
    """
    height, width = truth.shape
    if picture.shape[:2] != (height, width):
        picture = resize(picture, width, height, "bilinear")
    colours = np.array(match.classes.colours, np.uint8)
    is_ignored = np.isin(truth, match.ignored)
    wrong = (truth != predicted) & ~is_ignored
    share = np.count_nonzero(wrong) / max(1, int(np.count_nonzero(~is_ignored)))
    panels = (
        ("picture", picture),
        ("truth", colours[truth]),
        ("prediction", colours[predicted]),
        (
            f"differences: red: wrong ({100 * share:.1f} %); blue: not labelled",
            _differences(picture, wrong, is_ignored),
        ),
    )
    font = ImageFont.load_default(max(13, width // 30))
    line = round(1.7 * font.size) if isinstance(font, ImageFont.FreeTypeFont) else 20
    legend = _legend(match.classes, scores, 2 * width + GAP, 2 * height)
    wide = max(2 * width + GAP, legend.width)
    canvas = Image.new("RGB", (wide, line + 2 * (line + height) + legend.height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, line // 2), title, INK, font, anchor="lm")
    for place, (name, pixels) in enumerate(panels):
        x, y = (place % 2) * (width + GAP), line + (place // 2) * (line + height)
        draw.text((x + GAP, y + line // 2), name, FAINT, font, anchor="lm")
        canvas.paste(Image.fromarray(pixels), (x, y + line))
    canvas.paste(legend, (0, canvas.height - legend.height))
    return canvas


def _differences(picture: np.ndarray, wrong: np.ndarray, is_ignored: np.ndarray) -> np.ndarray:
    """The picture in grey, wrong pixels in one colour, pixels that are not judged in another."""
    grey = picture.mean(axis=2, keepdims=True) * FADED + 255 * (1 - FADED)
    shown = np.repeat(grey, 3, axis=2)
    shown[is_ignored] = shown[is_ignored] * 0.5 + np.array(NOT_JUDGED) * 0.5
    shown[wrong] = shown[wrong] * 0.25 + np.array(MISTAKE) * 0.75
    return np.asarray(shown, np.uint8)


def _legend(classes: Classes, scores: Scores, width: int, height: int) -> Image.Image:
    """The classes of truth and prediction, with the IoU of those that have one."""
    predictions = scores.matrix.sum(axis=0)
    shown: list[int] = np.flatnonzero((scores.truths > 0) | (predictions > 0)).tolist()
    entries = [
        Entry(f"{classes.names[i]} IoU", classes.colours[i], float(scores.iou[i]))
        if scores.present[i]
        else Entry(f"{classes.names[i]} (no IoU)", classes.colours[i], 0.0)
        for i in shown
    ]
    return draw_legend(entries, width, height)
