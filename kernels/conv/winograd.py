"""3×3 convolution of stride 1 by Winograd's F(4×4, 3×3), on blocked f32 tensors.

Of each 6×6 patch of input, overlapping its neighbours by 2, it makes 4×4 outputs with 36
multiplications a channel pair where the direct kernel (direct.py) needs 144 (Lavin and Gray, "Fast
Algorithms for Convolutional Neural Networks", 2016):

    y = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ x B) ] A

G w Gᵀ is made once (winograd_weights.py), all else in groups of patches (winograd_driver.py), with
the direct kernel's micro-kernel. The lean kernel keeps the weights as they are, a quarter of the
memory, and transforms them in every item: that costs little where large weights meet few patches.

Which of the two is faster, `cost` tells: transforms pay off with enough channels. The rounding
error is a few times the direct kernel's, and a NaN or infinity reaches all outputs of its patches.

Layouts: x, y and residual as in direct.py; weights as in winograd_weights.py;
V [36][T][IC], IC rounded up to blocks, M [36][T][C][L].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from minseg.kernels.conv.direct import direct_tile
from minseg.kernels.conv.problem import Conv2d, Convolution
from minseg.kernels.conv.winograd_driver import (
    LEAN_K_BLOCK,
    PAD,
    Method,
    driver,
    launch,
    product_tile,
)
from minseg.kernels.conv.winograd_patches import OUT, patch_count, patches_per_group
from minseg.kernels.conv.winograd_weights import FAR, NEAR, POSITIONS, packed_weights
from minseg.kernels.core.epilogue import EpilogueCode
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.simd import TileShape, fill, fma, load, outer_fma, store_rows, stream_rows
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates
from minseg.precision import Precision

#: A patch's products by the definition, for each one here.
SAVED = (OUT * OUT * 3 * 3) // POSITIONS
#: Outputs from this size on are written past the caches.
STREAMED_BYTES = 16 * 2**20
#: Bytes from which on weights are fetched from memory in every run, and from which on one layer's
#: would need as much memory as all else.
LARGE_WEIGHT_BYTES, HUGE_WEIGHT_BYTES = 16 * 2**20, 64 * 2**20


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
def load_bias(sums, floats, start, scale, shift):
    return load(floats, shift, 0, 0)


@inline
def add_bias(rescale, sums, row, bias):
    return row + bias


@inline
def put(row, y, place, streamed):
    """Store a row of outputs."""
    if streamed:
        stream_rows(row, y + place.at, place.row_bytes, 0, place.rows)
    else:
        store_rows(row, y + place.at, place.row_bytes, 0, place.rows)


F32 = Method(
    *("f32", "f32", "f32", transform_input, transform_input, transform_output, outer_fma),
    *(load_bias, add_bias, put),
)


def winograd(tile: TileShape, epilogue: EpilogueCode, lean: bool) -> Callable[..., None]:
    return driver(F32, tile, epilogue, lean)


def streamed(problem: Conv2d) -> bool:
    """Whether the output is too large for a cache to keep it until the next step reads it."""
    q = problem
    return q.N * blocks(q.OC) * target().lanes * q.OH * q.OW * 4 >= STREAMED_BYTES


def prepare(
    problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None, lean: bool = False
) -> Launch:
    """``w`` OC×IC×3×3 and ``b`` OC, both f32."""
    q, tile = problem, product_tile(problem.OC)
    bias = np.zeros(q.OC, np.float32) if b is None else b
    return launch(
        Code(winograd, (tile, q.epilogue.code(), lean)),
        q,
        F32,
        patches_per_group(patch_count(q), weight_bytes(q), tile.rows),
        packed_weights(w, tile, not lean),
        q.epilogue.arguments(q.residual, q.OC, bias),
        streamed=streamed(q),
        lean_bytes=POSITIONS * (LEAN_K_BLOCK * tile.cols * tile.bytes + PAD) if lean else 0,
    )


def applies(problem: Convolution) -> bool:
    """3×3, stride 1, one dilation, one group."""
    q = problem
    return (q.KH, q.KW, q.SH, q.SW, q.groups) == (3, 3, 1, 1, 1) and q.DH == q.DW


def weight_bytes(problem: Conv2d) -> int:
    """Bytes of U."""
    return POSITIONS * problem.IC * problem.OC * 4


class WinogradRates(NamedTuple):
    """Nanoseconds that one vector of each takes."""

    #: An FMA of the products.
    product: float
    #: Through a transform.
    transformed: float
    #: Of transformed weights, from memory, which all cores share.
    fetched: float
    #: Of transformed weights, made anew.
    made: float
    #: Of huge weights: no time, but what its memory is worth.
    kept: float


def _rates() -> WinogradRates:
    return rates("conv_f32_winograd", WinogradRates)


def cost(problem: Conv2d) -> float:
    """Nanoseconds: the products, both transforms by the vectors they move, and the weights, if
    they are too large to wait in a cache for the next run; and what their memory is worth."""
    memory = _rates().kept if weight_bytes(problem) >= HUGE_WEIGHT_BYTES else 0.0
    return products_cost(problem) + weight_vectors(problem) * (fetch_cost(problem) + memory)


def lean_cost(problem: Conv2d) -> float:
    """`cost` with weights a quarter as large, transformed for every group of patches."""
    patches = patch_count(problem)
    T = patches_per_group(patches, weight_bytes(problem), product_tile(problem.OC).rows)
    groups = -(-patches // T) * problem.N
    weights = weight_vectors(problem) * (groups * _rates().made + fetch_cost(problem) / 4)
    return products_cost(problem) + weights


def fetch_cost(problem: Conv2d) -> float:
    """Nanoseconds for each vector of U that lies in memory."""
    return _rates().fetched if weight_bytes(problem) >= LARGE_WEIGHT_BYTES else 0.0


def products_cost(problem: Conv2d) -> float:
    q = problem
    tile = direct_tile(q.OC)
    transforms = POSITIONS * (blocks(q.IC) + blocks(q.OC))
    rows = tile.rows * tile.cols / (tile.rows * tile.cols + tile.rows + tile.cols)
    r = _rates()
    of_patch = weight_vectors(q) * r.product / rows + transforms * r.transformed
    return patch_count(q) * q.N * of_patch


def weight_vectors(problem: Conv2d) -> int:
    """Vectors of U."""
    return POSITIONS * problem.IC * blocks(problem.OC)


KERNELS = (
    Kernel(
        "conv_f32_winograd_4x4",
        Conv2d,
        prepare,
        applies=applies,
        cost=cost,
        precision=Precision.F32,
        work=lambda problem: problem.flops // SAVED,
    ),
    Kernel(
        "conv_f32_winograd_4x4_lean",
        Conv2d,
        partial(prepare, lean=True),
        applies=applies,
        cost=lean_cost,
        precision=Precision.F32,
        work=lambda problem: problem.flops // SAVED,
    ),
)
