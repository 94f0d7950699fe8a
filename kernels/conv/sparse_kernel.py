"""The kernel of the sparse convolution: see sparse.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from minseg.kernels.conv.problem import Geometry
from minseg.kernels.conv.sparse_weights import PANEL_BYTES
from minseg.kernels.core.arguments import Address
from minseg.kernels.core.epilogue import EpilogueArguments, EpilogueCode, Place, finisher
from minseg.kernels.core.jit import inline
from minseg.kernels.core.layout import BLOCKED, PANELS, Layout
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


class Weights(NamedTuple):
    """The tables of sparse_weights.py."""

    m_blocks: Address
    k_blocks: Address
    squares: Address
    panels: Address
    values: Address
    positions: Address


class SparseArguments(NamedTuple):
    """``zero`` is a pixel for what lies outside of the picture; a thread's scratch memory holds
    offsets, then from byte ``lines_at`` on lines, and from ``sums_at`` on sums."""

    x: Address
    w: Weights
    y: Address
    zero: Address
    scratch: Address
    scratch_bytes: int
    lines_at: int
    sums_at: int
    threads: Address
    m_blocks: int
    tiles: int
    geometry: Geometry
    epilogue: EpilogueArguments


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
    before, and in each ``pixels`` from byte ``at`` of the output on. Its ``sums`` are lines, those
    of the residual begin at byte ``sums_at``; they start at ``bias``."""

    at: int
    plane: int
    pixels: int
    blocks: int
    sums: int
    sums_at: int
    bias: int


class KBlock(NamedTuple):
    """The squares ``begin`` … ``end``-1, so many ``panels`` from ``panel`` on with their values and
    positions, and how many squares the next one has."""

    begin: int
    end: int
    panel: int
    panels: int
    value: int
    position: int
    next_squares: int
    is_first: bool
    is_last: bool


@inline
def load_k_block(w, number, first, last):
    at = w.k_blocks + number * 16
    end, panel = load_i32(at + 16), load_i32(at + 4)
    value, position = w.values + load_i32(at + 8) * 4, w.positions + load_i32(at + 12)
    next_squares = 0 if number == last else load_i32(at + 32) - end
    return KBlock(
        load_i32(at), end, panel, load_i32(at + 20) - panel, value, position, next_squares,
        number == first, number == last,
    )  # fmt: skip


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
def prefetch_panel(line, panel, at, line_bytes):
    """Ask for the lines of a panel's channels."""
    for channel in range(3):
        prefetch_vectors(at + load_i32(panel + 4 * channel) * line_bytes, line.cols, line.bytes)


@inline
def prefetch_outputs(line, number, at, plane):
    """Ask for the share that the panel of this ``number`` has in what `scatter` will touch: of one
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
def multiply(line, pair, panel, a, b, c, lines, line_bytes, v, p):
    """The sums of a panel and what a K block adds to them, from values at ``v`` and positions at
    ``p`` on. Returns the sums, and where the next panel's values and positions are."""
    for _ in range(load_i32(panel + 12)):
        a = add_line(line, a, lines, p, line_bytes, v)
        b = add_line(line, b, lines, p + 1, line_bytes, v + 4)
        c = add_line(line, c, lines, p + 2, line_bytes, v + 8)
        v += 12
        p += 3
    a, v, p = add_alone(line, a, load_i32(panel + 16), lines, line_bytes, v, p)
    b, v, p = add_alone(line, b, load_i32(panel + 20), lines, line_bytes, v, p)
    c, v, p = add_alone(line, c, load_i32(panel + 24), lines, line_bytes, v, p)
    for _ in range(load_i32(panel + 28)):
        ab = add_line(pair, stack(a, b), lines, p, line_bytes, v)
        ac = add_line(pair, stack(upper_half(ab), c), lines, p + 1, line_bytes, v + 8)
        bc = add_line(pair, stack(lower_half(ab), lower_half(ac)), lines, p + 2, line_bytes, v + 16)
        a, b, c = upper_half(ac), upper_half(bc), lower_half(bc)
        v += 24
        p += 3
    for _ in range(load_i32(panel + 32)):
        ab = add_line(pair, stack(a, b), lines, p, line_bytes, v)
        a, b = upper_half(ab), lower_half(ab)
        c = add_line(line, c, lines, p, line_bytes, v + 8)
        v += 12
        p += 1
    return a, b, c, v, p


@inline
def sum_before(line, is_first, bias, sums, channel, line_bytes):
    """The sums of a channel before a K block."""
    if is_first:
        return fill(line, load_f32(bias + channel * 4))
    return load(line, sums + channel * line_bytes, 0, line.bytes)


