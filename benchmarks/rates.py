"""Times every kernel on single layers and fits the rates that kernels' costs are made of.

A cost is a sum of rates, each as often as the cost is with that rate 1 and all others 0. All are
fitted at once, so that the sum of squared relative errors is least and no rate is negative; what no
layer tells keeps its old value.

    python benchmarks/rates.py [--only TEXT] [--rounds N] [--write FAMILY]
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from layers import LAYERS, Layer, trial

from minseg.kernels.core.registry import Kernel
from minseg.kernels.rates.family import FOLDER, Family, caches, family, named, names, pinned, told
from minseg.measure.timing import interleaved

#: The names of a record and of a field.
Rate: TypeAlias = tuple[str, str]

#: What is no time, but memory's worth.
PRICES: frozenset[Rate] = frozenset({("conv_f32_winograd", "kept")})

#: How much it weighs, beside the error of a layer, that a rate is another than it was.
WEIGHT_OF_OLD = 1e-3


@dataclass(frozen=True)
class Sample:
    """A kernel that took ``ns`` on a layer, and how often its cost there contains each rate."""

    kernel: str
    ns: float
    counts: Mapping[Rate, float]

    def error(self, rates: Mapping[Rate, float]) -> float:
        """What the cost is off by, relative to the time."""
        return abs(sum(rates[rate] * n for rate, n in self.counts.items()) / self.ns - 1)


def numbers(of: Family) -> dict[Rate, float]:
    """The rates of a family that are times."""
    every = {(name, f): ns for name, record in of.rates.items() for f, ns in record.items()}
    return {rate: ns for rate, ns in every.items() if rate not in PRICES}


def counts(kernel: Kernel, problem: Any, of: Family) -> dict[Rate, float]:
    """How often the kernel's cost contains each rate, with the caches of this machine."""
    found = {}
    for rate in numbers(of):
        alone = {
            name: {f: float((name, f) == rate) for f in record} for name, record in of.rates.items()
        }
        with pinned(replace(of, rates=alone, caches=caches())):
            found[rate] = kernel.cost(problem)
    return {rate: n for rate, n in found.items() if n}


def samples(layer: Layer, rounds: int, of: Family) -> Iterator[Sample]:
    """One for every kernel that takes the layer. Exits the program where one is wrong."""
    tried = trial(layer)
    for name, timing in interleaved(tried.kernels, rounds).items():
        kernel = tried.kernels[name].kernel
        yield Sample(name, 1e9 * timing.median, counts(kernel, tried.problem, of))


def fit(samples: Sequence[Sample], old: Mapping[Rate, float]) -> dict[Rate, float]:
    """The rates that are nearest to the samples' times, of those that occur in them."""
    from sklearn.linear_model import LinearRegression

    rates = [rate for rate in old if any(rate in sample.counts for sample in samples)]
    scale = np.array([old[rate] or 1.0 for rate in rates])
    rows = np.array([[s.counts.get(rate, 0.0) / s.ns for rate in rates] for s in samples])
    before = WEIGHT_OF_OLD * np.array([old[rate] for rate in rates]) / scale
    equations = np.concatenate([rows * scale, WEIGHT_OF_OLD * np.eye(len(rates))])
    wanted = np.concatenate([np.ones(len(samples)), before])
    model = LinearRegression(positive=True, fit_intercept=False).fit(equations, wanted)
    return {rate: float(f"{x:.3g}") for rate, x in zip(rates, model.coef_ * scale, strict=True)}


# What is told


def report(samples: Sequence[Sample], old: Mapping[Rate, float], new: Mapping[Rate, float]) -> str:
    """Each rate before and after, and how far each kernel's costs are off its times."""
    lines = [f"{'rate':36} {'old':>8} {'new':>8}"]
    lines += [f"{'.'.join(rate):36} {old[rate]:8.3g} {ns:8.3g}" for rate, ns in new.items()]
    lines += ["", f"{'mean error of the cost':36} {'old':>8} {'new':>8} {'layers':>8}"]
    kernels: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        kernels[sample.kernel].append(sample)
    for name, own in kernels.items():
        before, after = (np.mean([s.error(rates) for s in own]) for rates in (old, {**old, **new}))
        lines.append(f"{name:36} {before:8.0%} {after:8.0%} {len(own):8}")
    return "\n".join(lines)


def file_text(content: Mapping[str, Any]) -> str:
    """A family's file, a line for each record."""
    lines = [f'  "{key}": {json.dumps(value)}' for key, value in content.items() if key != "rates"]
    if "rates" in content:
        records = [f'    "{name}": {json.dumps(r)}' for name, r in content["rates"].items()]
        lines.append('  "rates": {\n' + ",\n".join(records) + "\n  }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def with_rates(content: Mapping[str, Any], of: Family, new: Mapping[Rate, float]) -> dict[str, Any]:
    """What a family's file says, with ``new`` rates in it."""
    records = dict(content.get("rates", {}))
    for name, field in new:
        records[name] = {**of.rates[name], **records.get(name, {}), field: new[name, field]}
    return {**content, "rates": records}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="layers whose line has TEXT")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="calls per kernel")
    parser.add_argument(
        "--write", choices=names(), metavar="FAMILY", help=f"into its file; one of {names()}"
    )
    options = parser.parse_args()
    of = named(options.write) if options.write else family()
    chosen = [layer for layer in LAYERS if options.only in f"{layer.model} {layer.title}"]
    taken = [sample for layer in chosen for sample in samples(layer, options.rounds, of)]
    if not taken:
        parser.error(f"no kernel takes a layer whose line has {options.only!r}")
    new = fit(taken, numbers(of))
    print(f"{of.name}, rates in nanoseconds")
    print(report(taken, numbers(of), new))
    if options.write:
        text = file_text(with_rates(told(of.name), of, new))
        (FOLDER / f"{of.name}.json").write_text(text)


if __name__ == "__main__":
    main()
