"""2-D convolution that skips zero weights, on blocked f32 tensors, for any geometry.

`conv_f32_sparse_CxL` lays C·L pixels of one input channel, for one tap of the kernel, side by
side in a *line*. A weight times a line is C vector FMAs, so a weight that is zero costs nothing,
wherever it stands. (The vectors of the direct kernel, conv.py, hold L output channels: it could
only skip L zeros at once.) Two output channels are computed together, because a line is no faster
fetched than multiplied: first come the lines that only one of the two has a weight for, then those
that both have, which are fetched once for two products.

A work item makes C·L pixels of one *part* of the output channels, in scratch memory that stays in
the caches. It gathers a *chunk* of lines, in squares of L×L elements that are transposed in
registers; adds what each pair of outputs has weights for to its sums, which are lines too; goes on
with the next chunk; and in the end turns the sums back into blocks, with bias, residual and
activation. Memory keeps up because each pair asks for some of what comes after the products: the
pixels of the next chunk or, in the last one, the outputs. Squares that a part has no weight for are
left out, so groups are only a pattern of zeros.

A zero weight means "not connected": what it would multiply has no effect, even if that is NaN or
infinite, where the definition's 0·NaN is NaN. For all other weights IEEE rules hold.

Layouts: x, y and residual as in conv.py. The weights are compressed into four tables of i32
(`PARTS`, `CHUNKS`, `SQUARES`, `PAIRS`; a row ends where the next one begins, so the first two have
one row more), values (f32), and positions of lines in their chunk (u8). A pair's values stand in
the order of its positions, two for each line that both outputs have weights for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from minseg.kernels.activation import FORMULAS
from minseg.kernels.conv import Conv2d, input_cost
from minseg.kernels.jit import Code, inline
from minseg.kernels.layout import aligned, blocks
from minseg.kernels.machine import first_cache_bytes, target
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import (
    TileShape,
    claim,
    load,
    load_at,
    load_i32,
    load_rows,
    load_u8,
    outer_fma,
    prefetch,
    row_addresses,
    stack,
    store,
    store_rows,
    transpose,
    zeros,
)
from minseg.kernels.window import write_offsets

#: Of each part: its first chunk and its first block of output channels.
PARTS = ("chunk", "block")
#: Of each chunk: its first square, pair, value and position.
CHUNKS = ("square", "pair", "value", "position")
#: Of each square, which makes L lines: the block of input channels and the tap.
SQUARES = ("block", "tap")
#: Of each pair: its first output channel, counted in the part, and for how many lines only the
#: first, only the second, and both have weights.
PAIRS = ("channel", "first", "second", "both")

#: Bytes of a chunk of lines: they stay in the L1 cache beside what streams past. And how many where
#: that cache is large, and what counts as large.
CHUNK_BYTES, LARGE_CHUNK_BYTES, LARGE_CACHE_BYTES = 30 * 1024, 45 * 1024, 48 * 1024
#: Bytes of a chunk where few weights remain. More lines are fetched from the L2 cache in time then,
#: and so many that products outweigh the sums that wait between chunks.
THIN_CHUNK_BYTES, THIN_DENSITY = 48 * 1024, 0.25
#: Lines of a chunk at most, so that positions fit bytes.
CHUNK_LINES = 256
#: Output channels of a part, whose sums stay in the L2 cache; fewer, but no fewer than the second,
#: where there would be too few items for threads to finish together.
PART_CHANNELS, MIN_PART_CHANNELS = 256, 64
MIN_ITEMS = 16


class Source(NamedTuple):
    """What a work item reads: the picture ``x`` in blocks of ``plane`` bytes, at the ``offsets`` of
    ``vectors`` of pixels for each of ``taps`` taps."""

    x: int
    plane: int
    offsets: int
    taps: int
    vectors: int


class Sink(NamedTuple):
    """What a work item writes: ``blocks`` of output channels, each ``plane`` bytes after the one
    before, and in each ``pixels`` from ``y`` on. ``z`` is where the residual lies, ``b`` the bias.
    """

    y: int
    z: int
    b: int
    plane: int
    pixels: int
    blocks: int


@inline
def gather(square, source, squares, begin, end, zero, lines, line_bytes):
    """Squares ``begin`` … ``end``-1 of the table as lines."""
    L, V = square.lanes, square.bytes
    for at in range(squares + begin * 8, squares + end * 8, 8):
        plane = source.x + load_i32(at) * source.plane
        pixels = source.offsets + load_i32(at + 4) * L * 4
        for c in range(source.vectors):
            rows = row_addresses(square, pixels + c * source.taps * L * 4, plane, zero)
            store(transpose(load_at(square, rows, 0)), lines + c * V, line_bytes, 0)
        lines += L * line_bytes


@inline
def prefetch_squares(L, source, at, column, vectors):
    """Ask for ``vectors`` of what `gather` will read, from one ``column`` of the square in row
    ``at`` on. Returns row and column of the next one."""
    for _ in range(vectors):
        plane = source.x + load_i32(at) * source.plane
        pixels = source.offsets + (load_i32(at + 4) + column * source.taps) * L * 4
        for r in range(L):
            prefetch(plane + load_i32(pixels + r * 4))
        column += 1
        if column == source.vectors:
            column = 0
            at += 8
    return at, column


@inline
def prefetch_outputs(tile, channel, at, plane):
    """Ask for the share that a pair has in what `scatter` will touch: of the block that its first
    ``channel`` is in, as many pixels as its two lines would fill."""
    pixels = 2 * tile.cols
    at += channel // tile.lanes * plane + channel % tile.lanes // 2 * pixels * tile.bytes
    for p in range(pixels):
        prefetch(at + p * tile.bytes)


@inline
def add_line_products(line, acc, count, lines, line_bytes, values, positions):
    """``acc``, one line, plus ``count`` lines times a value each."""
    for i in range(count):
        at = lines + load_u8(positions + i) * line_bytes
        acc = outer_fma(acc, (values + i * 4,), 0, at, line.bytes)
    return acc


@inline
def multiply(tile, line, pair, first_chunk, lines, line_bytes, values, positions, sums):
    """Add a chunk's share to the sums of a pair, which the first chunk sets. Returns where the next
    pair's values and positions begin."""
    V = tile.bytes
    first, second, both = load_i32(pair + 4), load_i32(pair + 8), load_i32(pair + 12)
    to = sums + load_i32(pair) * line_bytes
    upper = zeros(line) if first_chunk else load(line, to, 0, V)
    upper = add_line_products(line, upper, first, lines, line_bytes, values, positions)
    positions += first
    values += 4 * first
    lower = zeros(line) if first_chunk else load(line, to + line_bytes, 0, V)
    lower = add_line_products(line, lower, second, lines, line_bytes, values, positions)
    positions += second
    values += 4 * second
    acc = stack(upper, lower)
    for i in range(both):
        at = lines + load_u8(positions + i) * line_bytes
        acc = outer_fma(acc, (values + 8 * i, values + 8 * i + 4), 0, at, V)
    store(acc, to, line_bytes, V)
    return values + 8 * both, positions + both


