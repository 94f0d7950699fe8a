"""The words of simd.py that compute element by element, in LLVM."""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir

from minseg.kernels.isa import simd
from minseg.kernels.isa.llvm import (
    F32,
    I8,
    I16,
    I32,
    I64,
    intrinsic,
    load,
    mapped,
    same,
    splat,
)
from minseg.kernels.isa.lowering import elementwise, word


def _arith(builder: ir.IRBuilder, name: str, x: Any, y: Any) -> Any:
    prefix = "f" if x.type.element == F32 else ""
    return getattr(builder, prefix + name)(x, y)


def _extreme(builder: ir.IRBuilder, sign: str, integer: str, x: Any, y: Any) -> Any:
    """Max or min: one machine instruction that keeps a NaN in ``y``, then NaNs of ``x``."""
    if x.type.element != F32:
        return intrinsic(builder, ("u" if x.type.element == I8 else "s") + integer, x, y)
    chosen = builder.select(builder.fcmp_ordered(sign, x, y), x, y)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, chosen)


def _clamp(builder: ir.IRBuilder, x: Any, low: Any, high: Any) -> Any:
    """Two machine instructions, which give the second operand where one is a NaN."""
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


def _power_of_two(builder: ir.IRBuilder, n: Any) -> Any:
    integers = ir.VectorType(I32, n.type.count)
    exponent = builder.add(builder.fptosi(n, integers), same(integers, 127))
    return builder.bitcast(builder.shl(exponent, same(integers, 23)), n.type)


elementwise(operator.add, lambda b, x, y: _arith(b, "add", x, y))
elementwise(operator.sub, lambda b, x, y: _arith(b, "sub", x, y))
elementwise(operator.mul, lambda b, x, y: _arith(b, "mul", x, y))
elementwise(operator.truediv, lambda b, x, y: b.fdiv(x, y))
elementwise(simd.fma, lambda b, x, y, z: intrinsic(b, "fma", x, y, z))
elementwise(simd.floor, lambda b, x: intrinsic(b, "floor", x))
elementwise(simd.round_even, lambda b, x: intrinsic(b, "rint", x))
elementwise(simd.absolute, lambda b, x: intrinsic(b, "fabs", x))
elementwise(simd.sqrt, lambda b, x: intrinsic(b, "sqrt", x))
elementwise(simd.maximum, lambda b, x, y: _extreme(b, ">", "max", x, y))
elementwise(simd.minimum, lambda b, x, y: _extreme(b, "<", "min", x, y))
elementwise(simd.clamp, _clamp)
elementwise(simd.power_of_two, _power_of_two)


@word(simd.select_less, lambda a, b, yes, no: yes)
def _select_less(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    is_float = argtypes[0].shape.dtype == "f32"
    less = builder.fcmp_ordered if is_float else builder.icmp_signed
    return mapped(builder, lambda a, b, *both: builder.select(less("<", a, b), *both), *args)


@word(simd.shift_right, lambda tile, bits: tile)
def _shift_right(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    bits = splat(builder, builder.trunc(args[1], I32), argtypes[0].shape.lanes)
    return mapped(builder, lambda v: builder.ashr(v, bits), args[0])


@word(simd.as_f32, lambda tile: tile.changed(dtype="f32"))
def _as_f32(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    convert = builder.uitofp if argtypes[0].shape.dtype == "u8" else builder.sitofp
    floats = ir.VectorType(F32, argtypes[0].shape.lanes)
    return mapped(builder, lambda v: convert(v, floats), args[0])


@word(simd.as_i32, lambda tile: tile.changed(dtype="i32"))
def _as_i32(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    wide = ir.VectorType(I32, argtypes[0].shape.lanes)
    return mapped(builder, lambda v: builder.zext(v, wide), args[0])


@word(simd.as_i16, lambda tile: tile.changed(dtype="i16"))
def _as_i16(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    wide = ir.VectorType(I16, argtypes[0].shape.lanes)
    return mapped(builder, lambda v: builder.zext(v, wide), args[0])


@word(simd.nearest_u8, lambda tile, zero_point: tile.changed(dtype="u8"))
def _nearest_u8(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    """Adding 1.5 * 2**23, whose neighbours are 1 apart, rounds; its own lowest byte is 0."""
    lanes = argtypes[0].shape.lanes
    integers, narrow = ir.VectorType(I32, lanes), ir.VectorType(I8, lanes)
    magic = same(ir.VectorType(F32, lanes), 1.5 * 2**23)
    zero_point = splat(builder, builder.trunc(args[1], I32), lanes)

    def nearest(vector: Any) -> Any:
        bits = builder.bitcast(builder.fadd(vector, magic), integers)
        return builder.trunc(builder.add(bits, zero_point), narrow)

    return mapped(builder, nearest, args[0])


@word(simd.look_up, lambda tile, table: tile)
def _look_up(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    tile, table = args

    def find(vector: Any) -> Any:
        result = ir.Constant(vector.type, ir.Undefined)
        for i in range(vector.type.count):
            index = builder.zext(builder.extract_element(vector, ir.Constant(I32, i)), I64)
            found = load(builder, builder.add(table, index), I8)
            result = builder.insert_element(result, found, ir.Constant(I32, i))
        return result

    return mapped(builder, find, tile)
