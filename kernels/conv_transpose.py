"""2-D transposed convolution on blocked f32 tensors, as one direct convolution per phase.

Output pixels whose coordinates are equal modulo the strides form a *phase*. Within a phase the same
kernel taps meet whole input pixels, and neighbouring outputs meet neighbouring inputs: each of the
SH × SW phases is an ordinary convolution of stride 1 with some of the taps, whose results lie SH
rows and SW columns apart (with a kernel of 2×2 and a stride of 2: four 1×1 convolutions). No
product with an inserted zero is ever formed.

`conv_transpose_f32_phases` is the direct kernel of conv.py with such outputs: the same register
tiles, packed weights and table of input offsets, and a second table of output offsets.

Layouts: x [N][IC/L][IH][IW][L], y [N][OC/L][OH][OW][L], weights as in conv.py, phase after phase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import gcd

import numpy as np

from minseg.kernels.activation import FORMULAS, Activation
from minseg.kernels.conv import (
    ITEM_PIXELS,
    NS_PER_VECTOR,
    WEIGHT_CHUNK_BYTES,
    Conv2d,
    add_products,
    direct_tile,
    input_ranges,
    pack_weights,
    write_offsets,
)
from minseg.kernels.jit import Code, inline
from minseg.kernels.layout import aligned, blocks
from minseg.kernels.machine import target
from minseg.kernels.registry import Kernel, Launch, Operand
from minseg.kernels.simd import (
    TileShape,
    claim,
    load,
    load_at,
    load_i32,
    load_i64,
    row_addresses,
    store_at,
    store_i32,
    zeros,
)

#: A phase as the kernel reads it: place of the first output, outputs, taps, dilations, paddings,
#: and in bytes where its weights begin and how far those of two output tiles are apart.
PHASE_COLUMNS = (
    "top", "left", "height", "width", "KH", "KW", "DH", "DW", "PT", "PL", "w_start", "w_tile",
)  # fmt: skip
PHASE_BYTES = 8 * len(PHASE_COLUMNS)


@dataclass(frozen=True)
class ConvTranspose2d:
    """y = activation(convᵀ(x, w) + b), ONNX ConvTranspose with explicit padding.

    Letters as in `Conv2d`: input pixel i meets output pixel i*S + k*D - P at tap k. Output
    padding, or whatever else lies beyond the last tap, is in OH and OW.
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
    activation: Activation = field(default_factory=Activation)

    @property
    def flops(self) -> int:
        """Multiplications and additions, counted separately."""
        return 2 * self.N * self.IC * self.IH * self.IW * self.KH * self.KW * self.OC // self.groups


@dataclass(frozen=True)
class AxisPhase:
    """Along one axis, the outputs ``first``, ``first`` + S, … (``outputs`` of them).

    They meet the taps ``taps``; the j-th output meets input j - ``padding`` + t*``dilation`` at
    the t-th of these.
    """

    first: int
    outputs: int
    taps: range
    dilation: int
    padding: int


