"""3×3 convolution of bytes by Winograd's F(4×4, 3×3), in integers and exact.

`conv_i8_winograd_4x4` is to direct_integer.py what winograd.py, which explains the algorithm, is to
direct.py. Its fractions are no obstacle. Behind a whole-numbered G, sums come out 30² = 900 times
as large once the rows of Aᵀ are whole too. All is computed modulo 2³². There 225 has an inverse, by
which they are multiplied, and 4 · s, read as a signed number, is shifted right by 2 bits: that is
s, where -2²⁹ ≤ s < 2²⁹. The points 0, ±1, 2, -½ and infinity lose only these 2 bits; two of them
are of each kind that a power of two can tell apart. Those of winograd.py would lose 6.

Transformed inputs and weights fit 16 bits, since bytes come less 128: Bᵀ x B is at most 196 · 128,
G w Gᵀ at most 49 · 255. Two products of such are added up by one instruction where four of bytes
would be, but there are a quarter as many: half the time, and what the transforms take.

Layouts: x, y, z as in direct_integer.py; weights U [OC/(C·L)][36][IC/2][C][L][2] i16;
V [36][T][IC] i16, IC rounded up to blocks, M [36][T][C][L] i32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from minseg.kernels.conv.problem import Constants, IntegerConv2d
from minseg.kernels.conv.winograd_driver import Method, driver, launch, product_tile
from minseg.kernels.conv.winograd_patches import patch_count, patches_per_group
from minseg.kernels.conv.winograd_weights import POSITIONS
from minseg.kernels.core.epilogue import Dynamic, EpilogueCode, per_channel
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned_empty, blocks
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.simd import (
    TileShape,
    as_f32,
    as_i16,
    fill,
    load,
    outer_dot2,
    shift_right,
    store,
    store_rows,
)
from minseg.kernels.rates.family import rates

#: What is taken from bytes before they are multiplied.
CENTRE = 128
#: The weights' transform.
WHOLE_G = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [4, -2, 1], [0, 0, 1]])
#: Sums of products that are told apart.
LIMIT = 2**29
#: 1/225 modulo 2**32, and the bits of 900 / 225.
INVERSE, SHIFT = -2023406815, 2


@inline
def transform_bytes(shape, d):
    """Bᵀ (d - CENTRE) for six rows of bytes of a patch."""
    centre = fill(shape, CENTRE)
    d0, d1, d2, d3, d4, d5 = d
    centred = (
        as_i16(d0) - centre,
        as_i16(d1) - centre,
        as_i16(d2) - centre,
        as_i16(d3) - centre,
        as_i16(d4) - centre,
        as_i16(d5) - centre,
    )
    return transform_input(shape, centred)


@inline
def transform_input(shape, d):
    """Bᵀ d for six rows of a patch."""
    d0, d1, d2, d3, d4, d5 = d
    three = fill(shape, 3)
    u, w = d4 - d2, d3 - d1
    twice_u, twice_w = u + u, w + w
    first, last = d0 - d2, d5 - d3
    return (
        first + first + twice_u - twice_w - w,
        twice_u + twice_w - three * (d2 + d3),
        twice_u - twice_w + three * (d2 - d3),
        twice_u + w,
        u - twice_w,
        last + last - twice_w - twice_u - u,
    )


@inline
def transform_output(shape, m):
    """Aᵀ m, times 30, for six rows of products."""
    m0, m1, m2, m3, m4, m5 = m
    two, four, five = fill(shape, 2), fill(shape, 4), fill(shape, 5)
    eight, fifteen = fill(shape, 8), fill(shape, 15)
    s, d = five * (m2 - m1), five * (m1 + m2)
    return (
        fifteen * m0 + s + m3 - eight * m4,
        two * m3 + four * m4 - d,
        four * m3 - two * m4 + s,
        eight * m3 + m4 - d + fifteen * m5,
    )


@inline
def load_channels(sums, floats, start, scale, shift):
    """What sums start at, and their scale and shift."""
    return load(sums, start, 0, 0), load(floats, scale, 0, 0), load(floats, shift, 0, 0)


@inline
def rescaled(rescale, sums, row, of_channels):
    """f32 of a row of sums that are 900 times too large."""
    start, scale, shift = of_channels
    total = shift_right(row * fill(sums, INVERSE), SHIFT) + start
    return rescale(as_f32(total), scale, shift)


@inline
def put(row, y, place, streamed):
    """Store a row of outputs."""
    if place.rows == 4:
        store(row, y + place.at, place.row_bytes, 0)
    else:
        store_rows(row, y + place.at, place.row_bytes, 0, place.rows)


BYTES = Method(
    *("u8", "i16", "i32", transform_bytes, transform_input, transform_output, outer_dot2),
    *(load_channels, rescaled, put),
)


def winograd(tile: TileShape, epilogue: EpilogueCode) -> Callable[..., None]:
    return driver(BYTES, tile, epilogue)


def pack_weights(w: np.ndarray, tile: TileShape) -> np.ndarray:
    """OC×IC×3×3 integers as U [OC tile][36][IC/2][C][L][2]."""
    OC, IC = w.shape[:2]
    width = tile.cols * tile.lanes
    tiles, pairs = -(-OC // width), -(-IC // 2)
    # All is whole and less than 2**24: exact in f32.
    both = np.kron(WHOLE_G, WHOLE_G).astype(np.float32)
    shape = tiles, POSITIONS, pairs * 2 * width
    u = aligned_empty(2 * prod(shape)).view(np.int16).reshape(shape)
    for oct in range(tiles):
        part = np.zeros((9, pairs * 2, width), np.float32)
        some = w[oct * width : (oct + 1) * width]
        part[:, :IC, : len(some)] = some.reshape(len(some), IC, 9).transpose(2, 1, 0)
        u[oct] = both @ part.reshape(9, pairs, 2, width).swapaxes(2, 3).reshape(9, -1)
    return u


def prepare(problem: IntegerConv2d, *constants: Any) -> Launch:
    """``constants`` are those of `Constants`."""
    q, c = problem, Constants(*constants)
    tile = replace(product_tile(q.OC), dtype="i32")
    centred = c.w.astype(np.int16)
    if c.w_zero is not None:
        centred = centred - c.w_zero.astype(np.int16)[:, None, None, None]
    total = centred.sum(axis=(1, 2, 3), dtype=np.int64)
    start = (CENTRE - (q.x_zero_point or 0)) * total + (0 if c.b is None else c.b)
    dynamic = None
    if q.is_dynamic:
        totals = per_channel(total.astype(np.int32), q.OC)
        dynamic = Dynamic(*q.dynamic_inputs, totals, blocks(q.OC), blocks(q.OC))
    weight_bytes = POSITIONS * -(-q.IC // 2) * q.OC * 4
    return launch(
        Code(winograd, (tile, q.epilogue.code(q.is_dynamic))),
        q,
        BYTES,
        patches_per_group(patch_count(q), weight_bytes, tile.rows),
        pack_weights(centred, tile),
        q.epilogue.arguments(q.residual, q.OC, c.shift, c.scale),
        start=per_channel(start.astype(np.int32), q.OC),
        x_zero=q.x_zero_point or 0,
        dynamic=dynamic,
    )


def applies(problem: IntegerConv2d) -> bool:
    """3×3, stride 1, one dilation, one group, and not so many channels that sums pass the limit."""
    q = problem
    largest = CENTRE * 9 * q.IC * (255 if q.asymmetric else 128)
    return (
        (q.KH, q.KW, q.SH, q.SW, q.groups) == (3, 3, 1, 1, 1) and q.DH == q.DW and largest < LIMIT
    )


class IntegerWinogradRates(NamedTuple):
    """One vector of products; one through the transform of inputs, and through that of sums."""

    product: float
    input: float
    output: float


def cost(problem: IntegerConv2d) -> float:
    """Nanoseconds: the products, two to a lane and instruction, and both transforms by the
    vectors they move."""
    q = problem
    count = patch_count(q) * q.N
    products = POSITIONS * -(-q.IC // 2) * blocks(q.OC)
    r = rates("conv_i8_winograd", IntegerWinogradRates)
    transforms = POSITIONS * (blocks(q.IC) * r.input + blocks(q.OC) * r.output)
    return count * (products * r.product + transforms)


KERNELS = (
    Kernel(
        "conv_i8_winograd_4x4",
        IntegerConv2d,
        prepare,
        applies=applies,
        cost=cost,
        # A quarter of the products, each as much work as two of bytes.
        work=lambda problem: problem.flops // 2,
    ),
)
