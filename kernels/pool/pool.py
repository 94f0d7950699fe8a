"""Max and average pools over blocked f32 tensors, max pools of bytes too, for any window.

Channels lie in the lanes, so a window is reduced by whole vectors. The two kernels differ in what
they work on at once:

* `pool_*_pixels` reduces the windows of R neighbouring output pixels side by side; pixels whose
  window leaves the picture are done one by one, over the taps that are inside;
* `pool_*_window` reduces one window, R neighbouring taps side by side: for large windows and
  few of them, such as global pools. Each row of a window is summed up by itself, which also keeps
  the rounding error of a large mean small.

Layout: x [N][C/L][IH][IW][L], y [N][C/L][OH][OW][L].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import end_inside, first_inside, taps_inside
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    fill,
    load,
    load_f32,
    lower_half,
    maximum,
    store,
    upper_half,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Vectors worked on at once: enough to hide an addition's latency.
ROWS = 8
#: Output pixels that one work item covers, about.
ITEM_PIXELS = 512


class Windows(NamedTuple):
    """Where the windows lie, letters as in `Conv2d`."""

    IH: int
    IW: int
    OH: int
    OW: int
    KH: int
    KW: int
    SH: int = 1
    SW: int = 1
    DH: int = 1
    DW: int = 1
    PT: int = 0
    PL: int = 0


@dataclass(frozen=True)
class Pool2d:
    """ONNX MaxPool (without indices) or AveragePool with explicit padding, of N×C×IH×IW.

    PB and PR are the declared padding at bottom and right: what a last window covers beyond it
    never counts, nor does any padding without ``count_include_pad``. A window without any element
    gives -inf (0 of bytes), or NaN as its mean. Elements are "f32", or "u8" of which maxima are
    taken.
    """

    kind: Literal["max", "average"]
    N: int
    C: int
    windows: Windows
    PB: int = 0
    PR: int = 0
    count_include_pad: bool = False
    dtype: Literal["f32", "u8"] = "f32"

    @property
    def flops(self) -> int:
        """One operation a tap."""
        w = self.windows
        return self.N * self.C * w.OH * w.OW * w.KH * w.KW


def global_pool(kind: Literal["max", "average"], N: int, C: int, IH: int, IW: int) -> Pool2d:
    """GlobalMaxPool or GlobalAveragePool."""
    return Pool2d(kind, N, C, Windows(IH, IW, 1, 1, IH, IW))


class PoolArguments(NamedTuple):
    """``planes`` are of L channels. ``counts`` is [OH] and then [OW] f32: the elements that a mean
    divides by are the product of a row's and a column's."""

    counts: Address
    planes: int
    windows: Windows
    x: Address = Operand("input")
    y: Address = Operand("output")


@inline
def larger(a: Any, b: Any) -> Any:
    return maximum(a, b)


@inline
def added(a: Any, b: Any) -> Any:
    return a + b


@inline
def count_at(counts: Any, windows: Any, oy: int, ox: int) -> Any:
    """What the mean of a window divides by."""
    return load_f32(counts + 4 * oy) * load_f32(counts + 4 * (windows.OH + ox))


@inline
def mean(shape: Any, total: Any, a: Any, oy: int, ox: int) -> Any:
    return total / fill(shape, count_at(a.counts, a.windows, oy, ox))


@inline
def unchanged(shape: Any, total: Any, a: Any, oy: int, ox: int) -> Any:
    return total


#: For each kind and element: what a window starts with, how an element joins it, and what is made
#: of it in the end.
REDUCTIONS: dict[tuple[str, str], tuple[float, Callable[..., Any], Callable[..., Any]]] = {
    ("max", "f32"): (-np.inf, larger, unchanged),
    ("max", "u8"): (0, larger, unchanged),
    ("average", "f32"): (0.0, added, mean),
}


@inline
def reduced(shape, start, combine, w, source, kh0, kh1, kw0, kw1):
    """The windows of as many output pixels as ``shape`` has rows, those taps alone. ``source`` is
    where the first one's first tap would be."""
    V = shape.bytes
    total = fill(shape, start)
    for kh in range(kh0, kh1):
        at = source + (kh * w.DH * w.IW + kw0 * w.DW) * V
        for _ in range(kw0, kw1):
            total = combine(total, load(shape, at, w.SW * V, 0))
            at += w.DW * V
    return total


@inline
def joined_by_row(join, tile, one, many, single, source, step, kw0, kw1):
    """``many`` and ``single`` with the taps of a row, ``step`` bytes apart: as many at once as
    ``tile`` has rows, those left over one by one."""
    kw = kw0
    while kw + tile.rows <= kw1:
        many = join(many, load(tile, source + kw * step, step, 0))
        kw += tile.rows
    while kw < kw1:
        single = join(single, load(one, source + kw * step, 0, 0))
        kw += 1
    return many, single


@inline
def folded(combine, eight):
    """One row of all eight of a tile."""
    four = combine(upper_half(eight), lower_half(eight))
    two = combine(upper_half(four), lower_half(four))
    return combine(upper_half(two), lower_half(two))


