"""A node's question to the kernels, and what the modules that state such questions share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from minseg.graph.model import Graph, Node


@dataclass(frozen=True)
class Task:
    """A problem, the tensors it reads (names, or constants of its own), the name of the one it
    writes, the constants it packs, and what ``others`` it writes, plain."""

    problem: Any
    inputs: tuple[str | np.ndarray, ...]
    output: str
    constants: tuple[np.ndarray | None, ...] = ()
    others: tuple[str, ...] = ()


#: Looks at one node whose types are all known; returns its problems, or none where no family of
#: kernels covers it (its reference operator will run).
Statement: TypeAlias = Callable[[Node, Graph], list[Task]]


def shape_of(graph: Graph, name: str) -> tuple[int, ...]:
    """The known shape of a value."""
    return tuple(int(d) for d in graph.types[name].shape or () if isinstance(d, int))


def is_f32(graph: Graph, *names: str) -> bool:
    """Whether all these values are float32."""
    return all(graph.types[n].dtype == np.float32 for n in names)


def is_u8(graph: Graph, *names: str) -> bool:
    """Whether all these values are bytes."""
    return all(graph.types[n].dtype == np.uint8 for n in names)


def input_name(node: Node, index: int) -> str:
    """The name of an input, empty where it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else ""


def around_axis(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """A shape as outer, axis, inner."""
    axis %= len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def attributes(node: Node, *names: str) -> dict[str, Any]:
    """Those of the named attributes that the node has."""
    return {n: node.attributes[n] for n in names if n in node.attributes}
