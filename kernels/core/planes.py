"""Changes between blocked tensors and others, a piece of a plane of L channels at a time.

A piece is exchanged by squares of L channels × L pixels, rows for lanes in registers. The last
square of a plane overlaps the one before it; planes of less than L pixels go element by element.

Layouts: plain [N][C][P], NHWC [N][P][C], blocked [N][ceil(C/L)][P][L], with P = H·W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import inline
from minseg.kernels.core.registry import Operand
from minseg.kernels.isa.simd import claim, load, store, store_rows, transpose

#: Pixels that one work item covers; the last one of a plane also takes what is left.
ITEM_PIXELS = 1024


class Planes(NamedTuple):
    """N images of C channels and P pixels, of which ``items`` pieces are made a plane."""

    N: int = 0
    C: int = 0
    P: int = 0
    items: int = 0


class PlaneArguments(NamedTuple):
    planes: Planes
    x: Address = Operand("input")
    y: Address = Operand("output")


class Piece(NamedTuple):
    """Pixels ``begin`` to ``end``-1 of block ``plane`` of all images' blocks: of image ``n``
    channels from ``first`` on."""

    plane: int
    n: int
    first: int
    channels: int
    begin: int
    end: int


def planes_of(shape: Sequence[int]) -> Planes:
    """Those of N×C×H×W; no piece is of less than L pixels where a plane has as many."""
    N, C, H, W = shape
    return Planes(N, C, H * W, max(1, H * W // ITEM_PIXELS))


@inline
def pieces(planes, L):
    """How many there are."""
    return planes.N * ((planes.C + L - 1) // L) * planes.items


@inline
def piece_of(planes, L, item):
    """What a work item is."""
    CB = (planes.C + L - 1) // L
    plane, part = item // planes.items, item % planes.items
    first, begin = plane % CB * L, part * ITEM_PIXELS
    end = planes.P if part == planes.items - 1 else begin + ITEM_PIXELS
    return Piece(plane, plane // CB, first, min(L, planes.C - first), begin, end)


@inline
def plain_to_blocked(square, single, itemsize, convert, convert_rest, given, thread, work, a):
    """Changes f32 to elements of ``itemsize`` bytes: ``convert(shape, tile, given)`` makes them,
    ``convert_rest(square, source, result, channels, given, thread, a)`` squares of less than L
    channels."""
    L, P = square.lanes, a.planes.P
    item = claim(work)
    while item < pieces(a.planes, L):
        piece = piece_of(a.planes, L, item)
        source = a.x + (piece.n * a.planes.C + piece.first) * P * 4
        result = a.y + piece.plane * P * L * itemsize
        if P < L:
            for p in range(P):
                for c in range(piece.channels):
                    tile = convert(single, load(single, source + (c * P + p) * 4, 0, 0), given)
                    store(tile, result + (p * L + c) * itemsize, 0, 0)
        elif piece.channels == L:
            for p in range(piece.begin, piece.end, L):
                at = min(p, P - L)
                tile = transpose(load(square, source + at * 4, P * 4, 0))
                store(convert(square, tile, given), result + at * L * itemsize, L * itemsize, 0)
        else:
            for p in range(piece.begin, piece.end, L):
                at = min(p, P - L)
                to = result + at * L * itemsize
                convert_rest(square, source + at * 4, to, piece.channels, given, thread, a)
        item = claim(work)


@inline
def blocked_to_plain(square, single, stored_square, stored_single, convert, work, a):
    """Changes elements as stored in blocks to f32: ``convert(shape, tile, a)`` makes them. Skips
    channels past C."""
    L, P = square.lanes, a.planes.P
    itemsize = stored_single.itemsize
    item = claim(work)
    while item < pieces(a.planes, L):
        piece = piece_of(a.planes, L, item)
        source = a.x + piece.plane * P * L * itemsize
        result = a.y + (piece.n * a.planes.C + piece.first) * P * 4
        if P < L:
            for p in range(P):
                for c in range(piece.channels):
                    tile = load(stored_single, source + (p * L + c) * itemsize, 0, 0)
                    store(convert(single, tile, a), result + (c * P + p) * 4, 0, 0)
        else:
            for p in range(piece.begin, piece.end, L):
                at = min(p, P - L)
                tile = load(stored_square, source + at * L * itemsize, L * itemsize, 0)
                tile = transpose(convert(square, tile, a))
                store_rows(tile, result + at * 4, P * 4, 0, piece.channels)
        item = claim(work)