def pool_pixels(kind: str, dtype: str, lanes: int) -> Callable[..., None]:
    """The kernel that works on R output pixels at once."""
    start, combine, finish = REDUCTIONS[kind, dtype]
    tile, one = TileShape(ROWS, 1, lanes, dtype), TileShape(1, 1, lanes, dtype)
    R, V = ROWS, one.bytes

    def kernel(thread, work, a: PoolArguments):
        w = a.windows
        item_rows = max(1, ITEM_PIXELS // w.OW)
        items = (w.OH + item_rows - 1) // item_rows
        inner = first_inside(w.SW, w.PL, w.OW)
        outer = end_inside(w.IW, w.KW, w.SW, w.DW, w.PL, w.OW)
        item = claim(work)
        while item < a.planes * items:
            plane, first = item // items, item % items * item_rows
            for oy in range(first, min(w.OH, first + item_rows)):
                kh0, kh1 = taps_inside(w.IH, w.KH, w.SH, w.DH, w.PT, oy)
                source = a.x + ((plane * w.IH + oy * w.SH - w.PT) * w.IW - w.PL) * V
                result = a.y + (plane * w.OH + oy) * w.OW * V
                ox = 0
                while ox < w.OW:
                    if ox >= inner and ox < outer and outer - inner >= R:
                        ox = min(ox, outer - R)
                        at = source + ox * w.SW * V
                        many = reduced(tile, start, combine, w, at, kh0, kh1, 0, w.KW)
                        store(finish(tile, many, a, oy, ox), result + ox * V, V, 0)
                        ox += R
                    else:
                        kw0, kw1 = taps_inside(w.IW, w.KW, w.SW, w.DW, w.PL, ox)
                        at = source + ox * w.SW * V
                        single = reduced(one, start, combine, w, at, kh0, kh1, kw0, kw1)
                        store(finish(one, single, a, oy, ox), result + ox * V, 0, 0)
                        ox += 1
            item = claim(work)

    return kernel


def pool_window(kind: str, dtype: str, lanes: int) -> Callable[..., None]:
    """The kernel that works on R taps at once."""
    start, combine, finish = REDUCTIONS[kind, dtype]
    tile, one = TileShape(ROWS, 1, lanes, dtype), TileShape(1, 1, lanes, dtype)
    V = one.bytes

    def kernel(thread, work, a: PoolArguments):
        w = a.windows
        item = claim(work)
        while item < a.planes * w.OH * w.OW:
            plane, oy, ox = item // (w.OH * w.OW), item // w.OW % w.OH, item % w.OW
            kh0, kh1 = taps_inside(w.IH, w.KH, w.SH, w.DH, w.PT, oy)
            kw0, kw1 = taps_inside(w.IW, w.KW, w.SW, w.DW, w.PL, ox)
            total = fill(one, start)
            for kh in range(kh0, kh1):
                row = plane * w.IH + oy * w.SH - w.PT + kh * w.DH
                source = a.x + (row * w.IW + ox * w.SW - w.PL) * V
                many, single = fill(tile, start), fill(one, start)
                many, single = joined_by_row(
                    combine, tile, one, many, single, source, w.DW * V, kw0, kw1
                )
                total = combine(total, combine(folded(combine, many), single))
            store(finish(one, total, a, oy, ox), a.y + item * V, 0, 0)
            item = claim(work)

    return kernel


def window_counts(problem: Pool2d) -> np.ndarray:
    """How many elements a mean divides by: [OH] along H, then [OW] along W, f32."""
    q, w = problem, problem.windows
    along = (
        (w.IH, w.OH, w.KH, w.SH, w.DH, w.PT, q.PB),
        (w.IW, w.OW, w.KW, w.SW, w.DW, w.PL, q.PR),
    )
    counts = []
    for size, out, K, S, D, begin, end in along:
        met = np.arange(out)[:, None] * S - begin + np.arange(K) * D
        low, high = (-begin, size + end) if q.count_include_pad else (0, size)
        counts.append(np.count_nonzero((met >= low) & (met < high), axis=1))
    return np.concatenate(counts).astype(np.float32)


def prepare(factory: Callable[..., Callable[..., None]], problem: Pool2d) -> Launch:
    """No constants."""
    q = problem
    return Launch(
        Code(factory, (q.kind, q.dtype, target().lanes)),
        PoolArguments(window_counts(q), planes=q.N * blocks(q.C), windows=q.windows),
    )


def _cost(problem: Pool2d, ns_per_tap: float, ns_per_pixel: float) -> float:
    w = problem.windows
    pixels = problem.N * blocks(problem.C) * w.OH * w.OW
    return pixels * (w.KH * w.KW * ns_per_tap + ns_per_pixel)


class PoolRates(NamedTuple):
    """One vector that is loaded and joined; and waiting for one that the next needs."""

    load: float
    latency: float


def pixels_cost(problem: Pool2d) -> float:
    """Nanoseconds: one load a tap, or one latency where there are no R pixels side by side."""
    r = rates("pool", PoolRates)
    return _cost(problem, r.load if problem.windows.OW > ROWS else r.latency, r.latency)


def window_cost(problem: Pool2d) -> float:
    """Nanoseconds: one load a tap, or one latency where there are no R taps side by side, and for
    each row of the window one reduction of R vectors."""
    r = rates("pool", PoolRates)
    ns_per_tap = r.load if problem.windows.KW >= ROWS else r.latency
    return _cost(problem, ns_per_tap, (1 + 4 * problem.windows.KH) * r.latency)


def floats_apply(problem: Pool2d) -> bool:
    """Both kinds."""
    return problem.dtype == "f32"


def bytes_apply(problem: Pool2d) -> bool:
    """Maxima."""
    return problem.dtype == "u8" and problem.kind == "max"


KERNELS = tuple(
    Kernel(f"pool_{dtype}_{way}", Pool2d, partial(prepare, factory), applies=applies, cost=cost)
    for dtype, applies in (("f32", floats_apply), ("u8", bytes_apply))
    for way, factory, cost in (
        ("pixels", pool_pixels, pixels_cost),
        ("window", pool_window, window_cost),
    )
)
