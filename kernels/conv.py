"""2-D convolution on blocked f32 tensors: the direct kernel, for any geometry.

`conv_f32_direct_RxCxL` keeps R output pixels × C blocks of L output channels in registers and
walks over input channels and kernel taps; each step multiplies R broadcast inputs with C weight
vectors. The pixels of a tile are any R in row-major order: a small table gives each its input
offset per tap, and points outside the picture at a vector of zeros, so strides, dilations,
paddings and edges all take the same path. The first blocks of input channels are added up in
registers; when the weights of all of them would leave the L2 cache the sum is parked in the output
between chunks. Each chunk is summed from zero, which keeps rounding errors small. Groups that
don't fill whole vectors are multiplied with zeros for one another (so there, and only there, a NaN
or infinity reaches its neighbours).

Layouts: x [N][IC/L][IH][IW][L], y and residual [N][OC/L][OH][OW][L],
weights [OC/(C·L)][IC/L][KH·KW][L][C][L] (see `pack_weights`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from minseg.kernels.activation import FORMULAS, Activation
from minseg.kernels.jit import Code, inline
from minseg.kernels.layout import aligned, blocks
from minseg.kernels.machine import target
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import (
    TileShape,
    claim,
    load,
    load_i32,
    load_rows,
    outer_fma,
    row_addresses,
    store_i32,
    store_rows,
    zeros,
)

#: Weights of one output tile that may wait in the L2 cache while pixels stream past.
WEIGHT_CHUNK_BYTES = 384 * 1024
#: Pixels that one work item covers: its offset table and inputs stay in cache for all tiles.
ITEM_PIXELS = 96
#: Items wanted when output channels are split too, so that threads finish together.
MIN_ITEMS = 16


@dataclass(frozen=True)
class Conv2d:
    """y = activation(conv(x, w) + b [+ residual]), ONNX Conv with explicit padding.

    Sizes by the usual letters: N, IC/OC channels, IH/IW and OH/OW pixels, KH/KW taps, SH/SW
    strides, DH/DW dilations, PT/PL padding at top and left (bottom and right follow from OH, OW).
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

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately."""
        taps = self.KH * self.KW * self.IC // self.groups
        return 2 * self.N * self.OC * self.OH * self.OW * taps


@inline
def write_offsets(
    table, R, first, last, IH, IW, OW, KH, KW, SH, SW, DH, DW, PT, PL, pixel_bytes
):  # fmt: skip
    """[tile][tap][R] input offsets in bytes of output pixels first … last-1; -1 for outside, and
    for the pixels that the last tile has too many."""
    for p in range(first, first + (last - first + R - 1) // R * R):
        oy, ox = p // OW, p % OW
        tile, r = (p - first) // R, (p - first) % R
        at = table + (tile * KH * KW * R + r) * 4
        for kh in range(KH):
            iy = oy * SH - PT + kh * DH
            for kw in range(KW):
                ix = ox * SW - PL + kw * DW
                inside = p < last and iy >= 0 and iy < IH and ix >= 0 and ix < IW
                store_i32(at, (iy * IW + ix) * pixel_bytes if inside else -1)
                at += R * 4


@inline
def add_products(
    tile, R, C, L, acc, x, x_plane, IC, first, last, offsets, taps, zero, weights
):  # fmt: skip
    """``acc`` plus what input blocks ``first`` … ``last``-1 add to one tile of outputs.

    ``x`` is the address of one picture with planes of ``x_plane`` bytes, ``offsets`` that of the
    tile's [tap][R] input offsets, ``weights`` that of [block][tap][channel][C][L].
    """
    for icb in range(first, last):
        plane = x + icb * x_plane
        for tap in range(taps):
            pixels = row_addresses(tile, offsets + tap * R * 4, plane, zero)
            for ic in range(min(L, IC - icb * L)):
                acc = outer_fma(acc, pixels, 4 * ic, weights, L * 4)
                weights += C * L * 4
    return acc


def direct(tile: TileShape, activation: str, residual: bool) -> Callable[..., None]:
    """The kernel for one register tile; see the module's docstring."""
    activate = FORMULAS[activation]
    R, C, L = tile.rows, tile.cols, tile.lanes
    row_bytes = 4 * L

    def kernel(
        thread, work, x, w, b, z, y, ranges, zero, scratch, scratch_bytes,
        N, IC, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        OCT, pixel_items, item_pixels, chunk, w_tile_bytes, alpha: float, beta: float,
    ):  # fmt: skip
        ICB = (IC + L - 1) // L
        OCB = OCT * C
        P = OH * OW
        taps = KH * KW
        x_plane = IH * IW * row_bytes
        y_plane = P * row_bytes
        table = scratch + thread * scratch_bytes
        item = claim(work)
        while item < OCT * N * pixel_items:
            oct, rest = item // (N * pixel_items), item % (N * pixel_items)
            n, block = rest // pixel_items, rest % pixel_items
            first = block * item_pixels
            last = min(P, first + item_pixels)
            write_offsets(
                table, R, first, last, IH, IW, OW, KH, KW, SH, SW, DH, DW, PT, PL, row_bytes
            )
            begin, end = load_i32(ranges + 8 * oct), load_i32(ranges + 8 * oct + 4)
            out = (n * OCB + oct * C) * y_plane
            for icb0 in range(begin, end, chunk):
                icb1 = min(end, icb0 + chunk)
                w_chunk = w + oct * w_tile_bytes + (icb0 - begin) * taps * L * C * row_bytes
                for p in range(first, last, R):
                    at = out + p * row_bytes
                    rows = last - p
                    offsets = table + (p - first) * taps * 4
                    acc = add_products(
                        tile, R, C, L, zeros(tile), x + n * ICB * x_plane, x_plane, IC,
                        icb0, icb1, offsets, taps, zero, w_chunk,
                    )  # fmt: skip
                    if icb0 == begin:
                        acc = acc + load(tile, b + oct * C * row_bytes, 0, row_bytes)
                    else:
                        acc = acc + load_rows(tile, y + at, row_bytes, y_plane, rows)
                    if icb1 == end:
                        if residual:
                            acc = acc + load_rows(tile, z + at, row_bytes, y_plane, rows)
                        acc = activate(tile, acc, alpha, beta)
                    store_rows(acc, y + at, row_bytes, y_plane, rows)
            item = claim(work)

    return kernel


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


