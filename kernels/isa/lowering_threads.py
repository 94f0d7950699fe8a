"""The words of simd.py that threads share work and time by, in LLVM: counters, clocks, calls."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from minseg.kernels.isa import simd
from minseg.kernels.isa.llvm import I32, I64, VOID, call, pointer
from minseg.kernels.isa.lowering import word


@word(simd.claim, lambda counter: types.int64)
def _claim(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    counter = pointer(builder, args[0], I64)
    return builder.atomic_rmw("add", counter, ir.Constant(I64, 1), "monotonic")


@word(simd.atomic_add, lambda address, value: types.int64)
def _atomic_add(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return builder.atomic_rmw("add", pointer(builder, args[0], I64), args[1], "acq_rel")


@word(simd.atomic_load, lambda address: types.int64)
def _atomic_load(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return builder.load_atomic(pointer(builder, args[0], I64), "acquire", 8)


@word(simd.pause, lambda: types.void)
def _pause(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    """Nothing, where there is no instruction for it."""


@word(simd.ticks, lambda: types.int64)
def _ticks(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    """Programs may not read the counter of cycles, but one that counts evenly."""
    return call(builder, "llvm.readsteadycounter", I64)


@word(simd.call_kernel, lambda entry, table, thread, work: types.void)
def _call_kernel(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    signature = ir.FunctionType(VOID, [I64, I64, I64])
    builder.call(pointer(builder, args[0], signature), args[1:])


@word(simd.call_yield, lambda function: types.void)
def _call_yield(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    builder.call(pointer(builder, args[0], ir.FunctionType(I32, [])), [])
