"""From f32 to bytes and back: QuantizeLinear and DequantizeLinear with one scale for a tensor.

`quantize_f32_*` divide by the scale and round (see quantised.py), `dequantize_u8_*` subtract the
zero point and multiply. The former read scale and zero point as inputs, since they may be made in
the run itself. Where both tensors lie alike, memory is one long run of elements. Between plain and
blocked, squares of L channels × L pixels are exchanged rows for lanes in registers; the last square
of a plane overlaps the one before it, pictures of less than L pixels go element by element.

Layouts: plain [N][C][P], blocked [N][ceil(C/L)][P][L] with P = H·W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from minseg.kernels.core.grid import Grid, dequantised, quantised
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import blocked_shape
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    as_i32,
    claim,
    fill,
    load,
    load_f32,
    load_i32,
    load_rows,
    load_u8,
    lower_half,
    store,
    store_i32,
    store_rows,
    transpose,
    upper_half,
)
from minseg.kernels.isa.target import target

#: Vectors worked on at once: enough to hide a division's latency.
ROWS = 4
#: Elements that one work item covers, about.
ITEM_ELEMENTS = 32768
#: Pixels that one work item covers.
ITEM_PIXELS = 1024
#: Channels that are packed into 32 bits.
QUAD = 4


@dataclass(frozen=True)
class Quantize:
    """y = clip(round(x / scale) + zero_point) of a tensor of ``shape``, halves to even. The other
    inputs are the scale, f32, and the zero point, u8, of one element each."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Dequantize:
    """y = (x - zero_point) * scale of a tensor of ``shape``."""

    shape: tuple[int, ...]
    x: Grid


def quantize_run(lanes: int) -> Callable[..., None]:
    """The kernel for tensors that lie alike."""
    many, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, 1)
    step = ROWS * lanes

    def kernel(thread, work, x, scales, zero_points, y, count, items):
        scale, zero_point = load_f32(scales), load_u8(zero_points)
        item = claim(work)
        while item < items:
            at = item * ITEM_ELEMENTS
            last = min(count, at + ITEM_ELEMENTS)
            while at + step <= last:
                tile = load(many, x + 4 * at, 4 * lanes, 0)
                store(quantised(many, tile, scale, zero_point), y + at, lanes, 0)
                at += step
            while at < last:
                tile = load(single, x + 4 * at, 0, 0)
                store(quantised(single, tile, scale, zero_point), y + at, 0, 0)
                at += 1
            item = claim(work)

    return kernel


def dequantize_run(lanes: int) -> Callable[..., None]:
    """The kernel for tensors that lie alike."""
    many, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, 1)
    many_bytes, single_byte = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")
    step = ROWS * lanes

    def kernel(thread, work, x, y, count, items, scale: float, zero_point: float):
        item = claim(work)
        while item < items:
            at = item * ITEM_ELEMENTS
            last = min(count, at + ITEM_ELEMENTS)
            while at + step <= last:
                tile = load(many_bytes, x + at, lanes, 0)
                store(dequantised(many, tile, scale, zero_point), y + 4 * at, 4 * lanes, 0)
                at += step
            while at < last:
                tile = load(single_byte, x + at, 0, 0)
                store(dequantised(single, tile, scale, zero_point), y + 4 * at, 0, 0)
                at += 1
            item = claim(work)

    return kernel


