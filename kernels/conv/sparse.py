"""2-D convolution that skips zero weights, on f32 tensors in blocks or in lines, for any geometry.

`conv_f32_sparse_CxL` lays C·L pixels of one input channel, for one tap of the kernel, side by
side in a *line*. A weight times a line is C vector FMAs, so a weight that is zero costs nothing,
wherever it stands. (The vectors of the direct kernel, conv.py, hold L output channels: it could
only skip L zeros at once.) Three output channels, a *trio*, are computed together, because a line
is no faster fetched than multiplied: one that several of them have weights for is fetched once.

A work item makes C·L pixels of one *part* of the output channels, a *chunk* of input lines at a
time: a chunk stays in the L1 cache while each trio adds what it has weights for to its sums, which
are lines too and stay in the L2 cache. Memory keeps up because each trio asks for some of what
comes after the products.

Between two such convolutions of 1×1, tensors are lines (layout.py): then a chunk is read where it
lies, and sums grow where the output is to be. Blocks become lines in scratch memory, in squares of
L×L elements that are transposed in registers, and sums become blocks in the end. Squares that a
part has no weight for are left out, so groups are only a pattern of zeros.

A zero weight means "not connected": what it would multiply has no effect, even if that is NaN or
infinite, where the definition's 0·NaN is NaN. For all other weights IEEE rules hold.

Layouts: x, y and residual blocked as in conv.py, or lines; weights as in sparse_weights.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from minseg.kernels.conv.direct import Conv2d, input_cost
from minseg.kernels.conv.sparse_weights import TRIO_BYTES, compress
from minseg.kernels.core.activation import FORMULAS
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import Layout, aligned, blocks, line_vectors
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.scheduling import next_item
from minseg.kernels.core.window import write_offsets
from minseg.kernels.isa.simd import (
    TileShape,
    even_addresses,
    fill,
    load,
    load_at,
    load_f32,
    load_i32,
    load_rows,
    load_u8,
    lower_half,
    outer_fma,
    prefetch,
    row_addresses,
    stack,
    store,
    store_rows,
    transpose,
    upper_half,
)
from minseg.kernels.isa.target import first_cache_bytes, target

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
PART_CHANNELS, MIN_PART_CHANNELS = 512, 64
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
    before, and in each ``pixels`` from ``y`` on. ``z`` is where the residual lies."""

    y: int
    z: int
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
def prefetch_vectors(at, count, vector_bytes):
    """Ask for ``count`` vectors that lie side by side. Returns where the next one lies."""
    for _ in range(count):
        prefetch(at)
        at += vector_bytes
    return at


@inline
def prefetch_trio(line, trio, at, line_bytes):
    """Ask for the lines of a trio's channels."""
    for channel in range(3):
        prefetch_vectors(at + load_i32(trio + 4 * channel) * line_bytes, line.cols, line.bytes)


@inline
def prefetch_outputs(line, number, at, plane):
    """Ask for the share that the trio of this ``number`` has in what `scatter` will touch: of one
    block, as many pixels as its lines would fill."""
    block, rest = 3 * number // line.lanes, 3 * number % line.lanes
    prefetch_vectors(at + block * plane + rest * line.cols * line.bytes, 3 * line.cols, line.bytes)


@inline
def add_line(tile, sums, lines, position, line_bytes, values):
    """``sums`` plus the line in a position times a value for each of their rows."""
    at = lines + load_u8(position) * line_bytes
    return outer_fma(sums, even_addresses(tile, values, 4), 0, at, tile.bytes)


@inline
def add_alone(line, sums, count, lines, line_bytes, v, p):
    """``sums`` plus ``count`` lines times a value. Returns them and where the next values and
    positions are."""
    for _ in range(count):
        sums = add_line(line, sums, lines, p, line_bytes, v)
        v += 4
        p += 1
    return sums, v, p


@inline
def multiply(line, pair, trio, a, b, c, lines, line_bytes, v, p):
    """The sums of a trio and what a chunk adds to them, from values at ``v`` and positions at ``p``
    on. Returns the sums, and where the next trio's values and positions are."""
    for _ in range(load_i32(trio + 12)):
        a = add_line(line, a, lines, p, line_bytes, v)
        b = add_line(line, b, lines, p + 1, line_bytes, v + 4)
        c = add_line(line, c, lines, p + 2, line_bytes, v + 8)
        v += 12
        p += 3
    a, v, p = add_alone(line, a, load_i32(trio + 16), lines, line_bytes, v, p)
    b, v, p = add_alone(line, b, load_i32(trio + 20), lines, line_bytes, v, p)
    c, v, p = add_alone(line, c, load_i32(trio + 24), lines, line_bytes, v, p)
    for _ in range(load_i32(trio + 28)):
        ab = add_line(pair, stack(a, b), lines, p, line_bytes, v)
        ac = add_line(pair, stack(upper_half(ab), c), lines, p + 1, line_bytes, v + 8)
        bc = add_line(pair, stack(lower_half(ab), lower_half(ac)), lines, p + 2, line_bytes, v + 16)
        a, b, c = upper_half(ac), upper_half(bc), lower_half(bc)
        v += 24
        p += 3
    for _ in range(load_i32(trio + 32)):
        ab = add_line(pair, stack(a, b), lines, p, line_bytes, v)
        a, b = upper_half(ab), lower_half(ab)
        c = add_line(line, c, lines, p, line_bytes, v + 8)
        v += 12
        p += 1
    return a, b, c, v, p


