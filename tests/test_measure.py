"""What measurements are made of: turns, agreement, engines, new processes, peaks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from labelled import save_colour_model

import minseg
from minseg.errors import InputError, MinsegError
from minseg.kernels.conv.direct_integer import direct_tile
from minseg.kernels.core import jit
from minseg.kernels.core.jit import Code
from minseg.kernels.core.layout import aligned
from minseg.kernels.isa.simd import TileShape
from minseg.kernels.isa.target import target
from minseg.measure import timing as timing_module
from minseg.measure.agreement import agreements
from minseg.measure.contest import Contest, Task, onnx_file, picture_task
from minseg.measure.fresh import Fresh, measure_fresh
from minseg.measure.peaks import (
    QUADS,
    SUMS,
    Peaks,
    best,
    byte_products,
    measure_peaks,
    multiply_adds,
)
from minseg.measure.peers import ENGINES, MINSEG, PEERS, Compute, Engine, EngineError, Model
from minseg.measure.timing import Timing, interleaved, wait_until_idle
from minseg.weights import shipped_file

# Turns


def test_percentiles_and_spread() -> None:
    times = Timing((4.0, 1.0, 2.0, 3.0, 5.0))
    assert (times.median, times.least) == (3.0, 1.0)
    assert times.percentile(90) == pytest.approx(4.6)
    assert times.spread == pytest.approx((4 - 2) / 3)


def recorder(log: list[str]) -> Callable[[str], Callable[[], float]]:
    """Calls that write their names down; each gives its number in the log as its seconds."""

    def call_of(name: str) -> Callable[[], float]:
        def call() -> float:
            log.append(name)
            return float(len(log))

        return call

    return call_of


def test_calls_take_turns_and_the_first_round_does_not_count() -> None:
    log: list[str] = []
    call_of = recorder(log)
    calls = {name: call_of(name) for name in "abc"}
    results = interleaved(calls, 3, before=lambda: log.append("-"))
    order = "".join(log)
    assert order == "-a-b-c" + "-b-c-a" + "-c-a-b" + "-a-b-c"
    for name, times in results.items():
        places = [i + 1.0 for i, entry in enumerate(log) if entry == name]
        assert list(times.seconds) == places[1:]


def test_calls_go_on_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(timing_module, "time", clock)

    def call() -> float:
        clock.now += 1.0
        return 1.0

    assert len(interleaved({"a": call}, 2, seconds=5.5)["a"].seconds) == 5
    assert len(interleaved({"a": call}, 9, seconds=5.5)["a"].seconds) == 9


class Clock:
    """Stands for the module ``time``: sleeping makes time pass, and threads use the CPU until
    ``busy_until``."""

    def __init__(self, busy_until: float = 0.0):
        self.now, self.busy_until = 0.0, busy_until

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return min(self.now, self.busy_until)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("busy_until", "least", "most"), [(0, 0, 0.01), (1, 1, 1.01), (9, 2, 2.1)])
def test_waiting_for_idle_threads_ends_when_they_are(
    busy_until: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(busy_until)
    monkeypatch.setattr(timing_module, "time", clock)
    wait_until_idle()
    assert least <= clock.now <= most


# Agreement

RIGHT = np.arange(100).reshape(10, 10)


def test_one_that_is_alone_is_wrong() -> None:
    nearly = RIGHT.copy()
    nearly[0, 0] += 1
    wrong = RIGHT[::-1]
    assert agreements({"a": RIGHT}) == {"a": 1.0}
    assert agreements({"a": RIGHT, "b": nearly}) == {"a": 0.99, "b": 0.99}
    assert agreements({"a": RIGHT, "b": wrong}) == {"a": 0.0, "b": 0.0}
    assert agreements({"a": RIGHT, "b": wrong, "c": nearly}) == {"a": 0.99, "b": 0.0, "c": 0.99}
    shares = agreements({"a": RIGHT, "b": wrong, "c": RIGHT, "d": wrong.T, "e": RIGHT})
    assert [shares[name] for name in "ace"] == [1.0] * 3
    assert max(shares["b"], shares["d"]) < 0.2


def test_another_shape_is_another_label_map() -> None:
    assert agreements({"a": RIGHT, "b": RIGHT.reshape(5, 20), "c": RIGHT})["b"] == 0.0


# A contest


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    path = save_colour_model(folder / "colour.onnx")
    session = minseg.load(path, backend="numpy")
    return picture_task(session, str(path), session.recipe, folder)


def fake(name: str, change: Callable[[np.ndarray], np.ndarray], runs: list[str]) -> Engine:
    """An engine that computes as the numpy backend does, and then changes that."""

    def load(model: Model, threads: int) -> Compute:
        session = minseg.load(model.path, backend="numpy", threads=threads)

        def compute(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            runs.append(name)
            return [change(y) for y in session.run(names, feeds)]

        return compute

    return Engine(name, "numpy", "numpy", load)


def broken(y: np.ndarray) -> np.ndarray:
    raise ValueError("all is\nlost")


def no_file(model: Model, folder: Path) -> Path:
    raise RuntimeError("no layer for Conv")


def test_only_engines_that_agree_are_timed(task: Task, tmp_path: Path) -> None:
    runs: list[str] = []
    engines = {
        "right": fake("right", lambda y: y, runs),
        "also": fake("also", lambda y: y + 0, runs),
        "wrong": fake("wrong", lambda y: y[:, ::-1], runs),
        "broken": fake("broken", broken, runs),
        "refuses": replace(fake("refuses", lambda y: y, runs), translate=no_file),
        "absent": Engine("absent", "no_such_module", "absent-engine", MINSEG.open),
    }
    result = Contest(task, engines, tmp_path).run(1, rounds=3)
    assert set(result.timings) == {"right", "also"}
    assert all(len(t.seconds) == 3 for t in result.timings.values())
    assert [runs.count(name) for name in ("right", "wrong", "broken")] == [1 + 1 + 3, 1, 1]
    assert result.excluded["wrong"].startswith("wrong labels ")
    del result.excluded["wrong"]
    assert result.excluded == {
        "broken": "broken failed: all is lost",
        "refuses": "refuses can't convert colour.onnx: no layer for Conv",
        "absent": "absent is not installed: pip install absent-engine",
    }
    assert result.agreement["right"] == result.agreement["also"] == 1.0
    assert result.agreement["wrong"] < 0.9


def test_a_task_has_the_picture_and_the_operations(task: Task) -> None:
    ((name, shape),) = task.model.shapes.items()
    assert task.feeds[name].shape == shape
    assert task.feeds[name].dtype == np.float32
    assert task.model.path.name == "colour.onnx"
    _, channels, height, width = shape
    assert task.flops == 2 * 12 * channels * height * width


def test_a_model_that_is_no_onnx_file_is_written_as_one(tmp_path: Path) -> None:
    session = minseg.load("camvid-small", backend="numpy")
    path = onnx_file(session, "camvid-small", tmp_path)
    assert path.parent == tmp_path
    assert len(minseg.load(path, backend="numpy").graph.nodes) == len(session.graph.nodes)


# Engines


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Task:
    session = minseg.load("camvid-small", backend="numpy")
    folder = tmp_path_factory.mktemp("small")
    return picture_task(session, str(shipped_file("camvid-small")), session.recipe, folder)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_computes_what_the_reference_does(
    name: str, small: Task, tmp_path: Path
) -> None:
    engine = ENGINES[name]
    pytest.importorskip(engine.module)
    if name == "ncnn":
        pytest.importorskip("pnnx")
    compute = engine.load(engine.convert(small.model, tmp_path), threads=1)
    names = small.model.outputs
    (expected,) = minseg.load(small.model.path, backend="numpy").run(names, small.feeds)
    inputs = {key: array.copy() for key, array in small.feeds.items()}
    for _ in range(2):
        (got,) = compute(names, small.feeds)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3 * np.abs(expected).max())
    for key, array in inputs.items():
        np.testing.assert_array_equal(small.feeds[key], array)


@pytest.mark.parametrize("name", PEERS)
def test_an_engine_that_is_not_installed_says_so(
    name: str, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, PEERS[name].module, None)
    message = f"^{name} is not installed: pip install {PEERS[name].package}$"
    for call in (
        lambda: PEERS[name].version,
        lambda: PEERS[name].convert(task.model, tmp_path),
        lambda: PEERS[name].load(task.model, 1),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("name", ENGINES)
def test_a_file_that_is_no_model_is_told_in_one_line(name: str, tmp_path: Path) -> None:
    engine = ENGINES[name]
    pytest.importorskip(engine.module)
    if name == "ncnn":
        pytest.importorskip("pnnx")
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(MinsegError) as caught:
        engine.load(engine.convert(Model(path, {"x": (1, 3, 8, 8)}, ("y",)), tmp_path), 1)
    assert "\n" not in str(caught.value)
    if name not in ("minseg", "ncnn"):  # whose files minseg reads
        assert str(caught.value).startswith(f"{name} can't ")
        assert str(tmp_path) not in str(caught.value)


def test_what_ncnn_has_no_layer_for_is_named(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")
    path = shipped_file("camvid-small-int8")
    assert path is not None
    model = Model(path, {"image": (1, 3, 360, 480)}, ("labels",))
    with pytest.raises(EngineError, match=r"^ncnn can't convert .*: it has no layer for \w+"):
        PEERS["ncnn"].convert(model, tmp_path)


# New processes


def test_a_new_process_tells_what_it_needed(task: Task, tmp_path: Path) -> None:
    fresh = measure_fresh(MINSEG, task.model, 1, task.feeds, tmp_path)
    assert isinstance(fresh, Fresh)
    assert fresh.load_seconds > 0 and fresh.first_seconds > 0
    if sys.platform == "linux":
        assert fresh.peak_bytes is not None
        arena = sum(array.nbytes for array in task.feeds.values())
        assert arena < fresh.peak_bytes < 2**31


def test_a_new_process_that_fails_says_why(task: Task, tmp_path: Path) -> None:
    model = replace(task.model, path=tmp_path / "missing.onnx")
    with pytest.raises(EngineError, match=r"^minseg failed in a new process: .*missing\.onnx"):
        measure_fresh(MINSEG, model, 1, task.feeds, tmp_path)


def test_the_baseline_of_a_new_process_holds_no_engine() -> None:
    """The engine is imported by the job, so that nothing else counts as its memory."""
    code = (
        "import sys, minseg.measure.fresh\n"
        "sys.exit(any(m in sys.modules for m in ('onnx', 'numba', 'onnxruntime', 'PIL')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Peaks


@pytest.mark.kernels
@pytest.mark.nojit
def test_the_loop_of_byte_products_adds_up_every_product() -> None:
    """Otherwise its rate would be that of something else."""
    tile, steps = direct_tile(4 * target().lanes), 2 * QUADS + 3
    rng = np.random.default_rng(0)
    x = aligned(rng.integers(0, 256, (tile.rows, QUADS, 4)).astype(np.uint8))
    w = aligned(rng.integers(-128, 128, (QUADS, tile.cols, tile.lanes, 4)).astype(np.int8))
    y = aligned(np.zeros((tile.rows, tile.cols, tile.lanes), np.int32))
    jit.call(Code(byte_products, (tile,)), [*(a.ctypes.data for a in (x, w, y)), steps])
    often = np.bincount(np.arange(steps) % QUADS)
    expected = np.einsum("q,rqi,qcli->rcl", often, x.astype(int), w.astype(int))
    np.testing.assert_array_equal(y, expected)


@pytest.mark.kernels
@pytest.mark.nojit
def test_the_loop_of_multiply_adds_runs_as_often_as_told() -> None:
    tile = TileShape(SUMS, 1, target().lanes)
    y = aligned(np.zeros((SUMS, tile.lanes), np.float32))
    jit.call(Code(multiply_adds, (tile,)), [y.ctypes.data, 3])
    np.testing.assert_array_equal(y, 1.0 * 0.5**3 + 0.25 * (1 + 0.5 + 0.25))


@pytest.mark.nojit
def test_python_kernels_have_no_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(MinsegError, match="NUMBA_DISABLE_JIT"):
        measure_peaks()


def test_the_best_of_two_measurements() -> None:
    assert best(Peaks(1, 5, 3), Peaks(2, 4, 3)) == Peaks(2, 5, 3)
