"""Where the window of an output pixel lies in the picture, for kernels that walk it tap by tap."""

from __future__ import annotations

from minseg.kernels.core.jit import inline
from minseg.kernels.isa.simd import store_i32


@inline
def taps_before(edge, D, K):
    """How many of K taps, D elements apart, lie before ``edge`` (counted from the first tap)."""
    return min(K, (max(0, edge) + D - 1) // D)


@inline
def taps_inside(size, K, S, D, P, out):
    """The first of the K taps of output element ``out`` that lies inside the input of ``size``, and
    one more than the last."""
    before = P - out * S
    return taps_before(before, D, K), taps_before(size + before, D, K)


@inline
def first_inside(S, P, out):
    """The first output element along an axis whose window starts inside the input."""
    return min(out, (P + S - 1) // S)


@inline
def end_inside(size, K, S, D, P, out):
    """One more than the last output element whose window ends inside the input of ``size``; not
    less than `first_inside`."""
    return max(first_inside(S, P, out), min(out, (size + P - (K - 1) * D - 1) // S + 1))


@inline
def write_offsets(table, R, first, last, g, pixel_bytes):
    """[tile][tap][R] input offsets in bytes of the output pixels first … last-1 of a convolution of
    `Geometry` ``g``; -1 for outside, and for the pixels that the last tile has too many."""
    oy, ox = first // g.OW, first % g.OW
    for p in range(first, first + (last - first + R - 1) // R * R):
        tile, r = (p - first) // R, (p - first) % R
        at = table + (tile * g.KH * g.KW * R + r) * 4
        for kh in range(g.KH):
            iy = oy * g.SH - g.PT + kh * g.DH
            for kw in range(g.KW):
                ix = ox * g.SW - g.PL + kw * g.DW
                inside = p < last and iy >= 0 and iy < g.IH and ix >= 0 and ix < g.IW
                store_i32(at, (iy * g.IW + ix) * pixel_bytes if inside else -1)
                at += R * 4
        ox += 1
        if ox == g.OW:
            oy, ox = oy + 1, 0
