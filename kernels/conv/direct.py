"""2-D convolution on blocked f32 tensors: the direct kernel, for any geometry.

The kernel keeps R output pixels × C blocks of L output channels in registers and walks over input
channels and kernel taps; each step multiplies R broadcast inputs with C weight vectors. The pixels
of a tile are neighbours in one row of the output, so their inputs lie a fixed number of bytes
apart; where a tile's windows leave the picture, they are copied to a small window of their own
with zeros around. Outputs may be spread out as well: a transposed convolution is several
convolutions whose outputs interleave (conv_transpose.py), a plain one is a single such *phase*.

A work item is some tiles of the picture, for all output channels or a share of them. It takes
input channels in chunks: the inputs of its tiles and the weights of one tile's channels then stay
in the L2 cache, the sum is parked in the output between chunks. Each chunk is summed from zero,
which keeps rounding errors small. Groups that don't fill whole vectors are multiplied with zeros
for one another (so there, and only there, a NaN or infinity reaches its neighbours).

`conv_f32_direct_plain` is the same for the few channels of a picture as it comes, in the plain
layout: to the kernel these are blocks of a single channel, where blocks of L would be mostly empty.

Layouts: x [N][IC/L][IH][IW][L] or [N][IC][IH][IW], y and residual [N][OC/L][OH][OW][L],
weights [OC/(C·L)][IC/L][KH·KW][L][C][L] (see `pack_weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from minseg.kernels.core.activation import FORMULAS, Activation
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    even_addresses,
    load,
    load_i64,
    load_rows,
    outer_fma,
    prefetch,
    store,
    store_rows,
    zeros,
)
from minseg.kernels.isa.target import target

#: Weights of one output tile that may wait in the L2 cache while pixels stream past.
WEIGHT_CHUNK_BYTES = 256 * 1024
#: Inputs of a work item that may wait there for the next tile of output channels.
INPUT_CHUNK_BYTES = 384 * 1024
#: Pixels that a work item covers: so often are weights used that come from beyond the L2 cache.
ITEM_PIXELS = 192
#: Work items wanted at least, so that threads finish together.
MIN_ITEMS = 16


@dataclass(frozen=True)
class Conv2d:
    """y = activation(conv(x, w) + b [+ residual]), ONNX Conv with explicit padding.

    Sizes by the usual letters: N, IC/OC channels, IH/IW and OH/OW pixels, KH/KW taps, SH/SW
    strides, DH/DW dilations, PT/PL padding at top and left (bottom and right follow from OH, OW).
    ``density`` is the share of weights that are not zero.
    """

    N: int
    IC: int
    IH: int
    IW: int
    OC: int
    OH: int
    OW: int
    KH: int = 1
    KW: int = 1
    SH: int = 1
    SW: int = 1
    DH: int = 1
    DW: int = 1
    PT: int = 0
    PL: int = 0
    groups: int = 1
    residual: bool = False
    activation: Activation = field(default_factory=Activation)
    density: float = 1.0

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately, zero weights included."""
        taps = self.KH * self.KW * self.IC // self.groups
        return 2 * self.N * self.OC * self.OH * self.OW * taps


class Image(NamedTuple):
    """A picture in the blocked layout: its address, and its channels of ``H`` × ``W`` pixels."""

    start: int
    C: int
    H: int
    W: int


class Part(NamedTuple):
    """What is computed at once: the channels of output tile ``oct``, at the pixels
    (``top`` + i·OSH, ``left`` + j·OSW), with i < ``height`` and j < ``width``, of an output that is
    spread by OSH and OSW. It is a convolution of the input blocks ``begin`` … ``end``-1, with
    weights from byte ``weights`` on."""

    oct: int
    top: int
    left: int
    height: int
    width: int
    KH: int
    KW: int
    DH: int
    DW: int
    PT: int
    PL: int
    begin: int
    end: int
    weights: int


PART_BYTES = 8 * len(Part._fields)


@inline
def load_part(at):
    return Part(
        load_i64(at),
        load_i64(at + 8),
        load_i64(at + 16),
        load_i64(at + 24),
        load_i64(at + 32),
        load_i64(at + 40),
        load_i64(at + 48),
        load_i64(at + 56),
        load_i64(at + 64),
        load_i64(at + 72),
        load_i64(at + 80),
        load_i64(at + 88),
        load_i64(at + 96),
        load_i64(at + 104),
    )


