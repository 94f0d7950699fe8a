"""What a kernel is to the rest of minseg, and the one list of them.

A *problem* is a frozen dataclass that says what is to be computed, in sizes and attributes: one
class per family (`Conv2d`, `Pool2d`, …). A *kernel* solves problems of one family. It says which
it applies to and what it expects to cost, and *prepares* one: packs the weights and fixes every
argument but the addresses. The result is a `Launch`. Dispatch, tests and benchmarks all ask
`all_kernels`; a new kernel is given to `register`, and nothing else need know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from minseg.kernels.core.arguments import changed, leaves
from minseg.kernels.core.jit import Code, call
from minseg.kernels.core.layout import BLOCKED, Layout, aligned_empty
from minseg.precision import Precision


@dataclass(frozen=True)
class Operand:
    """What a plan fills in: the address of the ``index``-th tensor of its kind.

    "workspace" is scratch memory: `Launch.workspace` bytes for each thread, thread after thread.
    "threads" is no address, but how many threads run the kernel together.
    """

    kind: Literal["input", "output", "constant", "workspace", "threads"]
    index: int = 0


@dataclass(frozen=True)
class Launch:
    """One kernel call, everything decided but where its tensors lie.

    ``arguments`` is the kernel's record, filled with numbers, operands and constants: packed
    weights and tables in row-major order, or what is to be packed. These become ``constants``, and
    operands in their places name them. ``workspace`` is in bytes for each thread.
    """

    code: Code
    arguments: Any
    constants: tuple[Constant, ...] = ()
    workspace: int = 0

    def __post_init__(self) -> None:
        self._set_constants_apart()
        arrays = [c for c in self.constants if isinstance(c, np.ndarray)]
        if not all(c.flags.c_contiguous for c in arrays):
            raise ValueError(f"a constant of {self.code.name} is not in row-major order")

    def _set_constants_apart(self) -> None:
        constants = list(self.constants)

        def operand(value: Any) -> Any:
            if not isinstance(value, np.ndarray | Packed | Deferred):
                return value
            constants.append(value)
            return Operand("constant", len(constants) - 1)

        object.__setattr__(self, "arguments", changed(self.arguments, operand))
        object.__setattr__(self, "constants", tuple(constants))

    def with_deferred(self, change: Callable[[Deferred], Constant]) -> Launch:
        """The launch with what ``change`` makes of its `Deferred` constants."""
        constants = (change(c) if isinstance(c, Deferred) else c for c in self.constants)
        return replace(self, constants=tuple(constants))

    def complete(self) -> Launch:
        """The launch with its `Deferred` constants made."""
        return self.with_deferred(Deferred.made)

    @property
    def slots(self) -> list[int | float | Operand]:
        """What the slots of the kernel's table are filled with."""
        return leaves(self.arguments)

    def values(self, memory: Mapping[str, Sequence[int]], threads: int = 1) -> list[int | float]:
        """The slots, with the addresses in ``memory`` (kind to addresses) for operands."""
        given = {**memory, "threads": [threads]}
        return [given[s.kind][s.index] if isinstance(s, Operand) else s for s in self.slots]


@dataclass(frozen=True, eq=False)
class Packed:
    """A constant, f32 of ``shape``, that is yet to be made: ``launch`` makes it of ``sources``.

    So a plan can be looked at without the work, and all threads share it.
    """

    launch: Launch
    sources: tuple[np.ndarray, ...]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return 4 * math.prod(self.shape)

    def made(self) -> np.ndarray:
        """The array, made on the calling thread."""
        result = aligned_empty(self.nbytes).view(np.float32).reshape(self.shape)
        scratch = aligned_empty(self.launch.workspace)
        call(self.launch.code, self.values(result, scratch))
        return result

    def values(self, result: np.ndarray, scratch: np.ndarray) -> list[int | float]:
        """What the kernel is to be called with."""
        memory = {
            "input": [int(x.ctypes.data) for x in self.sources],
            "output": [int(result.ctypes.data)],
            "workspace": [int(scratch.ctypes.data)],
        }
        return self.launch.values(memory)


@dataclass(frozen=True, eq=False)
class Deferred:
    """A constant of ``nbytes`` that ``make`` makes of ``source``, an array or what gives one, when
    it is known to be needed."""

    make: Callable[[np.ndarray], np.ndarray]
    source: np.ndarray | Callable[[], np.ndarray]
    nbytes: int

    def made(self) -> np.ndarray:
        return self.make(self.source() if callable(self.source) else self.source)


Constant: TypeAlias = "np.ndarray | Packed | Deferred"


@dataclass(frozen=True)
class Kernel:
    """One way to solve the problems of ``family``.

    ``cost`` is in nanoseconds on one core, good enough to rank kernels of one family.
    ``prepare(problem, *constants)`` takes the node's constant operands (weights, bias, …; None
    for an omitted one). Every tensor input is read in layout ``reads``, but those after the first
    in ``adds`` where that is given, and the output written in ``writes``. ``precision`` is what it
    keeps of the definition. ``work`` is how many of the definition's operations its algorithm
    does: fewer where it transforms (Winograd) or skips (zeros).
    """

    name: str
    family: type
    prepare: Callable[..., Launch]
    reads: Layout = BLOCKED
    writes: Layout = BLOCKED
    applies: Callable[[Any], bool] = field(default=lambda problem: True)
    cost: Callable[[Any], float] = field(default=lambda problem: 0.0)
    precision: Precision = Precision.EXACT
    work: Callable[[Any], int] = field(default=lambda problem: getattr(problem, "flops", 0))
    adds: Layout | None = None

    def reads_at(self, index: int) -> Layout:
        """The layout that the tensor input of this ``index`` is read in."""
        return self.reads if index == 0 or self.adds is None else self.adds


def usable(problem: Any, precision: Precision = Precision.F32) -> list[Kernel]:
    """The kernels that apply to ``problem`` and keep ``precision``."""
    return [
        k
        for k in all_kernels()
        if k.family is type(problem) and k.applies(problem) and k.precision >= precision
    ]


def select(
    problem: Any,
    precision: Precision = Precision.F32,
    *,
    extra_cost: Callable[[Kernel], float] = lambda kernel: 0.0,
) -> Kernel | None:
    """Of the `usable` kernels the one expected to be fastest, or None if there is none.

    ``extra_cost`` is what a kernel costs its caller besides, in nanoseconds.
    """
    return min(
        usable(problem, precision), key=lambda k: k.cost(problem) + extra_cost(k), default=None
    )


def in_blocks(kernel: Kernel) -> float:
    """An ``extra_cost`` for `select` that leaves kernels that read and write blocks."""
    layouts = {kernel.reads, kernel.reads_at(1), kernel.writes}
    return 0.0 if layouts == {BLOCKED} else math.inf


def register(*kernels: Kernel) -> None:
    """Have ``kernels`` chosen from, tested and timed like all others.

    Raises ValueError where a name is taken.
    """
    for kernel in kernels:
        if kernel.name in _KERNELS:
            raise ValueError(f"there is a kernel named {kernel.name} already")
        _KERNELS[kernel.name] = kernel


def all_kernels() -> tuple[Kernel, ...]:
    """Every kernel there is, in the order they were registered in."""
    return tuple(_KERNELS.values())


_KERNELS: dict[str, Kernel] = {}
