"""The micro-kernel of direct convolutions as their drivers know it, and packing weights for it.

It adds to a register tile of sums, pixels by vectors of output channels, the products of a few
input channels at a time, its K unit: `outer_fma` of one f32, `outer_dot4` of four bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from minseg.kernels.conv.phases import Phase
from minseg.kernels.conv.problem import Convolution
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Deferred
from minseg.kernels.isa.simd import TileShape
from minseg.kernels.isa.target import target


@dataclass(frozen=True)
class MicroKernel:
    """``tile`` is that of the sums, ``unit`` input channels are multiplied together, and the input
    has blocks of ``depth`` channels. With a ``sum_column`` the last column of the tile adds up the
    inputs: its weights are ones."""

    tile: TileShape
    unit: int
    depth: int
    sum_column: bool = False

    @property
    def width(self) -> int:
        """Output channels of a tile."""
        return (self.tile.cols - self.sum_column) * self.tile.lanes

    def input_ranges(self, q: Convolution) -> np.ndarray:
        """[OC tile][2] first and last+1 input block that an output tile needs: all of them, unless
        the convolution is grouped."""
        OCg, ICg = q.OC // q.groups, q.IC // q.groups
        ranges = []
        for oc in range(0, blocks(q.OC) * self.tile.lanes, self.width):
            groups = oc // OCg, (min(oc + self.width, q.OC) - 1) // OCg
            ranges.append((groups[0] * ICg // self.depth, -(-(groups[1] + 1) * ICg // self.depth)))
        return np.array(ranges, np.int32)

    def packed(self, w: np.ndarray, q: Convolution) -> np.ndarray:
        """OC×IC/g×KH×KW weights as [OC tile][IC block of its range][tap][K units][C][L][unit],
        zeros between. The last input block holds only the units there are, so its taps lie closer
        together."""
        ranges = self.input_ranges(q)
        OCg, ICg, taps = q.OC // q.groups, q.IC // q.groups, w.shape[2] * w.shape[3]
        span, lanes = int((ranges[:, 1] - ranges[:, 0]).max()), self.tile.cols * self.tile.lanes
        dtype = np.float32 if self.unit == 1 else np.int8
        spread = np.zeros((len(ranges), lanes, span * self.depth, taps), dtype)
        for oc in range(q.OC):
            oct, lane = divmod(oc, self.width)
            ic = oc // OCg * ICg - ranges[oct, 0] * self.depth
            spread[oct, lane, ic : ic + ICg] = w[oc].reshape(ICg, taps)
            if self.sum_column and lane < self.tile.lanes:
                spread[oct, self.width + lane, ic : ic + ICg] = 1
        units = spread.reshape(len(ranges), lanes, span, self.depth // self.unit, self.unit, taps)
        packed = units.transpose(0, 2, 5, 3, 1, 4)
        flat = aligned(packed).reshape(len(ranges), -1)
        for oct, (begin, end) in enumerate(ranges):
            channels = min(self.depth, q.IC - (end - 1) * self.depth)
            last = packed[oct, end - begin - 1, :, : -(-channels // self.unit)].reshape(-1)
            at = (end - begin - 1) * taps * self.depth * lanes
            flat[oct, at : at + last.size] = last
        return flat

    def tile_bytes(self, q: Convolution, taps: int) -> int:
        """Bytes of the weights of one output tile, `packed`."""
        spans = self.input_ranges(q) @ (-1, 1)
        itemsize = 4 if self.unit == 1 else 1
        return int(spans.max()) * self.depth * taps * self.tile.cols * self.tile.lanes * itemsize

    def pack_phases(
        self, q: Convolution, phases: Sequence[tuple[Phase, np.ndarray]]
    ) -> tuple[list[Phase], np.ndarray | Deferred]:
        """Phases and their weights: [phase][OC tile], and all weights, `packed`. Those of a single
        phase can wait: another kernel may be chosen for it, and this one for the exact plan only.
        """
        ranges, table, at = self.input_ranges(q), [], 0
        for phase, _ in phases:
            tile_bytes = self.tile_bytes(q, phase.KH * phase.KW)
            table += phase._replace(weights=at).of_tiles(ranges, tile_bytes)
            at += len(ranges) * tile_bytes
        if len(phases) == 1:
            return table, Deferred(partial(self.packed, q=q), phases[0][1], at)
        return table, aligned(np.concatenate([self.packed(w, q).reshape(-1) for _, w in phases]))


def column_count(OC: int, groups: int) -> int:
    """The columns of a tile: as many blocks of channels as divide OC (and each group, if groups
    fill whole vectors)."""
    t = target()
    widths = (4, 3, 2, 1) if t.registers == 32 else (2, 1)
    OCg = OC // groups
    divided = blocks(OCg if OCg % t.lanes == 0 else OC)
    return next(c for c in widths if divided % c == 0)