@inline
def scatter(activate, residual, square, sums, line_bytes, sink, alpha, beta):
    """Lines as blocks of output channels, with bias, residual and activation."""
    L, V = square.lanes, square.bytes
    for block in range(sink.blocks):
        bias = load(square, sink.b + block * V, 0, 0)
        for p in range(0, sink.pixels, L):
            at = sums + block * L * line_bytes + p * 4
            pixels = transpose(load(square, at, line_bytes, 0)) + bias
            to = block * sink.plane + p * V
            if residual:
                pixels = pixels + load_rows(square, sink.z + to, V, 0, sink.pixels - p)
            pixels = activate(square, pixels, alpha, beta)
            store_rows(pixels, sink.y + to, V, 0, sink.pixels - p)


def sparse(tile: TileShape, activation: str, residual: bool) -> Callable[..., None]:
    """The kernel; ``tile`` is the sums' register tile, two lines."""
    activate = FORMULAS[activation]
    C, L = tile.cols, tile.lanes
    line, square = TileShape(1, C, L), TileShape(L, 1, L)
    V, line_bytes = 4 * L, 4 * L * C

    def kernel(
        thread, work, x, parts, chunks, squares, pairs, values, positions, b, z, y, zero,
        scratch, scratch_bytes, lines_at, sums_at,
        N, ICB, OCB, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        part_count, tiles, alpha: float, beta: float,
    ):  # fmt: skip
        P, taps = OH * OW, KH * KW
        x_plane, y_plane = IH * IW * V, P * V
        offsets = scratch + thread * scratch_bytes
        lines, sums = offsets + lines_at, offsets + sums_at
        item = claim(work)
        while item < part_count * N * tiles:
            part, rest = parts + item // (N * tiles) * 8, item % (N * tiles)
            n, first = rest // tiles, rest % tiles * C * L
            last = min(P, first + C * L)
            write_offsets(offsets, L, first, last, IH, IW, OW, KH, KW, SH, SW, DH, DW, PT, PL, V)
            count = (last - first + L - 1) // L
            source = Source(x + n * ICB * x_plane, x_plane, offsets, taps, count)
            block = load_i32(part + 4)
            to = (n * OCB + block) * y_plane + first * V
            height = load_i32(part + 12) - block
            sink = Sink(y + to, z + to, b + block * V, y_plane, last - first, height)
            first_chunk, last_chunk = load_i32(part), load_i32(part + 8) - 1
            for chunk in range(first_chunk, last_chunk + 1):
                at = chunks + chunk * 16
                begin, end = load_i32(at), load_i32(at + 16)
                gather(square, source, squares, begin, end, zero, lines, line_bytes)
                first_pair, last_pair = load_i32(at + 4), load_i32(at + 20)
                value, position = values + load_i32(at + 8) * 4, positions + load_i32(at + 12)
                ahead, column = squares + end * 8, 0
                left = 0 if chunk == last_chunk else (load_i32(at + 32) - end) * count
                share = (left + last_pair - first_pair - 1) // max(1, last_pair - first_pair)
                for pair in range(pairs + first_pair * 16, pairs + last_pair * 16, 16):
                    share = min(share, left)
                    ahead, column = prefetch_squares(L, source, ahead, column, share)
                    left -= share
                    if chunk == last_chunk:
                        prefetch_outputs(tile, load_i32(pair), sink.y, y_plane)
                        if residual:
                            prefetch_outputs(tile, load_i32(pair), sink.z, y_plane)
                    value, position = multiply(
                        tile, line, pair, chunk == first_chunk, lines, line_bytes, value, position,
                        sums,
                    )  # fmt: skip
            scatter(activate, residual, square, sums, line_bytes, sink, alpha, beta)
            item = claim(work)

    return kernel


