"""3×3 convolution of bytes by Winograd's F(4×4, 3×3), in integers and exact.

`conv_i8_winograd_4x4` is to conv_integer.py what winograd.py, which explains the algorithm, is to
conv.py. Its fractions are no obstacle. Behind a whole-numbered G, sums come out 30² = 900 times as
large once the rows of Aᵀ are whole too. All is computed modulo 2³². There 225 has an inverse, by
which they are multiplied, and 4 · s, read as a signed number, is shifted right by 2 bits: that is
s, where -2²⁹ ≤ s < 2²⁹. The points 0, ±1, 2, -½ and infinity lose only these 2 bits; two of them
are of each kind that a power of two can tell apart. Those of winograd.py would lose 6.

Transformed inputs and weights fit 16 bits, since bytes come less 128: Bᵀ x B is at most 196 · 128,
G w Gᵀ at most 49 · 255. Two products of such are added up by one instruction where four of bytes
would be, but there are a quarter as many: half the time, and what the transforms take.

Layouts: x, y, z as in conv_integer.py; weights U [OC/(C·L)][36][IC/2][C][L][2] i16;
V [36][T][IC] i16, IC rounded up to blocks, M [36][T][C][L] i32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from minseg.kernels.conv.direct_integer import IntegerConv2d
from minseg.kernels.conv.winograd import (
    PAD,
    PATCH_BYTES,
    gather,
    load_patch,
    multiply,
    patches_of,
    patches_per_group,
    product_tile,
)
from minseg.kernels.conv.winograd_weights import POSITIONS
from minseg.kernels.core.activation import FORMULAS
from minseg.kernels.core.epilogue import (
    SUMS,
    Addition,
    Ending,
    addition_arguments,
    as_bytes,
    as_floats,
    ending_arguments,
    multiplied_then_added,
    per_channel,
    with_residual,
)
from minseg.kernels.core.grid import divided_sum
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.late import bytes_known_now, known_now
from minseg.kernels.core.layout import aligned, aligned_empty, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.scheduling import next_item, share, whole_groups
from minseg.kernels.isa.simd import (
    TileShape,
    as_f32,
    as_i16,
    exchange,
    fill,
    fma,
    load,
    load_i32,
    load_rows,
    outer_dot2,
    shift_right,
    store,
    store_rows,
)

#: What is taken from bytes before they are multiplied.
CENTRE = 128
#: The weights' transform.
WHOLE_G = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [4, -2, 1], [0, 0, 1]])
#: Sums of products that are told apart.
LIMIT = 2**29
#: 1/225 modulo 2**32, and the bits of 900 / 225.
INVERSE, SHIFT = -2023406815, 2


@inline
def transform_bytes(shape, d):
    """Bᵀ (d - CENTRE) for six rows of bytes of a patch."""
    centre = fill(shape, CENTRE)
    d0, d1, d2, d3, d4, d5 = d
    centred = (
        as_i16(d0) - centre,
        as_i16(d1) - centre,
        as_i16(d2) - centre,
        as_i16(d3) - centre,
        as_i16(d4) - centre,
        as_i16(d5) - centre,
    )
    return transform_input(shape, centred)


@inline
def transform_input(shape, d):
    """Bᵀ d for six rows of a patch."""
    d0, d1, d2, d3, d4, d5 = d
    three = fill(shape, 3)
    u, w = d4 - d2, d3 - d1
    twice_u, twice_w = u + u, w + w
    first, last = d0 - d2, d5 - d3
    return (
        first + first + twice_u - twice_w - w,
        twice_u + twice_w - three * (d2 + d3),
        twice_u - twice_w + three * (d2 - d3),
        twice_u + w,
        u - twice_w,
        last + last - twice_w - twice_u - u,
    )


@inline
def transform_output(shape, m):
    """Aᵀ m, times 30, for six rows of products."""
    m0, m1, m2, m3, m4, m5 = m
    two, four, five = fill(shape, 2), fill(shape, 4), fill(shape, 5)
    eight, fifteen = fill(shape, 8), fill(shape, 15)
    s, d = five * (m2 - m1), five * (m1 + m2)
    return (
        fifteen * m0 + s + m3 - eight * m4,
        two * m3 + four * m4 - d,
        four * m3 - two * m4 + s,
        eight * m3 + m4 - d + fifteen * m5,
    )


def winograd(
    tile: TileShape, activation: str, to_bytes: bool, addition: str, late: bool
) -> Callable[..., None]:
    """The kernel for the products' register tile; ``addition`` is a key of `SUMS` or empty,
    ``late`` see late.py."""
    activate = FORMULAS[activation]
    conclude = as_bytes if to_bytes else as_floats
    residual, add = bool(addition), SUMS.get(addition, divided_sum)
    join = multiplied_then_added if late else fma
    R, C, L = tile.rows, tile.cols, tile.lanes
    six, six_bytes = TileShape(6, 1, L, "i16"), TileShape(6, 1, L, "u8")
    six_sums, four_sums = TileShape(6, 1, L, "i32"), TileShape(4, 1, L, "i32")
    four, four_bytes = TileShape(4, 1, L), TileShape(4, 1, L, "u8")
    one = TileShape(1, 1, L, "u8")
    vectors = TileShape(1, 1, L), TileShape(1, 1, L, "i32"), one
    V = four.bytes
    pixel_bytes = L if to_bytes else V

    def kernel(
        thread, work, x, u, b, scale, shift, z, y, patches, outside, totals, zero, times,
        scratch, scratch_bytes,
        threads, N, count, groups, T, ICB, steps, OCT, IH, IW, OH, OW, D,
        zero_point, low: float, high: float, alpha: float, beta: float,
        own_low: float, own_high: float, own_offset: float, own_scale: float,
        z_scale: float, z_zero: float, y_scale: float, y_shift: float,
    ):  # fmt: skip
        ending = Ending(zero_point, low, high, alpha, beta)
        terms = Addition(
            own_low, own_high, own_offset, own_scale, z_scale, z_zero, y_scale, y_shift
        )
        v_row, m_row = 2 * ICB * L, C * V
        v_step, m_step = T * v_row + PAD, T * m_row + PAD
        v = scratch + thread * scratch_bytes
        m = v + POSITIONS * v_step
        patch = m + POSITIONS * m_step
        if late:
            end = v + scratch_bytes
            b, scale, outside = known_now(
                *vectors, end, b, totals, OCT * C, scale, OCT * C, zero, times
            )
        whole = whole_groups(N * groups, threads)
        gathered = -1
        shared = (N * groups - whole) * OCT
        items = whole + shared
        item, run_end = next_item(0, 0, work, items, shared, threads)
        while item < run_end:
            group, begin, end = share(item, whole, OCT)
            n, first = group // groups, group % groups * T
            last = min(count, first + T)
            if group != gathered:
                gather(
                    transform_bytes, transform_input, six, six_bytes, one,
                    x + n * ICB * IH * IW * L, patches, first, last, v, 2 * L, v_row, v_step,
                    patch, outside, ICB, IH, IW, D, L,
                )  # fmt: skip
                gathered = group
            for oct in range(begin, end):
                weights = u + oct * POSITIONS * steps * C * V
                multiply(
                    outer_dot2, tile, R, C, weights, v, v_row, v_step, m, m_row, m_step,
                    last - first, steps, V,
                )  # fmt: skip
                for ocb in range(oct * C, oct * C + C):
                    start = load(four_sums, b + ocb * V, 0, 0)
                    factor = load(four, scale + ocb * V, 0, 0)
                    offset = load(four, shift + ocb * V, 0, 0)
                    products = m + (ocb - oct * C) * V
                    plane = (n * OCT * C + ocb) * OH * OW
                    for t in range(first, last):
                        at = patches + t * PATCH_BYTES
                        oy, ox = load_i32(at + 8), load_i32(at + 12)
                        height, width = load_i32(at + 16), load_i32(at + 20)
                        d = load_patch(six_sums, products + (t - first) * m_row, 6 * m_step, m_step)
                        d = transform_output(four_sums, exchange(transform_output(six_sums, d)))
                        out = (plane + oy * OW + ox) * pixel_bytes
                        below = 0
                        for row in exchange(d):
                            if below < height:
                                to = out + below * D * OW * pixel_bytes
                                total = shift_right(row * fill(four_sums, INVERSE), SHIFT) + start
                                result = join(as_f32(total), factor, offset)
                                if residual:
                                    other = load_rows(four_bytes, z + to, D * pixel_bytes, 0, width)
                                    result = with_residual(add, four, result, other, terms)
                                result = conclude(activate, four, result, ending)
                                if width == 4:
                                    store(result, y + to, D * pixel_bytes, 0)
                                else:
                                    store_rows(result, y + to, D * pixel_bytes, 0, width)
                            below += 1  # noqa: SIM113  tiles are unrolled, a counter is not
            item, run_end = next_item(item, run_end, work, items, shared, threads)

    return kernel


def pack_weights(w: np.ndarray, tile: TileShape) -> np.ndarray:
    """OC×IC×3×3 integers as U [OC tile][36][IC/2][C][L][2]."""
    OC, IC = w.shape[:2]
    width = tile.cols * tile.lanes
    tiles, pairs = -(-OC // width), -(-IC // 2)
    # All is whole and less than 2**24: exact in f32.
    both = np.kron(WHOLE_G, WHOLE_G).astype(np.float32)
    shape = tiles, POSITIONS, pairs * 2 * width
    u = aligned_empty(2 * prod(shape)).view(np.int16).reshape(shape)
    for oct in range(tiles):
        part = np.zeros((9, pairs * 2, width), np.float32)
        some = w[oct * width : (oct + 1) * width]
        part[:, :IC, : len(some)] = some.reshape(len(some), IC, 9).transpose(2, 1, 0)
        u[oct] = both @ part.reshape(9, pairs, 2, width).swapaxes(2, 3).reshape(9, -1)
    return u


def prepare(
    problem: IntegerConv2d,
    w: np.ndarray,
    b: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    w_zero: np.ndarray | None = None,
) -> Launch:
    """Constants as for `conv_integer.prepare_direct`."""
    q = problem
    patches = patches_of(q)
    steps = -(-q.IC // 2)
    tile = replace(product_tile(q.OC), dtype="i32")
    T = patches_per_group(len(patches), POSITIONS * steps * q.OC * 4, tile.rows)
    groups = -(-len(patches) // T)
    C, L = tile.cols, tile.lanes
    centred = w.astype(np.int16)
    if w_zero is not None:
        centred = centred - w_zero.astype(np.int16)[:, None, None, None]
    total = centred.sum(axis=(1, 2, 3), dtype=np.int64)
    start = (CENTRE - (q.x_zero_point or 0)) * total
    if b is not None:
        start = start + b
    scratch = POSITIONS * (T * (blocks(q.IC) * 2 + C * 4) * L + L) + 2 * POSITIONS * PAD
    if q.is_late:
        scratch += bytes_known_now(blocks(q.OC), blocks(q.OC))
    scratch = -(-scratch // PAD) * PAD
    return Launch(
        Code(winograd, (tile, q.activation.kind, q.y is not None, q.addition, q.is_late)),
        (
            Operand("input", 0),
            *(Operand("constant", i) for i in range(4)),
            q.z,
            Operand("output"),
            *(Operand("constant", i) for i in (4, 5, 6)),
            *q.late,
            Operand("workspace"),
            scratch,
            Operand("threads"),
            *(q.N, len(patches), groups, T, blocks(q.IC), steps),
            *(blocks(q.OC) // C, q.IH, q.IW, q.OH, q.OW, q.DH),
            *ending_arguments(q.y, q.activation),
            *addition_arguments(q.residual),
        ),
        (
            pack_weights(centred, tile),
            *(per_channel(values, q.OC) for values in (start.astype(np.int32), scale, shift)),
            patches,
            aligned(np.full(L, q.x_zero_point or 0, np.uint8)),
            per_channel(total.astype(np.int32), q.OC),
        ),
        scratch,
    )


def applies(problem: IntegerConv2d) -> bool:
    """3×3, stride 1, one dilation, one group, and not so many channels that sums pass the limit."""
    q = problem
    largest = CENTRE * 9 * q.IC * (255 if q.asymmetric else 128)
    return (
        (q.KH, q.KW, q.SH, q.SW, q.groups) == (3, 3, 1, 1, 1) and q.DH == q.DW and largest < LIMIT
    )


def cost(problem: IntegerConv2d) -> float:
    """Nanoseconds: the products, two to a lane and instruction, and both transforms by the
    vectors they move."""
    q = problem
    count = len(patches_of(q)) * q.N
    products = POSITIONS * -(-q.IC // 2) * blocks(q.OC)
    transforms = POSITIONS * (blocks(q.IC) * NS_PER_INPUT + blocks(q.OC) * NS_PER_OUTPUT)
    return count * (products * NS_PER_PRODUCT + transforms)


#: One vector of products; one vector through the transform of inputs, and through that of sums.
NS_PER_PRODUCT, NS_PER_INPUT, NS_PER_OUTPUT = 0.36, 2.5, 2.8

KERNELS = (
    Kernel(
        "conv_i8_winograd_4x4",
        IntegerConv2d,
        prepare,
        applies=applies,
        cost=cost,
        # A quarter of the products, each as much work as two of bytes.
        work=lambda problem: problem.flops // 2,
    ),
)
