"""Rates: every CPU has a family, its files hold what kernels ask for, and times give them back."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from minseg.errors import MinsegError
from minseg.kernels.conv.direct import DirectRates, direct_cost
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.core.registry import all_kernels
from minseg.kernels.isa.target import instruction_sets
from minseg.kernels.rates.family import caches, family, family_of, named, names, pinned, rates

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PROBLEM = Conv2d(1, 64, 20, 24, 64, 20, 24, 3, 3, 1, 1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("isa", "cpu", "name"),
    [
        ("avx512vbmi", "znver4", "avx512_amd"),
        ("avx512vnni", "cascadelake", "avx512"),
        ("avx2", "haswell", "avx2"),
        ("avx2", "znver2", "avx2_amd"),
        ("sse2", "x86-64", "generic"),
        ("neon", "apple-m1", "neon"),
    ],
)
def test_the_family_of_a_cpu(isa: str, cpu: str, name: str) -> None:
    assert family_of(isa, cpu).name == name


def test_every_instruction_set_has_one_family_for_any_cpu() -> None:
    every = [isa.name for kind in ("x86", "arm", "other") for isa in instruction_sets(kind)]
    for isa in every:
        assert sum(isa in named(n).instruction_sets and named(n).cpu == "*" for n in names()) == 1
    assert {isa for n in names() for isa in named(n).instruction_sets} == set(every)


def test_families_have_the_same_records() -> None:
    first, *others = (named(name).rates for name in names())
    for other in others:
        assert {k: r.keys() for k, r in other.items()} == {k: r.keys() for k, r in first.items()}


def test_a_pin_replaces_the_machine() -> None:
    with pinned("avx512_amd"):
        amd = direct_cost(PROBLEM), caches()
        with pinned("neon"):
            assert family() is named("neon")
            assert caches() == named("neon").caches != amd[1]
        assert (direct_cost(PROBLEM), caches()) == amd


def test_a_pin_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINSEG_RATES", "avx2")
    assert (family(), caches()) == (named("avx2"), named("avx2").caches)
    monkeypatch.setenv("MINSEG_RATES", "pentium")
    with pytest.raises(MinsegError, match=r"MINSEG_RATES must be one of avx2, .*, not 'pentium'$"):
        rates("conv_f32_direct", DirectRates)


def test_names_that_a_record_does_not_have_or_lacks_are_an_error() -> None:
    class Other(NamedTuple):
        vector: float

    with pytest.raises(ValueError, match="conv_f32_direct, where vector are asked for"):
        rates("conv_f32_direct", Other)
    with pytest.raises(ValueError, match="have nothing for unheard_of"):
        rates("unheard_of", Other)


# benchmarks/rates.py


@pytest.fixture(scope="module")
def script() -> Any:
    if not BENCHMARKS.is_dir():
        pytest.skip("benchmarks/ is not here")
    pytest.importorskip("sklearn")
    sys.path.append(str(BENCHMARKS))
    return importlib.import_module("rates")


def test_a_cost_is_the_sum_of_its_rates(script: Any) -> None:
    for kernel in all_kernels():
        if kernel.family is Conv2d and kernel.applies(PROBLEM):
            with pinned("avx512"):
                counts = script.counts(kernel, PROBLEM, family())
                cost = kernel.cost(PROBLEM)
            known = script.numbers(named("avx512"))
            assert cost == pytest.approx(sum(known[rate] * n for rate, n in counts.items()))


def test_times_give_rates_back(script: Any) -> None:
    rng = np.random.default_rng(0)
    old = {("a", "x"): 1.0, ("a", "y"): 0.5, ("b", "x"): 2.0, ("b", "untold"): 7.0}
    true = {("a", "x"): 0.3, ("a", "y"): 1.25, ("b", "x"): 0.0}
    samples = []
    for _ in range(20):
        counts = {rate: float(rng.uniform(1, 1000)) for rate in true}
        ns = sum(true[rate] * n for rate, n in counts.items())
        samples.append(script.Sample("kernel", ns, counts))
    new = script.fit(samples, old)
    assert new == pytest.approx(true, rel=1e-2, abs=1e-3)
    assert "b.untold" not in script.report(samples, old, new)


def test_files_are_written_as_they_are_read(script: Any) -> None:
    for name in names():
        content = script.told(name)
        assert script.file_text(content) == (script.FOLDER / f"{name}.json").read_text()
    new = {("pool", "load"): 0.7}
    changed = script.with_rates(script.told("neon"), named("neon"), new)
    assert changed["rates"] == {"pool": {"load": 0.7, "latency": 1.2}}
    assert changed["extends"] == "avx512"
