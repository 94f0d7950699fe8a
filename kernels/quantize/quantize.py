"""From f32 to bytes and back: QuantizeLinear and DequantizeLinear with one scale for a tensor.

`quantize_f32_*` divide by the scale and round (see grid.py), `dequantize_u8_*` subtract the
zero point and multiply. The former read scale and zero point as inputs, since they may be made in
the run itself. Both serve tensors that lie alike (runs.py), or change the layout too (planes.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from minseg.kernels.core.arguments import Address
from minseg.kernels.core.grid import Grid, dequantised, quantised
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout
from minseg.kernels.core.planes import Planes, blocked_to_plain, plain_to_blocked, planes_of
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.core.runs import ROWS, elements, is_picture, kernels_of_run, over_run
from minseg.kernels.isa.simd import (
    TileShape,
    as_i32,
    fill,
    load,
    load_f32,
    load_i32,
    load_rows,
    load_u8,
    lower_half,
    store,
    store_i32,
    upper_half,
)
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

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


class QuantizeArguments(NamedTuple):
    """``size`` elements, or ``planes`` where the layout changes: then a thread's ``scratch`` holds
    the quads of a vector of pixels."""

    size: int = 0
    planes: Planes = Planes()
    x: Address = Operand("input", 0)
    scale: Address = Operand("input", 1)
    zero_point: Address = Operand("input", 2)
    y: Address = Operand("output")
    scratch: Address = Operand("workspace")


class DequantizeArguments(NamedTuple):
    """``size`` elements, or ``planes`` where the layout changes."""

    scale: float
    zero_point: float
    size: int = 0
    planes: Planes = Planes()
    x: Address = Operand("input")
    y: Address = Operand("output")


@inline
def grid_of(a):
    """Scale and zero point."""
    return load_f32(a.scale), load_u8(a.zero_point)


@inline
def quantise_tile(shape, tile, grid):
    return quantised(shape, tile, grid[0], grid[1])


@inline
def dequantise_tile(shape, tile, a):
    return dequantised(shape, tile, a.scale, a.zero_point)


@inline
def quantise_at(shape, octets, at, grid, a):
    tile = quantise_tile(shape, load(shape, a.x + 4 * at, shape.bytes, 0), grid)
    store(tile, a.y + at, octets.bytes, 0)


@inline
def dequantise_at(shape, octets, at, given, a):
    tile = dequantise_tile(shape, load(octets, a.x + at, octets.bytes, 0), a)
    store(tile, a.y + 4 * at, shape.bytes, 0)


@inline
def quantise_rest(square, source, result, channels, given, thread, a):
    """Quads of channels: bytes are put together in shapes of so many vectors."""
    _, _, four, two, one = given
    L, row_bytes = square.lanes, a.planes.P * 4
    pixels = a.scratch + thread * square.bytes
    for c in range(0, channels, QUAD):
        tile = load_rows(four, source + c * row_bytes, row_bytes, 0, channels - c)
        tile = as_i32(quantise_tile(four, tile, given))
        pairs = upper_half(tile) + lower_half(tile) * fill(two, 2**16)
        quads = upper_half(pairs) + lower_half(pairs) * fill(one, 2**8)
        store(quads, pixels, 0, 0)
        for r in range(L):
            store_i32(result + r * L + c, load_i32(pixels + 4 * r))


def quantize_run(lanes: int) -> Callable[..., None]:
    """The kernel for tensors that lie alike."""
    many, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, 1)
    many_octets, octet = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")

    def kernel(thread, work, a: QuantizeArguments):
        over_run(many, many_octets, single, octet, quantise_at, grid_of(a), work, a)

    return kernel


def dequantize_run(lanes: int) -> Callable[..., None]:
    """The kernel for tensors that lie alike."""
    many, single = TileShape(ROWS, 1, lanes), TileShape(1, 1, 1)
    many_octets, octet = TileShape(ROWS, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")

    def kernel(thread, work, a: DequantizeArguments):
        over_run(many, many_octets, single, octet, dequantise_at, 0, work, a)

    return kernel


def quantize_to_blocked(lanes: int) -> Callable[..., None]:
    """The kernel from plain to blocked. Of a block with less than L channels it makes quads:
    channels past C are 0 in the last of them, and what lies past that is not written."""
    square, four, single = TileShape(lanes, 1, lanes), TileShape(QUAD, 1, lanes), TileShape(1, 1, 1)
    two, one = TileShape(2, 1, lanes, "i32"), TileShape(1, 1, lanes, "i32")

    def kernel(thread, work, a: QuantizeArguments):
        scale, zero_point = grid_of(a)
        given = scale, zero_point, four, two, one
        plain_to_blocked(square, single, 1, quantise_tile, quantise_rest, given, thread, work, a)

    return kernel


def dequantize_to_plain(lanes: int) -> Callable[..., None]:
    """The kernel from blocked to plain; it skips channels past C."""
    square, single = TileShape(lanes, 1, lanes), TileShape(1, 1, 1)
    octets, octet = TileShape(lanes, 1, lanes, "u8"), TileShape(1, 1, 1, "u8")

    def kernel(thread, work, a: DequantizeArguments):
        blocked_to_plain(square, single, octets, octet, dequantise_tile, work, a)

    return kernel


def prepare_quantize(layout: Layout, problem: Quantize) -> Launch:
    """No constants."""
    code = Code(quantize_run, (target().lanes,))
    return Launch(code, QuantizeArguments(size=elements(problem, layout)))


def prepare_quantize_to_blocked(problem: Quantize) -> Launch:
    """No constants."""
    L = target().lanes
    arguments = QuantizeArguments(planes=planes_of(problem.shape))
    return Launch(Code(quantize_to_blocked, (L,)), arguments, workspace=4 * L)


def prepare_dequantize(layout: Layout, problem: Dequantize) -> Launch:
    """No constants."""
    grid = problem.x.scale, float(problem.x.zero_point)
    code = Code(dequantize_run, (target().lanes,))
    return Launch(code, DequantizeArguments(*grid, size=elements(problem, layout)))


def prepare_dequantize_to_plain(problem: Dequantize) -> Launch:
    """No constants."""
    grid = problem.x.scale, float(problem.x.zero_point)
    code = Code(dequantize_to_plain, (target().lanes,))
    return Launch(code, DequantizeArguments(*grid, planes=planes_of(problem.shape)))


def _is_no_picture(problem: Quantize) -> bool:
    """What computes with the bytes of a picture wants them blocked."""
    return not is_picture(problem)


class QuantizeRates(NamedTuple):
    """One f32 and one byte, read or written."""

    element: float


def cost(layout: Layout, problem: Quantize | Dequantize) -> float:
    """Nanoseconds: memory traffic, the channels that pad blocks counted."""
    return elements(problem, layout) * rates("quantize", QuantizeRates).element


def exchange_cost(problem: Quantize | Dequantize) -> float:
    """Nanoseconds: memory traffic and the exchange in registers, which cost less than a step of
    its own that changes the layout."""
    return 1.2 * cost(BLOCKED, problem)


KERNELS = (
    *kernels_of_run("quantize_f32", Quantize, prepare_quantize, cost, plain_applies=_is_no_picture),
    Kernel(
        "quantize_f32_plain_to_blocked", Quantize, prepare_quantize_to_blocked, PLAIN, BLOCKED,
        is_picture, exchange_cost,
    ),
    *kernels_of_run("dequantize_u8", Dequantize, prepare_dequantize, cost),
    Kernel(
        "dequantize_u8_blocked_to_plain", Dequantize, prepare_dequantize_to_plain,
        BLOCKED, PLAIN, is_picture, exchange_cost,
    ),
)  # fmt: skip
