"""Depthwise convolution of bytes: each output channel sees its own input channel.

`conv_i8_depthwise` is to conv_integer.py what depthwise.py is to conv.py: L channels at once, R
neighbouring output pixels side by side, and those whose window leaves the picture one by one. Bytes
and weights are widened to i32, so sums are exact. What the input's zero point contributes to whole
rows of a window is taken away once for all pixels of an output row.

Layouts: x [N][C/L][IH][IW][L] u8, y and z [N][C/L][OH][OW][L], weights [C/L][KH·KW][L] i32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minseg.kernels.conv.depthwise import ITEM_PIXELS, ROWS
from minseg.kernels.conv.direct_integer import IntegerConv2d
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
    scaled,
    with_residual,
)
from minseg.kernels.core.grid import divided_sum
from minseg.kernels.core.jit import Code
from minseg.kernels.core.late import bytes_known_now, known_now
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import end_inside, first_inside, taps_before
from minseg.kernels.isa.simd import TileShape, as_i32, claim, fill, fma, load, load_u8, store
from minseg.kernels.isa.target import target


def depthwise(
    lanes: int, activation: str, to_bytes: bool, addition: str, late: bool
) -> Callable[..., None]:
    """The kernel; ``addition`` is a key of `SUMS` or empty, ``late`` see late.py."""
    activate = FORMULAS[activation]
    conclude = as_bytes if to_bytes else as_floats
    residual, add = bool(addition), SUMS.get(addition, divided_sum)
    join = multiplied_then_added if late else fma
    sums, sum_ = TileShape(ROWS, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")
    floats, float_ = TileShape(ROWS, 1, lanes), TileShape(1, 1, lanes)
    octets, octet = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, lanes, "u8")
    vectors = float_, sum_, octet
    R, L, V = ROWS, lanes, sum_.bytes
    pixel_bytes = L if to_bytes else V

    def kernel(
        thread, work, x, w, b, scale, shift, z, y, zero, times, scratch, scratch_bytes,
        N, CB, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL, items, item_rows, x_zero,
        zero_point, low: float, high: float, alpha: float, beta: float,
        own_low: float, own_high: float, own_offset: float, own_scale: float,
        z_scale: float, z_zero: float, y_scale: float, y_shift: float,
    ):  # fmt: skip
        ending = Ending(zero_point, low, high, alpha, beta)
        terms = Addition(
            own_low, own_high, own_offset, own_scale, z_scale, z_zero, y_scale, y_shift
        )
        if late:
            end = scratch + (thread + 1) * scratch_bytes
            _, scale, _ = known_now(*vectors, end, b, b, 0, scale, CB, zero, times)
            x_zero = load_u8(zero)
        inner = first_inside(SW, PL, OW)
        outer = end_inside(IW, KW, SW, DW, PL, OW)
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            weights = w + plane % CB * KH * KW * V
            channels = plane % CB * V
            for oy in range(part * item_rows, min(OH, (part + 1) * item_rows)):
                kh0 = taps_before(PT - oy * SH, DH, KH)
                kh1 = taps_before(IH + PT - oy * SH, DH, KH)
                source = x + (plane * IH + oy * SH - PT) * IW * L
                result = (plane * OH + oy) * OW * pixel_bytes
                start = load(sums, b + channels, 0, 0)
                for number in range(kh0 * KW, kh1 * KW):
                    start = start - load(sums, weights + number * V, 0, 0) * fill(sums, x_zero)
                ox = 0
                while ox < OW:
                    if ox >= inner and ox < outer and outer - inner >= R:
                        ox = min(ox, outer - R)
                        many = start
                        for kh in range(kh0, kh1):
                            at = source + (kh * DH * IW + ox * SW - PL) * L
                            for kw in range(KW):
                                taps = load(sums, weights + (kh * KW + kw) * V, 0, 0)
                                many = many + as_i32(load(octets, at, SW * L, 0)) * taps
                                at += DW * L
                        total = scaled(join, floats, many, scale + channels, shift + channels, 0)
                        to = result + ox * pixel_bytes
                        if residual:
                            other = load(octets, z + to, pixel_bytes, 0)
                            total = with_residual(add, floats, total, other, terms)
                        total = conclude(activate, floats, total, ending)
                        store(total, y + to, pixel_bytes, 0)
                        ox += R
                    else:
                        single = load(sum_, b + channels, 0, 0)
                        kw0 = taps_before(PL - ox * SW, DW, KW)
                        kw1 = taps_before(IW + PL - ox * SW, DW, KW)
                        for kh in range(kh0, kh1):
                            at = source + (kh * DH * IW + ox * SW - PL + kw0 * DW) * L
                            for kw in range(kw0, kw1):
                                tap = load(sum_, weights + (kh * KW + kw) * V, 0, 0)
                                pixel = as_i32(load(octet, at, 0, 0)) - fill(sum_, x_zero)
                                single = single + pixel * tap
                                at += DW * L
                        last = scaled(join, float_, single, scale + channels, shift + channels, 0)
                        to = result + ox * pixel_bytes
                        if residual:
                            only = load(octet, z + to, 0, 0)
                            last = with_residual(add, float_, last, only, terms)
                        store(conclude(activate, float_, last, ending), y + to, 0, 0)
                        ox += 1
            item = claim(work)

    return kernel


def prepare(
    problem: IntegerConv2d,
    w: np.ndarray,
    b: np.ndarray | None,
    scale: np.ndarray,
    shift: np.ndarray,
    w_zero: np.ndarray | None = None,
) -> Launch:
    """Constants as for `conv_integer.prepare_direct`, of weights C×1×KH×KW."""
    q = problem
    L, CB = target().lanes, blocks(q.OC)
    weights = np.zeros((CB * L, q.KH * q.KW), np.int32)
    weights[: q.OC] = w.reshape(q.OC, -1)
    if w_zero is not None:
        weights[: q.OC] -= w_zero[:, None]
    start = np.zeros(q.OC, np.int32) if b is None else b
    item_rows = max(1, ITEM_PIXELS // q.OW)
    scratch = bytes_known_now(0, CB) if q.is_late else 0
    return Launch(
        Code(depthwise, (L, q.activation.kind, q.y is not None, q.addition, q.is_late)),
        (
            Operand("input", 0),
            *(Operand("constant", i) for i in range(4)),
            q.z,
            Operand("output"),
            *q.late,
            Operand("workspace"),
            scratch,
            *(q.N, CB, q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW, q.DH, q.DW, q.PT, q.PL),
            -(-q.OH // item_rows),
            item_rows,
            q.x_zero_point or 0,
            *ending_arguments(q.y, q.activation),
            *addition_arguments(q.residual),
        ),
        (
            aligned(weights.reshape(CB, L, -1).transpose(0, 2, 1)),
            *(per_channel(values, q.OC) for values in (start, scale, shift)),
        ),
        scratch,
    )


def applies(problem: IntegerConv2d) -> bool:
    """One input and one output channel a group."""
    return problem.groups == problem.IC == problem.OC


def cost(problem: IntegerConv2d) -> float:
    """Nanoseconds: a load, a product and a sum a tap, and finishing a sum."""
    q = problem
    return q.N * blocks(q.OC) * q.OH * q.OW * (q.KH * q.KW * NS_PER_TAP + NS_PER_SUM)


NS_PER_TAP, NS_PER_SUM = 0.45, 2.0

KERNELS = (Kernel("conv_i8_depthwise", IntegerConv2d, prepare, applies=applies, cost=cost),)
