"""Activations that exporters write out, put back into the one operator that they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from minseg.graph.model import Graph, Node
from minseg.ops.registry import Trait, has, having
from minseg.passes.rewrite import Sweep, attribute, kind, make, sweep


def recognise_clips(graph: Graph) -> Graph:
    """Relu, Min, Max and Clip by numbers, alone or in a chain, become one Relu or Clip."""
    return sweep(graph, _clip)


def recognise_activations(graph: Graph) -> Graph:
    """Products that spell Swish, HardSwish, HardSigmoid, Mish or Gelu, and PRelu of one slope."""
    return sweep(graph, _activation, _leaky)


# --- clamping ---


@dataclass(frozen=True)
class Clamp:
    """min(max(source, low), high)"""

    source: str
    low: float
    high: float


def clamp_of(node: Node | None, state: Sweep) -> Clamp | None:
    """What a node of floats clamps, None where it does something else or bounds vary."""
    if node is None or state.type(node.outputs[0]).dtype not in (np.float16, np.float32, float):
        return None
    if kind(node) == "Relu":
        return Clamp(node.inputs[0], 0.0, np.inf)
    if kind(node) in ("Min", "Max") and len(node.inputs) == 2:
        return _one_sided(node, state)
    if kind(node) != "Clip" or not state.parameters_are_constant(node):
        return None
    # Before opset 11 a bound left out is the last finite float32.
    most = np.inf if node.opset >= 11 else float(np.finfo(np.float32).max)
    (low,) = state.parameter(node, "min", 1) or (-most,)
    (high,) = state.parameter(node, "max", 2) or (most,)
    return Clamp(node.inputs[0], low, high)


def _one_sided(node: Node, state: Sweep) -> Clamp | None:
    result = state.type(node.outputs[0])
    for source, operand in (node.inputs, node.inputs[::-1]):
        bound = state.scalar(operand)
        if bound is not None and state.type(source).shape == result.shape:
            limits = (bound, np.inf) if node.op == "Max" else (-np.inf, bound)
            return Clamp(source, *limits)
    return None


def _clip(node: Node, state: Sweep) -> Sequence[Node] | None:
    """Clamping twice is clamping once, with the first bounds clamped by the second.

    That holds for bounds in the wrong order too: what they give is a constant.
    """
    outer = clamp_of(node, state)
    if outer is None:
        return None
    before = state.producer(outer.source, *having(Trait.CLAMP))
    inner = clamp_of(before, state) if state.is_used_once(outer.source) else None
    if inner is None and has(node, Trait.CLAMP):
        return None
    if inner is not None:
        low, high = (min(max(b, outer.low), outer.high) for b in (inner.low, inner.high))
        outer = Clamp(inner.source, low, high)
    if (outer.low, outer.high) == (0, np.inf):
        return (make("Relu", (outer.source,), node.outputs, node.name),)
    dtype = state.type(outer.source).dtype
    bounds = (
        state.add_constant(np.array(b, dtype), f"{node.outputs[0]}/{side}")
        if np.isfinite(b)
        else ""
        for side, b in (("min", outer.low), ("max", outer.high))
    )
    return (make("Clip", (outer.source, *bounds), node.outputs, node.name),)


# --- products ---


@dataclass(frozen=True)
class Product:
    """number * factors[0] * factors[1] * ..., the factors being values of the graph."""

    number: float
    factors: tuple[str, ...]


def product_of(node: Node, state: Sweep) -> Product:
    """A tree of Mul, and Div by numbers, that nothing else looks into, as one product."""
    left, right = node.inputs
    divisor = state.scalar(right)
    if kind(node) == "Div" and divisor:
        a = _operand(left, state)
        return Product(a.number / divisor, a.factors)
    if kind(node) != "Mul":
        return Product(1.0, node.outputs)
    a, b = _operand(left, state), _operand(right, state)
    return Product(a.number * b.number, a.factors + b.factors)


def _operand(name: str, state: Sweep) -> Product:
    number = state.scalar(name)
    if number is not None:
        return Product(number, ())
    node = state.producer(name, "Mul", "Div") if state.is_used_once(name) else None
    return Product(1.0, (name,)) if node is None else product_of(node, state)


def _activation(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) not in ("Mul", "Div"):
        return None
    product = product_of(node, state)
    result = state.type(node.outputs[0])
    matcher = Matcher(state, result.dtype)
    if result.dtype is None or result.dtype.kind != "f":
        return None
    for read in _READINGS:
        new = read(product, matcher, node)
        if new is not None and state.type(new.inputs[0]).shape == result.shape:
            return (new,)
    return None


class Matcher:
    """Looks for formulas behind values, with numbers as exact as ``dtype`` can tell."""

    def __init__(self, state: Sweep, dtype: np.dtype | None):
        self.state = state
        self.tolerance = 4 * float(np.finfo(dtype).eps) if dtype and dtype.kind == "f" else 0.0

    def is_number(self, number: float | None, expected: float) -> bool:
        return number is not None and abs(number - expected) <= self.tolerance * abs(expected)

    def inside(self, name: str, op: str) -> str | None:
        """x where ``name`` is op(x)."""
        node = self.state.producer(name, op)
        return node.inputs[0] if node and self.state.is_used_once(name) else None

    def shifted(self, name: str, number: float) -> str | None:
        """x where ``name`` is x + number."""
        node = self.state.producer(name, "Add")
        if node is None or not self.state.is_used_once(name):
            return None
        left, right = node.inputs
        pairs = ((left, right), (right, left))
        return next((x for x, c in pairs if self.is_number(self.state.scalar(c), number)), None)

    def scaled(self, name: str, number: float) -> str | None:
        """x where ``name`` is x * number."""
        node = self.state.producer(name, "Mul", "Div")
        product = product_of(node, self.state) if node and self.state.is_used_once(name) else None
        if product is None or len(product.factors) != 1:
            return None
        return product.factors[0] if self.is_number(product.number, number) else None

    def ramp(self, name: str) -> str | None:
        """x where ``name`` is min(max(x + 3, 0), 6)."""
        clamp = clamp_of(self.state.producer(name, "Clip"), self.state)
        if clamp is None or not self.state.is_used_once(name):
            return None
        return self.shifted(clamp.source, 3.0) if (clamp.low, clamp.high) == (0, 6) else None


Reading: TypeAlias = Callable[[Product, Matcher, Node], "Node | None"]
Inner: TypeAlias = Callable[[Matcher, str], "str | None"]


def _hard_sigmoid(product: Product, match: Matcher, node: Node) -> Node | None:
    """clip(x + 3, 0, 6) / 6"""
    if len(product.factors) != 1 or not match.is_number(product.number, 1 / 6):
        return None
    x = match.ramp(product.factors[0])
    if x is None:
        return None
    return make("HardSigmoid", (x,), node.outputs, node.name, alpha=1 / 6, beta=0.5)


def _gate(number: float, inner: Inner, op: str, opset: int) -> Reading:
    """number * x * inner(x)"""

    def read(product: Product, match: Matcher, node: Node) -> Node | None:
        if len(product.factors) != 2 or not match.is_number(product.number, number):
            return None
        for x, gate in (product.factors, product.factors[::-1]):
            if inner(match, gate) == x:
                return make(op, (x,), node.outputs, node.name, opset=opset)
        return None

    return read


def _sigmoid(match: Matcher, name: str) -> str | None:
    return match.inside(name, "Sigmoid")


def _sixth_ramp(match: Matcher, name: str) -> str | None:
    """HardSigmoid with slope 1/6 and offset 1/2, which is HardSwish's."""
    node = match.state.producer(name, "HardSigmoid")
    if node is None or not match.state.is_used_once(name):
        return None
    alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
    slope = abs(alpha - 1 / 6) <= 1e-7 and beta == 0.5
    return node.inputs[0] if slope else None


def _tanh_softplus(match: Matcher, name: str) -> str | None:
    inner = match.inside(name, "Tanh")
    return inner and match.inside(inner, "Softplus")


def _one_plus_erf(match: Matcher, name: str) -> str | None:
    """1 + erf(x / sqrt(2))"""
    erf = match.shifted(name, 1.0)
    scaled = erf and match.inside(erf, "Erf")
    return scaled and match.scaled(scaled, 0.5**0.5)


_READINGS: tuple[Reading, ...] = (
    _gate(1.0, _sigmoid, "Swish", 24),
    _gate(1.0, _sixth_ramp, "HardSwish", 14),
    _gate(1 / 6, Matcher.ramp, "HardSwish", 14),
    _hard_sigmoid,
    _gate(1.0, _tanh_softplus, "Mish", 18),
    _gate(0.5, _one_plus_erf, "Gelu", 20),
)


def _leaky(node: Node, state: Sweep) -> Sequence[Node] | None:
    """PRelu with a single slope is LeakyRelu."""
    slope = state.scalar(node.inputs[1]) if kind(node) == "PRelu" else None
    if slope is None:
        return None
    return (make("LeakyRelu", node.inputs[:1], node.outputs, node.name, alpha=slope),)
