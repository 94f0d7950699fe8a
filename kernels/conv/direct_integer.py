"""2-D convolution of bytes: sums of integers are exact, and become bytes again or floats.

The direct kernel for u8 inputs and i8 weights. Four input channels of a pixel, the K unit, are
broadcast at once and multiplied with four times L weights, whose products are added up in i32
lanes: one instruction where the CPU has one (see `outer_dot4` in simd.py). Sums start at a number
of their own for each output channel, which holds the bias and what zero points other than 0
contribute; points outside the picture read the input's zero point, so that they contribute nothing.
Weights with zero points of their own (`asymmetric`) have one column more, of ones: it adds up the
inputs, of which each channel then takes its zero point's share away.

A transposed convolution is several whose outputs interleave (phases.py). Each has starting sums of
its own, because the input's zero point contributes as often as there are taps.

Layouts: x [N][IC/L][IH][IW][L] u8, y [N][OC/L][OH][OW][L] u8 or f32,
weights [OC/(C·L)][IC/L][KH·KW][L/4][C][L][4], where C counts a column of ones (see
`MicroKernel.packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minseg.kernels.conv.micro import MicroKernel, column_count
from minseg.kernels.conv.phases import PHASE_BYTES, Phase, load_phase, single_phase
from minseg.kernels.conv.problem import Constants, Geometry, IntegerConv2d, Quantised, Transposed
from minseg.kernels.core.arguments import Address
from minseg.kernels.core.epilogue import (
    Dynamic,
    EpilogueArguments,
    EpilogueCode,
    Place,
    finisher,
    per_channel,
    quantiser,
)
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import write_offsets
from minseg.kernels.isa.simd import (
    TileShape,
    as_f32,
    claim,
    even_addresses,
    last_repeated,
    load,
    outer_dot4,
    row_addresses,
    store_at,
    store_i32,
    store_rows,
    without_last,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Pixels that one work item covers: its offset table and inputs stay in cache for all tiles.
ITEM_PIXELS = 96
#: Channels that are multiplied together.
QUAD = 4
#: From so many vectors of products a sum on, they outweigh what it takes to finish it. Below, sums
#: that are finished together should leave registers free.
MANY_PRODUCTS, FINISHED_SUMS = 100, 20


class IntegerDirectArguments(NamedTuple):
    """``phases`` is [phase][OC tile][`Phase`] i64, ``start`` what their sums start at, ``w_zero``
    a vector of the weights' zero points for each block of channels, ``pixel`` a vector of the
    input's; the pixels of a phase are ``OSH`` and ``OSW`` apart."""

    x: Address
    w: Address
    start: Address
    w_zero: Address
    pixel: Address
    y: Address
    phases: Address
    scratch: Address
    scratch_bytes: int
    phase_count: int
    pixel_items: int
    item_pixels: int
    OSH: int
    OSW: int
    geometry: Geometry
    epilogue: EpilogueArguments
    dynamic: Dynamic


