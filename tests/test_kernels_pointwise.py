"""Element-wise, softmax and arg-max kernels against formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from kernel_harness import Case, channels, check, family, normal, sizes

from minseg.kernels.core import activation
from minseg.kernels.core.registry import Kernel, all_kernels
from minseg.kernels.elementwise.elementwise import Elementwise
from minseg.kernels.elementwise.formulas import FORMULAS
from minseg.kernels.normalize.softmax import ArgMax, Softmax

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

EPS, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
Reference = Callable[..., np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _line(x: np.ndarray, alpha: float, beta: float) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


#: Operator to (operands, formula of alpha, beta and the operands).
REFERENCES: dict[str, tuple[int, Reference]] = {
    "Add": (2, lambda a, b, x, y: x + y),
    "Sub": (2, lambda a, b, x, y: x - y),
    "Mul": (2, lambda a, b, x, y: x * y),
    "Div": (2, lambda a, b, x, y: x / y),
    "Max": (2, lambda a, b, x, y: np.maximum(x, y)),
    "Min": (2, lambda a, b, x, y: np.minimum(x, y)),
    "PRelu": (2, lambda a, b, x, y: np.where(x < 0, x * y, x)),
    "Affine": (3, lambda a, b, x, y, z: x * y + z),
    "Neg": (1, lambda a, b, x: -x),
    "Abs": (1, lambda a, b, x: np.abs(x)),
    "Sqrt": (1, lambda a, b, x: np.sqrt(x)),
    "Reciprocal": (1, lambda a, b, x: 1 / x),
    "Floor": (1, lambda a, b, x: np.floor(x)),
    "Ceil": (1, lambda a, b, x: np.ceil(x)),
    "Round": (1, lambda a, b, x: np.rint(x)),
    "Exp": (1, lambda a, b, x: np.exp(x)),
    "Tanh": (1, lambda a, b, x: np.tanh(x)),
    "Elu": (1, lambda a, b, x: np.where(x < 0, a * np.expm1(x), x)),
    "Relu": (1, lambda a, b, x: np.maximum(x, 0)),
    "Clip": (1, lambda a, b, x: np.clip(x, a, b)),
    "LeakyRelu": (1, lambda a, b, x: np.where(x < 0, a * x, x)),
    "HardSigmoid": (1, lambda a, b, x: _line(x, a, b)),
    "HardSwish": (1, lambda a, b, x: x * _line(x, 1 / 6, 0.5)),
    "Sigmoid": (1, lambda a, b, x: _sigmoid(x)),
    "Silu": (1, lambda a, b, x: x * _sigmoid(x)),
}
#: Operators with steps are tested on their own: near a step the f32 and f64 results differ.
STEPS = {"FakeQuantize", "QuantizeDequantize"}


def test_every_formula_has_a_reference() -> None:
    activations = activation.FORMULAS.keys() - {""}
    assert FORMULAS.keys() | activations == REFERENCES.keys() | STEPS


@st.composite
def broadcasts(draw: st.DrawFn) -> Elementwise:
    op = draw(st.sampled_from(sorted(REFERENCES)))
    count = REFERENCES[op][0]
    rank = draw(st.integers(1, 4))
    shape = tuple(draw(sizes(40 if axis == rank - 1 else 7)) for axis in range(rank))
    operands = [shape]
    for _ in range(count - 1):
        kept = draw(st.integers(0, rank))
        ones = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
        part = tuple(1 if one else d for one, d in zip(ones, shape, strict=True))
        operands.append(draw(st.sampled_from([shape, part, part[rank - kept :]])))
    if draw(st.booleans()):
        operands = draw(st.permutations(operands))
    alpha = draw(st.sampled_from([-1.5, 0.0, 0.25]))
    return Elementwise(op, shape, tuple(operands), alpha, draw(st.sampled_from([0.5, 2.0])))


@family(Elementwise, broadcasts())
def elementwise_case(q: Elementwise, rng: np.random.Generator) -> Case:
    inputs = tuple(normal(rng, shape) for shape in q.operands)
    formula = REFERENCES[q.op][1]
    wide = [x.astype(np.float64) for x in inputs]
    with np.errstate(all="ignore"):
        expected = np.broadcast_to(formula(q.alpha, q.beta, *wide), q.shape)
    # A product and a sum that nearly cancel leave the rounding errors of what they were.
    # Between HardSigmoid's ends |alpha*x| is below 1 + |beta|, between HardSwish's |x| below 3.
    cancelling = {
        "Affine": math.prod(np.abs(x).max() + 1 for x in wide),
        "HardSigmoid": 2 + 4 * abs(q.beta),
        "HardSwish": 6.0,
    }
    largest = cancelling.get(q.op, 0.0)
    huge = np.abs(expected) > np.finfo(np.float32).max
    expected = np.where(huge, np.copysign(np.inf, expected), expected)
    size = np.abs(np.where(np.isfinite(expected), expected, 0))
    # What is smaller than normal numbers may be lost, and Silu multiplies that by x.
    lost = TINY * (np.abs(wide[0]) if q.op == "Silu" else 10)
    return Case(inputs, expected, tolerance=4 * EPS * size + EPS * largest + lost)


def _kernels(family_: type) -> Any:
    found = [k for k in all_kernels() if k.family is family_]
    assert found
    return pytest.mark.parametrize("kernel", found, ids=lambda k: k.name)


SPECIALS = np.array(
    [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, 3e38, -3e38, 88.0, 89.0, -87.0, -103.0, -110.0],
    np.float32,
)


@_kernels(Elementwise)
@pytest.mark.parametrize("op", sorted(REFERENCES))
def test_special_values(kernel: Kernel, op: str) -> None:
    count, formula = REFERENCES[op]
    x = np.resize(SPECIALS, (1, 1, 1, len(SPECIALS) + 4))
    inputs = (x,) * count
    problem = Elementwise(op, x.shape, (x.shape,) * count, 0.25, 0.5)
    with np.errstate(all="ignore"):
        exact = formula(0.25, 0.5, *(i.astype(np.float64) for i in inputs))
        expected = exact.astype(np.float32).astype(np.float64)
    if op in ("HardSwish", "Silu"):
        # -inf * 0 has no value; what the formula says is NaN in float64 as in float32.
        assert np.isnan(expected[x == -np.inf]).all()
    tolerance = 8 * EPS * np.abs(np.where(np.isfinite(expected), expected, 0)) + 1e-37
    check(kernel, problem, Case(inputs, expected, tolerance=tolerance))


@_kernels(Elementwise)
def test_long_rows_are_shared_by_threads(kernel: Kernel) -> None:
    for width in (16384, 16385, 50007):
        shape = (1, 1, 1, width)
        x = normal(np.random.default_rng(width), shape)
        expected = np.maximum(x, 0).astype(np.float64)
        check(kernel, Elementwise("Relu", shape, (shape,)), Case((x,), expected), threads=2)


@_kernels(Elementwise)
@pytest.mark.parametrize("per_channel", [False, True])
def test_quantisation_in_steps(kernel: Kernel, per_channel: bool) -> None:
    """Values on the grid's points, its halves and past its ends, with scales that are exact."""
    C = 5
    zero = np.array([0, 3, 128, 255, 7] if per_channel else [128] * C, np.float32)
    scale = np.array([0.5, 1, 0.25, 2, 0.125] if per_channel else [0.5] * C, np.float32)
    zero, scale = zero.reshape(1, C, 1, 1), scale.reshape(1, C, 1, 1)
    points = np.arange(-300, 300, 0.5, np.float32).reshape(1, 1, 30, 40)
    x = (points * scale).astype(np.float32)
    level = np.clip(np.rint(points.astype(np.float64)) + zero, 0, 255)
    expected = (level - zero) * scale.astype(np.float64)
    shapes = (x.shape, scale.shape, zero.shape)
    problem = Elementwise("QuantizeDequantize", x.shape, shapes, 0.0, 255.0)
    check(kernel, problem, Case((x, scale, zero), expected))

    low, high = -zero * scale, (255 - zero) * scale
    bounds = (low, high, 2 * low, 2 * high)
    problem = Elementwise("FakeQuantize", x.shape, (x.shape, *[low.shape] * 4), 255.0)
    whole = np.abs(points % 1) < 0.25  # halves fall either way once scaled in f32
    expected = np.where(whole, 2 * expected, np.nan)
    tolerance = np.where(whole, 4 * EPS * np.abs(high - low).max(), np.inf)
    case = Case((np.where(whole, x, 0).astype(np.float32), *bounds), expected)
    inside = np.where(whole, expected, 0.0)
    check(kernel, problem, Case(case.inputs, inside, tolerance=np.nan_to_num(tolerance, posinf=9)))


