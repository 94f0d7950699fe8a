"""Depthwise convolution on blocked f32 tensors: each output channel sees its own input channel.

`conv_f32_depthwise` multiplies vector by vector, L channels at once: R neighbouring output pixels
side by side, and those whose window leaves the picture one by one, over the taps that are inside.
The direct kernel (conv.py) would broadcast each channel and multiply mostly zeros; it is what is
left for grouped convolutions of any other kind.

Layouts: x [N][C/L][IH][IW][L], y and residual [N][C/L][OH][OW][L], weights [C/L][KH·KW][L].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from minseg.kernels.conv.direct import NS_PER_VECTOR, Conv2d
from minseg.kernels.core.activation import FORMULAS
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import end_inside, first_inside, taps_before
from minseg.kernels.isa.simd import TileShape, claim, fma, load, store
from minseg.kernels.isa.target import target

#: Output pixels worked on at once: enough to hide a multiplication's latency.
ROWS = 8
#: Output pixels that one work item covers, about.
ITEM_PIXELS = 512


def depthwise(lanes: int, activation: str, residual: bool) -> Callable[..., None]:
    """The kernel; see the module's docstring."""
    activate = FORMULAS[activation]
    tile, one = TileShape(ROWS, 1, lanes), TileShape(1, 1, lanes)
    R, V = ROWS, one.bytes

    def kernel(
        thread, work, x, w, b, z, y, N, CB, IH, IW, OH, OW, KH, KW, SH, SW, DH, DW, PT, PL,
        items, item_rows, alpha: float, beta: float,
    ):  # fmt: skip
        inner = first_inside(SW, PL, OW)
        outer = end_inside(IW, KW, SW, DW, PL, OW)
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            weights = w + plane % CB * KH * KW * V
            bias = b + plane % CB * V
            for oy in range(part * item_rows, min(OH, (part + 1) * item_rows)):
                kh0 = taps_before(PT - oy * SH, DH, KH)
                kh1 = taps_before(IH + PT - oy * SH, DH, KH)
                source = x + (plane * IH + oy * SH - PT) * IW * V
                result = (plane * OH + oy) * OW * V
                ox = 0
                while ox < OW:
                    if ox >= inner and ox < outer and outer - inner >= R:
                        ox = min(ox, outer - R)
                        many = load(tile, bias, 0, 0)
                        for kh in range(kh0, kh1):
                            at = source + (kh * DH * IW + ox * SW - PL) * V
                            for kw in range(KW):
                                taps = load(tile, weights + (kh * KW + kw) * V, 0, 0)
                                many = fma(load(tile, at, SW * V, 0), taps, many)
                                at += DW * V
                        if residual:
                            many = many + load(tile, z + result + ox * V, V, 0)
                        store(activate(tile, many, alpha, beta), y + result + ox * V, V, 0)
                        ox += R
                    else:
                        single = load(one, bias, 0, 0)
                        kw0 = taps_before(PL - ox * SW, DW, KW)
                        kw1 = taps_before(IW + PL - ox * SW, DW, KW)
                        for kh in range(kh0, kh1):
                            at = source + (kh * DH * IW + ox * SW - PL + kw0 * DW) * V
                            for kw in range(kw0, kw1):
                                tap = load(one, weights + (kh * KW + kw) * V, 0, 0)
                                single = fma(load(one, at, 0, 0), tap, single)
                                at += DW * V
                        if residual:
                            single = single + load(one, z + result + ox * V, 0, 0)
                        store(activate(one, single, alpha, beta), y + result + ox * V, 0, 0)
                        ox += 1
            item = claim(work)

    return kernel


def prepare(problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` C×1×KH×KW and ``b`` C, both f32."""
    q = problem
    L, CB = target().lanes, blocks(q.OC)
    weights = np.zeros((CB * L, q.KH * q.KW), np.float32)
    weights[: q.OC] = w.reshape(q.OC, -1)
    bias = np.zeros(CB * L, np.float32)
    if b is not None:
        bias[: q.OC] = b
    item_rows = max(1, ITEM_PIXELS // q.OW)
    return Launch(
        Code(depthwise, (L, q.activation.kind, q.residual)),
        (
            Operand("input", 0),
            Operand("constant", 0),
            Operand("constant", 1),
            Operand("input", 1) if q.residual else 0,
            Operand("output"),
            *(q.N, CB, q.IH, q.IW, q.OH, q.OW, q.KH, q.KW, q.SH, q.SW, q.DH, q.DW, q.PT, q.PL),
            -(-q.OH // item_rows),
            item_rows,
            q.activation.alpha,
            q.activation.beta,
        ),
        (aligned(weights.reshape(CB, L, -1).transpose(0, 2, 1)), aligned(bias)),
    )


def applies(problem: Conv2d) -> bool:
    """One input and one output channel a group."""
    return problem.groups == problem.IC == problem.OC


def cost(problem: Conv2d) -> float:
    """Nanoseconds: one vector FMA a tap, with a load of its own."""
    q = problem
    return q.N * blocks(q.OC) * q.OH * q.OW * q.KH * q.KW * 2 * NS_PER_VECTOR


KERNELS = (Kernel("conv_f32_depthwise", Conv2d, prepare, applies=applies, cost=cost),)
