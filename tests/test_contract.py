"""What passes may join into one step, kernels do in one step."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import graphs
import numpy as np
import pytest
from graphs import feeds_of, kinds, optimised
from test_passes_dynamic import Dynamic

import minseg
from minseg.graph.domains import MICROSOFT, MINSEG
from minseg.graph.model import Graph
from minseg.kernels.core import activation
from minseg.ops import registry
from minseg.ops.dialects.fused import CONVOLUTIONS
from minseg.ops.evaluate import evaluate
from minseg.ops.registry import ACTIVATION, Trait, having, newest
from minseg.ops.types import same
from minseg.passes import optimize
from minseg.plan.plan import KernelStep
from minseg.plan.planner import make_plan

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

CHANNELS = 4
#: Steps of the results that become bytes.
STEP = 0.25
LAYOUTS = {
    "dense": {},
    "strided": {"strides": (2, 1), "dilations": (1, 2), "pads": (1, 0, 2, 1)},
    "grouped": {"group": 2},
    "depthwise": {"group": CHANNELS},
}


class Fused(NamedTuple):
    """A convolution and what follows it. Inputs and results are "floats", "bytes", or bytes that
    are "dynamic"; ``residual`` is by what operator a tensor is added, and whether it comes first.
    """

    op: str
    x: str
    y: str
    residual: str
    first: bool
    activation: str
    layout: str


def all_fused() -> list[Fused]:
    """All that the table of convolutions allows."""
    found = []
    for op, can in CONVOLUTIONS.items():
        inputs = ["floats", "bytes", *(["dynamic"] if can.dynamic else [])]
        for x, y, layout in product(inputs, ("floats", "bytes"), LAYOUTS):
            if x == "floats" and y == "bytes":
                continue
            sums = [("", False)]
            if can.byte_residual and y == "bytes":
                sums += product(("Add", "QLinearAdd"), (False, True))
            elif can.residual and x == "floats":
                sums += [("Add", False)]
            activations = having(Trait.FUSED if y == "floats" else Trait.CLAMP)
            for (residual, first), name in product(sums, ("", *sorted(activations))):
                if name and residual == "QLinearAdd":
                    continue
                if residual or name or x != "floats":
                    found.append(Fused(op, x, y, residual, first, name, layout))
    return found


class Build(Dynamic):
    def made(self, fused: Fused) -> Graph:
        """``fused`` in ONNX's operators."""
        y = self.convolution(fused)
        if fused.residual and fused.y == "floats":
            y = self.op("Add", y, self.input(*self.shape(y), name="z"))
        elif fused.residual:
            return self.graph(self.sum_of_bytes(y, fused))
        y = self.activated(y, fused.activation)
        return self.graph(y if fused.y == "floats" else self.quantised(y, STEP))

    def convolution(self, fused: Fused) -> str:
        x, layout = self.input(2, CHANNELS, 9, 8), LAYOUTS[fused.layout]
        filters = (CHANNELS, CHANNELS // layout.get("group", 1), 3, 3)
        if fused.x == "dynamic":
            q, scale, zero = self.quantiser(x)
            sums = self.op("ConvInteger", q, self.integers(*filters), zero, **layout)
            factor = self.op("Mul", scale, self.constant(0.01))
            y = self.op("Mul", self.op("Cast", sums, to=1), factor)
            return self.op("Add", y, self.bias(CHANNELS))
        if fused.x == "floats":
            w = self.some(*filters, low=-1, high=1)
        else:
            x, w = self.quantised(x), self.weights(*filters, axis=int(fused.op != "Conv"))
        return self.op(fused.op, x, w, self.some(CHANNELS), **layout)

    def activated(self, y: str, activation: str) -> str:
        bounds = (self.constant(-0.5), self.constant(3.0)) if activation == "Clip" else ()
        if not activation:
            return y
        return self.op(activation, y, *bounds, opset=newest(activation).since)

    def sum_of_bytes(self, y: str, fused: Fused) -> str:
        z = self.input(*self.shape(y), name="z")
        if fused.residual == "Add":
            operands = [self.quantised(y, STEP), self.quantised(z, 0.05, 90)]
            total = self.op("Add", *operands[:: -1 if fused.first else 1])
            return self.quantised(self.activated(total, fused.activation), 0.3)
        grid, other = (
            (self.constant(scale), self.constant(zero, np.uint8))
            for scale, zero in ((STEP, 128), (0.05, 9))
        )
        operands = [(self.op("QuantizeLinear", v, *g), *g) for v, g in ((y, grid), (z, other))]
        a, b = operands[:: -1 if fused.first else 1]
        total = self.op("QLinearAdd", *a, *b, *grid, domain=MICROSOFT, opset=1)
        return self.op("DequantizeLinear", total, *grid)


@pytest.mark.parametrize("fused", all_fused(), ids=lambda f: "-".join(map(str, f)))
def test_every_fused_step_has_a_kernel(fused):
    graph = Build().made(fused)
    can = CONVOLUTIONS[fused.op]
    op = can.floats if fused.x == "floats" else can.bytes
    left = {"QuantizeLinear", "DequantizeLinear", f"{MINSEG}.DynamicGrid"}
    assert [k for k in kinds(optimize(graph)) if k not in left] == [f"{MINSEG}.{op}"]
    plan = make_plan(graph, {v.name: v.type.shape for v in graph.inputs})
    assert all(isinstance(step, KernelStep) for step in plan.steps)


def one_of_each() -> list[Fused]:
    """Every kind of step, with activations and layouts by turns."""
    alike: dict[Fused, list[Fused]] = {}
    for fused in all_fused():
        alike.setdefault(fused._replace(activation="", layout=""), []).append(fused)
    return [found[7 * at % len(found)] for at, found in enumerate(alike.values())]


@pytest.mark.parametrize("fused", one_of_each(), ids=lambda f: "-".join(map(str, f)))
def test_fused_steps_give_what_their_operators_give(fused):
    graph = Build().made(fused)
    feeds = feeds_of(graph)
    (want,) = evaluate(graph, feeds).values()
    (got,) = minseg.Session(graph, threads=1).run(None, feeds)
    # Sums of floats next to the middle between two bytes may be rounded to either.
    apart = 0.0 if fused.y == "floats" else 0.3
    error = np.abs(got - want)
    assert np.count_nonzero(error > 1e-4) <= (0 if apart == 0 else 0.01 * error.size)
    assert error.max() <= apart + 1e-4
    assert want.std() > 0


def test_kernels_have_a_formula_for_every_activation_that_is_fused():
    names = {"Silu" if kind == "Swish" else kind for kind in having(Trait.FUSED)}
    assert names == activation.FORMULAS.keys() - {""}


OTHERS = {
    "ResizeArgMax": lambda b, x: b.op(
        "ArgMax", b.op("Resize", x, "", b.constant([1, 1, 2, 2]), mode="linear"), axis=1
    ),
    "QuantizeDequantize": lambda b, x: b.op("Exp", b.quantised(x)),
    "IntegerAdd": lambda b, x: b.quantised(
        b.op("Add", b.quantised(x), b.quantised(b.op("Abs", x), 0.1, 0)), STEP
    ),
    "IntegerLookup": lambda b, x: b.quantised(b.op("Sigmoid", b.quantised(x)), 0.01, 0),
    "IntegerAveragePool": lambda b, x: b.quantised(
        b.op("AveragePool", b.quantised(x), kernel_shape=(2, 3)), STEP
    ),
    "DynamicGrid": lambda b, x: b.op("DequantizeLinear", *b.quantiser(x)),
}


@pytest.mark.parametrize("op", OTHERS)
def test_other_steps_that_passes_make_have_kernels(op):
    b = Build()
    graph = b.graph(OTHERS[op](b, b.input(1, CHANNELS, 9, 8)))
    assert f"{MINSEG}.{op}" in kinds(optimize(graph))
    plan = make_plan(graph, {v.name: v.type.shape for v in graph.inputs})
    assert all(isinstance(s, KernelStep) for s in plan.steps if s.node and s.node.domain)


@pytest.fixture
def bent(monkeypatch):
    """An activation of a domain that minseg does not have."""
    monkeypatch.setitem(registry._OPERATORS, ("toy", "Bent"), [])
    monkeypatch.setitem(activation.FORMULAS, "toy.Bent", activation.leaky_relu)

    @registry.operator("Bent", domain="toy", infer=same, traits=ACTIVATION | Trait.FUSED)
    def run(x: np.ndarray, *, slope: float = 0.25) -> np.ndarray:
        return np.where(x < 0, np.float32(slope) * x, x)

    yield lambda b, x: b.op("Bent", x, domain="toy", opset=1)
    having.cache_clear()


def test_a_definition_and_a_formula_are_enough(bent):
    """To be an element-wise kernel, a part of convolutions, and a table for bytes."""
    b = graphs.Build()
    x = b.input(1, CHANNELS, 9, 8)
    graph = b.graph(bent(b, x), bent(b, b.conv(x)))
    result = optimised(graph)
    assert kinds(result) == ["toy.Bent", "minseg.FusedConv"]
    assert result.nodes[1].attributes["activation_params"] == (0.25,)
    plan = make_plan(graph, {v.name: v.type.shape for v in graph.inputs})
    assert all(isinstance(step, KernelStep) for step in plan.steps)

    b = Build()
    y = bent(b, b.quantised(b.input(1, CHANNELS, 9, 8)))
    assert "minseg.IntegerLookup" in kinds(optimize(b.graph(b.quantised(y))))
