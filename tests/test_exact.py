"""Inexact algorithms: that they can be forbidden, give equal bits, and keep NaN and infinity.
test_accuracy.py has how large their errors are."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
import pytest
from graphs import Build
from onnx import TensorProto, helper, numpy_helper
from parity import onnxruntime_run

import minseg
from minseg.kernels.core import jit
from minseg.kernels.core.registry import Deferred, all_kernels
from minseg.plan import planner
from minseg.plan.plan import KernelStep
from minseg.plan.planner import make_plan
from minseg.precision import Precision
from minseg.runtime import compiled
from minseg.runtime.compiled import LOOKED_AT, CompiledExecutor

pytestmark = [pytest.mark.kernels]

INEXACT = [k for k in all_kernels() if k.precision < Precision.EXACT]


def wide_model() -> bytes:
    """Two 3×3 convolutions of 64 channels and a ReLU between."""
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((64, c, 3, 3)) / np.sqrt(9 * c / 2) for c in (64, 64)]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["y"], pads=[1, 1, 1, 1]),
    ]
    shape = [1, 64, 40, 40]
    graph = helper.make_graph(
        nodes,
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(w.astype(np.float32), f"w{i}") for i, w in enumerate(weights)],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def test_exact_sessions_use_exact_kernels_only() -> None:
    names = {k.name for k in INEXACT}
    assert names
    fast, exact = minseg.load(wide_model()), minseg.load(wide_model(), precision="exact")
    assert {s.kernel for s in fast.plan_summary()} & names
    assert not {s.kernel for s in exact.plan_summary()} & names
    x = np.random.default_rng(1).standard_normal((1, 64, 40, 40)).astype(np.float32)
    a, b = fast.run(None, {"x": x})[0], exact.run(None, {"x": x})[0]
    assert a.shape == b.shape
    assert 0 < np.abs(a - b).max() <= 1e-3


@pytest.mark.parametrize("precision", Precision)
def test_equal_runs_give_equal_bits(precision: Precision) -> None:
    """Same input and plan, whichever thread takes which part of the work."""
    x = np.random.default_rng(2).standard_normal((1, 64, 40, 40)).astype(np.float32)
    sessions = [minseg.load(wide_model(), threads=t, precision=precision) for t in (1, 1, 2, 2, 3)]
    results = [s.run(None, {"x": x})[0].tobytes() for s in sessions for _ in range(8)]
    assert len(set(results)) == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_spread_as_in_onnxruntime(special: float, threads: int) -> None:
    session = minseg.load(wide_model(), threads=threads)
    assert {s.kernel for s in session.plan_summary()} & {k.name for k in INEXACT}
    x = np.random.default_rng(1).standard_normal((1, 64, 40, 40)).astype(np.float32)
    usual = session.run(None, {"x": x})[0]
    x[0, 3, 20, 7], x[0, 5, 2, 30] = special, special
    got = session.run(None, {"x": x})[0]
    (expected,) = onnxruntime_run(wide_model(), {"x": x})
    finite = np.isfinite(expected)
    assert 0 < finite.sum() < finite.size
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    np.testing.assert_allclose(got[finite], usual[finite], atol=1e-3)


def test_sums_overflow_no_sooner_than_in_onnxruntime() -> None:
    x = np.random.default_rng(1).standard_normal((1, 64, 40, 40)).astype(np.float32)
    x *= 1e38 / np.abs(x).max()
    (expected,) = onnxruntime_run(wide_model(), {"x": x})
    assert np.isfinite(expected).all()
    got = minseg.load(wide_model()).run(None, {"x": x})[0]
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_nan_in_half_precision_spreads_as_the_definition_says(dtype: Any) -> None:
    b = Build(dtype)
    graph = b.graph(b.conv(b.input(1, 64, 24, 24), 64, pads=[1, 1, 1, 1]))
    fast, reference = minseg.Session(graph), minseg.Session(graph, backend="numpy")
    assert {s.kernel for s in fast.plan_summary()} & {k.name for k in INEXACT}
    x = np.random.default_rng(1).standard_normal((1, 64, 24, 24)).astype(dtype)
    x[0, 3, 10, 7] = np.nan
    got, expected = (s.run(None, {"x": x})[0].astype(np.float32) for s in (fast, reference))
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("place", [0, LOOKED_AT - 1, LOOKED_AT, -1])
def test_a_nan_is_found_wherever_it_is(place: int, threads: int) -> None:
    b = Build()
    graph = b.graph(b.conv(b.input(1, 64, 64, 64), 64, pads=[1, 1, 1, 1]))
    session = minseg.Session(graph, threads=threads)
    x = np.ones((1, 64, 64, 64), np.float32)
    assert x.size > LOOKED_AT
    x.reshape(-1)[place] = np.nan
    lost = np.isnan(session.run(None, {"x": x})[0][0, 0])
    row, column = divmod(place % x.size % 64**2, 64)
    near = np.abs(np.arange(64) - row)[:, None] <= 1, np.abs(np.arange(64) - column) <= 1
    np.testing.assert_array_equal(lost, near[0] & near[1])


def test_only_inexact_plans_look_at_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Build()
    x = b.input(1, 64, 24, 24)
    winograd = b.graph(b.conv(x, 64, pads=[1, 1, 1, 1]))
    direct = b.graph(b.conv(x, 64, kernel=1))
    assert make_plan(winograd, {}).precision is Precision.F32
    assert make_plan(winograd, {}, precision=Precision.EXACT).precision is Precision.EXACT
    assert make_plan(direct, {}).precision is Precision.EXACT
    look = mock.Mock(return_value=True)
    monkeypatch.setattr(CompiledExecutor, "_is_moderate", look)
    picture = np.ones((1, 64, 24, 24), np.float32)
    for graph, expected in ((winograd, 2), (direct, 0)):
        session = minseg.Session(graph)
        look.reset_mock()
        session.run(None, {"x": picture})
        usual = session.run(None, {"x": picture})[0]
        assert look.call_count == expected
    picture[0, 3, 10, 7] = np.nan
    got = session.run(None, {"x": picture})[0]
    np.testing.assert_array_equal(np.isnan(got[0, 0]), np.isnan(picture[0, 3]))
    np.testing.assert_array_equal(got[~np.isnan(got)], usual[~np.isnan(got)])


def test_nan_and_infinity_spread_as_the_definition_says() -> None:
    session, reference = minseg.load(wide_model()), minseg.load(wide_model(), backend="numpy")
    x = np.random.default_rng(1).standard_normal((1, 64, 40, 40)).astype(np.float32)
    usual = session.run(None, {"x": x})[0]
    x[0, 3, 20, 7], x[0, 5, 2, 30] = np.nan, np.inf
    got, expected = session.run(None, {"x": x})[0], reference.run(None, {"x": x})[0]
    finite = np.isfinite(expected)
    assert 0 < finite.sum() < finite.size
    np.testing.assert_array_equal(np.isfinite(got), finite)
    np.testing.assert_allclose(got[finite], usual[finite], atol=1e-3)


def a_picture(special: float | None) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, 64, 40, 40)).astype(np.float32)
    if special is not None:
        x[0, 3, 20, 7] = special
    return x


@pytest.mark.parametrize("prepare", [True, False])
def test_no_run_plans_or_compiles(
    prepare: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once shapes were prepared or run, whatever numbers come; in an empty cache."""
    monkeypatch.setenv("MINSEG_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_linked", {})
    counts: Counter[str] = Counter()
    for module, name in ((compiled, "make_plan"), (jit, "_compile"), (planner, "select")):
        count_calls(monkeypatch, module, name, counts)
    session = minseg.load(wide_model())
    exact = minseg.load(wide_model(), precision="exact")
    if prepare:
        session.prepare()
    else:
        session.run(None, {"x": a_picture(None)})
    assert counts["make_plan"] == 1
    assert counts["_compile"] > 1 or jit.jit_disabled()
    counts.clear()
    pictures = [a_picture(special) for special in (None, np.nan, np.inf, -np.inf, 1e38, None)]
    results = [session.run(None, {"x": x})[0] for x in pictures * 2]
    assert not counts
    for x, got in zip(pictures[1:5], results[1:5], strict=True):
        np.testing.assert_array_equal(got, exact.run(None, {"x": x})[0])
    np.testing.assert_array_equal(results[0], results[5])
    for once, again in zip(results[:6], results[6:], strict=True):
        np.testing.assert_array_equal(once, again)


