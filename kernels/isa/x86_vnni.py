"""VNNI: one instruction adds the products of four bytes, or of two numbers of 16 bits, to a lane.

It came with AVX-512, for vectors of 256 bits too, and again as AVX-VNNI, for these alone, in
another encoding. To LLVM both are the same intrinsics.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from minseg.kernels.isa.instruction_set import InstructionSet, Products, as_it_is
from minseg.kernels.isa.llvm import call
from minseg.kernels.isa.x86 import AVX2, AVX512


def _vpdpbusd(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    return _dot(builder, "vpdpbusd", acc, x, w)


def _vpdpwssd(builder: ir.IRBuilder, acc: Any, x: Any, w: Any) -> Any:
    return _dot(builder, "vpdpwssd", acc, x, w)


def _dot(builder: ir.IRBuilder, name: str, acc: Any, x: Any, w: Any) -> Any:
    x, w = (builder.bitcast(v, acc.type) for v in (x, w))
    return call(builder, f"llvm.x86.avx512.{name}.{32 * acc.type.count}", acc.type, acc, x, w)


def _with_vnni(base: InstructionSet, name: str, *features: str) -> InstructionSet:
    return base.extended(
        name,
        *features,
        byte_products=Products(k_unit=4, copies=1, x=as_it_is, w=as_it_is, add=_vpdpbusd),
        pair_products=Products(k_unit=2, copies=1, x=as_it_is, w=as_it_is, add=_vpdpwssd),
        # LLVM would otherwise take VPDPWSSD apart, into a product and a sum, where it sees sums
        # wait for one another: the tiles here have others to go on with.
        tuning="+fast-dpwssd",
    )


AVX512_VNNI = _with_vnni(AVX512, "avx512vnni", "avx512vnni")
AVX512_VNNI_256 = _with_vnni(AVX2, "avx512vnni256", "avx512f", "avx512vl", "avx512vnni")
AVX_VNNI = _with_vnni(AVX2, "avxvnni", "avxvnni")
