"""The vocabulary that kernels are written in: values in registers, moved to and from raw addresses.

Each function here has two lives. Called by Python it is what it says, in NumPy: so every kernel
also runs, slowly, with the JIT off. Inside a compiled kernel the same name stands for a few
machine instructions, given in lowering_*.py, or in the file of an instruction set that has better
ones.

An *address* is an integer, in bytes. A *tile* is ROWS × COLS vectors of LANES elements that live
in registers; in NumPy it is an array of shape (ROWS, COLS, LANES). Tiles add, subtract, multiply
and divide element by element. Nothing here checks bounds: whoever plans a kernel does.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TileShape:
    """ROWS × COLS vectors of LANES elements; ``dtype`` is "f32", "i32", "i16" or "u8"."""

    rows: int
    cols: int
    lanes: int
    dtype: str = "f32"

    @property
    def bytes(self) -> int:
        """Bytes of one vector."""
        return self.itemsize * self.lanes

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return {"u8": 1, "i16": 2}.get(self.dtype, 4)


_NUMPY = {"f32": np.float32, "i32": np.int32, "i16": np.int16, "u8": np.uint8}
_NAMES = {np.dtype(dtype): name for name, dtype in _NUMPY.items()}
_CTYPES: dict[str, Any] = {
    "f32": ctypes.c_float,
    "i8": ctypes.c_int8,
    "u8": ctypes.c_uint8,
    "i16": ctypes.c_int16,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
}


def _memory(address: int, count: int, dtype: str) -> np.ndarray:
    return np.ctypeslib.as_array((_CTYPES[dtype] * count).from_address(address))


# Scalars


def load_f32(address: int) -> float:
    return _memory(address, 1, "f32")[0]


def load_i32(address: int) -> int:
    return int(_memory(address, 1, "i32")[0])


def load_i64(address: int) -> int:
    return int(_memory(address, 1, "i64")[0])


def load_u8(address: int) -> int:
    return int(_memory(address, 1, "u8")[0])


def store_f32(address: int, value: float) -> None:
    _memory(address, 1, "f32")[0] = value


def store_i32(address: int, value: int) -> None:
    _memory(address, 1, "i32")[0] = value


def store_i64(address: int, value: int) -> None:
    _memory(address, 1, "i64")[0] = value


def store_u8(address: int, value: int) -> None:
    _memory(address, 1, "u8")[0] = value & 0xFF


# Tiles


def zeros(shape: TileShape) -> np.ndarray:
    return np.zeros((shape.rows, shape.cols, shape.lanes), _NUMPY[shape.dtype])


def fill(shape: TileShape, value: Any) -> np.ndarray:
    """A tile of one value."""
    return zeros(shape) + _NUMPY[shape.dtype](value)


def load(shape: TileShape, address: int, row_bytes: int, col_bytes: int) -> np.ndarray:
    """Vector (r, c) comes from ``address + r*row_bytes + c*col_bytes``, at any alignment."""
    return load_rows(shape, address, row_bytes, col_bytes, shape.rows)


def load_rows(
    shape: TileShape, address: int, row_bytes: int, col_bytes: int, rows: int
) -> np.ndarray:
    """`load` of the first ``rows`` rows only; the others are zero and their memory is not read."""
    tile = zeros(shape)
    for r in range(min(rows, shape.rows)):
        for c in range(shape.cols):
            at = address + r * row_bytes + c * col_bytes
            tile[r, c] = _memory(at, shape.lanes, shape.dtype)
    return tile


def store(tile: np.ndarray, address: int, row_bytes: int, col_bytes: int) -> None:
    """The reverse of `load`."""
    store_rows(tile, address, row_bytes, col_bytes, tile.shape[0])


def store_rows(tile: np.ndarray, address: int, row_bytes: int, col_bytes: int, rows: int) -> None:
    """`store` of the first ``rows`` rows only."""
    dtype = _NAMES[tile.dtype]
    for r in range(min(rows, tile.shape[0])):
        for c in range(tile.shape[1]):
            at = address + r * row_bytes + c * col_bytes
            _memory(at, tile.shape[2], dtype)[:] = tile[r, c]


def stream_rows(tile: np.ndarray, address: int, row_bytes: int, col_bytes: int, rows: int) -> None:
    """`store_rows` to aligned addresses past the caches, for what is not read again soon."""
    store_rows(tile, address, row_bytes, col_bytes, rows)


def store_wide(tile: np.ndarray, address: int) -> None:
    """Store a 1×1 tile of i32 as i64."""
    _memory(address, tile.shape[2], "i64")[:] = tile[0, 0]


def load_lanes(
    shape: TileShape, address: int, row_bytes: int, col_bytes: int, lanes: int
) -> np.ndarray:
    """`load` of the first ``lanes`` lanes of each vector; the others are zero and not read."""
    tile = zeros(shape)
    for r in range(shape.rows):
        for c in range(shape.cols):
            at = address + r * row_bytes + c * col_bytes
            tile[r, c, :lanes] = _memory(at, lanes, shape.dtype)
    return tile


def store_lanes(tile: np.ndarray, address: int, row_bytes: int, col_bytes: int, lanes: int) -> None:
    """`store` of the first ``lanes`` lanes of each vector."""
    store(tile[:, :, :lanes], address, row_bytes, col_bytes)


def load_at(shape: TileShape, addresses: tuple[int, ...], col_bytes: int) -> np.ndarray:
    """Vector (r, c) comes from ``addresses[r] + c*col_bytes``."""
    tile = zeros(shape)
    for r, address in enumerate(addresses):
        for c in range(shape.cols):
            tile[r, c] = _memory(address + c * col_bytes, shape.lanes, shape.dtype)
    return tile


def store_at(tile: np.ndarray, addresses: tuple[int, ...], col_bytes: int, rows: int) -> None:
    """The reverse of `load_at`, for the first ``rows`` rows only."""
    for r in range(min(rows, tile.shape[0])):
        store_rows(tile[r : r + 1], addresses[r], 0, col_bytes, 1)


def transpose(tile: np.ndarray) -> np.ndarray:
    """A tile of LANES × 1 vectors with rows and lanes exchanged."""
    return np.ascontiguousarray(tile.transpose(2, 1, 0))


def exchange(tiles: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Rows of tiles of one column exchanged with the tiles: row r of tile t becomes row t of tile
    r. In registers nothing moves."""
    return tuple(np.stack([tile[r] for tile in tiles]) for r in range(tiles[0].shape[0]))


