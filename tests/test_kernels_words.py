"""Every word of simd.py: machine code does what its NumPy does, on each instruction set.

Numbers are such that all results are exact. What this machine can't run is compiled at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getmembers, isfunction
from typing import NamedTuple

import numpy as np
import pytest
from kernel_harness import guarded_copy

from minseg.kernels.core import jit
from minseg.kernels.core.arguments import Address
from minseg.kernels.isa import simd
from minseg.kernels.isa.simd import *  # noqa: F403  all are used, as a test says
from minseg.kernels.isa.simd import TileShape
from minseg.kernels.isa.target import architecture, instruction_sets, target

# ruff: noqa: F405

pytestmark = pytest.mark.kernels

#: Bytes between the results that a kernel stores: the largest tile is 16 vectors of 64 bytes.
STEP = 1024


class Ends(NamedTuple):
    x: Address
    y: Address


def scalars(isa, L):
    def kernel(thread, work, a: Ends):
        x, y = a.x, a.y
        store_f32(y, load_f32(x) + 0.25)
        store_i32(y + 8, load_i32(x + 16))
        store_i64(y + 16, load_i64(x + 16) - load_u8(x + 17))
        store_u8(y + 24, load_u8(x + 18) + 250)
        store_i64(y + 32, claim(work) + claim(work))
        store_i64(y + 40, 5)
        store_i64(y + 48, atomic_add(y + 40, load_u8(x + 19)))
        store_i64(y + 56, atomic_load(y + 40))
        prefetch(x)
        prefetch(0)
        pause()
        if ticks() < 0:
            store_i64(y + 64, 1)

    return kernel


def memory(isa, L):
    V = 4 * L
    tile, octets = TileShape(2, 3, L), TileShape(2, 2, L, "u8")
    one, wide = TileShape(1, 1, L, "i32"), TileShape(3, 1, L, "i32")

    def kernel(thread, work, a: Ends):
        x, y = a.x, a.y
        a = load(tile, x, 3 * V, V)
        store(a, y, 3 * V, V)
        for rows in range(4):
            store(load_rows(tile, x, V, 2 * V, rows), y + (1 + rows) * STEP, 3 * V, V)
            store_rows(a, y + (5 + rows) * STEP, V, 2 * V, rows)
            stream_rows(a, y + (9 + rows) * STEP, 3 * V, V, rows)
        for lanes in range(L + 1):
            octet = load_lanes(octets, x + lanes, 2 * L, L, lanes)
            store(octet, y + 13 * STEP + 4 * L * lanes, 2 * L, L)
            store_lanes(octet, y + 15 * STEP + 4 * L * lanes, 2 * L, L, L - lanes)
        at = even_addresses(tile, x, 2 * V)
        store_at(load_at(tile, at, V), even_addresses(tile, y + 17 * STEP, 3 * V), V, 2)
        store_i32(y + 20 * STEP, 8)
        store_i32(y + 20 * STEP + 4, -1)
        store_i32(y + 20 * STEP + 8, 0)
        some = row_addresses(wide, y + 20 * STEP, x, x + 64)
        store_at(load_at(wide, some, V), even_addresses(wide, y + 18 * STEP, V), V, 3)
        store_wide(fill(one, -7), y + 19 * STEP)
        store(zeros(octets), y + 19 * STEP + 8 * L, 2 * L, L)

    return kernel


def moves(isa, L):
    V = 4 * L
    square, one, wide = TileShape(L, 1, L), TileShape(1, 1, L), TileShape(2, 3, L, "i32")
    column = TileShape(2, 1, L)

    def kernel(thread, work, a: Ends):
        x, y = a.x, a.y
        a = transpose(load(square, x, V, 0))
        store(a, y, V, 0)
        store(stack(lower_half(a), upper_half(a)), y + STEP, V, 0)
        w = load(wide, x, 3 * V, V)
        store(without_last(w) + last_repeated(w), y + 2 * STEP, 2 * V, V)
        b, c = load(column, x, V, 0), load(column, x + 2 * V, V, 0)
        d = load(column, x + 4 * V, V, 0)
        rows = exchange((b, c, d))
        store(rows[0], y + 3 * STEP, V, 0)
        store(rows[1], y + 4 * STEP, V, 0)
        for i in range(L):
            store_f32(y + 5 * STEP + 4 * i, lane(load(one, x, 0, 0), L - 1 - i))

    return kernel


def floats(isa, L):
    V = 4 * L
    tile, one = TileShape(1, 2, L), TileShape(1, 1, L)

    def kernel(thread, work, a: Ends):
        x, y = a.x, a.y
        a, b, c = load(tile, x, 0, V), load(tile, x + 2 * V, 0, V), load(tile, x + 4 * V, 0, V)
        store((a + b) * c - a / fill(tile, 4), y, 0, V)
        store(fma(a, b, c), y + STEP, 0, V)
        store(maximum(a, b) - minimum(b, c), y + 2 * STEP, 0, V)
        store(clamp(a, fill(tile, -1.5), fill(tile, 2)), y + 3 * STEP, 0, V)
        store(floor(a), y + 4 * STEP, 0, V)
        store(round_even(a), y + 5 * STEP, 0, V)
        store(sqrt(absolute(a)), y + 6 * STEP, 0, V)
        store(power_of_two(floor(a)), y + 7 * STEP, 0, V)
        store(select_less(a, b, fill(tile, 1), c), y + 8 * STEP, 0, V)
        not_a_number = load(one, x + 6 * V, 0, 0)
        number = load(one, x, 0, 0)
        store(maximum(number, not_a_number), y + 9 * STEP, 0, 0)
        store(minimum(not_a_number, number), y + 10 * STEP, 0, 0)
        store(clamp(not_a_number, fill(one, -1), fill(one, 2)), y + 11 * STEP, 0, 0)
        store(select_less(not_a_number, number, number, fill(one, 3)), y + 12 * STEP, 0, 0)

    return kernel


def integers(isa, L):
    V = 4 * L
    i32, i16, u8 = (TileShape(2, 1, L, dtype) for dtype in ("i32", "i16", "u8"))
    wide_u8, f32 = TileShape(1, 2, 4 * L, "u8"), TileShape(2, 1, L)

    def kernel(thread, work, a: Ends):
        x, y = a.x, a.y
        a, b = load(i32, x, V, 0), load(i32, x + 2 * V, V, 0)
        c, d = load(u8, x, V, 0), load(u8, x + V, V, 0)
        store(a * b + a - b, y, V, 0)
        store(maximum(a, b), y + STEP, V, 0)
        store(minimum(c, d), y + 2 * STEP, L, 0)
        store(select_less(a, b, c, d), y + 3 * STEP, L, 0)
        for bits in range(32):
            store(shift_right(a, bits), y + 4 * STEP + 8 * L * bits, V, 0)
        store(as_f32(c) - as_f32(as_i32(d)), y + 8 * STEP, V, 0)
        store(as_i16(c) - fill(i16, 300), y + 9 * STEP, 2 * L, 0)
        store(look_up(c, x), y + 10 * STEP, L, 0)
        store(look_up(load(wide_u8, x, 0, 4 * L), x), y + 11 * STEP, 0, 4 * L)
        store(nearest_u8(as_f32(c) / fill(f32, 2), 100), y + 12 * STEP, L, 0)

    return kernel


def products(isa, L):
    V = 4 * L
    tall, flat = TileShape(3, 2, L), TileShape(2, 3, L)
    tall_i32 = TileShape(3, 2, L, "i32")

    def kernel(thread, work, a: Ends):
        x, y = a.x, a.y
        rows = even_addresses(tall, x, 12)
        store(outer_fma(load(tall, x, V, V), rows, 8, x + 64, V), y, 2 * V, V)
        pair = even_addresses(flat, x, 12)
        store(outer_fma(load(flat, x, V, V), pair, 8, x + 64, V), y + 2 * STEP, 3 * V, V)
        u = x + 2048
        sums = load(tall_i32, u, V, V)
        some = even_addresses(tall_i32, u + 3, 12)
        store(outer_dot4(sums, some, 1, u + 64, V), y + 4 * STEP, 2 * V, V)
        store(outer_dot2(sums, some, 1, u + 64, V), y + 6 * STEP, 2 * V, V)

    return kernel


FACTORIES = (scalars, memory, moves, floats, integers, products)


@pytest.fixture(params=[isa.name for isa in instruction_sets(architecture())])
def runs(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Has kernels compiled for an instruction set; whether this machine can run it."""
    before = target()
    if request.param == before.isa.name:
        yield True
        return
    (isa,) = (isa for isa in instruction_sets(architecture()) if isa.name == request.param)
    present = isa.features <= {f[1:] for f in before.features.split(",") if f.startswith("+")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINSEG_ISA", isa.name)
        if not present:
            patch.setenv("NUMBA_CPU_FEATURES", ",".join(f"+{f}" for f in sorted(isa.features)))
        target.cache_clear()
        yield present
    target.cache_clear()


def _input(factory) -> np.ndarray:
    """4 KiB: quarters of integers, then a NaN, and bytes of all values from the middle on."""
    rng = np.random.default_rng(7)
    x = rng.integers(0, 256, 4096, np.uint8)
    numbers = x[:2048].view(np.float32)
    numbers[:] = rng.integers(-31, 32, 512) / 4
    if factory is scalars:
        x[16:24] = rng.integers(128, 256, 8)
    if factory is floats:
        numbers[6 * target().lanes :] = np.nan
    if factory is integers:
        x[:2048] = rng.integers(0, 256, 2048)
    return x


@pytest.mark.skipif(jit.jit_disabled(), reason="compares machine code with Python")
@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_machine_code_does_what_the_words_say(factory, runs: bool) -> None:
    code = jit.Code(factory, (target().isa.name, target().lanes))
    if not runs:
        assert jit._compile(code)
        return
    x, results = guarded_copy(_input(factory)), []
    for call in (lambda *args: jit.call(code, args), lambda *args: _as_python(code, args)):
        y = np.zeros(21 * STEP + 64, np.uint8)
        call(x.ctypes.data, y.ctypes.data + -y.ctypes.data % 64)
        results.append(y[-y.ctypes.data % 64 :][: 21 * STEP])
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0].any()


def _as_python(code: jit.Code, values: tuple[int, ...]) -> None:
    work = np.zeros(1, np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        code.run(0, work.ctypes.data, values)


def test_no_word_is_left_out() -> None:
    """But those that need other machine code: `walk` is made of these."""
    functions = (f for _, f in getmembers(simd, isfunction) if f.__module__ == simd.__name__)
    words = {f.__name__ for f in functions if not f.__name__.startswith("_")}
    used = {name for f in FACTORIES for name in f("", 4).__code__.co_names}
    assert words - used == {"call_kernel", "call_yield"}
