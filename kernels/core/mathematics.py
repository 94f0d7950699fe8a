"""Elementary functions on tiles, from the vocabulary of simd.py."""

from __future__ import annotations

from typing import Any

from minseg.kernels.core.jit import inline
from minseg.kernels.isa.simd import (
    absolute,
    fill,
    fma,
    maximum,
    minimum,
    power_of_two,
    round_even,
    select_less,
)

_LOG2_E = 1.4426950408889634
#: ln 2 in two parts, so that n * ln 2 is exact in the first.
_LN2_HIGH = 0.693359375
_LN2_LOW = -2.12194440054690583e-4


@inline
def exp(shape: Any, x: Any) -> Any:
    """e**x to about 1 ulp; 0 and infinity where f32 underflows and overflows; NaN stays NaN.

    Argument reduction x = n ln 2 + r, |r| <= ln 2 / 2, and the Taylor polynomial of degree 7 in
    r (its remainder there is below 2**-27); the scale 2**n goes in by halves, so that results
    near both ends of the range come out right.
    """
    x = maximum(fill(shape, -104.0), minimum(fill(shape, 89.0), x))
    n = round_even(x * fill(shape, _LOG2_E))
    r = fma(n, fill(shape, -_LN2_HIGH), x)
    r = fma(n, fill(shape, -_LN2_LOW), r)
    p = fill(shape, 1.0 / 5040.0)
    p = fma(p, r, fill(shape, 1.0 / 720.0))
    p = fma(p, r, fill(shape, 1.0 / 120.0))
    p = fma(p, r, fill(shape, 1.0 / 24.0))
    p = fma(p, r, fill(shape, 1.0 / 6.0))
    p = fma(p, r, fill(shape, 0.5))
    p = fma(p, r, fill(shape, 1.0))
    p = fma(p, r, fill(shape, 1.0))
    half = round_even(n * fill(shape, 0.5))
    return p * power_of_two(half) * power_of_two(n - half)


@inline
def expm1(shape: Any, x: Any) -> Any:
    """e**x - 1 to a few ulp: near 0, where the difference would cancel, its Taylor polynomial of
    degree 7 (relative remainder below 2**-27 for |x| < 1/4)."""
    p = fill(shape, 1.0 / 5040.0)
    p = fma(p, x, fill(shape, 1.0 / 720.0))
    p = fma(p, x, fill(shape, 1.0 / 120.0))
    p = fma(p, x, fill(shape, 1.0 / 24.0))
    p = fma(p, x, fill(shape, 1.0 / 6.0))
    p = fma(p, x, fill(shape, 0.5))
    near = fma(p * x, x, x)
    return select_less(absolute(x), fill(shape, 0.25), near, exp(shape, x) - fill(shape, 1.0))