def quantize_to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel from plain to blocked. Of a block with less than L channels it makes quads:
    channels past C are 0 in the last of them, and what lies past that is not written."""
    square, four, single = TileShape(lanes, 1, lanes), TileShape(QUAD, 1, lanes), TileShape(1, 1, 1)
    two, one = TileShape(2, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")
    L = lanes

    def kernel(
        thread, work, x, scales, zero_points, y, scratch, scratch_bytes, N, C, P, items
    ):  # fmt: skip
        scale, zero_point = load_f32(scales), load_u8(zero_points)
        CB = (C + L - 1) // L
        pixels = scratch + thread * scratch_bytes
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            channels = min(L, C - cb * L)
            source = x + (n * C + cb * L) * P * 4
            result = y + plane * P * L
            last = P if part == items - 1 else (part + 1) * ITEM_PIXELS
            if P < L:
                for p in range(P):
                    for c in range(channels):
                        tile = load(single, source + (c * P + p) * 4, 0, 0)
                        byte = quantised(single, tile, scale, zero_point)
                        store(byte, result + p * L + c, 0, 0)
            elif channels == L:
                for p in range(part * ITEM_PIXELS, last, L):
                    at = min(p, P - L)
                    tile = transpose(load(square, source + at * 4, P * 4, 0))
                    tile = quantised(square, tile, scale, zero_point)
                    store(tile, result + at * L, L, 0)
            else:
                for p in range(part * ITEM_PIXELS, last, L):
                    at = min(p, P - L)
                    for c in range(0, channels, 4):
                        first = source + (c * P + at) * 4
                        tile = load_rows(four, first, P * 4, 0, channels - c)
                        tile = as_i32(quantised(four, tile, scale, zero_point))
                        pairs = upper_half(tile) + lower_half(tile) * fill(two, 2**16)
                        quads = upper_half(pairs) + lower_half(pairs) * fill(one, 2**8)
                        store(quads, pixels, 0, 0)
                        for r in range(L):
                            store_i32(result + (at + r) * L + c, load_i32(pixels + 4 * r))
            item = claim(work)

    return kernel


def dequantize_to_plain(lanes: int) -> Callable[..., None]:
    """The kernel from blocked to plain; it skips channels past C."""
    square, single = TileShape(lanes, 1, lanes), TileShape(1, 1, 1)
    square_bytes, single_byte = TileShape(lanes, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")
    L = lanes

    def kernel(thread, work, x, y, N, C, P, items, scale: float, zero_point: float):
        CB = (C + L - 1) // L
        item = claim(work)
        while item < N * CB * items:
            plane, part = item // items, item % items
            n, cb = plane // CB, plane % CB
            channels = min(L, C - cb * L)
            source = x + plane * P * L
            result = y + (n * C + cb * L) * P * 4
            last = P if part == items - 1 else (part + 1) * ITEM_PIXELS
            if P < L:
                for p in range(P):
                    for c in range(channels):
                        tile = load(single_byte, source + p * L + c, 0, 0)
                        tile = dequantised(single, tile, scale, zero_point)
                        store(tile, result + (c * P + p) * 4, 0, 0)
            else:
                for p in range(part * ITEM_PIXELS, last, L):
                    at = min(p, P - L)
                    tile = load(square_bytes, source + at * L, L, 0)
                    tile = transpose(dequantised(square, tile, scale, zero_point))
                    store_rows(tile, result + at * 4, P * 4, 0, channels)
            item = claim(work)

    return kernel


def _run(shape: tuple[int, ...]) -> tuple[int, int]:
    """Elements and work items of a run."""
    count = prod(shape)
    return count, -(-count // ITEM_ELEMENTS)


def _planes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """N, C, pixels, and items of a plane; the last item takes what is left."""
    N, C, H, W = shape
    return N, C, H * W, max(1, H * W // ITEM_PIXELS)


def prepare_quantize_plain(problem: Quantize) -> Launch:
    """No constants."""
    return _quantize_run(problem, problem.shape)


def prepare_quantize_blocked(problem: Quantize) -> Launch:
    """No constants."""
    return _quantize_run(problem, _stored(problem.shape))


def _quantize_run(problem: Quantize, stored: tuple[int, ...]) -> Launch:
    code = Code(quantize_run, (target().lanes,))
    return Launch(code, (*_INPUTS, Operand("output"), *_run(stored)))


_INPUTS = tuple(Operand("input", i) for i in range(3))


def prepare_quantize_to_blocked(problem: Quantize) -> Launch:
    """No constants."""
    L = target().lanes
    scratch = Operand("workspace"), 4 * L
    sizes = _planes(problem.shape)
    code = Code(quantize_to_blocked, (L,))
    return Launch(code, (*_INPUTS, Operand("output"), *scratch, *sizes), workspace=4 * L)


def prepare_dequantize_plain(problem: Dequantize) -> Launch:
    """No constants."""
    return _dequantize(dequantize_run, problem, _run(problem.shape))


def prepare_dequantize_blocked(problem: Dequantize) -> Launch:
    """No constants."""
    return _dequantize(dequantize_run, problem, _run(_stored(problem.shape)))


def prepare_dequantize_to_plain(problem: Dequantize) -> Launch:
    """No constants."""
    return _dequantize(dequantize_to_plain, problem, _planes(problem.shape))


def _dequantize(
    factory: Callable[..., Callable[..., None]], problem: Dequantize, sizes: tuple[int, ...]
) -> Launch:
    grid = problem.x.scale, float(problem.x.zero_point)
    code = Code(factory, (target().lanes,))
    return Launch(code, (Operand("input"), Operand("output"), *sizes, *grid))


def _stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    N, C, H, W = shape
    return blocked_shape((N, C, H, W))


def _is_picture(problem: Quantize | Dequantize) -> bool:
    return len(problem.shape) == 4


def _is_no_picture(problem: Quantize) -> bool:
    """What computes with the bytes of a picture wants them blocked."""
    return not _is_picture(problem)


def plain_cost(problem: Quantize | Dequantize) -> float:
    """Nanoseconds: memory traffic."""
    return prod(problem.shape) * NS_PER_ELEMENT


def blocked_cost(problem: Quantize | Dequantize) -> float:
    """Nanoseconds: memory traffic, the unused channels counted."""
    return prod(_stored(problem.shape)) * NS_PER_ELEMENT


def exchange_cost(problem: Quantize | Dequantize) -> float:
    """Nanoseconds: memory traffic and the exchange in registers, which cost less than a step of
    its own that changes the layout."""
    return 1.2 * blocked_cost(problem)


#: One f32 and one byte read or written.
NS_PER_ELEMENT = 0.2

KERNELS = (
    Kernel(
        "quantize_f32_plain", Quantize, prepare_quantize_plain, "plain", "plain",
        _is_no_picture, plain_cost,
    ),
    Kernel(
        "quantize_f32_blocked", Quantize, prepare_quantize_blocked, "blocked", "blocked",
        _is_picture, blocked_cost,
    ),
    Kernel(
        "quantize_f32_plain_to_blocked", Quantize, prepare_quantize_to_blocked, "plain", "blocked",
        _is_picture, exchange_cost,
    ),
    Kernel(
        "dequantize_u8_plain", Dequantize, prepare_dequantize_plain, "plain", "plain",
        cost=plain_cost,
    ),
    Kernel(
        "dequantize_u8_blocked", Dequantize, prepare_dequantize_blocked, "blocked", "blocked",
        _is_picture, blocked_cost,
    ),
    Kernel(
        "dequantize_u8_blocked_to_plain", Dequantize, prepare_dequantize_to_plain,
        "blocked", "plain", _is_picture, exchange_cost,
    ),
)  # fmt: skip
