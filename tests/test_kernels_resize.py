"""Resizing kernels: any tables of positions and weights, and those of ONNX's modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from kernel_harness import Case, channels, check, family, normal, sizes
from oracles import interpolating, resize, rounded, source_coordinate

from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout
from minseg.kernels.core.registry import Kernel, all_kernels, select
from minseg.kernels.resize.argmax import ResizeArgMax
from minseg.kernels.resize.resize import Resize2d, prepare
from minseg.ops.resize import ResizedAxis, Sampling, axis_taps, resample
from minseg.precision import Precision

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]


EPS = float(np.finfo(np.float32).eps)
KERNELS = [k for k in all_kernels() if k.family is Resize2d and "u8" not in k.name]
DTYPES = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.int64}


@st.composite
def resizes(draw: st.DrawFn) -> Resize2d:
    taps = draw(st.sampled_from([1, 1, 2, 4, 5]))
    itemsize = draw(st.sampled_from([4, 4, 1, 2, 8] if taps == 1 else [4, 4, 1]))
    size = draw(sizes(9)), draw(sizes(40)), draw(sizes(20)), draw(sizes(40))
    return Resize2d(draw(st.integers(1, 2)), draw(channels(2)), *size, taps, itemsize)


def matrix(positions: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    """[outputs][size]: how much of each input element every output takes."""
    dense = np.zeros((len(positions), size))
    for o, row in enumerate(positions):
        for position, weight in zip(row, weights[o], strict=True):
            dense[o, position] += weight
    return dense


@family(Resize2d, resizes())
def resize_case(q: Resize2d, rng: np.random.Generator) -> Case:
    x = normal(rng, (q.N, q.C, q.IH, q.IW))
    rows = np.sort(rng.integers(0, q.IH, (q.OH, q.taps)), 0)
    columns = rng.integers(0, q.IW, (q.OW, q.taps))
    if q.taps == 1:
        if q.itemsize != 4:
            x = rng.integers(0, 256, x.shape).astype(DTYPES[q.itemsize])
        y = np.ascontiguousarray(x[:, :, rows[:, 0]][..., columns[:, 0]])
        return Case((x,), y, (rows, None, columns, None), dtype=x.dtype)
    if q.itemsize == 1:
        return blended_bytes(q, rows, columns, rng)
    row_weights, column_weights = normal(rng, rows.shape), normal(rng, columns.shape)
    down, across = matrix(rows, row_weights, q.IH), matrix(columns, column_weights, q.IW)
    # Bounded by magnitudes tap by tap: equal positions with opposite weights cancel in the sums.
    down_most = matrix(rows, np.abs(row_weights), q.IH)
    across_most = matrix(columns, np.abs(column_weights), q.IW)
    tolerance = 2 * (q.taps + 1) * EPS * (down_most @ np.abs(x) @ across_most.T) + EPS
    return Case(
        (x,),
        down @ x.astype(np.float64) @ across.T,
        (rows, row_weights, columns, column_weights),
        tolerance,
        loose=tolerance,
    )


def blended_bytes(
    q: Resize2d, rows: np.ndarray, columns: np.ndarray, rng: np.random.Generator
) -> Case:
    """Weights that sum to one. Where float32 can't tell a whole number from what is just below it,
    the result may be one less, or one more."""
    x = rng.choice([0, 1, 100, 254, 255], (q.N, q.C, q.IH, q.IW)).astype(np.uint8)
    tables: list[np.ndarray] = []
    for positions in (rows, columns):
        parts = rng.integers(0, 5, positions.shape) + np.eye(q.taps)[0]
        tables += [positions, (parts / parts.sum(1, keepdims=True)).astype(np.float32)]
    down, across = matrix(*tables[:2], q.IH), matrix(*tables[2:], q.IW)
    real = down @ x.astype(np.float64) @ across.T
    error = 255 * EPS * (q.taps**2 + 2)
    expected = np.clip(np.floor(real), 0, 255)
    tolerance = np.where(np.abs(real - np.rint(real)) <= error, 1.0, 0.0)
    return Case((x,), expected, tuple(tables), tolerance, dtype=np.uint8)


@st.composite
def labelled(draw: st.DrawFn) -> ResizeArgMax:
    q = draw(resizes().filter(lambda q: q.taps > 1 and q.itemsize == 4))
    return ResizeArgMax(q)


@family(ResizeArgMax, labelled())
def resize_argmax_case(problem: ResizeArgMax, rng: np.random.Generator) -> Case:
    """Small whole numbers, which are blended without rounding, so that channels tie."""
    q = problem.resize
    x = rng.integers(-3, 4, (q.N, q.C, q.IH, q.IW)).astype(np.float32)
    tables = []
    for outputs, size in ((q.OH, q.IH), (q.OW, q.IW)):
        weights = rng.integers(-2, 3, (outputs, q.taps)).astype(np.float32)
        tables += [rng.integers(0, size, (outputs, q.taps)), weights]
    down, across = matrix(*tables[:2], q.IH), matrix(*tables[2:], q.IW)
    return Case((x,), (down @ x @ across.T).argmax(1), tuple(tables), dtype=np.int64)


Taps = list[list[tuple[int, float]]]


def tables(taps: Taps) -> tuple[np.ndarray, np.ndarray]:
    """Positions and weights, short rows filled with their first position and weights of zero."""
    most = max(map(len, taps))
    full = [row + [(row[0][0], 0.0)] * (most - len(row)) for row in taps]
    positions = [[i for i, _ in row] for row in full]
    return np.array(positions), np.array([[w for _, w in row] for row in full], np.float32)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k.name)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("sizes", [(8, 10), (7, 3), (2, 5)])
def test_the_modes_of_onnx(
    kernel: Kernel, mode: str, coordinates: str, sizes: tuple[int, int]
) -> None:
    x = normal(np.random.default_rng(0), (1, 5, 4, 5))
    scales = [1.0, 1.0, sizes[0] / 4, sizes[1] / 5]
    axes: list[Taps] = []
    for size, resized, scale in ((4, sizes[0], scales[2]), (5, sizes[1], scales[3])):
        places = [
            source_coordinate(o, size, resized, scale, coordinates, 0, 1) for o in range(resized)
        ]
        if mode == "nearest":
            near = [min(max(rounded(at, "round_prefer_floor"), 0), size - 1) for at in places]
            axes.append([[(i, 1.0)] for i in near])
        else:
            axes.append([interpolating(at, size, mode, 1.0, -0.75, False) for at in places])
    expected = resize(x, (1, 5, *sizes), scales, mode, coordinates)
    (rows, row_weights), (columns, column_weights) = map(tables, axes)
    taps = max(rows.shape[1], columns.shape[1])
    wide = [(0, 0), (0, taps - rows.shape[1])], [(0, 0), (0, taps - columns.shape[1])]
    rows, row_weights = np.pad(rows, wide[0], "edge"), np.pad(row_weights, wide[0])
    columns, column_weights = np.pad(columns, wide[1], "edge"), np.pad(column_weights, wide[1])
    constants = (rows, None, columns, None)
    if mode != "nearest":
        constants = (rows, row_weights, columns, column_weights)
    tolerance = 0.0 if mode == "nearest" else 32 * EPS * np.abs(x).max()
    problem = Resize2d(1, 5, 4, 5, *sizes, taps)
    if not kernel.applies(problem):
        pytest.skip(f"{kernel.name} is not for {mode}")
    check(kernel, problem, Case((x,), expected, constants, tolerance, loose=tolerance))


@pytest.mark.parametrize("layout", [BLOCKED, PLAIN])
@pytest.mark.parametrize("bad", [-1, 4])
def test_a_position_outside_the_picture_is_refused(bad: int, layout: Layout) -> None:
    rows, columns = np.array([[0], [bad]]), np.array([[0], [1]])
    with pytest.raises(ValueError, match="of 4"):
        prepare(layout, Resize2d(1, 1, 4, 4, 2, 2, 1), rows, None, columns, None)


def test_the_kernel_chosen() -> None:
    """Vectors of channels where there are many, vectors of pixels where there are few."""
    many, few = Resize2d(1, 256, 24, 24, 48, 48, 2), Resize2d(1, 1, 768, 768, 384, 384, 2)
    names = [k.name for k in map(select, (many, few)) if k is not None]
    assert names == ["resize_f32_blocked", "resize_plain"]
    exactly = select(many, Precision.EXACT)
    assert exactly is not None and exactly.name == "resize_f32_points"


@pytest.mark.parametrize(("name", "itemsize"), [("resize_f32_points", 4), ("resize_u8_points", 1)])
def test_points_are_rounded_as_the_definition_rounds_them(name: str, itemsize: int) -> None:
    """No bit is another one, of places that float32 can't tell exactly either."""
    x = normal(np.random.default_rng(0), (1, 33, 23, 30))
    if itemsize == 1:
        x = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)
    axes = [ResizedAxis(2, 23, 45, 45 / 23), ResizedAxis(3, 30, 61, 61 / 30)]
    sampling = Sampling("linear")
    expected = resample(x, axes, sampling)
    tables = []
    for taps in (axis_taps(axis, sampling) for axis in axes):
        assert taps.weights is not None
        tables += [taps.indices.T, taps.weights.T]
    kernel = next(k for k in all_kernels() if k.name == name)
    problem = Resize2d(1, 33, 23, 30, 45, 61, 2, itemsize)
    check(kernel, problem, Case((x,), expected, tuple(tables), 0.0, dtype=x.dtype))
