"""Who and what is in a generated street, and where."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from minseg.images.scene_buildings import closing_house, fence, garden_wall, house
from minseg.images.scene_canvas import LEFT, RIGHT, TREE, Canvas, Thing, pick
from minseg.images.scene_furniture import bare_tree, bollard, lamp, sign, traffic_light, tree
from minseg.images.scene_ground import Street
from minseg.images.scene_traffic import BUS, CARS, bicycle, pedestrian, vehicle

SIDES = ((0, -1), (1, 1))


def populate(rng: np.random.Generator, street: Street, lane: int) -> list[Thing]:
    """Everything that stands in the street, seen from a car in lane ``lane``; farthest first."""
    is_winter = bool(rng.random() < 0.3)
    things = [*_background(rng, street)]
    for side, sign_ in SIDES:
        things += _row(rng, street, side, sign_, is_winter)
        things += _along_kerb(rng, street, side, sign_, is_winter)
        things += _parked(rng, street, side, sign_)
        things += _walkers(rng, street, side, sign_)
    things += _traffic(rng, street, lane)
    things += _riders(rng, street, lane)
    things += _crossing(rng, street)
    return sorted(things, key=lambda thing: -thing.ahead)


def _some_tree(
    rng: np.random.Generator, across: float, ahead: float, tall: float, is_winter: bool
) -> Thing:
    bare = is_winter and rng.random() < 0.7
    return (bare_tree if bare else tree)(rng, across, ahead, tall)


def _background(rng: np.random.Generator, street: Street) -> Iterator[Thing]:
    """Woods on the horizon, and the houses at the end of the street."""
    edge = rng.uniform(5, 11) + np.cumsum(rng.uniform(-1.2, 1.2, 81))
    yield _woods(street.end + 60, edge.clip(3, 16).tolist())
    across = -street.front(0) - 40
    while across < street.front(1) + 40:
        width = rng.uniform(8, 20)
        if rng.random() < 0.75:
            yield closing_house(rng, across + width / 2, width, street.end + 8, street.floors)
        across += width
    for _ in range(5):
        yield tree(rng, rng.uniform(-25, 25), street.end + rng.uniform(1, 6), rng.uniform(5, 11))


def _woods(ahead: float, tops: list[float]) -> Thing:
    def paint(canvas: Canvas) -> None:
        rim = [(-200 + 5.0 * i, top, ahead) for i, top in enumerate(tops)]
        canvas.fill([(200, 0, ahead), (-200, 0, ahead), *rim], (72, 92, 58), TREE)

    return Thing(ahead, paint)


def _row(
    rng: np.random.Generator, street: Street, side: int, sign_: int, is_winter: bool
) -> Iterator[Thing]:
    """Houses, gardens and open ground along one side of the street."""
    front, ahead = street.front(side), rng.uniform(2, 6)
    normal = LEFT if side else RIGHT
    while ahead < street.end:
        chance = rng.random()
        if chance < 0.62:
            for _ in range(int(rng.integers(1, 5))):
                length = rng.uniform(7, 16)
                yield house(rng, side, front, ahead, ahead + length, street.floors)
                ahead += length
        else:
            length = rng.uniform(10, 22)
            kind = pick(rng, ("planks", "mesh", "railing", "railing", "wall"))
            edge = sign_ * front
            yield from (
                garden_wall(rng, edge, ahead, length, normal)
                if kind == "wall"
                else fence(rng, edge, ahead, length, normal, kind)
            )
            if chance < 0.86:
                back = front + rng.uniform(5, 9)
                yield house(rng, side, back, ahead + 1, ahead + length - 1, street.floors)
            for _ in range(int(rng.integers(1, 4))):
                across = sign_ * (front + rng.uniform(1.5, 4.5))
                height = rng.uniform(3.5, 10)
                yield _some_tree(rng, across, ahead + rng.uniform(1, length), height, is_winter)
            ahead += length
        if rng.random() < 0.3:
            ahead += rng.uniform(2, 7)


def _along_kerb(
    rng: np.random.Generator, street: Street, side: int, sign_: int, is_winter: bool
) -> Iterator[Thing]:
    """Lamps, trees, signs, bollards and a guard rail at the edge of the pavement."""
    kerb = sign_ * (street.kerb(side) + 0.45)
    ahead, step = rng.uniform(9, 26), rng.uniform(18, 32)
    while ahead < street.end:
        yield lamp(rng, kerb, ahead, -sign_)
        ahead += step
    if rng.random() < 0.5:
        ahead, step = rng.uniform(11, 24), rng.uniform(9, 18)
        while ahead < street.end:
            across = kerb + sign_ * 0.4
            yield _some_tree(rng, across, ahead, rng.uniform(4.5, 9), is_winter)
            ahead += step
    for _ in range(int(rng.integers(1, 4))):
        yield sign(rng, kerb + sign_ * rng.uniform(0, 0.5), rng.uniform(9, 38))
    if rng.random() < 0.4:
        ahead = rng.uniform(9, 20)
        for i in range(int(rng.integers(3, 8))):
            yield bollard(rng, kerb, ahead + 2.2 * i)
    if rng.random() < 0.6:
        normal = LEFT if side else RIGHT
        yield from fence(rng, kerb, rng.uniform(9, 24), rng.uniform(6, 18), normal, "guard")


def _parked(rng: np.random.Generator, street: Street, side: int, sign_: int) -> Iterator[Thing]:
    """Cars in the parking bays, most of them."""
    if not street.parking[side]:
        return
    share = rng.uniform(0.3, 0.9)
    for bay in range(1, int(street.end / 6)):
        ahead = 2.4 + 6 * bay + rng.uniform(0, 0.6)
        if rng.random() < share and abs(ahead - street.crossing) > 8:
            across = sign_ * (street.kerb(side) - 1.1 + rng.uniform(-0.12, 0.12))
            yield vehicle(rng, across, ahead, oncoming=bool(side), body=pick(rng, CARS))


def _walkers(rng: np.random.Generator, street: Street, side: int, sign_: int) -> Iterator[Thing]:
    """People on the pavement, alone or in twos and threes."""
    for group in range(int(rng.integers(1, 6))):
        ahead = rng.uniform(10, 24) if group == 0 else rng.uniform(10, 60)
        across = street.kerb(side) + rng.uniform(0.9, max(1.0, street.pavement[side] - 0.5))
        for _ in range(pick(rng, (1, 1, 1, 2, 2, 3))):
            place = sign_ * (across + rng.uniform(-0.4, 0.4))
            yield pedestrian(rng, place, ahead + rng.uniform(-0.8, 0.8))
    for _ in range(pick(rng, (0, 0, 1, 3))):
        across = sign_ * (street.front(side) - 0.5)
        angle = rng.uniform(0.0, 0.5)
        yield bicycle(rng, across, rng.uniform(12, 30), ridden=False, angle=angle)


def _traffic(rng: np.random.Generator, street: Street, lane: int) -> Iterator[Thing]:
    """Vehicles in the lanes: ours and those left of it go our way, the others come towards us."""
    for other in range(street.lanes):
        oncoming = other > lane and other >= street.lanes // 2
        ahead = rng.uniform(8, 40) if other == lane else rng.uniform(5, 30)
        while ahead < street.end - 10:
            body = BUS if rng.random() < 0.1 and ahead > 14 else pick(rng, CARS)
            across = street.lane_middle(other) + rng.uniform(-0.3, 0.3)
            if not street.crossing - body.length - 1 < ahead < street.crossing + 4:
                yield vehicle(rng, across, ahead, oncoming=oncoming, body=body)
            ahead += body.length + rng.uniform(4, 40)


def _riders(rng: np.random.Generator, street: Street, lane: int) -> Iterator[Thing]:
    """Cyclists along the road, and at times one who crosses it."""
    for i in range(int(rng.integers(1, 4))):
        ahead = rng.uniform(7, 16) if i == 0 else rng.uniform(8, 40)
        if rng.random() < 0.65:
            yield bicycle(rng, 0.5 - street.driven, ahead, ridden=True, angle=rng.normal(0, 0.1))
        else:
            angle = math.pi + rng.normal(0, 0.1)
            yield bicycle(rng, street.driven - 0.5, ahead, ridden=True, angle=angle)
    if rng.random() < 0.25:
        across = rng.uniform(-street.driven, street.driven)
        angle = pick(rng, (-1, 1)) * math.pi / 2
        yield bicycle(rng, across, rng.uniform(9, 26), ridden=True, angle=angle)


def _crossing(rng: np.random.Generator, street: Street) -> Iterator[Thing]:
    """Traffic lights and people at the zebra crossing, or somebody who crosses without one."""
    if street.crossing == math.inf:
        if rng.random() < 0.35:
            across = rng.uniform(-street.driven, street.driven)
            yield pedestrian(rng, across, rng.uniform(14, 40))
        if rng.random() < 0.3:
            yield traffic_light(rng, -street.kerb(0) - 0.5, rng.uniform(12, 30))
        return
    for side, sign_ in SIDES:
        if rng.random() < 0.75:
            yield traffic_light(rng, sign_ * (street.kerb(side) + 0.4), street.crossing - 0.8)
    for _ in range(int(rng.integers(0, 4))):
        across = rng.uniform(-street.driven, street.driven)
        yield pedestrian(rng, across, street.crossing + rng.uniform(0.5, 2.5))
