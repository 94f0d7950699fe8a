"""Kernels on bytes that stand for numbers: how they are made, read, added up and convolved."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from kernel_harness import FAMILIES, Case, channels, check, family, normal, sizes
from oracles import conv2d, conv_transpose
from test_kernels_conv import activated, conv_problems, transposed_problems
from test_kernels_pool import has_no_empty_window, pool_case, pool_problems

from minseg.kernels.conv import direct_integer as conv_integer
from minseg.kernels.conv import winograd_integer
from minseg.kernels.conv.direct_integer import tile_of
from minseg.kernels.conv.problem import IntegerConv2d, IntegerConvTranspose2d, Quantised
from minseg.kernels.core import jit
from minseg.kernels.core.activation import Activation
from minseg.kernels.core.epilogue import Epilogue, Residual
from minseg.kernels.core.grid import Bytes, Grid
from minseg.kernels.core.registry import Kernel, all_kernels
from minseg.kernels.elementwise.integer import IntegerAdd, Lookup
from minseg.kernels.pool.integer import IntegerAveragePool2d
from minseg.kernels.quantize.dynamic import DynamicGrid
from minseg.kernels.quantize.quantize import Dequantize, Quantize

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

EPS = float(np.finfo(np.float32).eps)

CONVOLUTIONS = [k for k in all_kernels() if k.family is IntegerConv2d]
kernels = pytest.mark.parametrize("kernel", CONVOLUTIONS, ids=lambda k: k.name)

zero_points = st.one_of(st.sampled_from([0, 255]), st.integers(0, 255))


@st.composite
def stored_bytes(draw: st.DrawFn) -> Bytes:
    ends = sorted(draw(st.lists(st.integers(0, 255), min_size=2, max_size=2)))
    low, high = draw(st.sampled_from([(0, 255), tuple(ends)]))
    return Bytes(draw(zero_points), low, high)


scales = st.sampled_from([0.5, 1.0, 0.0078125, 3.7e-3, 12.5, 0.3]).map(
    lambda scale: float(np.float32(scale))
)
grids = st.builds(Grid, scales, zero_points)


shifts = st.one_of(st.none(), st.sampled_from([0.5, -37.3, 128.0]).map(np.float32).map(float))


@st.composite
def residuals(draw: st.DrawFn) -> Residual:
    """Of scales that are not far apart."""
    shift = draw(shifts)
    unit = draw(scales) if shift is None else 1.0
    own, z, total = (float(np.float32(unit * draw(st.sampled_from([0.5, 1, 1.7])))) for _ in "ozt")
    grids = Grid(own, draw(zero_points)), Grid(z, draw(zero_points))
    if shift is None:
        return Residual(draw(stored_bytes()), *grids, total)
    return Residual(draw(stored_bytes()), *grids, 1.0, shift, draw(st.booleans()))


@st.composite
def conv_problems_of_bytes(draw: st.DrawFn) -> IntegerConv2d:
    """The geometry of a float convolution."""
    q = draw(conv_problems())
    store = draw(st.one_of(st.none(), stored_bytes()))
    added = q.epilogue.residual and store is not None
    return IntegerConv2d(
        *q.geometry,
        groups=q.groups,
        epilogue=Epilogue(q.epilogue.activation, draw(residuals()) if added else False, store),
        x_zero_point=draw(st.one_of(st.none(), zero_points)),
        asymmetric=draw(st.booleans()),
    )


@family(IntegerConv2d, conv_problems_of_bytes())
def conv_case(q: IntegerConv2d, rng: np.random.Generator) -> Case:
    """Numbers of all sizes, or only the largest and least; biases as large."""
    shapes = (q.N, q.IC, q.IH, q.IW), (q.OC, q.IC // q.groups, q.KH, q.KW)
    if rng.random() < 0.5:
        x, w = rng.integers(0, 256, shapes[0]), rng.integers(-128, 128, shapes[1])
    else:
        x, w = rng.choice([0, 1, 254, 255], shapes[0]), rng.choice([-128, -127, 127], shapes[1])
    b = rng.integers(-(2**31) + 2**29, 2**31 - 2**29, q.OC)
    b = np.where(rng.random(q.OC) < 0.8, b // 2**16, b)
    return with_answer(q, x.astype(np.uint8), w.astype(np.int8), b.astype(np.int32), rng)


def with_answer(
    q: IntegerConv2d, x: np.ndarray, w: np.ndarray, b: np.ndarray | None, rng: np.random.Generator
) -> Case:
    """The answer, computed in float64, which holds all these sums exactly.

    Where it is rounded to bytes it may be 1 off if f32 cannot tell which way to round; else not.
    """
    w_zero = rng.integers(-128, 128, q.OC) if q.asymmetric else np.zeros(q.OC, np.int64)
    PB = (q.OH - 1) * q.SH + (q.KH - 1) * q.DH + 1 - q.PT - q.IH
    PR = (q.OW - 1) * q.SW + (q.KW - 1) * q.DW + 1 - q.PL - q.IW
    x_zero = zero_point(q, rng)
    used = x[:, :, : q.IH + min(PB, 0), : q.IW + min(PR, 0)].astype(np.float64) - x_zero
    layout: Any = ((q.SH, q.SW), (q.PT, q.PL, max(PB, 0), max(PR, 0)), (q.DH, q.DW), q.groups)
    sums = conv2d(used, w.astype(np.float64) - w_zero[:, None, None, None], b, *layout)
    return finished(q, x, w, b, w_zero, x_zero, sums, rng)


def zero_point(q: Quantised, rng: np.random.Generator) -> int:
    """That of the input, where it is known only in a run one of a run."""
    return int(rng.integers(0, 256)) if q.x_zero_point is None else q.x_zero_point


def finished(
    q: Quantised,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None,
    w_zero: np.ndarray,
    x_zero: int,
    sums: np.ndarray,
    rng: np.random.Generator,
) -> Case:
    """The case of an integer convolution, transposed or not, whose sums are known."""
    factor = np.float32(rng.uniform(0.001, 10) if q.is_dynamic else 1)
    dynamic = (np.array(x_zero, np.uint8), np.array(factor)) if q.is_dynamic else ()
    assert sums.min() >= -(2**31) and sums.max() < 2**31
    spread = np.abs(sums).max(axis=(0, 2, 3)) + 1
    scale = (rng.uniform(1, 400, q.OC) / spread / factor).astype(np.float32)
    shift = rng.normal(0, 30, q.OC).astype(np.float32)
    product = sums * (scale * factor).astype(np.float64)[:, None, None]
    real = product + shift.astype(np.float64)[:, None, None]
    error = EPS * (np.abs(product) + np.abs(real))
    constants = (w, b, scale, shift, w_zero.astype(np.int32) if q.asymmetric else None)
    r, store = q.epilogue.residual, q.epilogue.store
    if store is None:
        y = activated(real, q.epilogue.activation)
        return Case((x, *dynamic), y, constants, 2 * error + 4 * EPS)
    if not isinstance(r, Residual):
        return Case((x, *dynamic), constants=constants, **nearest_bytes(real, error, store))
    z = rng.integers(0, 256, real.shape).astype(np.uint8)
    first = nearest_bytes(real, error, r.own)
    parts = [
        (x.astype(np.float64) - g.zero_point) * g.scale
        for x, g in ((first["expected"], r.grid), (z, r.z))
    ]
    made = nearest_bytes(*added(parts, r.scale, r.shift), store)
    # Where its own bytes may be one off, the sum is by as many units as they are apart.
    apart = first["tolerance"] * np.ceil(r.grid.scale / r.scale)
    made["tolerance"] = made["tolerance"] + apart
    return Case((x, z, *dynamic), constants=constants, **made)


@st.composite
def transposed_problems_of_bytes(draw: st.DrawFn) -> IntegerConvTranspose2d:
    q = draw(transposed_problems())
    store = draw(st.one_of(st.none(), stored_bytes()))
    return IntegerConvTranspose2d(
        *q.geometry,
        groups=q.groups,
        epilogue=Epilogue(q.epilogue.activation, store=store),
        x_zero_point=draw(st.one_of(st.none(), zero_points)),
        asymmetric=draw(st.booleans()),
    )


@family(IntegerConvTranspose2d, transposed_problems_of_bytes())
def transposed_case_of_bytes(q: IntegerConvTranspose2d, rng: np.random.Generator) -> Case:
    x = rng.choice([0, 1, 100, 254, 255], (q.N, q.IC, q.IH, q.IW)).astype(np.uint8)
    shape = (q.IC, q.OC // q.groups, q.KH, q.KW)
    w = rng.choice([-128, -127, -3, 127], shape).astype(np.int8)
    b = rng.integers(-(2**20), 2**20, q.OC).astype(np.int32)
    w_zero = rng.integers(-128, 128, q.OC) if q.asymmetric else np.zeros(q.OC, np.int64)
    real = w.reshape(q.groups, -1, *shape[1:]).astype(np.float64)
    real = real - w_zero.reshape(q.groups, 1, -1, 1, 1)
    extra = q.OH + q.PT, q.OW + q.PL
    layout = ((q.SH, q.SW), (0, 0, 0, 0), (q.DH, q.DW), q.groups, extra)
    x_zero = zero_point(q, rng)
    centred = x.astype(np.float64) - x_zero
    sums = conv_transpose(centred, real.reshape(shape), b, *layout)
    sums = sums[:, :, q.PT :, q.PL :][:, :, : q.OH, : q.OW]
    return finished(q, x, w, b, w_zero, x_zero, sums, rng)


@pytest.mark.parametrize("lowest", [False, True])
def test_sums_at_the_limits_of_32_bits(lowest: bool) -> None:
    """255 times 127, or -128, as often as an i32 holds the sum."""
    if jit.jit_disabled():
        pytest.skip("too many products for Python")
    (kernel,) = conv_integer.KERNELS
    C, KH, KW = (1012, 5, 13) if lowest else (1020, 5, 13)
    q = IntegerConv2d(1, C, KH, KW, 17, 1, 1, KH, KW)
    x = np.full((1, C, KH, KW), 255, np.uint8)
    w = np.full((17, C, KH, KW), -128 if lowest else 127, np.int8)
    sums = 255 * int(w[0, 0, 0, 0]) * C * KH * KW
    left = (-(2**31) if lowest else 2**31 - 1) - sums
    b = np.full(17, left, np.int32)
    check(kernel, q, with_answer(q, x, w, b, np.random.default_rng(0)))


@pytest.mark.parametrize("zero", [0, 255])
@pytest.mark.parametrize("largest", [127, -128])
def test_the_largest_sums_of_transformed_bytes(zero: int, largest: int) -> None:
    """As many channels as the kernel takes, of the bytes and weights that it transforms to the
    largest numbers."""
    (kernel,) = winograd_integer.KERNELS
    q = IntegerConv2d(1, 1, 6, 6, 3, 6, 6, 3, 3, PT=1, PL=1, x_zero_point=zero)
    q = stored(q, Bytes(3))
    most = max(C for C in range(4000) if kernel.applies(dataclasses.replace(q, IC=C)))
    assert most > 3000
    q = dataclasses.replace(q, IC=min(most, 20) if jit.jit_disabled() else most)
    rng = np.random.default_rng(zero)
    signs = rng.choice([-1, 1], (1, 1, 6, 6)) * rng.choice([-1, 1], (1, q.IC, 1, 1))
    for x in (np.full((1, q.IC, 6, 6), 255 - zero), np.where(signs > 0, 255, 0)):
        w = np.full((q.OC, q.IC, 3, 3), largest)
        w[1] = np.where(x[0, :, 1:4, 1:4] > 127, 127, -128)
        w[2] = np.where(x[0, :, 1:4, 1:4] > 127, -128, 127)
        check(kernel, q, with_answer(q, x.astype(np.uint8), w.astype(np.int8), None, rng))


def stored(q: IntegerConv2d, store: Bytes) -> IntegerConv2d:
    return dataclasses.replace(q, epilogue=Epilogue(store=store))


def multiples(kernel: Kernel, *factors: int) -> tuple[IntegerConv2d, np.ndarray]:
    """A convolution of one row that multiplies each channel by a number, and its weights."""
    C = len(factors)
    K = 1 if kernel.applies(IntegerConv2d(1, 1, 1, 1, 1, 1, 1)) else 3
    q = IntegerConv2d(1, C, 1, 10, C, 1, 10, K, K, PT=K // 2, PL=K // 2)
    if not kernel.applies(q):
        q = dataclasses.replace(q, groups=C)
    assert kernel.applies(q)
    w = np.zeros((C, C // q.groups, K, K), np.int8)
    for c, factor in enumerate(factors):
        w[c, c % (C // q.groups), K // 2, K // 2] = factor
    return q, w


@kernels
def test_halves_are_rounded_to_even(kernel: Kernel) -> None:
    q, w = multiples(kernel, 1)
    q = stored(q, Bytes(3))
    x = np.arange(10, dtype=np.uint8).reshape(1, 1, 1, 10)
    constants = (w, None, np.full(1, 0.5, "f4"), np.zeros(1, "f4"))
    expected = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4, 4], np.float64).reshape(1, 1, 1, 10) + 3
    check(kernel, q, Case((x,), expected, constants, dtype=np.uint8))


@kernels
def test_results_far_outside_are_clamped(kernel: Kernel) -> None:
    q, w = multiples(kernel, 127, -128)
    q = stored(q, Bytes(100, 20, 230))
    x = np.zeros((1, 2, 1, 10), np.uint8)
    x[..., 1] = 255
    constants = (w, None, np.full(2, 1e30, np.float32), np.zeros(2, np.float32))
    expected = np.full((1, 2, 1, 10), 100.0)
    expected[0, :, 0, 1] = 230, 20
    check(kernel, q, Case((x,), expected, constants, dtype=np.uint8))


def test_pixels_around_a_tile_and_an_item() -> None:
    (kernel,) = conv_integer.KERNELS
    rows = tile_of(IntegerConv2d(1, 20, 1, 1, 20, 1, 1)).rows
    counts = [rows - 1, rows, rows + 1]
    if not jit.jit_disabled():
        counts += [2 * rows, 95, 96, 97, 12 * rows + 1]
    for count in counts:
        q = stored(IntegerConv2d(1, 20, 1, count, 20, 1, count, x_zero_point=9), Bytes(7))
        check(kernel, q, conv_case(q, np.random.default_rng(count)))


@pytest.mark.skipif(jit.jit_disabled(), reason="too many products for Python")
@pytest.mark.parametrize("IC", [3, 130, 300])
def test_patches_around_a_tile_and_an_item(IC: int) -> None:
    """Few patches and many, their sums made at once and in parts."""
    (kernel,) = winograd_integer.KERNELS
    for width in (3, 20, 50, 197):
        q = IntegerConv2d(1, IC, 5, width, 70, 5, width, 3, 3, PT=1, PL=1, x_zero_point=9)
        q = stored(q, Bytes(7))
        check(kernel, q, conv_case(q, np.random.default_rng(width)), threads=2)


@kernels
def test_activations_of_floats(kernel: Kernel) -> None:
    q = IntegerConv2d(1, 5, 3, 4, 5, 3, 4, 3, 3, PT=1, PL=1, x_zero_point=128)
    if not kernel.applies(q):
        q = dataclasses.replace(q, groups=5)
    assert kernel.applies(q)
    for kind in ("Relu", "Sigmoid", "HardSwish"):
        q = dataclasses.replace(q, epilogue=Epilogue(Activation(kind)))
        check(kernel, q, conv_case(q, np.random.default_rng(1)))


# --- between floats and bytes, element by element ---


def nearest_bytes(real: np.ndarray, error: np.ndarray | float, y: Bytes) -> dict[str, Any]:
    """What a case expects of ``real`` rounded, and where f32 may round the other way."""
    near_half = np.abs(real - np.floor(real) - 0.5) <= error
    return {
        "expected": np.clip(np.rint(real) + y.zero_point, y.low, y.high),
        "tolerance": np.where(near_half, 1.0, 0.0),
        "dtype": np.uint8,
    }


def some_shape() -> st.SearchStrategy[tuple[int, ...]]:
    picture = st.tuples(st.integers(1, 2), channels(3), sizes(9), sizes(20))
    return st.one_of(picture, picture, st.lists(sizes(40), max_size=3).map(tuple))


@family(Quantize, st.builds(Quantize, some_shape()))
def quantize_case(q: Quantize, rng: np.random.Generator) -> Case:
    """Halves and what is next to them among all others; NaN counts as the least."""
    scale = np.float32(rng.choice([0.5, 1.0, 0.0078125, 3.7e-3, 12.5, 0.3]))
    zero_point = rng.choice([0, 255, rng.integers(0, 256)])
    x = normal(rng, q.shape) * np.float32(60 * scale)
    halves = ((rng.integers(-300, 300, q.shape) + 0.5) * scale).astype(np.float32)
    halves = np.where(rng.random(q.shape) < 0.5, np.nextafter(halves, np.float32(0)), halves)
    x = np.where(rng.random(q.shape) < 0.3, halves, x).astype(np.float32)
    ratio = x / scale
    x = np.where(rng.random(q.shape) < 0.02, np.float32(np.nan), x)
    x = np.where(rng.random(q.shape) < 0.02, np.float32(-np.inf), x)
    made = nearest_bytes(np.where(np.isfinite(x), ratio, -1000.0), 0.0, Bytes(int(zero_point)))
    grid = np.array(scale), np.array(zero_point, np.uint8)
    return Case((x, *grid), **{**made, "tolerance": 0.0})


@family(Dequantize, st.builds(Dequantize, some_shape(), grids))
def dequantize_case(q: Dequantize, rng: np.random.Generator) -> Case:
    x = rng.integers(0, 256, q.shape).astype(np.uint8)
    exact = (x.astype(np.float64) - q.x.zero_point) * q.x.scale
    return Case((x,), exact.astype(np.float32).astype(np.float64))


@family(DynamicGrid, st.builds(DynamicGrid, some_shape()))
def dynamic_grid_case(q: DynamicGrid, rng: np.random.Generator) -> Case:
    """Numbers on both sides of 0 or on one, zeros alone, small and large ones; few with NaN or
    infinity among them."""
    x = normal(rng, q.shape) + np.float32(rng.choice([-5, 0, 0, 5]))
    x = x * np.float32(rng.choice([0, 1, 1, 1, 1e-30, 1e30]))
    odd = rng.choice([np.nan, np.inf, -np.inf], q.shape)
    x = np.where(rng.random(q.shape) < rng.choice([0, 0, 0.01]), odd, x).astype(np.float32)
    scale, zero_point = grid_for(x)
    return Case((x,), np.array(scale), others=(np.array(zero_point, np.uint8),))


def grid_for(x: np.ndarray) -> tuple[float, int]:
    """Scale and zero point by ONNX's definition of DynamicQuantizeLinear."""
    if np.isnan(x).any():
        return 1.0, 0
    low, high = (np.float32(end(0.0, *x.ravel().tolist())) for end in (min, max))
    if low == high:
        return 1.0, 0
    with np.errstate(all="ignore"):
        scale = (high - low) / np.float32(255)
        point = -low / scale
    return float(scale), 0 if np.isnan(point) else int(np.clip(np.rint(point), 0, 255))


