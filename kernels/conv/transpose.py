"""2-D transposed convolution on blocked f32 tensors, as one direct convolution per phase.

Output pixels whose coordinates are equal modulo the strides form a *phase*. Within a phase the same
kernel taps meet whole input pixels, and neighbouring outputs meet neighbouring inputs: each of the
SH × SW phases is an ordinary convolution of stride 1 with some of the taps, whose results lie SH
rows and SW columns apart (with a kernel of 2×2 and a stride of 2: four 1×1 convolutions of the
same inputs). No product with an inserted zero is ever formed.

The kernel is the direct one of conv.py, which takes a list of such phases.

Layouts: x [N][IC/L][IH][IW][L], y [N][OC/L][OH][OW][L], weights as in conv.py, phase after phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import gcd

import numpy as np

from minseg.kernels.conv.direct import (
    NS_PER_VECTOR,
    Conv2d,
    Part,
    direct_tile,
    fitted,
    input_ranges,
    launch,
    pack_weights,
)
from minseg.kernels.core.activation import Activation
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.simd import TileShape
from minseg.kernels.isa.target import target


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
    the t-th of these from the end.
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
        taps = range(start, K, step)
        dilation = step * D // S
        reach = max(0, len(taps) - 1) * dilation
        outputs = -(-(out - first) // S)
        yield AxisPhase(first, outputs, taps, dilation, reach - (first + P - start * D) // S)


def as_convolution(w: np.ndarray, groups: int) -> np.ndarray:
    """ConvTranspose's weights IC×OC/g×KH×KW as Conv has them, OC×IC/g×KH×KW."""
    IC, OCg, KH, KW = w.shape
    grouped = w.reshape(groups, IC // groups, OCg, KH, KW).swapaxes(1, 2)
    return grouped.reshape(groups * OCg, IC // groups, KH, KW)


def prepare(problem: ConvTranspose2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` IC×OC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    whole = Conv2d(
        *(q.N, q.IC, q.IH, q.IW, q.OC, q.OH, q.OW), groups=q.groups, activation=q.activation
    )
    tile = fitted(direct_tile(q.OC, q.groups), -(-q.OW // q.SW))
    pixel = TileShape(1, 1, tile.lanes)
    weights = as_convolution(w, q.groups)
    parts, packed = [], []
    at = 0
    for v in axis_phases(q.OH, q.KH, q.SH, q.DH, q.PT):
        for h in axis_phases(q.OW, q.KW, q.SW, q.DW, q.PL):
            kernel = weights[:, :, v.taps.start :: v.taps.step, h.taps.start :: h.taps.step]
            taps = len(v.taps), len(h.taps)
            phase = replace(whole, KH=taps[0], KW=taps[1])
            packed.append(pack_weights(kernel[:, :, ::-1, ::-1], phase, tile, tile.lanes))
            place = v.first, h.first, v.outputs, h.outputs
            moves = v.dilation, h.dilation, v.padding, h.padding
            for oct, (begin, end) in enumerate(input_ranges(phase, tile, tile.lanes).tolist()):
                parts.append(Part(oct, *place, *taps, *moves, begin, end, at))
                at += packed[-1][0].nbytes
    chunk = summed_channels(q.IH * q.IW) // tile.lanes
    return launch(whole, tile, pixel, parts, packed, b, (q.SH, q.SW), chunk)


def summed_channels(pixels: int) -> int:
    """How many input channels are summed up at once: as many as MLAS, the library that onnxruntime
    multiplies matrices with, sums up for so many ``pixels``. Where results are quantised next, one
    that lies next to the middle between two integers is rounded as there."""
    channels, columns = 128, 128
    while columns > 16 and columns // 2 >= pixels:
        channels, columns = channels * 2, columns // 2
    return channels


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
