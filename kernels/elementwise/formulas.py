"""Element-wise operators as formulas on tiles, under their ONNX names.

All have one signature: the tile's shape, five operands (those past the operator's own are never
loaded), and two attributes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from minseg.kernels.core import activation
from minseg.kernels.core.jit import inline
from minseg.kernels.core.mathematics import exp, expm1
from minseg.kernels.isa.simd import (
    absolute,
    fill,
    floor,
    fma,
    maximum,
    minimum,
    round_even,
    select_less,
    sqrt,
)

Formula = Callable[..., Any]


@inline
def add(shape, a, b, c, d, e, alpha, beta):
    return a + b


@inline
def sub(shape, a, b, c, d, e, alpha, beta):
    return a - b


@inline
def mul(shape, a, b, c, d, e, alpha, beta):
    return a * b


@inline
def div(shape, a, b, c, d, e, alpha, beta):
    return a / b


@inline
def max_(shape, a, b, c, d, e, alpha, beta):
    return maximum(a, b)


@inline
def min_(shape, a, b, c, d, e, alpha, beta):
    return minimum(a, b)


@inline
def affine(shape, a, b, c, d, e, alpha, beta):
    """a*b + c: BatchNormalization, folded to one scale and one shift a channel."""
    return fma(a, b, c)


@inline
def prelu(shape, a, b, c, d, e, alpha, beta):
    return select_less(a, fill(shape, 0.0), a * b, a)


@inline
def neg(shape, a, b, c, d, e, alpha, beta):
    return fill(shape, -0.0) - a


@inline
def abs_(shape, a, b, c, d, e, alpha, beta):
    return absolute(a)


@inline
def sqrt_(shape, a, b, c, d, e, alpha, beta):
    return sqrt(a)


@inline
def reciprocal(shape, a, b, c, d, e, alpha, beta):
    return fill(shape, 1.0) / a


@inline
def floor_(shape, a, b, c, d, e, alpha, beta):
    return floor(a)


@inline
def ceil(shape, a, b, c, d, e, alpha, beta):
    return fill(shape, -0.0) - floor(fill(shape, -0.0) - a)


@inline
def round_(shape, a, b, c, d, e, alpha, beta):
    return round_even(a)


@inline
def exp_(shape, a, b, c, d, e, alpha, beta):
    return exp(shape, a)


@inline
def tanh(shape, a, b, c, d, e, alpha, beta):
    """-q / (q + 2) with q = e**(-2|x|) - 1, signed as x."""
    q = expm1(shape, fill(shape, -2.0) * absolute(a))
    minus = q / (q + fill(shape, 2.0))
    return select_less(a, fill(shape, 0.0), minus, fill(shape, -0.0) - minus)


@inline
def elu(shape, a, b, c, d, e, alpha, beta):
    return select_less(a, fill(shape, 0.0), fill(shape, alpha) * expm1(shape, a), a)


@inline
def fake_quantize(shape, a, b, c, d, e, alpha, beta):
    """OpenVINO's FakeQuantize: x, input low and high, output low and high; alpha is levels - 1.

    Points past the input range take the output range's ends; a NaN stays NaN.
    """
    steps = fill(shape, alpha)
    clamped = minimum(c, maximum(b, a))
    level = round_even((clamped - b) / (c - b) * steps)
    return level / steps * (e - d) + d


@inline
def quantize_dequantize(shape, a, b, c, d, e, alpha, beta):
    """DequantizeLinear(QuantizeLinear(x)): x, scale, zero point as f32; alpha and beta are the
    least and greatest integer of the type."""
    level = maximum(fill(shape, alpha), minimum(fill(shape, beta), round_even(a / b) + c))
    return (level - c) * b


@cache
def unary(kind: str) -> Formula:
    """An activation (see activation.py) as a formula on the first operand."""
    formula = activation.FORMULAS[kind]

    @inline
    def apply(shape, a, b, c, d, e, alpha, beta):
        return formula(shape, a, alpha, beta)

    return apply


def formula_of(kind: str) -> Formula | None:
    """The formula of an operator, if there is one."""
    return unary(kind) if kind in activation.FORMULAS else FORMULAS.get(kind)


FORMULAS: dict[str, Formula] = {
    "Add": add,
    "Sub": sub,
    "Mul": mul,
    "Div": div,
    "Max": max_,
    "Min": min_,
    "Affine": affine,
    "PRelu": prelu,
    "Neg": neg,
    "Abs": abs_,
    "Sqrt": sqrt_,
    "Reciprocal": reciprocal,
    "Floor": floor_,
    "Ceil": ceil,
    "Round": round_,
    "Exp": exp_,
    "Tanh": tanh,
    "Elu": elu,
    "FakeQuantize": fake_quantize,
    "QuantizeDequantize": quantize_dequantize,
}