@inline
def add_block(tile, acc, pixels, channels, weights):
    """``acc`` plus what one input block contributes at one tap: all of its quads of channels, or
    as many as ``channels`` need."""
    V = 4 * tile.lanes
    if channels >= tile.lanes:
        for quad in range(tile.lanes // 4):
            acc = outer_dot4(acc, pixels, 4 * quad, weights + quad * tile.cols * V, V)
    else:
        for quad in range((channels + 3) // 4):
            acc = outer_dot4(acc, pixels, 4 * quad, weights + quad * tile.cols * V, V)
    return acc


@inline
def add_even(tile, step, acc, x, g, phase, weights):
    """``acc`` plus what the input blocks of ``phase`` add to one tile of outputs whose windows all
    lie inside the picture, ``step`` bytes apart.

    ``x`` is the address of the first window's first input pixel in block 0, ``weights`` that of
    [block][tap][quad][C][L][4].
    """
    L = tile.lanes
    for icb in range(phase.begin, phase.end):
        channels = min(L, g.IC - icb * L)
        quads = (channels + 3) // 4
        for kh in range(g.KH):
            at = x + (icb * g.IH + kh * g.DH) * g.IW * L
            for _ in range(g.KW):
                acc = add_block(tile, acc, even_addresses(tile, at, step), channels, weights)
                at += g.DW * L
                weights += quads * tile.cols * L * 4
    return acc


@inline
def add_anywhere(tile, acc, x, g, phase, offsets, outside, weights):
    """The same for any outputs: ``x`` is the address of the picture's block 0, ``offsets`` that
    of the tile's [tap][R] input offsets."""
    L = tile.lanes
    for icb in range(phase.begin, phase.end):
        channels = min(L, g.IC - icb * L)
        quads = (channels + 3) // 4
        for tap in range(g.KH * g.KW):
            at = offsets + tap * tile.rows * 4
            pixels = row_addresses(tile, at, x + icb * g.IH * g.IW * L, outside)
            acc = add_block(tile, acc, pixels, channels, weights)
            weights += quads * tile.cols * L * 4
    return acc


@inline
def symmetric(shape, acc, w_zero, col_bytes):
    """Sums, of weights without zero points."""
    return acc


@inline
def asymmetric(shape, acc, w_zero, col_bytes):
    """Sums less what the weights' zero points contribute to them; the last column is dropped."""
    return without_last(acc) - last_repeated(acc) * load(shape, w_zero, 0, col_bytes)


@inline
def of_phase(g, phase):
    """The geometry of a phase."""
    return Geometry(
        g.N, g.IC, g.IH, g.IW, g.OC, phase.height, phase.width, phase.KH, phase.KW,
        g.SH, g.SW, phase.DH, phase.DW, phase.PT, phase.PL,
    )  # fmt: skip


@inline
def spread_places(tile, is_row, out, table, a, phase, oy, ox, pixel_bytes, rest):
    """The addresses of a tile of outputs that are spread, from pixel (oy, ox) of a phase on, in one
    row or not; those after as many as are the ``rest`` repeat the last. ``table`` is memory for
    offsets, ``out`` where the output's first block begins."""
    OW = a.geometry.OW
    if is_row:
        at = (phase.top + oy * a.OSH) * OW + phase.left + ox * a.OSW
        return even_addresses(tile, out + at * pixel_bytes, a.OSW * pixel_bytes)
    for r in range(tile.rows):
        p = oy * phase.width + ox + min(r, rest - 1)
        row, column = phase.top + p // phase.width * a.OSH, phase.left + p % phase.width * a.OSW
        store_i32(table + 4 * r, (row * OW + column) * pixel_bytes)
    return row_addresses(tile, table, out, out)


def direct(
    tile: TileShape, SW: int, spread: bool, zero_points: bool, epilogue: EpilogueCode
) -> Callable[..., None]:
    """The kernel for one register tile of i32 and horizontal stride; outputs may be ``spread``,
    ``zero_points`` are those of weights."""
    W, L = tile.cols, tile.lanes
    R, C = tile.rows, W - 1 if zero_points else W
    sums, floats = TileShape(R, C, L, "i32"), TileShape(R, C, L)
    corrected = asymmetric if zero_points else symmetric
    finish, quantise = finisher(epilogue, floats), quantiser(epilogue.dynamic, L)
    rescale, V, y_bytes = epilogue.rescale, 4 * L, L * epilogue.itemsize

    def kernel(thread, work, a: IntegerDirectArguments):
        e, items = a.epilogue, a.geometry.N * a.pixel_items
        OCT, ICB = (a.geometry.OC + C * L - 1) // (C * L), (a.geometry.IC + L - 1) // L
        y_plane = a.geometry.OH * a.geometry.OW * y_bytes
        outputs = a.scratch + thread * a.scratch_bytes
        table = outputs + 4 * R
        known = quantise(outputs + a.scratch_bytes, a.start, a.pixel, e, a.dynamic)
        item = claim(work)
        while item < OCT * items:
            oct, n, block = item // items, item % items // a.pixel_items, item % a.pixel_items
            x = a.x + n * ICB * a.geometry.IH * a.geometry.IW * L
            out = (n * OCT + oct) * C * y_plane
            c, first = oct * C * V, block * a.item_pixels
            for number in range(oct, a.phase_count, OCT):
                phase = load_phase(a.phases + number * PHASE_BYTES)
                g = of_phase(a.geometry, phase)
                weights, start = a.w + phase.weights, known.start + number * W * V
                last = min(g.OH * g.OW, first + a.item_pixels)
                oy, ox = first // g.OW, first % g.OW
                for p in range(first, last, R):
                    is_row = p + R <= last and ox + R <= g.OW
                    iy, ix = oy * g.SH - g.PT, ox * SW - g.PL
                    acc = load(tile, start, 0, V)
                    if is_row and is_inside(iy, ix, g, (R - 1) * SW):
                        window = x + (iy * g.IW + ix) * L
                        acc = add_even(tile, SW * L, acc, window, g, phase, weights)
                    else:
                        write_offsets(table, R, p, min(p + R, last), g, L)
                        acc = add_anywhere(tile, acc, x, g, phase, table, known.pixel, weights)
                    acc = corrected(sums, acc, a.w_zero + c, V)
                    scale = load(floats, known.scale + c, 0, V)
                    f = rescale(as_f32(acc), scale, load(floats, e.shift + c, 0, V))
                    at = out + p * y_bytes
                    y = finish(f, Place(at, y_bytes, y_plane, last - p), e)
                    if spread:
                        to = spread_places(
                            tile, is_row, a.y + out, outputs, a, phase, oy, ox, y_bytes, last - p
                        )
                        store_at(y, to, y_plane, last - p)
                    else:
                        store_rows(y, a.y + at, y_bytes, y_plane, last - p)
                    ox += R
                    while ox >= g.OW:
                        ox -= g.OW
                        oy += 1
            item = claim(work)

    return kernel


@inline
def is_inside(iy, ix, g, width):
    """Whether windows that begin at pixel (iy, ix), and up to ``width`` further right, lie inside
    the picture."""
    rows = iy >= 0 and iy + (g.KH - 1) * g.DH < g.IH
    return rows and ix >= 0 and ix + width + (g.KW - 1) * g.DW < g.IW


def direct_tile(
    OC: int, groups: int = 1, asymmetric: bool = False, products: int = MANY_PRODUCTS
) -> TileShape:
    """The register tile for OC output channels, each the sum of so many vectors of ``products``:
    as many pixels as the registers hold beside weights and broadcasts: one of each, but two where
    bytes are widened to pairs. Where products are few, as many as are fast to finish.

    For asymmetric weights a column of ones comes last; all blocks of a tile are of one group
    then, or there is but one block."""
    t, cols = target(), column_count(OC, groups)
    copies = t.byte_products.copies
    if asymmetric:
        cols = 2 if groups > 1 and OC // groups % (cols * t.lanes) else cols + 1
    rows = max(1, min(14, (t.registers - copies * (cols + 1)) // cols))
    if products < MANY_PRODUCTS and rows * cols > FINISHED_SUMS:
        rows = FINISHED_SUMS // cols // 2 * 2
    return TileShape(rows, cols, t.lanes, "i32")


def micro_kernel(q: Quantised, taps: int) -> MicroKernel:
    """For sums of so many ``taps``."""
    tile = direct_tile(q.OC, q.groups, q.asymmetric, taps * -(-q.IC // QUAD))
    return MicroKernel(tile, QUAD, tile.lanes, sum_column=q.asymmetric)


def tile_of(problem: IntegerConv2d) -> TileShape:
    """The register tile of the direct kernel."""
    return micro_kernel(problem, problem.KH * problem.KW).tile


def starting_sums(
    micro: MicroKernel, w: np.ndarray, x_zero: int, b: np.ndarray | None, w_zero: np.ndarray | None
) -> np.ndarray:
    """[OC tile][C][L] i32 that sums start at, 0 in a column of ones: the bias, less what the
    input's zero point contributes."""
    total = w.sum(axis=(1, 2, 3), dtype=np.int64)
    if w_zero is not None:
        total = total - w_zero.astype(np.int64) * w[0].size
    start = per_channel((0 if b is None else b) - x_zero * total, len(w))
    rows = start.reshape(-1, micro.width)
    return np.pad(rows, ((0, 0), (0, micro.sum_column * micro.tile.lanes))).astype(np.int32)


def launch(
    q: Quantised,
    micro: MicroKernel,
    phases: Sequence[tuple[Phase, np.ndarray]],
    constants: Constants,
    spread: tuple[int, int] = (1, 1),
) -> Launch:
    """The kernel's call for all ``phases`` of a convolution with their weights."""
    _, b, scale, shift, w_zero = constants
    tile, code = micro.tile, q.epilogue.code(q.is_dynamic)
    table, packed = micro.pack_phases(q, phases)

    def starts(x_zero: int, b: np.ndarray | None) -> np.ndarray:
        return np.concatenate([starting_sums(micro, w, x_zero, b, w_zero) for _, w in phases])

    most_pixels = max(p.height * p.width for p in table)
    item_pixels = -(-min(ITEM_PIXELS, most_pixels) // tile.rows) * tile.rows
    scratch = 4 * tile.rows * (1 + max(p.KH * p.KW for p in table))
    totals = aligned(starts(-1, None)) if q.is_dynamic else 0
    dynamic = Dynamic(*q.dynamic_inputs, totals, len(table) * tile.cols, blocks(q.OC))
    if q.is_dynamic:
        scratch = -(-(scratch + dynamic.bytes) // 64) * 64
    arguments = IntegerDirectArguments(
        x=Operand("input"),
        w=packed,
        start=aligned(starts(q.x_zero_point or 0, b)),
        w_zero=0 if w_zero is None else per_channel(w_zero, q.OC),
        pixel=aligned(np.full(tile.lanes, q.x_zero_point or 0, np.uint8)),
        y=Operand("output"),
        phases=np.array(table, np.int64),
        scratch=Operand("workspace"),
        scratch_bytes=scratch,
        phase_count=len(table),
        pixel_items=-(-most_pixels // item_pixels),
        item_pixels=item_pixels,
        OSH=spread[0],
        OSW=spread[1],
        geometry=q.geometry,
        epilogue=q.epilogue.arguments(q.residual, q.OC, shift, scale),
        dynamic=dynamic,
    )
    is_spread = isinstance(q, Transposed)
    factory = Code(direct, (tile, q.SW, is_spread, q.asymmetric, code))
    return Launch(factory, arguments, workspace=scratch)


def prepare_direct(problem: IntegerConv2d, *constants: Any) -> Launch:
    """``constants`` are those of `Constants`."""
    q, c = problem, Constants(*constants)
    micro = micro_kernel(q, q.KH * q.KW)
    return launch(q, micro, [(single_phase(q), c.w)], c)


def direct_applies(problem: IntegerConv2d) -> bool:
    """Any geometry whose input offsets fit 32 bits."""
    return problem.IH * problem.IW * target().lanes < 2**31


class IntegerDirectRates(NamedTuple):
    """Nanoseconds for a vector of dot products of four bytes, by how many of the products one
    instruction adds up."""

    quads: float
    pairs: float
    singles: float


def ns_per_vector() -> float:
    """The one for this target."""
    r = rates("conv_i8_direct", IntegerDirectRates)
    return {4: r.quads, 2: r.pairs, 1: r.singles}[target().byte_products.k_unit]


def direct_cost(problem: IntegerConv2d) -> float:
    """Nanoseconds: the padded products, four to a lane and instruction, grouped zeros counted."""
    q = problem
    micro = micro_kernel(q, q.KH * q.KW)
    spans = micro.input_ranges(q)
    channels = int((spans[:, 1] - spans[:, 0]).max()) * micro.depth
    if q.groups == 1:
        channels = q.IC
    pixels = q.N * q.OH * q.OW
    steps = len(spans) * micro.tile.cols * pixels * q.KH * q.KW * -(-channels // QUAD)
    return steps * ns_per_vector()


KERNELS = (
    Kernel(
        "conv_i8_direct", IntegerConv2d, prepare_direct, applies=direct_applies, cost=direct_cost
    ),
)
