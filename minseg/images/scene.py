"""Generated street scenes with the label of every pixel: data that needs no data set.

A scene is a street of houses, trees, cars and people seen through a car's windscreen, planned in
metres and painted far to near at twice its size; each pixel of the picture is the mean of four,
and its label the most frequent of theirs. Light, texture and the camera's noise come last and
change the picture only.

    scene_canvas.py     camera, light, and the canvas that paints picture and labels together
    scene_ground.py     sky, road, pavement and what is marked on them
    scene_buildings.py, scene_furniture.py, scene_traffic.py     one function for each kind of thing
    scene_street.py     who and what is where
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from minseg.errors import InputError
from minseg.images.scene_canvas import UNLABELED, Camera, Canvas, pick
from minseg.images.scene_ground import (
    WEATHERS,
    light_ground,
    noise,
    paint_ground,
    paint_sky,
    plan_street,
)
from minseg.images.scene_street import populate

#: The sides that a scene can have, in pixels.
SMALLEST, LARGEST = 16, 8192

#: How rough surfaces look, by class index: fine and coarse texture as shares of the brightness.
ROUGHNESS = np.array(
    [
        (0.0, 0.0), (0.05, 0.06), (0.03, 0.02), (0.05, 0.03), (0.05, 0.03), (0.14, 0.12),
        (0.02, 0.02), (0.05, 0.04), (0.02, 0.02), (0.05, 0.05), (0.04, 0.04), (0.02, 0.02),
    ],
    np.float32,
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A street: ``image`` is HxWx3 uint8 RGB, ``labels`` HxW uint8, CamVid's twelve classes by
    index (``camvid12``: 0 Sky to 10 Bike, 11 Unlabeled).
    """

    image: np.ndarray
    labels: np.ndarray


def street_scene(seed: int, width: int = 480, height: int = 360) -> Scene:
    """The street number ``seed`` (not negative), ``width`` x ``height`` pixels.

    Equal arguments give equal arrays. Raises InputError for a size or seed out of range.
    """
    if seed < 0:
        raise InputError(f"seed {seed}: a scene's seed must not be negative")
    if not (SMALLEST <= width <= LARGEST and SMALLEST <= height <= LARGEST):
        raise InputError(
            f"a scene of {width}x{height}: each side must have {SMALLEST} to {LARGEST} pixels"
        )
    painted, labels = paint_scene(seed, width, height)
    return Scene(photograph(painted, labels, seed), labels)


def paint_scene(seed: int, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture before the camera takes it (HxWx3 uint8), and its labels (HxW uint8)."""
    rng = np.random.default_rng((seed, 0))
    weather = pick(rng, WEATHERS)
    street = plan_street(rng)
    lane = int(rng.integers((street.lanes + 1) // 2))
    camera = _camera(rng, 2 * width, 2 * height, street.lane_middle(lane))
    light = weather.light(rng)
    has_bonnet, mirrored = rng.random() < 0.2, rng.random() < 0.5
    canvas = Canvas(paint_sky(rng, weather, camera), camera, light)
    paint_ground(canvas, rng, street)
    things = populate(rng, street, lane)
    canvas.replace(light_ground(canvas, canvas.shadows(things)))
    for thing in things:
        if canvas.sees(thing):
            thing.paint(canvas)
    if has_bonnet:
        _paint_bonnet(canvas, rng)
    pixels = np.asarray(canvas.image)
    if mirrored:
        pixels = pixels[:, ::-1]
    picture = np.asarray(Image.fromarray(np.ascontiguousarray(pixels[..., :3])).reduce(2))
    return picture, _most_frequent(pixels[..., 3])


def photograph(painted: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """What a camera makes of a painted scene: surfaces get texture, the lens blurs and darkens the
    corners, the sensor sets exposure and colour and adds noise. HxWx3 uint8, like ``painted``.
    """
    rng = np.random.default_rng((seed, 1))
    height, width = labels.shape
    fine = rng.uniform(-1, 1, labels.shape).astype(np.float32)
    coarse = noise(rng, height, width, height // 6, width // 6)
    rough = ROUGHNESS[labels]
    texture = 1 + rough[..., 0] * fine + rough[..., 1] * coarse
    textured = np.clip(painted * texture[..., None], 0, 255).astype(np.uint8)
    blur = ImageFilter.GaussianBlur(rng.uniform(0.2, 0.55) * height / 360)
    seen = np.asarray(Image.fromarray(textured).filter(blur), np.float32)
    gain = rng.uniform(0.85, 1.12) * (1 + rng.uniform(-0.04, 0.04, 3))
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    vignette = 1 - rng.uniform(0.03, 0.14) * (x * x + y * y)
    seen *= (vignette[..., None] * gain).astype(np.float32)
    seen += rng.uniform(1, 4) * rng.standard_normal(seen.shape, np.float32)
    return np.clip(seen, 0, 255).astype(np.uint8)


def _camera(rng: np.random.Generator, width: int, height: int, across: float) -> Camera:
    """A camera behind a windscreen, nearly level, somewhere about the middle of its lane."""
    return Camera(
        width=width,
        height=height,
        focal=rng.uniform(0.8, 1.1) * max(width, 4 / 3 * height),
        column=width * rng.uniform(0.42, 0.58),
        row=height * rng.uniform(0.40, 0.50),
        roll=float(rng.normal(0, 0.012)),
        eye=rng.uniform(1.25, 1.75),
        across=across + rng.uniform(-0.3, 0.3),
        bend=float(np.clip(rng.normal(0, 0.0009), -0.0022, 0.0022)),
    )


def _paint_bonnet(canvas: Canvas, rng: np.random.Generator) -> None:
    """The front of the camera's own car at the bottom of the picture."""
    width, height = canvas.image.size
    rise, tone = height * rng.uniform(0.05, 0.1), rng.uniform(30, 190)
    middle = width * rng.uniform(0.45, 0.6)
    for lower, shade in ((0.0, 1.15), (0.12, 1.0), (0.5, 0.85)):
        grey = min(255, int(tone * shade))
        top = height - rise * (1 - lower)
        canvas.ellipse(
            (middle - 0.75 * width, top, middle + 0.75 * width, height + rise * 5),
            (grey, grey, grey, UNLABELED),
        )


def _most_frequent(labels: np.ndarray) -> np.ndarray:
    """The most frequent label of every 2 x 2; of equally frequent ones the first."""
    height, width = labels.shape
    a, b, c, d = (
        labels.reshape(height // 2, 2, width // 2, 2)
        .transpose(1, 3, 0, 2)
        .reshape(4, height // 2, width // 2)
    )
    first = (a == b) | (a == c) | (a == d)
    second = ~first & ((b == c) | (b == d))
    rest = ~first & ~second & (c == d)
    return np.where(second, b, np.where(rest, c, a))
