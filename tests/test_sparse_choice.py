"""Which kernel a convolution with zeros gets, held against what kernels took on two CPUs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.registry import in_blocks, select
from minseg.kernels.isa.target import target
from minseg.kernels.rates.family import pinned

if target().lanes != 16:
    pytest.skip("times are those of vectors of 16 lanes", allow_module_level=True)

#: What the names of the kernels begin with that a column of times stands for.
PREFIXES = ("conv_f32_direct", "conv_f32_winograd", "conv_f32_sparse")

Layer: TypeAlias = tuple[int, ...]

#: Family: IC, OC, H, W, taps along an axis, stride, dilation: share of zeros: milliseconds of the
#: direct kernel, Winograd's and the sparse one on one core, from benchmarks/sparsity.py on znver4
#: and on emeraldrapids.
MEASURED: dict[str, dict[Layer, dict[float, list[float | None]]]] = {
    family: {tuple(row["layer"]): {zeros: times for zeros, *times in row["times"]} for row in rows}
    for family, rows in json.loads(
        Path(__file__).with_name("sparse_times.json").read_text()
    ).items()
}

CASES = [
    pytest.param(family, layer, zeros, id=f"{family}, {'-'.join(map(str, layer))}, {zeros:.0%}")
    for family, layers in MEASURED.items()
    for layer, rows in layers.items()
    for zeros in rows
]


@pytest.fixture(autouse=True)
def on_family(family: str) -> Iterator[None]:
    """Costs are those of ``family``."""
    with pinned(family):
        yield


def problem(layer: Layer, zeros: float) -> Conv2d:
    IC, OC, H, W, K, S, D = layer
    size = -(-H // S), -(-W // S)
    pad = K // 2 * D
    return Conv2d(1, IC, H, W, OC, *size, K, K, S, S, D, D, pad, pad, density=1 - zeros)


def column(layer: Layer, asked: float) -> int:
    """Which of the measured kernels the layer gets with so many zeros."""
    kernel = select(problem(layer, asked), extra_cost=in_blocks)
    assert kernel is not None
    (found,) = (i for i, prefix in enumerate(PREFIXES) if kernel.name.startswith(prefix))
    return found


@pytest.mark.parametrize("family, layer, zeros", CASES)
def test_zeros_make_nothing_slower(family: str, layer: Layer, zeros: float) -> None:
    times = MEASURED[family][layer][zeros]
    chosen, dense = times[column(layer, zeros)], times[column(layer, 0.0)]
    assert chosen is not None
    assert dense is not None
    assert chosen <= 1.02 * dense


@pytest.mark.parametrize("family, layer, zeros", CASES)
def test_the_choice_is_close_to_the_best(family: str, layer: Layer, zeros: float) -> None:
    times = MEASURED[family][layer][zeros]
    chosen = times[column(layer, zeros)]
    assert chosen is not None
    assert chosen <= 1.25 * min(t for t in times if t is not None)
