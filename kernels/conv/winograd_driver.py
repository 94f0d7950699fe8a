"""The driver of Winograd's F(4×4, 3×3): groups of patches, in three stages.

A work item is a group of T patches, in scratch memory that stays in the caches: V = Bᵀ x B for all
input channels; then, for one tile of C·L output channels after the other, a matrix product M = V·U
for each of the 36 positions, T × IC by IC × C·L; and y = Aᵀ M A with the epilogue. Of the last
groups an item is one such tile only (`share`). A dilated convolution is D×D convolutions on every
D-th pixel, whose patches differ only in the distance of their pixels.

A `Method` says of which types that is, how they are transformed, and how a tile of products is
added up: winograd.py explains the algorithm and has that of f32, winograd_integer.py that of bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from minseg.kernels.conv.direct import Image, direct_tile
from minseg.kernels.conv.problem import Convolution, Geometry
from minseg.kernels.conv.winograd_patches import PATCH_BYTES, patches_of
from minseg.kernels.conv.winograd_weights import ALL_TAPS, POSITIONS, transform_channels
from minseg.kernels.core.arguments import Address
from minseg.kernels.core.epilogue import (
    Dynamic,
    EpilogueArguments,
    EpilogueCode,
    Place,
    finisher,
    quantiser,
)
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Launch, Operand, Packed
from minseg.kernels.core.scheduling import next_item, share, whole_groups
from minseg.kernels.isa.simd import (
    TileShape,
    even_addresses,
    exchange,
    load,
    load_i32,
    load_rows,
    outer_fma,
    prefetch,
    store,
    store_rows,
    zeros,
)

#: Steps that are summed up in registers before the sum goes to M: their weights stay in the cache
#: for all patches of an item, and short sums keep rounding errors small.
K_BLOCK = 128
#: Input channels whose weights are transformed at a time where that is done in each run: so many
#: stay in the L2 cache.
LEAN_K_BLOCK = 64
#: Bytes between the positions' matrices, so that their rows don't meet in one set of the cache.
PAD = 64


@dataclass(frozen=True)
class Method:
    """Types of pixels, of what they are transformed to, and of sums; then functions that transform
    the rows of a patch of pixels (Bᵀ), its columns (B), and rows and columns of products (Aᵀ and
    A), add a step's products, load what belongs to a vector of channels, make f32 of sums with
    that, and store them."""

    pixels: str
    inputs: str
    sums: str
    transform_rows: Callable[..., Any]
    transform_columns: Callable[..., Any]
    transform_output: Callable[..., Any]
    outer: Callable[..., Any]
    channels: Callable[..., Any]
    convert: Callable[..., Any]
    put: Callable[..., Any]


class WinogradArguments(NamedTuple):
    """``start`` are vectors that sums of integers start at, ``pixel`` is what lies outside of a
    picture; a picture has ``patches`` in a table of `PATCH_COLUMNS`, in ``groups`` of T."""

    x: Address
    u: Address
    start: Address
    pixel: Address
    y: Address
    table: Address
    scratch: Address
    scratch_bytes: int
    threads: Address
    patches: int
    groups: int
    T: int
    streamed: int
    geometry: Geometry
    epilogue: EpilogueArguments
    dynamic: Dynamic


class Group(NamedTuple):
    """Patches ``first`` … ``last``-1 of a table; their pixels lie ``D`` apart."""

    table: int
    first: int
    last: int
    D: int


class Matrices(NamedTuple):
    """One matrix for each of the 36 positions, ``step`` bytes apart, with a row for each patch."""

    start: int
    row_bytes: int
    step: int


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
def copy_patch(one, patch, plane, outside, iy, ix, image, D):
    """A patch that leaves the picture, in memory of its own, with the pixel at ``outside``
    around."""
    for r in range(6):
        for c in range(6):
            y, x = iy + r * D, ix + c * D
            inside = y >= 0 and y < image.H and x >= 0 and x < image.W
            at = plane + (y * image.W + x) * one.bytes if inside else outside
            store(load(one, at, 0, 0), patch + (r * 6 + c) * one.bytes, 0, 0)


@inline
def gather(down, across, six, rows, one, image, group, v, patch, outside):
    """V = Bᵀ x B of a group of patches, block after block of channels.

    ``down`` and ``across`` transform ``six`` rows; ``rows`` and ``one`` are six pixels and one, as
    the picture has them.
    """
    W, D, V = image.W, group.D, one.bytes
    for icb in range((image.C + one.lanes - 1) // one.lanes):
        plane = image.start + icb * image.H * W * V
        for t in range(group.first, group.last):
            at = group.table + t * PATCH_BYTES
            iy, ix = load_i32(at), load_i32(at + 4)
            if iy >= 0 and ix >= 0 and iy + 5 * D < image.H and ix + 5 * D < W:
                d = load_patch(rows, plane + (iy * W + ix) * V, D * W * V, D * V)
            else:
                copy_patch(one, patch, plane, outside, iy, ix, image, D)
                d = load_patch(rows, patch, 6 * V, V)
            to = v.start + (t - group.first) * v.row_bytes + icb * six.bytes
            for tile in across(six, exchange(down(six, d))):
                store(tile, to, 6 * v.step, 0)
                to += v.step


@inline
def product(outer, tile, u, ahead, ahead_step, v, m, position, ic, count, steps):
    """M = V·U, or more of it where these are not the first steps, ``ic``, for one position, in so
    many ``steps`` of ``outer``, each of 4 bytes of V. Meanwhile what lies ``ahead`` is fetched,
    ``ahead_step`` bytes further on for each tile of patches."""
    R, V = tile.rows, tile.bytes
    source, to = v.start + position * v.step + 4 * ic, m.start + position * m.step
    for t in range(0, count, R):
        rows = even_addresses(tile, source + t * v.row_bytes, v.row_bytes)
        fetched = ahead + t // R * ahead_step
        acc = zeros(tile)
        for step in range(steps):
            prefetch(fetched + step * V)
            acc = outer(acc, rows, 4 * step, u + step * tile.cols * V, V)
        if ic > 0:
            acc = acc + load_rows(tile, to + t * m.row_bytes, m.row_bytes, V, count - t)
        store_rows(acc, to + t * m.row_bytes, m.row_bytes, V, count - t)


@inline
def multiply(outer, tile, u, v, m, count, steps):
    """M = V·U for one tile of output channels: a `product` for each of the 36 positions."""
    row = tile.cols * tile.bytes
    for position in range(POSITIONS):
        for first in range(0, steps, K_BLOCK):
            weights, some = u + (position * steps + first) * row, min(K_BLOCK, steps - first)
            ahead, ahead_step = weights + K_BLOCK * row, K_BLOCK * tile.bytes
            product(outer, tile, weights, ahead, ahead_step, v, m, position, first, count, some)


@inline
def multiply_lean(tile, three, six, w, u, v, m, count, IC):
    """`multiply` with weights ``w`` that are yet to be transformed, a few input channels at a time,
    into ``u``."""
    V, row = tile.bytes, tile.cols * tile.bytes
    u_step = LEAN_K_BLOCK * row + PAD
    for ic in range(0, IC, LEAN_K_BLOCK):
        channels = min(LEAN_K_BLOCK, IC - ic)
        at = w + ic * ALL_TAPS * row
        for c in range(tile.cols):
            transform_channels(
                three, six, at + c * V, ALL_TAPS * row, u + c * V, row, u_step, channels, False
            )
        ahead = at + LEAN_K_BLOCK * ALL_TAPS * row
        for position in range(POSITIONS):
            weights, fetched = u + position * u_step, ahead + position * LEAN_K_BLOCK * V
            product(outer_fma, tile, weights, fetched, 0, v, m, position, ic, count, channels)


@cache
def scatterer(method: Method, epilogue: EpilogueCode, C: int, L: int) -> Callable[..., Any]:
    """The function that makes y = Aᵀ M A with its epilogue, for a group of patches and a tile of C
    blocks of output channels: the blocks ``block`` … of those, and ``plane`` … of the output's."""
    transform, channels, convert = method.transform_output, method.channels, method.convert
    six, four = TileShape(6, 1, L, method.sums), TileShape(4, 1, L, method.sums)
    floats = TileShape(4, 1, L)
    finish, rescale, put = finisher(epilogue, floats), epilogue.rescale, method.put
    V, y_bytes = 4 * L, L * epilogue.itemsize

    @inline
    def scatter(m, group, block, plane, known, a):
        e, OH, OW, D = a.epilogue, a.geometry.OH, a.geometry.OW, group.D
        for c in range(C):
            b = (block + c) * V
            of_channels = channels(four, floats, known.start + b, known.scale + b, e.shift + b)
            products = m.start + c * V
            for t in range(group.first, group.last):
                patch = group.table + t * PATCH_BYTES
                oy, ox = load_i32(patch + 8), load_i32(patch + 12)
                height, width = load_i32(patch + 16), load_i32(patch + 20)
                at = products + (t - group.first) * m.row_bytes
                d = load_patch(six, at, 6 * m.step, m.step)
                rows = transform(four, exchange(transform(six, d)))
                out = ((plane + c) * OH * OW + oy * OW + ox) * y_bytes
                below = 0
                for row in exchange(rows):
                    if below < height:
                        place = Place(out + below * D * OW * y_bytes, D * y_bytes, 0, width)
                        f = convert(rescale, four, row, of_channels)
                        put(finish(f, place, e), a.y, place, a.streamed)
                    below += 1  # noqa: SIM113  tiles are unrolled, a counter is not

    return scatter


