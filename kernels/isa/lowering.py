"""What Numba is told of simd.py: the type of a tile, and how a word gets its type and its code.

The code of all words is in the files lowering_*.py, in portable LLVM; an instruction set may have
its own (`InstructionSet.words`). All these are imported only when something must be compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.core.imputils import lower_builtin, lower_constant, lower_getattr_generic
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)
from numba.core.typing.typeof import typeof_impl
from numba.extending import type_callable

from minseg.kernels.isa import simd
from minseg.kernels.isa.instruction_set import Lowering
from minseg.kernels.isa.llvm import F32, I8, I16, I32, I64, mapped
from minseg.kernels.isa.target import target

ELEMENTS: dict[str, Any] = {"f32": F32, "i32": I32, "i16": I16, "u8": I8}


class Tile(types.Type):
    """Numba's type of a tile value."""

    def __init__(self, shape: simd.TileShape):
        self.shape = shape
        super().__init__(name=f"Tile({shape})")

    def changed(self, **changes: Any) -> Tile:
        """A tile of another shape or dtype."""
        return Tile(replace(self.shape, **changes))


class ShapeConstant(types.Type):
    """Numba's type of a `TileShape` in a kernel's closure: all known at compile time."""

    def __init__(self, shape: simd.TileShape):
        self.shape = shape
        super().__init__(name=f"Shape({shape})")


@typeof_impl.register(simd.TileShape)
def _typeof_shape(value: simd.TileShape, _: Any) -> ShapeConstant:
    return ShapeConstant(value)


@register_default(ShapeConstant)
class _ShapeModel(models.OpaqueModel):
    pass


@lower_constant(ShapeConstant)
def _shape_constant(context: Any, builder: Any, type_: Any, value: Any) -> Any:
    return context.get_dummy_value()


@infer_getattr
class _ShapeAttributes(AttributeTemplate):
    """The numbers of a shape, constants for the optimiser."""

    key = ShapeConstant

    def generic_resolve(self, shape: ShapeConstant, name: str) -> Any:  # type: ignore[override]
        return types.int64 if isinstance(getattr(shape.shape, name, None), int) else None


@lower_getattr_generic(ShapeConstant)
def _shape_attribute(context: Any, builder: Any, type_: Any, value: Any, name: str) -> Any:
    return ir.Constant(I64, getattr(type_.shape, name))


def vector_of(shape: simd.TileShape) -> ir.VectorType:
    """LLVM's type of a tile's vectors."""
    return ir.VectorType(ELEMENTS[shape.dtype], shape.lanes)


@register_default(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Tile):
        shape = type_.shape
        super().__init__(manager, type_, ir.ArrayType(vector_of(shape), shape.rows * shape.cols))


def word(function: Any, typing: Callable[..., Any]) -> Callable[[Lowering], Lowering]:
    """Give ``function`` a type rule (argument types to result type) and, decorated, its portable
    code."""

    def define(portable: Lowering) -> Lowering:
        type_callable(function)(lambda context: typing)
        _lower(function, [types.Any] * typing.__code__.co_argcount, portable)
        return portable

    return define


def _lower(function: Any, argtypes: Sequence[Any], portable: Lowering) -> None:
    @lower_builtin(function, *argtypes)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        own = target().isa.words.get(function, portable)
        result = own(builder, signature.args, args)
        if result is NotImplemented:
            result = portable(builder, signature.args, args)
        return context.get_dummy_value() if result is None else result


def elementwise(function: Any, generate: Callable[..., Any]) -> None:
    """A word that works element by element on tiles of one shape: ``generate`` is called with the
    builder and a vector of each."""
    arity = generate.__code__.co_argcount - 1

    def portable(builder: Any, _types: Any, args: Any) -> Any:
        return mapped(builder, lambda *vectors: generate(builder, *vectors), *args)

    if getattr(operator, function.__name__, None) is function:
        _type_operator(function)
    else:
        typing = (lambda a: a, lambda a, b: a, lambda a, b, c: a)[arity - 1]
        type_callable(function)(lambda context: typing)
    _lower(function, [Tile] * arity, portable)


def _type_operator(function: Any) -> None:
    @infer_global(function)
    class _TileOperator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if all(isinstance(a, Tile) and a == args[0] for a in args):
                return signature(args[0], *args)
            return None
