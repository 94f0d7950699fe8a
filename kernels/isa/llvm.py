"""LLVM as the code of words is put together from it.

A tile is an LLVM array of ROWS*COLS vectors, so that it lives in registers once the optimiser has
taken it apart. Loads and stores claim the alignment of one element only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
VOID = ir.VoidType()


def call(builder: ir.IRBuilder, name: str, result: Any, *args: Any) -> Any:
    """Call the function ``name``, which returns a ``result``."""
    function = builder.module.globals.get(name)
    if function is None:
        function = ir.Function(
            builder.module, ir.FunctionType(result, [a.type for a in args]), name
        )
    return builder.call(function, args)


def intrinsic(builder: ir.IRBuilder, name: str, *args: Any) -> Any:
    """Call an LLVM intrinsic whose result has the type of its first argument."""
    return call(builder, f"llvm.{name}.{overload(args[0].type)}", args[0].type, *args)


def overload(type_: Any) -> str:
    """A type as names of intrinsics spell it."""
    if isinstance(type_, ir.VectorType):
        return f"v{type_.count}{overload(type_.element)}"
    return {F32: "f32", F64: "f64"}.get(type_) or f"i{type_.width}"


# Memory


def pointer(builder: ir.IRBuilder, address: Any, type_: Any) -> Any:
    return builder.inttoptr(address, type_.as_pointer())


def load(builder: ir.IRBuilder, address: Any, type_: Any) -> Any:
    value = builder.load(pointer(builder, address, type_))
    value.align = alignment(type_)
    return value


def store(builder: ir.IRBuilder, value: Any, address: Any) -> None:
    builder.store(value, pointer(builder, address, value.type)).align = alignment(value.type)


def alignment(type_: Any) -> int:
    """Bytes of one element."""
    element = getattr(type_, "element", type_)
    return {F32: 4, F64: 8}.get(element) or int(element.width) // 8


def at(builder: ir.IRBuilder, address: Any, r: int, row: Any, c: int = 0, col: Any = None) -> Any:
    """``address + r*row + c*col``."""
    for count, step in ((r, row), (c, col)):
        if count:
            address = builder.add(address, builder.mul(step, ir.Constant(I64, count)))
    return address


# Vectors and tiles


def same(vector_type: ir.VectorType, value: int | float) -> ir.Constant:
    """A constant vector of one value."""
    return ir.Constant(vector_type, [value] * vector_type.count)


def pick(builder: ir.IRBuilder, a: Any, b: Any, numbers: Iterable[int]) -> Any:
    """The elements of ``a``, followed by those of ``b``, that have these numbers."""
    numbers = list(numbers)
    mask = ir.Constant(ir.VectorType(I32, len(numbers)), numbers)
    return builder.shuffle_vector(a, b, mask)


def splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return pick(builder, first, undefined, [0] * lanes)


def vectors(builder: ir.IRBuilder, tile: Any) -> list[Any]:
    return [builder.extract_value(tile, i) for i in range(tile.type.count)]


def tile_of(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    value = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, i)
    return value


def mapped(builder: ir.IRBuilder, function: Callable[..., Any], *tiles: Any) -> Any:
    """The tile of what ``function`` makes of vectors that stand at one place in ``tiles``."""
    places = zip(*(vectors(builder, tile) for tile in tiles), strict=True)
    return tile_of(builder, [function(*place) for place in places])
