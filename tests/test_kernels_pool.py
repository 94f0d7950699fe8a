"""Pooling kernels against loops over windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from kernel_harness import Case, channels, check, family, normal, sizes
from oracles import average_pool, max_pool, windowed_size

from minseg.kernels.core.jit import jit_disabled
from minseg.kernels.core.registry import Kernel, all_kernels, select
from minseg.kernels.pool.pool import Pool2d, Windows, global_pool

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

EPS = float(np.finfo(np.float32).eps)


@st.composite
def pool_problems(draw: st.DrawFn) -> Pool2d:
    kind, dtype = draw(st.sampled_from([("max", "f32"), ("average", "f32"), ("max", "u8")]))
    N, C, ceil_mode = draw(st.integers(1, 2)), draw(channels(2)), draw(st.booleans())
    along = []
    wide = draw(st.booleans())
    for largest in (7, 24 if wide else 9):
        K = draw(sizes(largest))
        S, D = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 1, 2]))
        extent = (K - 1) * D + 1
        size = draw(st.integers(0, 24)) + max(1, extent - 2 * (K - 1))
        begin = draw(st.integers(0, min(K - 1, max(0, extent - 1))))
        end = max(draw(st.integers(0, K - 1)), extent - size - begin)
        out = windowed_size(size, K, S, begin, end, D, ceil_mode)
        along.append((size, out, K, S, D, begin, end))
    sizes_, outs, Ks, Ss, Ds, begins, ends = zip(*along, strict=True)
    windows = Windows(*sizes_, *outs, *Ks, *Ss, *Ds, *begins)
    return Pool2d(kind, N, C, windows, *ends, draw(st.booleans()), dtype)


def has_no_empty_window(q: Pool2d) -> bool:
    w = q.windows
    along = (
        (w.IH, w.OH, w.KH, w.SH, w.DH, w.PT),
        (w.IW, w.OW, w.KW, w.SW, w.DW, w.PL),
    )
    return all(
        any(0 <= o * S - P + k * D < size for k in range(K))
        for size, out, K, S, D, P in along
        for o in range(out)
    )


@family(Pool2d, pool_problems().filter(has_no_empty_window))
def pool_case(q: Pool2d, rng: np.random.Generator, x: np.ndarray | None = None) -> Case:
    """``x`` is drawn where it is not given."""
    w = q.windows
    if x is None:
        x = normal(rng, (q.N, q.C, w.IH, w.IW))
    layout = ((w.KH, w.KW), (w.SH, w.SW), (w.PT, w.PL, q.PB, q.PR), (w.DH, w.DW))
    # The output sizes were drawn with or without ceil_mode: with it where that gives them.
    ceil_mode = any(
        out != windowed_size(*axis, ceil_mode=False)
        for out, axis in (
            (w.OH, (w.IH, w.KH, w.SH, w.PT, q.PB, w.DH)),
            (w.OW, (w.IW, w.KW, w.SW, w.PL, q.PR, w.DW)),
        )
    )
    if q.dtype == "u8":
        x = rng.integers(0, 256, x.shape).astype(np.uint8)
    if q.kind == "max":
        return Case((x,), max_pool(x, *layout, ceil_mode)[0], dtype=x.dtype)
    y = average_pool(x, *layout, ceil_mode, q.count_include_pad)
    magnitude = average_pool(np.abs(x), *layout, ceil_mode, q.count_include_pad)
    return Case((x,), y, tolerance=(w.KH * w.KW + 2) * EPS * magnitude)


POOLS = [k for k in all_kernels() if k.family is Pool2d and "f32" in k.name]
kernels = pytest.mark.parametrize("kernel", POOLS, ids=lambda k: k.name)


@kernels
def test_nan_wins_wherever_it_stands(kernel: Kernel) -> None:
    rng = np.random.default_rng(0)
    x = normal(rng, (1, 3, 6, 40))
    x[0, 0, 2, 3], x[0, 1, 5, 39], x[0, 2, 0, 20] = np.nan, np.nan, np.inf
    problem = Pool2d("max", 1, 3, Windows(6, 40, 3, 20, 2, 2, 2, 2))
    windows = x.reshape(1, 3, 3, 2, 20, 2)
    check(kernel, problem, Case((x,), windows.max((3, 5)).astype(np.float64)))
    mean = Pool2d("average", 1, 3, Windows(6, 40, 3, 20, 2, 2, 2, 2))
    expected = windows.astype(np.float64).mean((3, 5))
    largest = np.abs(x[np.isfinite(x)]).max()
    check(kernel, mean, Case((x,), expected, tolerance=4 * EPS * largest))
    whole = x.max((2, 3), keepdims=True).astype(np.float64)
    assert np.isnan(whole[0, :2]).all() and np.isinf(whole[0, 2]).all()
    check(kernel, global_pool("max", 1, 3, 6, 40), Case((x,), whole))


@kernels
def test_a_window_of_padding_alone(kernel: Kernel) -> None:
    x = np.array([[[[1.0, 2.0]]]], np.float32)
    for kind, of_nothing in (("max", -np.inf), ("average", np.nan)):
        problem = Pool2d(kind, 1, 1, Windows(1, 2, 1, 4, 1, 1, PL=1), PR=1)
        expected = np.array([[[[of_nothing, 1, 2, of_nothing]]]])
        check(kernel, problem, Case((x,), expected))


@kernels
def test_the_mean_of_a_large_picture(kernel: Kernel) -> None:
    """Within a few roundings of the exact mean, though a million elements are added up."""
    if select(global_pool("average", 1, 1, 1000, 1000)) is not kernel:
        pytest.skip("not the kernel that is chosen for global pools")
    H = W = 10 if jit_disabled() else 1000
    x = np.random.default_rng(0).random((1, 1, H, W), np.float32)
    expected = x.mean((2, 3), np.float64, keepdims=True)
    check(kernel, global_pool("average", 1, 1, H, W), Case((x,), expected, tolerance=50 * EPS))


def test_the_kernel_chosen() -> None:
    by_two = Pool2d("max", 1, 64, Windows(368, 480, 184, 240, 2, 2, 2, 2))
    assert [select(q).name for q in (by_two, global_pool("average", 1, 64, 24, 24))] == [
        "pool_f32_pixels",
        "pool_f32_window",
    ]
