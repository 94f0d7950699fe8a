"""Element-wise f32 operators with NumPy's broadcasting, on up to five operands.

Memory is walked as four nested dimensions D0 D1 D2 K, K innermost: whatever shape the operator
had, neighbouring dimensions that every operand walks alike have been merged (`merge_dimensions`).
An operand is either contiguous along K or constant along it (read once and broadcast). The same
kernel serves plain tensors and blocked ones, whose five stored dimensions are just another shape.
What K leaves past whole vectors is done one element at a time.

Each operator is a formula on tiles; an operand that it doesn't use is never loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from minseg.kernels.core.arguments import Address, of_problem
from minseg.kernels.core.jit import Code, inline
from minseg.kernels.core.layout import BLOCKED, PLAIN, Layout, blocked_shape
from minseg.kernels.core.registry import Launch, Operand
from minseg.kernels.core.runs import elements, kernels_of_run
from minseg.kernels.elementwise.formulas import formula_of
from minseg.kernels.isa.simd import TileShape, claim, fill, load, load_f32, store
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import rates

#: Operands of a formula.
ARITY = 5
#: Elements that one work item covers, at least.
ITEM_ELEMENTS = 16384


@dataclass(frozen=True)
class Elementwise:
    """``y = op(*operands)``, broadcast to ``shape``; ``op`` has a formula (`formula_of`).

    ``operands`` are the operands' shapes, ``alpha`` and ``beta`` the operator's attributes.
    """

    op: str
    shape: tuple[int, ...]
    operands: tuple[tuple[int, ...], ...]
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def flops(self) -> int:
        """One operation an element."""
        return prod(self.shape)


@dataclass(frozen=True)
class Walk:
    """Merged dimensions and, for each operand, its step in elements along each of them."""

    sizes: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]


class Strided(NamedTuple):
    """Where an operand begins, and its steps in bytes along D0, D1 and D2."""

    begin: Address
    along0: int = 0
    along1: int = 0
    along2: int = 0


class ElementwiseArguments(NamedTuple):
    """The last of D2 rows of K elements is one of ``last``."""

    a: Strided
    b: Strided
    c: Strided
    d: Strided
    e: Strided
    y: Strided
    D0: int
    D1: int
    D2: int
    K: int
    last: int
    alpha: float
    beta: float


@inline
def row(operand, i, j, k):
    """The address of a row of an operand."""
    return operand.begin + i * operand.along0 + j * operand.along1 + k * operand.along2


@inline
def tile(shape, moves, row, at):
    """Elements of a row from ``at`` bytes on, or its one element everywhere."""
    return load(shape, row + at, 0, 0) if moves else fill(shape, load_f32(row))


@inline
def result(shape, formula, moves, rows, at, a):
    """What ``formula`` makes of its operands' tiles."""
    va, vb, vc, vd, ve = moves
    pa, pb, pc, pd, pe = rows
    ta, tb, tc = tile(shape, va, pa, at), tile(shape, vb, pb, at), tile(shape, vc, pc, at)
    td, te = tile(shape, vd, pd, at), tile(shape, ve, pe, at)
    return formula(shape, ta, tb, tc, td, te, a.alpha, a.beta)


