"""What convolutions of bytes are told only when they run: the input's zero point, and a factor of
all scales. So it is in networks that are quantised while they run.

A kernel that is told so first makes, in its thread's scratch memory, what it else finds among its
constants: numbers that sums start at, scales, a pixel of zero points. Then it goes on as ever, but
for one thing: it rounds like the operators Mul and Add that a factor belongs to, not once for both.
"""

from __future__ import annotations

from minseg.kernels.core.jit import inline
from minseg.kernels.isa.simd import fill, load, load_f32, load_u8, store
from minseg.kernels.isa.target import target


@inline
def known_now(vector, sums, octets, end, b, totals, starts, scale, channels, zero, times):
    """The addresses of ``starts`` vectors of sums to start at, of ``channels`` vectors of scales,
    and of a vector of zero points, right before ``end``.

    Sums start at ``b`` less the zero point's share in them, which is ``totals`` times the byte at
    ``zero``; scales are ``scale`` times the f32 at ``times``, rounded.
    """
    V = vector.bytes
    outside = end - V
    scales = outside - channels * V
    sums_begin = scales - starts * V
    zero_point, factor = load_u8(zero), load_f32(times)
    for at in range(0, starts * V, V):
        share = load(sums, totals + at, 0, 0) * fill(sums, zero_point)
        store(load(sums, b + at, 0, 0) - share, sums_begin + at, 0, 0)
    for at in range(0, channels * V, V):
        store(load(vector, scale + at, 0, 0) * fill(vector, factor), scales + at, 0, 0)
    store(fill(octets, zero_point), outside, 0, 0)
    return sums_begin, scales, outside


def bytes_known_now(starts: int, channels: int) -> int:
    """Bytes that `known_now` fills."""
    return (starts + channels + 1) * 4 * target().lanes
