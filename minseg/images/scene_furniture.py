"""What stands in a street: trees, lamps, signs, traffic lights and bollards."""

from __future__ import annotations

import math

import numpy as np

from minseg.images.scene_canvas import (
    LEFT,
    POLE,
    SIGN,
    TREE,
    Canvas,
    Colour,
    Point,
    Thing,
    box_outline,
    mix,
    pick,
    scaled,
)

GREENS = (
    (74, 108, 46),
    (92, 120, 52),
    (58, 92, 46),
    (110, 126, 58),
    (150, 120, 50),
    (126, 138, 70),
)
BARK = (88, 74, 62)
STEEL = ((118, 122, 126), (70, 76, 76), (150, 152, 152), (46, 60, 52))

#: Outlines of tufts of leaves, a few for all trees: (right, up) of radius about 1.
_corners = np.random.default_rng(5).uniform(0.55, 1.25, (12, 9))
TUFTS = tuple(
    tuple((r * math.cos(i * 2 * math.pi / 9), r * math.sin(i * 2 * math.pi / 9))
          for i, r in enumerate(radii))
    for radii in _corners.tolist()
)  # fmt: skip


def tree(rng: np.random.Generator, across: float, ahead: float, tall: float) -> Thing:
    """A tree in leaf: a trunk and a crown of tufts, lighter towards the sun and the sky."""
    green, lean = pick(rng, GREENS), rng.uniform(-0.03, 0.03) * tall
    radius, trunk = tall * rng.uniform(0.26, 0.36), tall * rng.uniform(0.22, 0.36)
    tufts = _crown(rng, int(np.clip(3000 / ahead, 24, 220)))

    def paint(canvas: Canvas) -> None:
        crown = (tall + trunk) / 2
        foot, fork = (across, 0.0, ahead), (across + lean, crown, ahead)
        canvas.stroke([foot, fork], 0.035 * tall, BARK, TREE)
        for side in (-1, 1):
            tip = (across + side * radius * 0.5, crown + 0.2 * radius, ahead)
            canvas.stroke([(across + lean / 2, trunk, ahead), tip], 0.02 * tall, BARK, TREE)
        sun = canvas.light.towards_sun
        for (x, y, z, size), outline in tufts:
            tone = 0.92 + 0.30 * y + 0.16 * (x * sun[0] + z * sun[2]) - 0.10 * z
            size *= radius
            at = (across + lean + x * radius, ahead)
            middle = crown + y * (tall - trunk) / 2
            leaves = [(size * right, middle + size * up) for right, up in outline]
            canvas.flat(at, leaves, scaled(green, tone), TREE, (0.0, 0.55, -0.6))

    footprint = box_outline(across, ahead - 0.2, 0.4, 0.4)
    return Thing(ahead, paint, footprint, trunk)


def _crown(
    rng: np.random.Generator, count: int
) -> list[tuple[tuple[float, ...], tuple[tuple[float, float], ...]]]:
    """Tufts in a ball of radius 1, the farthest first: their middle (right, up, ahead), size and
    outline. Large dark ones fill it, small ones lie on its surface.
    """
    inside = rng.normal(0, 1, (220, 3))[:count]
    inside /= np.linalg.norm(inside, axis=1, keepdims=True)
    is_small = np.arange(count) % 3 > 0
    reach = np.where(is_small, 0.86, 0.55) + rng.uniform(-0.12, 0.12, 220)[:count]
    sizes = np.where(is_small, 0.17, 0.36) * (1.0 if count > 90 else 1.35)
    middles = inside * reach[:, None]
    middles[:, 2] -= 0.4 * (is_small & (middles[:, 2] < 0))
    tufts = np.concatenate([middles, sizes[:, None]], 1)
    order = np.argsort(0.4 * middles[:, 1] - middles[:, 2], kind="stable")
    return [(tuple(tufts[i].tolist()), TUFTS[i % len(TUFTS)]) for i in order.tolist()]