def axis_phases(out: int, K: int, S: int, D: int, P: int) -> Iterator[AxisPhase]:
    """The phases of an axis that have outputs."""
    step = S // gcd(S, D)
    for first in range(min(S, out)):
        start = next((k for k in range(min(K, step)) if (first + P - k * D) % S == 0), K)
        yield AxisPhase(
            first,
            -(-(out - first) // S),
            range(start, K, step),
            -step * D // S,
            -((first + P - start * D) // S),
        )


@inline
def write_output_offsets(table, R, first, last, top, left, SH, SW, width, OW, pixel_bytes):
    """Output offsets in bytes of the pixels first … last-1 of a phase ``width`` pixels wide; the
    pixels that the last tile has too many repeat the last."""
    for p in range(first, first + (last - first + R - 1) // R * R):
        inside = min(p, last - 1)
        oy, ox = top + inside // width * SH, left + inside % width * SW
        store_i32(table + 4 * (p - first), (oy * OW + ox) * pixel_bytes)


def by_phases(tile: TileShape, activation: str) -> Callable[..., None]:
    """The kernel. ``phases`` is [phase][`PHASE_COLUMNS`] i64.

    A work item is a block of pixels in all phases: together they fill its rows of the output.
    """
    activate = FORMULAS[activation]
    R, C, L = tile.rows, tile.cols, tile.lanes
    row_bytes = 4 * L

    def kernel(
        thread, work, x, w, b, y, ranges, phases, zero, scratch, scratch_bytes,
        N, IC, IH, IW, OH, OW, SH, SW, OCT, phase_count, pixel_items, item_pixels,
        alpha: float, beta: float,
    ):  # fmt: skip
        ICB = (IC + L - 1) // L
        x_plane = IH * IW * row_bytes
        y_plane = OH * OW * row_bytes
        outputs = scratch + thread * scratch_bytes
        table = outputs + item_pixels * 4
        item = claim(work)
        while item < OCT * N * pixel_items:
            oct, rest = item // (N * pixel_items), item % (N * pixel_items)
            n, block = rest // pixel_items, rest % pixel_items
            first = block * item_pixels
            begin, end = load_i32(ranges + 8 * oct), load_i32(ranges + 8 * oct + 4)
            out = y + (n * OCT + oct) * C * y_plane
            for phase in range(phases, phases + phase_count * PHASE_BYTES, PHASE_BYTES):
                top, left = load_i64(phase), load_i64(phase + 8)
                height, width = load_i64(phase + 16), load_i64(phase + 24)
                KH, KW = load_i64(phase + 32), load_i64(phase + 40)
                taps = KH * KW
                last = min(height * width, first + item_pixels)
                if first < last:
                    write_offsets(
                        table, R, first, last, IH, IW, width, KH, KW, 1, 1,
                        load_i64(phase + 48), load_i64(phase + 56),
                        load_i64(phase + 64), load_i64(phase + 72), row_bytes,
                    )  # fmt: skip
                    write_output_offsets(
                        outputs, R, first, last, top, left, SH, SW, width, OW, row_bytes
                    )
                chunk = max(1, WEIGHT_CHUNK_BYTES // (max(1, taps) * L * C * row_bytes))
                w_tile = w + load_i64(phase + 80) + oct * load_i64(phase + 88)
                for icb0 in range(begin, end, chunk):
                    icb1 = min(end, icb0 + chunk)
                    w_chunk = w_tile + (icb0 - begin) * taps * L * C * row_bytes
                    for p in range(first, last, R):
                        results = row_addresses(tile, outputs + (p - first) * 4, out, out)
                        offsets = table + (p - first) * taps * 4
                        acc = add_products(
                            tile, R, C, L, zeros(tile), x + n * ICB * x_plane, x_plane, IC,
                            icb0, icb1, offsets, taps, zero, w_chunk,
                        )  # fmt: skip
                        if icb0 == begin:
                            acc = acc + load(tile, b + oct * C * row_bytes, 0, row_bytes)
                        else:
                            acc = acc + load_at(tile, results, y_plane)
                        if icb1 == end:
                            acc = activate(tile, acc, alpha, beta)
                        store_at(acc, results, y_plane, last - p)
            item = claim(work)

    return kernel


def as_convolution(w: np.ndarray, groups: int) -> np.ndarray:
    """ConvTranspose's weights IC×OC/g×KH×KW as Conv has them, OC×IC/g×KH×KW."""
    IC, OCg, KH, KW = w.shape
    grouped = w.reshape(groups, IC // groups, OCg, KH, KW).swapaxes(1, 2)
    return grouped.reshape(groups * OCg, IC // groups, KH, KW)


def prepare(problem: ConvTranspose2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` IC×OC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    tile = direct_tile(q.OC, q.groups)
    weights = as_convolution(w, q.groups)
    table, packed = [], []
    at = 0
    for v in axis_phases(q.OH, q.KH, q.SH, q.DH, q.PT):
        for h in axis_phases(q.OW, q.KW, q.SW, q.DW, q.PL):
            kernel = weights[:, :, v.taps.start :: v.taps.step, h.taps.start :: h.taps.step]
            part = pack_weights(kernel, _convolution(q, v, h), tile)
            sizes = v.outputs, h.outputs, len(v.taps), len(h.taps)
            moves = v.dilation, h.dilation, v.padding, h.padding
            table.append((v.first, h.first, *sizes, *moves, at, part[0].nbytes))
            packed.append(part.reshape(-1))
            at += part.nbytes
    bias = np.zeros(blocks(q.OC) * tile.lanes, np.float32)
    if b is not None:
        bias[: q.OC] = b
    most_pixels = max(row[2] * row[3] for row in table)
    most_taps = max(row[4] * row[5] for row in table)
    item_pixels = -(-min(ITEM_PIXELS, most_pixels) // tile.rows) * tile.rows
    workspace = item_pixels * 4 * (most_taps + 1)
    ranges = input_ranges(_convolution(q), tile)
    return Launch(
        Code(by_phases, (tile, q.activation.kind)),
        (
            Operand("input"),
            Operand("constant", 0),
            Operand("constant", 1),
            Operand("output"),
            *(Operand("constant", i) for i in (2, 3, 4)),
            Operand("workspace"),
            workspace,
            *(q.N, q.IC, q.IH, q.IW, q.OH, q.OW, q.SH, q.SW),
            blocks(q.OC) // tile.cols,
            len(table),
            -(-most_pixels // item_pixels),
            item_pixels,
            q.activation.alpha,
            q.activation.beta,
        ),
        (
            aligned(np.concatenate(packed)),
            aligned(bias),
            ranges,
            np.array(table, np.int64),
            aligned(np.zeros(tile.lanes, np.float32)),
        ),
        workspace,
    )


def _convolution(
    q: ConvTranspose2d, v: AxisPhase | None = None, h: AxisPhase | None = None
) -> Conv2d:
    """A phase as the convolution that it is, as far as packing its weights needs to know."""
    taps = (len(v.taps), len(h.taps)) if v and h else (1, 1)
    return Conv2d(q.N, q.IC, q.IH, q.IW, q.OC, q.OH, q.OW, *taps, groups=q.groups)


def applies(problem: ConvTranspose2d) -> bool:
    """Any geometry whose input and output offsets fit 32 bits."""
    q = problem
    return max(q.IH * q.IW, q.OH * q.OW) * target().lanes * 4 < 2**31


def cost(problem: ConvTranspose2d) -> float:
    """Nanoseconds: the products at one vector FMA each."""
    q = problem
    return q.N * q.IC * q.IH * q.IW * q.KH * q.KW * blocks(q.OC) * NS_PER_VECTOR


KERNELS = (
    Kernel(
        "conv_transpose_f32_phases",
        ConvTranspose2d,
        prepare,
        applies=applies,
        cost=cost,
    ),
)
