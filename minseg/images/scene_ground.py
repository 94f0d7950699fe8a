"""The sky, and the ground with what is painted on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minseg.images.scene_canvas import (
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    UP,
    Camera,
    Canvas,
    Colour,
    Ink,
    Light,
    pick,
    scaled,
)

#: Where strips along the road end, in metres, and how finely they follow its bend.
FAR = 600.0
STEPS = 24

WHITE, YELLOW = (232, 232, 226), (214, 176, 60)
ASPHALTS = ((118, 119, 124), (134, 132, 132), (104, 107, 114), (126, 121, 118))
PAVINGS = ((176, 170, 163), (166, 166, 168), (188, 174, 158), (154, 150, 149))
GRASS = (92, 122, 58)


@dataclass(frozen=True)
class Weather:
    """A kind of day: colours of the sky, light, clouds (0 to 1) and the sun's height (degrees)."""

    zenith: Colour
    horizon: Colour
    ambient: Colour
    sun: Colour
    clouds: tuple[float, float]
    elevation: tuple[float, float]
    visibility: tuple[float, float]
    is_night: bool = False

    def light(self, rng: np.random.Generator) -> Light:
        """Light of such a day, from some direction."""
        azimuth = rng.uniform(-math.pi, math.pi)
        elevation = math.radians(rng.uniform(*self.elevation))
        towards_sun = (
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
            math.cos(elevation) * math.cos(azimuth),
        )
        visibility = rng.uniform(*self.visibility)
        return Light(towards_sun, self.sun, self.ambient, self.horizon, visibility, self.is_night)


CLEAR = Weather(
    (72, 128, 205), (196, 218, 235), (0.56, 0.60, 0.67), (0.70, 0.61, 0.52),
    (0.0, 0.75), (30, 60), (350, 700),
)  # fmt: skip
BRIGHT = Weather(
    (206, 224, 242), (246, 248, 250), (0.62, 0.63, 0.66), (0.52, 0.46, 0.42),
    (0.2, 0.6), (25, 50), (220, 450),
)  # fmt: skip
OVERCAST = Weather(
    (158, 166, 176), (212, 216, 219), (0.92, 0.94, 0.96), (0.05, 0.05, 0.05),
    (0.6, 1.0), (40, 70), (160, 350),
)  # fmt: skip
DUSK = Weather(
    (66, 82, 116), (168, 160, 166), (0.56, 0.58, 0.66), (0.03, 0.03, 0.03),
    (0.3, 0.9), (20, 30), (200, 400), is_night=True,
)  # fmt: skip
GOLDEN = Weather(
    (104, 146, 200), (248, 218, 178), (0.54, 0.53, 0.58), (0.80, 0.64, 0.44),
    (0.1, 0.6), (14, 28), (160, 350),
)  # fmt: skip

#: The kinds of day, the frequent ones several times.
WEATHERS = (CLEAR, CLEAR, BRIGHT, BRIGHT, OVERCAST, OVERCAST, GOLDEN, DUSK)


def noise(rng: np.random.Generator, height: int, width: int, rows: int, columns: int) -> np.ndarray:
    """Smooth noise (height, width) between about -1 and 1, with ``rows`` x ``columns`` bumps."""
    grid = rng.uniform(-1, 1, (max(rows, 2), max(columns, 2))).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def paint_sky(rng: np.random.Generator, weather: Weather, camera: Camera) -> np.ndarray:
    """A picture full of sky and clouds: height x width x 4, uint8, labelled sky."""
    height, width = camera.height // 4 + 1, camera.width // 4 + 1
    above = np.linspace(camera.row, camera.row - camera.height, height) / camera.height
    above = np.clip(above, 0, 1)[:, None].astype(np.float32)
    share = (1 - np.exp(-3.5 * above))[..., None]
    sky = np.array(weather.horizon) + (np.array(weather.zenith) - weather.horizon) * share
    octaves = sum(noise(rng, height, width, 5 * 2**i, 3 * 2**i) / 1.7**i for i in range(4))
    cover = rng.uniform(*weather.clouds)
    clouds = np.clip((octaves + 2.2 * cover - 1.2) * 1.1, 0, 1) * np.clip(4 * above, 0, 1)
    white = np.array(weather.horizon) * 1.02 + 4
    grey = noise(rng, height, width, 8, 6)[..., None] * 0.07 + (0.86 if cover > 0.6 else 0.98)
    sky = sky + (white * grey - sky) * (0.85 * clouds[..., None])
    image = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8)).resize(
        (camera.width, camera.height), Image.Resampling.BILINEAR
    )
    image.putalpha(SKY)
    return np.array(image)


