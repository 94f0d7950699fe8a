"""What any CPU can do: narrow integers are widened to 32 bits and multiplied one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from minseg.kernels.isa.instruction_set import InstructionSet, Products, VectorUnit
from minseg.kernels.isa.llvm import I32, pick


def _widened(extend: str) -> Callable[[ir.IRBuilder, Any], list[Any]]:
    """The first, the second, … of the elements that share 32 bits, each as 32 bits."""

    def widen(builder: ir.IRBuilder, vector: Any) -> list[Any]:
        count, step = vector.type.count, 32 // vector.type.element.width
        wide = ir.VectorType(I32, count // step)
        parts = (pick(builder, vector, vector, range(i, count, step)) for i in range(step))
        return [getattr(builder, extend)(part, wide) for part in parts]

    return widen


def _multiply_add(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    return builder.add(acc, builder.mul(x, w))


_SIGNED = _widened("sext")
GENERIC = InstructionSet(
    "generic",
    "other",
    VectorUnit(bytes=16, registers=16),
    byte_products=Products(k_unit=1, copies=4, x=_widened("zext"), w=_SIGNED, add=_multiply_add),
    pair_products=Products(k_unit=1, copies=2, x=_SIGNED, w=_SIGNED, add=_multiply_add),
)