@inline
def sum_before(line, is_first, bias, sums, channel, line_bytes):
    """The sums of a channel before a chunk."""
    if is_first:
        return fill(line, load_f32(bias + channel * 4))
    return load(line, sums + channel * line_bytes, 0, line.bytes)


@inline
def place_sum(line, activate, add, complete, sum_, sums, z_sums, channel, alpha, beta):
    """Put a channel's sum after a chunk where it belongs, with ``add`` after adding the residual,
    and if it is ``complete``, activated."""
    at = channel * line.cols * line.bytes
    if add:
        sum_ = sum_ + load(line, z_sums + at, 0, line.bytes)
    if complete:
        sum_ = activate(line, sum_, alpha, beta)
    store(sum_, sums + at, 0, line.bytes)


@inline
def scatter(activate, residual, square, sums, line_bytes, sink, alpha, beta):
    """Lines as blocks of output channels, with residual and activation."""
    L, V = square.lanes, square.bytes
    for block in range(sink.blocks):
        for p in range(0, sink.pixels, L):
            at = sums + block * L * line_bytes + p * 4
            pixels = transpose(load(square, at, line_bytes, 0))
            to = block * sink.plane + p * V
            if residual:
                pixels = pixels + load_rows(square, sink.z + to, V, 0, sink.pixels - p)
            pixels = activate(square, pixels, alpha, beta)
            store_rows(pixels, sink.y + to, V, 0, sink.pixels - p)


def sparse(
    line: TileShape, activation: str, reads: Layout, adds: Layout | None, writes: Layout
) -> Callable[..., None]:
    """The kernel; ``line`` is a line in registers, ``adds`` the residual's layout, if there is
    one."""
    activate = FORMULAS[activation]
    C, L = line.cols, line.lanes
    pair, square = TileShape(2, C, L), TileShape(L, 1, L)
    V, line_bytes = 4 * L, 4 * L * C
    from_lines, to_lines = reads == "lines", writes == "lines"
    add_lines, add_blocks = adds == "lines", adds == "blocked"

    def kernel(
        thread, work, x, parts, chunks, squares, trios, values, positions, b, z, y, zero,
        scratch, scratch_bytes, lines_at, sums_at,
        N, ICB, OCB, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        threads, part_count, tiles, alpha: float, beta: float,
    ):  # fmt: skip
        P, taps = OH * OW, KH * KW
        x_plane, y_plane = IH * IW * V, P * V
        offsets = scratch + thread * scratch_bytes
        lines, sums = offsets + lines_at, offsets + sums_at
        items = part_count * N * tiles
        item, run_end = next_item(0, 0, work, items, 0, threads)
        while item < run_end:
            part, place = parts + item // (N * tiles) * 8, item % (N * tiles)
            n, first = place // tiles, place % tiles * C * L
            last = min(P, first + C * L)
            block, end_block = load_i32(part + 4), load_i32(part + 12)
            source = Source(
                x + n * ICB * x_plane, x_plane, offsets, taps, (last - first + L - 1) // L
            )
            to = (n * OCB + block) * y_plane + first * V
            sink = Sink(y + to, z + to, y_plane, last - first, end_block - block)
            if not from_lines:
                write_offsets(
                    offsets, L, first, last, IH, IW, OW, KH, KW, SH, SW, DH, DW, PT, PL, V
                )
            to = (place * OCB + block) * L * line_bytes
            z_sums = z + to
            if to_lines:
                sums = y + to
            bias = b + block * V
            first_chunk, last_chunk = load_i32(part), load_i32(part + 8) - 1
            for chunk in range(first_chunk, last_chunk + 1):
                at = chunks + chunk * 16
                begin, end = load_i32(at), load_i32(at + 16)
                ahead, column = squares + end * 8, 0
                left = 0 if chunk == last_chunk else load_i32(at + 32) - end
                if from_lines:
                    lines = x + (place * ICB + load_i32(squares + begin * 8)) * L * line_bytes
                    ahead, left = lines + (end - begin) * L * line_bytes, left * L * C
                else:
                    gather(square, source, squares, begin, end, zero, lines, line_bytes)
                    left *= source.vectors
                first_trio = load_i32(at + 4)
                count = load_i32(at + 20) - first_trio
                value, position = values + load_i32(at + 8) * 4, positions + load_i32(at + 12)
                is_first, is_last = chunk == first_chunk, chunk == last_chunk
                add, complete = add_lines and is_last, to_lines and is_last
                per_trio = (left + count - 1) // max(1, count)
                for number in range(count):
                    trio = trios + (first_trio + number) * TRIO_BYTES
                    per_trio = min(per_trio, left)
                    left -= per_trio
                    if from_lines:
                        ahead = prefetch_vectors(ahead, per_trio, V)
                    else:
                        ahead, column = prefetch_squares(L, source, ahead, column, per_trio)
                    if to_lines and is_first:
                        prefetch_trio(line, trio + TRIO_BYTES, sums, line_bytes)
                    if add:
                        prefetch_trio(line, trio + TRIO_BYTES, z_sums, line_bytes)
                    if not to_lines and is_last:
                        prefetch_outputs(line, number, sink.y, y_plane)
                        if add_blocks:
                            prefetch_outputs(line, number, sink.z, y_plane)
                    one, two, three = load_i32(trio), load_i32(trio + 4), load_i32(trio + 8)
                    sum_a = sum_before(line, is_first, bias, sums, one, line_bytes)
                    sum_b = sum_before(line, is_first, bias, sums, two, line_bytes)
                    sum_c = sum_before(line, is_first, bias, sums, three, line_bytes)
                    sum_a, sum_b, sum_c, value, position = multiply(
                        line, pair, trio, sum_a, sum_b, sum_c, lines, line_bytes, value, position
                    )
                    place_sum(
                        line, activate, add, complete, sum_c, sums, z_sums, three, alpha, beta
                    )
                    place_sum(line, activate, add, complete, sum_b, sums, z_sums, two, alpha, beta)
                    place_sum(line, activate, add, complete, sum_a, sums, z_sums, one, alpha, beta)
            if not to_lines:
                scatter(activate, add_blocks, square, sums, line_bytes, sink, alpha, beta)
            item, run_end = next_item(item, run_end, work, items, 0, threads)

    return kernel