@dataclass(frozen=True)
class Street:
    """The plan of a street. All sides are (left, right); lengths are in metres.

    ``crossing`` is where a zebra crossing begins (infinity: nowhere), ``end`` where the street
    ends, ``floors`` how many upper floors its houses have, from and to.
    """

    lanes: int
    lane: float
    parking: tuple[float, float]
    pavement: tuple[float, float]
    asphalt: Colour
    paving: Colour
    has_lawn: tuple[bool, bool]
    crossing: float
    yellow_lines: bool
    has_arrows: bool
    floors: tuple[int, int]
    end: float

    @property
    def driven(self) -> float:
        """Half the width of all lanes."""
        return self.lanes * self.lane / 2

    def kerb(self, side: int) -> float:
        """How far the kerb is from the middle of the road, on the left (0) or right (1)."""
        return self.driven + self.parking[side]

    def front(self, side: int) -> float:
        """How far the houses are from the middle of the road."""
        return self.kerb(side) + self.pavement[side]

    def lane_middle(self, index: int) -> float:
        """Where lane ``index``, counted from the left, has its middle."""
        return -self.driven + (index + 0.5) * self.lane


def plan_street(rng: np.random.Generator) -> Street:
    """A street of some width, with or without parked cars, gardens and a zebra crossing."""
    lanes = pick(rng, (2, 2, 2, 2, 3, 3, 4))
    parked = rng.random(2) < 0.55
    return Street(
        lanes=lanes,
        lane=rng.uniform(2.9, 3.5),
        parking=(2.3 * bool(parked[0]), 2.3 * bool(parked[1])),
        pavement=(rng.uniform(2.2, 5.5), rng.uniform(2.2, 5.5)),
        asphalt=pick(rng, ASPHALTS),
        paving=pick(rng, PAVINGS),
        has_lawn=(rng.random() < 0.4, rng.random() < 0.4),
        crossing=rng.uniform(10, 40) if rng.random() < 0.35 else math.inf,
        yellow_lines=bool(rng.random() < 0.5),
        has_arrows=bool(rng.random() < 0.2),
        floors=pick(rng, ((0, 2), (1, 2), (1, 3), (1, 4), (2, 5))),
        end=rng.uniform(45, 90) if rng.random() < 0.3 else rng.uniform(90, 170),
    )


def paint_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Road, kerbs, pavements, gardens and markings, in plain colours: light comes later.

    At its end the street meets another, across which houses face the camera.
    """
    for side, sign in enumerate((-1, 1)):
        outer = (GRASS, TREE) if street.has_lawn[side] else (street.paving, PAVEMENT)
        kerb, front = street.kerb(side), street.front(side)
        _strip(canvas, sign * front, sign * 300, *outer)
        _strip(canvas, 0, sign * front, street.paving, PAVEMENT)
        _strip(canvas, 0, sign * kerb, street.asphalt, ROAD, far=street.end)
    _strip(canvas, -150, 150, street.asphalt, ROAD, street.end - 4, street.end + 4)
    _strip(canvas, -150, 150, street.paving, PAVEMENT, street.end + 4, street.end + 8)
    _paint_surface(canvas, rng, street)
    _paint_markings(canvas, street)
    for side, sign in enumerate((-1, 1)):
        edge, end = sign * street.kerb(side), street.end - 4
        stone, gutter = scaled(street.paving, 1.18), scaled(street.asphalt, 0.82)
        _strip(canvas, edge, edge + sign * 0.16, stone, PAVEMENT, far=end)
        _strip(canvas, edge - sign * 0.3, edge, gutter, ROAD, far=end)
        _paint_slabs(canvas, street, side, sign)


def light_ground(canvas: Canvas, shadow: np.ndarray) -> np.ndarray:
    """The canvas's pixels with light, shadows and haze on everything that is not sky."""
    pixels = np.array(canvas.image)
    light, first = canvas.light, max(0, int(canvas.camera.row - canvas.camera.height * 0.1))
    part = pixels[first:]
    full = np.array(light.on(UP), np.float32)
    low = np.array(light.ambient, np.float32) * 0.5
    clear = np.exp(-canvas.camera.ahead_of_rows()[first:] / light.visibility)
    clear = clear[:, None].astype(np.float32)
    dark = shadow[first:] * (clear / 255)
    ground = part[..., 3] != SKY
    for channel in range(3):
        lit = clear * full[channel] - dark * (full[channel] - low[channel])
        lit *= part[..., channel]
        lit += (1 - clear) * light.haze[channel]
        np.copyto(part[..., channel], np.minimum(lit, 255), where=ground, casting="unsafe")
    return pixels


def _ink(colour: Colour, label: int) -> Ink:
    return min(int(colour[0]), 255), min(int(colour[1]), 255), min(int(colour[2]), 255), label


def _strip(
    canvas: Canvas,
    a: float,
    b: float,
    colour: Colour,
    label: int,
    near: float = 0.6,
    far: float = FAR,
) -> None:
    """The ground between ``a`` and ``b`` across and ``near`` and ``far`` ahead."""
    steps = STEPS if far > near * 1.5 else 1
    aheads = [near * (far / near) ** (i / steps) for i in range(steps + 1)]
    there = [(a, 0.0, z) for z in aheads]
    back = [(b, 0.0, z) for z in reversed(aheads)]
    canvas.polygon(there + back, _ink(colour, label))


