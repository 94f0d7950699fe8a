"""How much rounding a session allows."""

from __future__ import annotations

from enum import Enum
from functools import total_ordering
from typing import Any

from minseg.errors import InputError


@total_ordering
class Precision(Enum):
    """What a kernel keeps of the definition of its operator, and what a session asks for.

    Members go from the most exact to the least; the more exact one is the greater, so that a kernel
    will do where ``kernel.precision >= asked``. They can be named by their values:
    ``Precision("exact")``; any other name raises InputError.
    """

    #: The definition's own sums and products: what differs is their order at most.
    EXACT = "exact"
    #: Float32 throughout, but algorithms that only without rounding equal the definition, as
    #: Winograd's: their errors are larger, or others.
    F32 = "f32"

    def __lt__(self, other: Precision) -> bool:
        members = list(Precision)
        return members.index(self) > members.index(other)

    @classmethod
    def _missing_(cls, value: object) -> Any:
        known = ", ".join(repr(member.value) for member in cls)
        raise InputError(f"precision {value!r} is none of {known}")
