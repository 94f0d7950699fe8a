"""Houses with windows, roofs and shops, and what stands between gardens and the pavement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minseg.images.scene_canvas import (
    BACK,
    BUILDING,
    FENCE,
    LEFT,
    RIGHT,
    TREE,
    UP,
    Canvas,
    Colour,
    Point,
    Thing,
    mix,
    pick,
    scaled,
)

WALLS = (
    (168, 92, 70), (150, 84, 66), (186, 118, 88), (124, 70, 58),  # brick
    (206, 186, 148), (216, 204, 176), (190, 172, 140), (226, 220, 206),  # stone and plaster
    (176, 172, 166), (142, 144, 148), (118, 120, 126),  # concrete
    (222, 196, 150), (198, 150, 120), (160, 178, 180), (230, 208, 196),  # paint
)  # fmt: skip
ROOFS = ((96, 78, 72), (74, 76, 84), (122, 80, 64), (88, 88, 90))
TRIMS = ((236, 234, 228), (214, 206, 190), (78, 74, 72), (196, 190, 180))
SHOPS = ((150, 34, 40), (28, 66, 116), (24, 92, 70), (48, 46, 50), (196, 146, 40), (92, 48, 104))
GLASS, LAMPLIGHT = (62, 74, 88), (246, 214, 140)

#: Windows lower than this, in pixels of the canvas, are left out.
SMALLEST = 3.0


@dataclass(frozen=True)
class House:
    """How a house looks. ``shine`` (floors, bays) is how much of sky or lamp each window shows,
    ``course`` the distance in metres between the lines that courses of stone draw on the wall.
    """

    wall: Colour
    trim: Colour
    roof: Colour
    ground_floor: float
    floors: int
    floor: float
    bay: float
    window: tuple[float, float]
    shop: Colour | None
    pitched: bool
    chimneys: int
    side_windows: bool
    course: float
    shine: np.ndarray

    @property
    def eaves(self) -> float:
        """The height of the walls in metres."""
        return self.ground_floor + self.floors * self.floor + 0.6


def design_house(rng: np.random.Generator, floors: tuple[int, int]) -> House:
    """Some house with a number of upper floors from ``floors[0]`` to ``floors[1]``."""
    colour = pick(rng, WALLS)
    tint = rng.uniform(-10, 10, 3)
    upper = int(rng.integers(floors[0], floors[1] + 1))
    return House(
        wall=(colour[0] + tint[0], colour[1] + tint[1], colour[2] + tint[2]),
        trim=pick(rng, TRIMS),
        roof=pick(rng, ROOFS),
        ground_floor=rng.uniform(3.0, 4.2),
        floors=upper,
        floor=rng.uniform(2.7, 3.4),
        bay=rng.uniform(2.0, 3.6),
        window=(rng.uniform(0.36, 0.72), rng.uniform(0.48, 0.66)),
        shop=pick(rng, SHOPS) if rng.random() < 0.5 else None,
        pitched=bool(rng.random() < 0.6) and upper < 4,
        chimneys=int(rng.integers(0, 3)),
        side_windows=bool(rng.random() < 0.5),
        course=rng.uniform(0.3, 0.9),
        shine=rng.random((12, 24)),
    )


@dataclass(frozen=True)
class Wall:
    """An upright wall from (across, ahead) ``start`` to ``end``, seen from a side ``normal``."""

    start: tuple[float, float]
    end: tuple[float, float]
    normal: Point

    @property
    def length(self) -> float:
        (a0, z0), (a1, z1) = self.start, self.end
        return float(np.hypot(a1 - a0, z1 - z0))

    def at(self, along: float, up: float) -> Point:
        """The point at a share ``along`` (0 to 1) of the wall's length."""
        (a0, z0), (a1, z1) = self.start, self.end
        return a0 + (a1 - a0) * along, up, z0 + (z1 - z0) * along

    def quad(self, left: float, right: float, bottom: float, top: float) -> list[Point]:
        return [
            self.at(left, bottom), self.at(right, bottom), self.at(right, top), self.at(left, top)
        ]  # fmt: skip


