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
from typing import Any, Literal

import numpy as np

from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import end_inside, first_inside, taps_before
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

#: Vectors worked on at once: enough to hide an addition's latency.
ROWS = 8
#: Output pixels that one work item covers, about.
ITEM_PIXELS = 512


@dataclass(frozen=True)
class Pool2d:
    """ONNX MaxPool (without indices) or AveragePool with explicit padding.

    Letters as in `Conv2d`. PB and PR are the declared padding at bottom and right: what a last
    window covers beyond it never counts, nor does any padding without ``count_include_pad``.
    A window without any element gives -inf (0 of bytes), or NaN as its mean. Elements are "f32",
    or "u8" of which maxima are taken.
    """

    kind: Literal["max", "average"]
    N: int
    C: int
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
    PB: int = 0
    PR: int = 0
    count_include_pad: bool = False
    dtype: Literal["f32", "u8"] = "f32"

    @property
    def flops(self) -> int:
        """One operation a tap."""
        return self.N * self.C * self.OH * self.OW * self.KH * self.KW


def global_pool(kind: Literal["max", "average"], N: int, C: int, IH: int, IW: int) -> Pool2d:
    """GlobalMaxPool or GlobalAveragePool."""
    return Pool2d(kind, N, C, IH, IW, 1, 1, IH, IW)


@inline
def larger(a: Any, b: Any) -> Any:
    return maximum(a, b)


@inline
def added(a: Any, b: Any) -> Any:
    return a + b


#: For each kind and element: what a window starts with, and how an element joins it.
REDUCTIONS: dict[tuple[str, str], tuple[float, Callable[[Any, Any], Any]]] = {
    ("max", "f32"): (-np.inf, larger),
    ("max", "u8"): (0, larger),
    ("average", "f32"): (0.0, added),
}


def pool_pixels(kind: str, dtype: str, lanes: int) -> Callable[..., None]:
    """The kernel that works on R output pixels at once. ``counts`` is [OH] and then [OW] f32: the
    elements that a mean divides by are the product of a row's and a column's."""
    start, combine = REDUCTIONS[kind, dtype]
    mean = kind == "average"
    tile, one = TileShape(ROWS, 1, lanes, dtype), TileShape(1, 1, lanes, dtype)
    R, V = ROWS, one.bytes

    def kernel(
        thread, work, x, y, counts, planes, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        items, item_rows,
    ):  # fmt: skip
        inner = first_inside(SW, PL, OW)
        outer = end_inside(IW, KW, SW, DW, PL, OW)
        item = claim(work)
        while item < planes * items:
            plane, part = item // items, item % items
            for oy in range(part * item_rows, min(OH, (part + 1) * item_rows)):
                kh0 = taps_before(PT - oy * SH, DH, KH)
                kh1 = taps_before(IH + PT - oy * SH, DH, KH)
                source = x + (plane * IH + oy * SH - PT) * IW * V
                result = y + (plane * OH + oy) * OW * V
                ox = 0
                while ox < OW:
                    if ox >= inner and ox < outer and outer - inner >= R:
                        ox = min(ox, outer - R)
                        many = fill(tile, start)
                        for kh in range(kh0, kh1):
                            at = source + (kh * DH * IW + ox * SW - PL) * V
                            for _ in range(KW):
                                many = combine(many, load(tile, at, SW * V, 0))
                                at += DW * V
                        if mean:
                            count = load_f32(counts + 4 * oy) * load_f32(counts + 4 * (OH + ox))
                            many = many / fill(tile, count)
                        store(many, result + ox * V, V, 0)
                        ox += R
                    else:
                        single = fill(one, start)
                        kw0 = taps_before(PL - ox * SW, DW, KW)
                        kw1 = taps_before(IW + PL - ox * SW, DW, KW)
                        for kh in range(kh0, kh1):
                            at = source + (kh * DH * IW + ox * SW - PL + kw0 * DW) * V
                            for _ in range(kw0, kw1):
                                single = combine(single, load(one, at, 0, 0))
                                at += DW * V
                        if mean:
                            count = load_f32(counts + 4 * oy) * load_f32(counts + 4 * (OH + ox))
                            single = single / fill(one, count)
                        store(single, result + ox * V, 0, 0)
                        ox += 1
            item = claim(work)

    return kernel


