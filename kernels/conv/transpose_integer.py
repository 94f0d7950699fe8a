"""2-D transposed convolution of bytes, as one direct convolution per phase.

`conv_transpose_i8_phases` is to conv_integer.py what conv_transpose.py, which explains phases, is
to conv.py: exact sums of the same register tiles, each phase with the taps that meet it. A phase
has starting sums of its own, because the input's zero point contributes as often as there are taps.

Layouts: x [N][IC/L][IH][IW][L] u8, y [N][OC/L][OH][OW][L] u8 or f32, weights as in
conv_integer.py, phase after phase.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from minseg.kernels.conv.direct_integer import (
    ITEM_PIXELS,
    NS_PER_VECTOR,
    QUAD,
    IntegerConv2d,
    add_anywhere,
    add_even,
    asymmetric,
    direct_tile,
    input_ranges,
    pack_weights,
    starting_sums,
    symmetric,
)
from minseg.kernels.conv.transpose import as_convolution, axis_phases
from minseg.kernels.core.activation import FORMULAS, Activation
from minseg.kernels.core.epilogue import (
    Ending,
    as_bytes,
    as_floats,
    ending_arguments,
    per_channel,
    scaled,
)
from minseg.kernels.core.grid import Bytes
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import write_offsets
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    even_addresses,
    fma,
    load,
    load_i32,
    load_i64,
    row_addresses,
    store_at,
    store_i32,
)
from minseg.kernels.isa.target import dot_product, target

#: A phase as the kernel reads it: place of the first output, outputs, taps, dilations, paddings,
#: and in bytes where its weights begin, how far those of two output tiles are apart, and where its
#: starting sums begin.
PHASE_COLUMNS = (
    "top", "left", "height", "width", "KH", "KW", "DH", "DW", "PT", "PL",
    "w_start", "w_tile", "b_start",
)  # fmt: skip
PHASE_BYTES = 8 * len(PHASE_COLUMNS)


@dataclass(frozen=True)
class IntegerConvTranspose2d:
    """f = (convᵀ(x - x_zero_point, w) + b) * scale + shift, then bytes as ``y`` says, or floats.

    Geometry as in `ConvTranspose2d`, all else as in `IntegerConv2d`.
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
    x_zero_point: int = 0
    asymmetric: bool = False
    y: Bytes | None = None
    activation: Activation = field(default_factory=Activation)

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately."""
        return 2 * self.N * self.IC * self.IH * self.IW * self.KH * self.KW * self.OC // self.groups


@inline
def write_output_offsets(table, R, first, last, top, left, SH, SW, width, OW, pixel_bytes):
    """Output offsets in bytes of R pixels from ``first`` of a phase ``width`` pixels wide; those
    past ``last`` repeat the one before it."""
    for r in range(R):
        p = min(first + r, last - 1)
        oy, ox = top + p // width * SH, left + p % width * SW
        store_i32(table + 4 * r, (oy * OW + ox) * pixel_bytes)


def by_phases(
    tile: TileShape, activation: str, to_bytes: bool, centred: bool
) -> Callable[..., None]:
    """The kernel. ``phases`` is [phase][`PHASE_COLUMNS`] i64.

    A work item is a block of pixels in all phases: together they fill its rows of the output.
    """
    activate = FORMULAS[activation]
    finished = asymmetric if centred else symmetric
    conclude = as_bytes if to_bytes else as_floats
    R, W, L = tile.rows, tile.cols, tile.lanes
    C = W - 1 if centred else W
    sums, floats = TileShape(R, C, L, "i32"), TileShape(R, C, L)
    pixel_bytes = L if to_bytes else 4 * L

    def kernel(
        thread, work, x, w, b, w_zero, scale, shift, y, ranges, phases, zero,
        scratch, scratch_bytes, N, IC, IH, IW, OH, OW, SH, SW,
        OCT, phase_count, pixel_items, item_pixels, zero_point,
        low: float, high: float, alpha: float, beta: float,
    ):  # fmt: skip
        ending = Ending(zero_point, low, high, alpha, beta)
        ICB = (IC + L - 1) // L
        x_plane = IH * IW * L
        y_plane = OH * OW * pixel_bytes
        outputs = scratch + thread * scratch_bytes
        table = outputs + R * 4
        item = claim(work)
        while item < OCT * N * pixel_items:
            oct, rest = item // (N * pixel_items), item % (N * pixel_items)
            n, block = rest // pixel_items, rest % pixel_items
            begin, end = load_i32(ranges + 8 * oct), load_i32(ranges + 8 * oct + 4)
            picture = x + n * ICB * x_plane
            out = y + (n * OCT + oct) * C * y_plane
            channels = oct * C * L * 4
            first = block * item_pixels
            for phase in range(phases, phases + phase_count * PHASE_BYTES, PHASE_BYTES):
                top, left = load_i64(phase), load_i64(phase + 8)
                height, width = load_i64(phase + 16), load_i64(phase + 24)
                KH, KW = load_i64(phase + 32), load_i64(phase + 40)
                weights = w + load_i64(phase + 80) + oct * load_i64(phase + 88)
                start = b + load_i64(phase + 96) + oct * W * L * 4
                last = min(height * width, first + item_pixels)
                DH, DW = load_i64(phase + 48), load_i64(phase + 56)
                PT, PL = load_i64(phase + 64), load_i64(phase + 72)
                oy, ox = first // width, first % width
                for p in range(first, last, R):
                    iy, ix = oy - PT, ox - PL
                    acc = load(tile, start, 0, 4 * L)
                    if (
                        p + R <= last and ox + R <= width
                        and iy >= 0 and iy + (KH - 1) * DH < IH
                        and ix >= 0 and ix + R - 1 + (KW - 1) * DW < IW
                    ):  # fmt: skip
                        acc = add_even(
                            tile, R, W, L, L, acc, picture + (iy * IW + ix) * L, x_plane, IC,
                            begin, end, KH, KW, DH * IW * L, DW * L, weights,
                        )  # fmt: skip
                        at = (top + oy * SH) * OW + left + ox * SW
                        places = even_addresses(tile, out + at * pixel_bytes, SW * pixel_bytes)
                    else:
                        write_offsets(
                            table, R, p, min(p + R, last), IH, IW, width, KH, KW, 1, 1,
                            DH, DW, PT, PL, L,
                        )  # fmt: skip
                        write_output_offsets(
                            outputs, R, p, last, top, left, SH, SW, width, OW, pixel_bytes
                        )
                        acc = add_anywhere(
                            tile, R, W, L, acc, picture, x_plane, IC, begin, end,
                            table, KH * KW, zero, weights,
                        )  # fmt: skip
                        places = row_addresses(tile, outputs, out, out)
                    acc = finished(sums, acc, w_zero + channels, 4 * L)
                    result = scaled(fma, floats, acc, scale + channels, shift + channels, 4 * L)
                    store_at(conclude(activate, floats, result, ending), places, y_plane, last - p)
                    ox += R
                    while ox >= width:
                        ox -= width
                        oy += 1
            item = claim(work)

    return kernel


def prepare(
    problem: IntegerConvTranspose2d,
    w: np.ndarray,
    b: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    w_zero: np.ndarray | None = None,
) -> Launch:
    """``w`` IC×OC/g×KH×KW i8, the others [OC] as for `conv_integer.prepare_direct`."""
    q = problem
    rows = tuple(axis_phases(q.OH, q.KH, q.SH, q.DH, q.PT))
    columns = tuple(axis_phases(q.OW, q.KW, q.SW, q.DW, q.PL))
    most_taps = max(len(v.taps) for v in rows) * max(len(h.taps) for h in columns)
    tile = direct_tile(q.OC, q.groups, q.asymmetric, most_taps * -(-q.IC // QUAD))
    R, L = tile.rows, tile.lanes
    weights = as_convolution(w, q.groups)
    table, packed, starts = [], [], []
    w_start = b_start = 0
    for v in rows:
        for h in columns:
            kernel = weights[:, :, v.taps.start :: v.taps.step, h.taps.start :: h.taps.step]
            kernel = kernel[:, :, ::-1, ::-1]
            phase = replace(_convolution(q), KH=len(v.taps), KW=len(h.taps))
            part = pack_weights(kernel, phase, tile)
            start = starting_sums(phase, tile, kernel, b, w_zero)
            sizes = v.outputs, h.outputs, len(v.taps), len(h.taps)
            moves = v.dilation, h.dilation, v.padding, h.padding
            row = (v.first, h.first, *sizes, *moves, w_start, part[0].nbytes, b_start)
            table.append(row)
            packed.append(part.reshape(-1))
            starts.append(start.reshape(-1))
            w_start, b_start = w_start + part.nbytes, b_start + start.nbytes
    most_pixels = max(row[2] * row[3] for row in table)
    item_pixels = -(-min(ITEM_PIXELS, most_pixels) // R) * R
    workspace = R * 4 * (most_taps + 1)
    zeros = np.zeros(q.OC, np.int32) if w_zero is None else w_zero
    return Launch(
        Code(by_phases, (tile, q.activation.kind, q.y is not None, q.asymmetric)),
        (
            Operand("input"),
            *(Operand("constant", i) for i in range(5)),
            Operand("output"),
            *(Operand("constant", i) for i in (5, 6, 7)),
            Operand("workspace"),
            workspace,
            *(q.N, q.IC, q.IH, q.IW, q.OH, q.OW, q.SH, q.SW),
            blocks(q.OC) // (tile.cols - q.asymmetric),
            len(table),
            -(-most_pixels // item_pixels),
            item_pixels,
            *ending_arguments(q.y, q.activation),
        ),
        (
            aligned(np.concatenate(packed)),
            aligned(np.concatenate(starts)),
            *(per_channel(values, q.OC) for values in (zeros, scale, shift)),
            input_ranges(_convolution(q), tile),
            np.array(table, np.int64),
            aligned(np.full(L, q.x_zero_point, np.uint8)),
        ),
        workspace,
    )


def _convolution(q: IntegerConvTranspose2d) -> IntegerConv2d:
    """A phase as the convolution that it is, as far as packing its weights needs to know."""
    sizes = q.N, q.IC, q.IH, q.IW, q.OC, q.OH, q.OW
    return IntegerConv2d(
        *sizes, groups=q.groups, x_zero_point=q.x_zero_point, asymmetric=q.asymmetric
    )


def applies(problem: IntegerConvTranspose2d) -> bool:
    """Any geometry whose input and output offsets fit 32 bits."""
    q = problem
    return max(q.IH * q.IW, 4 * q.OH * q.OW) * target().lanes < 2**31


def cost(problem: IntegerConvTranspose2d) -> float:
    """Nanoseconds: the products, four to a lane and instruction."""
    q = problem
    quads = -(-q.IC // QUAD)
    return q.N * quads * q.IH * q.IW * q.KH * q.KW * blocks(q.OC) * NS_PER_VECTOR[dot_product()]


KERNELS = (
    Kernel("conv_transpose_i8_phases", IntegerConvTranspose2d, prepare, applies=applies, cost=cost),
)
