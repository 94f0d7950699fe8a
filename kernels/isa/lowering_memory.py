"""The words of simd.py that move values between registers and memory, or make them, in LLVM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from minseg.kernels.isa import simd
from minseg.kernels.isa.llvm import (
    F32,
    F64,
    I8,
    I32,
    I64,
    VOID,
    alignment,
    at,
    call,
    load,
    overload,
    pointer,
    splat,
    store,
    tile_of,
)
from minseg.kernels.isa.lowering import Tile, vector_of, word

# Scalars


def _define_load(function: Any, result: Any, element: Any, signed: bool = False) -> None:
    @word(function, lambda address: result)
    def _(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
        value = load(builder, args[0], element)
        if result is types.int64 and element is not I64:
            value = builder.sext(value, I64) if signed else builder.zext(value, I64)
        return value


_define_load(simd.load_f32, types.float32, F32)
_define_load(simd.load_i32, types.int64, I32, signed=True)
_define_load(simd.load_i64, types.int64, I64)
_define_load(simd.load_u8, types.int64, I8)


def _define_store(function: Any, element: Any) -> None:
    @word(function, lambda address, value: types.void)
    def _(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
        store(builder, _converted(builder, args[1], element), args[0])


def _converted(builder: ir.IRBuilder, value: Any, element: Any) -> Any:
    """A scalar as ``element``: a number as f32, or the low bits of an integer."""
    if value.type == element:
        return value
    if element == F32:
        convert = builder.fptrunc if value.type == F64 else builder.sitofp
    else:
        convert = builder.trunc if value.type.width > element.width else builder.sext
    return convert(value, element)


_define_store(simd.store_f32, F32)
_define_store(simd.store_i32, I32)
_define_store(simd.store_i64, I64)
_define_store(simd.store_u8, I8)


# Tiles


@word(simd.zeros, lambda shape: Tile(shape.shape))
def _zeros(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    return ir.Constant(ir.ArrayType(vector_of(shape), shape.rows * shape.cols), None)


@word(simd.fill, lambda shape, value: Tile(shape.shape))
def _fill(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    value = _converted(builder, args[1], vector_of(shape).element)
    return tile_of(builder, [splat(builder, value, shape.lanes)] * (shape.rows * shape.cols))


def _places(
    builder: ir.IRBuilder, shape: simd.TileShape, address: Any, row: Any, col: Any
) -> Iterator[Any]:
    """The addresses of the vectors of a tile, one after the other."""
    for r in range(shape.rows):
        for c in range(shape.cols):
            yield at(builder, address, r, row, c, col)


@word(simd.load, lambda shape, address, row_bytes, col_bytes: Tile(shape.shape))
def _load_tile(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    places = _places(builder, shape, *args[1:])
    return tile_of(builder, [load(builder, place, vector_of(shape)) for place in places])


@word(simd.load_rows, lambda shape, address, row_bytes, col_bytes, rows: Tile(shape.shape))
def _load_rows(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    _, address, row, col, rows = args
    vector, vectors = vector_of(shape), []
    for r in range(shape.rows):
        inside = builder.icmp_signed(">", rows, ir.Constant(I64, r))
        for c in range(shape.cols):
            outside = builder.block
            with builder.if_then(inside):
                loaded = load(builder, at(builder, address, r, row, c, col), vector)
                taken = builder.block
            value = builder.phi(vector)
            value.add_incoming(ir.Constant(vector, None), outside)
            value.add_incoming(loaded, taken)
            vectors.append(value)
    return tile_of(builder, vectors)


@word(simd.store, lambda tile, address, row_bytes, col_bytes: types.void)
def _store_tile(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, *where = args
    for i, place in enumerate(_places(builder, argtypes[0].shape, *where)):
        store(builder, builder.extract_value(tile, i), place)


def _first_rows(
    builder: ir.IRBuilder, shape: simd.TileShape, tile: Any, rows: Any
) -> Iterator[tuple[int, int, Any]]:
    """Row, column and vector of a tile's vectors; what is made for each is done in the first
    ``rows`` rows only."""
    for r in range(shape.rows):
        with builder.if_then(builder.icmp_signed(">", rows, ir.Constant(I64, r))):
            for c in range(shape.cols):
                yield r, c, builder.extract_value(tile, r * shape.cols + c)


@word(simd.store_rows, lambda tile, address, row_bytes, col_bytes, rows: types.void)
def _store_rows(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, address, row, col, rows = args
    for r, c, vector in _first_rows(builder, argtypes[0].shape, tile, rows):
        store(builder, vector, at(builder, address, r, row, c, col))


@word(simd.stream_rows, lambda tile, address, row_bytes, col_bytes, rows: types.void)
def _stream_rows(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, address, row, col, rows = args
    shape = argtypes[0].shape
    past_the_caches = builder.module.add_metadata([ir.Constant(I32, 1)])
    for r, c, vector in _first_rows(builder, shape, tile, rows):
        place = pointer(builder, at(builder, address, r, row, c, col), vector.type)
        stored = builder.store(vector, place, align=shape.bytes)
        stored.set_metadata("nontemporal", past_the_caches)


@word(simd.store_wide, lambda tile, address: types.void)
def _store_wide(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    wide = ir.VectorType(I64, argtypes[0].shape.lanes)
    store(builder, builder.sext(builder.extract_value(args[0], 0), wide), args[1])


def _lane_mask(builder: ir.IRBuilder, shape: simd.TileShape, lanes: Any) -> Any:
    """True in the first ``lanes`` lanes."""
    numbers = ir.Constant(ir.VectorType(I64, shape.lanes), list(range(shape.lanes)))
    return builder.icmp_signed("<", numbers, splat(builder, lanes, shape.lanes))


@word(simd.load_lanes, lambda shape, address, row_bytes, col_bytes, lanes: Tile(shape.shape))
def _load_lanes(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    *where, lanes = args[1:]
    mask, vector = _lane_mask(builder, shape, lanes), vector_of(shape)
    align, nothing = ir.Constant(I32, alignment(vector)), ir.Constant(vector, None)
    name = f"llvm.masked.load.{overload(vector)}.p0"
    return tile_of(
        builder,
        [
            call(builder, name, vector, pointer(builder, place, vector), align, mask, nothing)
            for place in _places(builder, shape, *where)
        ],
    )


@word(simd.store_lanes, lambda tile, address, row_bytes, col_bytes, lanes: types.void)
def _store_lanes(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    shape = argtypes[0].shape
    tile, *where, lanes = args
    mask, vector = _lane_mask(builder, shape, lanes), vector_of(shape)
    align = ir.Constant(I32, alignment(vector))
    name = f"llvm.masked.store.{overload(vector)}.p0"
    for i, place in enumerate(_places(builder, shape, *where)):
        value = builder.extract_value(tile, i)
        call(builder, name, VOID, value, pointer(builder, place, vector), align, mask)


@word(simd.load_at, lambda shape, addresses, col_bytes: Tile(shape.shape))
def _load_at(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    _, addresses, col = args
    rows = cgutils.unpack_tuple(builder, addresses, shape.rows)
    vectors = [
        load(builder, at(builder, row, c, col), vector_of(shape))
        for row in rows
        for c in range(shape.cols)
    ]
    return tile_of(builder, vectors)


@word(simd.store_at, lambda tile, addresses, col_bytes, rows: types.void)
def _store_at(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, addresses, col, rows = args
    for r, c, vector in _first_rows(builder, argtypes[0].shape, tile, rows):
        store(builder, vector, at(builder, builder.extract_value(addresses, r), c, col))


@word(
    simd.row_addresses,
    lambda shape, table, base, outside: types.UniTuple(types.int64, shape.shape.rows),
)
def _row_addresses(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    _, table, base, outside = args
    rows = []
    for r in range(argtypes[0].shape.rows):
        offset = load(builder, builder.add(table, ir.Constant(I64, 4 * r)), I32)
        offset = builder.sext(offset, I64)
        inside = builder.icmp_signed(">=", offset, ir.Constant(I64, 0))
        rows.append(builder.select(inside, builder.add(base, offset), outside))
    return cgutils.pack_array(builder, rows)


@word(
    simd.even_addresses,
    lambda shape, base, step: types.UniTuple(types.int64, shape.shape.rows),
)
def _even_addresses(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    _, base, step = args
    rows = [at(builder, base, r, step) for r in range(argtypes[0].shape.rows)]
    return cgutils.pack_array(builder, rows)


@word(simd.prefetch, lambda address: types.void)
def _prefetch(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    for_reading, into_l2, data = (ir.Constant(I32, n) for n in (0, 2, 1))
    place = pointer(builder, args[0], I8)
    call(builder, "llvm.prefetch.p0", VOID, place, for_reading, into_l2, data)
