"""The Python interface: onnxruntime's signature and meaning, threads, forks, pickles."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import minseg
from minseg.runtime.workers import Workers

pytestmark = [pytest.mark.smoke, pytest.mark.kernels, pytest.mark.nojit]

BACKENDS = ("numba", "numpy")


def small_model(dynamic: bool = True) -> onnx.ModelProto:
    """Conv 3→20, Relu, Conv 20→5, Softmax over channels, on N×3×H×W."""
    rng = np.random.default_rng(1)
    shape = ["N", 3, "H", "W"] if dynamic else [1, 3, 8, 10]
    constants = {
        "w0": rng.standard_normal((20, 3, 3, 3)) / 5,
        "b0": rng.standard_normal(20),
        "w1": rng.standard_normal((5, 20, 1, 1)) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w1"], ["logits"], "second"),
        helper.make_node("Softmax", ["logits"], ["y"], "softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 5, *shape[2:]])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def feed(*shape: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


def expected(feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The small model in float64, by its formula."""
    w0, b0, w1 = (numpy_helper.to_array(t).astype(float) for t in small_model().graph.initializer)
    x = np.pad(feeds["x"].astype(float), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (2, 3))
    hidden = np.einsum("ncyxhw,ochw->noyx", windows, w0) + b0[:, None, None]
    logits = np.einsum("ncyx,oc->noyx", np.maximum(hidden, 0), w1[:, :, 0, 0])
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_run_gives_what_the_model_says(backend: str) -> None:
    session = minseg.load(small_model(), backend=backend)
    for shape in ((1, 3, 8, 10), (2, 3, 5, 1), (1, 3, 17, 33), (1, 3, 8, 10)):
        feeds = feed(*shape)
        (y,) = session.run(None, feeds)
        assert y.shape == (shape[0], 5, *shape[2:])
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, expected(feeds), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_inputs_may_lie_anyhow(backend: str) -> None:
    session = minseg.load(small_model(), backend=backend)
    x = feed(1, 3, 6, 7)["x"]
    (want,) = session.run(None, {"x": x})
    odd = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    strided = np.repeat(x, 2, axis=3)[..., ::2]
    for y in (odd, strided, np.asfortranarray(x), x[:, :, ::-1].copy()[:, :, ::-1]):
        np.testing.assert_array_equal(session.run(None, {"x": y})[0], want)
        np.testing.assert_array_equal(y, x)
    assert not odd.flags.aligned


