"""Weights of 3×3 convolutions as Winograd's F(4×4, 3×3) multiplies them: U = G w Gᵀ, packed.

It runs once, before the first picture; it is a kernel because U is four times as large as the
weights, and NumPy passes over it several times where this passes once.

A work item is L output channels and L input channels. Seen as a matrix, row by row an output
channel, the weights are transposed, so that a vector holds one tap of L output channels; then each
input channel's nine vectors become thirty-six.

Layouts: w OIHW, OC×IC×3×3; U [OC/(C·L)][36][IC][C][L], zeros in the channels past OC.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minseg.kernels.jit import Code, inline
from minseg.kernels.registry import Launch, Operand, Packed
from minseg.kernels.simd import (
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
    zeros,
)

#: Weights and products of a patch along an axis.
TAPS, IN = 3, 6
POSITIONS = IN * IN


@inline
def transform_weights(shape, w):
    """G w for three rows of taps, for the points 0, ±1, ±2 and infinity (Lavin and Gray)."""
    w0, w1, w2 = w
    sixth = fill(shape, 1 / 6)
    a, b = (w0 + w2) * sixth, w1 * sixth
    c, d = fma(w0, fill(shape, 1 / 24), w2 * sixth), w1 * fill(shape, 1 / 12)
    return w0 * fill(shape, 1 / 4), zeros(shape) - a - b, b - a, c + d, c - d, w2


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
def load_taps(three, at):
    """Three rows of three taps, one vector after the other."""
    V = three.bytes
    row = TAPS * V
    return load(three, at, V, 0), load(three, at + row, V, 0), load(three, at + 2 * row, V, 0)


def weights(C: int, L: int) -> Callable[..., None]:
    """The kernel, for tiles of ``C`` vectors of ``L`` output channels."""
    square, three, six = TileShape(L, 1, L), TileShape(TAPS, 1, L), TileShape(IN, 1, L)
    V = three.bytes
    taps = TAPS * TAPS

    def kernel(thread, work, w, u, scratch, OC, IC):
        spread = scratch + thread * L * taps * V
        input_blocks = -(-IC // L)
        row_bytes = 4 * taps * IC
        step = IC * C * V
        item = claim(work)
        while item < -(-OC // L) * input_blocks:
            ocb, begin = item // input_blocks, item % input_blocks * L
            rows, count = min(L, OC - ocb * L), min(L, IC - begin)
            first = w + ocb * L * row_bytes
            transpose_rows(square, first, row_bytes, rows, begin * taps, count * taps, spread)
            to = u + ((ocb // C * POSITIONS * IC + begin) * C + ocb % C) * V
            for ic in range(count):
                at = spread + ic * taps * V
                d = transform_weights(three, load_taps(three, at))
                d = transform_weights(six, exchange(d))
                place = to + ic * C * V
                for tile in d:
                    stream_rows(tile, place, IN * step, 0, IN)
                    place += step
            item = claim(work)

    return kernel


def packed_weights(w: np.ndarray, tile: TileShape) -> Packed:
    """U of the f32 weights ``w``, OC×IC×3×3, for products in tiles of ``tile``'s columns."""
    OC, IC = w.shape[:2]
    launch = Launch(
        Code(weights, (tile.cols, tile.lanes)),
        (Operand("input", 0), Operand("output"), Operand("workspace"), OC, IC),
        workspace=tile.lanes * TAPS * TAPS * tile.bytes,
    )
    width = tile.cols * tile.lanes
    shape = (-(-OC // width), POSITIONS, IC, tile.cols, tile.lanes)
    return Packed(launch, (np.ascontiguousarray(w),), shape)
