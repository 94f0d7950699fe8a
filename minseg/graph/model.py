"""The graph: what a model file says, as immutable dataclasses without a trace of protobuf.

Values are named by strings, as in ONNX; every value is assigned once. An empty input name stands
for an omitted optional input. Passes never change a graph, they return a new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from minseg.graph.model_file import ModelFile

#: A size that is known, known by name only ("batch"), or unknown.
Dim: TypeAlias = "int | str | None"
Attribute: TypeAlias = (
    "int | float | str | np.ndarray | Graph | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]"
)


@dataclass(frozen=True)
class TensorType:
    """What is known of a tensor before it exists.

    ``dtype`` is None when unknown, ``shape`` is None when even the rank is unknown, and ``value``
    holds the contents where they are known already (constants and what follows from them).
    """

    dtype: np.dtype | None
    shape: tuple[Dim, ...] | None = None
    value: np.ndarray | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, array: np.ndarray) -> TensorType:
        """The type of a known array, carrying its value."""
        return cls(array.dtype, array.shape, array)

    @property
    def rank(self) -> int | None:
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """True when dtype and every size are known."""
        return (
            self.dtype is not None
            and self.shape is not None
            and all(isinstance(d, int) for d in self.shape)
        )


@dataclass(frozen=True)
class OtherType(TensorType):
    """What is declared as something else than a tensor: ``kind`` says what ("sequence", "map")."""

    kind: str = "unknown"


@dataclass(frozen=True)
class Value:
    """A graph input or output: a name and its declared type."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Node:
    """One operator call. ``opset`` is the version of ``domain`` that the model imports."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    opset: int = 1

    @cached_property
    def subgraphs(self) -> tuple[Graph, ...]:
        """Those of its attributes that are graphs."""
        return tuple(value for value in self.attributes.values() if isinstance(value, Graph))

    @cached_property
    def captured(self) -> frozenset[str]:
        """The values around it that its subgraphs read."""
        return frozenset[str]().union(*(graph.captured for graph in self.subgraphs))

    @cached_property
    def reads(self) -> frozenset[str]:
        """Every value that it reads, as an input or inside its subgraphs."""
        return self.captured.union(filter(None, self.inputs))

    def __str__(self) -> str:
        domain = f"{self.domain}." if self.domain else ""
        return f"node '{self.name}' ({domain}{self.op}, opset {self.opset})"


@dataclass(frozen=True)
class Graph:
    """A model: ``nodes`` in topological order between ``inputs`` and ``outputs``.

    ``constants`` are initializers that never change. ``defaults`` are the initializers that a
    caller may override: each is named by an entry of ``inputs`` too. ``types`` holds what shape
    inference found for the values in between (see minseg.ops.infer); ``metadata`` the model's
    own key-value strings. A subgraph (an attribute of If) has no ``opsets`` of its own and may
    name values of the graph around it. ``file`` is where arrays may lie that take no memory
    unless they are read.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    defaults: Mapping[str, np.ndarray] = field(default_factory=dict)
    types: Mapping[str, TensorType] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    opsets: Mapping[str, int] = field(default_factory=dict)
    file: ModelFile | None = field(default=None, compare=False, repr=False)

    @property
    def required_inputs(self) -> tuple[Value, ...]:
        """The inputs that a caller must feed."""
        return tuple(v for v in self.inputs if v.name not in self.defaults)

    def with_defaults(self, fed: Collection[str] = ()) -> Graph:
        """The graph whose inputs that are not ``fed`` are the constants that they default to."""
        constants = {n: array for n, array in self.defaults.items() if n not in fed}
        return replace(
            self,
            inputs=tuple(v for v in self.inputs if v.name not in constants),
            constants={**self.constants, **constants},
            defaults={},
        )

    @cached_property
    def own_names(self) -> frozenset[str]:
        """The values that it gives itself: inputs, constants and what its nodes make."""
        made = (name for node in self.nodes for name in node.outputs if name)
        return frozenset([*(v.name for v in self.inputs), *self.constants, *made])

    @cached_property
    def reads(self) -> frozenset[str]:
        """Every value that is put out, or read by a node or inside a node's subgraphs."""
        return frozenset(v.name for v in self.outputs).union(*(n.reads for n in self.nodes))

    @property
    def captured(self) -> frozenset[str]:
        """The values of the graphs around it that it reads or puts out."""
        return self.reads - self.own_names

    @property
    def scopes(self) -> Iterator[Graph]:
        """The graph itself, its subgraphs, and theirs."""
        yield self
        for node in self.nodes:
            for graph in node.subgraphs:
                yield from graph.scopes