def two_names_of_one_value() -> onnx.ModelProto:
    """Of x: its Relu, the same by another name in another shape, and x itself."""
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Flatten", ["relu"], ["flat"]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [2, 3]), ("relu", [2, 3]), ("flat", [2, 3]), ("same", [2, 3]))
    ]
    graph = helper.make_graph(nodes, "names", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_are_arrays_of_their_own(backend: str) -> None:
    session = minseg.load(two_names_of_one_value(), backend=backend)
    feeds = {"x": np.array([[-1, 2, -3], [4, -5, 6]], np.float32)}
    first = session.run(None, feeds)
    arrays = [feeds["x"], *first, *session.run(["flat", "relu"], feeds)]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    kept = [a.copy() for a in first]
    session.run(None, {"x": feeds["x"] + 10})
    for got, want in zip(first, kept, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(first[0], np.maximum(feeds["x"], 0))
    np.testing.assert_array_equal(first[2], feeds["x"])


@pytest.mark.parametrize("kind", ["path", "str", "bytes", "file", "proto"])
def test_a_model_comes_from_anywhere(kind: str, tmp_path: Path) -> None:
    proto = small_model()
    path = tmp_path / "m.onnx"
    onnx.save(proto, str(path))
    sources = {
        "path": path,
        "str": str(path),
        "bytes": path.read_bytes(),
        "file": io.BytesIO(path.read_bytes()),
        "proto": proto,
    }
    session = minseg.load(sources[kind], backend="numpy")
    assert session.run(["y"], feed(1, 3, 4, 4))[0].shape == (1, 5, 4, 4)


def test_inputs_and_outputs_are_described_as_in_onnxruntime() -> None:
    ort = pytest.importorskip("onnxruntime")
    theirs = ort.InferenceSession(
        small_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    ours = minseg.InferenceSession(
        small_model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for a, b in (
        (ours.get_inputs(), theirs.get_inputs()),
        (ours.get_outputs(), theirs.get_outputs()),
    ):
        assert [(v.name, v.shape, v.type) for v in a] == [(v.name, v.shape, v.type) for v in b]
    feeds = feed(1, 3, 9, 9)
    np.testing.assert_allclose(ours.run(None, feeds)[0], theirs.run(None, feeds)[0], atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_capture_gives_intermediates(backend: str) -> None:
    session = minseg.load(small_model(), backend=backend)
    feeds = feed(1, 3, 6, 7)
    (y,), everything = session.run(None, feeds, capture=True)
    assert set(everything) == {"a", "r", "logits", "y"}
    np.testing.assert_array_equal(everything["r"], np.maximum(everything["a"], 0))
    np.testing.assert_allclose(y, session.run(None, feeds)[0], atol=1e-6)
    _, chosen = session.run(["y"], feeds, capture=["r"])
    assert list(chosen) == ["r"]
    assert chosen["r"].shape == (1, 20, 6, 7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, ["x", "missing"]),
        ({"z": np.zeros(1, np.float32)}, ["'z'", "'x'"]),
        ({"x": np.zeros((1, 3, 4, 4))}, ["'x'", "float32", "float64"]),
        ({"x": np.zeros((1, 4, 4, 4), np.float32)}, ["'x'", "N×3×H×W", "1×4×4×4"]),
        ({"x": np.zeros((3, 4), np.float32)}, ["'x'", "3×4"]),
    ],
)
def test_feeds_that_do_not_fit_are_refused(backend: str, feeds: dict, words: list[str]) -> None:
    session = minseg.load(small_model(), backend=backend)
    with pytest.raises(minseg.InputError) as caught:
        session.run(None, feeds)
    assert all(word in str(caught.value) for word in words)
    with pytest.raises(minseg.InputError, match="no output 'q'"):
        session.run(["q"], feed(1, 3, 4, 4))
    with pytest.raises(minseg.InputError, match="no value 'q'"):
        session.run(None, feed(1, 3, 4, 4), capture=["q"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_feeds_may_be_nested_lists_or_of_another_byte_order(backend: str) -> None:
    session = minseg.InferenceSession(small_model().SerializeToString(), backend=backend)
    feeds = feed(1, 3, 4, 5)
    reference = session.run(None, feeds)[0]
    for same in (feeds["x"].tolist(), tuple(feeds["x"][0:1]), feeds["x"].astype(">f4")):
        before = repr(same)
        (y,) = session.run(None, {"x": same})
        assert y.dtype == np.float32
        assert y.dtype.isnative
        np.testing.assert_array_equal(y, reference)
        assert repr(same) == before


def passing_on(data_type: int) -> bytes:
    """A model that gives its input, a vector."""
    x, y = (helper.make_tensor_value_info(n, data_type, ["N"]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


@pytest.mark.parametrize("data_type", ["FLOAT", "DOUBLE", "INT64", "UINT8", "BOOL", "FLOAT16"])
@pytest.mark.parametrize("values", [[1, 0], [True, False], [1.0, 0.0]])
def test_lists_become_what_onnxruntime_makes_of_them(data_type: str, values: list) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = passing_on(TensorProto.DataType.Value(data_type))
    (wanted,) = onnxruntime.InferenceSession(model).run(None, {"x": values})
    for backend in BACKENDS:
        (y,) = minseg.load(model, backend=backend).run(None, {"x": values})
        assert y.dtype == wanted.dtype
        np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("data_type", "value", "words"),
    [
        (TensorProto.FLOAT, None, "input 'x' is None: feed an array"),
        (TensorProto.FLOAT, [[1], [2, 3]], "input 'x' can't become an array of float32"),
        (TensorProto.FLOAT, ["a"], "can't become an array of float32: the list holds <U1"),
        (TensorProto.FLOAT, [None], "can't become an array of float32: the list holds object"),
        (TensorProto.FLOAT, [1j], "can't become an array of float32: the list holds complex128"),
        (TensorProto.INT64, [1.5], "can't become an array of int64: the list holds other numbers"),
        (TensorProto.UINT8, [256], "can't become an array of uint8: the list holds other numbers"),
        (TensorProto.UINT8, [-1], "can't become an array of uint8: the list holds other numbers"),
        (TensorProto.BOOL, [2], "can't become an array of bool: the list holds other numbers"),
        (TensorProto.FLOAT, np.array([1], ">i8"), "must be float32, not int64"),
    ],
)
def test_feeds_of_the_wrong_kind_are_one_sentence(
    backend: str, data_type: int, value: object, words: str
) -> None:
    session = minseg.load(passing_on(data_type), backend=backend)
    with pytest.raises(minseg.InputError, match=words):
        session.run(None, {"x": value})  # type: ignore[dict-item]


def test_arguments_of_run_that_are_mixed_up() -> None:
    session = minseg.load(small_model(), backend="numpy")
    array = feed(1, 3, 4, 5)["x"]
    words = r"where a dictionary of input names .* inputs are 'x'"
    for wrong in (array, [array], [{"x": array}], None):
        with pytest.raises(minseg.InputError, match=words):
            session.run(None, wrong)  # type: ignore[arg-type]
        with pytest.raises(minseg.InputError, match=words):
            session.profile(wrong)  # type: ignore[arg-type]
    with pytest.raises(minseg.InputError, match=words):
        session.prepare([1, 3, 4, 5])  # type: ignore[arg-type]
    for wrong in ("y", 3):
        with pytest.raises(minseg.InputError, match="output_names must be a list of names"):
            session.run(wrong, {"x": array})  # type: ignore[arg-type]
        with pytest.raises(minseg.InputError, match="capture must be a list of names"):
            session.run(None, {"x": array}, capture=wrong)  # type: ignore[call-overload]


def test_feeds_need_not_be_contiguous_and_stay_as_they_are() -> None:
    session = minseg.load(small_model())
    x = feed(1, 8, 10, 3)["x"].transpose(0, 3, 1, 2)
    before = x.copy()
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, expected({"x": x}), atol=1e-6)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_threads_may_share_a_session(backend: str, threads: int) -> None:
    session = minseg.load(small_model(), backend=backend, threads=threads)
    feeds = [feed(1, 3, 9 + i % 3, 11, seed=i) for i in range(12)]
    results: list = [None] * len(feeds)

    def work(i: int) -> None:
        results[i] = session.run(None, feeds[i])[0]

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(feeds))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    for f, y in zip(feeds, results, strict=True):
        np.testing.assert_allclose(y, expected(f), atol=1e-6)


def test_results_do_not_depend_on_the_number_of_threads_or_the_run() -> None:
    feeds = feed(1, 3, 41, 37)
    sessions = [minseg.load(small_model(), threads=t) for t in (1, 2, 3)]
    results = [s.run(None, feeds)[0] for s in sessions for _ in range(3)]
    for y in results:
        np.testing.assert_array_equal(y, results[0])


def test_results_belong_to_the_caller() -> None:
    session = minseg.load(small_model())
    first = session.run(None, feed(1, 3, 6, 6))[0]
    copy = first.copy()
    session.run(None, feed(1, 3, 6, 6, seed=9))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.parametrize("busy", [False, True])
def test_a_session_works_in_a_forked_child(busy: bool) -> None:
    session = minseg.load(small_model(), threads=2)
    feeds = feed(1, 3, 12, 12)
    session.run(None, feeds)
    stop = threading.Event()

    def keep_running() -> None:
        while not stop.is_set():
            session.run(None, feeds)

    other = threading.Thread(target=keep_running)
    if busy:
        other.start()
        time.sleep(0.05)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(session.run(None, feeds)[0]))
    child.start()
    child.join(60)
    stop.set()
    if busy:
        other.join(60)
    assert child.exitcode == 0
    np.testing.assert_allclose(queue.get(), expected(feeds), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_session_pickles(backend: str) -> None:
    session = minseg.load(small_model(), backend=backend, threads=2)
    copy = pickle.loads(pickle.dumps(session))
    assert (copy.backend, copy.threads) == (backend, 2)
    feeds = feed(1, 3, 7, 7)
    np.testing.assert_array_equal(copy.run(None, feeds)[0], session.run(None, feeds)[0])


def test_memory_does_not_grow_with_varying_shapes() -> None:
    session = minseg.load(small_model(), threads=1)
    for size in range(4, 40):
        session.run(None, feed(1, 3, size, size))
    assert len(session._executor._programs) <= 4


def test_a_default_may_be_overridden() -> None:
    proto = small_model()
    proto.graph.input.append(helper.make_tensor_value_info("b0", TensorProto.FLOAT, [20]))
    for backend in BACKENDS:
        session = minseg.load(proto, backend=backend)
        assert [v.name for v in session.get_inputs()] == ["x"]
        assert [v.name for v in session.get_overridable_initializers()] == ["b0"]
        feeds = feed(1, 3, 5, 5)
        usual = session.run(None, feeds)[0]
        np.testing.assert_allclose(usual, expected(feeds), atol=1e-6)
        other = session.run(None, {**feeds, "b0": np.zeros(20, np.float32)})[0]
        assert np.abs(other - usual).max() > 1e-3
        np.testing.assert_array_equal(session.run(None, feeds)[0], usual)


def test_a_plan_is_told_without_compiling_and_prepared_with() -> None:
    session = minseg.load(small_model())
    steps = session.plan_summary({"x": (1, 3, 8, 8)})
    assert {s.op for s in steps} >= {"FusedConv", "Conv", "Softmax"}
    assert not session._executor._programs
    session.prepare({"x": (1, 3, 8, 8)})
    assert len(session._executor._programs) == 1
    reference = minseg.load(small_model(), backend="numpy")
    reference.prepare()
    with pytest.raises(minseg.InputError, match="no plan"):
        reference.plan()


def test_wrong_options_are_refused() -> None:
    with pytest.raises(minseg.InputError, match="cuda"):
        minseg.load(small_model(), backend="cuda")
    with pytest.raises(minseg.InputError, match="threads=0"):
        minseg.load(small_model(), threads=0)
    with pytest.raises(minseg.ModelError, match="nowhere"):
        minseg.load("nowhere.onnx")


def test_the_numpy_backend_needs_no_numba(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(small_model(), str(path))
    script = f"""
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
import minseg, numpy as np
session = minseg.load({str(path)!r}, backend="numpy")
print(session.run(None, {{"x": np.zeros((1, 3, 4, 4), np.float32)}})[0].shape)
try:
    minseg.load({str(path)!r}).run(None, {{"x": np.zeros((1, 3, 4, 4), np.float32)}})
except minseg.MinsegError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shape, message = done.stdout.splitlines()
    assert shape == "(1, 5, 4, 4)"
    assert "numba" in message


def test_importing_minseg_loads_nothing_heavy() -> None:
    heavy = "{'numba', 'onnx', 'PIL', 'llvmlite'}"
    script = f"import sys, minseg; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


class Interrupted:
    """A job that its first thread leaves before the others have met it."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def __call__(self, thread: int) -> None:
        if thread == 0:
            raise KeyboardInterrupt
        assert self.released.wait(20)

    def abandon(self) -> None:
        self.released.set()


def test_an_interrupt_does_not_leave_workers_waiting() -> None:
    team = Workers(3)
    with pytest.raises(KeyboardInterrupt):
        team.run(Interrupted())
    seen: list[int] = []

    class Count(Interrupted):
        def __call__(self, thread: int) -> None:
            seen.append(thread)

    team.run(Count())
    assert sorted(seen) == [0, 1, 2]


def test_abandoned_kernels_come_to_their_end() -> None:
    session = minseg.load(small_model(), threads=2)
    feeds = feed(1, 3, 12, 12)
    session.run(None, feeds)
    (programs,) = session._executor._programs.values()
    program = programs.usual
    run = program._runs[0]
    if not hasattr(run, "abandon"):
        pytest.skip("with the JIT off one thread does it all")
    program._borrow(feeds, {})
    run._counters[:] = 0
    run.abandon()
    run(1)  # would wait for thread 0 for ever
    np.testing.assert_allclose(session.run(None, feeds)[0], expected(feeds), atol=1e-6)
