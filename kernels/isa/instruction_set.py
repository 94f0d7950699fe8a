"""What an instruction set can do, as kernels, costs and code generation ask for it.

An instruction set has a file here, or shares one with its relatives, as in `x86_vnni.py`. It says
what is new by extending an older one, down to `generic.py`, and gives words of simd.py code of
their own where it has better instructions for them. `target.py` lists all and chooses one. None of
these files needs Numba. A matrix unit would be one more attribute beside `byte_products`, and its
words: how many rows and columns its tiles have, how deep their K block is, how operands are packed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

#: The code of a word: from LLVM's builder, Numba's types of the arguments and their values in LLVM
#: to the value of the result, None if there is no result.
Lowering: TypeAlias = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class VectorUnit:
    """Vectors of so many ``bytes``; ``registers`` is how many a micro-kernel may fill."""

    bytes: int
    registers: int

    @property
    def lanes(self) -> int:
        """Elements of 32 bits in a vector."""
        return self.bytes // 4


@dataclass(frozen=True)
class Products:
    """How products of narrow integers are added to lanes of 32 bits: ``k_unit`` of them to a lane
    by one instruction.

    ``x`` and ``w`` prepare a vector of the broadcast operand and one of weights, once for many
    sums: each becomes ``copies`` vectors. ``add`` adds the products of two such vectors to a sum.
    """

    k_unit: int
    copies: int
    x: Callable[[Any, Any], list[Any]]
    w: Callable[[Any, Any], list[Any]]
    add: Callable[[Any, Any, Any, Any], Any]


def as_it_is(builder: Any, vector: Any) -> list[Any]:
    """Prepares an operand whose products need no widening."""
    return [vector]


@dataclass(frozen=True, eq=False)
class InstructionSet:
    """``features`` are what a CPU must have, in LLVM's names; ``byte_products`` are those of
    `simd.outer_dot4`, ``pair_products`` those of `simd.outer_dot2`.

    ``words`` are the words with code of their own, in place of the portable one; code that returns
    NotImplemented leaves a case to the latter. ``tuning`` goes to LLVM beside the features.
    """

    name: str
    architecture: str
    vectors: VectorUnit
    byte_products: Products
    pair_products: Products
    features: frozenset[str] = frozenset()
    words: Mapping[Callable[..., Any], Lowering] = field(default_factory=dict)
    tuning: str = ""

    def extended(
        self,
        name: str,
        *features: str,
        words: Mapping[Callable[..., Any], Lowering] | None = None,
        **changes: Any,
    ) -> InstructionSet:
        """This one with more ``features`` and ``words``, and ``changes`` of other attributes."""
        words, more = {**self.words, **(words or {})}, self.features.union(features)
        return replace(self, name=name, features=more, words=words, **changes)