def count_calls(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, counts: Counter[str]
) -> None:
    function = getattr(module, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        counts[name] += 1
        return function(*args, **kwargs)

    monkeypatch.setattr(module, name, counting)


def test_plans_share_what_both_need() -> None:
    """Only steps whose kernels differ have constants of their own, and these are not made."""
    b = Build()
    x = b.conv(b.input(1, 64, 24, 24), 64, pads=[1, 1, 1, 1])
    plan = make_plan(b.graph(b.conv(x, 64, kernel=1)), {})
    assert plan.exact is not None and plan.exact.exact is None
    assert plan.exact.precision is Precision.EXACT > plan.precision
    usual, same = (s for s in plan.steps if isinstance(s, KernelStep) and s.node)
    other, also = (s for s in plan.exact.steps if isinstance(s, KernelStep) and s.node)
    assert same.launch is also.launch
    assert not any(isinstance(c, Deferred) for c in same.launch.constants)
    assert usual.kernel != other.kernel
    assert any(isinstance(c, Deferred) for c in other.launch.constants)


def test_precisions_are_ordered_and_named() -> None:
    exact, f32 = Precision
    assert exact > f32 and min(exact, f32) is f32 and exact >= Precision("exact")
    b = Build()
    graph = b.graph(b.conv(b.input(1, 64, 24, 24), 64, pads=[1, 1, 1, 1]))
    for asked in (exact, "exact"):
        session = minseg.Session(graph, precision=asked)
        assert session.precision is session.plan().precision is exact
        assert pickle.loads(pickle.dumps(session)).precision is exact
    assert minseg.Session(graph).plan().precision is f32
    with pytest.raises(minseg.InputError, match=r"^precision 'double' is none of 'exact', 'f32'$"):
        minseg.Session(graph, precision="double")
    with pytest.raises(minseg.InputError, match="True"):
        minseg.Session(graph, backend="numpy", precision=True)  # type: ignore[arg-type]


def test_a_plan_for_rare_numbers_keeps_no_weights() -> None:
    """It computes folded ones anew from the model's own, and gets the same."""
    b = Build()
    x = b.conv(b.input(1, 64, 24, 24), 64, pads=[1, 1, 1, 1])
    graph = b.graph(b.op("Mul", x, b.constant(np.full((1, 64, 1, 1), 0.3))))
    plan = make_plan(graph, {})
    assert plan.exact is not None
    (deferred,) = (c for s in plan.exact.steps for c in s.launch.constants if type(c) is Deferred)
    assert not isinstance(deferred.source, np.ndarray)
    again = make_plan(graph, {}, precision=Precision.EXACT)
    assert any(np.array_equal(deferred.made(), c) for s in again.steps for c in s.launch.constants)
