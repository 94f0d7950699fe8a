"""2-D transposed convolution on blocked f32 tensors, as one direct convolution per phase.

The kernel is that of direct.py, which takes a list of such phases (phases.py).

Layouts: x [N][IC/L][IH][IW][L], y [N][OC/L][OH][OW][L], weights as in direct.py, phase after phase.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from minseg.kernels.conv.direct import direct_rates, launch, micro_kernel
from minseg.kernels.conv.phases import phases
from minseg.kernels.conv.problem import ConvTranspose2d
from minseg.kernels.core.layout import blocks
from minseg.kernels.core.registry import Kernel, Launch
from minseg.kernels.isa.target import target


def prepare(problem: ConvTranspose2d, w: np.ndarray, b: np.ndarray | None = None) -> Launch:
    """``w`` IC×OC/g×KH×KW and ``b`` OC, both f32."""
    q = problem
    micro = micro_kernel(q, -(-q.OW // q.SW))
    k_block = summed_channels(q.IH * q.IW) // micro.depth
    spread = q.SH, q.SW
    return launch(replace(q, SH=1, SW=1), micro, list(phases(q, w)), b, spread, k_block)


def summed_channels(pixels: int) -> int:
    """How many input channels are summed up at once: as many as MLAS, the library that onnxruntime
    multiplies matrices with, sums up for so many ``pixels``. Where results are quantised next, one
    that lies next to the middle between two integers is rounded as there."""
    channels, columns = 128, 128
    while columns > 16 and columns // 2 >= pixels:
        channels, columns = channels * 2, columns // 2
    return channels


def applies(problem: ConvTranspose2d) -> bool:
    """Any geometry whose input and output offsets fit 32 bits."""
    q = problem
    return max(q.IH * q.IW, q.OH * q.OW) * target().lanes * 4 < 2**31


def cost(problem: ConvTranspose2d) -> float:
    """Nanoseconds: the products at one vector FMA each."""
    q = problem
    return q.N * q.IC * q.IH * q.IW * q.KH * q.KW * blocks(q.OC) * direct_rates().vector


KERNELS = (
    Kernel(
        "conv_transpose_f32_phases",
        ConvTranspose2d,
        prepare,
        applies=applies,
        cost=cost,
    ),
)