def added(
    parts: list[np.ndarray], scale: float, shift: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """The sum of two numbers in units of ``scale``, and how far f32 may be from it."""
    a, b = parts
    more = 0.0 if shift is None else shift
    error = 2 * EPS * (np.abs(a) + np.abs(b) + abs(more)) / scale
    return (a + b + more) / scale, error


ADDITIONS = st.one_of(
    st.builds(IntegerAdd, some_shape(), grids, grids, scales, stored_bytes()),
    st.builds(
        IntegerAdd, some_shape(), grids, grids, st.just(1.0), stored_bytes(), shifts.filter(bool)
    ),
)


@family(IntegerAdd, ADDITIONS)
def add_case(q: IntegerAdd, rng: np.random.Generator) -> Case:
    a, b = (rng.integers(0, 256, q.shape).astype(np.uint8) for _ in range(2))
    parts = [(x.astype(np.float64) - g.zero_point) * g.scale for x, g in ((a, q.a), (b, q.b))]
    return Case((a, b), **nearest_bytes(*added(parts, q.scale, q.shift), q.y))


@family(Lookup, st.builds(Lookup, some_shape()))
def lookup_case(q: Lookup, rng: np.random.Generator) -> Case:
    x, table = (rng.integers(0, 256, s).astype(np.uint8) for s in (q.shape, (256,)))
    return Case((x,), np.array([table[i] for i in x.flat]).reshape(q.shape), (table,), dtype="u1")


WINDOWS = pool_problems().filter(lambda q: q.kind == "average").filter(has_no_empty_window)


@family(
    IntegerAveragePool2d, st.builds(IntegerAveragePool2d, WINDOWS, grids, scales, stored_bytes())
)
def average_case(q: IntegerAveragePool2d, rng: np.random.Generator) -> Case:
    pool, windows = q.pool, q.pool.windows
    x = rng.integers(0, 256, (pool.N, pool.C, windows.IH, windows.IW)).astype(np.uint8)
    floats = ((x.astype(np.float64) - q.x.zero_point) * q.x.scale).astype(np.float64)
    mean = pool_case(pool, rng, floats).expected / q.scale
    return Case((x,), **nearest_bytes(mean, 4 * EPS * np.abs(mean), q.y))


@pytest.mark.skipif(jit.jit_disabled(), reason="too many elements for Python")
@pytest.mark.parametrize(
    "problem",
    [
        Quantize((1, 3, 60, 61)),
        Quantize((1, 33, 60, 61)),
        Quantize((70001,)),
        DynamicGrid((2, 33, 60, 61)),
        DynamicGrid((70001,)),
        Dequantize((1, 33, 60, 61), Grid(0.5, 3)),
        IntegerAdd((1, 33, 60, 61), Grid(0.5, 3), Grid(0.25, 3), 1.5, Bytes(9)),
        Lookup((70001,)),
    ],
    ids=lambda q: type(q).__name__,
)
def test_more_than_one_work_item(problem: Any) -> None:
    usable = [k for k in all_kernels() if k.family is type(problem) and k.applies(problem)]
    assert usable
    for kernel in usable:
        made = FAMILIES[kernel.family].case(problem, np.random.default_rng(5))
        check(kernel, problem, made, threads=2)
