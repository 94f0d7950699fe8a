"""Runs single kernels in memory that catches what a session's arena would hide, and checks them.

Every tensor, constant and workspace ends at an unmapped page (or begins right after one), so that
a kernel that touches one byte too many kills the test run; outputs are full of NaN before the
kernel runs, the workspace full of nonsense, and so are the channels past C of blocked inputs.

`FAMILIES` says, for each family of problems, how to draw one and what its answer is. The modules
test_kernels_*.py fill it; test_kernels_all.py runs every registered kernel on its family.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from minseg.kernels.core import jit
from minseg.kernels.core.layout import Layout, aligned
from minseg.kernels.core.registry import Constant, Deferred, Kernel, Launch
from minseg.kernels.isa.target import target
from minseg.precision import Precision

Place = Literal["end", "begin"]

#: Examples per kernel: Python kernels (NUMBA_DISABLE_JIT=1) are slow.
EXAMPLES = 10 if jit.jit_disabled() else 30

#: Bytes that the output holds before the kernel runs: NaN in every float type.
UNWRITTEN = 0xFF
#: Bytes of a fresh workspace: as an offset, far outside of any tensor.
NONSENSE = 0x7B

_libc = ctypes.CDLL(None, use_errno=True)


def guarded(shape: Sequence[int], dtype: Any, place: Place = "end") -> np.ndarray:
    """An array whose memory ends (or begins) at a page that may not be touched; both neighbours
    of its pages are such pages."""
    page = mmap.PAGESIZE
    nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    span = max(1, -(-nbytes // page)) * page
    area = mmap.mmap(-1, span + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for guard in (start, start + page + span):
        if _libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) != 0:
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = page if place == "begin" else page + span - nbytes
    return np.ndarray(tuple(shape), dtype, area, offset)


def guarded_copy(x: np.ndarray, place: Place = "end") -> np.ndarray:
    """``x`` in guarded memory."""
    copy = guarded(x.shape, x.dtype, place)
    copy[...] = x
    return copy


def run(
    launch: Launch,
    inputs: Sequence[np.ndarray],
    output_shape: Sequence[int],
    dtype: Any = np.float32,
    *,
    others: Sequence[np.ndarray] = (),
    place: Place = "end",
    threads: int = 1,
) -> np.ndarray:
    """The output of ``launch`` on ``inputs``, all as they are stored.

    Asserts that inputs and constants are what they were, and what other outputs are.
    """
    given_inputs = [guarded_copy(x, place) for x in inputs]
    packed = [made(c, place, threads) for c in launch.constants]
    constants = [guarded_copy(c, place) for c in packed]
    output = guarded(output_shape, dtype, place)
    besides = [guarded(x.shape, x.dtype, place) for x in others]
    for x in (output, *besides):
        x.reshape(-1).view(np.uint8).fill(UNWRITTEN)
    workspace = guarded((launch.workspace * threads,), np.uint8, place)
    workspace.fill(NONSENSE)
    memory = {
        "input": given_inputs,
        "constant": constants,
        "output": [output, *besides],
        "workspace": [workspace],
    }
    addresses = {kind: [x.ctypes.data for x in held] for kind, held in memory.items()}
    call(launch.code, launch.values(addresses, threads), threads)
    for kept, original in zip((*given_inputs, *constants), (*inputs, *packed), strict=True):
        assert kept.tobytes() == original.tobytes(), "a kernel changed what it only reads"
    for got, expected in zip(besides, others, strict=True):
        np.testing.assert_array_equal(got, expected)
    return output.copy()


def made(constant: Constant, place: Place, threads: int) -> np.ndarray:
    """A constant, made in guarded memory if a kernel has to. Asserts that its size was told."""
    if isinstance(constant, np.ndarray):
        return constant
    if isinstance(constant, Deferred):
        array = constant.made()
        assert array.nbytes == constant.nbytes
        return array
    sources, shape = constant.sources, constant.shape
    return run(constant.launch, sources, shape, place=place, threads=threads)


def call(code: jit.Code, values: Sequence[int | float], threads: int) -> None:
    """Run a kernel on so many Python threads that share one work counter."""
    if threads == 1 or jit.jit_disabled():
        jit.call(code, values)
        return
    (entry,) = jit.addresses([code])
    counter = ctypes.c_int64(0)
    table = ctypes.create_string_buffer(code.pack(values))
    function = jit.ENTRY_TYPE(entry)
    workers = [
        threading.Thread(
            target=function, args=(ctypes.addressof(table), i, ctypes.addressof(counter))
        )
        for i in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


# Families


@dataclass(frozen=True)
class Case:
    """A problem with numbers, all as ONNX has them (plain).

    ``constants`` are what the kernel's ``prepare`` takes after the problem; ``expected`` is the
    answer in float64 or exact integers, ``tolerance`` the largest error allowed of each element,
    ``dtype`` what the kernel writes. ``loose`` takes the tolerance's place for kernels that are
    not exact. ``others`` are the answers besides, of the kernel's dtypes.
    """

    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray
    constants: tuple[np.ndarray | None, ...] = ()
    tolerance: np.ndarray | float = 0.0
    dtype: Any = np.float32
    loose: np.ndarray | float = 0.0
    others: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Family:
    """``problems`` draws problems; ``case`` gives one numbers and its answer."""

    problems: st.SearchStrategy[Any]
    case: Callable[[Any, np.random.Generator], Case]


FAMILIES: dict[type, Family] = {}


def family(type_: type, problems: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """Enter the decorated function, (problem, generator) -> `Case`, into `FAMILIES`."""

    def enter(case: Callable[[Any, np.random.Generator], Case]) -> Any:
        FAMILIES[type_] = Family(problems, case)
        return case

    return enter


def check(
    kernel: Kernel, problem: Any, case: Case, place: Place = "end", threads: int = 1
) -> np.ndarray:
    """Run ``kernel`` and compare with ``case``; returns the output, plain."""
    launch = kernel.prepare(problem, *case.constants)
    inputs = [
        stored(x, kernel.reads_at(i)) if x.ndim == 4 else x for i, x in enumerate(case.inputs)
    ]
    shape = case.expected.shape
    how: Any = {"others": case.others, "place": place, "threads": threads}
    y = run(launch, inputs, kernel.writes.stored_shape(shape), case.dtype, **how)
    y = kernel.writes.restore(y, shape)
    is_exact = kernel.precision is Precision.EXACT
    assert_close(y, case.expected, case.tolerance if is_exact else case.loose)
    return y


def check_drawn(kernel: Kernel) -> None:
    """Run ``kernel`` on problems of its family, in both kinds of guarded memory, on one thread
    and on two. Raises KeyError when the family has no generator."""
    family = FAMILIES[kernel.family]
    held = 0

    # A kernel for few of its family's problems has most of those drawn filtered out.
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(
        family.problems,
        st.integers(0, 2**32 - 1),
        st.sampled_from([("end", 1), ("begin", 1), ("end", 2)]),
    )
    def hold(problem: Any, seed: int, how: tuple[Place, int]) -> None:
        nonlocal held
        assume(kernel.applies(problem))
        check(kernel, problem, family.case(problem, np.random.default_rng(seed)), *how)
        held += 1

    hold()
    assert held >= EXAMPLES // 2, f"only {held} problems drawn for {kernel.name} were its own"


def stored(x: np.ndarray, layout: Layout) -> np.ndarray:
    """``x`` in ``layout``, with NaN or nonsense in what is unspecified."""
    there = layout.store(np.ones(x.shape, bool))
    nonsense = np.nan if np.issubdtype(x.dtype, np.floating) else NONSENSE
    return aligned(np.where(there, layout.store(x), np.array(nonsense, x.dtype)))


def assert_close(y: np.ndarray, expected: np.ndarray, tolerance: np.ndarray | float) -> None:
    """NaN where NaN is expected, infinities alike, all else within ``tolerance``."""
    assert y.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(y[~finite], expected[~finite].astype(y.dtype))
    error = np.abs(y[finite].astype(expected.dtype) - expected[finite])
    allowed = np.broadcast_to(tolerance, expected.shape)[finite]
    wrong = ~(error <= allowed)
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size} elements are wrong: "
        f"an error of {error[wrong][0]:.3g} where {allowed[wrong][0]:.3g} may be"
    )


# Drawing


def sizes(largest: int) -> st.SearchStrategy[int]:
    """Sizes from 1 to ``largest``, less with the JIT off."""
    return st.integers(1, min(largest, 5) if jit.jit_disabled() else largest)


def channels(most_blocks: int = 4) -> st.SearchStrategy[int]:
    """Channel counts around multiples of the vector length, and small ones."""
    lanes = target().lanes
    edges = [b * lanes + d for b in range(1, most_blocks + 1) for d in (-1, 0, 1)]
    if jit.jit_disabled():
        edges = edges[:4]
    return st.one_of(st.sampled_from(edges), st.integers(1, 5))


def normal(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """f32 numbers of unit variance with some a hundred times as large."""
    x = rng.standard_normal(shape)
    return np.where(rng.random(shape) < 0.02, 100 * x, x).astype(np.float32)