def upper_half(tile: np.ndarray) -> np.ndarray:
    """The first half of an even number of rows."""
    return tile[: tile.shape[0] // 2]


def lower_half(tile: np.ndarray) -> np.ndarray:
    """The second half of an even number of rows."""
    return tile[tile.shape[0] // 2 :]


def without_last(tile: np.ndarray) -> np.ndarray:
    """All columns but the last."""
    return tile[:, :-1]


def last_repeated(tile: np.ndarray) -> np.ndarray:
    """The last column in place of each of those before it."""
    return np.repeat(tile[:, -1:], tile.shape[1] - 1, axis=1)


def stack(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The rows of two tiles, one above the other."""
    return np.concatenate([upper, lower])


def even_addresses(shape: TileShape, base: int, step: int) -> tuple[int, ...]:
    """One address per tile row, ``step`` bytes apart."""
    return tuple(base + r * step for r in range(shape.rows))


def row_addresses(shape: TileShape, table: int, base: int, outside: int) -> tuple[int, ...]:
    """One address per tile row: ``base`` plus the row's i32 from ``table``, but ``outside``
    where that is negative."""
    offsets = [load_i32(table + 4 * r) for r in range(shape.rows)]
    return tuple(base + o if o >= 0 else outside for o in offsets)


def outer_fma(
    acc: np.ndarray, rows: tuple[int, ...], offset: int, weights: int, col_bytes: int
) -> np.ndarray:
    """One step of a matrix product: ``acc[r, c, :] += x[r] * w[c, :]``, each fused.

    ``x[r]`` is the f32 at ``rows[r] + offset``, ``w[c]`` the vector at ``weights + c*col_bytes``.
    """
    x = np.array([load_f32(row + offset) for row in rows], np.float32)
    w = np.stack(
        [_memory(weights + c * col_bytes, acc.shape[2], "f32") for c in range(acc.shape[1])]
    )
    return fma(np.broadcast_to(x[:, None, None], acc.shape), np.broadcast_to(w, acc.shape), acc)


def outer_dot4(
    acc: np.ndarray, rows: tuple[int, ...], offset: int, weights: int, col_bytes: int
) -> np.ndarray:
    """One step of a matrix product of bytes: ``acc[r, c, l] += Σ x[r][i] * w[c][l][i]``, i < 4.

    ``acc`` is i32 and wraps; ``x[r]`` are the four u8 at ``rows[r] + offset``, ``w[c]`` the LANES
    times four i8 at ``weights + c*col_bytes``. Every sum is exact.
    """
    x = np.stack([_memory(row + offset, 4, "u8") for row in rows]).astype(np.int32)
    count = 4 * acc.shape[2]
    w = np.stack([_memory(weights + c * col_bytes, count, "i8") for c in range(acc.shape[1])])
    products = np.einsum("ri,cli->rcl", x, w.reshape(*acc.shape[1:], 4).astype(np.int32))
    return acc + products.astype(np.int32)


def outer_dot2(
    acc: np.ndarray, rows: tuple[int, ...], offset: int, weights: int, col_bytes: int
) -> np.ndarray:
    """`outer_dot4` of two i16 on both sides. All wraps."""
    x = np.stack([_memory(row + offset, 2, "i16") for row in rows]).astype(np.int64)
    count = 2 * acc.shape[2]
    w = np.stack([_memory(weights + c * col_bytes, count, "i16") for c in range(acc.shape[1])])
    products = np.einsum("ri,cli->rcl", x, w.reshape(*acc.shape[1:], 2).astype(np.int64))
    return acc + products.astype(np.int32)


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a*b + c, rounded once (here: a product exact in float64, then two roundings)."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The larger; NaN where either is NaN."""
    return np.maximum(a, b)


def minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The smaller; NaN where either is NaN."""
    return np.minimum(a, b)


def clamp(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """``x`` limited to ``low`` and ``high``, which are numbers; ``low`` where ``x`` is NaN."""
    return np.fmin(np.fmax(x, low), high)


def as_f32(tile: np.ndarray) -> np.ndarray:
    """A tile of i32 or u8 as f32, rounded to nearest."""
    return tile.astype(np.float32)


def as_i32(tile: np.ndarray) -> np.ndarray:
    """A tile of u8 as i32."""
    return tile.astype(np.int32)


def as_i16(tile: np.ndarray) -> np.ndarray:
    """A tile of u8 as i16."""
    return tile.astype(np.int16)


def shift_right(tile: np.ndarray, bits: int) -> np.ndarray:
    """A tile of i32 divided by 2**bits, rounded down; ``bits`` is the same for all."""
    return tile >> np.int32(bits)


def look_up(tile: np.ndarray, table: int) -> np.ndarray:
    """The byte at ``table`` plus each element of a tile of u8; the table has 256."""
    found: np.ndarray = _memory(table, 256, "u8")[tile]
    return found


def nearest_u8(tile: np.ndarray, zero_point: int) -> np.ndarray:
    """The integer nearest to each f32, halves to even, plus ``zero_point``; sums are 0 … 255."""
    return (np.rint(tile).astype(np.int32) + zero_point).astype(np.uint8)


def select_less(a: np.ndarray, b: np.ndarray, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """``yes`` where a < b, else ``no``, also for NaN; both may be of another dtype than a, b."""
    return np.where(a < b, yes, no)


def floor(a: np.ndarray) -> np.ndarray:
    return np.floor(a)


def round_even(a: np.ndarray) -> np.ndarray:
    """To the nearest integer, halves to even."""
    return np.rint(a)


def absolute(a: np.ndarray) -> np.ndarray:
    return np.abs(a)


def sqrt(a: np.ndarray) -> np.ndarray:
    return np.sqrt(a)


def power_of_two(n: np.ndarray) -> np.ndarray:
    """2**n for whole f32 numbers n in -126 … 127."""
    return np.ldexp(np.float32(1), n.astype(np.int32)).astype(np.float32)


def lane(tile: np.ndarray, index: int) -> Any:
    """Element ``index`` of a 1×1 tile."""
    return tile[0, 0, index]


def prefetch(address: int) -> None:
    """Have the cache line at ``address``, which need not exist, brought to the L2 cache."""


# Threads


def claim(counter: int) -> int:
    """Take the next work item: returns the i64 at ``counter`` and adds one to it, atomically."""
    return atomic_add(counter, 1)


def atomic_add(address: int, value: int) -> int:
    """Add to the i64 at ``address`` and return what it was; what this thread wrote before is
    visible to a thread that sees the sum."""
    old = load_i64(address)
    store_i64(address, old + value)
    return old


def atomic_load(address: int) -> int:
    """The i64 at ``address``, as other threads last left it."""
    return load_i64(address)


def pause() -> None:
    """Tell the CPU that this is a waiting loop."""


def ticks() -> int:
    """The CPU's clock, the same for all threads; it counts evenly, at a rate of its own."""
    return time.perf_counter_ns()


def call_kernel(entry: int, table: int, thread: int, work: int) -> None:
    """Call a compiled kernel (see jit.py) by its address."""
    raise NotImplementedError("machine code is called by machine code only")


def call_yield(function: int) -> None:
    """Call a function without arguments by its address."""
    raise NotImplementedError("machine code is called by machine code only")
