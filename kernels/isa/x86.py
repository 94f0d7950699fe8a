"""SSE2, which every 64-bit CPU of x86 has, AVX2 and AVX-512: one family in three widths.

PMADDWD adds the products of two pairs of 16 bits. Bytes are widened for it, since PMADDUBSW, which
takes bytes, saturates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from minseg.kernels.isa import simd
from minseg.kernels.isa.generic import GENERIC
from minseg.kernels.isa.instruction_set import Products, VectorUnit, as_it_is
from minseg.kernels.isa.llvm import I16, I64, VOID, call, same


def _halves(shift: str) -> Callable[[ir.IRBuilder, Any], list[Any]]:
    """The even bytes and the odd ones, each as 16 bits; ``shift`` keeps the sign or not."""

    def widen(builder: ir.IRBuilder, vector: Any) -> list[Any]:
        wide = ir.VectorType(I16, vector.type.count // 2)
        both, eight, right = builder.bitcast(vector, wide), same(wide, 8), getattr(builder, shift)
        return [right(builder.shl(both, eight), eight), right(both, eight)]

    return widen


def _pmaddwd(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    name = {4: "sse2.pmadd.wd", 8: "avx2.pmadd.wd", 16: "avx512.pmaddw.d.512"}[acc.type.count]
    return builder.add(acc, call(builder, f"llvm.x86.{name}", acc.type, x, w))


def _pause(builder: ir.IRBuilder, _types: Any, args: Any) -> None:
    call(builder, "llvm.x86.sse2.pause", VOID)


def _ticks(builder: ir.IRBuilder, _types: Any, args: Any) -> Any:
    """The time-stamp counter, which programs may read here."""
    return call(builder, "llvm.readcyclecounter", I64)


SSE2 = GENERIC.extended(
    "sse2",
    architecture="x86",
    byte_products=Products(k_unit=2, copies=2, x=_halves("lshr"), w=_halves("ashr"), add=_pmaddwd),
    pair_products=Products(k_unit=2, copies=1, x=as_it_is, w=as_it_is, add=_pmaddwd),
    words={simd.pause: _pause, simd.ticks: _ticks},
)
AVX2 = SSE2.extended("avx2", "avx2", "fma", vectors=VectorUnit(bytes=32, registers=16))
AVX512 = AVX2.extended(
    "avx512", "avx512f", "avx512bw", "avx512vl", vectors=VectorUnit(bytes=64, registers=32)
)
