"""2-D convolution of bytes: sums of integers are exact, and become bytes again or floats.

`conv_i8_direct_RxCxL` is the direct kernel of conv.py for u8 inputs and i8 weights. Four input
channels of a pixel are broadcast at once and multiplied with four times L weights, whose products
are added up in i32 lanes: one instruction where the CPU has one (see `outer_dot4` in simd.py).
Sums start at a number of their own for each output channel, which holds the bias and what zero
points other than 0 contribute; points outside the picture read the input's zero point, so that
they contribute nothing. Weights with zero points of their own (`asymmetric`) have one column more,
of ones: it adds up the inputs, of which each channel then takes its zero point's share away.

What becomes of the sums, ending.py tells.

Layouts: x [N][IC/L][IH][IW][L] u8, y [N][OC/L][OH][OW][L] u8 or f32,
weights [OC/(C·L)][IC/L][KH·KW][L/4][C][L][4], where C counts a column of ones (see `pack_weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from minseg.kernels.core.activation import FORMULAS, Activation
from minseg.kernels.core.epilogue import (
    SUMS,
    Addition,
    Ending,
    Residual,
    addition_arguments,
    as_bytes,
    as_floats,
    ending_arguments,
    multiplied_then_added,
    per_channel,
    scaled,
    with_residual,
)
from minseg.kernels.core.grid import Bytes, divided_sum
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.late import bytes_known_now, known_now
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import write_offsets
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    even_addresses,
    fma,
    last_repeated,
    load,
    load_i32,
    load_rows,
    outer_dot4,
    row_addresses,
    store_rows,
    without_last,
)
from minseg.kernels.isa.target import dot_product, target

#: Pixels that one work item covers: its offset table and inputs stay in cache for all tiles.
ITEM_PIXELS = 96
#: Channels that are multiplied together.
QUAD = 4
#: From so many vectors of products a sum on, they outweigh what it takes to finish it. Below, sums
#: that are finished together should leave registers free.
MANY_PRODUCTS, FINISHED_SUMS = 100, 20


@dataclass(frozen=True)
class IntegerConv2d:
    """f = (conv(x - x_zero_point, w) + b) * scale + shift, then bytes as ``y`` says, or floats.

    Letters as in `Conv2d`. Scale and shift are those of an output channel, and so are the zero
    points that are taken from ``asymmetric`` weights. Where ``x_zero_point`` is None it is the
    last input but one, a byte, and the last is an f32 by which all scales are multiplied. Where
    ``y`` is None the result is activation(f) in f32. With a ``residual`` f is rounded to the bytes
    that this calls its own, and ``y`` is made of the sum.
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
    x_zero_point: int | None = 0
    asymmetric: bool = False
    y: Bytes | None = None
    activation: Activation = field(default_factory=Activation)
    residual: Residual | None = None

    @property
    def addition(self) -> str:
        """How the residual is added, a key of `SUMS`; empty where there is none."""
        return "" if self.residual is None else self.residual.addition

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately."""
        taps = self.KH * self.KW * self.IC // self.groups
        return 2 * self.N * self.OC * self.OH * self.OW * taps

    @property
    def z(self) -> Operand | int:
        """The input that is added, 0 where there is none."""
        return 0 if self.residual is None else Operand("input", 1)

    @property
    def is_late(self) -> bool:
        """Whether zero point and factor are inputs."""
        return self.x_zero_point is None

    @property
    def late(self) -> tuple[Operand | int, Operand | int]:
        """The inputs zero point and factor, 0 where they are not."""
        first = 1 if self.residual is None else 2
        late = Operand("input", first), Operand("input", first + 1)
        return late if self.is_late else (0, 0)


@inline
def add_block(tile, R, C, L, acc, pixels, channels, weights):
    """``acc`` plus what one input block contributes at one tap: all of its quads of channels, or
    as many as ``channels`` need."""
    if channels >= L:
        for quad in range(L // 4):
            acc = outer_dot4(acc, pixels, 4 * quad, weights + quad * C * L * 4, L * 4)
    else:
        for quad in range((channels + 3) // 4):
            acc = outer_dot4(acc, pixels, 4 * quad, weights + quad * C * L * 4, L * 4)
    return acc


@inline
def add_even(tile, R, C, L, step, acc, x, x_plane, IC, first, last, KH, KW, row, col, weights):
    """``acc`` plus what input blocks ``first`` … ``last``-1 add to one tile of outputs whose
    windows all lie inside the picture, ``step`` bytes apart.

    ``x`` is the address of the first window's first input pixel in block 0; blocks are
    ``x_plane``, rows of a window ``row`` and its columns ``col`` bytes apart. ``weights`` is the
    address of [block][tap][quad][C][L][4].
    """
    for icb in range(first, last):
        channels = min(L, IC - icb * L)
        quads = (channels + 3) // 4
        for kh in range(KH):
            at = x + icb * x_plane + kh * row
            for _ in range(KW):
                pixels = even_addresses(tile, at, step)
                acc = add_block(tile, R, C, L, acc, pixels, channels, weights)
                at += col
                weights += quads * C * L * 4
    return acc


@inline
def add_anywhere(tile, R, C, L, acc, x, x_plane, IC, first, last, offsets, taps, outside, weights):
    """The same for any outputs: ``x`` is the address of the picture's block 0, ``offsets`` that
    of the tile's [tap][R] input offsets."""
    for icb in range(first, last):
        channels = min(L, IC - icb * L)
        quads = (channels + 3) // 4
        for tap in range(taps):
            pixels = row_addresses(tile, offsets + tap * R * 4, x + icb * x_plane, outside)
            acc = add_block(tile, R, C, L, acc, pixels, channels, weights)
            weights += quads * C * L * 4
    return acc