# The kernel as an entry of the list


def line_tile(pixels: int) -> TileShape:
    """A line of pictures of so many output pixels."""
    return TileShape(1, line_vectors(pixels), target().lanes)


def chunk_squares(line: TileShape, density: float) -> int:
    """Squares of a chunk at most."""
    is_large = first_cache_bytes() >= LARGE_CACHE_BYTES
    chunk_bytes = LARGE_CHUNK_BYTES if is_large else CHUNK_BYTES
    if density <= THIN_DENSITY:
        chunk_bytes = THIN_CHUNK_BYTES
    return min(CHUNK_LINES, chunk_bytes // (line.cols * line.bytes)) // line.lanes


def part_channels(problem: Conv2d, tiles: int) -> int:
    """Output channels of a part."""
    channels = PART_CHANNELS
    while channels > MIN_PART_CHANNELS and -(-problem.OC // channels) * tiles < MIN_ITEMS:
        channels //= 2
    return channels


def prepare(
    problem: Conv2d,
    w: np.ndarray,
    b: np.ndarray | None = None,
    reads: Layout = "blocked",
    adds: Layout = "blocked",
    writes: Layout = "blocked",
) -> Launch:
    """``w`` OC×IC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    line = line_tile(q.OH * q.OW)
    C, L = line.cols, line.lanes
    tiles = -(-q.OH * q.OW // (C * L))
    channels = part_channels(q, q.N * tiles)
    most_squares = chunk_squares(line, q.density)
    compressed = compress(w, q, channels, most_squares, reads == "lines")
    bias = np.zeros(blocks(q.OC) * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    lines_at = C * L * q.KH * q.KW * 4
    sums_at = lines_at + most_squares * L * C * L * 4
    scratch = sums_at + min(channels, blocks(q.OC) * L) * C * L * 4
    return Launch(
        Code(sparse, (line, q.activation.kind, reads, adds if q.residual else None, writes)),
        (
            Operand("input", 0),
            *(Operand("constant", i) for i in range(7)),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            Operand("constant", 7),
            *(Operand("workspace"), scratch, lines_at, sums_at),
            *(q.N, blocks(q.IC), blocks(q.OC), q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW),
            *(q.DH, q.DW, q.PT, q.PL),
            Operand("threads"),
            *(len(compressed[0]) - 1, tiles),
            q.activation.alpha,
            q.activation.beta,
        ),
        (*compressed, aligned(bias), aligned(np.zeros(L, np.float32))),
        scratch,
    )


def applies(problem: Conv2d) -> bool:
    """Any geometry whose input offsets fit 32 bits."""
    return problem.IH * problem.IW * target().lanes * 4 < 2**31


def keeps_pixels(problem: Conv2d) -> bool:
    """1×1 of stride 1: an output pixel needs the input pixel in its place only."""
    q = problem
    return (q.KH, q.KW, q.SH, q.SW, q.PT, q.PL, q.OH, q.OW) == (1, 1, 1, 1, 0, 0, q.IH, q.IW)


def adds_residual(problem: Conv2d) -> bool:
    """With a residual, any geometry."""
    return problem.residual and applies(problem)


class Costs(NamedTuple):
    """Nanoseconds: the products that are left; sums that wait while chunks change; and lines:
    finding pixels, fetching them, and transposing them on their way in and out."""

    products: float
    sums: float
    lines: float


class Rates(NamedTuple):
    """Nanoseconds that one of each takes: a vector FMA, and how much longer where it alone needs
    what it multiplies; a vector of a sum on its way out of a register and in again; a vector that
    is transposed on its way in, and out; finding what a tap meets from one output pixel; and a
    vector of a line that is read where it lies."""

    product: float
    lone_line: float
    sum: float
    vector_in: float
    vector_out: float
    pixel: float
    vector: float


#: What LLVM calls AMD's CPUs, and rates there; elsewhere, measured on an Intel CPU; and in vectors
#: of 256 bits, measured on it too. All are told as times on AMD's CPU, since those are what the
#: dense kernels' costs are. (Products took 1.8 times as long there; moving lines did not.)
AMD = "znver"
RATES_OF_AMD = Rates(0.28, 0.1, 1.2, 2.4, 2.4, 1.5, 1.2)
RATES = Rates(0.28, 0.14, 2.8, 3.9, 3.2, 0.3, 2.2)
RATES_OF_AVX2 = Rates(0.3, 0.08, 1.6, 2.4, 2.2, 0.3, 1.6)


def rates() -> Rates:
    """Those of the CPU that kernels are compiled for."""
    t = target()
    if t.cpu.startswith(AMD):
        return RATES_OF_AMD
    return RATES if t.registers == 32 else RATES_OF_AVX2


#: As how many taps a pixel itself counts.
OTHER_TAPS = 3


def costs(problem: Conv2d, reads: Layout = "blocked", writes: Layout = "blocked") -> Costs:
    """What the kernel's work is made of."""
    q = problem
    r = rates()
    line = line_tile(q.OH * q.OW)
    tiles = q.N * -(-q.OH * q.OW // (line.cols * line.lanes))
    channels = part_channels(q, tiles)
    parts = -(-q.OC // channels)
    OCg, ICg, taps = q.OC // q.groups, q.IC // q.groups, q.KH * q.KW
    squares = parts * blocks(min(q.IC, -(-channels // OCg) * ICg)) * taps
    chunks = -(-blocks(ICg) * taps // chunk_squares(line, q.density))
    vectors = tiles * line.cols
    pixels = vectors * line.lanes
    products = vectors * q.OC * ICg * taps * q.density
    moved = input_cost(q)
    if reads == "lines":
        moved += pixels * squares * r.vector
    else:
        moved += pixels * (squares * r.vector_in + parts * (taps + OTHER_TAPS) * r.pixel)
    if writes != "lines":
        moved += pixels * blocks(q.OC) * r.vector_out
    return Costs(
        products * (r.product + (1 - q.density) * r.lone_line),
        vectors * q.OC * chunks * r.sum,
        moved,
    )


def cost(problem: Conv2d, reads: Layout = "blocked", writes: Layout = "blocked") -> float:
    """Nanoseconds, rather too many than too few: a layer of few zeros had better keep a dense
    kernel that is as fast."""
    return sum(costs(problem, reads, writes))


def kernel(
    name: str,
    reads: Layout,
    adds: Layout,
    writes: Layout,
    applies: Callable[[Conv2d], bool] = applies,
) -> Kernel:
    """The entry for tensors in these layouts."""
    return Kernel(
        name,
        Conv2d,
        partial(prepare, reads=reads, adds=adds, writes=writes),
        reads=reads,
        adds=adds,
        writes=writes,
        applies=applies,
        cost=partial(cost, reads=reads, writes=writes),
        work=lambda problem: round(problem.flops * problem.density),
    )


KERNELS = (
    kernel("conv_f32_sparse", "blocked", "blocked", "blocked"),
    kernel("conv_f32_sparse_to_lines", "blocked", "lines", "lines"),
    kernel("conv_f32_sparse_from_lines", "lines", "blocked", "blocked", keeps_pixels),
    kernel("conv_f32_sparse_lines", "lines", "lines", "lines", keeps_pixels),
    kernel("conv_f32_sparse_adding_lines", "blocked", "lines", "blocked", adds_residual),
)