@st.composite
def axes(draw: st.DrawFn, family_: type) -> Any:
    """A problem along the channels of pictures, or along any axis."""
    if draw(st.booleans()):
        return family_(draw(sizes(3)), draw(channels(3)), draw(sizes(70)), True)
    return family_(draw(sizes(3)), draw(sizes(19)), draw(sizes(70)))


def laid(q: Softmax | ArgMax, x: np.ndarray) -> np.ndarray:
    """[outer][axis][inner] as the problem says it lies."""
    return x[:, :, None] if q.over_channels else x


@family(Softmax, axes(Softmax))
def softmax_case(q: Softmax, rng: np.random.Generator) -> Case:
    x = normal(rng, (q.outer, q.axis, q.inner))
    below = x.astype(np.float64) - x.max(1, keepdims=True)
    y = np.exp(below) / np.exp(below).sum(1, keepdims=True)
    # A difference is rounded once, and its error is relative in the result.
    tolerance = (q.axis + 8 + np.abs(below)) * EPS * y + 1e-37
    return Case((laid(q, x),), laid(q, y), tolerance=laid(q, tolerance))


@family(ArgMax, axes(ArgMax))
def argmax_case(q: ArgMax, rng: np.random.Generator) -> Case:
    x = rng.integers(-3, 4, (q.outer, q.axis, q.inner)).astype(np.float32)
    return Case((laid(q, x),), x.argmax(1), dtype=np.int64)