@inline
def copy_window(pixel, window, plane, image, iy, ix, part, width):
    """Copy ``width`` pixels of each row that the taps meet, from pixel (iy, ix) of the plane on,
    and zeros for what lies outside of it."""
    for kh in range(part.KH):
        row = iy + kh * part.DH
        for column in range(ix, ix + width):
            inside = row >= 0 and row < image.H and column >= 0 and column < image.W
            at = plane + (row * image.W + column) * pixel.bytes
            store(load_rows(pixel, at, 0, 0, 1 if inside else 0), window, 0, 0)
            window += pixel.bytes


@inline
def products(tile, pixel, step, image, window, part, iy, ix, begin, end, weights):
    """The sum that input blocks ``begin`` … ``end``-1 add to a tile of outputs whose pixels lie
    ``step`` apart in the input, the first one's taps meeting pixel (iy, ix) first.

    ``weights`` is the address of [block][tap][channel][C][L], ``window`` that of memory for one
    block of the pixels that all taps of the tile meet.
    """
    width = (tile.rows - 1) * step + (part.KW - 1) * part.DW + 1
    height = (part.KH - 1) * part.DH + 1
    inside = iy >= 0 and iy + height <= image.H and ix >= 0 and ix + width <= image.W
    row_bytes = (part.DH * image.W if inside else width) * pixel.bytes
    step_bytes = step * pixel.bytes
    acc = zeros(tile)
    for block in range(begin, end):
        plane = image.start + block * image.H * image.W * pixel.bytes
        first = window
        if inside:
            first = plane + (iy * image.W + ix) * pixel.bytes
        else:
            copy_window(pixel, window, plane, image, iy, ix, part, width)
        for kh in range(part.KH):
            for kw in range(part.KW):
                at = first + kh * row_bytes + kw * part.DW * pixel.bytes
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
    tile: TileShape, pixel: TileShape, step: int, spread: int, activation: str, residual: bool
) -> Callable[..., None]:
    """The kernel for one register tile, whose pixels lie ``step`` apart in the input and
    ``spread`` apart in the output. ``pixel`` is what a block of the input holds of a pixel;
    ``parts`` is [part][`Part`] i64."""
    activate = FORMULAS[activation]

    def kernel(
        thread, work, x, w, b, z, y, parts, scratch, scratch_bytes,
        N, IC, IH, IW, OC, OH, OW, SH, OSH, rows_of_tiles, tiles_a_row,
        part_count, part_items, tile_items, chunk, chunks, alpha: float, beta: float,
    ):  # fmt: skip
        L, V = tile.lanes, tile.bytes
        x_bytes = (IC + pixel.lanes - 1) // pixel.lanes * IH * IW * pixel.bytes
        y_bytes = (OC + L - 1) // L * OH * OW * V
        y_plane, y_step = OH * OW * V, spread * V
        tiles = rows_of_tiles * tiles_a_row
        item = claim(work)
        while item < part_items * N * tile_items:
            n, share = item // tile_items % N, item // (tile_items * N)
            image = Image(x + n * x_bytes, IC, IH, IW)
            first, last = item_range(item % tile_items, tile_items, tiles)
            first_part, last_part = item_range(share, part_items, part_count)
            for k in range(chunks):
                for number in range(first_part, last_part):
                    part = load_part(parts + number * PART_BYTES)
                    begin = min(part.end, part.begin + k * chunk)
                    end = min(part.end, begin + chunk)
                    skipped = (begin - part.begin) * part.KH * part.KW * pixel.lanes
                    weights = w + part.weights + skipped * tile.cols * V
                    place = part.oct * tile.cols * y_plane + n * y_bytes
                    for t in range(first, last):
                        oy, ox = t // tiles_a_row, t % tiles_a_row * tile.rows
                        rows = part.width - ox if oy < part.height else 0
                        if rows > 0:
                            row, column = part.top + oy * OSH, part.left + ox * spread
                            at = place + (row * OW + column) * V
                            if residual:
                                prefetch_tile(tile, z + at, y_step, y_plane)
                            acc = products(
                                tile, pixel, step, image, scratch + thread * scratch_bytes, part,
                                oy * SH - part.PT, ox * step - part.PL, begin, end, weights,
                            )  # fmt: skip
                            if k > 0:
                                acc = acc + load_rows(tile, y + at, y_step, y_plane, rows)
                            if k == chunks - 1:
                                acc = acc + load(tile, b + part.oct * tile.cols * V, 0, V)
                                if residual:
                                    acc = acc + load_rows(tile, z + at, y_step, y_plane, rows)
                                acc = activate(tile, acc, alpha, beta)
                            store_rows(acc, y + at, y_step, y_plane, rows)
            item = claim(work)

    return kernel


@inline
def item_range(item, items, count):
    """The share of one of so many items in ``count`` things: first, and last + 1."""
    return item * count // items, (item + 1) * count // items


