"""OpenVINO models that tests write to files, and what both engines make of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1
from parity import openvino_run

import minseg

Layer = Callable[..., Any]


def saved(model: ov.Model, folder: Path, *, half: bool = False) -> Path:
    path = folder / "model.xml"
    ov.save_model(model, path, compress_to_fp16=half)
    return path


def one_layer(build: Layer, inputs: Sequence[np.ndarray], shapes: Any = None) -> ov.Model:
    """The model that ``build`` makes of parameters like ``inputs``, with all of its outputs."""
    parameters = [
        opset1.parameter(x.shape if shapes is None else shapes[i], x.dtype, name=f"x{i}")
        for i, x in enumerate(inputs)
    ]
    return ov.Model(build(*parameters).outputs(), parameters, "one_layer")


def by_both(
    build: Layer, *inputs: np.ndarray, shapes: Any = None, backend: str = "numpy"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What minseg and openvino make of one file, output by output."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved(one_layer(build, inputs, shapes), Path(folder))
        session = minseg.load(path, backend=backend)
        feeds = {f"x{i}": x for i, x in enumerate(inputs)}
        used = {v.name for v in session.graph.inputs}
        got = session.run(None, {k: v for k, v in feeds.items() if k in used})
        return list(zip(got, openvino_run(path, feeds), strict=True))


def agrees(build: Layer, *inputs: np.ndarray, tolerance: float = 2e-6, shapes: Any = None) -> None:
    """Equal integers; real numbers as close as ``tolerance`` of the largest."""
    for got, expected in by_both(build, *inputs, shapes=shapes):
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        if expected.dtype.kind == "f":
            largest = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * largest)
        else:
            np.testing.assert_array_equal(got, expected)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def integers(*shape: int, low: int = -9, high: int = 10, dtype: Any = np.int32) -> np.ndarray:
    return np.random.default_rng(1).integers(low, high, shape).astype(dtype)


def truths(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


def fixed(value: Any, dtype: Any = np.int64) -> Any:
    array = np.array(value, dtype)
    return opset1.constant(array) if array.size else ov.op.Constant(array)


def agrees_folded(build: Any, x: np.ndarray, tolerance: float = 2e-6) -> None:
    """`agrees` on a constant, so that openvino's own reference computes it and not its plugin."""
    zero = np.zeros((), np.float32)
    agrees(lambda p: opset1.add(build(opset1.constant(x)), p), zero, tolerance=tolerance)