def driver(
    method: Method, tile: TileShape, epilogue: EpilogueCode, lean: bool = False
) -> Callable[..., None]:
    """The kernel; ``tile`` is the products' register tile. It is ``lean`` if it transforms the
    weights too."""
    C, L = tile.cols, tile.lanes
    down, across, outer = method.transform_rows, method.transform_columns, method.outer
    six, three = TileShape(6, 1, L, method.inputs), TileShape(3, 1, L)
    rows, one = TileShape(6, 1, L, method.pixels), TileShape(1, 1, L, method.pixels)
    scatter, quantise = scatterer(method, epilogue, C, L), quantiser(epilogue.dynamic, L)
    V, per_step = tile.bytes, 4 // six.itemsize

    def kernel(thread, work, a: WinogradArguments):
        g = a.geometry
        ICB, OCT = (g.IC + L - 1) // L, (g.OC + C * L - 1) // (C * L)
        steps = (g.IC + per_step - 1) // per_step
        v_row, m_row = ICB * six.bytes, C * V
        scratch = a.scratch + thread * a.scratch_bytes
        v = Matrices(scratch, v_row, a.T * v_row + PAD)
        m = Matrices(scratch + POSITIONS * v.step, m_row, a.T * m_row + PAD)
        patch = m.start + POSITIONS * m.step
        known = quantise(scratch + a.scratch_bytes, a.start, a.pixel, a.epilogue, a.dynamic)
        whole = whole_groups(g.N * a.groups, a.threads)
        shared = (g.N * a.groups - whole) * OCT
        gathered = -1
        item, run_end = next_item(0, 0, work, whole + shared, shared, a.threads)
        while item < run_end:
            number, begin, end = share(item, whole, OCT)
            n, first = number // a.groups, number % a.groups * a.T
            group = Group(a.table, first, min(a.patches, first + a.T), g.DH)
            if number != gathered:
                image = Image(a.x + n * ICB * g.IH * g.IW * one.bytes, g.IC, g.IH, g.IW)
                gather(down, across, six, rows, one, image, group, v, patch, known.pixel)
                gathered = number
            for oct in range(begin, end):
                count = group.last - first
                if lean:
                    w, u = a.u + oct * g.IC * ALL_TAPS * C * V, patch + POSITIONS * V
                    multiply_lean(tile, three, six, w, u, v, m, count, g.IC)
                else:
                    u = a.u + oct * POSITIONS * steps * C * V
                    multiply(outer, tile, u, v, m, count, steps)
                scatter(m, group, oct * C, (n * OCT + oct) * C, known, a)
            item, run_end = next_item(item, run_end, work, whole + shared, shared, a.threads)

    return kernel


