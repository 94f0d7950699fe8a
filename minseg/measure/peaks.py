"""What one core can do at most: the yardstick that kernels and whole models are held to."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minseg.kernels.conv.direct_integer import direct_tile
from minseg.kernels.core.arguments import Address
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import aligned
from minseg.kernels.core.registry import Launch, Operand
from minseg.kernels.isa.simd import (
    TileShape,
    claim,
    even_addresses,
    fill,
    fma,
    outer_dot4,
    store,
    store_rows,
    zeros,
)
from minseg.kernels.isa.target import target
from minseg.kernels.move.strided import StridedCopy, prepare_copy
from minseg.measure.launches import BoundLaunch

#: Independent sums of the multiply-add loop: more than any core has in flight at once, fewer than
#: the registers of the smallest instruction set.
SUMS = 12

#: Steps of a run: short, so that some runs are not disturbed. Runs go on for so many seconds.
STEPS, SECONDS = 100_000, 0.4

#: Elements of the tensor that is copied, f32: no cache holds it.
COPIED = 2**25


#: Byte products run over so many quads of bytes, which the first cache holds.
QUADS = 16


@dataclass(frozen=True)
class Peaks:
    """Of one core, in a second: floating-point operations (f32, a multiply-add is two), bytes of
    memory, read and written ones together, and operations on 8-bit integers (a product and its
    addition are two; exact in 32 bits)."""

    flops: float
    bytes: float
    integer: float


def measure_peaks() -> Peaks:
    """The best of many runs, a good second in all: a multiply-add loop without memory, a copy
    of a tensor that no cache holds, and the register tile that convolutions of bytes are made of,
    fed by the first cache. Raises MinsegError where kernels are not compiled."""
    tile = direct_tile(4 * target().lanes)
    compute, move, integer = _multiply_adds(), _copy(), _byte_products(tile)
    flops = 2 * SUMS * target().lanes * STEPS
    operations = 8 * tile.rows * tile.cols * tile.lanes * STEPS
    return Peaks(
        flops / _least_seconds(compute),
        move.nbytes / _least_seconds(move),
        operations / _least_seconds(integer),
    )


def best(*measured: Peaks) -> Peaks:
    """The highest of each figure: what disturbs a measurement lowers it."""
    return Peaks(
        max(p.flops for p in measured),
        max(p.bytes for p in measured),
        max(p.integer for p in measured),
    )


def _least_seconds(launch: BoundLaunch) -> float:
    end = time.perf_counter() + SECONDS
    least = launch()
    while time.perf_counter() < end:
        least = min(least, launch())
    return least


class AddArguments(NamedTuple):
    y: Address
    steps: int


def multiply_adds(tile: TileShape) -> Callable[..., None]:
    """The kernel that only multiplies and adds, in registers."""
    vector_bytes = tile.bytes

    def kernel(thread: int, work: int, a: AddArguments) -> None:
        if claim(work) == 0:
            acc, factor, term = fill(tile, 1.0), fill(tile, 0.5), fill(tile, 0.25)
            for _ in range(a.steps):
                acc = fma(acc, factor, term)
            store(acc, a.y, vector_bytes, 0)

    return kernel


class ProductArguments(NamedTuple):
    """``x`` [rows][QUADS][4], u8, and ``w`` [QUADS][cols][lanes][4], i8."""

    x: Address
    w: Address
    y: Address
    steps: int


def byte_products(tile: TileShape) -> Callable[..., None]:
    """The kernel that only adds up products of bytes, the same again and again."""
    R, C, col_bytes = tile.rows, tile.cols, tile.bytes
    row_bytes, quad_bytes = 4 * QUADS, C * col_bytes

    def kernel(thread: int, work: int, a: ProductArguments) -> None:
        if claim(work) == 0:
            rows = even_addresses(tile, a.x, row_bytes)
            acc = zeros(tile)
            for step in range(a.steps):
                quad = step % QUADS
                acc = outer_dot4(acc, rows, 4 * quad, a.w + quad * quad_bytes, col_bytes)
            store_rows(acc, a.y, quad_bytes, col_bytes, R)

    return kernel


def _multiply_adds() -> BoundLaunch:
    tile = TileShape(SUMS, 1, target().lanes)
    launch = Launch(Code(multiply_adds, (tile,)), AddArguments(y=Operand("output"), steps=STEPS))
    return BoundLaunch(launch, [], aligned(np.zeros((SUMS, target().lanes), np.float32)))


def _copy() -> BoundLaunch:
    problem = StridedCopy((COPIED,), (1,))
    source, copy = (aligned(np.ones(COPIED, np.float32)) for _ in range(2))
    return BoundLaunch(prepare_copy(problem), [source], copy)


def _byte_products(tile: TileShape) -> BoundLaunch:
    x = aligned(np.ones((tile.rows, QUADS, 4), np.uint8))
    w = aligned(np.ones((QUADS, tile.cols, tile.lanes, 4), np.int8))
    y = aligned(np.zeros((tile.rows, tile.cols, tile.lanes), np.int32))
    arguments = ProductArguments(
        x=Operand("input", 0), w=Operand("input", 1), y=Operand("output"), steps=STEPS
    )
    return BoundLaunch(Launch(Code(byte_products, (tile,)), arguments), [x, w], y)
