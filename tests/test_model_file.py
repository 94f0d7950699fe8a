"""Model files stay mapped: their weights bypass protobuf, take memory only while they are read, and
are never read from a file that was changed meanwhile."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import minseg
from minseg.errors import ModelError
from minseg.graph.model_file import CAN_DROP, ModelFile
from minseg.graph.onnx_reader import read_onnx
from minseg.graph.onnx_split import LARGE, split_weights

mapped = pytest.mark.skipif(not CAN_DROP, reason="files are not mapped on this system")

RNG = np.random.default_rng(0)


def network(channels: int = 48) -> onnx.ModelProto:
    """A convolution with large weights and a small bias, for pictures of any size."""
    weights = RNG.standard_normal((channels, 3, 3, 3)).astype(np.float32)
    tensors = [
        numpy_helper.from_array(weights, "w"),
        numpy_helper.from_array(np.arange(channels, dtype=np.float32), "b"),
    ]
    assert weights.nbytes >= LARGE
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, channels, "h", "w"])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(network(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def picture(size: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((1, 3, size, size), np.float32)}


# Splitting: protobuf, given everything, is the oracle.


@given(st.lists(st.integers(0, 3 * LARGE), max_size=5), st.booleans())
def test_what_is_split_and_put_together_is_the_model(sizes: list[int], twice: bool) -> None:
    tensors = [
        TensorProto(name=f"t{i}", data_type=TensorProto.UINT8, dims=[n], raw_data=os.urandom(n))
        for i, n in enumerate(sizes)
    ]
    model = network()
    model.graph.initializer.extend(tensors)
    data = model.SerializeToString()
    if twice:  # messages may come in parts, which protobuf joins
        part = onnx.ModelProto()
        part.graph.initializer.extend(tensors)
        data += part.SerializeToString()
    rest, weights = split_weights(memoryview(data))
    whole, joined = onnx.ModelProto.FromString(data), onnx.ModelProto.FromString(rest)
    assert len(weights) == len(joined.graph.initializer) == len(whole.graph.initializer)
    for tensor, raw in zip(joined.graph.initializer, weights, strict=True):
        assert (raw is None) == tensor.HasField("raw_data")
        if raw is not None:
            assert len(raw) >= LARGE
            tensor.raw_data = bytes(raw)
    assert joined == whole


@given(st.data())
def test_damaged_bytes_are_protobufs_to_judge(data: st.DataObject) -> None:
    damaged = bytearray(network().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, min(200, len(damaged) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    rest, weights = split_weights(memoryview(bytes(damaged)))
    try:
        whole = onnx.ModelProto.FromString(bytes(damaged))
    except DecodeError:
        with pytest.raises(DecodeError):
            onnx.ModelProto.FromString(rest)
        return
    parsed = onnx.ModelProto.FromString(rest)
    for tensor, raw in zip(parsed.graph.initializer, weights, strict=bool(weights)):
        if raw is not None:
            tensor.raw_data = bytes(raw)
    assert parsed.SerializeToString(deterministic=True) == whole.SerializeToString(
        deterministic=True
    )


# The file


@mapped
def test_arrays_lie_in_the_file_and_survive_being_dropped(path: Path) -> None:
    graph = read_onnx(path)
    assert graph.file is not None
    expected = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    w = graph.constants["w"]
    begin = np.frombuffer(graph.file.memory, np.uint8).ctypes.data
    assert begin <= w.ctypes.data < begin + path.stat().st_size
    assert not w.flags.writeable
    for _ in range(2):
        np.testing.assert_array_equal(w, expected)
        graph.file.drop()


@mapped
def test_only_a_change_of_contents_is_a_change(path: Path, tmp_path: Path) -> None:
    file = ModelFile(path)
    file.check()
    other = tmp_path / "other.onnx"
    other.write_bytes(b"something else")
    os.replace(other, path)
    file.check()
    path.unlink()
    file.check()
    assert onnx.ModelProto.FromString(bytes(file.memory)).graph.name == "network"


@mapped
@pytest.mark.parametrize("content", [b"", b"cut", bytes(10**6)], ids=["empty", "cut", "longer"])
def test_a_file_that_is_written_to_is_not_read_again(path: Path, content: bytes) -> None:
    session = minseg.load(path)
    before = session.run(None, picture(8))[0]
    path.write_bytes(content)
    np.testing.assert_array_equal(session.run(None, picture(8))[0], before)
    for use in (lambda: session.run(None, picture(16)), lambda: pickle.dumps(session)):
        with pytest.raises(ModelError, match=r"m\.onnx: the file was changed after it was loaded"):
            use()


def test_the_numpy_backend_needs_no_file(path: Path) -> None:
    session = minseg.load(path, backend="numpy")
    before = session.run(None, picture(8))[0]
    path.write_bytes(b"")
    np.testing.assert_array_equal(session.run(None, picture(8))[0], before)


def test_copies_and_pickles_hold_contents(path: Path) -> None:
    session = minseg.load(path)
    expected = session.run(None, picture(8))[0]
    copies = [pickle.loads(pickle.dumps(session)), minseg.Session(copy.deepcopy(session.graph))]
    path.write_bytes(b"")
    for other in copies:
        assert other.graph.file is None
        np.testing.assert_array_equal(other.run(None, picture(8))[0], expected)


# Memory, in processes of their own

MEMORY = """
import sys
import numpy as np
import minseg, minseg.runtime.compiled

def held(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

def run(session, size):
    session.run(None, {"x": np.ones((1, 3, size, size), np.float32)})

"""


def megabytes(program: str, path: Path) -> float:
    """What the program, which finds the model in ``sys.argv[1]``, prints last."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY + program, str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the memory")


@linux
@mapped
def test_loading_takes_no_memory_for_weights(tmp_path: Path) -> None:
    """100 MB of them."""
    onnx.save(network(channels=1_000_000), tmp_path / "m.onnx")
    program = """
minseg.load(sys.argv[1] + ".small")
before = held("VmHWM")
session = minseg.load(sys.argv[1])
print(held("VmHWM") - before)
"""
    onnx.save(network(), tmp_path / "m.onnx.small")
    assert megabytes(program, tmp_path / "m.onnx") < 50


@linux
def test_many_sizes_take_the_memory_of_a_few(path: Path) -> None:
    """Forty sizes of some 25 MB each would be a gigabyte."""
    program = """
session = minseg.load(sys.argv[1], threads=1)
for size in range(300, 308):
    run(session, size)
before = held("VmHWM")
for size in range(260, 300):
    run(session, size)
print(held("VmHWM") - before)
"""
    assert megabytes(program, path) < 150
