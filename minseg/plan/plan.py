"""What a plan is: buffers, steps, and how much memory they need. Plain data; it runs nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from minseg.graph.model import Node
from minseg.kernels.core.layout import PLAIN, Layout
from minseg.kernels.core.registry import Launch
from minseg.precision import Precision


@dataclass(frozen=True, eq=False)
class Buffer:
    """A tensor of static type in one layout. ``shape`` is the graph's; `stored_shape` memory's.

    ``alias`` names the buffer whose memory this one shares (a reshaped tensor); ``constant`` is
    the contents of one that never changes.
    """

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    layout: Layout = PLAIN
    alias: Buffer | None = None
    constant: np.ndarray | None = None

    @property
    def root(self) -> Buffer:
        """The buffer that owns the memory."""
        return self if self.alias is None else self.alias.root

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.layout.stored_shape(self.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.stored_shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class KernelStep:
    """One launch of a kernel. ``node`` is None for a change of layout. ``flops`` are the operations
    of the definition, ``work`` those that the kernel does; ``others`` are outputs besides."""

    node: Node | None
    kernel: str
    launch: Launch
    inputs: tuple[Buffer, ...]
    output: Buffer
    flops: int = 0
    work: int = 0
    others: tuple[Buffer, ...] = ()
    precision: Precision = Precision.EXACT


#: What a reference step reads: a buffer, a value of unknown type by name, or nothing.
Source: TypeAlias = "Buffer | str | None"


@dataclass(frozen=True, eq=False)
class ReferenceStep:
    """A node run by its reference operator. An output that is a name is of unknown type: it
    lives outside the arena, as an array of its own. ``scope`` is what subgraphs read."""

    node: Node
    inputs: tuple[Source, ...]
    outputs: tuple[Source, ...]
    scope: Mapping[str, Source] = field(default_factory=dict)


Step: TypeAlias = "KernelStep | ReferenceStep"


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything decided for one set of input shapes.

    ``borrowed`` are the root buffers that lie in arrays of the caller's: inputs, and outputs that
    are made for each run. ``offsets`` place the others in an arena of ``arena_bytes``;
    ``workspace_bytes`` is the scratch memory of one thread. A plan with kernels that are not exact
    comes with an ``exact`` one, for numbers that such kernels can't take.
    """

    steps: tuple[Step, ...]
    inputs: Mapping[str, Source]
    outputs: Mapping[str, Source]
    borrowed: frozenset[Buffer]
    offsets: Mapping[Buffer, int]
    arena_bytes: int
    workspace_bytes: int
    exact: Plan | None = None

    @property
    def precision(self) -> Precision:
        """What the least exact step keeps."""
        kept = (step.precision for step in self.steps if isinstance(step, KernelStep))
        return min(kept, default=Precision.EXACT)


@dataclass(frozen=True)
class StepSummary:
    """A step for human eyes. ``kernel`` is "reference operator" where no kernel applied; ``op``
    is "layout" for a change of layout; ``dtype`` is the first input's and ``shape`` the first
    output's, None when unknown; ``flops``, ``work`` and ``precision`` are those of `KernelStep`."""

    name: str
    op: str
    kernel: str
    dtype: str | None
    shape: tuple[int, ...] | None
    layout: str
    flops: int
    work: int
    bytes: int
    precision: str = Precision.EXACT.value


REFERENCE = "reference operator"


def summary(step: Step) -> StepSummary:
    """The row of a step."""
    if isinstance(step, KernelStep):
        out = step.output
        moved = sum(b.nbytes for b in (*step.inputs, out, *step.others))
        moved += sum(c.nbytes for c in step.launch.constants)
        name, op = (step.node.name, step.node.op) if step.node else (out.name, "layout")
        read = _dtype(step.inputs)
        done = step.flops, step.work, moved
        return StepSummary(
            name, op, step.kernel, read, out.shape, str(out.layout), *done, step.precision.value
        )
    return node_summary(step.node, step.inputs, step.outputs)


def node_summary(node: Node, inputs: Sequence[object], outputs: Sequence[object]) -> StepSummary:
    """The row of a node that its reference operator runs, on buffers or arrays. Of other values
    nothing is known."""
    known = [x for x in (*inputs, *outputs) if isinstance(x, (Buffer, np.ndarray))]
    moved = sum(x.nbytes for x in known)
    shape = getattr(outputs[0], "shape", None)
    read = _dtype(inputs)
    return StepSummary(node.name, node.op, REFERENCE, read, shape, str(PLAIN), 0, 0, moved)


def _dtype(inputs: Sequence[object]) -> str | None:
    first = inputs[0] if inputs else None
    return first.dtype.name if isinstance(first, (Buffer, np.ndarray)) else None
