"""Graphs that tests of passes build by hand, and what must hold when any graph is optimised."""

from __future__ import annotations

import numpy as np

from minseg.graph.model import Graph, Node, TensorType, Value
from minseg.ops.evaluate import evaluate
from minseg.ops.infer import infer_node
from minseg.passes import optimize
from minseg.passes.rewrite import kind

NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


class Build:
    """A graph in the making; every method returns the name of a value."""

    def __init__(self, dtype=np.float32, seed=0, opset=18):
        self.dtype, self.opset = np.dtype(dtype), opset
        self.random = np.random.default_rng(seed)
        self.inputs, self.nodes, self.constants = [], [], {}
        self.types = {}

    def input(self, *shape, name="x", dtype=None):
        kind_of = TensorType(np.dtype(dtype or self.dtype), shape)
        self.inputs.append(Value(name, kind_of))
        self.types[name] = kind_of
        return name

    def constant(self, value, dtype=None):
        array = np.asarray(value, dtype or self.dtype)
        name = f"c{len(self.constants)}"
        self.constants[name], self.types[name] = array, TensorType.of(array)
        return name

    def ints(self, *values):
        return self.constant(np.array(values, np.int64), np.int64)

    def some(self, *shape, low=0.5, high=2.0):
        """A constant of random numbers away from zero."""
        return self.constant(self.random.uniform(low, high, shape))

    def op(self, name, *inputs, n_outputs=1, domain="", opset=None, others=None, **attributes):
        """``others`` are attributes that have the name of a parameter."""
        attributes |= others or {}
        outputs = tuple(f"v{len(self.nodes)}" + "bcd"[:i] for i in range(n_outputs))
        opset = opset or self.opset
        node = Node(f"n{len(self.nodes)}", name, inputs, outputs, attributes, domain, opset)
        self.nodes.append(node)
        self.types.update(zip(outputs, infer_node(node, self.types), strict=False))
        return outputs[0] if n_outputs == 1 else outputs

    def shape(self, name):
        return self.types[name].shape

    def conv(self, x, channels=4, kernel=3, group=1, bias=True, **attributes):
        weights = self.some(channels, self.shape(x)[1] // group, kernel, kernel, low=-1, high=1)
        inputs = [x, weights, *([self.some(channels)] if bias else [])]
        return self.op("Conv", *inputs, group=group, **attributes)

    def norm(self, x):
        return self.op("BatchNormalization", x, *(self.some(self.shape(x)[1]) for _ in range(4)))

    def transpose(self, x, perm):
        return self.op("Transpose", x, perm=perm)

    def graph(self, *outputs):
        values = tuple(Value(name, self.types[name]) for name in outputs)
        return Graph("g", tuple(self.inputs), values, tuple(self.nodes), dict(self.constants))


def feeds_of(graph):
    random = np.random.default_rng(7)
    return {
        v.name: (3 * random.standard_normal(v.type.shape)).astype(v.type.dtype)
        for v in graph.inputs
    }


def assert_same_results(graph, optimised):
    """Both graphs give the same names, dtypes, shapes and, as close as the dtype tells, values."""
    assert optimised.inputs == graph.inputs
    assert [v.name for v in optimised.outputs] == [v.name for v in graph.outputs]
    feeds = feeds_of(graph)
    expected, actual = evaluate(graph, feeds), evaluate(optimised, feeds)
    for name, want in expected.items():
        got = actual[name]
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype.kind != "f":
            np.testing.assert_array_equal(got, want)
            continue
        close = 1e-12 if want.dtype == np.float64 else 1e-5
        largest = np.abs(want[np.isfinite(want)]).max(initial=1.0)
        np.testing.assert_allclose(got, want, rtol=close, atol=close * largest)


def assert_types_are_right(graph):
    """Every value has a complete type, and is of it."""
    names = [o for node in graph.nodes for o in node.outputs if o]
    values = evaluate(graph, feeds_of(graph), capture=names)
    for name in names:
        found = graph.types[name]
        assert (found.dtype, found.shape) == (values[name].dtype, values[name].shape), name


def optimised(graph):
    """`optimize`, checked for everything that holds for every graph."""
    result = optimize(graph)
    assert_same_results(graph, result)
    assert_types_are_right(result)
    again = optimize(result)
    assert len(again.nodes) == len(result.nodes)
    assert all(a is b for a, b in zip(again.nodes, result.nodes, strict=True))
    return result


def kinds(graph):
    return [kind(node) for node in graph.nodes]


def activations(graph):
    return [node.attributes.get("activation", "") for node in graph.nodes]