@_kernels(Softmax)
def test_softmax_of_special_values(kernel: Kernel) -> None:
    x = np.zeros((1, 3, 40), np.float32)
    x[0, 1, 5], x[0, 2, 7], x[0, 0, 9], x[0, 1, 33] = np.nan, -np.inf, 1e30, 200.0
    with np.errstate(all="ignore"):
        e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
        y = e / e.sum(1, keepdims=True)
    assert np.isnan(y[0, :, 5]).all()
    assert y[0, 2, 7] == 0
    q = Softmax(1, 3, 40, True)
    check(kernel, q, Case((laid(q, x),), laid(q, y), tolerance=8 * EPS))


@_kernels(ArgMax)
def test_an_index_among_special_values(kernel: Kernel) -> None:
    """The first of equals; a NaN only where it comes first."""
    x = np.array([[np.nan, 1, 2], [1, np.nan, 2], [3, 3, 1], [-np.inf] * 3], np.float32)
    q = ArgMax(1, 3, 4, True)
    check(kernel, q, Case((laid(q, x.T[None]),), np.array([[0, 2, 0, 0]]), dtype=np.int64))


@_kernels(Softmax)
def test_softmax_over_many_positions(kernel: Kernel) -> None:
    q = Softmax(2, 5, 3001, True)
    check(kernel, q, softmax_case(q, np.random.default_rng(0)), threads=2)
