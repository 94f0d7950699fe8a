"""The words of simd.py that work on bytes, in LLVM: products of bytes, and conversions.

Four products of bytes are added up by one instruction where the CPU has VNNI. Other x86 CPUs
multiply pairs of 16 bits: bytes are widened first, since the instruction that takes pairs of
bytes saturates. What is left works on 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from minseg.kernels.isa import simd
from minseg.kernels.isa.lowering import (
    F32,
    I8,
    I16,
    I32,
    I64,
    Tile,
    _at,
    _each,
    _load,
    _splat,
    _tile,
    _vectors,
    word,
)
from minseg.kernels.isa.target import dot_product, has_byte_permutes


@word(simd.outer_dot4, lambda acc, rows, offset, weights, col_bytes: acc)
def _outer_dot4(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    acc, rows, offset, weights, col = args
    shape = argtypes[0].shape
    prepare_x, prepare_w, add = _DOTS[dot_product()]
    bytes_ = ir.VectorType(I8, 4 * shape.lanes)
    columns = [
        prepare_w(builder, _load(builder, _at(builder, weights, 0, col, c, col), bytes_))
        for c in range(shape.cols)
    ]
    vectors = []
    for r in range(shape.rows):
        address = builder.add(builder.extract_value(rows, r), offset)
        four = builder.bitcast(_load(builder, address, ir.VectorType(I8, 4)), I32)
        x = prepare_x(builder, builder.bitcast(_splat(builder, four, shape.lanes), bytes_))
        for c in range(shape.cols):
            old = builder.extract_value(acc, r * shape.cols + c)
            vectors.append(add(builder, old, x, columns[c]))
    return _tile(builder, vectors)


def _as_it_is(builder: ir.IRBuilder, vector: Any) -> Any:
    return vector


def _vnni(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    name = f"llvm.x86.avx512.vpdpbusd.{32 * acc.type.count}"
    x, w = (builder.bitcast(v, acc.type) for v in (x, w))
    return _call(builder, name, acc.type, acc, x, w)


def _halves(shift: str) -> Callable[[ir.IRBuilder, Any], list[Any]]:
    """The even bytes and the odd bytes, each as 16 bits; ``shift`` keeps the sign or not."""

    def split(builder: ir.IRBuilder, vector: Any) -> list[Any]:
        pairs = ir.VectorType(I16, vector.type.count // 2)
        eight = ir.Constant(pairs, [8] * pairs.count)
        odd_even = builder.bitcast(vector, pairs)
        right = getattr(builder, shift)
        return [right(builder.shl(odd_even, eight), eight), right(odd_even, eight)]

    return split


def _pairs(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[acc.type.count]
    for a, b in zip(x, w, strict=True):
        acc = builder.add(acc, _call(builder, f"llvm.x86.{name}", acc.type, a, b))
    return acc


def _quarters(extend: str) -> Callable[[ir.IRBuilder, Any], list[Any]]:
    """The first, second, third and fourth of every four bytes, each as 32 bits."""

    def split(builder: ir.IRBuilder, vector: Any) -> list[Any]:
        lanes = vector.type.count // 4
        wide = ir.VectorType(I32, lanes)
        parts = []
        for i in range(4):
            mask = ir.Constant(wide, [4 * lane + i for lane in range(lanes)])
            part = builder.shuffle_vector(vector, vector, mask)
            parts.append(getattr(builder, extend)(part, wide))
        return parts

    return split


def _singles(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    for a, b in zip(x, w, strict=True):
        acc = builder.add(acc, builder.mul(a, b))
    return acc


#: By what `machine.dot_product` says: how broadcast bytes and weights are made ready, once for
#: many sums, and how their products join a sum.
_DOTS: dict[str, tuple[Any, Any, Any]] = {
    "vnni": (_as_it_is, _as_it_is, _vnni),
    "pairs": (_halves("lshr"), _halves("ashr"), _pairs),
    "": (_quarters("zext"), _quarters("sext"), _singles),
}


@word(simd.outer_dot2, lambda acc, rows, offset, weights, col_bytes: acc)
def _outer_dot2(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    acc, rows, offset, weights, col = args
    shape = argtypes[0].shape
    add = _DOTS2[dot_product()]
    pairs = ir.VectorType(I16, 2 * shape.lanes)
    columns = [
        _load(builder, _at(builder, weights, 0, col, c, col), pairs) for c in range(shape.cols)
    ]
    vectors = []
    for r in range(shape.rows):
        address = builder.add(builder.extract_value(rows, r), offset)
        two = builder.bitcast(_load(builder, address, ir.VectorType(I16, 2)), I32)
        x = builder.bitcast(_splat(builder, two, shape.lanes), pairs)
        for c in range(shape.cols):
            old = builder.extract_value(acc, r * shape.cols + c)
            vectors.append(add(builder, old, x, columns[c]))
    return _tile(builder, vectors)


def _vnni_pairs(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    name = f"llvm.x86.avx512.vpdpwssd.{32 * acc.type.count}"
    x, w = (builder.bitcast(v, acc.type) for v in (x, w))
    return _call(builder, name, acc.type, acc, x, w)


def _pair(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    return _pairs(builder, acc, [x], [w])


def _single_pairs(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    for i in range(2):
        mask = ir.Constant(
            ir.VectorType(I32, acc.type.count), [2 * lane + i for lane in range(acc.type.count)]
        )
        a, b = (builder.sext(builder.shuffle_vector(v, v, mask), acc.type) for v in (x, w))
        acc = builder.add(acc, builder.mul(a, b))
    return acc


_DOTS2 = {"vnni": _vnni_pairs, "pairs": _pair, "": _single_pairs}


def _one_less(tile: Tile) -> Tile:
    return Tile(replace(tile.shape, cols=tile.shape.cols - 1))


@word(simd.without_last, lambda tile: _one_less(tile))
def _without_last(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    cols = argtypes[0].shape.cols
    vectors = enumerate(_vectors(builder, args[0]))
    return _tile(builder, [v for i, v in vectors if i % cols < cols - 1])


@word(simd.last_repeated, lambda tile: _one_less(tile))
def _last_repeated(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    cols = argtypes[0].shape.cols
    last = _vectors(builder, args[0])[cols - 1 :: cols]
    return _tile(builder, [v for v in last for _ in range(cols - 1)])


def _converted(tile: Tile, dtype: str) -> Tile:
    return Tile(replace(tile.shape, dtype=dtype))


@word(simd.as_f32, lambda tile: _converted(tile, "f32"))
def _as_f32(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    convert = builder.uitofp if argtypes[0].shape.dtype == "u8" else builder.sitofp
    wide = ir.VectorType(F32, argtypes[0].shape.lanes)
    return _tile(builder, [convert(v, wide) for v in _vectors(builder, args[0])])


@word(simd.as_i32, lambda tile: _converted(tile, "i32"))
def _as_i32(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    wide = ir.VectorType(I32, argtypes[0].shape.lanes)
    return _tile(builder, [builder.zext(v, wide) for v in _vectors(builder, args[0])])


@word(simd.as_i16, lambda tile: _converted(tile, "i16"))
def _as_i16(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    wide = ir.VectorType(I16, argtypes[0].shape.lanes)
    return _tile(builder, [builder.zext(v, wide) for v in _vectors(builder, args[0])])


@word(simd.shift_right, lambda tile, bits: tile)
def _shift_right(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    bits = _splat(builder, builder.trunc(args[1], I32), argtypes[0].shape.lanes)
    return _tile(builder, [builder.ashr(v, bits) for v in _vectors(builder, args[0])])


@word(simd.look_up, lambda tile, table: tile)
def _look_up(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    tile, table = args
    wide = argtypes[0].shape.lanes == 64 and has_byte_permutes()
    find = _permuted if wide else _one_by_one
    return _tile(builder, [find(builder, v, table) for v in _vectors(builder, tile)])


def _permuted(builder: ir.IRBuilder, vector: Any, table: Any) -> Any:
    """Two instructions that take 7 bits of an index, and a choice by the eighth."""
    parts = [
        _load(builder, builder.add(table, ir.Constant(I64, 64 * i)), vector.type) for i in range(4)
    ]
    name = "llvm.x86.avx512.vpermi2var.qi.512"
    low, high = (_call(builder, name, vector.type, parts[i], vector, parts[i + 1]) for i in (0, 2))
    negative = builder.icmp_signed("<", vector, ir.Constant(vector.type, None))
    return builder.select(negative, high, low)


def _one_by_one(builder: ir.IRBuilder, vector: Any, table: Any) -> Any:
    result = ir.Constant(vector.type, ir.Undefined)
    for i in range(vector.type.count):
        index = builder.zext(builder.extract_element(vector, ir.Constant(I32, i)), I64)
        found = _load(builder, builder.add(table, index), I8)
        result = builder.insert_element(result, found, ir.Constant(I32, i))
    return result


@word(simd.nearest_u8, lambda tile, zero_point: _converted(tile, "u8"))
def _nearest_u8(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    """Adding 1.5 * 2**23, whose neighbours are 1 apart, rounds; its own lowest byte is 0."""
    lanes = argtypes[0].shape.lanes
    integers, narrow = ir.VectorType(I32, lanes), ir.VectorType(I8, lanes)
    magic = ir.Constant(ir.VectorType(F32, lanes), [1.5 * 2**23] * lanes)
    zero_point = _splat(builder, builder.trunc(args[1], I32), lanes)

    def one(vector: Any) -> Any:
        bits = builder.bitcast(builder.fadd(vector, magic), integers)
        return builder.trunc(builder.add(bits, zero_point), narrow)

    return _tile(builder, [one(v) for v in _vectors(builder, args[0])])


def _clamp(builder: ir.IRBuilder, x: Any, low: Any, high: Any) -> Any:
    """Two machine instructions, which give the second operand where one is a NaN."""
    x = builder.select(builder.fcmp_ordered(">", x, low), x, low)
    return builder.select(builder.fcmp_ordered("<", x, high), x, high)


_each(simd.clamp, 3, _clamp)


def _call(builder: ir.IRBuilder, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)
