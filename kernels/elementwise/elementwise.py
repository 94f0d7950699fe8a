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

from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import blocked_shape
from minseg.kernels.core.registry import Kernel, Launch, Operand
from minseg.kernels.elementwise import formulas
from minseg.kernels.isa.simd import TileShape, claim, fill, load, load_f32, store
from minseg.kernels.isa.target import target

#: Operands of a formula.
ARITY = 5
#: Elements that one work item covers, at least.
ITEM_ELEMENTS = 16384


@dataclass(frozen=True)
class Elementwise:
    """``y = op(*operands)``, broadcast to ``shape``; ``op`` is a key of formulas.FORMULAS.

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


def elementwise(op: str, contiguous: tuple[bool, ...]) -> Callable[..., None]:
    """The kernel for one formula; ``contiguous`` tells of each operand whether it moves along K."""
    formula = formulas.FORMULAS[op]
    lanes = target().lanes
    vector, single = TileShape(1, 1, lanes), TileShape(1, 1, 1)
    va, vb, vc, vd, ve = contiguous

    def kernel(
        thread, work, a, b, c, d, e, y, D0, D1, D2, K, last, chunks, chunk,
        a0, a1, a2, b0, b1, b2, c0, c1, c2, d0, d1, d2, e0, e1, e2, y0, y1, y2,
        alpha: float, beta: float,
    ):  # fmt: skip
        item = claim(work)
        while item < D0 * D1 * chunks:
            i, rest = item // (D1 * chunks), item % (D1 * chunks)
            j, part = rest // chunks, rest % chunks
            for k in range(part * chunk, min(D2, (part + 1) * chunk)):
                pa = a + i * a0 + j * a1 + k * a2
                pb = b + i * b0 + j * b1 + k * b2
                pc = c + i * c0 + j * c1 + k * c2
                pd = d + i * d0 + j * d1 + k * d2
                pe = e + i * e0 + j * e1 + k * e2
                py = y + i * y0 + j * y1 + k * y2
                length = K if k < D2 - 1 else last
                whole = length - length % lanes
                for at in range(0, 4 * whole, 4 * lanes):
                    ta = load(vector, pa + at, 0, 0) if va else fill(vector, load_f32(pa))
                    tb = load(vector, pb + at, 0, 0) if vb else fill(vector, load_f32(pb))
                    tc = load(vector, pc + at, 0, 0) if vc else fill(vector, load_f32(pc))
                    td = load(vector, pd + at, 0, 0) if vd else fill(vector, load_f32(pd))
                    te = load(vector, pe + at, 0, 0) if ve else fill(vector, load_f32(pe))
                    store(formula(vector, ta, tb, tc, td, te, alpha, beta), py + at, 0, 0)
                for at in range(4 * whole, 4 * length, 4):
                    ta = load(single, pa + at if va else pa, 0, 0)
                    tb = load(single, pb + at if vb else pb, 0, 0)
                    tc = load(single, pc + at if vc else pc, 0, 0)
                    td = load(single, pd + at if vd else pd, 0, 0)
                    te = load(single, pe + at if ve else pe, 0, 0)
                    store(formula(single, ta, tb, tc, td, te, alpha, beta), py + at, 0, 0)
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


def stored(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """The stored shape of a blocked operand; a constant lane where it has one channel only."""
    n, c, h, w = (1,) * (4 - len(shape)) + shape
    n, cb, h, w, lanes = blocked_shape((n, c, h, w))
    return n, cb, h, w, lanes


def _plain_walk(problem: Elementwise) -> Walk:
    return merge_dimensions(problem.shape, problem.operands, [problem.shape])


def _blocked_walk(problem: Elementwise) -> Walk:
    shape = stored(problem.shape, 4)
    return merge_dimensions(shape, [stored(o, 4) for o in problem.operands], [shape])


def _fits(walk: Walk) -> bool:
    return len(walk.sizes) <= 4 and all(not s or s[-1] in (0, 1) for s in walk.steps)


def plain_applies(problem: Elementwise) -> bool:
    """Any broadcasting that merges into four dimensions."""
    return _fits(_plain_walk(problem))


def blocked_applies(problem: Elementwise) -> bool:
    """Rank 4, every operand with all channels (a scalar is stored plain: see the plan)."""
    if len(problem.shape) != 4:
        return False
    channels = problem.shape[1]
    full = all(len(o) == 4 and o[1] == channels for o in problem.operands)
    return full and _fits(_blocked_walk(problem))


def _prepare(problem: Elementwise, walk: Walk) -> Launch:
    pad = 4 - len(walk.sizes)
    D0, D1, D2, K = (1,) * pad + walk.sizes
    steps = [(0,) * pad + s for s in walk.steps]
    *inputs, output = steps
    inputs += [(0, 0, 0, 0)] * (ARITY - len(inputs))
    count = len(problem.operands)
    last = K
    if D2 == 1 and K > ITEM_ELEMENTS:
        D2, K, last = _rows(K)
        inputs, output = [_by_rows(s, K) for s in inputs], _by_rows(output, K)
    chunk = max(1, ITEM_ELEMENTS // K)
    return Launch(
        Code(elementwise, (problem.op, tuple(bool(s[3]) for s in inputs))),
        (
            *(Operand("input", min(i, count - 1)) for i in range(ARITY)),
            Operand("output"),
            *(D0, D1, D2, K, last, -(-D2 // chunk), chunk),
            *(4 * step for s in (*inputs, output) for step in s[:3]),
            problem.alpha,
            problem.beta,
        ),
    )


def _rows(K: int) -> tuple[int, int, int]:
    """One long run of K elements as rows that threads can share: count, length, last length."""
    count = -(-K // ITEM_ELEMENTS)
    return count, ITEM_ELEMENTS, K - (count - 1) * ITEM_ELEMENTS


def _by_rows(steps: tuple[int, ...], length: int) -> tuple[int, ...]:
    return steps[0], steps[1], steps[3] * length, steps[3]


def prepare_plain(problem: Elementwise) -> Launch:
    """No constants: every operand is a tensor."""
    return _prepare(problem, _plain_walk(problem))


def prepare_blocked(problem: Elementwise) -> Launch:
    """No constants: every operand is a tensor, all blocked."""
    return _prepare(problem, _blocked_walk(problem))


def plain_cost(problem: Elementwise) -> float:
    """Nanoseconds: memory traffic."""
    return NS_PER_ELEMENT * prod(problem.shape)


def blocked_cost(problem: Elementwise) -> float:
    """Nanoseconds: memory traffic, the unused channels counted."""
    return NS_PER_ELEMENT * prod(stored(problem.shape, 4))


#: One f32 read and one written at main memory's pace.
NS_PER_ELEMENT = 0.6

KERNELS = (
    Kernel(
        "elementwise_f32_plain", Elementwise, prepare_plain, "plain", "plain",
        plain_applies, plain_cost,
    ),
    Kernel(
        "elementwise_f32_blocked", Elementwise, prepare_blocked, "blocked", "blocked",
        blocked_applies, blocked_cost,
    ),
)  # fmt: skip
