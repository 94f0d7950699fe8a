"""AVX-512's VBMI: one instruction takes 64 bytes by their numbers out of 128."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from minseg.kernels.isa import simd
from minseg.kernels.isa.llvm import I64, call, load, mapped
from minseg.kernels.isa.x86_vnni import AVX512_VNNI


def _look_up(builder: ir.IRBuilder, argtypes: Any, args: Any) -> Any:
    """Two instructions that take 7 bits of an index, and a choice by the eighth."""
    tile, table = args
    if argtypes[0].shape.lanes != 64:
        return NotImplemented
    type_ = tile.type.element
    quarters = [
        load(builder, builder.add(table, ir.Constant(I64, 64 * i)), type_) for i in range(4)
    ]
    name = "llvm.x86.avx512.vpermi2var.qi.512"

    def find(vector: Any) -> Any:
        low = call(builder, name, type_, quarters[0], vector, quarters[1])
        high = call(builder, name, type_, quarters[2], vector, quarters[3])
        negative = builder.icmp_signed("<", vector, ir.Constant(type_, None))
        return builder.select(negative, high, low)

    return mapped(builder, find, tile)


AVX512_VBMI = AVX512_VNNI.extended("avx512vbmi", "avx512vbmi", words={simd.look_up: _look_up})