def house(
    rng: np.random.Generator,
    side: int,
    front: float,
    near: float,
    far: float,
    floors: tuple[int, int],
) -> Thing:
    """A house on the left (0) or right (1) between ``near`` and ``far``, its front facing the road
    ``front`` metres from the middle.
    """
    design = design_house(rng, floors)
    sign = 1 if side else -1
    depth = rng.uniform(8, 12)
    facade = Wall((sign * front, near), (sign * front, far), LEFT if side else RIGHT)
    gable = Wall((sign * front, near), (sign * (front + depth), near), BACK)

    def paint(canvas: Canvas) -> None:
        _paint_gable(canvas, design, gable)
        if design.pitched:
            _paint_roof(canvas, design, facade, sign * depth / 2)
        paint_facade(canvas, design, facade)

    outline = (facade.start, gable.end, (gable.end[0], far), facade.end)
    return Thing(far, paint, outline, design.eaves)


def closing_house(
    rng: np.random.Generator, across: float, width: float, ahead: float, floors: tuple[int, int]
) -> Thing:
    """A house at the end of the street that faces the camera."""
    design = design_house(rng, floors)
    wall = Wall((across - width / 2, ahead), (across + width / 2, ahead), BACK)

    def paint(canvas: Canvas) -> None:
        if design.pitched:
            top = design.eaves
            slope = [
                (wall.start[0], top, ahead), (wall.end[0], top, ahead),
                (wall.end[0] - 1, top + 3, ahead + 4), (wall.start[0] + 1, top + 3, ahead + 4),
            ]  # fmt: skip
            canvas.fill(slope, design.roof, BUILDING, UP)
        paint_facade(canvas, design, wall)

    return Thing(ahead, paint)


def paint_facade(canvas: Canvas, design: House, wall: Wall) -> None:
    """The wall, its cornice, a shop or a door, and rows of windows."""
    top = design.eaves
    canvas.fill(wall.quad(0, 1, 0, top), design.wall, BUILDING, wall.normal)
    _paint_courses(canvas, design, wall)
    canvas.fill(wall.quad(0, 1, 0, 0.5), scaled(design.wall, 0.72), BUILDING, wall.normal)
    canvas.fill(wall.quad(0, 1, top - 0.35, top), design.trim, BUILDING, wall.normal)
    if design.shop is not None:
        _paint_shop(canvas, design, wall, design.shop)
    else:
        _paint_windows(canvas, design, wall, 0, 0.4, design.ground_floor)
    for floor in range(design.floors):
        bottom = design.ground_floor + floor * design.floor
        _paint_windows(canvas, design, wall, floor + 1, bottom, bottom + design.floor)


def _paint_courses(canvas: Canvas, design: House, wall: Wall) -> None:
    """Thin lines along the wall, as far as they can be told apart."""
    if canvas.camera.pixels(design.course, wall.start[1]) < 4 * SMALLEST:
        return
    line = scaled(design.wall, 0.86)
    for i in range(1, int(design.eaves / design.course)):
        up = i * design.course
        canvas.fill(wall.quad(0, 1, up, up + 0.04), line, BUILDING, wall.normal)


def _paint_windows(
    canvas: Canvas, design: House, wall: Wall, row: int, bottom: float, top: float
) -> None:
    """One row of windows, each with a frame, a cross bar and a lighter sill."""
    bays = max(1, round(wall.length / design.bay))
    wide, tall = design.window
    middle, half = (bottom + top) / 2, (top - bottom) * tall / 2
    for bay in range(bays):
        left, right = (bay + 0.5 - wide / 2) / bays, (bay + 0.5 + wide / 2) / bays
        size = canvas.camera.pixels(2 * half, wall.at(left, 0)[2])
        if size < SMALLEST:
            continue
        edge = 0.07 / wall.length
        shine = float(design.shine[row % 12, bay % 24])
        glass, normal = _glass(canvas, shine, wall.normal)
        if row == 0 and design.shop is None and bay == bays // 2:
            door = scaled(_pick_by(SHOPS, shine), 0.9)
            canvas.fill(wall.quad(left, right, 0, middle + half), door, BUILDING, wall.normal)
            continue
        frame = wall.quad(left - edge, right + edge, middle - half - 0.07, middle + half + 0.07)
        canvas.fill(frame, design.trim, BUILDING, wall.normal)
        pane = wall.quad(left, right, middle - half, middle + half)
        canvas.fill(pane, glass, BUILDING, normal)
        if size < 6 * SMALLEST:
            continue
        lower = wall.quad(left, right, middle - half, middle - 0.2 * half)
        canvas.fill(lower, scaled(glass, 0.82), BUILDING, normal)
        bar = wall.quad(left, right, middle - 0.2 * half, middle - 0.2 * half + 0.06)
        canvas.fill(bar, design.trim, BUILDING, wall.normal)
        sill = wall.quad(left - edge, right + edge, middle - half - 0.2, middle - half - 0.05)
        canvas.fill(sill, mix(design.trim, (255, 255, 255), 0.3), BUILDING, wall.normal)


