"""Networks in half precision run in float32 and keep the dtypes of their inputs and outputs."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from graphs import Build

from minseg.ops.evaluate import evaluate
from minseg.passes import optimize


def half_network(dtype):
    """Input, Cast, Conv, Relu, Conv, Cast back to float32: three outputs, two of them half."""
    b = Build(dtype)
    x = b.input(1, 3, 9, 8)
    first = b.op("Relu", b.conv(x, 6, pads=(1, 1, 1, 1)))
    second = b.conv(first, 4)
    return b.graph(first, second, b.op("Cast", second, to=1))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_networks_are_computed_in_float32(dtype) -> None:
    graph = half_network(dtype)
    wide = optimize(graph)
    inner = {o for n in wide.nodes if "Conv" in n.op for o in n.outputs}
    assert inner
    assert all(wide.types[name].dtype == np.float32 for name in inner)
    assert all(a.dtype != dtype for a in wide.constants.values())
    x = np.random.default_rng(0).standard_normal((1, 3, 9, 8)).astype(dtype)
    expected, got = evaluate(graph, {"x": x}), evaluate(wide, {"x": x})
    step = float(ml_dtypes.finfo(dtype).eps)
    for (name, a), b in zip(expected.items(), got.values(), strict=True):
        assert b.shape == a.shape, name
        assert b.dtype == a.dtype, name
        near = 20 * step * max(1.0, float(np.abs(a.astype(np.float64)).max()))
        assert np.abs(a.astype(np.float64) - b.astype(np.float64)).max() <= near, name


def test_single_precision_and_light_work_in_half_stay() -> None:
    for dtype, op in ((np.float32, "Conv"), (np.float16, "Relu")):
        b = Build(dtype)
        x = b.input(1, 3, 5, 5)
        graph = b.graph(b.conv(x) if op == "Conv" else b.op(op, x))
        assert [n.op for n in optimize(graph).nodes] == [op]