@inline
def symmetric(shape, acc, w_zero, col_bytes):
    """Sums, of weights without zero points."""
    return acc


@inline
def asymmetric(shape, acc, w_zero, col_bytes):
    """Sums less what the weights' zero points contribute to them; the last column is dropped."""
    return without_last(acc) - last_repeated(acc) * load(shape, w_zero, 0, col_bytes)


def direct(
    tile: TileShape,
    SW: int,
    activation: str,
    to_bytes: bool,
    addition: str,
    zero_points: bool,
    late: bool,
) -> Callable[..., None]:
    """The kernel for one register tile of i32 and horizontal stride; see the module's docstring.
    ``addition`` is a key of `SUMS` or empty; ``zero_points`` are those of weights; ``late`` see
    late.py."""
    activate = FORMULAS[activation]
    finished = asymmetric if zero_points else symmetric
    conclude = as_bytes if to_bytes else as_floats
    residual, add = bool(addition), SUMS.get(addition, divided_sum)
    join = multiplied_then_added if late else fma
    R, W, L = tile.rows, tile.cols, tile.lanes
    C = W - 1 if zero_points else W
    sums = TileShape(R, C, L, "i32")
    floats, octets = TileShape(R, C, L), TileShape(R, C, L, "u8")
    vectors = TileShape(1, 1, L), TileShape(1, 1, L, "i32"), TileShape(1, 1, L, "u8")
    pixel_bytes = L if to_bytes else 4 * L
    step = SW * L

    def kernel(
        thread, work, x, w, b, w_zero, scale, shift, z, y, ranges, outside,
        totals, zero, times, scratch, scratch_bytes,
        N, IC, IH, IW, OH, OW, KH, KW, SH, DH, DW, PT, PL,
        OCT, pixel_items, item_pixels, w_tile_bytes, zero_point,
        low: float, high: float, alpha: float, beta: float,
        own_low: float, own_high: float, own_offset: float, own_scale: float,
        z_scale: float, z_zero: float, y_scale: float, y_shift: float,
    ):  # fmt: skip
        ending = Ending(zero_point, low, high, alpha, beta)
        terms = Addition(
            own_low, own_high, own_offset, own_scale, z_scale, z_zero, y_scale, y_shift
        )
        ICB = (IC + L - 1) // L
        P = OH * OW
        taps = KH * KW
        x_plane = IH * IW * L
        y_plane = P * pixel_bytes
        table = scratch + thread * scratch_bytes
        if late:
            b, scale, outside = known_now(
                *vectors, table + scratch_bytes, b, totals, OCT * W, scale, OCT * C, zero, times
            )
        item = claim(work)
        while item < OCT * N * pixel_items:
            oct, rest = item // (N * pixel_items), item % (N * pixel_items)
            n, block = rest // pixel_items, rest % pixel_items
            begin, end = load_i32(ranges + 8 * oct), load_i32(ranges + 8 * oct + 4)
            picture = x + n * ICB * x_plane
            weights = w + oct * w_tile_bytes
            out = (n * OCT + oct) * C * y_plane
            channels = oct * C * L * 4
            first = block * item_pixels
            last = min(P, first + item_pixels)
            oy, ox = first // OW, first % OW
            for p in range(first, last, R):
                iy, ix = oy * SH - PT, ox * SW - PL
                acc = load(tile, b + oct * W * L * 4, 0, 4 * L)
                if (
                    p + R <= last and ox + R <= OW
                    and iy >= 0 and iy + (KH - 1) * DH < IH
                    and ix >= 0 and ix + (R - 1) * SW + (KW - 1) * DW < IW
                ):  # fmt: skip
                    acc = add_even(
                        tile, R, W, L, step, acc, picture + (iy * IW + ix) * L, x_plane, IC,
                        begin, end, KH, KW, DH * IW * L, DW * L, weights,
                    )  # fmt: skip
                else:
                    write_offsets(
                        table, R, p, min(p + R, last), IH, IW, OW, KH, KW, SH, SW, DH, DW, PT, PL, L
                    )
                    acc = add_anywhere(
                        tile, R, W, L, acc, picture, x_plane, IC, begin, end,
                        table, taps, outside, weights,
                    )  # fmt: skip
                acc = finished(sums, acc, w_zero + channels, 4 * L)
                result = scaled(join, floats, acc, scale + channels, shift + channels, 4 * L)
                at = out + p * pixel_bytes
                if residual:
                    other = load_rows(octets, z + at, pixel_bytes, y_plane, last - p)
                    result = with_residual(add, floats, result, other, terms)
                result = conclude(activate, floats, result, ending)
                store_rows(result, y + at, pixel_bytes, y_plane, last - p)
                ox += R
                while ox >= OW:
                    ox -= OW
                    oy += 1
            item = claim(work)

    return kernel