# Compressed weights


@dataclass(frozen=True)
class Chunk:
    """What the outputs of a part want of one chunk of lines: rows of the tables, values and
    positions."""

    squares: np.ndarray
    pairs: np.ndarray
    values: np.ndarray
    positions: np.ndarray

    @property
    def counts(self) -> tuple[int, ...]:
        return len(self.squares), len(self.pairs), len(self.values), len(self.positions)


def compress(
    w: np.ndarray, problem: Conv2d, channels: int, most_squares: int
) -> tuple[np.ndarray, ...]:
    """OC×IC/g×KH×KW weights as PARTS, CHUNKS, SQUARES, PAIRS, values and positions, for parts of
    ``channels`` outputs and chunks of up to ``most_squares`` squares."""
    parts, chunks = [(0, 0)], []
    for begin in range(0, problem.OC, channels):
        end = min(problem.OC, begin + channels)
        chunks += part_chunks(w, problem, begin, end, most_squares)
        parts.append((len(chunks), blocks(end)))
    begins = np.cumsum([(0, 0, 0, 0), *(chunk.counts for chunk in chunks)], axis=0)
    return (
        np.array(parts, np.int32),
        begins.astype(np.int32),
        np.concatenate([chunk.squares for chunk in chunks]).astype(np.int32),
        np.concatenate([chunk.pairs for chunk in chunks]).astype(np.int32),
        aligned(np.concatenate([chunk.values for chunk in chunks])),
        np.concatenate([chunk.positions for chunk in chunks]).astype(np.uint8),
    )


