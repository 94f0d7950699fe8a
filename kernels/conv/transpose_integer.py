"""2-D transposed convolution of bytes, as one direct convolution per phase.

The kernel is that of direct_integer.py, which takes a list of such phases (phases.py).

Layouts: x [N][IC/L][IH][IW][L] u8, y [N][OC/L][OH][OW][L] u8 or f32, weights as in
direct_integer.py, phase after phase.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from minseg.kernels.conv.direct_integer import QUAD, launch, micro_kernel, ns_per_vector
from minseg.kernels.conv.phases import phases
from minseg.kernels.conv.problem import Constants, IntegerConvTranspose2d
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.target import target


def prepare(problem: IntegerConvTranspose2d, *constants: Any) -> Launch:
    """``constants`` are those of `Constants`."""
    q, c = problem, Constants(*constants)
    pieces = list(phases(q, c.w))
    micro = micro_kernel(q, max(phase.KH * phase.KW for phase, _ in pieces))
    return launch(replace(q, SH=1, SW=1), micro, pieces, c, (q.SH, q.SW))


def applies(problem: IntegerConvTranspose2d) -> bool:
    """Any geometry whose input and output offsets fit 32 bits, without a residual."""
    q = problem
    fits = max(q.IH * q.IW, 4 * q.OH * q.OW) * target().lanes < 2**31
    return fits and not q.epilogue.residual


def cost(problem: IntegerConvTranspose2d) -> float:
    """Nanoseconds: the products, four to a lane and instruction."""
    q = problem
    quads = -(-q.IC // QUAD)
    return q.N * quads * q.IH * q.IW * q.KH * q.KW * blocks(q.OC) * ns_per_vector()


KERNELS = (
    Kernel("conv_transpose_i8_phases", IntegerConvTranspose2d, prepare, applies=applies, cost=cost),
)