def launch(
    code: Code,
    q: Convolution,
    method: Method,
    group: int,
    u: np.ndarray | Packed,
    epilogue: EpilogueArguments,
    *,
    start: np.ndarray | int = 0,
    x_zero: int = 0,
    dynamic: Dynamic | None = None,
    streamed: bool = False,
    lean_bytes: int = 0,
) -> Launch:
    """The kernel's call, in groups of up to ``group`` patches; its code's first parameter is the
    products' tile."""
    tile, patches = code.parameters[0], patches_of(q)
    pixel = TileShape(1, 1, tile.lanes, method.pixels)
    input_bytes = TileShape(1, 1, tile.lanes, method.inputs).bytes
    row_bytes = blocks(q.IC) * input_bytes + tile.cols * tile.bytes
    scratch = POSITIONS * (group * row_bytes + pixel.bytes + 2 * PAD) + lean_bytes
    scratch = -(-(scratch + (dynamic.bytes if dynamic else 0)) // PAD) * PAD
    arguments = WinogradArguments(
        x=Operand("input"),
        u=u,
        start=start,
        pixel=aligned(np.full(tile.lanes, x_zero, np.uint8 if pixel.itemsize == 1 else np.float32)),
        y=Operand("output"),
        table=patches,
        scratch=Operand("workspace"),
        scratch_bytes=scratch,
        threads=Operand("threads"),
        patches=len(patches),
        groups=-(-len(patches) // group),
        T=group,
        streamed=streamed,
        geometry=q.geometry,
        epilogue=epilogue,
        dynamic=dynamic or Dynamic(),
    )
    return Launch(code, arguments, workspace=scratch)


def product_tile(OC: int) -> TileShape:
    """The register tile of the products: the direct kernel's columns, and as many rows as leave
    room for weights."""
    widest = direct_tile(OC)
    return TileShape(min(widest.rows, 24 // widest.cols), widest.cols, widest.lanes)
