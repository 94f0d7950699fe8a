"""What moves in a street, or could: vehicles, pedestrians and bicycles."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from minseg.images.scene_canvas import (
    BACK,
    BIKE,
    LEFT,
    PEDESTRIAN,
    RIGHT,
    UP,
    VEHICLE,
    Canvas,
    Colour,
    Point,
    Thing,
    box_outline,
    mix,
    pick,
    scaled,
)

PAINTS = (
    (196, 200, 204), (206, 208, 210), (236, 236, 234), (52, 54, 58), (40, 42, 48), (122, 126, 132),
    (168, 32, 34), (150, 26, 40), (34, 62, 128), (46, 92, 160), (28, 78, 60), (188, 172, 140),
    (214, 150, 40), (96, 40, 52), (84, 112, 132),
)  # fmt: skip
BUS_PAINTS = ((184, 34, 36), (36, 92, 152), (222, 222, 216), (46, 120, 84), (226, 170, 44))
#: From coordinates of a vehicle or bicycle to a point of the world.
Place: TypeAlias = Callable[..., Point]

GLASS, TYRE, RUBBER = (44, 54, 64), (26, 26, 28), (48, 48, 50)


@dataclass(frozen=True)
class Body:
    """A vehicle seen from its side, tail first: an ``outline`` of (along, up) over the roof, what
    each of its edges is ("paint", "glass", "tail" or "nose"), and the side windows.
    """

    width: float
    outline: tuple[tuple[float, float], ...]
    edges: tuple[str, ...]
    windows: tuple[tuple[tuple[float, float], ...], ...]
    wheel: float
    narrows: float

    @cached_property
    def length(self) -> float:
        return self.outline[-1][0]

    @cached_property
    def tall(self) -> float:
        return max(up for _, up in self.outline)

    def half_width(self, up: float) -> float:
        """Half the width at a height: cabins are narrower at the roof."""
        belt = 0.62 * self.tall
        above = max(0.0, up - belt) / (self.tall - belt)
        return self.width / 2 * (1 - self.narrows * above)


HATCHBACK = Body(
    1.72,
    ((0, 0.3), (0.02, 0.9), (0.4, 1.4), (0.8, 1.47), (2.1, 1.44),
     (2.95, 0.98), (3.9, 0.8), (4.05, 0.3)),
    ("tail", "glass", "paint", "paint", "glass", "paint", "nose"),
    (((0.55, 0.97), (0.85, 1.34), (1.6, 1.37), (1.6, 0.96)),
     ((1.7, 0.96), (1.7, 1.37), (2.1, 1.35), (2.75, 0.97))),
    0.31, 0.2,
)  # fmt: skip
SALOON = Body(
    1.78,
    ((0, 0.3), (0.03, 0.95), (0.75, 1.0), (1.4, 1.4), (2.6, 1.42),
     (3.45, 0.98), (4.5, 0.8), (4.65, 0.3)),
    ("tail", "paint", "glass", "paint", "glass", "paint", "nose"),
    (((1.0, 1.0), (1.5, 1.32), (2.1, 1.34), (2.1, 0.98)),
     ((2.2, 0.98), (2.2, 1.34), (2.6, 1.33), (3.25, 0.97))),
    0.32, 0.22,
)  # fmt: skip
ESTATE = Body(
    1.85,
    ((0, 0.38), (0.02, 1.0), (0.3, 1.62), (0.7, 1.72), (2.5, 1.7),
     (3.3, 1.14), (4.3, 0.98), (4.45, 0.38)),
    ("tail", "glass", "paint", "paint", "glass", "paint", "nose"),
    (((0.4, 1.1), (0.6, 1.58), (1.7, 1.6), (1.7, 1.1)),
     ((1.8, 1.1), (1.8, 1.6), (2.5, 1.58), (3.1, 1.12))),
    0.36, 0.16,
)  # fmt: skip
VAN = Body(
    1.95,
    ((0, 0.36), (0, 1.2), (0.03, 1.8), (0.1, 2.15), (3.6, 2.15),
     (4.35, 1.25), (5.0, 1.05), (5.1, 0.36)),
    ("tail", "glass", "paint", "paint", "glass", "paint", "nose"),
    (((3.0, 1.25), (3.0, 1.85), (3.5, 1.85), (4.1, 1.25)),),
    0.34, 0.06,
)  # fmt: skip
BUS = Body(
    2.5,
    ((0, 0.4), (0, 1.3), (0, 2.5), (0.1, 3.05), (10.5, 3.05),
     (10.6, 2.6), (10.7, 1.2), (10.7, 0.4)),
    ("tail", "glass", "paint", "paint", "paint", "glass", "nose"),
    tuple(
        tuple((0.4 + 1.7 * i + a, u) for a, u in ((0, 1.3), (0, 2.4), (1.55, 2.4), (1.55, 1.3)))
        for i in range(6)
    ),
    0.46, 0.03,
)  # fmt: skip

CARS = (HATCHBACK, HATCHBACK, SALOON, SALOON, ESTATE, VAN)


def vehicle(
    rng: np.random.Generator, across: float, ahead: float, *, oncoming: bool, body: Body
) -> Thing:
    """A vehicle whose near end is ``ahead`` metres away: its tail, or its nose if ``oncoming``."""
    paint_colour = pick(rng, BUS_PAINTS if body is BUS else PAINTS)
    brakes = bool(rng.random() < 0.4)
    length = body.length

    def place(along: float, side: float, up: float) -> Point:
        z = length - along if oncoming else along
        return across + side * body.half_width(up), up, ahead + z

    def paint(canvas: Canvas) -> None:
        _paint_tyres(canvas, body, across, ahead)
        edges = list(zip(body.outline, body.outline[1:], body.edges, strict=False))
        for (a0, u0), (a1, u1), kind in edges if oncoming else reversed(edges):
            strip = [place(a0, -1, u0), place(a0, 1, u0), place(a1, 1, u1), place(a1, -1, u1)]
            if oncoming:
                strip.reverse()
            _paint_strip(canvas, strip, kind, paint_colour, abs(u1 - u0) < 0.35 * abs(a1 - a0))
        for side in (-1, 1):
            _paint_side(canvas, body, place, side, paint_colour, oncoming)
        _paint_end(canvas, body, (across, ahead - 0.02), paint_colour, oncoming, brakes)

    outline = box_outline(across, ahead + 0.1, body.width * 0.96, length - 0.2)
    return Thing(ahead, paint, outline, body.tall * 0.9)


def _paint_tyres(canvas: Canvas, body: Body, across: float, ahead: float) -> None:
    """The tyres seen under the far and the near end, and the darkness between them."""
    half, low = body.width / 2, body.outline[0][1]
    for z in (ahead + body.length - 0.6, ahead + 0.35):
        for side in (-1, 1):
            inner, outer = side * (half - 0.24), side * (half - 0.03)
            tyre = [(inner, 0.0), (outer, 0.0), (outer, low + 0.2), (inner, low + 0.2)]
            canvas.flat((across, z), tyre, TYRE, VEHICLE)
        beam = [
            (-half + 0.2, 0.2),
            (half - 0.2, 0.2),
            (half - 0.2, low + 0.2),
            (-half + 0.2, low + 0.2),
        ]
        canvas.flat((across, z), beam, (30, 30, 32), VEHICLE)


def _paint_strip(
    canvas: Canvas, strip: list[Point], kind: str, colour: Colour, is_level: bool
) -> None:
    """A part of the body from side to side: roof, bonnet, window, tail or nose."""
    normal = UP if is_level else (0.0, 0.5, -0.85)
    if kind == "glass":
        if canvas.face(strip, scaled(colour, 0.9), VEHICLE, normal):
            canvas.fill(_inset(strip, 0.08), mix(GLASS, canvas.light.haze, 0.25), VEHICLE, normal)
            low, high = sorted((strip[:2], strip[2:]), key=lambda edge: edge[0][1])
            lower = [low[0], low[1], mix(low[1], high[0], 0.5), mix(low[0], high[1], 0.5)]
            canvas.fill(_inset(lower, 0.12), GLASS, VEHICLE, normal)
    else:
        canvas.face(strip, colour, VEHICLE, normal if kind == "paint" else BACK)


def _inset(points: list[Point], share: float) -> list[Point]:
    """The polygon drawn together towards its middle."""
    n = len(points)
    middle = (sum(p[0] for p in points) / n, sum(p[1] for p in points) / n,
              sum(p[2] for p in points) / n)  # fmt: skip
    return [mix(p, middle, share) for p in points]


def _paint_side(
    canvas: Canvas, body: Body, place: Place, side: int, colour: Colour, oncoming: bool
) -> None:
    """The side of the body that faces the camera, with windows, door gaps and wheels."""
    normal = LEFT if side < 0 else RIGHT
    outline = [place(along, side, up) for along, up in body.outline]
    if (side < 0) == oncoming:
        outline.reverse()
    if not canvas.face(outline, colour, VEHICLE, normal):
        return
    sill = [place(a, side, u) for a, u in (
        (0.1, 0.3), (body.length - 0.1, 0.3), (body.length - 0.1, 0.42), (0.1, 0.42))]  # fmt: skip
    canvas.fill(sill, scaled(colour, 0.55), VEHICLE, normal)
    crease = [place(a, side, 0.6 * body.outline[1][1] + 0.2) for a in (0.1, body.length - 0.1)]
    canvas.stroke(crease, 0.03, scaled(colour, 0.75), VEHICLE, normal)
    for window in body.windows:
        pane = [place(along, side, up) for along, up in window]
        canvas.fill(pane, mix(GLASS, canvas.light.haze, 0.15), VEHICLE, normal)
    for along in (0.2 * body.length, 0.8 * body.length):
        for radius, tone in (
            (body.wheel * 1.15, RUBBER),
            (body.wheel, TYRE),
            (body.wheel * 0.6, (150, 152, 156)),
        ):
            rim = [
                place(along + radius * math.cos(t), side, body.wheel + radius * math.sin(t))
                for t in (i * math.pi / 8 for i in range(16))
            ]
            rim = [(a, max(u, 0.0), z) for a, u, z in rim]
            canvas.fill(rim, tone, VEHICLE, normal)


def _paint_end(
    canvas: Canvas,
    body: Body,
    at: tuple[float, float],
    colour: Colour,
    oncoming: bool,
    brakes: bool,
) -> None:
    """Bumper, number plate and lamps of the near end."""
    low, belt = body.outline[0][1], body.outline[1 if not oncoming else -2][1]
    half = body.width / 2

    def box(left: float, right: float, bottom: float, top: float) -> list[tuple[float, float]]:
        return [(left, bottom), (right, bottom), (right, top), (left, top)]

    tall = belt - low
    night = canvas.light.is_night
    canvas.flat(at, box(-half, half, low - 0.06, low + 0.32 * tall), scaled(colour, 0.62), VEHICLE)
    canvas.flat(at, box(-half, half, low - 0.1, low), (34, 34, 36), VEHICLE)
    plate = (236, 236, 228) if oncoming else (226, 190, 60)
    middle = low + (0.2 if oncoming else 0.5) * tall
    canvas.flat(at, box(-0.26, 0.26, middle - 0.06, middle + 0.06), plate, VEHICLE)
    if oncoming:
        grille = box(-0.45 * half, 0.45 * half, low + 0.42 * tall, low + 0.7 * tall)
        canvas.flat(at, grille, (36, 38, 42), VEHICLE)
    lamp: Colour = (250, 246, 226) if oncoming else (196, 30, 26) if not brakes else (255, 52, 40)
    glows = (oncoming and night) or (not oncoming and (brakes or night))
    for side in (-1, 1):
        left, right = sorted((side * 0.62 * half, side * 0.97 * half))
        outline = box(left, right, low + 0.46 * tall, low + 0.78 * tall)
        canvas.flat(at, outline, lamp, VEHICLE, None if glows else BACK)


TOPS = (
    (44, 48, 60), (60, 60, 64), (120, 40, 44), (54, 84, 120), (206, 202, 194), (92, 100, 72),
    (170, 130, 70), (150, 84, 110), (70, 50, 44), (40, 110, 104), (200, 90, 40),
)  # fmt: skip
TROUSERS = ((46, 56, 82), (38, 38, 42), (92, 84, 74), (70, 72, 78), (120, 108, 92))
SKINS = ((226, 184, 156), (206, 158, 126), (160, 112, 84), (110, 74, 54))
HAIRS = ((48, 34, 26), (92, 64, 40), (170, 132, 80), (30, 28, 28), (150, 146, 142))


def pedestrian(rng: np.random.Generator, across: float, ahead: float) -> Thing:
    """Somebody who walks or stands, seen from the front or from behind."""
    tall = rng.uniform(1.5, 1.9)
    top, trousers = pick(rng, TOPS), pick(rng, TROUSERS)
    skin, hair = pick(rng, SKINS), pick(rng, HAIRS)
    stride, swing = rng.uniform(-0.28, 0.28), rng.uniform(0.02, 0.12)
    from_behind, bag = bool(rng.random() < 0.5), bool(rng.random() < 0.3)
    coat = rng.uniform(0.40, 0.5)

    def paint(canvas: Canvas) -> None:
        def at(right: float, up: float, nearer: float = 0.0) -> Point:
            return across + right * tall / 1.75, up * tall, ahead - nearer

        for side in (-1, 1):
            foot = at(side * (0.06 + abs(stride) / 2), 0.03)
            knee = at(side * 0.09 + stride * 0.1, 0.27)
            canvas.stroke([at(side * 0.08, 0.52), knee, foot], 0.17, trousers, PEDESTRIAN)
            shoe = at(side * (0.08 + abs(stride) / 2), 0.02)
            canvas.stroke([foot, shoe], 0.12, (36, 32, 30), PEDESTRIAN)
            elbow = at(side * (0.24 + swing), 0.64)
            hand = at(side * (0.22 + swing), 0.5)
            canvas.stroke([at(side * 0.19, 0.8), elbow, hand], 0.11, scaled(top, 0.82), PEDESTRIAN)
            canvas.disc(hand, 0.05, skin, PEDESTRIAN)
        torso = [(-0.2, 0.82), (-0.09, 0.86), (0.09, 0.86), (0.2, 0.82), (0.18, 0.6), (0.19, coat),
                 (-0.19, coat), (-0.18, 0.6)]  # fmt: skip
        canvas.fill([at(x, y) for x, y in torso], top, PEDESTRIAN)
        light = [(-0.2, 0.82), (-0.09, 0.86), (-0.06, coat), (-0.18, 0.6)]
        canvas.fill([at(x, y) for x, y in light], scaled(top, 1.15), PEDESTRIAN)
        if bag:
            sack = [(-0.13, 0.82), (0.13, 0.82), (0.13, 0.6), (-0.13, 0.6)]
            canvas.fill([at(x, y) for x, y in sack], scaled(top, 0.5), PEDESTRIAN)
        canvas.stroke([at(0, 0.84), at(0, 0.9)], 0.1, scaled(skin, 0.85), PEDESTRIAN)
        canvas.disc(at(0, 0.945), 0.115, hair, PEDESTRIAN)
        if not from_behind:
            canvas.disc(at(0, 0.927), 0.092, skin, PEDESTRIAN)

    return Thing(ahead, paint, box_outline(across, ahead - 0.1, 0.45, 0.3), tall)


def bicycle(
    rng: np.random.Generator, across: float, ahead: float, *, ridden: bool, angle: float
) -> Thing:
    """A bicycle, with its rider or parked; ``angle`` 0 is along the road, pi/2 across it."""
    frame, top, trousers = pick(rng, PAINTS), pick(rng, TOPS), pick(rng, TROUSERS)
    if rng.random() < 0.3:
        top = (214, 226, 40)
    skin, helmet = pick(rng, SKINS), pick(rng, (*HAIRS, (220, 220, 216), (180, 40, 40)))
    pedal = rng.uniform(0, math.pi)
    right, forward = math.sin(angle), math.cos(angle)

    def at(along: float, up: float, side: float = 0.0) -> Point:
        return across + along * right + side * forward, up, ahead + along * forward

    def paint(canvas: Canvas) -> None:
        for wheel in (0.55, -0.55) if forward > 0 else (-0.55, 0.55):
            ring = [
                at(wheel + 0.33 * math.cos(t), 0.34 + 0.33 * math.sin(t))
                for t in (i * math.pi / 8 for i in range(17))
            ]
            if canvas.camera.pixels(1, ahead) > 40:
                canvas.veil(ring, (110, 110, 112), BIKE, 0.25, BACK)
            canvas.stroke(ring, 0.055, RUBBER, BIKE)
        seat, head, bottom = at(-0.2, 0.9), at(0.42, 0.92), at(-0.05, 0.32)
        rear, front = at(-0.55, 0.34), at(0.55, 0.34)
        handlebar = [at(0.42, 1.0, -0.25), at(0.42, 1.0, 0.25)]
        for bar in ([rear, bottom, head, seat, bottom], [head, front], [seat, rear], handlebar):
            canvas.stroke(bar, 0.05, frame, BIKE)
        if ridden:
            _paint_rider(canvas, at, pedal, (top, trousers, skin, helmet))

    return Thing(ahead, paint, box_outline(across, ahead - 0.4, 0.35, 0.8), 1.6 if ridden else 0.9)


def _paint_rider(canvas: Canvas, at: Place, pedal: float, colours: tuple[Colour, ...]) -> None:
    """Legs on the pedals, a back bent a little, arms to the handlebar and a head."""
    top, trousers, skin, helmet = colours
    for side, phase in ((-0.11, pedal), (0.11, pedal + math.pi)):
        foot = at(-0.05 + 0.15 * math.cos(phase), 0.32 + 0.15 * math.sin(phase), side)
        knee = at(0.22, 0.72 + 0.12 * math.sin(phase), side)
        canvas.stroke([at(-0.2, 0.98, side), knee, foot], 0.16, trousers, BIKE)
        canvas.disc(foot, 0.07, (40, 36, 34), BIKE)
    for side in (-0.2, 0.2):
        arm = [at(0.02, 1.42, side), at(0.15, 1.18, side * 1.3), at(0.42, 1.02, side)]
        canvas.stroke(arm, 0.1, scaled(top, 0.82), BIKE)
    hips, neck = at(-0.2, 0.95), at(0.02, 1.46)
    canvas.stroke([hips, neck], 0.26, top, BIKE)
    shoulders = [at(0.02, 1.42, -0.17), at(0.02, 1.42, 0.17)]
    canvas.stroke(shoulders, 0.16, top, BIKE)
    canvas.disc(at(0.08, 1.63), 0.11, skin, BIKE)
    canvas.disc(at(0.06, 1.67), 0.12, helmet, BIKE)
