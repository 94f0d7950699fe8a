"""The audit of quantised networks: notations, clipping, saturating pair sums, the command."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from graphs import Build
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import as_scenes, save_colour_model, some_scenes
from models import built_model
from quantised_models import Quantised, quantised_model

from minseg.cli import main
from minseg.ops.geometry import place, sliding
from minseg.ops.support import load
from minseg.quantization.audit import audit
from minseg.quantization.saturation import (
    PairSums,
    of_convolution,
    of_product,
    of_transposed_convolution,
)


def pair_sums(values: list[int], weights: list[int]) -> PairSums:
    """Of one sum of products, its neighbours in pairs, in Python's integers."""
    pairs = range(0, len(values), 2)
    sums = [
        sum(v * w for v, w in zip(values[i : i + 2], weights[i : i + 2], strict=True))
        for i in pairs
    ]
    return PairSums(len(sums), sum(not -32768 <= s <= 32767 for s in sums))


def extreme(random: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Mostly near the ends, where sums saturate."""
    info = np.iinfo(dtype)
    x = random.integers(info.min, info.max, shape, endpoint=True)
    return np.where(random.random(shape) < 0.6, np.where(x % 2, info.min, info.max), x).astype(
        dtype
    )


@given(st.data())
@settings(max_examples=60)
def test_pair_sums_of_convolutions(data: st.DataObject) -> None:
    """Against loops over every sum; padding has the value of the zero point."""
    size = st.integers(1, 4)
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    group, inputs, outputs = data.draw(size) % 2 + 1, data.draw(size), data.draw(size)
    kernel, extra = [data.draw(size) for _ in range(2)], [data.draw(size) for _ in range(2)]
    pads = [data.draw(st.integers(0, 2)) for _ in range(4)]
    strides, zero = [data.draw(size) for _ in range(2)], data.draw(st.sampled_from([0, 7, 255]))
    spatial = [k + e for k, e in zip(kernel, extra, strict=True)]
    x = extreme(random, (2, group * inputs, *spatial), np.uint8)
    w = extreme(random, (group * outputs, inputs, *kernel), np.int8)
    axes = place(sliding(kernel, strides, None, pads), spatial)
    expected = PairSums(0, 0)
    for n, m, oy, ox, ky, kx in product(
        range(2), range(len(w)), range(axes[0].output), range(axes[1].output), *map(range, kernel)
    ):
        iy, ix = oy * strides[0] + ky - pads[0], ox * strides[1] + kx - pads[1]
        inside = 0 <= iy < spatial[0] and 0 <= ix < spatial[1]
        first = m // outputs * inputs
        values = [int(x[n, first + c, iy, ix]) if inside else zero for c in range(inputs)]
        expected += pair_sums(values, [int(w[m, c, ky, kx]) for c in range(inputs)])
    assert of_convolution(x, zero, w, axes, group) == expected


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_pair_sums_of_products(inputs: int, outputs: int, kernel: int, seed: int) -> None:
    """A matrix product, and a transposed convolution, whose pixels meet every tap."""
    random = np.random.default_rng(seed)
    a = extreme(random, (6, inputs), np.uint8)
    w = extreme(random, (inputs, outputs, kernel), np.int8)
    expected = [PairSums(0, 0) for _ in range(kernel)]
    for tap, row, m in product(range(kernel), range(6), range(outputs)):
        expected[tap] += pair_sums(a[row].tolist(), w[:, m, tap].tolist())
    assert of_product(a, w[..., 0]) == expected[0]
    picture = a.T.reshape(1, inputs, 6)
    assert of_transposed_convolution(picture, w, 1) == sum(expected, PairSums(0, 0))


@pytest.mark.parametrize(
    ("values", "weights", "saturated"),
    [
        ([255, 191], [127, 2], 0),  # 32767
        ([255, 192], [127, 2], 1),
        ([255, 128], [-128, -1], 0),  # -32768
        ([255, 129], [-128, -1], 1),
        ([255, 255], [127, -128], 0),
    ],
)
def test_a_sum_at_the_limit_does_not_saturate(
    values: list[int], weights: list[int], saturated: int
) -> None:
    columns = np.array(weights, np.int8)[:, None]
    assert of_product(np.array([values], np.uint8), columns) == PairSums(1, saturated)


FORMS = (
    (Quantised("icnet"), "QDQ", 64),
    (Quantised("icnet", "qoperator", per_channel=True), "QOperator", 64),
    (Quantised("icnet", "dynamic", "u8", "u8"), "dynamic", 64),
    (Quantised("unet"), "QDQ", 23),
    (Quantised("small", "qoperator", "s8", "s8"), "QOperator", 41),
)


@pytest.mark.parametrize(("form", "notation", "count"), FORMS, ids=lambda v: str(v))
def test_layers_of_any_notation(form: Quantised, notation: str, count: int) -> None:
    layers = audit(load(quantised_model(form)))
    assert len(layers) == count
    assert {layer.notation for layer in layers} == {notation}
    for layer in layers:
        assert layer.pairs is None
        assert layer.clipped is None
        if notation != "dynamic":
            assert layer.x is not None
            assert layer.weights is not None
            assert layer.x.scale.size == 1
            assert (layer.weights.scale.size > 1) == form.per_channel


def test_fakequantize_and_its_twin_in_qdq_lose_the_same() -> None:
    """The project's ICNet holds one set of integers in both notations."""
    size = {"height": 192, "width": 192}
    paths = [
        built_model("icnet-camvid-int8-onnx-0001", notation=n, **size)
        for n in ("qdq", "fakequantize")
    ]
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, 192, 192)).astype(np.float32)
    qdq, fake = (audit(load(path), {"input.1": noise}) for path in paths)
    assert {layer.notation for layer in qdq} == {"QDQ"}
    assert {layer.notation for layer in fake} == {"FakeQuantize"}
    assert len(qdq) == len(fake) == 64
    for a, b in zip(qdq, fake, strict=True):
        assert a.pairs is not None
        assert a.pairs == b.pairs
    assert sum(layer.pairs.total for layer in qdq if layer.pairs) > 1e8


