"""The words of simd.py that move elements and vectors within registers, in LLVM."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from minseg.kernels.isa import simd
from minseg.kernels.isa.llvm import pick, tile_of, vectors
from minseg.kernels.isa.lowering import Tile, word


def _square(tile: Tile) -> Tile:
    if (tile.shape.rows, tile.shape.cols) != (tile.shape.lanes, 1):
        raise TypeError(f"transpose takes a tile of LANES x 1 vectors, not {tile.shape}")
    return tile


@word(simd.transpose, _square)
def _transpose(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    """Exchanges blocks of 1, 2, 4, … lanes between pairs of rows that far apart (J. O. Eklundh,
    "A fast computer method for matrix transposing", 1972)."""
    lanes, rows = argtypes[0].shape.lanes, vectors(builder, args[0])
    block = 1
    while block < lanes:
        upper = [i if not i & block else i - block + lanes for i in range(lanes)]
        lower = [i + block if not i & block else i + lanes for i in range(lanes)]
        for r in range(lanes):
            if not r & block:
                x, y = rows[r], rows[r + block]
                rows[r] = pick(builder, x, y, upper)
                rows[r + block] = pick(builder, x, y, lower)
        block *= 2
    return tile_of(builder, rows)


def _exchanged(tiles: Any) -> Any:
    tile = tiles.dtype
    return types.UniTuple(tile.changed(rows=len(tiles)), tile.shape.rows)


@word(simd.exchange, lambda tiles: _exchanged(tiles))
def _exchange(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    tiles = [vectors(builder, tile) for tile in cgutils.unpack_tuple(builder, args[0])]
    rows = zip(*tiles, strict=True)
    return cgutils.pack_array(builder, [tile_of(builder, list(row)) for row in rows])


@word(simd.upper_half, lambda tile: tile.changed(rows=tile.shape.rows // 2))
def _upper_half(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    rows = vectors(builder, args[0])
    return tile_of(builder, rows[: len(rows) // 2])


@word(simd.lower_half, lambda tile: tile.changed(rows=tile.shape.rows // 2))
def _lower_half(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    rows = vectors(builder, args[0])
    return tile_of(builder, rows[len(rows) // 2 :])


@word(simd.stack, lambda upper, lower: upper.changed(rows=upper.shape.rows + lower.shape.rows))
def _stack(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return tile_of(builder, [v for tile in args for v in vectors(builder, tile)])


@word(simd.without_last, lambda tile: tile.changed(cols=tile.shape.cols - 1))
def _without_last(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    cols = argtypes[0].shape.cols
    numbered = enumerate(vectors(builder, args[0]))
    return tile_of(builder, [v for i, v in numbered if i % cols < cols - 1])


@word(simd.last_repeated, lambda tile: tile.changed(cols=tile.shape.cols - 1))
def _last_repeated(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    cols = argtypes[0].shape.cols
    last = vectors(builder, args[0])[cols - 1 :: cols]
    return tile_of(builder, [v for v in last for _ in range(cols - 1)])


@word(
    simd.lane,
    lambda tile, index: types.float32 if tile.shape.dtype == "f32" else types.int32,
)
def _lane(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return builder.extract_element(builder.extract_value(args[0], 0), args[1])
