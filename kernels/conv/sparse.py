"""2-D convolution that skips zero weights, on f32 tensors in blocks or in lines, for any geometry.

The kernel (sparse_kernel.py) lays C·L pixels of one input channel, for one tap, side by side in a
*line*. A weight times a line is C vector FMAs, so a weight that is zero costs nothing, wherever it
stands. (The vectors of the direct kernel, direct.py, hold L output channels: it could only skip L
zeros at once.) Three output channels, a row *panel*, are computed together, because a line is no
faster fetched than multiplied: one that several of them have weights for is fetched once.

A work item makes C·L pixels of one *M block* of the output channels, a *K block* of input lines at
a time: that stays in the L1 cache while each panel adds what it has weights for to its sums, which
are lines too and stay in the L2 cache. Memory keeps up because each panel asks for some of what
comes after the products.

Between two such convolutions of 1×1, tensors are lines (layout.py): then a K block is read where it
lies, and sums grow where the output is to be. Blocks become lines in scratch memory, in squares of
L×L elements that are transposed in registers, and sums become blocks in the end. Squares that an M
block has no weight for are left out, so groups are only a pattern of zeros.

A zero weight means "not connected": what it would multiply has no effect, even if that is NaN or
infinite, where the definition's 0·NaN is NaN. For all other weights IEEE rules hold.

Layouts: x, y and residual blocked as in direct.py, or lines; weights as in sparse_weights.py.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from minseg.kernels.conv.direct import input_cost
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.conv.sparse_kernel import SparseArguments, Weights, sparse
from minseg.kernels.conv.sparse_weights import compress
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import BLOCKED, PANELS, Layout, aligned, blocks, panel_vectors
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import TileShape
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import caches, rates

#: Bytes of a K block of lines: they stay in the L1 cache beside what streams past. And how many
#: where that cache is large, and what counts as large.
K_BLOCK_BYTES, LARGE_K_BLOCK_BYTES, LARGE_CACHE_BYTES = 30 * 1024, 45 * 1024, 48 * 1024
#: Bytes of a K block where few weights remain. More lines are fetched from the L2 cache in time
#: then, and so many that products outweigh the sums that wait between K blocks.
THIN_K_BLOCK_BYTES, THIN_DENSITY = 48 * 1024, 0.25
#: Lines of a K block at most, so that positions fit bytes.
K_BLOCK_LINES = 256
#: Output channels of an M block, whose sums stay in the L2 cache; fewer, but no fewer than the
#: second, where there would be too few items for threads to finish together.
M_BLOCK_CHANNELS, MIN_M_BLOCK_CHANNELS = 512, 64
MIN_ITEMS = 16


def line_tile(pixels: int) -> TileShape:
    """A line of pictures of so many output pixels."""
    return TileShape(1, panel_vectors(pixels), target().lanes)


def k_block_squares(line: TileShape, density: float) -> int:
    """Squares of a K block at most."""
    is_large = caches().first >= LARGE_CACHE_BYTES
    k_block_bytes = LARGE_K_BLOCK_BYTES if is_large else K_BLOCK_BYTES
    if density <= THIN_DENSITY:
        k_block_bytes = THIN_K_BLOCK_BYTES
    return min(K_BLOCK_LINES, k_block_bytes // (line.cols * line.bytes)) // line.lanes


def m_block_channels(problem: Conv2d, tiles: int) -> int:
    """Output channels of an M block."""
    channels = M_BLOCK_CHANNELS
    while channels > MIN_M_BLOCK_CHANNELS and -(-problem.OC // channels) * tiles < MIN_ITEMS:
        channels //= 2
    return channels


def prepare(
    problem: Conv2d,
    w: np.ndarray,
    b: np.ndarray | None = None,
    reads: Layout = BLOCKED,
    adds: Layout = BLOCKED,
    writes: Layout = BLOCKED,
) -> Launch:
    """``w`` OC×IC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    line = line_tile(q.OH * q.OW)
    C, L = line.cols, line.lanes
    tiles = -(-q.OH * q.OW // (C * L))
    channels = m_block_channels(q, q.N * tiles)
    most_squares = k_block_squares(line, q.density)
    compressed = Weights(*compress(w, q, channels, most_squares, reads == PANELS))
    lines_at = C * L * q.KH * q.KW * 4
    sums_at = lines_at + most_squares * L * C * L * 4
    scratch = sums_at + min(channels, blocks(q.OC) * L) * C * L * 4
    bias = np.zeros(q.OC, np.float32) if b is None else b
    arguments = SparseArguments(
        x=Operand("input"),
        w=compressed,
        y=Operand("output"),
        zero=aligned(np.zeros(L, np.float32)),
        scratch=Operand("workspace"),
        scratch_bytes=scratch,
        lines_at=lines_at,
        sums_at=sums_at,
        threads=Operand("threads"),
        m_blocks=len(compressed.m_blocks) - 1,
        tiles=tiles,
        geometry=q.geometry,
        epilogue=q.epilogue.arguments(q.residual, q.OC, bias),
    )
    return Launch(
        Code(sparse, (line, q.epilogue.code(), reads, adds, writes)), arguments, workspace=scratch
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
    return bool(problem.epilogue.residual) and applies(problem)


class Costs(NamedTuple):
    """Nanoseconds: the products that are left; sums that wait while K blocks change; and lines:
    finding pixels, fetching them, and transposing them on their way in and out."""

    products: float
    sums: float
    lines: float


class SparseRates(NamedTuple):
    """Nanoseconds that one of each takes."""

    #: A vector FMA, and how much longer where it alone needs what it multiplies.
    product: float
    lone_line: float
    #: A vector of a sum on its way out of a register and in again.
    sum: float
    #: A vector that is transposed on its way in, and out.
    vector_in: float
    vector_out: float
    #: Finding what a tap meets from one output pixel.
    pixel: float
    #: A vector of a line that is read where it lies.
    vector: float


#: As how many taps a pixel itself counts.
OTHER_TAPS = 3


def costs(problem: Conv2d, reads: Layout = BLOCKED, writes: Layout = BLOCKED) -> Costs:
    """What the kernel's work is made of."""
    q = problem
    r = rates("conv_f32_sparse", SparseRates)
    line = line_tile(q.OH * q.OW)
    tiles = q.N * -(-q.OH * q.OW // (line.cols * line.lanes))
    channels = m_block_channels(q, tiles)
    m_blocks = -(-q.OC // channels)
    OCg, ICg, taps = q.OC // q.groups, q.IC // q.groups, q.KH * q.KW
    squares = m_blocks * blocks(min(q.IC, -(-channels // OCg) * ICg)) * taps
    k_blocks = -(-blocks(ICg) * taps // k_block_squares(line, q.density))
    vectors = tiles * line.cols
    pixels = vectors * line.lanes
    products = vectors * q.OC * ICg * taps * q.density
    moved = input_cost(q)
    if reads == PANELS:
        moved += pixels * squares * r.vector
    else:
        moved += pixels * (squares * r.vector_in + m_blocks * (taps + OTHER_TAPS) * r.pixel)
    if writes != PANELS:
        moved += pixels * blocks(q.OC) * r.vector_out
    return Costs(
        products * (r.product + (1 - q.density) * r.lone_line),
        vectors * q.OC * k_blocks * r.sum,
        moved,
    )


def cost(problem: Conv2d, reads: Layout = BLOCKED, writes: Layout = BLOCKED) -> float:
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
    kernel("conv_f32_sparse", BLOCKED, BLOCKED, BLOCKED),
    kernel("conv_f32_sparse_to_panels", BLOCKED, PANELS, PANELS),
    kernel("conv_f32_sparse_from_panels", PANELS, BLOCKED, BLOCKED, keeps_pixels),
    kernel("conv_f32_sparse_panels", PANELS, PANELS, PANELS, keeps_pixels),
    kernel("conv_f32_sparse_adding_panels", BLOCKED, PANELS, BLOCKED, adds_residual),
)