def _pick_by(choices: tuple[Colour, ...], share: float) -> Colour:
    """The choice at a ``share`` (0 to 1) of all of them."""
    return choices[int(share * len(choices)) % len(choices)]


def _glass(canvas: Canvas, shine: float, normal: Point) -> tuple[Colour, Point | None]:
    """A pane's colour: dark, a reflection of the sky, or lamplight, which needs no light."""
    if shine > (0.6 if canvas.light.is_night else 0.97):
        return LAMPLIGHT, None
    return mix(GLASS, canvas.light.haze, 0.55 * shine**2), normal


def _paint_shop(canvas: Canvas, design: House, wall: Wall, colour: Colour) -> None:
    """A shop window with posts, a door, a sign board above it."""
    top = design.ground_floor
    canvas.fill(wall.quad(0.02, 0.98, 0, top), scaled(colour, 0.8), BUILDING, wall.normal)
    bays = max(2, round(wall.length / 2.4))
    for bay in range(bays):
        left, right = (bay + 0.08) / bays * 0.94 + 0.03, (bay + 0.92) / bays * 0.94 + 0.03
        shine = float(design.shine[11, bay % 24])
        glass, normal = _glass(canvas, shine, wall.normal)
        bottom = 0.1 if bay == bays // 2 else 0.6
        canvas.fill(wall.quad(left, right, bottom, top - 1.0), glass, BUILDING, normal)
        goods = mix(_pick_by(SHOPS, shine), glass, 0.5)
        canvas.fill(wall.quad(left, right, bottom, bottom + shine), goods, BUILDING, normal)
    canvas.fill(wall.quad(0.01, 0.99, top - 0.85, top - 0.1), colour, BUILDING, wall.normal)
    letters = mix(colour, (255, 250, 235), 0.8)
    name = wall.quad(0.3, 0.7, top - 0.6, top - 0.35)
    canvas.fill(name, letters, BUILDING, wall.normal)


def _paint_gable(canvas: Canvas, design: House, wall: Wall) -> None:
    """The end wall, with the roof's triangle on it."""
    outline = wall.quad(0, 1, 0, design.eaves)
    if design.pitched:
        outline.insert(3, wall.at(0.5, design.eaves + 3))
    canvas.fill(outline, scaled(design.wall, 0.92), BUILDING, wall.normal)
    _paint_courses(canvas, design, wall)
    for floor in range(design.floors if design.side_windows else 0):
        bottom = design.ground_floor + floor * design.floor
        _paint_windows(canvas, design, wall, floor + 6, bottom, bottom + design.floor)


def _paint_roof(canvas: Canvas, design: House, wall: Wall, inwards: float) -> None:
    """The slope of the roof above a wall, and chimneys on its ridge."""
    (across, near), (_, far) = wall.start, wall.end
    top, ridge, middle = design.eaves, design.eaves + 3, across + inwards
    for i in range(design.chimneys):
        z = near + (i + 0.5) / design.chimneys * (far - near)
        for colour, low, high, half in ((design.wall, 0, 1.3, 0.5), (ROOFS[2], 1.3, 1.7, 0.15)):
            stack = [
                (middle, ridge + low - 0.4, z - half), (middle, ridge + low - 0.4, z + half),
                (middle, ridge + high, z + half), (middle, ridge + high, z - half),
            ]  # fmt: skip
            canvas.fill(stack, colour, BUILDING, wall.normal)
            front = [(middle + x, y, z - half) for x, y in (
                (-half, ridge + low - 0.4), (half, ridge + low - 0.4),
                (half, ridge + high), (-half, ridge + high),
            )]  # fmt: skip
            canvas.fill(front, scaled(colour, 0.9), BUILDING, BACK)
    slope = [(across, top, near), (across, top, far), (middle, ridge, far), (middle, ridge, near)]
    canvas.fill(slope, design.roof, BUILDING, UP)