def part_chunks(
    w: np.ndarray, problem: Conv2d, begin: int, end: int, most_squares: int
) -> list[Chunk]:
    """The chunks of output channels ``begin`` … ``end``-1, of nearly equal size; one without
    squares if all weights are zero."""
    squares, lines = used_squares(w, problem, begin, end)
    count = max(1, -(-len(squares) // most_squares))
    edges = [len(squares) * i // count for i in range(count + 1)]
    return [
        Chunk(squares[first:last], *compress_lines(lines[:, first:last], every_pair=first == 0))
        for first, last in pairwise(edges)
    ]


def used_squares(
    w: np.ndarray, problem: Conv2d, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of SQUARES that output channels ``begin`` … ``end``-1 have weights for, and those
    weights: [OC][square][L]."""
    q, L = problem, target().lanes
    OCg, ICg, taps = q.OC // q.groups, q.IC // q.groups, q.KH * q.KW
    first_block = begin // OCg * ICg // L
    last_block = blocks(((end - 1) // OCg + 1) * ICg)
    dense = np.zeros((end - begin, (last_block - first_block) * L, taps), np.float32)
    for oc in range(begin, end):
        ic = oc // OCg * ICg - first_block * L
        dense[oc - begin, ic : ic + ICg] = w[oc].reshape(ICg, taps)
    lines = dense.reshape(len(dense), -1, L, taps).transpose(0, 1, 3, 2)
    block, tap = np.nonzero((lines != 0).any(axis=(0, 3)))
    return np.column_stack([first_block + block, tap]), lines[:, block, tap]


def compress_lines(
    weights: np.ndarray, every_pair: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of PAIRS, values and positions of [OC][square][L] weights. Pairs without any are left
    out unless ``every_pair`` is to be there."""
    padded = np.zeros((-(-len(weights) // 2) * 2, weights[0].size), np.float32)
    padded[: len(weights)] = weights.reshape(len(weights), -1)
    pairs = padded.reshape(len(padded) // 2, 2, -1)
    first, second = pairs[:, 0] != 0, pairs[:, 1] != 0
    kinds = np.stack([first & ~second, second & ~first, first & second], axis=1)
    counts = kinds.sum(axis=2)
    kept = np.arange(len(pairs)) if every_pair else np.flatnonzero(counts.any(axis=1))
    pair, kind, position = np.nonzero(kinds[kept])
    values = pairs[kept[pair], :, position][np.column_stack([kind != 1, kind != 0])]
    return np.column_stack([2 * kept, counts[kept]]), values, position


# The kernel as an entry of the list


def lines_tile(pixels: int) -> TileShape:
    """The register tile for pictures of so many output pixels: two lines as long as the registers
    allow, or somewhat shorter where that leaves less of the last one empty."""
    t = target()
    widths = range(4, 9) if t.registers == 32 else range(3, 7)
    cols = min(widths, key=lambda c: -(-pixels // (c * t.lanes)) * (c + 1))
    return TileShape(2, cols, t.lanes)


def chunk_squares(tile: TileShape, density: float) -> int:
    """Squares of a chunk at most."""
    is_large = first_cache_bytes() >= LARGE_CACHE_BYTES
    chunk_bytes = LARGE_CHUNK_BYTES if is_large else CHUNK_BYTES
    if density <= THIN_DENSITY:
        chunk_bytes = THIN_CHUNK_BYTES
    return min(CHUNK_LINES, chunk_bytes // (tile.cols * tile.bytes)) // tile.lanes


def part_channels(problem: Conv2d, tiles: int) -> int:
    """Output channels of a part."""
    channels = PART_CHANNELS
    while channels > MIN_PART_CHANNELS and -(-problem.OC // channels) * tiles < MIN_ITEMS:
        channels //= 2
    return channels


def prepare(problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` OC×IC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    tile = lines_tile(q.OH * q.OW)
    C, L = tile.cols, tile.lanes
    tiles = -(-q.OH * q.OW // (C * L))
    channels = part_channels(q, q.N * tiles)
    most_squares = chunk_squares(tile, q.density)
    compressed = compress(w, q, channels, most_squares)
    bias = np.zeros(blocks(q.OC) * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    lines_at = C * L * q.KH * q.KW * 4
    sums_at = lines_at + most_squares * L * C * L * 4
    scratch = sums_at + min(channels, blocks(q.OC) * L) * C * L * 4
    return Launch(
        Code(sparse, (tile, q.activation.kind, q.residual)),
        (
            Operand("input", 0),
            *(Operand("constant", i) for i in range(7)),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            Operand("constant", 7),
            *(Operand("workspace"), scratch, lines_at, sums_at),
            *(q.N, blocks(q.IC), blocks(q.OC), q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW),
            *(q.DH, q.DW, q.PT, q.PL, len(compressed[0]) - 1, tiles),
            q.activation.alpha,
            q.activation.beta,
        ),
        (*compressed, aligned(bias), aligned(np.zeros(L, np.float32))),
        scratch,
    )


def applies(problem: Conv2d) -> bool:
    """Any geometry whose input offsets fit 32 bits."""
    return problem.IH * problem.IW * target().lanes * 4 < 2**31


class Costs(NamedTuple):
    """Nanoseconds: the products that are left; sums that wait while chunks change; and finding
    pixels, fetching them, and transposing them on their way in and out."""

    products: float
    sums: float
    squares: float


def costs(problem: Conv2d) -> Costs:
    """What the kernel's work is made of."""
    q = problem
    tile = lines_tile(q.OH * q.OW)
    tiles = q.N * -(-q.OH * q.OW // (tile.cols * tile.lanes))
    channels = part_channels(q, tiles)
    parts = -(-q.OC // channels)
    OCg, ICg, taps = q.OC // q.groups, q.IC // q.groups, q.KH * q.KW
    squares_in = parts * blocks(min(q.IC, -(-channels // OCg) * ICg)) * taps
    chunks = -(-blocks(ICg) * taps // chunk_squares(tile, q.density))
    vectors = tiles * tile.cols
    products = vectors * q.OC * ICg * taps * q.density
    squares = squares_in * NS_PER_VECTOR_IN + blocks(q.OC) * NS_PER_VECTOR_OUT
    pixels = parts * (taps + OTHER_TAPS) * NS_PER_PIXEL
    return Costs(
        products * (NS_PER_PRODUCT + (1 - q.density) * NS_PER_LONE_LINE),
        vectors * q.OC * chunks * NS_PER_SUM,
        vectors * tile.lanes * (squares + pixels) + input_cost(q),
    )


def cost(problem: Conv2d) -> float:
    """Nanoseconds, rather too many than too few: a layer of few zeros had better keep a dense
    kernel that is as fast."""
    return sum(costs(problem)) * slowdown()


def slowdown() -> float:
    """How much longer the kernel's work takes, beside the dense kernels', than where its costs were
    measured."""
    return 1.0 if target().cpu.startswith(MEASURED_CPUS) else ON_OTHER_CPUS


#: What LLVM calls CPUs that these costs were measured on, and how much longer all takes on others:
#: Intel's fetch no more lines than they multiply, and have weights and positions to fetch besides.
MEASURED_CPUS, ON_OTHER_CPUS = "znver", 1.3
#: One vector FMA, and how much longer it takes where it alone needs what it multiplies; a vector
#: of a sum on its way out of a register and in again; a vector that is transposed on its way in,
#: and out.
NS_PER_PRODUCT, NS_PER_LONE_LINE, NS_PER_SUM = 0.28, 0.1, 1.2
NS_PER_VECTOR_IN, NS_PER_VECTOR_OUT = 2.4, 2.4
#: Finding what a tap meets from one output pixel, and as how many taps the pixel itself counts.
NS_PER_PIXEL, OTHER_TAPS = 1.5, 3

SPARSE = Kernel(
    "conv_f32_sparse",
    Conv2d,
    prepare,
    applies=applies,
    cost=cost,
    work=lambda problem: round(problem.flops * problem.density),
)

KERNELS = (SPARSE,)
