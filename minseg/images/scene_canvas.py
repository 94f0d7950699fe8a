"""What generated scenes are painted with: a camera, light, and a canvas that knows both.

A point of the world is ``(across, up, ahead)`` in metres: to the right of the middle of the road,
above the ground, and along the road from the camera. The road bends, and what stands along it
bends with it, so a street is laid out as if it were straight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

#: Class indices of CamVid.
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, VEHICLE, PEDESTRIAN, BIKE, UNLABELED = (
    range(12)
)

Point: TypeAlias = tuple[float, float, float]
Colour: TypeAlias = tuple[float, float, float]

#: Red, green, blue and class index, 0 to 255.
Ink: TypeAlias = tuple[int, int, int, int]

#: Directions that surfaces face. Those of no direction (lamps) shine by themselves.
LEFT, RIGHT, UP, BACK = (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)

#: Nothing is nearer to the camera than this, in metres.
NEAR = 0.5

T = TypeVar("T")


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of ``choices``, each as likely as the next."""
    return choices[int(rng.integers(len(choices)))]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """``a`` with a ``share`` (0 to 1) of ``b``, both colours or both points."""
    return (
        a[0] + (b[0] - a[0]) * share,
        a[1] + (b[1] - a[1]) * share,
        a[2] + (b[2] - a[2]) * share,
    )