@cache
def adder(
    line: TileShape, epilogue: EpilogueCode, reads: Layout, adds: Layout, writes: Layout
) -> Callable[..., Any]:
    """The function that adds to all sums of a work item what a K block contributes."""
    from_panels, to_panels = reads == PANELS, writes == PANELS
    add_panels = adds == PANELS and bool(epilogue.residual)
    add_blocks = adds == BLOCKED and bool(epilogue.residual)
    finish = finisher(
        replace(
            epilogue,
            activation=epilogue.activation if to_panels else "",
            residual=epilogue.residual if add_panels else "",
        ),
        line,
    )
    C, L, V = line.cols, line.lanes, line.bytes
    pair, line_bytes = TileShape(2, C, L), C * line.bytes

    @inline
    def put(sum_, channel, k, sink, e):
        at = channel * line_bytes
        if k.is_last:
            sum_ = finish(sum_, Place(sink.sums_at + at, 0, V, 1), e)
        store(sum_, sink.sums + at, 0, V)

    @inline
    def add(k, lines, ahead, left, source, sink, a):
        """``ahead`` is where so many vectors begin that are ``left`` to be asked for."""
        column, value, position = 0, k.value, k.position
        each = (left + k.panels - 1) // max(1, k.panels)
        for number in range(k.panels):
            panel = a.w.panels + (k.panel + number) * PANEL_BYTES
            each = min(each, left)
            left -= each
            if from_panels:
                ahead = prefetch_vectors(ahead, each, V)
            else:
                ahead, column = prefetch_squares(L, source, ahead, column, each)
            if to_panels and k.is_first:
                prefetch_panel(line, panel + PANEL_BYTES, sink.sums, line_bytes)
            if add_panels and k.is_last:
                prefetch_panel(line, panel + PANEL_BYTES, a.epilogue.z + sink.sums_at, line_bytes)
            if not to_panels and k.is_last:
                prefetch_outputs(line, number, a.y + sink.at, sink.plane)
                if add_blocks:
                    prefetch_outputs(line, number, a.epilogue.z + sink.at, sink.plane)
            one, two, three = load_i32(panel), load_i32(panel + 4), load_i32(panel + 8)
            sum_a = sum_before(line, k.is_first, sink.bias, sink.sums, one, line_bytes)
            sum_b = sum_before(line, k.is_first, sink.bias, sink.sums, two, line_bytes)
            sum_c = sum_before(line, k.is_first, sink.bias, sink.sums, three, line_bytes)
            sum_a, sum_b, sum_c, value, position = multiply(
                line, pair, panel, sum_a, sum_b, sum_c, lines, line_bytes, value, position
            )
            put(sum_c, three, k, sink, a.epilogue)
            put(sum_b, two, k, sink, a.epilogue)
            put(sum_a, one, k, sink, a.epilogue)

    return add


@inline
def scatter(finish, square, line_bytes, sink, a):
    """Lines as blocks of output channels, with residual and activation."""
    L, V = square.lanes, square.bytes
    for block in range(sink.blocks):
        for p in range(0, sink.pixels, L):
            at = sink.sums + block * L * line_bytes + p * 4
            pixels = transpose(load(square, at, line_bytes, 0))
            place = Place(sink.at + block * sink.plane + p * V, V, 0, sink.pixels - p)
            store_rows(finish(pixels, place, a.epilogue), a.y + place.at, V, 0, place.rows)


def sparse(
    line: TileShape, epilogue: EpilogueCode, reads: Layout, adds: Layout, writes: Layout
) -> Callable[..., None]:
    """The kernel; ``line`` is a line in registers, ``adds`` the residual's layout, if there is
    one."""
    C, L, V = line.cols, line.lanes, line.bytes
    square, line_bytes = TileShape(L, 1, L), C * V
    from_panels, to_panels = reads == PANELS, writes == PANELS
    add = adder(line, epilogue, reads, adds, writes)
    residual = epilogue.residual if adds == BLOCKED else ""
    finish = finisher(replace(epilogue, residual=residual), square)

    def kernel(thread, work, a: SparseArguments):
        g, w = a.geometry, a.w
        P, ICB, OCB = g.OH * g.OW, (g.IC + L - 1) // L, (g.OC + L - 1) // L
        x_plane, y_plane = g.IH * g.IW * V, P * V
        offsets = a.scratch + thread * a.scratch_bytes
        lines, sums = offsets + a.lines_at, offsets + a.sums_at
        items = a.m_blocks * g.N * a.tiles
        item, run_end = next_item(0, 0, work, items, 0, a.threads)
        while item < run_end:
            m, place = w.m_blocks + item // (g.N * a.tiles) * 8, item % (g.N * a.tiles)
            n, first = place // a.tiles, place % a.tiles * C * L
            last = min(P, first + C * L)
            block, end_block = load_i32(m + 4), load_i32(m + 12)
            x, vectors = a.x + n * ICB * x_plane, (last - first + L - 1) // L
            source = Source(x, x_plane, offsets, g.KH * g.KW, vectors)
            if not from_panels:
                write_offsets(offsets, L, first, last, g, V)
            sums_at = (place * OCB + block) * L * line_bytes
            if to_panels:
                sums = a.y + sums_at
            sink = Sink(
                (n * OCB + block) * y_plane + first * V, y_plane, last - first,
                end_block - block, sums, sums_at, a.epilogue.shift + block * V,
            )  # fmt: skip
            first_k, last_k = load_i32(m), load_i32(m + 8) - 1
            for number in range(first_k, last_k + 1):
                k = load_k_block(w, number, first_k, last_k)
                ahead, left = w.squares + k.end * 8, k.next_squares
                if from_panels:
                    lines_begin = place * ICB + load_i32(w.squares + k.begin * 8)
                    lines = a.x + lines_begin * L * line_bytes
                    ahead, left = lines + (k.end - k.begin) * L * line_bytes, left * L * C
                else:
                    gather(square, source, w.squares, k.begin, k.end, a.zero, lines, line_bytes)
                    left *= vectors
                add(k, lines, ahead, left, source, sink, a)
            if not to_panels:
                scatter(finish, square, line_bytes, sink, a)
            item, run_end = next_item(item, run_end, work, items, 0, a.threads)

    return kernel