def _paint_surface(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Wheel tracks, repaired patches, a bus lane at times, and manhole covers."""
    for lane in range(street.lanes):
        for track in (-0.8, 0.8):
            middle = street.lane_middle(lane) + track
            worn = scaled(street.asphalt, 0.94)
            _strip(canvas, middle - 0.3, middle + 0.3, worn, ROAD, far=street.end)
    if rng.random() < 0.06:
        red = (144, 96, 90)
        _strip(canvas, -street.driven, -street.driven + street.lane, red, ROAD, far=street.end / 2)
    for _ in range(int(rng.integers(1, 6))):
        across, ahead = rng.uniform(-street.driven, street.driven), rng.uniform(4, 40)
        shade = scaled(street.asphalt, rng.uniform(0.78, 1.12))
        wide, long = rng.uniform(0.4, 2.2), rng.uniform(1, 6)
        right = min(across + wide, street.kerb(1))
        _strip(canvas, across, right, shade, ROAD, ahead, ahead + long)
    for _ in range(int(rng.integers(0, 4))):
        across, ahead = rng.uniform(-street.driven, street.driven), rng.uniform(5, 25)
        ring = [i * math.pi / 6 for i in range(12)]
        cover = [(across + 0.3 * math.cos(t), 0.0, ahead + 0.3 * math.sin(t)) for t in ring]
        canvas.polygon(cover, _ink(scaled(street.asphalt, 0.7), ROAD))


def _paint_markings(canvas: Canvas, street: Street) -> None:
    """Lines between the lanes and at the sides, a zebra crossing with its stop line."""
    middle = (street.lanes + 1) // 2
    for lane in range(1, street.lanes):
        across = -street.driven + lane * street.lane
        dash, gap = (4.0, 2.0) if lane == middle else (2.0, 4.0)
        z = 1.5
        while z < min(90, street.end - 9):
            _strip(canvas, across - 0.06, across + 0.06, WHITE, ROAD, z, z + dash)
            z += dash + gap
    for side, sign in enumerate((-1, 1)):
        edge = street.kerb(side)
        if street.parking[side]:
            _paint_bays(canvas, sign * street.driven, sign * edge)
        elif street.yellow_lines:
            for inset in (0.35, 0.6):
                across = sign * (edge - inset)
                _strip(canvas, across - 0.05, across + 0.05, YELLOW, ROAD, far=street.end - 4)
    if street.crossing < math.inf:
        _paint_crossing(canvas, street)
    if street.has_arrows:
        for lane in range((street.lanes + 1) // 2):
            _paint_arrow(canvas, street.lane_middle(lane), 8.0 + 3 * lane)


def _paint_arrow(canvas: Canvas, across: float, ahead: float) -> None:
    shaft = [
        (-0.08, 0.0),
        (-0.08, 2.2),
        (-0.35, 2.2),
        (0.0, 3.6),
        (0.35, 2.2),
        (0.08, 2.2),
        (0.08, 0),
    ]
    canvas.polygon([(across + x, 0.0, ahead + z) for x, z in shaft], _ink(WHITE, ROAD))


def _paint_bays(canvas: Canvas, inner: float, outer: float) -> None:
    """Dashes along the parking bays, and a line between every two of them."""
    for bay in range(12):
        z = 2 + 6.0 * bay
        _strip(canvas, inner, outer, WHITE, ROAD, z, z + 0.1)
        for dash in range(3):
            _strip(canvas, inner - 0.05, inner + 0.05, WHITE, ROAD, z + 2 * dash, z + 2 * dash + 1)


def _paint_crossing(canvas: Canvas, street: Street) -> None:
    near, far = street.crossing, street.crossing + 3
    left, right = -street.kerb(0), street.kerb(1)
    _strip(canvas, left, right, street.asphalt, ROAD, near - 1, far + 1)
    across = left + 0.3
    while across + 0.55 < right:
        _strip(canvas, across, across + 0.55, WHITE, ROAD, near, far)
        across += 1.1
    _strip(canvas, left + 0.2, -0.2, WHITE, ROAD, near - 2, near - 1.75)


def _paint_slabs(canvas: Canvas, street: Street, side: int, sign: int) -> None:
    """Joints between paving slabs, as far as they can be made out."""
    inner, outer = sign * (street.kerb(side) + 0.2), sign * street.front(side)
    joint = scaled(street.paving, 0.86)
    for i in range(28):
        z = 4 + 0.75 * i
        _strip(canvas, inner, outer, joint, PAVEMENT, z, z + 0.035)
    for i in range(1, int(street.pavement[side] / 0.75) + 1):
        across = inner + sign * 0.75 * i
        if abs(across) < abs(outer):
            _strip(canvas, across, across + 0.025, joint, PAVEMENT, far=30)