def bare_tree(rng: np.random.Generator, across: float, ahead: float, tall: float) -> Thing:
    """A tree in winter: branches that fork, and a haze of twigs at their ends."""
    bark = scaled(BARK, rng.uniform(0.6, 1.0))
    branches: list[tuple[Point, Point, float]] = []
    tips: list[Point] = []

    def grow(start: Point, angle: float, length: float, width: float, depth: int) -> None:
        end = (start[0] + length * math.sin(angle), start[1] + length * math.cos(angle), ahead)
        branches.append((start, end, width))
        if depth == 0:
            tips.append(end)
            return
        for fork, sway in zip((-0.5, 0.02, 0.5), rng.uniform(-0.15, 0.15, 3).tolist(), strict=True):
            grow(end, angle + fork + sway, length * 0.68, width * 0.6, depth - 1)

    grow((across, 0.0, ahead), rng.uniform(-0.05, 0.05), tall * 0.36, tall * 0.035, 3)

    def paint(canvas: Canvas) -> None:
        for i, (x, y, z) in enumerate(tips):
            radius = 0.08 * tall
            twigs = [(x + radius * r, y + radius * u, z) for r, u in TUFTS[i % len(TUFTS)]]
            canvas.veil(twigs, bark, TREE, 0.4, (0.0, 0.3, -0.5))
        for start, end, width in branches:
            canvas.stroke([start, end], width, bark, TREE)

    return Thing(ahead, paint, box_outline(across, ahead - 0.2, 0.4, 0.4), tall * 0.5)


def lamp(rng: np.random.Generator, across: float, ahead: float, towards_road: int) -> Thing:
    """A street lamp: a tapering pole, an arm over the road (direction -1 or 1) and its head."""
    steel, tall, arm = pick(rng, STEEL), rng.uniform(5.5, 9), rng.uniform(0.8, 2.0)

    def paint(canvas: Canvas) -> None:
        canvas.stroke([(across, 0.0, ahead), (across, 1.2, ahead)], 0.24, steel, POLE)
        canvas.stroke([(across, 1.0, ahead), (across, tall, ahead)], 0.15, steel, POLE)
        reach = across + towards_road * arm
        canvas.stroke([(across, tall, ahead), (reach, tall + 0.35, ahead)], 0.1, steel, POLE)
        head = [(-0.1, 0.2), (0.7, 0.3), (0.7, 0.5), (-0.1, 0.45)]
        outline = [(towards_road * x, tall + y) for x, y in head]
        colour: Colour = (255, 236, 180) if canvas.light.is_night else scaled(steel, 0.8)
        canvas.flat((reach, ahead), outline, colour, POLE, None if canvas.light.is_night else LEFT)

    return Thing(ahead, paint, box_outline(across, ahead, 0.2, 0.2), tall)


def bollard(rng: np.random.Generator, across: float, ahead: float) -> Thing:
    """A post at the kerb."""
    colour = pick(rng, ((60, 62, 64), (44, 46, 48), (196, 192, 180)))

    def paint(canvas: Canvas) -> None:
        canvas.stroke([(across, 0.05, ahead), (across, 0.95, ahead)], 0.18, colour, POLE)
        canvas.stroke([(across, 0.75, ahead), (across, 0.82, ahead)], 0.19, (220, 216, 206), POLE)

    return Thing(ahead, paint, box_outline(across, ahead, 0.2, 0.2), 0.9)


def _circle(radius: float) -> list[tuple[float, float]]:
    return [(radius * math.cos(i * math.pi / 10), radius * math.sin(i * math.pi / 10))
            for i in range(20)]  # fmt: skip


_TRIANGLE = [(-0.45, -0.3), (0.45, -0.3), (0.0, 0.5)]
_BOARD = [(-0.6, -0.34), (0.6, -0.34), (0.6, 0.34), (-0.6, 0.34)]
_PLATE = [(-0.3, -0.4), (0.3, -0.4), (0.3, 0.4), (-0.3, 0.4)]
_BAR = [(-0.25, -0.07), (0.25, -0.07), (0.25, 0.07), (-0.25, 0.07)]
_RED, _BLUE, _GREEN, _WHITE = (196, 32, 38), (34, 78, 158), (22, 106, 74), (238, 238, 234)
_BLACK = (40, 40, 42)


