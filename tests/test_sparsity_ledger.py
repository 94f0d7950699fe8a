"""``minseg info --sparsity``: the ledger tells what the plan does, and where the balance tips."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import minseg
from minseg.cli import main
from minseg.kernels.core import jit
from minseg.kernels.core.registry import Kernel, select
from minseg.measure.sparsity import Entry, ledger
from minseg.ops.support import load

SPARSE = "conv_f32_sparse"

#: Density, taps, stride and channels of each layer.
LAYERS = {
    "pruned": (0.3, 1, 1, 64),
    "dense": (1.0, 1, 1, 64),
    "nearly": (0.97, 1, 2, 64),
    "winograd": (0.6, 3, 1, 64),
    "empty": (0.0, 3, 2, 64),
}


def chain() -> onnx.ModelProto:
    """One layer after the other, each with as many zeros as its density says."""
    rng = np.random.default_rng(0)
    nodes, initializers, value = [], [], "x"
    for name, (density, taps, stride, channels) in LAYERS.items():
        size = channels * channels * taps * taps
        weights = rng.standard_normal(size).astype(np.float32) + 5
        weights[rng.permutation(size)[: size - round(density * size)]] = 0
        shaped = weights.reshape(channels, channels, taps, taps)
        initializers.append(numpy_helper.from_array(shaped, f"{name}.weight"))
        nodes.append(
            helper.make_node(
                "Conv",
                [value, f"{name}.weight"],
                [name],
                name=name,
                pads=[taps // 2] * 4,
                strides=[stride] * 2,
            )
        )
        value = name
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 48, 48])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    graph = load(chain())
    shapes = {"x": (1, 64, 48, 48)}
    plan = minseg.Session(graph, threads=1).plan(shapes)
    return {entry.layer: entry for entry in ledger(graph, shapes, plan)}


def test_every_layer_with_its_density(entries: dict[str, Entry]) -> None:
    assert {n: round(e.problem.density, 2) for n, e in entries.items()} == {
        name: layer[0] for name, layer in LAYERS.items()
    }


def test_the_kernels_are_those_of_the_plan(entries: dict[str, Entry]) -> None:
    session = minseg.Session(load(chain()), threads=1)
    summary = session.plan_summary({"x": (1, 64, 48, 48)})
    steps = {s.name: s.kernel for s in summary if s.op == "Conv"}
    assert {n: e.chosen for n, e in entries.items()} == {n: steps[n] for n in LAYERS}
    sparse = {n for n, e in entries.items() if e.is_sparse}
    assert {"pruned", "empty"} <= sparse and "dense" not in sparse and "winograd" not in sparse


def unless_compared(entry: Entry, kernel: Kernel) -> float:
    """No sparse kernel but the one for the layouts of the plan."""
    other = kernel.name.startswith(SPARSE) and kernel is not entry.sparse_kernel
    return math.inf if other else 0.0


def test_where_the_balance_tips(entries: dict[str, Entry]) -> None:
    """Just below the break-even density the sparse kernel costs less than that dense one."""
    tipping = [e for e in entries.values() if 0.02 < e.break_even < 0.98]
    assert len(tipping) >= 3
    for entry in tipping:
        for density, wins in ((entry.break_even - 0.01, True), (entry.break_even + 0.01, False)):
            problem = dataclasses.replace(entry.problem, density=density)
            chosen = select(problem, extra_cost=partial(unless_compared, entry))
            assert (chosen is entry.sparse_kernel) is wins


def test_what_is_saved(entries: dict[str, Entry]) -> None:
    assert entries["dense"].saved == 0
    assert entries["pruned"].saved == entries["pruned"].dense - entries["pruned"].sparse > 0
    assert entries["dense"].reason == "no zeros"
    assert "Winograd" in entries["winograd"].reason
    assert "products" in entries["pruned"].reason


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chain.onnx"
    onnx.save(chain(), path)
    assert main(["info", "--sparsity", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == list(LAYERS)
    assert "64 > 64, 3x3 /2 at 12x12" in lines[5]
    assert lines[6] == "times on one core, as the cost model has them"
    assert lines[7].endswith("% saved")


@pytest.mark.skipif(jit.jit_disabled(), reason="kernels that run as Python are not timed")
def test_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chain.onnx"
    onnx.save(chain(), path)
    assert main(["info", "--sparsity", "--measure", "--json", str(path)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["times"] == "measured" and len(told["layers"]) == len(LAYERS)
    for layer in told["layers"]:
        assert layer["dense_seconds"] > 0 and layer["sparse_seconds"] > 0
        assert 0 <= layer["break_even"] <= 1
    assert told["dense_seconds"] == sum(layer["dense_seconds"] for layer in told["layers"])


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "chain.onnx"
    onnx.save(chain(), path)
    assert main(["info", "--measure", str(path)]) == 2
    assert "--measure goes with --sparsity" in capsys.readouterr().err
