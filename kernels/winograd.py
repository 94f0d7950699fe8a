"""3×3 convolution of stride 1 by Winograd's F(4×4, 3×3), on blocked f32 tensors.

Of each 6×6 patch of input, overlapping its neighbours by 2, it makes 4×4 outputs with 36
multiplications a channel pair where the direct kernel (conv.py) needs 144 (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016):

    y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A

G w Gᵀ is made when weights are packed. A work item takes T patches through three stages, in
scratch memory that stays in the caches: V = Bᵀ x B for all input channels; for each of the 36
positions one matrix product M = V·U, T × IC by IC × OC, with the direct kernel's micro-kernel;
and y = Aᵀ M A with bias, residual and activation. A dilated convolution is D×D convolutions on
every D-th pixel, whose patches differ only in the distance of their pixels.

Which of the two is faster, `cost` tells: transforms pay off with enough channels. The rounding
error is some ten times the direct kernel's, since the matrices hold numbers up to 8, and a NaN or
infinity reaches all outputs of its patches.

Layouts: x, y and residual as in conv.py; weights U [36][OC/(C·L)][IC][C][L];
V [36][T][IC], M [36][T][OC], channels rounded up to blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minseg.kernels.activation import FORMULAS
from minseg.kernels.conv import Conv2d, direct_tile
from minseg.kernels.jit import Code, inline
from minseg.kernels.layout import aligned, blocks
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import (
    TileShape,
    claim,
    even_addresses,
    exchange,
    fill,
    fma,
    load,
    load_i32,
    load_rows,
    outer_fma,
    store,
    store_rows,
    zeros,
)

#: Input channels that are summed up in registers before the sum goes to M: their weights stay in
#: the cache for all patches of an item, and short sums keep rounding errors small.
CHUNK = 128
#: Outputs and inputs of a patch along an axis, and products a patch.
OUT, IN = 4, 6
POSITIONS = IN * IN
#: The weights' transform, for the points 0, ±1, ±2 and infinity (Lavin and Gray).
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
#: What the table of patches says of each: top left input pixel, top left output pixel, and how
#: many rows and columns of outputs the picture has there.
PATCH_COLUMNS = ("iy", "ix", "oy", "ox", "rows", "columns")
PATCH_BYTES = 4 * len(PATCH_COLUMNS)


@inline
def transform_input(shape, d):
    """Bᵀ d for six rows of a patch."""
    d0, d1, d2, d3, d4, d5 = d
    four, five, two = fill(shape, 4.0), fill(shape, 5.0), fill(shape, 2.0)
    a, b = d4 - four * d2, d3 - four * d1
    c, e = d4 - d2, two * (d3 - d1)
    return (
        fma(four, d0, d4) - five * d2,
        a + b,
        a - b,
        c + e,
        c - e,
        fma(four, d1, d5) - five * d3,
    )


@inline
def transform_output(shape, m):
    """Aᵀ m for six rows of products."""
    m0, m1, m2, m3, m4, m5 = m
    s, d, t, e = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    two, four, eight = fill(shape, 2.0), fill(shape, 4.0), fill(shape, 8.0)
    return m0 + s + t, fma(two, e, d), fma(four, t, s), fma(eight, e, d) + m5


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
def copy_patch(one, patch, x, iy, ix, IH, IW, D, V):
    """A patch that leaves the picture, in memory of its own with zeros around."""
    for r in range(6):
        for c in range(6):
            y_in, x_in = iy + r * D, ix + c * D
            inside = y_in >= 0 and y_in < IH and x_in >= 0 and x_in < IW
            pixel = load_rows(one, x + (y_in * IW + x_in) * V, 0, 0, 1 if inside else 0)
            store(pixel, patch + (r * 6 + c) * V, 0, 0)


def winograd(tile: TileShape, activation: str, residual: bool) -> Callable[..., None]:
    """The kernel; ``tile`` is the products' register tile."""
    activate = FORMULAS[activation]
    R, C, L = tile.rows, tile.cols, tile.lanes
    six, four, one = TileShape(6, 1, L), TileShape(4, 1, L), TileShape(1, 1, L)
    V = one.bytes

    def kernel(
        thread, work, x, u, b, z, y, patches, scratch, scratch_bytes,
        count, T, items, per_picture, ICB, IC, OCT, IH, IW, OH, OW, D, alpha: float, beta: float,
    ):  # fmt: skip
        OCB = OCT * C
        v_row, m_row = ICB * V, OCB * V
        v_step, m_step = T * v_row, T * m_row
        v = scratch + thread * scratch_bytes
        m = v + 36 * v_step
        patch = m + 36 * m_step
        x_plane = IH * IW * V
        item = claim(work)
        while item < items:
            n, first = item // per_picture, item % per_picture * T
            last = min(count, first + T)
            for t in range(first, last):
                at = patches + t * PATCH_BYTES
                iy, ix = load_i32(at), load_i32(at + 4)
                inside = iy >= 0 and ix >= 0 and iy + 5 * D < IH and ix + 5 * D < IW
                for icb in range(ICB):
                    plane = x + (n * ICB + icb) * x_plane
                    if inside:
                        d = load_patch(six, plane + (iy * IW + ix) * V, D * IW * V, D * V)
                    else:
                        copy_patch(one, patch, plane, iy, ix, IH, IW, D, V)
                        d = load_patch(six, patch, 6 * V, V)
                    d = transform_input(six, exchange(transform_input(six, d)))
                    to = v + (t - first) * v_row + icb * V
                    store_tiles(d, to, v_step, 6 * v_step)
            for position in range(36):
                for oct in range(OCT):
                    weights = u + (position * OCT + oct) * IC * C * V
                    for ic0 in range(0, IC, CHUNK):
                        for t in range(0, last - first, R):
                            rows = even_addresses(tile, v + position * v_step + t * v_row, v_row)
                            acc = zeros(tile)
                            for ic in range(ic0, min(IC, ic0 + CHUNK)):
                                acc = outer_fma(acc, rows, 4 * ic, weights + ic * C * V, V)
                            to = m + position * m_step + t * m_row + oct * C * V
                            if ic0 > 0:
                                acc = acc + load_rows(tile, to, m_row, V, T - t)
                            store_rows(acc, to, m_row, V, T - t)
            for t in range(first, last):
                at = patches + t * PATCH_BYTES
                oy, ox = load_i32(at + 8), load_i32(at + 12)
                height, width = load_i32(at + 16), load_i32(at + 20)
                for ocb in range(OCB):
                    products = load_patch(
                        six, m + (t - first) * m_row + ocb * V, 6 * m_step, m_step
                    )
                    rows = transform_output(four, exchange(transform_output(six, products)))
                    out = ((n * OCB + ocb) * OH + oy) * OW * V + ox * V
                    bias = load(four, b + ocb * V, 0, 0)
                    below = 0
                    for row in exchange(rows):
                        if below < height:
                            to = out + below * D * OW * V
                            row = row + bias
                            if residual:
                                row = row + load_rows(four, z + to, D * V, 0, width)
                            store_rows(activate(four, row, alpha, beta), y + to, D * V, 0, width)
                        below += 1  # noqa: SIM113  tiles are unrolled, a counter is not
            item = claim(work)

    return kernel