def direct_tile(
    OC: int, groups: int = 1, asymmetric: bool = False, products: int = MANY_PRODUCTS
) -> TileShape:
    """The register tile for OC output channels, each the sum of so many vectors of ``products``:
    as many blocks of channels as divide them (and each group, if groups fill whole vectors), then
    as many pixels as the registers hold beside weights and broadcasts: one of each, but two where
    bytes are widened to pairs. Where products are few, as many as are fast to finish.

    For asymmetric weights a column of ones comes last; all blocks of a tile are of one group
    then, or there is but one block."""
    t = target()
    copies = {"vnni": 1, "pairs": 2, "": 4}[dot_product()]
    widths = (4, 3, 2, 1) if t.registers == 32 else (2, 1)
    OCg = OC // groups
    divided = blocks(OCg if OCg % t.lanes == 0 else OC)
    cols = next(c for c in widths if divided % c == 0)
    if asymmetric:
        cols = 2 if groups > 1 and OCg % (cols * t.lanes) else cols + 1
    rows = max(1, min(14, (t.registers - copies * (cols + 1)) // cols))
    if products < MANY_PRODUCTS and rows * cols > FINISHED_SUMS:
        rows = FINISHED_SUMS // cols // 2 * 2
    return TileShape(rows, cols, t.lanes, "i32")


def tile_of(problem: IntegerConv2d) -> TileShape:
    """The register tile of the direct kernel."""
    q = problem
    products = q.KH * q.KW * -(-q.IC // QUAD)
    return direct_tile(q.OC, q.groups, q.asymmetric, products)


def input_ranges(problem: IntegerConv2d, tile: TileShape) -> np.ndarray:
    """[OC tile][2] first and last+1 input block that an output tile needs: all of them, unless
    the convolution is grouped."""
    OCg, ICg = problem.OC // problem.groups, problem.IC // problem.groups
    width = (tile.cols - problem.asymmetric) * tile.lanes
    ranges = []
    for oc in range(0, blocks(problem.OC) * tile.lanes, width):
        groups = oc // OCg, (min(oc + width, problem.OC) - 1) // OCg
        ranges.append((groups[0] * ICg // tile.lanes, blocks((groups[1] + 1) * ICg)))
    return np.array(ranges, np.int32)


def pack_weights(w: np.ndarray, problem: IntegerConv2d, tile: TileShape) -> np.ndarray:
    """OC×IC/g×KH×KW weights as [OC tile][IC block of its range][tap][quad][C][L][4], zeros
    between. The last input block holds only the quads there are. For asymmetric weights the last
    column has ones where the first one has weights."""
    ranges = input_ranges(problem, tile)
    C, L = tile.cols, tile.lanes
    used = (C - problem.asymmetric) * L
    OCg, ICg = problem.OC // problem.groups, problem.IC // problem.groups
    taps = problem.KH * problem.KW
    span = int((ranges[:, 1] - ranges[:, 0]).max())
    spread = np.zeros((len(ranges), C * L, span * L, taps), np.int8)
    for oc in range(problem.OC):
        oct, lane = divmod(oc, used)
        ic = oc // OCg * ICg - ranges[oct, 0] * L
        spread[oct, lane, ic : ic + ICg] = w[oc].reshape(ICg, taps)
        if problem.asymmetric and lane < L:
            spread[oct, used + lane, ic : ic + ICg] = 1
    quads = spread.reshape(len(ranges), C * L, span, L // QUAD, QUAD, taps)
    packed = quads.transpose(0, 2, 5, 3, 1, 4)
    flat = np.ascontiguousarray(packed).reshape(len(ranges), -1)
    for oct, (begin, end) in enumerate(ranges):
        kept = -(-min(L, problem.IC - (end - 1) * L) // QUAD)
        last = packed[oct, end - begin - 1, :, :kept].reshape(-1)
        at = (end - begin - 1) * taps * L * C * L
        flat[oct, at : at + last.size] = last
    return aligned(flat)


def starting_sums(
    problem: IntegerConv2d,
    tile: TileShape,
    w: np.ndarray,
    b: np.ndarray | None,
    w_zero: np.ndarray | None,
) -> np.ndarray:
    """[OC tile][C][L] i32 that sums start at, 0 in a column of ones: the bias, less what the
    input's zero point contributes."""
    q = problem
    total = w.sum(axis=(1, 2, 3), dtype=np.int64)
    if w_zero is not None:
        total = total - w_zero.astype(np.int64) * (q.KH * q.KW * q.IC // q.groups)
    start = per_channel((0 if b is None else b) - (q.x_zero_point or 0) * total, q.OC)
    C = tile.cols - q.asymmetric
    columns = np.pad(start.reshape(-1, C, tile.lanes), ((0, 0), (0, tile.cols - C), (0, 0)))
    return aligned(columns.astype(np.int32))


def prepare_direct(
    problem: IntegerConv2d,
    w: np.ndarray,
    b: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    w_zero: np.ndarray | None = None,
) -> Launch:
    """``w`` OC×IC/g×KH×KW i8, ``b`` OC i32, ``scale`` and ``shift`` OC f32; ``w_zero`` OC i32, the
    zero points of asymmetric weights."""
    q = problem
    tile = tile_of(q)
    R, C, L = tile.rows, tile.cols - q.asymmetric, tile.lanes
    packed = pack_weights(w, q, tile)
    taps = q.KH * q.KW
    none = np.zeros(q.OC, np.int32)
    zeros = none if w_zero is None else w_zero
    item_pixels = -(-min(ITEM_PIXELS, q.OH * q.OW) // R) * R
    OCT = blocks(q.OC) // C
    scratch = R * taps * 4
    totals = none
    if q.is_late:
        totals = starting_sums(replace(q, x_zero_point=-1), tile, w, None, w_zero)
        scratch = -(-(scratch + bytes_known_now(OCT * tile.cols, OCT * C)) // 64) * 64
    return Launch(
        Code(
            direct,
            (
                *(tile, q.SW, q.activation.kind, q.y is not None, q.addition, q.asymmetric),
                q.is_late,
            ),
        ),
        (
            Operand("input", 0),
            *(Operand("constant", i) for i in range(5)),
            q.z,
            Operand("output"),
            *(Operand("constant", i) for i in (5, 6, 7)),
            *q.late,
            Operand("workspace"),
            scratch,
            *(q.N, q.IC, q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.DH, q.DW, q.PT, q.PL),
            OCT,
            -(-q.OH * q.OW // item_pixels),
            item_pixels,
            packed[0].nbytes,
            *ending_arguments(q.y, q.activation),
            *addition_arguments(q.residual),
        ),
        (
            packed,
            starting_sums(q, tile, w, b, w_zero),
            per_channel(zeros, q.OC),
            per_channel(scale, q.OC),
            per_channel(shift, q.OC),
            input_ranges(q, tile),
            aligned(np.full(L, q.x_zero_point or 0, np.uint8)),
            totals,
        ),
        scratch,
    )


def direct_applies(problem: IntegerConv2d) -> bool:
    """Any geometry whose input offsets fit 32 bits."""
    return problem.IH * problem.IW * target().lanes < 2**31


def direct_cost(problem: IntegerConv2d) -> float:
    """Nanoseconds: the padded products, four to a lane and instruction, grouped zeros counted."""
    tile = tile_of(problem)
    spans = input_ranges(problem, tile)
    channels = int((spans[:, 1] - spans[:, 0]).max()) * tile.lanes
    if problem.groups == 1:
        channels = problem.IC
    pixels = problem.N * problem.OH * problem.OW
    steps = len(spans) * tile.cols * pixels * problem.KH * problem.KW * -(-channels // QUAD)
    return steps * NS_PER_VECTOR[dot_product()]


#: One vector of dot products: about one a cycle, or what widened bytes take beside the products of
#: 16 bits of `winograd_integer`, by what `machine.dot_product` says.
NS_PER_VECTOR = {"vnni": 0.3, "pairs": 0.75, "": 0.6}

KERNELS = (
    Kernel(
        "conv_i8_direct", IntegerConv2d, prepare_direct, applies=direct_applies, cost=direct_cost
    ),
)
