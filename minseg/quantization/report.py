"""What quantising did to each value of a network: signal to noise, in decibels.

SQNR = 10 log10(sum of squares of the floats / sum of squares of what they are off), over all
pictures. A value is off by its own rounding and by that of all before it; both are told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from minseg.ops.bytes import Grid
from minseg.quantization.observe import Feeds, observed
from minseg.quantization.points import has_weights
from minseg.quantization.quantise import Quantised
from minseg.runtime.session import Session


@dataclass
class Noise:
    """Sums of squares, of a signal and of what was added to it."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: np.ndarray, rounded: np.ndarray) -> None:
        wide = exact.astype(np.float64)
        self.signal += float((wide**2).sum())
        self.noise += float(((rounded - wide) ** 2).sum())

    @property
    def decibels(self) -> float:
        """Infinite where nothing is off; NaN where there is no signal either."""
        if not self.noise:
            return math.inf if self.signal else math.nan
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf


@dataclass(frozen=True)
class Layer:
    """A value of the network, by the node that makes it (none for an input).

    ``grid`` is None where the value stays float; ``weights``, ``alone`` and ``network`` are
    decibels: of the node's weights (None without), of the value's own rounding (None for a
    float), and of the value in the whole network.
    """

    value: str
    node: str
    op: str
    grid: Grid | None
    weights: float | None
    alone: float | None
    network: float


def layers(quantised: Quantised, pictures: Iterable[Feeds], threads: int | None) -> list[Layer]:
    """Every value that has a grid of its own, and the outputs that a node makes, in the network's
    order."""
    source, result = quantised.source, quantised.result
    pairs = {name: result.values[name] for name in quantised.points.measured}
    made = {name for node in source.nodes for name in node.outputs}
    pairs.update((v.name, v.name) for v in source.outputs if v.name in made - pairs.keys())
    alone, network = ({name: Noise() for name in pairs} for _ in range(2))
    floats, integers = (Session(g, threads=threads) for g in (source, result.graph))
    for feeds in pictures:
        rounded = observed(integers, list(pairs.values()), feeds)
        for (name, exact), (_, found) in zip(
            observed(floats, list(pairs), feeds), rounded, strict=True
        ):
            network[name].add(exact, found)
            if name in quantised.points.leader:
                alone[name].add(exact, quantised.grid(name).rounded(exact))
    return [
        _layer(quantised, name, alone[name].decibels, network[name].decibels)
        for name in _in_order(quantised, pairs)
    ]


def _in_order(quantised: Quantised, names: Iterable[str]) -> list[str]:
    source = quantised.source
    made = [v.name for v in source.inputs] + [o for n in source.nodes for o in n.outputs]
    place = {name: i for i, name in enumerate(made)}
    return sorted(names, key=lambda n: place[n])


def _layer(quantised: Quantised, name: str, alone: float, network: float) -> Layer:
    source = quantised.source
    node = next((n for n in source.nodes if name in n.outputs), None)
    if node is None:
        return Layer(name, name, "input", quantised.grid(name), None, alone, network)
    grid = quantised.grid(name) if name in quantised.points.leader else None
    return Layer(
        name,
        node.name,
        node.op,
        grid,
        _weights(quantised, name),
        alone if grid else None,
        network,
    )


def _weights(quantised: Quantised, name: str) -> float | None:
    """Of the weighted node that makes ``name``, or whose activation does."""
    source = quantised.source
    node = next((n for n in source.nodes if name in n.outputs), None)
    if node is not None and not has_weights(node, source):
        node = next((n for n in source.nodes if node.inputs[0] in n.outputs), None)
    if node is None or node.name not in quantised.result.weights:
        return None
    noise = Noise()
    noise.add(source.constants[node.inputs[1]], quantised.result.weights[node.name])
    return noise.decibels