@inline
def store_tiles(tiles, to, tile_bytes, row_bytes):
    """Store each tile ``tile_bytes`` after the one before."""
    for tile in tiles:
        store(tile, to, row_bytes, 0)
        to += tile_bytes


def patches_of(problem: Conv2d) -> np.ndarray:
    """The table of patches (`PATCH_COLUMNS`), phase after phase of a dilated convolution."""
    q = problem
    rows = []
    for py in range(q.DH):
        for px in range(q.DH):
            height, width = -(-(q.OH - py) // q.DH), -(-(q.OW - px) // q.DH)
            for ty in range(0, height, OUT):
                for tx in range(0, width, OUT):
                    oy, ox = py + ty * q.DH, px + tx * q.DH
                    size = min(OUT, height - ty), min(OUT, width - tx)
                    rows.append((oy - q.PT, ox - q.PL, oy, ox, *size))
    return np.array(rows, np.int32)


def pack_weights(w: np.ndarray, tile: TileShape) -> np.ndarray:
    """OC×IC×3×3 weights as U [36][OC tile][IC][C][L]."""
    OC, IC = w.shape[:2]
    width = tile.cols * tile.lanes
    u = np.zeros((POSITIONS, blocks(OC) * tile.lanes, IC), np.float32)
    for oc in range(OC):
        u[:, oc] = (G @ w[oc].astype(np.float64) @ G.T).reshape(IC, POSITIONS).T
    return aligned(u.reshape(POSITIONS, -1, width, IC).transpose(0, 1, 3, 2))


def patches_per_item(count: int) -> int:
    """T for ``count`` patches: about `PATCHES`, in an even number of items of nearly equal size, so
    that two threads finish together; a multiple of every register tile's rows where it can be."""
    items = -(-count // (2 * PATCHES)) * 2
    return -(-count // (6 * items)) * 6


#: Patches whose products share one pass over the weights, which for many channels come from
#: beyond the L2 cache; V and M of as many fit there for few channels.
PATCHES = 24


def prepare(problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` OC×IC×3×3 and ``b`` OC, both f32."""
    q = problem
    tile = direct_tile(q.OC)
    L = tile.lanes
    bias = np.zeros(blocks(q.OC) * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    patches = patches_of(q)
    T = patches_per_item(len(patches))
    per_picture = -(-len(patches) // T)
    scratch = POSITIONS * (T * (blocks(q.IC) + blocks(q.OC)) + 1) * L * 4
    # The last rows of a register tile read V past T patches.
    scratch += tile.rows * blocks(q.IC) * L * 4
    return Launch(
        Code(winograd, (tile, q.activation.kind, q.residual)),
        (
            Operand("input", 0),
            Operand("constant", 0),
            Operand("constant", 1),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            Operand("constant", 2),
            Operand("workspace"),
            scratch,
            *(len(patches), T, q.N * per_picture, per_picture, blocks(q.IC), q.IC),
            *(blocks(q.OC) // tile.cols, q.IH, q.IW, q.OH, q.OW, q.DH),
            q.activation.alpha,
            q.activation.beta,
        ),
        (pack_weights(w, tile), aligned(bias), patches),
        scratch,
    )


def applies(problem: Conv2d) -> bool:
    """3×3, stride 1, one dilation, one group."""
    q = problem
    return (q.KH, q.KW, q.SH, q.SW, q.groups) == (3, 3, 1, 1, 1) and q.DH == q.DW


def cost(problem: Conv2d) -> float:
    """Nanoseconds: the products, and both transforms by the vectors they move."""
    q = problem
    count = len(patches_of(q)) * q.N
    tile = direct_tile(q.OC)
    vectors = POSITIONS * q.IC * blocks(q.OC)
    transforms = POSITIONS * (blocks(q.IC) + blocks(q.OC))
    rows = tile.rows * tile.cols / (tile.rows * tile.cols + tile.rows + tile.cols)
    return count * (vectors * NS_PER_PRODUCT / rows + transforms * NS_PER_TRANSFORMED)


#: One vector FMA of the products at one a cycle; one vector through a transform.
NS_PER_PRODUCT = 0.27
NS_PER_TRANSFORMED = 3.0

KERNELS = (
    Kernel("conv_f32_winograd_4x4", Conv2d, prepare, applies=applies, cost=cost, exact=False),
)