def scaled(colour: Colour, factor: float) -> Colour:
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along a road.

    ``column`` and ``row`` are where a straight road would vanish, ``focal`` is the focal length,
    all in pixels; ``roll`` is in radians and small. The camera stands ``across`` metres right of
    the middle of the road, ``eye`` metres above it; ``bend`` is the road's curvature in 1/m.
    """

    width: int
    height: int
    focal: float
    column: float
    row: float
    roll: float
    eye: float
    across: float
    bend: float

    def project(self, point: Point) -> tuple[float, float]:
        """Column and row of a point, in pixels. What lies behind the camera is moved before it."""
        across, up, ahead = point
        ahead = max(ahead, NEAR)
        scale = self.focal / ahead
        x = (across + 0.5 * self.bend * ahead * ahead - self.across) * scale
        y = (self.eye - up) * scale
        return self.column + x - self.roll * y, self.row + y + self.roll * x

    def pixels(self, metres: float, ahead: float) -> float:
        """How many pixels a length has at a distance."""
        return metres * self.focal / max(ahead, NEAR)

    def ahead_of_rows(self) -> np.ndarray:
        """How far ahead the ground lies in each row: (height,), infinite above the horizon."""
        below = np.arange(self.height) + 0.5 - self.row
        return np.where(below > 0, self.focal * self.eye / np.maximum(below, 1e-9), np.inf)


@dataclass(frozen=True)
class Light:
    """Light of a sun in direction ``towards_sun`` and of the sky, and the haze in the air.

    ``sun`` and ``ambient`` multiply colours, channel by channel; ``haze`` is the colour of what
    is far away, and ``visibility`` the distance in metres at which 63 % of a colour is gone.
    """

    towards_sun: Point
    sun: Colour
    ambient: Colour
    haze: Colour
    visibility: float
    is_night: bool

    @property
    def casts_shadows(self) -> bool:
        return sum(self.sun) > 0.6

    def on(self, normal: Point) -> Colour:
        """The light that a surface facing ``normal`` gets."""
        s = self.towards_sun
        facing = max(0.0, normal[0] * s[0] + normal[1] * s[1] + normal[2] * s[2])
        sky = 0.85 + 0.15 * normal[1]
        return tuple(a * sky + facing * b for a, b in zip(self.ambient, self.sun, strict=True))  # type: ignore[return-value]

    def faded(self, distance: float) -> float:
        """The share of haze at a distance."""
        return 1 - math.exp(-distance / self.visibility)


@dataclass(frozen=True)
class Thing:
    """Something that stands in the street: ``paint`` draws it.

    Things are painted from the largest ``ahead`` to the smallest. ``footprint`` is the outline
    on the ground of what throws the shadow, as ``(across, ahead)``, and ``tall`` its height.
    """

    ahead: float
    paint: Callable[[Canvas], None]
    footprint: tuple[tuple[float, float], ...] = ()
    tall: float = 0.0


def box_outline(
    across: float, ahead: float, width: float, length: float
) -> tuple[tuple[float, float], ...]:
    """A footprint ``width`` x ``length`` whose near side has its middle at the point given."""
    left, right, far = across - width / 2, across + width / 2, ahead + length
    return (left, ahead), (right, ahead), (right, far), (left, far)


class Canvas:
    """A picture and its labels, painted together: every stroke changes the same pixels of both.

    ``image`` is RGBA, the fourth channel being the class index.
    """

    def __init__(self, pixels: np.ndarray, camera: Camera, light: Light):
        self.camera, self.light = camera, light
        self.image = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self.image)
        self._lights: dict[Point | None, Colour] = {None: (1.0, 1.0, 1.0)}

    def sees(self, thing: Thing) -> bool:
        """Whether a thing may be within the picture: its shape or something as wide as tall."""
        if not thing.footprint:
            return True
        width = self.camera.width
        left, right = float(width), 0.0
        for across, ahead in thing.footprint:
            x, _ = self.camera.project((across, 0.0, ahead))
            margin = self.camera.pixels(0.5 * thing.tall + 0.3, ahead)
            left, right = min(left, x - margin), max(right, x + margin)
        return left < width and right > 0

    def replace(self, pixels: np.ndarray) -> None:
        """Go on painting on other pixels: height x width x 4, uint8."""
        self.image = Image.fromarray(pixels)
        self._draw = ImageDraw.Draw(self.image)

    def ink(self, colour: Colour, label: int, normal: Point | None, ahead: float) -> Ink:
        """A colour as it looks from ``ahead`` metres away; it shines if it faces no ``normal``."""
        if normal not in self._lights and normal is not None:
            self._lights[normal] = self.light.on(normal)
        light = self._lights[normal]
        lit = (colour[0] * light[0], colour[1] * light[1], colour[2] * light[2])
        r, g, b = mix(lit, self.light.haze, self.light.faded(ahead))
        return min(int(r), 255), min(int(g), 255), min(int(b), 255), label

    def fill(
        self, points: Sequence[Point], colour: Colour, label: int, normal: Point | None = BACK
    ) -> None:
        """Fill the polygon through ``points``."""
        ahead = points[0][2]
        self.polygon(points, self.ink(colour, label, normal, ahead))

    def polygon(self, points: Iterable[Point], ink: Ink) -> None:
        """Fill a polygon with a colour and label as they are."""
        project = self.camera.project
        self._draw.polygon([project(p) for p in points], fill=ink)

    def ellipse(self, box: tuple[float, float, float, float], ink: Ink) -> None:
        """Fill an ellipse given by its box in pixels: left, top, right, bottom."""
        self._draw.ellipse(box, fill=ink)

    def face(
        self, points: Sequence[Point], colour: Colour, label: int, normal: Point = BACK
    ) -> bool:
        """Fill a polygon if its front is seen, its points running anticlockwise; tell whether."""
        project = self.camera.project
        corners = [project(p) for p in points]
        if _area(corners) >= 0:
            return False
        self._draw.polygon(corners, fill=self.ink(colour, label, normal, points[0][2]))
        return True

    def flat(
        self,
        at: tuple[float, float],
        outline: Iterable[tuple[float, float]],
        colour: Colour,
        label: int,
        normal: Point | None = BACK,
    ) -> None:
        """Fill an ``outline`` of (right, up) that stands upright ``at`` (across, ahead)."""
        across, ahead = at
        self.fill([(across + x, y, ahead) for x, y in outline], colour, label, normal)

    def stroke(
        self,
        points: Sequence[Point],
        width: float,
        colour: Colour,
        label: int,
        normal: Point | None = BACK,
    ) -> None:
        """A line ``width`` metres thick through ``points``, one pixel at least, with round ends."""
        ahead = points[0][2]
        ink = self.ink(colour, label, normal, ahead)
        corners = [self.camera.project(p) for p in points]
        thick = self.camera.pixels(width, ahead)
        self._draw.line(corners, fill=ink, width=max(1, round(thick)), joint="curve")
        if thick > 3:
            for x, y in (corners[0], corners[-1]):
                r = thick / 2
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)

    def disc(
        self,
        centre: Point,
        radius: float,
        colour: Colour,
        label: int,
        normal: Point | None = BACK,
    ) -> None:
        """A disc that faces the camera."""
        x, y = self.camera.project(centre)
        r = self.camera.pixels(radius, centre[2])
        ink = self.ink(colour, label, normal, centre[2])
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)

    def veil(
        self, points: Sequence[Point], colour: Colour, label: int, share: float, normal: Point
    ) -> None:
        """Something that covers a ``share`` of each pixel of a polygon, such as wire mesh."""
        corners = [self.camera.project(p) for p in points]
        xs, ys = [x for x, _ in corners], [y for _, y in corners]
        left, top = max(0, int(min(xs))), max(0, int(min(ys)))
        right, bottom = (
            min(self.image.width, int(max(xs)) + 2),
            min(self.image.height, int(max(ys)) + 2),
        )
        if left >= right or top >= bottom:
            return
        mask = Image.new("1", (right - left, bottom - top))
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in corners], fill=1)
        behind = self.image.crop((left, top, right, bottom))
        ink = self.ink(colour, label, normal, points[0][2])
        veiled = Image.blend(behind, Image.new("RGBA", behind.size, ink), share)
        veiled.putalpha(label)
        self.image.paste(veiled, (left, top), mask)

    def shadows(self, things: Iterable[Thing]) -> np.ndarray:
        """How dark the ground is: height x width, 0 in full light to 255 right under a thing."""
        camera, sun = self.camera, self.light.towards_sun
        mask = Image.new("L", (camera.width // 2, camera.height // 2))
        draw = ImageDraw.Draw(mask)

        def ground(corners: Iterable[tuple[float, float]], value: int) -> None:
            pixels = [camera.project((across, 0.0, ahead)) for across, ahead in corners]
            draw.polygon([(x / 2, y / 2) for x, y in pixels], fill=value)

        standing = [thing for thing in things if thing.footprint]
        for thing in standing if self.light.casts_shadows else ():
            length = thing.tall / max(sun[1], 0.2)
            tip = [(a - sun[0] * length, z - sun[2] * length) for a, z in thing.footprint]
            ground(tip, 190)
            for i, corner in enumerate(thing.footprint):
                ground((thing.footprint[i - 1], corner, tip[i], tip[i - 1]), 190)
        for thing in standing:
            ground(thing.footprint, 235)
        blurred = mask.filter(ImageFilter.GaussianBlur(camera.height / 500))
        return np.asarray(blurred.resize((camera.width, camera.height), Image.Resampling.BILINEAR))


def _area(corners: Sequence[tuple[float, float]]) -> float:
    """Twice the area that the corners go round, positive if clockwise on the screen."""
    total = 0.0
    x0, y0 = corners[-1]
    for x1, y1 in corners:
        total += x0 * y1 - x1 * y0
        x0, y0 = x1, y1
    return total