def fence(
    rng: np.random.Generator, across: float, near: float, length: float, normal: Point, kind: str
) -> list[Thing]:
    """Panels of a fence along the road: "planks", "mesh", "railing" or "guard" (at the kerb)."""
    colour = {
        "planks": (134, 98, 66),
        "mesh": (120, 132, 126),
        "railing": (62, 66, 70),
        "guard": (150, 154, 158),
    }[kind]
    shade = rng.uniform(0.75, 1.2)
    tall = {"planks": 1.8, "mesh": 2.0, "railing": 1.3, "guard": 1.05}[kind]
    panel = 2.0

    def piece(z: float) -> Thing:
        wall = Wall((across, z), (across, z + panel), normal)

        def paint(canvas: Canvas) -> None:
            _paint_panel(canvas, wall, tall, scaled(colour, shade), kind)

        outline = ((across, z), (across + 0.05, z), (across + 0.05, z + panel), (across, z + panel))
        return Thing(z if kind == "guard" else z + panel, paint, outline, tall * 0.7)

    return [piece(near + i * panel) for i in range(int(length / panel))]


def _paint_panel(canvas: Canvas, wall: Wall, tall: float, colour: Colour, kind: str) -> None:
    bars = 10 if kind != "guard" else 8
    if kind == "planks":
        canvas.fill(wall.quad(0, 1, 0, tall), colour, FENCE, wall.normal)
        for i in range(bars):
            plank = wall.quad(i / bars, (i + 0.15) / bars, 0, tall)
            canvas.fill(plank, scaled(colour, 0.7), FENCE, wall.normal)
    else:
        share = 0.55 if kind == "mesh" else 0.4
        canvas.veil(wall.quad(0, 1, 0.08, tall), colour, FENCE, share, wall.normal)
        if kind != "mesh" and canvas.camera.pixels(0.1, wall.start[1]) > 2:
            for i in range(bars):
                bar = [wall.at(i / bars, 0.1), wall.at(i / bars, tall)]
                canvas.stroke(bar, 0.03, scaled(colour, 0.85), FENCE, wall.normal)
    for up in (0.12, tall):
        canvas.stroke([wall.at(0, up), wall.at(1, up)], 0.06, colour, FENCE, wall.normal)
    canvas.stroke([wall.at(0, 0), wall.at(0, tall)], 0.09, scaled(colour, 0.8), FENCE, wall.normal)


def garden_wall(rng: np.random.Generator, across: float, near: float, length: float,
                normal: Point) -> list[Thing]:  # fmt: skip
    """A low wall of brick with a hedge on top, in pieces."""
    brick, tall = pick(rng, WALLS[:4]), rng.uniform(0.6, 1.4)
    hedge, green = rng.uniform(0.3, 1.0), (58, 88, 40)
    piece = 2.0

    def part(z: float) -> Thing:
        wall = Wall((across, z), (across, z + piece), normal)
        steps = rng.uniform(0, 0.25, 9)

        def paint(canvas: Canvas) -> None:
            rim = [wall.at(i / 8, tall + hedge + steps[i]) for i in range(9)]
            canvas.fill([wall.at(1, tall), wall.at(0, tall), *rim], green, TREE, wall.normal)
            inner = [wall.at(i / 8, tall + 0.6 * hedge + steps[8 - i]) for i in range(8, -1, -1)]
            canvas.fill(rim + inner, scaled(green, 1.25), TREE, wall.normal)
            canvas.fill(wall.quad(0, 1, 0, tall), brick, BUILDING, wall.normal)
            cap = wall.quad(0, 1, tall - 0.1, tall)
            canvas.fill(cap, scaled(brick, 1.2), BUILDING, wall.normal)

        return Thing(z + piece, paint)

    return [part(near + i * piece) for i in range(int(length / piece))]
