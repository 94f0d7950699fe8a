"""Weights of 3×3 convolutions as Winograd's F(4×4, 3×3) multiplies them: U = G w Gᵀ, packed.

It runs once, before the first picture; it is a kernel because U is four times as large as the
weights, and NumPy passes over it several times where this passes once.

A work item is L output channels and L input channels. Seen as a matrix, row by row an output
channel, the weights are transposed, so that a vector holds one tap of L output channels; then each
input channel's nine vectors become thirty-six. Or they stay as they are, for the lean kernel.

Layouts: w OIHW, OC×IC×3×3; U [OC/(C·L)][36][IC][C][L], or w packed [OC/(C·L)][IC][9][C][L]; zeros
in the channels past OC.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.registry import Launch, Operand, Packed
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    exchange,
    fill,
    fma,
    load,
    load_f32,
    load_rows,
    store,
    store_f32,
    stream_rows,
    transpose,
)

#: Weights and products of a patch along an axis.
TAPS, IN = 3, 6
ALL_TAPS = TAPS * TAPS
POSITIONS = IN * IN
#: Products are values of polynomials at 0, ±NEAR, ±FAR and infinity. Other than at the usual ±1 and
#: ±2 no power of a point is far from 1, which more than halves the rounding errors (Barabasz et
#: al., "Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural
#: Networks", 2020), and NEAR · FAR = 1 saves multiplications.
NEAR, FAR = 2 / 3, 3 / 2
#: What the values at ±NEAR and at ±FAR are divided by.
NEAR_NORM = 2 * NEAR**2 * (NEAR**2 - FAR**2)
FAR_NORM = 2 * FAR**2 * (FAR**2 - NEAR**2)


@inline
def transform_weights(shape, w):
    """G w for three rows of taps."""
    w0, w1, w2 = w
    a = fma(fill(shape, NEAR**2 / NEAR_NORM), w2, fill(shape, 1 / NEAR_NORM) * w0)
    b = fill(shape, NEAR / NEAR_NORM) * w1
    c = fma(fill(shape, FAR**2 / FAR_NORM), w2, fill(shape, 1 / FAR_NORM) * w0)
    d = fill(shape, FAR / FAR_NORM) * w1
    return w0, a + b, a - b, c + d, c - d, w2


@inline
def transpose_rows(square, w, row_bytes, rows, first, count, to):
    """Columns ``first`` … ``first + count - 1`` of a matrix of ``rows`` rows as vectors; lanes
    past ``rows`` are zero."""
    L, V = square.rows, square.bytes
    done = 0
    while done + L <= count:
        tile = load_rows(square, w + 4 * (first + done), row_bytes, 0, rows)
        store(transpose(tile), to + done * V, V, 0)
        done += L
    while done < count:
        for row in range(L):
            value = load_f32(w + row * row_bytes + 4 * (first + done)) if row < rows else 0.0
            store_f32(to + done * V + 4 * row, value)
        done += 1


@inline
def load_taps(three, at, step):
    """Three rows of three taps, vectors ``step`` bytes apart."""
    row = TAPS * step
    return (
        load(three, at, step, 0),
        load(three, at + row, step, 0),
        load(three, at + 2 * row, step, 0),
    )


@inline
def transform_channels(three, six, w, w_row, u, u_row, u_step, count, streamed):
    """U of ``count`` input channels and a vector of output channels, ``streamed`` past the caches
    or not."""
    for ic in range(count):
        taps = load_taps(three, w + ic * w_row, w_row // ALL_TAPS)
        d = transform_weights(six, exchange(transform_weights(three, taps)))
        to = u + ic * u_row
        for tile in d:
            if streamed:
                stream_rows(tile, to, IN * u_step, 0, IN)
            else:
                store(tile, to, IN * u_step, 0)
            to += u_step


class WeightsArguments(NamedTuple):
    w: Address
    u: Address
    scratch: Address
    OC: int
    IC: int


def weights(C: int, L: int, transformed: bool) -> Callable[..., None]:
    """The kernel, for tiles of ``C`` vectors of ``L`` output channels."""
    square, three, six = TileShape(L, 1, L), TileShape(TAPS, 1, L), TileShape(IN, 1, L)
    one = TileShape(1, 1, L)
    V = three.bytes

    def kernel(thread, work, a: WeightsArguments):
        OC, IC = a.OC, a.IC
        spread = a.scratch + thread * L * ALL_TAPS * V
        input_blocks = -(-IC // L)
        row_bytes = 4 * ALL_TAPS * IC
        item = claim(work)
        while item < -(-OC // L) * input_blocks:
            ocb, ic = item // input_blocks, item % input_blocks * L
            oct, c = ocb // C, ocb % C
            rows, count = min(L, OC - ocb * L), min(L, IC - ic)
            first = a.w + ocb * L * row_bytes
            transpose_rows(square, first, row_bytes, rows, ic * ALL_TAPS, count * ALL_TAPS, spread)
            if transformed:
                to = a.u + ((oct * POSITIONS * IC + ic) * C + c) * V
                transform_channels(
                    three, six, spread, ALL_TAPS * V, to, C * V, IC * C * V, count, True
                )
            else:
                to = a.u + ((oct * IC + ic) * ALL_TAPS * C + c) * V
                for at in range(count * ALL_TAPS):
                    store(load(one, spread + at * V, 0, 0), to + at * C * V, 0, 0)
            item = claim(work)

    return kernel


def packed_weights(w: np.ndarray, tile: TileShape, transformed: bool = True) -> Packed:
    """The f32 weights ``w``, OC×IC×3×3, for products in tiles of ``tile``'s columns: U, or the
    weights as they are in the order that U is made of."""
    OC, IC = w.shape[:2]
    launch = Launch(
        Code(weights, (tile.cols, tile.lanes, transformed)),
        WeightsArguments(Operand("input"), Operand("output"), Operand("workspace"), OC, IC),
        workspace=tile.lanes * ALL_TAPS * tile.bytes,
    )
    tiles = -(-OC // (tile.cols * tile.lanes))
    order = (POSITIONS, IC) if transformed else (IC, ALL_TAPS)
    return Packed(launch, (np.ascontiguousarray(w),), (tiles, *order, tile.cols, tile.lanes))
