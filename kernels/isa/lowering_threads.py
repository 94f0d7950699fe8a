"""The words of simd.py that threads share work and time by, in LLVM: counters, clocks, calls."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from minseg.kernels.isa import simd
from minseg.kernels.isa.lowering import I32, I64, _pointer, word
from minseg.kernels.isa.target import architecture

VOID = ir.FunctionType(ir.VoidType(), [])


@word(simd.claim, lambda counter: types.int64)
def _claim(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return builder.atomic_rmw(
        "add", _pointer(builder, args[0], I64), ir.Constant(I64, 1), "monotonic"
    )


@word(simd.atomic_add, lambda address, value: types.int64)
def _atomic_add(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return builder.atomic_rmw("add", _pointer(builder, args[0], I64), args[1], "acq_rel")


@word(simd.atomic_load, lambda address: types.int64)
def _atomic_load(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    return builder.load_atomic(_pointer(builder, args[0], I64), "acquire", 8)


@word(simd.pause, lambda: types.void)
def _pause(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    name = {"x86": "llvm.x86.sse2.pause"}.get(architecture())
    if name is not None:
        _call(builder, cgutils.get_or_insert_function(builder.module, VOID, name))


@word(simd.ticks, lambda: types.int64)
def _ticks(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    # Elsewhere than on x86 programs may not read the counter of cycles.
    name = {"x86": "llvm.readcyclecounter"}.get(architecture(), "llvm.readsteadycounter")
    signature = ir.FunctionType(I64, [])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [])


@word(simd.call_kernel, lambda entry, table, thread, work: types.void)
def _call_kernel(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    signature = ir.FunctionType(ir.VoidType(), [I64, I64, I64])
    _call(builder, _pointer(builder, args[0], signature), *args[1:])


@word(simd.call_yield, lambda function: types.void)
def _call_yield(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    _call(builder, _pointer(builder, args[0], ir.FunctionType(I32, [])))


def _call(builder: ir.IRBuilder, function: Any, *args: Any) -> None:
    builder.call(function, args)
