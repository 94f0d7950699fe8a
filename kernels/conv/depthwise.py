"""Depthwise convolution on blocked tensors: each output channel sees its own input channel.

`conv_f32_depthwise` and `conv_i8_depthwise` multiply vector by vector, L channels at once: R
neighbouring output pixels side by side, and those whose window leaves the picture one by one, over
the taps that are inside. The direct kernels would broadcast each channel and multiply mostly zeros;
they are what is left for grouped convolutions of any other kind.

The micro-kernel is a multiplication and an addition of vectors (`Products`): fused, of f32, or of
bytes and weights that are widened to i32, so that sums are exact. What the input's zero point
contributes to whole rows of a window is taken away once for all pixels of an output row.

Layouts: x [N][C/L][IH][IW][L], y and residual [N][C/L][OH][OW][L], weights [C/L][KH·KW][L], f32 or
i32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from minseg.kernels.conv.direct import direct_rates
from minseg.kernels.conv.problem import Constants, Conv2d, Convolution, Geometry, IntegerConv2d
from minseg.kernels.core.arguments import Address
from minseg.kernels.core.epilogue import (
    Dynamic,
    EpilogueArguments,
    EpilogueCode,
    Place,
    finisher,
    per_channel,
    quantiser,
)
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import aligned, blocks
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.window import end_inside, first_inside, taps_before
from minseg.kernels.isa.simd import (
    TileShape,
    as_f32,
    as_i32,
    claim,
    fill,
    fma,
    load,
    load_u8,
    store,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Output pixels worked on at once: enough to hide a multiplication's latency.
ROWS = 8
#: Output pixels that one work item covers, about.
ITEM_PIXELS = 512


class DepthwiseArguments(NamedTuple):
    """``start`` is what the sums of a block of channels start at, ``pixel`` the input's zero points
    of one."""

    x: Address
    w: Address
    start: Address
    pixel: Address
    y: Address
    scratch: Address
    scratch_bytes: int
    items: int
    item_rows: int
    geometry: Geometry
    epilogue: EpilogueArguments
    dynamic: Dynamic


class Taps(NamedTuple):
    """Rows and columns of taps."""

    top: int
    bottom: int
    left: int
    right: int


@inline
def product_f32(sums, inputs, acc, x, step, w, zero):
    """``acc`` plus pixels ``step`` bytes apart times a tap."""
    return fma(load(inputs, x, step, 0), load(sums, w, 0, 0), acc)


@inline
def product_u8(sums, inputs, acc, x, step, w, zero):
    return acc + as_i32(load(inputs, x, step, 0)) * load(sums, w, 0, 0)


@inline
def centred_product_u8(sums, inputs, acc, x, step, w, zero):
    """`product_u8` of pixels less their zero point."""
    return acc + (as_i32(load(inputs, x, step, 0)) - fill(sums, zero)) * load(sums, w, 0, 0)


@inline
def start_f32(sums, start, weights, first, last, zero):
    """What sums over the whole rows of taps ``first`` … ``last``-1 start at."""
    return load(sums, start, 0, 0)


@inline
def start_i32(sums, start, weights, first, last, zero):
    acc = load(sums, start, 0, 0)
    for tap in range(first, last):
        acc = acc - load(sums, weights + tap * sums.bytes, 0, 0) * fill(sums, zero)
    return acc


@inline
def same(rescale, floats, acc, scale, shift):
    return acc


@inline
def rescaled(rescale, floats, acc, scale, shift):
    """Sums of integers, with their scale and shift."""
    return rescale(as_f32(acc), load(floats, scale, 0, 0), load(floats, shift, 0, 0))


@dataclass(frozen=True)
class Products:
    """A micro-kernel: the types of inputs and sums, and functions of a tile of them. ``edge`` is
    the ``product`` where a window leaves the picture."""

    inputs: str
    sums: str
    product: Callable[..., Any]
    edge: Callable[..., Any]
    start: Callable[..., Any]
    convert: Callable[..., Any]


PRODUCTS = {
    "f32": Products("f32", "f32", product_f32, product_f32, start_f32, same),
    "u8": Products("u8", "i32", product_u8, centred_product_u8, start_i32, rescaled),
}


@cache
def pixel_maker(inputs: str, shape: TileShape, epilogue: EpilogueCode) -> Callable[..., Any]:
    """The function that makes a tile of outputs, of windows that are inside the picture, or one
    that need not be, of ``taps``: sums begin with ``start``, the first window at ``x``."""
    p = PRODUCTS[inputs]
    product, convert = p.product if shape.rows > 1 else p.edge, p.convert
    sums, pixels = replace(shape, dtype=p.sums), replace(shape, dtype=p.inputs)
    finish, rescale = finisher(epilogue, shape), epilogue.rescale
    R, V, x_bytes, y_bytes = shape.rows, shape.bytes, pixels.bytes, shape.lanes * epilogue.itemsize

    @inline
    def make(start, x, y, w, taps, scale, shift, zero, a):
        g, acc = a.geometry, start
        for kh in range(taps.top, taps.bottom):
            at = x + (kh * g.DH * g.IW + taps.left * g.DW) * x_bytes
            for kw in range(taps.left, taps.right):
                acc = product(sums, pixels, acc, at, g.SW * x_bytes, w + (kh * g.KW + kw) * V, zero)
                at += g.DW * x_bytes
        f = convert(rescale, shape, acc, scale, shift)
        store(finish(f, Place(y, y_bytes, 0, R), a.epilogue), a.y + y, y_bytes, 0)

    return make


def depthwise(inputs: str, lanes: int, epilogue: EpilogueCode) -> Callable[..., None]:
    """The kernel; ``inputs`` is a key of `PRODUCTS`."""
    p = PRODUCTS[inputs]
    many, one = TileShape(ROWS, 1, lanes), TileShape(1, 1, lanes)
    start_sums, sums, sum_ = p.start, replace(many, dtype=p.sums), replace(one, dtype=p.sums)
    make_many, make_one = pixel_maker(inputs, many, epilogue), pixel_maker(inputs, one, epilogue)
    quantise = quantiser(epilogue.dynamic, lanes)
    R, V, x_bytes = ROWS, one.bytes, replace(one, dtype=p.inputs).bytes
    y_bytes = lanes * epilogue.itemsize

    def kernel(thread, work, a: DepthwiseArguments):
        g, e, CB = a.geometry, a.epilogue, (a.geometry.OC + lanes - 1) // lanes
        end = a.scratch + (thread + 1) * a.scratch_bytes
        known = quantise(end, a.start, a.pixel, e, a.dynamic)
        zero = load_u8(known.pixel)
        inner = first_inside(g.SW, g.PL, g.OW)
        outer = end_inside(g.IW, g.KW, g.SW, g.DW, g.PL, g.OW)
        item = claim(work)
        while item < g.N * CB * a.items:
            plane, rows = item // a.items, item % a.items
            c = plane % CB * V
            w, scale, shift = a.w + g.KH * g.KW * c, known.scale + c, e.shift + c
            for oy in range(rows * a.item_rows, min(g.OH, (rows + 1) * a.item_rows)):
                top = taps_before(g.PT - oy * g.SH, g.DH, g.KH)
                bottom = taps_before(g.IH + g.PT - oy * g.SH, g.DH, g.KH)
                x = a.x + ((plane * g.IH + oy * g.SH - g.PT) * g.IW - g.PL) * x_bytes
                y = (plane * g.OH + oy) * g.OW * y_bytes
                start = start_sums(sums, a.start + c, w, top * g.KW, bottom * g.KW, zero)
                ox = 0
                while ox < g.OW:
                    if ox >= inner and ox < outer and outer - inner >= R:
                        ox = min(ox, outer - R)
                        taps, at = Taps(top, bottom, 0, g.KW), x + ox * g.SW * x_bytes
                        make_many(start, at, y + ox * y_bytes, w, taps, scale, shift, zero, a)
                        ox += R
                    else:
                        left = taps_before(g.PL - ox * g.SW, g.DW, g.KW)
                        right = taps_before(g.IW + g.PL - ox * g.SW, g.DW, g.KW)
                        taps, at = Taps(top, bottom, left, right), x + ox * g.SW * x_bytes
                        first = load(sum_, a.start + c, 0, 0)
                        make_one(first, at, y + ox * y_bytes, w, taps, scale, shift, zero, a)
                        ox += 1
            item = claim(work)

    return kernel


def prepare(problem: Conv2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` C×1×KH×KW and ``b`` C, both f32."""
    start = np.zeros(problem.OC, np.float32) if b is None else b
    epilogue = problem.epilogue.arguments(problem.residual, problem.OC)
    return launch("f32", problem, w, start, 0, epilogue)


