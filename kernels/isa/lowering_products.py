"""The words of simd.py that are steps of matrix products, in LLVM: of floats, and of integers by
what the instruction set has for their products."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from minseg.kernels.isa import simd
from minseg.kernels.isa.instruction_set import Products
from minseg.kernels.isa.llvm import F32, I8, I16, I32, at, intrinsic, load, splat, tile_of
from minseg.kernels.isa.lowering import vector_of, word
from minseg.kernels.isa.target import target


@word(simd.outer_fma, lambda acc, rows, offset, weights, col_bytes: acc)
def _outer_fma(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    acc, rows, offset, weights, col = args
    shape = argtypes[0].shape

    def scalar(r: int) -> Any:
        address = builder.add(builder.extract_value(rows, r), offset)
        return splat(builder, load(builder, address, F32), shape.lanes)

    def vector(c: int) -> Any:
        return load(builder, at(builder, weights, c, col), vector_of(shape))

    def add(r: int, c: int, x: Any, w: Any) -> Any:
        return intrinsic(builder, "fma", x, w, builder.extract_value(acc, r * shape.cols + c))

    # The shorter side is loaded first and stays in registers.
    if shape.rows < shape.cols:
        scalars = [scalar(r) for r in range(shape.rows)]
        columns = [
            [add(r, c, x, w) for r, x in enumerate(scalars)]
            for c, w in ((c, vector(c)) for c in range(shape.cols))
        ]
        sums = [columns[c][r] for r in range(shape.rows) for c in range(shape.cols)]
    else:
        vectors = [vector(c) for c in range(shape.cols)]
        sums = [
            add(r, c, x, w)
            for r, x in ((r, scalar(r)) for r in range(shape.rows))
            for c, w in enumerate(vectors)
        ]
    return tile_of(builder, sums)


@word(simd.outer_dot4, lambda acc, rows, offset, weights, col_bytes: acc)
def _outer_dot4(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    return _outer_dot(builder, argtypes[0].shape, args, target().byte_products, I8)


@word(simd.outer_dot2, lambda acc, rows, offset, weights, col_bytes: acc)
def _outer_dot2(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    return _outer_dot(builder, argtypes[0].shape, args, target().isa.pair_products, I16)


def _outer_dot(
    builder: ir.IRBuilder, shape: simd.TileShape, args: Any, products: Products, element: Any
) -> Any:
    acc, rows, offset, weights, col = args
    share = ir.VectorType(element, 32 // element.width)  # of one lane
    whole = ir.VectorType(element, share.count * shape.lanes)
    columns = [
        products.w(builder, load(builder, at(builder, weights, c, col), whole))
        for c in range(shape.cols)
    ]
    sums: list[Any] = []
    for r in range(shape.rows):
        address = builder.add(builder.extract_value(rows, r), offset)
        lane = builder.bitcast(load(builder, address, share), I32)
        x = products.x(builder, builder.bitcast(splat(builder, lane, shape.lanes), whole))
        for w in columns:
            total = builder.extract_value(acc, len(sums))
            for a, b in zip(x, w, strict=True):
                total = products.add(builder, total, a, b)
            sums.append(total)
    return tile_of(builder, sums)