def input_ranges(problem: Conv2d, tile: TileShape) -> np.ndarray:
    """[OC tile][2] first and last+1 input block that an output tile needs: all of them, unless
    the convolution is grouped."""
    OCg, ICg = problem.OC // problem.groups, problem.IC // problem.groups
    width = tile.cols * tile.lanes
    ranges = []
    for oc in range(0, blocks(problem.OC) * tile.lanes, width):
        groups = oc // OCg, (min(oc + width, problem.OC) - 1) // OCg
        ranges.append((groups[0] * ICg // tile.lanes, blocks((groups[1] + 1) * ICg)))
    return np.array(ranges, np.int32)


def pack_weights(w: np.ndarray, problem: Conv2d, tile: TileShape) -> np.ndarray:
    """OC×IC/g×KH×KW weights as [OC tile][IC block of its range][tap][ic][C][L], zeros between.

    The last input block holds only the channels there are, so its taps lie closer together.
    """
    ranges = input_ranges(problem, tile)
    C, L = tile.cols, tile.lanes
    OCg, ICg = problem.OC // problem.groups, problem.IC // problem.groups
    span = int((ranges[:, 1] - ranges[:, 0]).max())
    taps = problem.KH * problem.KW
    packed = np.zeros((len(ranges), span * L, taps, C * L), np.float32)
    for oc in range(problem.OC):
        oct, lane = divmod(oc, C * L)
        ic = oc // OCg * ICg - ranges[oct, 0] * L
        packed[oct, ic : ic + ICg, :, lane] = w[oc].reshape(ICg, taps)
    packed = packed.reshape(len(ranges), span, L, taps, C * L).transpose(0, 1, 3, 2, 4)
    flat = np.ascontiguousarray(packed).reshape(len(ranges), -1)
    for oct, (begin, end) in enumerate(ranges):
        close_last_block(flat[oct], end - begin - 1, problem.IC - (end - 1) * L, taps, L, C * L)
    return aligned(flat)


def close_last_block(
    packed: np.ndarray, block: int, channels: int, taps: int, L: int, width: int
) -> None:
    """Move the taps of an input block with fewer than L channels together, in place."""
    if channels < L:
        at = block * taps * L * width
        rows = packed[at : at + taps * L * width].reshape(taps, L, width)[:, :channels].copy()
        packed[at : at + rows.size] = rows.reshape(-1)


def prepare_direct(problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` OC×IC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    tile = direct_tile(q.OC, q.groups)
    R, C, L = tile.rows, tile.cols, tile.lanes
    packed = pack_weights(w, q, tile)
    bias = np.zeros(blocks(q.OC) * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    taps = q.KH * q.KW
    item_pixels = -(-min(ITEM_PIXELS, q.OH * q.OW) // R) * R
    return Launch(
        Code(direct, (tile, q.activation.kind, q.residual)),
        (
            Operand("input", 0),
            Operand("constant", 0),
            Operand("constant", 1),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            Operand("constant", 2),
            Operand("constant", 3),
            Operand("workspace"),
            item_pixels * taps * 4,
            *(q.N, q.IC, q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW, q.DH, q.DW, q.PT, q.PL),
            blocks(q.OC) // C,
            -(-q.OH * q.OW // item_pixels),
            item_pixels,
            max(1, WEIGHT_CHUNK_BYTES // (taps * L * C * L * 4)),
            packed[0].nbytes,
            q.activation.alpha,
            q.activation.beta,
        ),
        (packed, aligned(bias), input_ranges(q, tile), aligned(np.zeros(L, np.float32))),
        item_pixels * taps * 4,
    )


def direct_applies(problem: Conv2d) -> bool:
    """Any geometry whose input offsets fit 32 bits."""
    return problem.IH * problem.IW * target().lanes * 4 < 2**31


def direct_cost(problem: Conv2d) -> float:
    """Nanoseconds: the padded products at one vector FMA each, grouped zeros counted."""
    tile = direct_tile(problem.OC, problem.groups)
    spans = input_ranges(problem, tile)
    channels = int((spans[:, 1] - spans[:, 0]).max()) * tile.lanes
    if problem.groups == 1:
        channels = problem.IC
    pixels = problem.N * problem.OH * problem.OW
    return len(spans) * tile.cols * channels * pixels * problem.KH * problem.KW * NS_PER_VECTOR


#: One vector FMA at about one a cycle.
NS_PER_VECTOR = 0.3

KERNELS = (
    Kernel(
        "conv_f32_direct",
        Conv2d,
        prepare_direct,
        applies=direct_applies,
        cost=direct_cost,
    ),
)
