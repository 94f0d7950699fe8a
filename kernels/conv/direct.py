"""2-D convolution on blocked f32 tensors: the direct kernel, for any geometry.

The kernel keeps R output pixels × C blocks of L output channels in registers and walks over input
channels and kernel taps; each step multiplies R broadcast inputs with C weight vectors. The pixels
of a tile are neighbours in one row of the output, so their inputs lie a fixed number of bytes
apart; where a tile's windows leave the picture, they are copied to a small window of their own
with zeros around. Outputs may be spread out as well: a transposed convolution (transpose.py) is
several convolutions whose outputs interleave, a plain one is a single such *phase* (phases.py).

A work item is some tiles of the picture, for all output channels or a share of them. It takes
input channels in K blocks: the inputs of its tiles and the weights of one tile's channels then stay
in the L2 cache, the sum is parked in the output between K blocks. Each is summed from zero, which
keeps rounding errors small. Groups that don't fill whole vectors are multiplied with zeros for one
another (so there, and only there, a NaN or infinity reaches its neighbours).

`conv_f32_direct_plain` is the same for the few channels of a picture as it comes, in the plain
layout: to the kernel these are blocks of a single channel, where blocks of L would be mostly empty.

Bytes (direct_integer.py) share phases and packing, but not this walk. Their sums are exact in any
order and need no K blocks; their tiles may run on over the ends of rows, since pixels outside the
picture cost them an address where they cost a copy here.

Layouts: x [N][IC/L][IH][IW][L] or [N][IC][IH][IW], y and residual [N][OC/L][OH][OW][L],
weights [OC/(C·L)][IC/L][KH·KW][L][C][L] (see `MicroKernel.packed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from minseg.kernels.conv.micro import MicroKernel, column_count
from minseg.kernels.conv.phases import PHASE_BYTES, Phase, load_phase, single_phase
from minseg.kernels.conv.problem import Conv2d, Convolution, Geometry
from minseg.kernels.core.arguments import Address
from minseg.kernels.core.epilogue import EpilogueArguments, EpilogueCode, Place, finisher
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import PLAIN
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    even_addresses,
    load,
    load_rows,
    outer_fma,
    prefetch,
    store,
    store_rows,
    zeros,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Weights of one output tile that may wait in the L2 cache while pixels stream past.
WEIGHT_BLOCK_BYTES = 256 * 1024
#: Inputs of a work item that may wait there for the next tile of output channels.
INPUT_BLOCK_BYTES = 384 * 1024
#: Pixels that a work item covers: so often are weights used that come from beyond the L2 cache.
ITEM_PIXELS = 192
#: Work items wanted at least, so that threads finish together.
MIN_ITEMS = 16


class Image(NamedTuple):
    """A picture in the blocked layout: its address, and its channels of ``H`` × ``W`` pixels."""

    start: int
    C: int
    H: int
    W: int


class Schedule(NamedTuple):
    """Work items share the phases and the tiles of a picture, ``rows`` of ``columns`` tiles; in
    each, ``k_blocks`` times ``k_block`` blocks of the input are summed up."""

    rows: int
    columns: int
    phases: int
    phase_items: int
    tile_items: int
    k_block: int
    k_blocks: int


class DirectArguments(NamedTuple):
    """``phases`` is [phase][`Phase`] i64; ``OSH`` is how far the rows of a phase are apart."""

    x: Address
    w: Address
    y: Address
    phases: Address
    scratch: Address
    scratch_bytes: int
    OSH: int
    geometry: Geometry
    schedule: Schedule
    epilogue: EpilogueArguments


@inline
def copy_window(pixel, window, plane, image, iy, ix, phase, width):
    """Copy ``width`` pixels of each row that the taps meet, from pixel (iy, ix) of the plane on,
    and zeros for what lies outside of it."""
    for kh in range(phase.KH):
        row = iy + kh * phase.DH
        for column in range(ix, ix + width):
            inside = row >= 0 and row < image.H and column >= 0 and column < image.W
            at = plane + (row * image.W + column) * pixel.bytes
            store(load_rows(pixel, at, 0, 0, 1 if inside else 0), window, 0, 0)
            window += pixel.bytes


@inline
def products(tile, pixel, step, image, window, phase, iy, ix, begin, end, weights):
    """The sum that input blocks ``begin`` … ``end``-1 add to a tile of outputs whose pixels lie
    ``step`` apart in the input, the first one's taps meeting pixel (iy, ix) first.

    ``weights`` is the address of [block][tap][channel][C][L], ``window`` that of memory for one
    block of the pixels that all taps of the tile meet.
    """
    width = (tile.rows - 1) * step + (phase.KW - 1) * phase.DW + 1
    height = (phase.KH - 1) * phase.DH + 1
    inside = iy >= 0 and iy + height <= image.H and ix >= 0 and ix + width <= image.W
    row_bytes = (phase.DH * image.W if inside else width) * pixel.bytes
    step_bytes = step * pixel.bytes
    acc = zeros(tile)
    for block in range(begin, end):
        plane = image.start + block * image.H * image.W * pixel.bytes
        first = window
        if inside:
            first = plane + (iy * image.W + ix) * pixel.bytes
        else:
            copy_window(pixel, window, plane, image, iy, ix, phase, width)
        for kh in range(phase.KH):
            for kw in range(phase.KW):
                at = first + kh * row_bytes + kw * phase.DW * pixel.bytes
                pixels = even_addresses(tile, at, step_bytes)
                at += tile.rows * step_bytes
                for channel in range(min(pixel.lanes, image.C - block * pixel.lanes)):
                    prefetch(at + channel * step_bytes)
                    acc = outer_fma(acc, pixels, 4 * channel, weights, tile.bytes)
                    weights += tile.cols * tile.bytes
    return acc


@inline
def prefetch_tile(tile, address, row_bytes, col_bytes):
    """Ask for what `load` will read."""
    for r in range(tile.rows):
        for c in range(tile.cols):
            prefetch(address + r * row_bytes + c * col_bytes)


def direct(
    tile: TileShape, pixel: TileShape, step: int, spread: int, epilogue: EpilogueCode
) -> Callable[..., None]:
    """The kernel for one register tile, whose pixels lie ``step`` apart in the input and
    ``spread`` apart in the output. ``pixel`` is what a block of the input holds of a pixel."""
    finish, residual = finisher(epilogue, tile), bool(epilogue.residual)
    L, V = tile.lanes, tile.bytes

    def kernel(thread, work, a: DirectArguments):
        g, e, s = a.geometry, a.epilogue, a.schedule
        x_bytes = (g.IC + pixel.lanes - 1) // pixel.lanes * g.IH * g.IW * pixel.bytes
        y_plane, y_step = g.OH * g.OW * V, spread * V
        y_bytes = (g.OC + L - 1) // L * y_plane
        window = a.scratch + thread * a.scratch_bytes
        item = claim(work)
        while item < s.phase_items * g.N * s.tile_items:
            n, share = item // s.tile_items % g.N, item // (s.tile_items * g.N)
            image = Image(a.x + n * x_bytes, g.IC, g.IH, g.IW)
            first, last = item_range(item % s.tile_items, s.tile_items, s.rows * s.columns)
            first_phase, last_phase = item_range(share, s.phase_items, s.phases)
            for k in range(s.k_blocks):
                for number in range(first_phase, last_phase):
                    phase = load_phase(a.phases + number * PHASE_BYTES)
                    begin = min(phase.end, phase.begin + k * s.k_block)
                    end = min(phase.end, begin + s.k_block)
                    skipped = (begin - phase.begin) * phase.KH * phase.KW * pixel.lanes
                    weights = a.w + phase.weights + skipped * tile.cols * V
                    plane = phase.oct * tile.cols * y_plane + n * y_bytes
                    for t in range(first, last):
                        oy, ox = t // s.columns, t % s.columns * tile.rows
                        rows = phase.width - ox if oy < phase.height else 0
                        if rows > 0:
                            row, column = phase.top + oy * a.OSH, phase.left + ox * spread
                            at = plane + (row * g.OW + column) * V
                            if residual:
                                prefetch_tile(tile, e.z + at, y_step, y_plane)
                            iy, ix = oy * g.SH - phase.PT, ox * step - phase.PL
                            acc = products(
                                tile, pixel, step, image, window, phase, iy, ix, begin, end, weights
                            )
                            if k > 0:
                                acc = acc + load_rows(tile, a.y + at, y_step, y_plane, rows)
                            if k == s.k_blocks - 1:
                                bias = load(tile, e.shift + phase.oct * tile.cols * V, 0, V)
                                acc = finish(acc + bias, Place(at, y_step, y_plane, rows), e)
                            store_rows(acc, a.y + at, y_step, y_plane, rows)
            item = claim(work)

    return kernel


@inline
def item_range(item, items, count):
    """The share of one of so many items in ``count`` things: first, and last + 1."""
    return item * count // items, (item + 1) * count // items


def direct_tile(OC: int, groups: int = 1) -> TileShape:
    """The register tile for OC output channels: as many pixels as the registers hold beside the
    weights and one broadcast."""
    t, cols = target(), column_count(OC, groups)
    return TileShape(min(14, (t.registers - cols - 1) // cols), cols, t.lanes)


def fitted(tile: TileShape, width: int) -> TileShape:
    """``tile`` with the number of rows that cuts ``width`` pixels with the least waste."""
    most = tile.rows
    rows = min(
        range((most + 1) // 2, most + 1), key=lambda R: (-(-width // R) * (R * tile.cols + 1), -R)
    )
    return replace(tile, rows=rows)


def micro_kernel(q: Convolution, width: int, depth: int | None = None) -> MicroKernel:
    """For rows of ``width`` outputs; the input has blocks of ``depth`` channels, as many as a
    vector has lanes unless told."""
    tile = fitted(direct_tile(q.OC, q.groups), width)
    return MicroKernel(tile, unit=1, depth=depth or tile.lanes)


def launch(
    q: Convolution,
    micro: MicroKernel,
    phases: Sequence[tuple[Phase, np.ndarray]],
    b: np.ndarray | None,
    spread: tuple[int, int] = (1, 1),
    k_block: int | None = None,
) -> Launch:
    """The kernel's call for all ``phases`` of a convolution with their weights. So many as
    ``k_block`` blocks of the input are summed up at once, or as many as is best."""
    tile, pixel = micro.tile, TileShape(1, 1, micro.depth)
    table, packed = micro.pack_phases(q, phases)
    in_blocks = max(p.end - p.begin for p in table)
    if k_block is None:
        taps = max(1, *(p.KH * p.KW for p in table))
        k_blocks = -(-in_blocks // max(1, k_block_limit(q, tile, pixel, taps)))
        k_block = -(-in_blocks // k_blocks)
    rows, columns = max(p.height for p in table), -(-max(p.width for p in table) // tile.rows)
    tile_items = min(rows * columns, -(-rows * columns * tile.rows // (2 * ITEM_PIXELS)) * 2)
    phase_items = min(len(table), -(-MIN_ITEMS // (q.N * tile_items)))
    widths = [(tile.rows - 1) * q.SW + (p.KW - 1) * p.DW + 1 for p in table]
    window = max(p.KH * width for p, width in zip(table, widths, strict=True)) * pixel.bytes
    bias = np.zeros(q.OC, np.float32) if b is None else b
    arguments = DirectArguments(
        x=Operand("input"),
        w=packed,
        y=Operand("output"),
        phases=np.array(table, np.int64),
        scratch=Operand("workspace"),
        scratch_bytes=window,
        OSH=spread[0],
        geometry=q.geometry,
        schedule=Schedule(
            *(rows, columns, len(table), phase_items, tile_items),
            *(k_block, -(-in_blocks // k_block)),
        ),
        epilogue=q.epilogue.arguments(q.residual, q.OC, bias),
    )
    code = Code(direct, (tile, pixel, q.SW, spread[1], q.epilogue.code()))
    return Launch(code, arguments, workspace=window)


def k_block_limit(q: Convolution, tile: TileShape, pixel: TileShape, taps: int) -> int:
    """Input blocks that may be summed up at once: what their weights and pixels fill of the L2
    cache."""
    weights = taps * pixel.lanes * tile.cols * tile.bytes
    pixels = ITEM_PIXELS * min(taps, q.SH * q.SW) * pixel.bytes
    return min(WEIGHT_BLOCK_BYTES // weights, INPUT_BLOCK_BYTES // pixels)


def flattened(q: Conv2d) -> Conv2d:
    """A convolution of single pixels as one of a picture of one row; any other as it is."""
    alone = (q.KH, q.KW, q.SH, q.SW, q.PT, q.PL) == (1, 1, 1, 1, 0, 0)
    if alone and (q.IH, q.IW) == (q.OH, q.OW):
        return replace(q, IH=1, OH=1, IW=q.IH * q.IW, OW=q.IH * q.IW)
    return q


def prepare_direct(
    problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None, depth: int | None = None
) -> Launch:
    """``w`` OC×IC/g×KH×KW and ``b`` OC, both f32; ``depth`` as for `micro_kernel`."""
    q = flattened(problem)
    return launch(q, micro_kernel(q, q.OW, depth), [(single_phase(q), w)], b)


def prepare_plain(problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """`prepare_direct` for an input in the plain layout: each channel is a block of its own."""
    return prepare_direct(problem, w, b, depth=1)


def direct_applies(problem: Conv2d) -> bool:
    """Any geometry whose input offsets fit 32 bits."""
    return problem.IH * problem.IW * target().lanes * 4 < 2**31


def plain_applies(problem: Conv2d) -> bool:
    """Few channels, whose blocks would be mostly empty, and no residual, which would be plain
    where the output is blocked."""
    few = problem.IC <= MOST_PLAIN_CHANNELS
    return few and not problem.epilogue.residual and direct_applies(problem)


class DirectRates(NamedTuple):
    """Nanoseconds that one of each takes."""

    #: A vector FMA.
    vector: float
    #: A vector of outputs that is finished and stored.
    output: float
    #: A tap of a block of inputs.
    tap: float
    #: A byte of the input.
    input_byte: float


def direct_rates() -> DirectRates:
    return rates("conv_f32_direct", DirectRates)


def direct_cost(problem: Conv2d, depth: int | None = None) -> float:
    """Nanoseconds: the padded products at one vector FMA each, grouped zeros counted, what is done
    once for each tile, and for each tap of a block in it, and bringing in the input."""
    q = flattened(problem)
    micro = micro_kernel(q, q.OW, depth)
    tile, spans = micro.tile, micro.input_ranges(q)
    in_blocks = int((spans[:, 1] - spans[:, 0]).max())
    channels = min(q.IC, in_blocks * micro.depth)
    taps = q.KH * q.KW
    tiles = q.N * q.OH * -(-q.OW // tile.rows) * len(spans)
    vectors = tile.rows * tile.cols
    r = direct_rates()
    per_tile = vectors * (channels * taps * r.vector + r.output)
    return tiles * (per_tile + in_blocks * taps * r.tap) + input_cost(q, micro.depth)


def input_cost(problem: Conv2d, depth: int | None = None) -> float:
    """Nanoseconds that it takes to bring in the input, in blocks of ``depth`` channels."""
    q = problem
    depth = depth or target().lanes
    channels = -(-q.IC // depth) * depth
    return q.N * channels * q.IH * q.IW * 4 * direct_rates().input_byte


def plain_cost(problem: Conv2d) -> float:
    """`direct_cost` of blocks of one channel."""
    return direct_cost(problem, depth=1)


#: Planes of the input that a tile may read side by side: the L1 cache has few places for lines a
#: whole plane apart.
MOST_PLAIN_CHANNELS = 8

KERNELS = (
    Kernel(
        "conv_f32_direct",
        Conv2d,
        prepare_direct,
        applies=direct_applies,
        cost=direct_cost,
    ),
    Kernel(
        "conv_f32_direct_plain",
        Conv2d,
        prepare_plain,
        reads=PLAIN,
        applies=plain_applies,
        cost=plain_cost,
    ),
)
