"""Convolutions whose outputs interleave: a transposed one consists of several, its *phases*.

Output pixels whose coordinates are equal modulo the strides form a phase. Within a phase the same
kernel taps meet whole input pixels, and neighbouring outputs meet neighbouring inputs: each of the
SH × SW phases is an ordinary convolution of stride 1 with some of the taps, whose results lie SH
rows and SW columns apart (with a kernel of 2×2 and a stride of 2: four 1×1 convolutions of the
same inputs). No product with an inserted zero is ever formed. An ordinary convolution is a single
phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple

import numpy as np

from minseg.kernels.conv.problem import Convolution, Transposed
from minseg.kernels.core.jit import inline
from minseg.kernels.isa.simd import load_i64


class Phase(NamedTuple):
    """A phase for one tile of output channels, ``oct``: the pixels (``top`` + i·OSH, ``left`` +
    j·OSW), with i < ``height`` and j < ``width``, of an output that is spread by OSH and OSW. It is
    a convolution of the input blocks ``begin`` … ``end``-1, with weights from byte ``weights``
    on."""

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

    def of_tiles(self, ranges: np.ndarray, tile_bytes: int) -> list[Phase]:
        """The phase for every tile of output channels, with so many bytes of weights each."""
        return [
            self._replace(oct=oct, begin=begin, end=end, weights=self.weights + oct * tile_bytes)
            for oct, (begin, end) in enumerate(ranges.tolist())
        ]


PHASE_BYTES = 8 * len(Phase._fields)


@inline
def load_phase(at):
    return Phase(
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


def single_phase(q: Convolution) -> Phase:
    """An ordinary convolution."""
    return Phase(0, 0, 0, q.OH, q.OW, q.KH, q.KW, q.DH, q.DW, q.PT, q.PL, 0, 0, 0)


def phases(q: Transposed, w: np.ndarray) -> Iterator[tuple[Phase, np.ndarray]]:
    """The phases of a transposed convolution with weights ``w``, IC×OC/g×KH×KW, and the weights of
    each as Conv has them, OC×IC/g×KH×KW."""
    weights = as_convolution(w, q.groups)
    for v in axis_phases(q.OH, q.KH, q.SH, q.DH, q.PT):
        for h in axis_phases(q.OW, q.KW, q.SW, q.DW, q.PL):
            kernel = weights[:, :, v.taps.start :: v.taps.step, h.taps.start :: h.taps.step]
            place = v.first, h.first, v.outputs, h.outputs, len(v.taps), len(h.taps)
            moves = v.dilation, h.dilation, v.padding, h.padding
            yield Phase(0, *place, *moves, 0, 0, 0), kernel[:, :, ::-1, ::-1]


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