def elementwise(op: str, moves: tuple[bool, ...]) -> Callable[..., None]:
    """The kernel for one formula; ``moves`` tells of each operand whether it moves along K."""
    formula = formula_of(op)
    lanes = target().lanes
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)

    def kernel(thread, work, a: ElementwiseArguments):
        chunk = max(1, ITEM_ELEMENTS // a.K)
        chunks = (a.D2 + chunk - 1) // chunk
        item = claim(work)
        while item < a.D0 * a.D1 * chunks:
            i, j, first = item // (a.D1 * chunks), item // chunks % a.D1, item % chunks * chunk
            for k in range(first, min(a.D2, first + chunk)):
                pa, pb, pc = row(a.a, i, j, k), row(a.b, i, j, k), row(a.c, i, j, k)
                rows, y = (pa, pb, pc, row(a.d, i, j, k), row(a.e, i, j, k)), row(a.y, i, j, k)
                length = a.K if k < a.D2 - 1 else a.last
                whole = length - length % lanes
                for at in range(0, 4 * whole, 4 * lanes):
                    store(result(vector, formula, moves, rows, at, a), y + at, 0, 0)
                for at in range(4 * whole, 4 * length, 4):
                    store(result(single, formula, moves, rows, at, a), y + at, 0, 0)
            item = claim(work)

    return kernel


def merge_dimensions(
    shape: Sequence[int], operands: Sequence[Sequence[int]], extra: Sequence[Sequence[int]] = ()
) -> Walk:
    """The walk over ``shape`` that reads ``operands`` (broadcast) with the fewest dimensions."""
    steps = [_steps(o, shape) for o in (*operands, *extra)]
    sizes: list[int] = []
    merged: list[list[int]] = [[] for _ in steps]
    for axis, size in enumerate(shape):
        if size == 1:
            continue
        joins = bool(sizes) and all(
            m[-1] == s[axis] * size for m, s in zip(merged, steps, strict=True)
        )
        if joins:
            sizes[-1] *= size
        else:
            sizes.append(size)
        for m, s in zip(merged, steps, strict=True):
            if joins:
                m[-1] = s[axis]
            else:
                m.append(s[axis])
    return Walk(tuple(sizes), tuple(map(tuple, merged)))


def _steps(operand: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each axis of ``shape``, 0 where broadcast."""
    padded = (1,) * (len(shape) - len(operand)) + tuple(operand)
    return [0 if d == 1 else prod(padded[axis + 1 :]) for axis, d in enumerate(padded)]


def stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stored shape of a blocked operand."""
    n, c, h, w = (1,) * (4 - len(shape)) + shape
    return blocked_shape((n, c, h, w))


def walk_in(layout: Layout, problem: Elementwise) -> Walk:
    """The walk over the tensors as they are stored."""
    if layout == PLAIN:
        return merge_dimensions(problem.shape, problem.operands, [problem.shape])
    shape = stored(problem.shape)
    return merge_dimensions(shape, [stored(o) for o in problem.operands], [shape])


def _fits(walk: Walk) -> bool:
    return len(walk.sizes) <= 4 and all(not s or s[-1] in (0, 1) for s in walk.steps)


def plain_applies(problem: Elementwise) -> bool:
    """Any broadcasting that merges into four dimensions."""
    return _fits(walk_in(PLAIN, problem))


def blocked_applies(problem: Elementwise) -> bool:
    """Rank 4, every operand with all channels (a scalar is stored plain: see the plan)."""
    if len(problem.shape) != 4:
        return False
    channels = problem.shape[1]
    full = all(len(o) == 4 and o[1] == channels for o in problem.operands)
    return full and _fits(walk_in(BLOCKED, problem))


def prepare(layout: Layout, problem: Elementwise) -> Launch:
    """No constants: every operand is a tensor, all in ``layout``."""
    walk = walk_in(layout, problem)
    pad = 4 - len(walk.sizes)
    D0, D1, D2, K = (1,) * pad + walk.sizes
    steps = [(0,) * pad + s for s in walk.steps]
    last = K
    if D2 == 1 and K > ITEM_ELEMENTS:
        # One long run, as rows that threads can share.
        D2 = -(-K // ITEM_ELEMENTS)
        K, last = ITEM_ELEMENTS, K - (D2 - 1) * ITEM_ELEMENTS
        steps = [(s[0], s[1], s[3] * K, s[3]) for s in steps]
    *moves, _ = (bool(s[3]) for s in steps)
    *inputs, (y0, y1, y2, _) = (tuple(4 * step for step in s) for s in steps)
    missing = ARITY - len(inputs)
    operands = [Strided(Operand("input", i), *s[:3]) for i, s in enumerate(inputs)]
    operands += [Strided(operands[-1].begin)] * missing
    return Launch(
        Code(elementwise, (problem.op, (*moves, *(False,) * missing))),
        of_problem(
            ElementwiseArguments,
            problem,
            **dict(zip("abcde", operands, strict=True)),
            y=Strided(Operand("output"), y0, y1, y2),
            D0=D0,
            D1=D1,
            D2=D2,
            K=K,
            last=last,
        ),
    )


class ElementwiseRates(NamedTuple):
    """One f32 read and one written."""

    element: float


def cost(layout: Layout, problem: Elementwise) -> float:
    """Nanoseconds: memory traffic, the channels that pad blocks counted."""
    return rates("elementwise", ElementwiseRates).element * elements(problem, layout)


KERNELS = kernels_of_run(
    "elementwise_f32", Elementwise, prepare, cost, plain_applies, blocked_applies
)
