"""3×3 convolution of stride 1 by Winograd's F(4×4, 3×3), on blocked f32 tensors.

Of each 6×6 patch of input, overlapping its neighbours by 2, it makes 4×4 outputs with 36
multiplications a channel pair where the direct kernel (conv.py) needs 144 (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016):

    y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A

G w Gᵀ is made once (winograd_weights.py). A work item is a group of T patches, in three stages, in
scratch memory that stays in the caches: V = Bᵀ x B for all input channels; then, for one tile of
C·L output channels after the other, a matrix product M = V·U for each of the 36 positions, T × IC
by IC × C·L, with the direct kernel's micro-kernel; and y = Aᵀ M A with bias, residual and
activation. Of the last groups an item is one such tile only (`share`). A dilated convolution is
D×D convolutions on every D-th pixel, whose patches differ only in the distance of their pixels.

The lean kernel keeps the weights as they are, a quarter of the memory, and transforms them in every
item: that costs little where large weights meet few patches.

Which of the two is faster, `cost` tells: transforms pay off with enough channels. The rounding
error is a few times the direct kernel's, and a NaN or infinity reaches all outputs of its patches.

Layouts: x, y and residual as in conv.py; weights as in winograd_weights.py;
V [36][T][IC], IC rounded up to blocks, M [36][T][C][L].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from minseg.kernels.conv.direct import Conv2d, direct_tile
from minseg.kernels.conv.winograd_weights import (
    ALL_TAPS,
    FAR,
    NEAR,
    POSITIONS,
    packed_weights,
    transform_channels,
)
from minseg.kernels.core.activation import FORMULAS
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.scheduling import next_item, share, whole_groups
from minseg.kernels.isa.simd import (
    TileShape,
    even_addresses,
    exchange,
    fill,
    fma,
    load,
    load_i32,
    load_rows,
    outer_fma,
    prefetch,
    store,
    store_rows,
    stream_rows,
    zeros,
)
from minseg.kernels.isa.target import second_cache_bytes, target

if TYPE_CHECKING:
    from minseg.kernels.conv.direct_integer import IntegerConv2d

#: Steps that are summed up in registers before the sum goes to M: their weights stay in the cache
#: for all patches of an item, and short sums keep rounding errors small.
CHUNK = 128
#: Input channels whose weights are transformed at a time where that is done in each run: so many
#: stay in the L2 cache.
LEAN_CHUNK = 64
#: Outputs of a patch along an axis.
OUT = 4
#: A patch's products by the definition, for each one here.
SAVED = (OUT * OUT * 3 * 3) // POSITIONS
#: What the table of patches says of each: top left input pixel, top left output pixel, and how
#: many rows and columns of outputs the picture has there.
PATCH_COLUMNS = ("iy", "ix", "oy", "ox", "rows", "columns")
PATCH_BYTES = 4 * len(PATCH_COLUMNS)
#: Bytes between the positions' matrices, so that their rows don't meet in one set of the cache.
PAD = 64


@inline
def transform_input(shape, d):
    """Bᵀ d for six rows of a patch."""
    d0, d1, d2, d3, d4, d5 = d
    a = fma(fill(shape, -(FAR**2)), d2, d4)
    b = fma(fill(shape, NEAR), d3, fill(shape, -FAR) * d1)
    c = fma(fill(shape, -(NEAR**2)), d2, d4)
    e = fma(fill(shape, FAR), d3, fill(shape, -NEAR) * d1)
    both = fill(shape, -(NEAR**2) - FAR**2)
    return fma(both, d2, d0 + d4), a + b, a - b, c + e, c - e, fma(both, d3, d1 + d5)


@inline
def transform_output(shape, m):
    """Aᵀ m for six rows of products."""
    m0, m1, m2, m3, m4, m5 = m
    s, d, t, e = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return (
        m0 + s + t,
        fma(fill(shape, FAR), e, fill(shape, NEAR) * d),
        fma(fill(shape, FAR**2), t, fill(shape, NEAR**2) * s),
        fma(fill(shape, FAR**3), e, fma(fill(shape, NEAR**3), d, m5)),
    )


@inline
def load_patch(rows, x, row_bytes, pixel_bytes):
    """Six rows of six pixels."""
    return (
        load(rows, x, pixel_bytes, 0),
        load(rows, x + row_bytes, pixel_bytes, 0),
        load(rows, x + 2 * row_bytes, pixel_bytes, 0),
        load(rows, x + 3 * row_bytes, pixel_bytes, 0),
        load(rows, x + 4 * row_bytes, pixel_bytes, 0),
        load(rows, x + 5 * row_bytes, pixel_bytes, 0),
    )


@inline
def copy_patch(one, patch, x, outside, iy, ix, IH, IW, D, V):
    """A patch that leaves the picture, in memory of its own, with the pixel at ``outside``
    around."""
    for r in range(6):
        for c in range(6):
            y_in, x_in = iy + r * D, ix + c * D
            inside = y_in >= 0 and y_in < IH and x_in >= 0 and x_in < IW
            pixel = load(one, x + (y_in * IW + x_in) * V if inside else outside, 0, 0)
            store(pixel, patch + (r * 6 + c) * V, 0, 0)


@inline
def gather(
    down, across, six, rows, one, x, patches, first, last, v, v_block, v_row, v_step,
    patch, outside, ICB, IH, IW, D, V,
):  # fmt: skip
    """V = Bᵀ x B of patches ``first`` … ``last``-1, block after block of channels, ``v_block``
    bytes apart.

    ``down`` and ``across`` transform ``six`` rows (`transform_input`, or what works like it);
    ``rows`` and ``one`` are six pixels and one, of V bytes, as x has them.
    """
    for icb in range(ICB):
        plane = x + icb * IH * IW * V
        for t in range(first, last):
            at = patches + t * PATCH_BYTES
            iy, ix = load_i32(at), load_i32(at + 4)
            if iy >= 0 and ix >= 0 and iy + 5 * D < IH and ix + 5 * D < IW:
                d = load_patch(rows, plane + (iy * IW + ix) * V, D * IW * V, D * V)
            else:
                copy_patch(one, patch, plane, outside, iy, ix, IH, IW, D, V)
                d = load_patch(rows, patch, 6 * V, V)
            transformed = across(six, exchange(down(six, d)))
            store_tiles(transformed, v + (t - first) * v_row + icb * v_block, v_step, 6 * v_step)


@inline
def product(
    outer, tile, R, C, u, ahead, ahead_step, v, v_row, m, m_row, count, steps, adding, V
):  # fmt: skip
    """M = V·U, or more of it, for one position, in so many ``steps`` of ``outer``, each of 4 bytes
    of V (`outer_fma`, or what works like it). Meanwhile what lies ``ahead`` is fetched,
    ``ahead_step`` bytes further on for each tile of patches."""
    for t in range(0, count, R):
        rows = even_addresses(tile, v + t * v_row, v_row)
        fetched = ahead + t // R * ahead_step
        acc = zeros(tile)
        for step in range(steps):
            prefetch(fetched + step * V)
            acc = outer(acc, rows, 4 * step, u + step * C * V, V)
        if adding:
            acc = acc + load_rows(tile, m + t * m_row, m_row, V, count - t)
        store_rows(acc, m + t * m_row, m_row, V, count - t)


@inline
def multiply(outer, tile, R, C, u, v, v_row, v_step, m, m_row, m_step, count, steps, V):
    """M = V·U for one tile of output channels: a `product` for each of the 36 positions."""
    for position in range(POSITIONS):
        for first in range(0, steps, CHUNK):
            weights = u + (position * steps + first) * C * V
            product(
                outer, tile, R, C, weights, weights + CHUNK * C * V, CHUNK * V,
                v + position * v_step + 4 * first, v_row, m + position * m_step, m_row,
                count, min(CHUNK, steps - first), first > 0, V,
            )  # fmt: skip


@inline
def multiply_lean(tile, three, six, R, C, w, u, v, v_row, v_step, m, m_row, m_step, count, IC, V):
    """`multiply` with weights ``w`` that are yet to be transformed, a few input channels at a time,
    into ``u``."""
    row = C * V
    u_step = LEAN_CHUNK * row + PAD
    for ic in range(0, IC, LEAN_CHUNK):
        channels = min(LEAN_CHUNK, IC - ic)
        at = w + ic * ALL_TAPS * row
        for c in range(C):
            transform_channels(
                three, six, at + c * V, ALL_TAPS * row, u + c * V, row, u_step, channels, False
            )
        ahead = at + LEAN_CHUNK * ALL_TAPS * row
        for position in range(POSITIONS):
            product(
                outer_fma, tile, R, C, u + position * u_step, ahead + position * LEAN_CHUNK * V, 0,
                v + position * v_step + 4 * ic, v_row, m + position * m_step, m_row,
                count, channels, ic > 0, V,
            )  # fmt: skip


@inline
def scatter(
    activate, residual, six, four, m, m_row, m_step, patches, first, last, b, z, y,
    C, OH, OW, D, V, streamed, alpha, beta,
):  # fmt: skip
    """y = Aᵀ M A, with bias, residual and activation, for one tile of output channels."""
    for ocb in range(C):
        bias = load(four, b + ocb * V, 0, 0)
        for t in range(first, last):
            at = patches + t * PATCH_BYTES
            oy, ox = load_i32(at + 8), load_i32(at + 12)
            height, width = load_i32(at + 16), load_i32(at + 20)
            products = load_patch(six, m + (t - first) * m_row + ocb * V, 6 * m_step, m_step)
            rows = transform_output(four, exchange(transform_output(six, products)))
            out = (ocb * OH + oy) * OW * V + ox * V
            below = 0
            for row in exchange(rows):
                if below < height:
                    to = out + below * D * OW * V
                    row = row + bias
                    if residual:
                        row = row + load_rows(four, z + to, D * V, 0, width)
                    row = activate(four, row, alpha, beta)
                    if streamed:
                        stream_rows(row, y + to, D * V, 0, width)
                    else:
                        store_rows(row, y + to, D * V, 0, width)
                below += 1  # noqa: SIM113  tiles are unrolled, a counter is not


def winograd(tile: TileShape, activation: str, residual: bool, lean: bool) -> Callable[..., None]:
    """The kernel; ``tile`` is the products' register tile. It is ``lean`` if it transforms the
    weights too."""
    activate = FORMULAS[activation]
    R, C, L = tile.rows, tile.cols, tile.lanes
    six, four, one = TileShape(6, 1, L), TileShape(4, 1, L), TileShape(1, 1, L)
    three = TileShape(3, 1, L)
    V = one.bytes

    def kernel(
        thread, work, x, u, b, z, y, patches, scratch, scratch_bytes,
        threads, N, count, groups, T, ICB, IC, OCT, IH, IW, OH, OW, D, streamed,
        alpha: float, beta: float,
    ):  # fmt: skip
        v_row, m_row = ICB * V, C * V
        v_step, m_step = T * v_row + PAD, T * m_row + PAD
        v = scratch + thread * scratch_bytes
        m = v + POSITIONS * v_step
        patch = m + POSITIONS * m_step
        outside = patch + POSITIONS * V
        store(zeros(one), outside, 0, 0)
        transformed = outside + V
        whole = whole_groups(N * groups, threads)
        gathered = -1
        shared = (N * groups - whole) * OCT
        items = whole + shared
        item, run_end = next_item(0, 0, work, items, shared, threads)
        while item < run_end:
            group, begin, end = share(item, whole, OCT)
            n, first = group // groups, group % groups * T
            last = min(count, first + T)
            if group != gathered:
                gather(
                    transform_input, transform_input, six, six, one, x + n * ICB * IH * IW * V,
                    patches, first, last, v, V, v_row, v_step, patch, outside, ICB, IH, IW, D, V,
                )  # fmt: skip
                gathered = group
            for oct in range(begin, end):
                if lean:
                    weights = u + oct * IC * ALL_TAPS * C * V
                    multiply_lean(
                        tile, three, six, R, C, weights, transformed, v, v_row, v_step,
                        m, m_row, m_step, last - first, IC, V,
                    )  # fmt: skip
                else:
                    weights = u + oct * POSITIONS * IC * C * V
                    multiply(
                        outer_fma, tile, R, C, weights, v, v_row, v_step, m, m_row, m_step,
                        last - first, IC, V,
                    )  # fmt: skip
                out = (n * OCT + oct) * C * OH * OW * V
                scatter(
                    activate, residual, six, four, m, m_row, m_step, patches, first, last,
                    b + oct * C * V, z + out, y + out, C, OH, OW, D, V, streamed, alpha, beta,
                )  # fmt: skip
            item, run_end = next_item(item, run_end, work, items, shared, threads)

    return kernel


@inline
def store_tiles(tiles, to, tile_bytes, row_bytes):
    """Store each tile ``tile_bytes`` after the one before."""
    for tile in tiles:
        store(tile, to, row_bytes, 0)
        to += tile_bytes


def patches_of(problem: Conv2d | IntegerConv2d) -> np.ndarray:
    """The table of patches (`PATCH_COLUMNS`), phase after phase of a dilated convolution."""
    q = problem
    rows, columns = axis_patches(q.OH, q.DH), axis_patches(q.OW, q.DH)
    table = []
    for oy, height in rows:
        for ox, width in columns:
            parts = (oy[:, None] - q.PT, ox - q.PL, oy[:, None], ox, height[:, None], width)
            table.append(np.stack(np.broadcast_arrays(*parts), -1).reshape(-1, len(parts)))
    return np.concatenate(table).astype(np.int32)


def axis_patches(size: int, D: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each phase of a dilation ``D``, where patches begin along an axis of so many outputs,
    and how many outputs they have there."""
    phases = []
    for phase in range(D):
        at = np.arange(0, -(-(size - phase) // D), OUT)
        phases.append((phase + at * D, np.minimum(OUT, -(-(size - phase) // D) - at)))
    return phases


def patch_count(problem: Conv2d) -> int:
    """The rows of that table."""
    q = problem
    along = [sum(len(at) for at, _ in axis_patches(size, q.DH)) for size in (q.OH, q.OW)]
    return along[0] * along[1]


#: About how many patches' products share one pass over the weights: few where the weights stay in
#: the L2 cache and should leave room for V and M, many where each pass fetches them from beyond it;
#: but not so many where that cache is large enough to hold V and M then.
FEW, MANY, NOT_SO_MANY = 12, 40, 30
LARGE_CACHE_BYTES = 2 * 2**20
#: Outputs from this size on are written past the caches.
STREAMED_BYTES = 16 * 2**20
#: Bytes of weights that may stay in the L2 cache.
CACHED_WEIGHT_BYTES = 640 * 1024
#: Bytes from which on weights are fetched from memory in every run, and from which on one layer's
#: would need as much memory as all else.
LARGE_WEIGHT_BYTES, HUGE_WEIGHT_BYTES = 16 * 2**20, 64 * 2**20


def patches_per_group(count: int, weight_bytes: int, rows: int) -> int:
    """T for ``count`` patches: groups of nearly equal size, in whole register tiles of ``rows``;
    rather somewhat larger ones than another one that passes over the weights."""
    about = FEW
    if weight_bytes > CACHED_WEIGHT_BYTES:
        about = NOT_SO_MANY if second_cache_bytes() >= LARGE_CACHE_BYTES else MANY
    groups = max(1, ceil(count / about - 0.25))
    return -(-count // (groups * rows)) * rows


def product_tile(OC: int) -> TileShape:
    """The register tile of the products: the direct kernel's columns, and as many rows as leave
    room for weights."""
    widest = direct_tile(OC)
    return TileShape(min(widest.rows, 24 // widest.cols), widest.cols, widest.lanes)


def streamed(problem: Conv2d) -> bool:
    """Whether the output is too large for a cache to keep it until the next step reads it."""
    q = problem
    return q.N * blocks(q.OC) * target().lanes * q.OH * q.OW * 4 >= STREAMED_BYTES


def prepare(
    problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None, lean: bool = False
) -> Launch:
    """``w`` OC×IC×3×3 and ``b`` OC, both f32."""
    q = problem
    patches = patches_of(q)
    tile = product_tile(q.OC)
    T = patches_per_group(len(patches), weight_bytes(q), tile.rows)
    groups = -(-len(patches) // T)
    L = tile.lanes
    bias = np.zeros(blocks(q.OC) * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    scratch = POSITIONS * (T * (blocks(q.IC) + tile.cols) * L * 4 + L * 4) + 2 * POSITIONS * PAD
    scratch += L * 4
    if lean:
        scratch += POSITIONS * (LEAN_CHUNK * tile.cols * L * 4 + PAD)
    return Launch(
        Code(winograd, (tile, q.activation.kind, q.residual, lean)),
        (
            Operand("input", 0),
            Operand("constant", 0),
            Operand("constant", 1),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            Operand("constant", 2),
            Operand("workspace"),
            scratch,
            Operand("threads"),
            *(q.N, len(patches), groups, T, blocks(q.IC), q.IC),
            *(blocks(q.OC) // tile.cols, q.IH, q.IW, q.OH, q.OW, q.DH, streamed(q)),
            q.activation.alpha,
            q.activation.beta,
        ),
        (packed_weights(w, tile, not lean), aligned(bias), patches),
        scratch,
    )


def applies(problem: Conv2d) -> bool:
    """3×3, stride 1, one dilation, one group."""
    q = problem
    return (q.KH, q.KW, q.SH, q.SW, q.groups) == (3, 3, 1, 1, 1) and q.DH == q.DW


def weight_bytes(problem: Conv2d) -> int:
    """Bytes of U."""
    return POSITIONS * problem.IC * problem.OC * 4


def cost(problem: Conv2d) -> float:
    """Nanoseconds: the products, both transforms by the vectors they move, and the weights, if
    they are too large to wait in a cache for the next run; and what their memory is worth."""
    memory = NS_PER_KEPT if weight_bytes(problem) >= HUGE_WEIGHT_BYTES else 0.0
    return products_cost(problem) + weight_vectors(problem) * (fetch_cost(problem) + memory)


def lean_cost(problem: Conv2d) -> float:
    """`cost` with weights a quarter as large, transformed for every group of patches."""
    patches = patch_count(problem)
    T = patches_per_group(patches, weight_bytes(problem), product_tile(problem.OC).rows)
    groups = -(-patches // T) * problem.N
    weights = weight_vectors(problem) * (groups * NS_PER_MADE + fetch_cost(problem) / 4)
    return products_cost(problem) + weights


def fetch_cost(problem: Conv2d) -> float:
    """Nanoseconds for each vector of U that lies in memory."""
    return NS_PER_FETCHED if weight_bytes(problem) >= LARGE_WEIGHT_BYTES else 0.0


def products_cost(problem: Conv2d) -> float:
    q = problem
    tile = direct_tile(q.OC)
    transforms = POSITIONS * (blocks(q.IC) + blocks(q.OC))
    rows = tile.rows * tile.cols / (tile.rows * tile.cols + tile.rows + tile.cols)
    of_patch = weight_vectors(q) * NS_PER_PRODUCT / rows + transforms * NS_PER_TRANSFORMED
    return patch_count(q) * q.N * of_patch


def weight_vectors(problem: Conv2d) -> int:
    """Vectors of U."""
    return POSITIONS * problem.IC * blocks(problem.OC)


#: One vector FMA of the products at one a cycle; one vector through a transform; one vector of
#: transformed weights from memory, which all cores share; one that is made; what it may cost not to
#: keep one of huge weights.
NS_PER_PRODUCT = 0.235
NS_PER_TRANSFORMED = 3.0
NS_PER_FETCHED = 2.0
NS_PER_MADE = 1.2
NS_PER_KEPT = 1.5

KERNELS = (
    Kernel(
        "conv_f32_winograd_4x4",
        Conv2d,
        prepare,
        applies=applies,
        cost=cost,
        exact=False,
        work=lambda problem: problem.flops // SAVED,
    ),
    Kernel(
        "conv_f32_winograd_4x4_lean",
        Conv2d,
        partial(prepare, lean=True),
        applies=applies,
        cost=lean_cost,
        exact=False,
        work=lambda problem: problem.flops // SAVED,
    ),
)
