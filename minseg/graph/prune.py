"""Magnitude pruning: the smallest weights become zero (Han et al., "Learning both Weights and
Connections for Efficient Neural Networks", 2015), without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias

import numpy as np

from minseg.errors import InputError
from minseg.graph.count import kernel_constants
from minseg.graph.model import Graph

Scope: TypeAlias = Literal["global", "layer"]


@dataclass(frozen=True)
class PrunedKernel:
    """What became of the weights ``name``, which ``nodes`` use: the shares of zeros ``before``
    and ``after``, and the share of the sum of magnitudes that is ``lost``."""

    name: str
    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    excluded: bool
    before: float
    after: float
    lost: float


def smallest_zeroed(weights: np.ndarray, share: float) -> np.ndarray:
    """``weights`` with the share of them that is smallest in magnitude set to zero."""
    zeros = round(share * weights.size)
    if not zeros:
        return weights
    pruned = weights.copy()
    pruned.flat[np.argpartition(np.abs(weights), zeros - 1, axis=None)[:zeros]] = 0
    return pruned


def prune(
    graph: Graph, sparsity: float, scope: Scope = "layer", exclude: Sequence[str] = ()
) -> tuple[Graph, list[PrunedKernel]]:
    """``graph`` with the share ``sparsity`` of the kernels of convolutions and matrix products
    zero, and what became of each.

    "layer" takes that share of every kernel, "global" of all together, so that layers with small
    weights lose more of them. Kernels are left alone that ``exclude`` matches, patterns of the
    shell for names of nodes or of weights. Biases and integers are never pruned. Raises InputError
    for a share that is not at least 0 and less than 1, a pattern that matches nothing, and a graph
    without weights to prune.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be at least 0 and less than 1, not {sparsity}")
    arrays = {**graph.constants, **graph.defaults}
    users = {
        name: nodes
        for name, nodes in kernel_constants(graph).items()
        if arrays[name].dtype == np.float32 and arrays[name].ndim > 1
    }
    excluded = _excluded(users, exclude)
    chosen = {name: arrays[name] for name in users if name not in excluded}
    if not chosen:
        raise InputError("the model has no 32-bit float weights to prune")
    pruned = _PRUNED[scope](chosen, sparsity)
    report = [
        _compared(name, nodes, arrays[name], pruned.get(name, arrays[name]), name in excluded)
        for name, nodes in users.items()
    ]
    constants = {name: pruned.get(name, array) for name, array in graph.constants.items()}
    defaults = {name: pruned.get(name, array) for name, array in graph.defaults.items()}
    return replace(graph, constants=constants, defaults=defaults), report


def _excluded(users: Mapping[str, Sequence[str]], patterns: Sequence[str]) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        matching = {
            name
            for name, nodes in users.items()
            if any(fnmatchcase(known, pattern) for known in (name, *nodes))
        }
        if not matching:
            raise InputError(f"no weights and no node that has weights is called '{pattern}'")
        found |= matching
    return found


def _each_alone(arrays: Mapping[str, np.ndarray], sparsity: float) -> dict[str, np.ndarray]:
    return {name: smallest_zeroed(array, sparsity) for name, array in arrays.items()}


def _all_together(arrays: Mapping[str, np.ndarray], sparsity: float) -> dict[str, np.ndarray]:
    joined = smallest_zeroed(np.concatenate([a.reshape(-1) for a in arrays.values()]), sparsity)
    ends = np.cumsum([array.size for array in arrays.values()])
    parts = np.split(joined, ends[:-1])
    return {
        name: part.reshape(array.shape)
        for (name, array), part in zip(arrays.items(), parts, strict=True)
    }


_PRUNED = {"layer": _each_alone, "global": _all_together}


def _compared(
    name: str, nodes: Sequence[str], old: np.ndarray, new: np.ndarray, excluded: bool
) -> PrunedKernel:
    before, after = (1 - np.count_nonzero(array) / array.size for array in (old, new))
    total, kept = (float(np.abs(array, dtype=np.float64).sum()) for array in (old, new))
    lost = 1 - kept / total if total else 0.0
    return PrunedKernel(name, tuple(nodes), old.shape, excluded, before, after, lost)