def pool_window(kind: str, dtype: str, lanes: int) -> Callable[..., None]:
    """The kernel that works on R taps at once; arguments as those of `pool_pixels`."""
    start, combine = REDUCTIONS[kind, dtype]
    mean = kind == "average"
    tile, one = TileShape(ROWS, 1, lanes, dtype), TileShape(1, 1, lanes, dtype)
    R, V = ROWS, one.bytes

    def kernel(
        thread, work, x, y, counts, planes, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        items, item_rows,
    ):  # fmt: skip
        item = claim(work)
        while item < planes * OH * OW:
            plane, oy, ox = item // (OH * OW), item // OW % OH, item % OW
            kh0 = taps_before(PT - oy * SH, DH, KH)
            kh1 = taps_before(IH + PT - oy * SH, DH, KH)
            kw0 = taps_before(PL - ox * SW, DW, KW)
            kw1 = taps_before(IW + PL - ox * SW, DW, KW)
            total = fill(one, start)
            for kh in range(kh0, kh1):
                row = plane * IH + oy * SH - PT + kh * DH
                source = x + (row * IW + ox * SW - PL) * V
                many, single = fill(tile, start), fill(one, start)
                kw = kw0
                while kw + R <= kw1:
                    many = combine(many, load(tile, source + kw * DW * V, DW * V, 0))
                    kw += R
                while kw < kw1:
                    single = combine(single, load(one, source + kw * DW * V, 0, 0))
                    kw += 1
                four = combine(upper_half(many), lower_half(many))
                two = combine(upper_half(four), lower_half(four))
                folded = combine(upper_half(two), lower_half(two))
                total = combine(total, combine(folded, single))
            if mean:
                count = load_f32(counts + 4 * oy) * load_f32(counts + 4 * (OH + ox))
                total = total / fill(one, count)
            store(total, y + item * V, 0, 0)
            item = claim(work)

    return kernel


def window_counts(problem: Pool2d) -> np.ndarray:
    """How many elements a mean divides by: [OH] along H, then [OW] along W, f32."""
    q = problem
    along = (
        (q.IH, q.OH, q.KH, q.SH, q.DH, q.PT, q.PB),
        (q.IW, q.OW, q.KW, q.SW, q.DW, q.PL, q.PR),
    )
    counts = []
    for size, out, K, S, D, begin, end in along:
        met = np.arange(out)[:, None] * S - begin + np.arange(K) * D
        low, high = (-begin, size + end) if q.count_include_pad else (0, size)
        counts.append(np.count_nonzero((met >= low) & (met < high), axis=1))
    return np.concatenate(counts).astype(np.float32)


def _prepare(factory: Callable[..., Callable[..., None]], problem: Pool2d) -> Launch:
    q = problem
    item_rows = max(1, ITEM_PIXELS // q.OW)
    return Launch(
        Code(factory, (q.kind, q.dtype, target().lanes)),
        (
            Operand("input"),
            Operand("output"),
            Operand("constant"),
            q.N * blocks(q.C),
            *(q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW, q.DH, q.DW, q.PT, q.PL),
            -(-q.OH // item_rows),
            item_rows,
        ),
        (window_counts(q),),
    )


def prepare_pixels(problem: Pool2d) -> Launch:
    """No constants."""
    return _prepare(pool_pixels, problem)


def prepare_window(problem: Pool2d) -> Launch:
    """No constants."""
    return _prepare(pool_window, problem)


def _cost(problem: Pool2d, ns_per_tap: float, ns_per_pixel: float) -> float:
    q = problem
    pixels = q.N * blocks(q.C) * q.OH * q.OW
    return pixels * (q.KH * q.KW * ns_per_tap + ns_per_pixel)


def pixels_cost(problem: Pool2d) -> float:
    """Nanoseconds: one load a tap, or one latency where there are no R pixels side by side."""
    return _cost(problem, NS_PER_LOAD if problem.OW > ROWS else NS_PER_LATENCY, NS_PER_LATENCY)


def window_cost(problem: Pool2d) -> float:
    """Nanoseconds: one load a tap, or one latency where there are no R taps side by side, and for
    each row of the window one reduction of R vectors."""
    ns_per_tap = NS_PER_LOAD if problem.KW >= ROWS else NS_PER_LATENCY
    return _cost(problem, ns_per_tap, (1 + 4 * problem.KH) * NS_PER_LATENCY)


NS_PER_LOAD, NS_PER_LATENCY = 0.3, 1.2


def floats_apply(problem: Pool2d) -> bool:
    """Both kinds."""
    return problem.dtype == "f32"


def bytes_apply(problem: Pool2d) -> bool:
    """Maxima."""
    return problem.dtype == "u8" and problem.kind == "max"


KERNELS = (
    Kernel("pool_f32_pixels", Pool2d, prepare_pixels, applies=floats_apply, cost=pixels_cost),
    Kernel("pool_f32_window", Pool2d, prepare_window, applies=floats_apply, cost=window_cost),
    Kernel("pool_u8_pixels", Pool2d, prepare_pixels, applies=bytes_apply, cost=pixels_cost),
    Kernel("pool_u8_window", Pool2d, prepare_window, applies=bytes_apply, cost=window_cost),
)