def prepare_integer(problem: IntegerConv2d, *constants: Any) -> Launch:
    """``constants`` are those of `Constants`."""
    q, c = problem, Constants(*constants)
    w = c.w.astype(np.int32)
    if c.w_zero is not None:
        w -= c.w_zero[:, None, None, None]
    start = np.zeros(q.OC, np.int32) if c.b is None else c.b
    epilogue = q.epilogue.arguments(q.residual, q.OC, c.shift, c.scale)
    dynamic = Dynamic(*q.dynamic_inputs, blocks=blocks(q.OC)) if q.is_dynamic else None
    return launch("u8", q, w, start, q.x_zero_point or 0, epilogue, dynamic)


def launch(
    inputs: str,
    q: Convolution,
    w: np.ndarray,
    start: np.ndarray,
    x_zero: int,
    epilogue: EpilogueArguments,
    dynamic: Dynamic | None = None,
) -> Launch:
    """The kernel's call; ``inputs`` is a key of `PRODUCTS`."""
    L, CB = target().lanes, blocks(q.OC)
    packed = np.zeros((CB * L, q.KH * q.KW), w.dtype)
    packed[: q.OC] = w.reshape(q.OC, -1)
    item_rows = max(1, ITEM_PIXELS // q.OW)
    scratch = 0 if dynamic is None else dynamic.bytes
    arguments = DepthwiseArguments(
        x=Operand("input"),
        w=aligned(packed.reshape(CB, L, -1).transpose(0, 2, 1)),
        start=per_channel(start, q.OC),
        pixel=aligned(np.full(L, x_zero, np.uint8)),
        y=Operand("output"),
        scratch=Operand("workspace"),
        scratch_bytes=scratch,
        items=-(-q.OH // item_rows),
        item_rows=item_rows,
        geometry=q.geometry,
        epilogue=epilogue,
        dynamic=dynamic or Dynamic(),
    )
    code = Code(depthwise, (inputs, L, q.epilogue.code(dynamic is not None)))
    return Launch(code, arguments, workspace=scratch)


def applies(problem: Convolution) -> bool:
    """One input and one output channel a group."""
    return problem.groups == problem.IC == problem.OC


def cost(problem: Conv2d) -> float:
    """Nanoseconds: one vector FMA a tap, with a load of its own."""
    q = problem
    return q.N * blocks(q.OC) * q.OH * q.OW * q.KH * q.KW * 2 * direct_rates().vector


class IntegerDepthwiseRates(NamedTuple):
    """One tap of a vector: a load, a product and a sum; and one vector of sums that is finished."""

    tap: float
    sum: float


def integer_cost(problem: IntegerConv2d) -> float:
    """Nanoseconds: a load, a product and a sum a tap, and finishing a sum."""
    q = problem
    r = rates("conv_i8_depthwise", IntegerDepthwiseRates)
    return q.N * blocks(q.OC) * q.OH * q.OW * (q.KH * q.KW * r.tap + r.sum)


KERNELS = (
    Kernel("conv_f32_depthwise", Conv2d, prepare, applies=applies, cost=cost),
    Kernel("conv_i8_depthwise", IntegerConv2d, prepare_integer, applies=applies, cost=integer_cost),
)