def _smaller(outline: list[tuple[float, float]], share: float) -> list[tuple[float, float]]:
    return [(x * share, y * share) for x, y in outline]


#: Signs: layers of an outline (right, up, in metres) and a colour, the lowest first.
SIGNS: tuple[tuple[tuple[list[tuple[float, float]], Colour], ...], ...] = (
    ((_circle(0.42), _RED), (_circle(0.3), _WHITE), (_smaller(_BAR, 0.8), _BLACK)),
    ((_circle(0.42), _RED), (_BAR, _WHITE)),
    ((_circle(0.42), _BLUE), (_smaller(_TRIANGLE, 0.5), _WHITE)),
    ((_TRIANGLE, _RED), (_smaller(_TRIANGLE, 0.66), _WHITE), (_smaller(_PLATE, 0.25), _BLACK)),
    ((_BOARD, _WHITE), (_smaller(_BOARD, 0.92), _GREEN), (_smaller(_BAR, 2.2), _WHITE)),
    ((_BOARD, _WHITE), (_smaller(_BOARD, 0.92), _BLUE), (_smaller(_BAR, 2.0), _WHITE)),
    ((_PLATE, _WHITE), (_smaller(_PLATE, 0.85), _BLUE), (_smaller(_PLATE, 0.4), _WHITE)),
    ((_PLATE, (226, 190, 52)), (_smaller(_BAR, 0.9), _BLACK)),
)


def sign(rng: np.random.Generator, across: float, ahead: float) -> Thing:
    """A traffic sign or two on a post."""
    steel, height = pick(rng, STEEL), rng.uniform(2.3, 3.0)
    boards = [pick(rng, SIGNS) for _ in range(1 + int(rng.random() < 0.4))]
    turn, grow = rng.uniform(0.8, 1.0), rng.uniform(0.9, 1.25)

    def paint(canvas: Canvas) -> None:
        top = height + 1.0 * grow * (len(boards) - 1)
        canvas.stroke([(across, 0.0, ahead), (across, top, ahead)], 0.11, steel, POLE)
        for i, layers in enumerate(boards):
            middle = height + 0.95 * grow * i
            for outline, colour in layers:
                placed = [(grow * turn * x, middle + grow * y) for x, y in outline]
                canvas.flat((across, ahead - 0.05), placed, colour, SIGN)

    return Thing(ahead, paint, box_outline(across, ahead, 0.15, 0.15), height + 0.4)


def traffic_light(rng: np.random.Generator, across: float, ahead: float) -> Thing:
    """A traffic light: three lamps, one of them lit, in a black box with a light rim."""
    lit, height = pick(rng, (0, 0, 1, 2, 2)), rng.uniform(2.3, 2.7)
    steel = pick(rng, STEEL)
    colours: tuple[Colour, ...] = ((255, 58, 44), (255, 180, 40), (60, 240, 130))

    def paint(canvas: Canvas) -> None:
        canvas.stroke([(across, 0.0, ahead), (across, height + 1.0, ahead)], 0.14, steel, POLE)
        for half, low, high, tone in (
            (0.3, -0.1, 1.25, (188, 188, 184)),
            (0.25, -0.05, 1.2, (28, 30, 30)),
        ):
            box = [
                (-half, height + low),
                (half, height + low),
                (half, height + high),
                (-half, height + high),
            ]
            canvas.flat((across, ahead - 0.1), box, tone, SIGN)
        for i, colour in enumerate(colours):
            up = height + 0.98 - 0.4 * i
            lens = (across, up, ahead - 0.12)
            if i == lit:
                canvas.disc(lens, 0.15, colour, SIGN, None)
            else:
                canvas.disc(lens, 0.15, mix(colour, (26, 26, 26), 0.82), SIGN)

    return Thing(ahead, paint, box_outline(across, ahead, 0.2, 0.2), height + 1)