def direct_tile(OC: int, groups: int = 1) -> TileShape:
    """The register tile for OC output channels: as many blocks of channels as divide them (and
    each group, if groups fill whole vectors), then as many pixels as the registers hold beside
    the weights and one broadcast."""
    t = target()
    widths = (4, 3, 2, 1) if t.registers == 32 else (2, 1)
    OCg = OC // groups
    divided = blocks(OCg if OCg % t.lanes == 0 else OC)
    cols = next(c for c in widths if divided % c == 0)
    return TileShape(min(14, (t.registers - cols - 1) // cols), cols, t.lanes)


def input_ranges(problem: Conv2d, tile: TileShape, depth: int) -> np.ndarray:
    """[OC tile][2] first and last+1 input block (of ``depth`` channels) that an output tile needs:
    all of them, unless the convolution is grouped."""
    OCg, ICg = problem.OC // problem.groups, problem.IC // problem.groups
    width = tile.cols * tile.lanes
    ranges = []
    for oc in range(0, blocks(problem.OC) * tile.lanes, width):
        groups = oc // OCg, (min(oc + width, problem.OC) - 1) // OCg
        ranges.append((groups[0] * ICg // depth, -(-(groups[1] + 1) * ICg // depth)))
    return np.array(ranges, np.int32)


def pack_weights(w: np.ndarray, problem: Conv2d, tile: TileShape, depth: int) -> np.ndarray:
    """OC×IC/g×KH×KW weights as [OC tile][IC block of its range][tap][ic][C][L], zeros between;
    blocks of input channels are ``depth`` deep.

    The last input block holds only the channels there are, so its taps lie closer together.
    """
    ranges = input_ranges(problem, tile, depth)
    width = tile.cols * tile.lanes
    OCg, ICg = problem.OC // problem.groups, problem.IC // problem.groups
    span = int((ranges[:, 1] - ranges[:, 0]).max())
    taps = problem.KH * problem.KW
    packed = np.zeros((len(ranges), span * depth, taps, width), np.float32)
    for oc in range(problem.OC):
        oct, lane = divmod(oc, width)
        ic = oc // OCg * ICg - ranges[oct, 0] * depth
        packed[oct, ic : ic + ICg, :, lane] = w[oc].reshape(ICg, taps)
    packed = packed.reshape(len(ranges), span, depth, taps, width).transpose(0, 1, 3, 2, 4)
    flat = np.ascontiguousarray(packed).reshape(len(ranges), -1)
    for oct, (begin, end) in enumerate(ranges):
        left = problem.IC - (end - 1) * depth
        close_last_block(flat[oct], end - begin - 1, left, taps, depth, width)
    return aligned(flat)


def close_last_block(
    packed: np.ndarray, block: int, channels: int, taps: int, depth: int, width: int
) -> None:
    """Move the taps of an input block with fewer than ``depth`` channels together, in place."""
    if channels < depth:
        at = block * taps * depth * width
        rows = packed[at : at + taps * depth * width].reshape(taps, depth, width)[:, :channels]
        packed[at : at + rows.size] = rows.reshape(-1)


def fitted(tile: TileShape, width: int) -> TileShape:
    """``tile`` with the number of rows that cuts ``width`` pixels with the least waste."""
    most = tile.rows
    rows = min(
        range((most + 1) // 2, most + 1), key=lambda R: (-(-width // R) * (R * tile.cols + 1), -R)
    )
    return replace(tile, rows=rows)


def launch(
    problem: Conv2d,
    tile: TileShape,
    pixel: TileShape,
    parts: Sequence[Part],
    packed: Sequence[np.ndarray],
    b: np.ndarray | None,
    spread: tuple[int, int] = (1, 1),
    chunk: int | None = None,
) -> Launch:
    """The kernel's call for all ``parts`` of a convolution, their weights in ``packed``. So many
    as ``chunk`` blocks of the input are summed up at once, or as many as is best."""
    q = problem
    L = tile.lanes
    bias = np.zeros(blocks(q.OC) * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    taps = max(1, *(p.KH * p.KW for p in parts))
    in_blocks = max(p.end - p.begin for p in parts)
    if chunk is None:
        chunks = -(-in_blocks // max(1, chunk_limit(q, tile, pixel, taps)))
        chunk = -(-in_blocks // chunks)
    rows_of_tiles = max(p.height for p in parts)
    tiles_a_row = -(-max(p.width for p in parts) // tile.rows)
    tiles = rows_of_tiles * tiles_a_row
    tile_items = min(tiles, -(-tiles * tile.rows // (2 * ITEM_PIXELS)) * 2)
    part_items = min(len(parts), -(-MIN_ITEMS // (q.N * tile_items)))
    widths = [(tile.rows - 1) * q.SW + (p.KW - 1) * p.DW + 1 for p in parts]
    window = max(p.KH * width for p, width in zip(parts, widths, strict=True)) * pixel.bytes
    return Launch(
        Code(direct, (tile, pixel, q.SW, spread[1], q.activation.kind, q.residual)),
        (
            Operand("input", 0),
            Operand("constant", 0),
            Operand("constant", 1),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            Operand("constant", 2),
            Operand("workspace"),
            window,
            *(q.N, q.IC, q.IH, q.IW, q.OC, q.OH, q.OW, q.SH, spread[0]),
            *(rows_of_tiles, tiles_a_row, len(parts), part_items, tile_items),
            *(chunk, -(-in_blocks // chunk)),
            q.activation.alpha,
            q.activation.beta,
        ),
        (
            aligned(np.concatenate([p.reshape(-1) for p in packed])),
            aligned(bias),
            np.array(parts, np.int64),
        ),
        window,
    )


def chunk_limit(q: Conv2d, tile: TileShape, pixel: TileShape, taps: int) -> int:
    """Input blocks that may be summed up at once: what their weights and pixels fill of the L2
    cache."""
    weights = taps * pixel.lanes * tile.cols * tile.bytes
    pixels = ITEM_PIXELS * min(taps, q.SH * q.SW) * pixel.bytes
    return min(WEIGHT_CHUNK_BYTES // weights, INPUT_CHUNK_BYTES // pixels)


def flattened(q: Conv2d) -> Conv2d:
    """A convolution of single pixels as one of a picture of one row; any other as it is."""
    alone = (q.KH, q.KW, q.SH, q.SW, q.PT, q.PL) == (1, 1, 1, 1, 0, 0)
    if alone and (q.IH, q.IW) == (q.OH, q.OW):
        return replace(q, IH=1, OH=1, IW=q.IH * q.IW, OW=q.IH * q.IW)
    return q


def prepare_direct(
    problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None, depth: int | None = None
) -> Launch:
    """``w`` OC×IC/g×KH×KW and ``b`` OC, both f32; the input has blocks of ``depth`` channels, as
    many as a vector has lanes unless told."""
    q = flattened(problem)
    tile = fitted(direct_tile(q.OC, q.groups), q.OW)
    pixel = TileShape(1, 1, depth or tile.lanes)
    packed = pack_weights(w, q, tile, pixel.lanes)
    whole = 0, 0, q.OH, q.OW, q.KH, q.KW, q.DH, q.DW, q.PT, q.PL
    parts = [
        Part(oct, *whole, begin, end, oct * packed[0].nbytes)
        for oct, (begin, end) in enumerate(input_ranges(q, tile, pixel.lanes).tolist())
    ]
    return launch(q, tile, pixel, parts, [packed], b)


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
    return few and not problem.residual and direct_applies(problem)


def direct_cost(problem: Conv2d, depth: int | None = None) -> float:
    """Nanoseconds: the padded products at one vector FMA each, grouped zeros counted, what is done
    once for each tile, and for each tap of a block in it, and bringing in the input."""
    q = flattened(problem)
    tile = fitted(direct_tile(q.OC, q.groups), q.OW)
    depth = depth or tile.lanes
    spans = input_ranges(q, tile, depth)
    in_blocks = int((spans[:, 1] - spans[:, 0]).max())
    channels = min(q.IC, in_blocks * depth)
    taps = q.KH * q.KW
    tiles = q.N * q.OH * -(-q.OW // tile.rows) * len(spans)
    vectors = tile.rows * tile.cols
    per_tile = vectors * (channels * taps * NS_PER_VECTOR + NS_PER_OUTPUT)
    return tiles * (per_tile + in_blocks * taps * NS_PER_TAP) + input_cost(q, depth)


def input_cost(problem: Conv2d, depth: int | None = None) -> float:
    """Nanoseconds that it takes to bring in the input, in blocks of ``depth`` channels."""
    q = problem
    depth = depth or target().lanes
    channels = -(-q.IC // depth) * depth
    return q.N * channels * q.IH * q.IW * 4 * NS_PER_INPUT_BYTE


def plain_cost(problem: Conv2d) -> float:
    """`direct_cost` of blocks of one channel."""
    return direct_cost(problem, depth=1)


#: One vector FMA at about one a cycle.
NS_PER_VECTOR = 0.29
#: One vector of outputs to be finished and stored.
NS_PER_OUTPUT = 1.0
#: One tap of a block of inputs.
NS_PER_TAP = 0.6
#: One byte of input.
NS_PER_INPUT_BYTE = 0.03
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
        reads="plain",
        applies=plain_applies,
        cost=plain_cost,
    ),
)