def test_what_is_cut_off() -> None:
    """By the floats themselves: one convolution that passes on what it reads."""
    build = Build()
    x = build.input(1, 1, 8, 8)
    grids = [(build.constant(s), build.constant(z, np.uint8)) for s, z in ((0.1, 128), (0.02, 100))]
    q = build.op("QuantizeLinear", x, *grids[0])
    weights = build.constant([[[[127]]]], np.int8), build.constant(1 / 127)
    y = build.op(
        "Conv",
        build.op("DequantizeLinear", q, *grids[0]),
        build.op("DequantizeLinear", *weights),
    )
    graph = build.graph(build.op("QuantizeLinear", y, *grids[1]))
    numbers = np.random.default_rng(0).normal(0, 2, (1, 1, 8, 8)).astype(np.float32)
    (layer,) = audit(graph, {"x": numbers})
    assert layer.clipped is not None
    rounded = (np.clip(np.rint(numbers / 0.1) + 128, 0, 255) - 128) * 0.1
    assert layer.clipped.below == (rounded / 0.02 + 100 < -0.5).mean() > 0.05
    assert layer.clipped.above == (rounded / 0.02 + 100 > 255.5).mean() > 0.01


@pytest.fixture
def street(tmp_path: Path) -> Path:
    as_scenes(tmp_path, some_scenes())
    return tmp_path / "street_000.png"


def test_the_command(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--quantization", "camvid-small-int8", str(street)]) == 0
    text = capsys.readouterr().out
    assert "QDQ 36, float 5" in text
    assert "saturated pairs" in text
    assert "input channels 2j and 2j+1 under one tap" in text
    assert main(["info", "--quantization", "camvid-small-int8"]) == 0
    assert "saturated" not in capsys.readouterr().out


def test_the_command_as_json(street: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--quantization", "camvid-small-int8", str(street), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    rows = [row for row in facts["layers"] if row["notation"] == "QDQ"]
    assert len(facts["layers"]) == 41
    for row in rows:
        assert row["x"]["dtype"] == "uint8"
        assert len(row["weights"]["scale"]) > 1
        assert 0 <= row["saturated"] <= row["pair_sums"]
    assert any(row["clipped"] for row in rows)


def test_refusals(street: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = save_colour_model(tmp_path / "model.onnx")
    for arguments, message in (
        (["--quantization", str(model)], "is not quantised: no layer reads integers"),
        ([str(model), str(street)], "goes with --quantization"),
        (["--quantization", "camvid-small-int8", "gone.png"], "gone.png"),
    ):
        assert main(["info", *arguments]) == 2
        assert message in capsys.readouterr().err
