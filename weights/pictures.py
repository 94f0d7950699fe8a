"""Street scenes painted from noise and rectangles, to calibrate synthetic networks on."""

from __future__ import annotations

import numpy as np


def street(height: int, width: int, seed: int) -> np.ndarray:
    """An RGB picture [height, width, 3], float32 from 0 to 255: sky, houses, trees, road, cars."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    picture = np.empty((height, width, 3))
    horizon = rng.uniform(0.4, 0.5)
    picture[:] = _blend(y / horizon, (150, 190, 235), (225, 230, 235))
    for _ in range(12):
        left, top = rng.uniform(-0.1, 1.0), rng.uniform(0.05, horizon)
        house = _inside(y, x, top, left, horizon + 0.15, left + rng.uniform(0.08, 0.3))
        picture[house] = rng.uniform(40, 190, 3)
        windows = house & (np.sin(60 * x) > 0.4) & (np.sin(50 * y) > 0.3)
        picture[windows] = rng.uniform(10, 250, 3)
    for _ in range(6):
        middle, height_above = rng.uniform(0, 1), rng.uniform(0.1, 0.35)
        crown = np.hypot((y - horizon + 0.1) / height_above, (x - middle) / 0.12)
        leaves = crown + 0.6 * _noise(rng, height, width, 24) < 1
        picture[leaves] = rng.uniform((20, 50, 10), (70, 110, 50))
    ground = y > horizon + 0.05
    picture[ground] = (165, 155, 150)
    road = ground & (np.abs(x - 0.5) < 0.1 + 0.9 * (y - horizon))
    picture[road] = (95, 92, 98)
    picture[road & (np.abs(x - 0.5) < 0.01) & (np.sin(80 * y) > 0)] = (235, 235, 225)
    for _ in range(7):
        top, left = rng.uniform(horizon, 0.75), rng.uniform(0, 0.9)
        size = 0.4 * (top - horizon) + 0.06
        car = _inside(y, x, top, left, top + size, left + 1.4 * size)
        picture[car] = rng.uniform(10, 245, 3)
        picture[car & (y < top + 0.4 * size)] *= 0.4
    for _ in range(6):
        left, top = rng.uniform(0, 1), rng.uniform(0.1, horizon)
        picture[_inside(y, x, top, left, 0.7, left + 0.012)] = rng.uniform(60, 200)
        picture[_inside(y, x, top, left - 0.02, top + 0.07, left + 0.03)] = rng.uniform(0, 255, 3)
    light = 1 + 0.25 * _noise(rng, height, width, 3) + 0.1 * _noise(rng, height, width, 40)
    grain = 6 * rng.standard_normal((height, width, 1))
    return np.clip(picture * light[..., None] + grain, 0, 255).astype(np.float32)


def streets(height: int, width: int, seed: int) -> np.ndarray:
    """Four street scenes as one picture [height, width, 3], both sizes even, from dusk to noon."""
    scenes = [
        light * street(height // 2, width // 2, 4 * seed + i)
        for i, light in enumerate((0.4, 0.6, 0.8, 1.0))
    ]
    rows = [np.concatenate(scenes[i : i + 2], axis=1) for i in (0, 2)]
    return np.concatenate(rows).astype(np.float32)


def _blend(share: np.ndarray, start: tuple[int, ...], end: tuple[int, ...]) -> np.ndarray:
    weight = np.clip(share, 0, 1)[..., None]
    blend: np.ndarray = (1 - weight) * np.array(start) + weight * np.array(end)
    return blend


def _inside(
    y: np.ndarray, x: np.ndarray, top: float, left: float, bottom: float, right: float
) -> np.ndarray:
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _noise(rng: np.random.Generator, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise [height, width] from -1 to 1: a ``cells`` x ``cells`` grid, interpolated."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1))
    rows, columns = np.linspace(0, cells, height), np.linspace(0, cells, width)
    at_rows = np.stack([np.interp(rows, np.arange(cells + 1), c) for c in grid.T], axis=1)
    return np.stack([np.interp(columns, np.arange(cells + 1), r) for r in at_rows])
