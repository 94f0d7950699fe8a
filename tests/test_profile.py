"""Profiles: that times, sums and shares fit together, in Python, on the terminal and as a trace."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from test_session import feed, small_model

import minseg
from minseg.cli import main
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.registry import usable
from minseg.measure import profile as measured
from minseg.measure.peaks import Peaks
from minseg.measure.profile import Profile
from minseg.measure.trace import trace
from minseg.plan.plan import REFERENCE, StepSummary
from minseg.runtime.timings import Timings

pytestmark = [pytest.mark.kernels, pytest.mark.nojit]

PEAKS = Peaks(flops=100e9, bytes=10e9, integer=400e9)
FEEDS = feed(1, 3, 12, 10)


def mixed_model() -> onnx.ModelProto:
    """Kernels before and after a node that only its reference operator runs."""
    model = small_model(dynamic=False)
    model.graph.node.append(helper.make_node("CumSum", ["y", "one"], ["c"], "between"))
    model.graph.node.append(helper.make_node("Relu", ["c"], ["z"], "last"))
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [], [1]))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 5, 8, 10])
    )
    return model


def profiled(backend: str, threads: int, rounds: int = 3) -> tuple[minseg.Session, Profile]:
    session = minseg.load(mixed_model(), backend=backend, threads=threads)
    return session, session.profile(feed(1, 3, 8, 10), rounds=rounds, peaks=PEAKS)


backends = pytest.mark.parametrize(
    ("backend", "threads"), [("numba", 1), ("numba", 2), ("numba", 3), ("numpy", 1)]
)


@backends
def test_times_fit_together(backend: str, threads: int) -> None:
    session, profile = profiled(backend, threads)
    runs, spans = profile.timings.runs, profile.timings.spans
    steps = profile.timings.steps
    assert spans.shape == (3, len(steps), threads, 2)
    assert (profile.rounds, profile.threads) == (3, threads)
    assert (np.diff(runs, axis=1) > 0).all()
    assert (runs[1:, 0] >= runs[:-1, 1]).all()
    assert (spans[..., 1] >= spans[..., 0]).all()
    done = spans[..., 1].max(axis=2)
    assert (done > spans[..., 0].min(axis=2)).all(), "a step that no thread worked on"
    assert (spans[:, 1:, :, 0].min(axis=2) >= done[:, :-1]).all(), "a step began too early"
    assert (spans.min(axis=(1, 2, 3)) >= runs[:, 0]).all()
    assert (spans.max(axis=(1, 2, 3)) <= runs[:, 1]).all()
    if backend == "numba":
        assert list(steps) == session.plan_summary()
        assert {s.name for s in steps if s.kernel == REFERENCE} == {"between"}
    else:
        assert [s.name for s in steps] == [n.name for n in session.graph.nodes]
        assert {s.kernel for s in steps} == {REFERENCE}
        assert all(s.shape is not None and s.bytes > 0 for s in steps)


@backends
def test_sums_are_those_of_the_steps(backend: str, threads: int) -> None:
    _, profile = profiled(backend, threads)
    whole = profile.cost
    for total in (profile.totals, profile.steps):
        assert math.isclose(sum(t.cost.seconds for t in total), whole.seconds)
        assert math.isclose(sum(t.cost.idle for t in total), whole.idle)
        assert sum(t.cost.flops for t in total) == whole.flops
        assert sum(t.cost.bytes for t in total) == whole.bytes
    assert sum(t.steps for t in profile.totals) == len(profile.steps)
    assert 0 < profile.outside < profile.seconds
    assert all(0 <= s.cost.waiting <= 1 for s in profile.steps)
    assert all(s.cost.bound in ("compute", "memory", "overhead") for s in profile.steps)


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_profiling_changes_no_results(backend: str) -> None:
    session = minseg.load(small_model(), backend=backend, threads=2)
    before = session.run(None, FEEDS)[0]
    session.profile(FEEDS, rounds=2, peaks=PEAKS)
    np.testing.assert_array_equal(session.run(None, FEEDS)[0], before)


def made_up() -> Profile:
    """Two rounds of three steps on two threads, in which everything can be worked out by hand."""
    steps = (
        StepSummary(
            "a", "Conv", "fast", "float32", (1, 2), "blocked", 4_000_000, 1_000_000, 10_000
        ),
        StepSummary("b", "Relu", "copy", "float32", (1, 2), "blocked", 0, 0, 80_000),
        StepSummary("c", "Conv", "fast", None, None, "plain", 1_000, 1_000, 100),
    )
    one = [[[100, 8100], [100, 4100]], [[8100, 12100], [8600, 12100]], [[12100, 13100]] * 2]
    spans = np.array([one, np.array(one) + 50_000])
    return Profile(Timings(steps, np.array([[0, 14_100], [50_000, 64_100]]), spans), PEAKS)


def test_costs_worked_out_by_hand() -> None:
    profile = made_up()
    a, b, c = (s.cost for s in profile.steps)
    assert [x.seconds for x in (a, b, c)] == pytest.approx([8e-6, 4e-6, 1e-6])
    assert [x.waiting for x in (a, b, c)] == pytest.approx([0.25, 0.0625, 0])
    assert [x.gflops for x in (a, b, c)] == pytest.approx([500, 0, 1])
    assert [x.intensity for x in (a, b, c)] == pytest.approx([400, 0, 10])
    # Two cores: 200 GFLOP/s and 20 GB/s allow 5 µs, 4 µs and 5 ns.
    assert [x.peak_share for x in (a, b, c)] == pytest.approx([0.625, 1, 0.005])
    assert [x.bound for x in (a, b, c)] == ["compute", "memory", "overhead"]
    assert profile.seconds == pytest.approx(14.1e-6)
    assert profile.outside == pytest.approx(1.1e-6)
    assert [(t.op, t.kernel, t.steps) for t in profile.totals] == [
        ("Conv", "fast", 2),
        ("Relu", "copy", 1),
    ]
    convolutions = profile.totals[0].cost
    assert convolutions.seconds == pytest.approx(9e-6)
    assert convolutions.flops == 4_001_000
    assert convolutions.waiting == pytest.approx(2 / 9)
    unknown = Profile(profile.timings, None)
    assert unknown.cost.peak_share is None and unknown.cost.bound is None
    json.dumps(unknown.to_dict(), allow_nan=False)


def test_operations_on_bytes_have_a_peak_of_their_own() -> None:
    steps = (StepSummary("a", "Conv", "fast", "uint8", (1,), "plain", 100_000, 100_000, 8),)
    spans = np.array([0, 1000]).reshape(1, 1, 1, 2)
    (step,) = Profile(Timings(steps, spans[:, 0, 0], spans), PEAKS).steps
    assert step.cost.peak_share == pytest.approx(0.25)


def test_the_median_of_rounds() -> None:
    steps = (StepSummary("a", "Conv", "fast", "float32", (1,), "plain", 0, 0, 8),)
    ends = np.array([10, 1000, 20])
    spans = np.stack([np.zeros(3, int), ends], axis=-1).reshape(3, 1, 1, 2)
    profile = Profile(Timings(steps, spans[:, 0, 0], spans), PEAKS)
    assert profile.steps[0].cost.seconds == pytest.approx(20e-9)
    (slice_,) = (e for e in trace(profile, "m")["traceEvents"] if e["ph"] == "X")
    assert slice_["dur"] == pytest.approx(0.02)


def test_a_graph_without_nodes_has_an_empty_profile() -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    graph = helper.make_graph([], "nothing", [value], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for backend in ("numba", "numpy"):
        session = minseg.load(model, backend=backend)
        profile = session.profile({"x": np.ones(2, np.float32)}, rounds=1, peaks=PEAKS)
        assert profile.steps == () and profile.totals == ()
        assert profile.cost.seconds == 0
        json.dumps(profile.to_dict(), allow_nan=False)


def test_what_does_not_fit_is_refused() -> None:
    session = minseg.load(small_model())
    with pytest.raises(minseg.InputError, match="rounds=0"):
        session.profile(FEEDS, rounds=0)
    with pytest.raises(minseg.InputError, match="missing"):
        session.profile({})


# Traces


def check_trace(content: dict, threads: int, names: list[str]) -> None:
    """Valid for Perfetto: a named track for each thread, slices in order that do not overlap."""
    events = content["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert tracks == {t: f"thread {t}" for t in range(threads)}
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) + threads + 1 == len(events)
    for thread in range(threads):
        own = [e for e in slices if e["tid"] == thread]
        begins = np.array([e["ts"] for e in own])
        ends = begins + [e["dur"] for e in own]
        assert (begins >= 0).all()
        assert (ends > begins).all()
        assert (begins[1:] >= ends[:-1] - 1e-3).all()
    assert [e["name"] for e in slices if e["tid"] == 0] == names
    assert all({"kernel", "shape", "gflops", "bytes", "bound"} <= set(e["args"]) for e in slices)


@backends
def test_traces(backend: str, threads: int) -> None:
    _, profile = profiled(backend, threads)
    content = json.loads(json.dumps(trace(profile, "mixed"), allow_nan=False))
    check_trace(content, threads, [s.step.name for s in profile.steps])
    process = next(e for e in content["traceEvents"] if e["name"] == "process_name")
    assert process["args"]["name"] == "mixed"


def test_steps_without_a_name_are_told_apart() -> None:
    model = small_model()
    for node in model.graph.node:
        node.name = ""
    profile = minseg.load(model).profile(FEEDS, rounds=1, peaks=PEAKS)
    assert all(s.step.name for s in profile.steps)


# The command


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measured, "measure_peaks", lambda: PEAKS)
    onnx.save(small_model(dynamic=False), "m.onnx")
    return "m.onnx"


def test_the_command_prints_tables(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", model, "--rounds", "2", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    title, whole, peaks, *_ = text.splitlines()
    assert title == "m.onnx  (numba backend, precision exact, 2 rounds)"
    assert whole.startswith("a run on 2 threads takes ")
    assert peaks == "a core can do 100.00 GFLOP/s, on bytes 400.00 GOP/s, and move 10.00 GB/s"
    steps, totals = (part.splitlines() for part in text.split("\n\n")[1:3])
    shown = minseg.load(model).plan_summary()
    assert sorted(row.split()[-1] for row in steps[1:]) == sorted(s.name for s in shown)
    times = [float(row.split()[0]) for row in steps[1:]]
    assert times == sorted(times, reverse=True)
    assert totals[-1].split()[-2:] == [str(len(shown)), "all"]
    assert len(totals) == len({(s.op, s.kernel) for s in shown}) + 2


def test_the_command_keeps_the_graphs_order(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", model, "--rounds", "1", "--order", "graph"]) == 0
    rows = capsys.readouterr().out.split("\n\n")[1].splitlines()[1:]
    assert [row.split()[-1] for row in rows] == [s.name for s in minseg.load(model).plan_summary()]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_command_writes_json_and_a_trace(
    backend: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--rounds", "2", "--threads", "1", "--trace", "t.json"]
    assert main(["profile", model, "--backend", backend, *options]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["backend"], told["threads"]) == (model, backend, 1)
    assert told["rounds"] == 2 and told["peaks"] == asdict(PEAKS)
    assert sum(s["seconds"] for s in told["steps"]) == pytest.approx(told["all"]["seconds"])
    for step in told["steps"]:
        assert step["gflops"] == pytest.approx(step["flops"] / step["seconds"] / 1e9)
        least = max(step["work"] / 100e9, step["bytes"] / 10e9)
        assert step["peak_share"] == pytest.approx(least / step["seconds"])
    content = json.loads((tmp_path / "t.json").read_text())
    check_trace(content, 1, [s["name"] for s in told["steps"]])
    assert [p.name for p in tmp_path.iterdir() if p.name != "m.onnx"] == ["t.json"]


def test_the_command_where_nothing_is_known_of_the_machine(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Peaks:
        raise minseg.MinsegError("there is no compiler")

    monkeypatch.setattr(measured, "measure_peaks", fail)
    assert main(["profile", model, "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert "what a core can do is not known" in text
    assert main(["profile", model, "--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["peaks"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch.onnx"], "nosuch.onnx"),
        (["m.onnx", "nosuch.png"], "nosuch.png"),
        (["m.onnx", "--rounds", "0"], "'0' is not a whole number above zero"),
        (["m.onnx", "--order", "size"], "invalid choice: 'size'"),
        (["m.onnx", "--trace", "t.txt"], "--trace 't.txt' is not the name of a .json file"),
        (["m.onnx", "--rounds", "1", "--trace", "no/t.json"], "cannot write 'no/t.json'"),
    ],
)
def test_the_command_refuses_in_one_sentence(
    arguments: list[str], words: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert error.startswith("minseg: error: ")


def test_kernels_tell_how_many_operations_they_do() -> None:
    problem = Conv2d(1, 32, 16, 16, 32, 16, 16, 3, 3, PT=1, PL=1, density=0.5)
    work = {k.name: k.work(problem) / problem.flops for k in usable(problem)}
    assert work["conv_f32_direct"] == 1
    assert work["conv_f32_winograd_4x4"] == 0.25
    assert work["conv_f32_sparse"] == 0.5
