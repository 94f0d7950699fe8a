"""What each word of simd.py becomes in LLVM: imported only when something must be compiled.

A tile is an LLVM array of ROWS*COLS vectors, so that it lives in registers once the optimiser
has taken it apart. Loads and stores claim the alignment of one element only.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.core.imputils import lower_builtin, lower_constant, lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.core.typing.typeof import typeof_impl
from numba.extending import type_callable

from minseg.kernels.isa import simd

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
ELEMENTS: dict[str, Any] = {"f32": F32, "i32": I32, "i16": I16, "u8": I8}


class Tile(types.Type):
    """Numba's type of a tile value."""

    def __init__(self, shape: simd.TileShape):
        self.shape = shape
        super().__init__(name=f"Tile({shape})")


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


def _vector(shape: simd.TileShape) -> ir.VectorType:
    return ir.VectorType(ELEMENTS[shape.dtype], shape.lanes)


@register_default(Tile)
class _TileModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Tile):
        shape = type_.shape
        super().__init__(manager, type_, ir.ArrayType(_vector(shape), shape.rows * shape.cols))


def word(function: Any, typing: Callable[..., Any]) -> Callable[[Any], Any]:
    """Give ``function`` a type rule (argument types to result type) and, decorated, its code.

    The code is called with the builder, the argument types and the LLVM arguments.
    """

    arity = len([None for _ in typing.__code__.co_varnames[: typing.__code__.co_argcount]])

    def define(generate: Callable[[ir.IRBuilder, Any, Any], Any]) -> Any:
        @type_callable(function)
        def _type(context: Any) -> Any:
            return typing

        @lower_builtin(function, *[types.Any] * arity)
        def _lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            result = generate(builder, signature.args, args)
            return context.get_dummy_value() if result is None else result

        return generate

    return define


def _pointer(builder: ir.IRBuilder, address: Any, type_: Any) -> Any:
    return builder.inttoptr(address, type_.as_pointer())


def _load(builder: ir.IRBuilder, address: Any, type_: Any) -> Any:
    value = builder.load(_pointer(builder, address, type_))
    value.align = _alignment(type_)
    return value


def _store(builder: ir.IRBuilder, value: Any, address: Any) -> None:
    builder.store(value, _pointer(builder, address, value.type)).align = _alignment(value.type)


def _alignment(type_: Any) -> int:
    """Bytes of one element."""
    element = getattr(type_, "element", type_)
    return {F32: 4, F64: 8}.get(element) or int(element.width) // 8


def _at(builder: ir.IRBuilder, address: Any, r: int, row: Any, c: int, col: Any) -> Any:
    for count, step in ((r, row), (c, col)):
        if count:
            address = builder.add(address, builder.mul(step, ir.Constant(I64, count)))
    return address


def _splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    type_ = ir.VectorType(scalar.type, lanes)
    first = builder.insert_element(ir.Constant(type_, ir.Undefined), scalar, ir.Constant(I32, 0))
    mask = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(type_, ir.Undefined), mask)


def _intrinsic(builder: ir.IRBuilder, name: str, *args: Any) -> Any:
    """Call an LLVM intrinsic whose result has the type of its first argument."""
    type_ = args[0].type
    suffix = f"v{type_.count}" if isinstance(type_, ir.VectorType) else ""
    element = type_.element if suffix else type_
    suffix += {F32: "f32", F64: "f64"}.get(element) or f"i{element.width}"
    signature = ir.FunctionType(type_, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.{name}.{suffix}")
    return builder.call(function, args)


def _vectors(builder: ir.IRBuilder, tile: Any) -> list[Any]:
    return [builder.extract_value(tile, i) for i in range(tile.type.count)]


def _tile(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    value = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for i, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, i)
    return value


def _scalar_words() -> None:
    kinds = {
        "f32": (types.float32, F32),
        "f64": (types.float64, F64),
        "i32": (types.int64, I32),
        "i64": (types.int64, I64),
        "u8": (types.int64, I8),
        "i8": (types.int64, I8),
    }
    for name, (result, element) in kinds.items():
        load = getattr(simd, f"load_{name}", None)
        if load is not None:
            _define_load(load, result, element, signed=name[0] == "i")
        store = getattr(simd, f"store_{name}", None)
        if store is not None:
            _define_store(store, result, element)


def _define_load(function: Any, result: Any, element: Any, signed: bool) -> None:
    @word(function, lambda address: result)
    def _(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
        value = _load(builder, args[0], element)
        if result is types.int64 and element is not I64:
            value = builder.sext(value, I64) if signed else builder.zext(value, I64)
        return value


def _define_store(function: Any, kind: Any, element: Any) -> None:
    @type_callable(function)
    def _type(context: Any) -> Any:
        return lambda address, value: types.void

    @lower_builtin(function, types.Any, types.Any)
    def _lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = context.cast(builder, args[1], signature.args[1], kind)
        if kind is types.int64 and element is not I64:
            value = builder.trunc(value, element)
        _store(builder, value, args[0])
        return context.get_dummy_value()


_scalar_words()


@word(simd.zeros, lambda shape: Tile(shape.shape))
def _zeros(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    return ir.Constant(ir.ArrayType(_vector(shape), shape.rows * shape.cols), None)


@type_callable(simd.fill)
def _type_fill(context: Any) -> Any:
    return lambda shape, value: Tile(shape.shape)


@lower_builtin(simd.fill, types.Any, types.Any)
def _fill(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    shape = signature.args[0].shape
    kind = {
        "f32": types.float32,
        "i32": types.int32,
        "i16": types.int16,
        "u8": types.uint8,
    }[shape.dtype]
    scalar = context.cast(builder, args[1], signature.args[1], kind)
    return _tile(builder, [_splat(builder, scalar, shape.lanes)] * (shape.rows * shape.cols))


@word(simd.load, lambda shape, address, row_bytes, col_bytes: Tile(shape.shape))
def _load_tile(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    _, address, row, col = args
    vectors = [
        _load(builder, _at(builder, address, r, row, c, col), _vector(shape))
        for r in range(shape.rows)
        for c in range(shape.cols)
    ]
    return _tile(builder, vectors)


@word(simd.load_rows, lambda shape, address, row_bytes, col_bytes, rows: Tile(shape.shape))
def _load_rows(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    _, address, row, col, rows = args
    zero = ir.Constant(_vector(shape), None)
    vectors = []
    for r in range(shape.rows):
        inside = builder.icmp_signed(">", rows, ir.Constant(I64, r))
        for c in range(shape.cols):
            outside = builder.block
            with builder.if_then(inside):
                loaded = _load(builder, _at(builder, address, r, row, c, col), _vector(shape))
                taken = builder.block
            value = builder.phi(_vector(shape))
            value.add_incoming(zero, outside)
            value.add_incoming(loaded, taken)
            vectors.append(value)
    return _tile(builder, vectors)


@word(simd.store, lambda tile, address, row_bytes, col_bytes: types.void)
def _store_tile(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, address, row, col = args
    _store_each(builder, argtypes[0].shape, tile, address, row, col, 0)


def _store_each(
    builder: ir.IRBuilder,
    shape: simd.TileShape,
    tile: Any,
    address: Any,
    row: Any,
    col: Any,
    first: int,
    only: int | None = None,
) -> None:
    for r in range(first, shape.rows if only is None else first + only):
        for c in range(shape.cols):
            vector = builder.extract_value(tile, r * shape.cols + c)
            _store(builder, vector, _at(builder, address, r, row, c, col))


@word(simd.store_rows, lambda tile, address, row_bytes, col_bytes, rows: types.void)
def _store_rows(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, address, row, col, rows = args
    shape = argtypes[0].shape
    for r in range(shape.rows):
        with builder.if_then(builder.icmp_signed(">", rows, ir.Constant(I64, r))):
            _store_each(builder, shape, tile, address, row, col, r, only=1)


@word(simd.stream_rows, lambda tile, address, row_bytes, col_bytes, rows: types.void)
def _stream_rows(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, address, row, col, rows = args
    shape = argtypes[0].shape
    past_the_caches = builder.module.add_metadata([ir.Constant(I32, 1)])
    for r in range(shape.rows):
        with builder.if_then(builder.icmp_signed(">", rows, ir.Constant(I64, r))):
            for c in range(shape.cols):
                vector = builder.extract_value(tile, r * shape.cols + c)
                at = _pointer(builder, _at(builder, address, r, row, c, col), vector.type)
                store = builder.store(vector, at, align=shape.bytes)
                store.set_metadata("nontemporal", past_the_caches)


@word(simd.store_wide, lambda tile, address: types.void)
def _store_wide(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    wide = ir.VectorType(I64, argtypes[0].shape.lanes)
    _store(builder, builder.sext(builder.extract_value(args[0], 0), wide), args[1])


def _lane_mask(builder: ir.IRBuilder, shape: simd.TileShape, lanes: Any) -> Any:
    """True in the first ``lanes`` lanes."""
    numbers = ir.Constant(ir.VectorType(I64, shape.lanes), list(range(shape.lanes)))
    return builder.icmp_signed("<", numbers, _splat(builder, lanes, shape.lanes))


def _masked(builder: ir.IRBuilder, name: str, result: Any, vector: Any, args: Any) -> Any:
    element = "f32" if vector.element == F32 else f"i{vector.element.width}"
    signature = ir.FunctionType(result, [a.type for a in args])
    name = f"llvm.masked.{name}.v{vector.count}{element}.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), args)


@word(simd.load_lanes, lambda shape, address, row_bytes, col_bytes, lanes: Tile(shape.shape))
def _load_lanes(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    _, address, row, col, lanes = args
    mask, vector = _lane_mask(builder, shape, lanes), _vector(shape)
    align, nothing = ir.Constant(I32, _alignment(vector)), ir.Constant(vector, None)
    vectors = []
    for r in range(shape.rows):
        for c in range(shape.cols):
            pointer = _pointer(builder, _at(builder, address, r, row, c, col), vector)
            operands = (pointer, align, mask, nothing)
            vectors.append(_masked(builder, "load", vector, vector, operands))
    return _tile(builder, vectors)


@word(simd.store_lanes, lambda tile, address, row_bytes, col_bytes, lanes: types.void)
def _store_lanes(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    shape = argtypes[0].shape
    tile, address, row, col, lanes = args
    mask = _lane_mask(builder, shape, lanes)
    for r in range(shape.rows):
        for c in range(shape.cols):
            value = builder.extract_value(tile, r * shape.cols + c)
            pointer = _pointer(builder, _at(builder, address, r, row, c, col), value.type)
            operands = (value, pointer, ir.Constant(I32, _alignment(value.type)), mask)
            _masked(builder, "store", ir.VoidType(), value.type, operands)


@word(simd.load_at, lambda shape, addresses, col_bytes: Tile(shape.shape))
def _load_at(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    shape = argtypes[0].shape
    _, addresses, col = args
    rows = [builder.extract_value(addresses, r) for r in range(shape.rows)]
    vectors = [
        _load(builder, _at(builder, row, 0, col, c, col), _vector(shape))
        for row in rows
        for c in range(shape.cols)
    ]
    return _tile(builder, vectors)


@word(simd.store_at, lambda tile, addresses, col_bytes, rows: types.void)
def _store_at(builder: ir.IRBuilder, argtypes: Any, args: Any) -> None:
    tile, addresses, col, rows = args
    for r in range(argtypes[0].shape.rows):
        with builder.if_then(builder.icmp_signed(">", rows, ir.Constant(I64, r))):
            address = builder.extract_value(addresses, r)
            for c in range(argtypes[0].shape.cols):
                vector = builder.extract_value(tile, r * argtypes[0].shape.cols + c)
                _store(builder, vector, _at(builder, address, 0, col, c, col))


def _transposed_shape(tile: Tile) -> Tile:
    if (tile.shape.rows, tile.shape.cols) != (tile.shape.lanes, 1):
        raise TypeError(f"transpose takes a tile of LANES x 1 vectors, not {tile.shape}")
    return tile


@word(simd.transpose, _transposed_shape)
def _transpose(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    """Exchanges blocks of 1, 2, 4, … lanes between pairs of rows that far apart (J. O. Eklundh,
    "A fast computer method for matrix transposing", 1972)."""
    lanes, vectors = argtypes[0].shape.lanes, _vectors(builder, args[0])
    block = 1
    while block < lanes:
        upper = [i if not i & block else i - block + lanes for i in range(lanes)]
        lower = [i + block if not i & block else i + lanes for i in range(lanes)]
        for r in range(lanes):
            if not r & block:
                x, y = vectors[r], vectors[r + block]
                for row, lane_numbers in ((r, upper), (r + block, lower)):
                    mask = ir.Constant(ir.VectorType(I32, lanes), lane_numbers)
                    vectors[row] = builder.shuffle_vector(x, y, mask)
        block *= 2
    return _tile(builder, vectors)


def _half(tile: Tile) -> Tile:
    shape = tile.shape
    return Tile(simd.TileShape(shape.rows // 2, shape.cols, shape.lanes, shape.dtype))


@word(simd.upper_half, lambda tile: _half(tile))
def _upper_half(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    vectors = _vectors(builder, args[0])
    return _tile(builder, vectors[: len(vectors) // 2])


@word(simd.lower_half, lambda tile: _half(tile))
def _lower_half(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    vectors = _vectors(builder, args[0])
    return _tile(builder, vectors[len(vectors) // 2 :])


@word(simd.stack, lambda upper, lower: _stacked(upper, lower))
def _stack(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return _tile(builder, [v for tile in args for v in _vectors(builder, tile)])


def _stacked(upper: Tile, lower: Tile) -> Tile:
    return Tile(replace(upper.shape, rows=upper.shape.rows + lower.shape.rows))


@word(
    simd.row_addresses,
    lambda shape, table, base, outside: types.UniTuple(types.int64, shape.shape.rows),
)
def _row_addresses(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    _, table, base, outside = args
    rows = []
    for r in range(argtypes[0].shape.rows):
        at = builder.add(table, ir.Constant(I64, 4 * r))
        offset = builder.sext(_load(builder, at, I32), I64)
        inside = builder.icmp_signed(">=", offset, ir.Constant(I64, 0))
        rows.append(builder.select(inside, builder.add(base, offset), outside))
    return cgutils.pack_array(builder, rows)


@word(
    simd.even_addresses,
    lambda shape, base, step: types.UniTuple(types.int64, shape.shape.rows),
)
def _even_addresses(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    _, base, step = args
    rows = [_at(builder, base, r, step, 0, None) for r in range(argtypes[0].shape.rows)]
    return cgutils.pack_array(builder, rows)


@word(simd.outer_fma, lambda acc, rows, offset, weights, col_bytes: acc)
def _outer_fma(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    acc, rows, offset, weights, col = args
    shape = argtypes[0].shape

    def scalar(r: int) -> Any:
        at = builder.add(builder.extract_value(rows, r), offset)
        return _splat(builder, _load(builder, at, F32), shape.lanes)

    def vector(c: int) -> Any:
        return _load(builder, _at(builder, weights, 0, col, c, col), _vector(shape))

    def add(r: int, c: int, x: Any, w: Any) -> Any:
        return _intrinsic(builder, "fma", x, w, builder.extract_value(acc, r * shape.cols + c))

    # The shorter side is loaded first and stays in registers.
    if shape.rows < shape.cols:
        scalars = [scalar(r) for r in range(shape.rows)]
        columns = [
            [add(r, c, x, w) for r, x in enumerate(scalars)]
            for c, w in ((c, vector(c)) for c in range(shape.cols))
        ]
        return _tile(builder, [columns[c][r] for r in range(shape.rows) for c in range(shape.cols)])
    vectors = [vector(c) for c in range(shape.cols)]
    return _tile(
        builder,
        [
            add(r, c, x, w)
            for r, x in ((r, scalar(r)) for r in range(shape.rows))
            for c, w in enumerate(vectors)
        ],
    )


def _exchanged(tiles: Any) -> Any:
    shape = tiles.dtype.shape
    return types.UniTuple(Tile(replace(shape, rows=len(tiles))), shape.rows)


@word(simd.exchange, lambda tiles: _exchanged(tiles))
def _exchange(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    tiles = [_vectors(builder, tile) for tile in cgutils.unpack_tuple(builder, args[0])]
    return cgutils.pack_array(
        builder, [_tile(builder, list(row)) for row in zip(*tiles, strict=True)]
    )


def _each(function: Any, arity: int, generate: Callable[..., Any]) -> None:
    """A word that works element by element on ``arity`` tiles of one shape."""

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        columns = zip(*(_vectors(builder, a) for a in args), strict=True)
        return _tile(builder, [generate(builder, *vectors) for vectors in columns])

    if getattr(operator, function.__name__, None) is function:
        _type_operator(function)
    elif arity == 1:
        type_callable(function)(lambda context: lambda a: a)
    elif arity == 2:
        type_callable(function)(lambda context: lambda a, b: a)
    else:
        type_callable(function)(lambda context: lambda a, b, c: a)
    lower_builtin(function, *[Tile] * arity)(lower)


def _type_operator(function: Any) -> None:
    from numba.core.typing.templates import AbstractTemplate, infer_global, signature

    @infer_global(function)
    class _TileOperator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            if all(isinstance(a, Tile) and a == args[0] for a in args):
                return signature(args[0], *args)
            return None


_each(operator.add, 2, lambda b, x, y: _arith(b, "add", x, y))
_each(operator.sub, 2, lambda b, x, y: _arith(b, "sub", x, y))
_each(operator.mul, 2, lambda b, x, y: _arith(b, "mul", x, y))
_each(operator.truediv, 2, lambda b, x, y: b.fdiv(x, y))
_each(simd.fma, 3, lambda b, x, y, z: _intrinsic(b, "fma", x, y, z))
_each(simd.floor, 1, lambda b, x: _intrinsic(b, "floor", x))
_each(simd.round_even, 1, lambda b, x: _intrinsic(b, "rint", x))
_each(simd.absolute, 1, lambda b, x: _intrinsic(b, "fabs", x))
_each(simd.sqrt, 1, lambda b, x: _intrinsic(b, "sqrt", x))
_each(simd.maximum, 2, lambda b, x, y: _extreme(b, ">", "max", x, y))
_each(simd.minimum, 2, lambda b, x, y: _extreme(b, "<", "min", x, y))


def _arith(builder: ir.IRBuilder, name: str, x: Any, y: Any) -> Any:
    prefix = "f" if x.type.element == F32 else ""
    return getattr(builder, prefix + name)(x, y)


def _extreme(builder: ir.IRBuilder, sign: str, integer: str, x: Any, y: Any) -> Any:
    """Max or min: one machine instruction that keeps a NaN in ``y``, then NaNs of ``x``."""
    if x.type.element != F32:
        return _intrinsic(builder, ("u" if x.type.element == I8 else "s") + integer, x, y)
    chosen = builder.select(builder.fcmp_ordered(sign, x, y), x, y)
    return builder.select(builder.fcmp_unordered("uno", x, x), x, chosen)


@word(simd.select_less, lambda a, b, yes, no: yes)
def _select_less(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    a, b, yes, no = (_vectors(builder, tile) for tile in args)
    less = (
        (lambda x, y: builder.fcmp_ordered("<", x, y))
        if argtypes[0].shape.dtype == "f32"
        else (lambda x, y: builder.icmp_signed("<", x, y))
    )
    chosen = zip(a, b, yes, no, strict=True)
    return _tile(builder, [builder.select(less(x, y), p, q) for x, y, p, q in chosen])


@word(simd.power_of_two, lambda n: n)
def _power_of_two(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    lanes = argtypes[0].shape.lanes
    integers = ir.VectorType(I32, lanes)

    def constant(value: int) -> Any:
        return ir.Constant(integers, [value] * lanes)

    def one(vector: Any) -> Any:
        exponent = builder.add(builder.fptosi(vector, integers), constant(127))
        return builder.bitcast(builder.shl(exponent, constant(23)), vector.type)

    return _tile(builder, [one(v) for v in _vectors(builder, args[0])])


@type_callable(simd.lane)
def _type_lane(context: Any) -> Any:
    def typing(tile: Any, index: Any) -> Any:
        return types.float32 if tile.shape.dtype == "f32" else types.int32

    return typing


@lower_builtin(simd.lane, Tile, types.Integer)
def _lane(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    return builder.extract_element(builder.extract_value(args[0], 0), args[1])


@word(simd.prefetch, lambda address: types.void)
def _prefetch(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    for_reading, into_l2, data = (ir.Constant(I32, n) for n in (0, 2, 1))
    pointer = _pointer(builder, args[0], I8)
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, signature, "llvm.prefetch.p0")
    builder.call(function, [pointer, for_reading, into_l2, data])
