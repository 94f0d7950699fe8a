"""Makes a plan: for concrete input shapes, a kernel per step, packed weights, one arena."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from minseg.graph.model import Graph, Node, TensorType, Value
from minseg.kernels.core.layout import PLAIN, Layout
from minseg.kernels.core.registry import Deferred, Kernel, Launch, select, usable
from minseg.kernels.move.concat import Concat, is_in_order
from minseg.kernels.move.reorder import ReorderRates
from minseg.kernels.rates.family import rates
from minseg.ops.registry import Trait, has
from minseg.ops.types import UNKNOWN
from minseg.passes import optimize, specialise
from minseg.passes.rewrite import origin
from minseg.plan.arena import Lifetime, arrange
from minseg.plan.freed import return_freed_memory
from minseg.plan.plan import Buffer, KernelStep, Plan, ReferenceStep, Source, Step
from minseg.plan.problems import reorder, tasks
from minseg.plan.task import Task
from minseg.precision import Precision

#: Constants forgotten since memory was last given back, before it is again.
RETURNED_BYTES = 4 * 2**20


def make_plan(
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]],
    capture: Sequence[str] = (),
    precision: Precision = Precision.F32,
) -> Plan:
    """A plan for inputs of ``shapes`` that also delivers the values named in ``capture``.

    Inputs with a default that ``shapes`` does not name keep it. Kernels keep ``precision``; they
    are exact in a graph that quantises activations, where a small error can become a whole step.
    Raises ModelError where the shapes contradict the model.
    """
    builder = _Builder(planned_graph(_with_outputs(graph, capture), shapes), precision)
    exact = None if builder.precision is Precision.EXACT else builder.beside(Precision.EXACT)
    for node, unused in zip(builder.graph.nodes, _last_uses(builder.graph), strict=True):
        builder.add(node)
        if exact is not None:
            exact.add(node)
        builder.forget(node, unused)
    plan = builder.plan()
    if exact is None or plan.precision is Precision.EXACT:
        return plan
    return replace(plan, exact=exact.plan())


def planned_graph(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Graph:
    """The nodes that a plan for ``shapes`` has steps for, and their types."""
    bound = graph.with_defaults(fed=shapes)
    return optimize(specialise(bound, _input_types(graph, shapes)))


def _input_types(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorType]:
    declared = {v.name: v.type for v in graph.inputs}
    return {name: TensorType(declared[name].dtype, shape) for name, shape in shapes.items()}


def _with_outputs(graph: Graph, names: Sequence[str]) -> Graph:
    known = {v.name for v in graph.outputs}
    extra = tuple(Value(n, graph.types.get(n, UNKNOWN)) for n in names if n not in known)
    return replace(graph, outputs=graph.outputs + extra)


class _Builder:
    """Is given the nodes in turn and collects steps; `plan` then lays out memory."""

    def __init__(self, graph: Graph, precision: Precision):
        # Types without values, and constants for the builder alone to forget.
        types = {name: replace(type_, value=None) for name, type_ in graph.types.items()}
        self.graph = replace(graph, constants=dict(graph.constants), types=types)
        quantises = any(has(node, Trait.ROUNDS) for node in graph.nodes)
        self.precision = Precision.EXACT if quantises else precision
        self.forgotten_bytes = 0
        self.stated: dict[tuple[str, ...], list[Task]] = {}
        self.prepared: dict[tuple[str | Layout, int], Any] = {}
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.reads:
                self.readers.setdefault(name, []).append(node)
        self.is_spare = False
        self._begin()

    def beside(self, precision: Precision) -> _Builder:
        """A builder that is given each node after this one, for a plan that may never be needed.

        What both plans need alike, they share. Of the rest, `Deferred` constants are not made.
        """
        other = copy(self)
        other.precision, other.is_spare = precision, True
        other._begin()
        return other

    def _begin(self) -> None:
        self.steps: list[Step] = []
        self.where: dict[str, dict[Layout, Buffer]] = {}
        self.inside: dict[Buffer, tuple[Buffer, int]] = {}
        self.free: set[str] = set()
        self.wanted: dict[str, list[dict[Layout, float]]] = {}
        self.inputs = {v.name: self._declare(v.name) for v in self.graph.inputs}

    def plan(self) -> Plan:
        outputs = {v.name: self._source(v.name) for v in self.graph.outputs}
        lifetimes = _lifetimes(self.steps, self.inputs.values(), outputs.values())
        borrowed = self._borrowed([*self.inputs.values(), *outputs.values()])
        own = {buffer: span for buffer, span in lifetimes.items() if buffer not in borrowed}
        offsets, arena_bytes = arrange(own, self.inside)
        launches = [s.launch for s in self.steps if isinstance(s, KernelStep)]
        workspace = max((launch.workspace for launch in launches), default=0)
        return Plan(
            tuple(self.steps),
            self.inputs,
            outputs,
            borrowed,
            offsets,
            arena_bytes,
            -(-workspace // 64) * 64,
        )

    def _borrowed(self, ends: Iterable[Source]) -> frozenset[Buffer]:
        """The roots of inputs and outputs that change and are no parts of others, nor have any."""
        roots = {end.root for end in ends if isinstance(end, Buffer)}
        joined = {*self.inside, *(whole for whole, _ in self.inside.values())}
        return frozenset(b for b in roots - joined if b.constant is None)

    def forget(self, node: Node, names: Iterable[str]) -> None:
        """Let go of what ``node`` alone needed, and of constants as soon as they are packed, which
        takes room anew."""
        self.stated.pop(node.outputs, None)
        self.prepared.clear()
        constants: Any = self.graph.constants
        forgotten = [constants.pop(name) for name in names if name in constants]
        self.forgotten_bytes += sum(array.nbytes for array in forgotten)
        del forgotten
        if self.graph.file is not None:
            self.graph.file.drop()
        if self.forgotten_bytes > RETURNED_BYTES:
            return_freed_memory()
            self.forgotten_bytes = 0

    def _keep(self, buffer: Buffer) -> Buffer:
        self.where.setdefault(buffer.name, {})[buffer.layout] = buffer
        return buffer

    def _static(self, name: str) -> tuple[np.dtype, tuple[int, ...]]:
        type_ = self.graph.types[name]
        assert type_.dtype is not None and type_.shape is not None
        return type_.dtype, tuple(int(d) for d in type_.shape if isinstance(d, int))

    def _is_static(self, name: str) -> bool:
        type_ = self.graph.types.get(name)
        return type_ is not None and type_.is_static and not type_.dtype.hasobject  # type: ignore[union-attr]

    # One node

    def add(self, node: Node) -> None:
        if has(node, Trait.VIEW) and self._add_view(node):
            return
        chosen = [(task, self._choose(task)) for task in self._tasks(node)]
        if not chosen or any(kernel is None for _, kernel in chosen):
            self._add_reference(node)
            return
        for task, kernel in chosen:
            assert kernel is not None
            self._add_kernel(node, task, kernel)

    def _tasks(self, node: Node) -> list[Task]:
        """The node as problems for kernels; none if it is not all static or poses none."""
        if node.outputs not in self.stated:
            self.stated[node.outputs] = self._state(node)
        return self.stated[node.outputs]

    def _state(self, node: Node) -> list[Task]:
        names = [n for n in (*node.inputs, *node.outputs) if n]
        if not all(self._is_static(n) for n in names):
            return []
        if any(self._is_empty(n) for n in names if n not in self.graph.constants):
            return []
        found = tasks(node, self.graph)
        # Of the constants only those that kernels read may not be empty: an operator can be told
        # by an empty one that an input is left out, as Resize is of opset 11.
        read = [x for task in found for x in (*task.inputs, *task.constants) if x is not None]
        return [] if any(map(self._is_empty, read)) else found

    def _is_empty(self, operand: str | np.ndarray) -> bool:
        shape = self._static(operand)[1] if isinstance(operand, str) else operand.shape
        return 0 in shape

    def _choose(self, task: Task) -> Kernel | None:
        """The kernel with the least expected cost, changes of layout before and after included."""

        def moves(kernel: Kernel) -> float:
            moved = [
                n
                for i, n in enumerate(task.inputs)
                if isinstance(n, str)
                and n not in self.graph.constants
                and kernel.reads_at(i).fitting(self.graph.types[n].rank)
                not in self.where.get(n, {})
            ]
            return sum(map(self._move, moved)) + self._loss(task.output, kernel.writes)

        return select(task.problem, self.precision, extra_cost=moves)

    def _move(self, name: str) -> float:
        """Nanoseconds that it takes to move a tensor from one layout to another: what a kernel pays
        that wants its input otherwise than it lies."""
        return self._elements(name) * 2 * rates("reorder", ReorderRates).element

    def _loss(self, name: str, layout: Layout) -> float:
        """Nanoseconds that the readers of a value lose where it is written in ``layout``: each
        reads it so, if it can, or all read it moved."""
        lost = (costs.get(layout, math.inf) - min(costs.values()) for costs in self._wanted(name))
        return min(sum(lost), self._move(name))

    def _wanted(self, name: str) -> list[dict[Layout, float]]:
        """For each reader of a value, what it costs at best if it reads it in a layout."""
        if name not in self.wanted:
            self.wanted[name] = [self._costs_read(n, name) for n in self.readers.get(name, [])]
            if any(v.name == name for v in self.graph.outputs):
                self.wanted[name].append({PLAIN: 0.0})
        return self.wanted[name]

    def _costs_read(self, node: Node, name: str) -> dict[Layout, float]:
        costs: dict[Layout, float] = {}
        for task in self._tasks(node):
            for i, x in enumerate(task.inputs):
                if isinstance(x, str) and x == name:
                    for kernel in usable(task.problem, self.precision):
                        layout = kernel.reads_at(i).fitting(self.graph.types[name].rank)
                        cost = kernel.cost(task.problem)
                        costs[layout] = min(cost, costs.get(layout, cost))
        return costs or {PLAIN: 0.0}

    def _elements(self, name: str) -> int:
        return int(np.prod(self._static(name)[1]))

    def _add_kernel(self, node: Node | None, task: Task, kernel: Kernel) -> None:
        inputs = tuple(self._operand(x, kernel.reads_at(i)) for i, x in enumerate(task.inputs))
        output = self._keep(Buffer(task.output, *self._static(task.output), kernel.writes))
        if isinstance(task.problem, Concat) and is_in_order(task.problem, kernel.writes):
            self._join(node, task.problem, kernel, inputs, output)
            return
        launch = self._prepare(task, kernel)
        flops, work = getattr(task.problem, "flops", 0), kernel.work(task.problem)
        others = tuple(self._keep(Buffer(name, *self._static(name))) for name in task.others)
        step = KernelStep(
            node, kernel.name, launch, inputs, output, flops, work, others, kernel.precision
        )
        self.steps.append(step)

    def _prepare(self, task: Task, kernel: Kernel) -> Launch:
        key = kernel.name, id(task)
        if key not in self.prepared:
            made = kernel.prepare(task.problem, *task.constants)
            self.prepared[key] = made.with_deferred(_kept) if self.is_spare else made.complete()
        launch: Launch = self.prepared[key]
        return launch

    def _join(
        self,
        node: Node | None,
        problem: Concat,
        kernel: Kernel,
        inputs: Sequence[Buffer],
        output: Buffer,
    ) -> None:
        """A Concat without a step: whoever makes an input makes it inside the output. One that
        never changes, or is made inside another output already, is copied."""
        at = 0
        for x in inputs:
            part = x.root
            if part.constant is not None or part in self.inside:
                part = replace(x, name=output.name, alias=None, constant=None)
                launch = kernel.prepare(replace(problem, shapes=(x.shape,)))
                self.steps.append(KernelStep(node, kernel.name, launch, (x,), part))
            self.inside[part] = output, at
            at += x.nbytes

    def _operand(self, operand: str | np.ndarray, layout: Layout) -> Buffer:
        if isinstance(operand, str):
            return self._buffer(operand, layout.fitting(self.graph.types[operand].rank))
        return self._constant("", operand, layout.fitting(operand.ndim))

    def _constant(self, name: str, array: np.ndarray, layout: Layout) -> Buffer:
        key = layout, id(array)
        if key not in self.prepared:
            self.prepared[key] = array if array.dtype.hasobject else layout.store(array)
        return Buffer(name, array.dtype, array.shape, layout, constant=self.prepared[key])

    def _add_view(self, node: Node) -> bool:
        """A node that only renames its input's elements takes no step, only a name."""
        source, target = node.inputs[0], node.outputs[0]
        if not (self._is_static(source) and self._is_static(target)):
            return False
        root = self._buffer(source, PLAIN)
        self._keep(replace(root, name=target, shape=self._static(target)[1], alias=root))
        return True

    def _add_reference(self, node: Node) -> None:
        inputs = tuple(self._source(n) if n else None for n in node.inputs)
        scope = {n: self._source(n) for n in node.captured}
        outputs = tuple(self._declare(n) if n else None for n in node.outputs)
        self.steps.append(ReferenceStep(node, inputs, outputs, scope))

    def _declare(self, name: str) -> Source:
        if self._is_static(name):
            return self._keep(Buffer(name, *self._static(name)))
        self.free.add(name)
        return name

    def _source(self, name: str) -> Source:
        return name if name in self.free else self._buffer(name, PLAIN)

    def _buffer(self, name: str, layout: Layout) -> Buffer:
        """The tensor in ``layout``, converted by a step of its own if it lies otherwise."""
        held = self.where.setdefault(name, {})
        if layout in held:
            return held[layout]
        if name in self.graph.constants:
            return self._keep(self._constant(name, self.graph.constants[name], layout))
        source = next((made for made in layout.made_from if made in held), layout.made_from[0])
        there = self._buffer(name, source)
        problem = reorder(there, layout)
        kernel = select(problem)
        assert kernel is not None, "tensors in two layouts have kernels between them"
        output = self._keep(replace(there, layout=layout, alias=None))
        self.steps.append(KernelStep(None, kernel.name, kernel.prepare(problem), (there,), output))
        return output


def _kept(constant: Deferred) -> Deferred:
    """``constant``, holding as little as can be."""
    source = constant.source
    return replace(constant, source=origin(source) if isinstance(source, np.ndarray) else source)


def _last_uses(graph: Graph) -> list[list[str]]:
    """For each node, the names that only nodes before it and itself read."""
    last = {name: at for at, node in enumerate(graph.nodes) for name in node.reads}
    for value in graph.outputs:
        last.pop(value.name, None)
    names: list[list[str]] = [[] for _ in graph.nodes]
    for name, at in last.items():
        names[at].append(name)
    return names


def _lifetimes(
    steps: Sequence[Step], inputs: Iterable[Source], outputs: Iterable[Source]
) -> dict[Buffer, Lifetime]:
    """When each root buffer must hold: inputs from before the first step, outputs past the last."""
    spans: dict[Buffer, tuple[int, int]] = {}

    def touch(source: Source, at: int) -> None:
        if isinstance(source, Buffer) and source.root.constant is None:
            first, last = spans.get(source.root, (at, at))
            spans[source.root] = min(first, at), max(last, at)

    for source in inputs:
        touch(source, -1)
    for at, step in enumerate(steps):
        if isinstance(step, KernelStep):
            used: tuple[Source, ...] = (*step.inputs, step.output, *step.others)
        else:
            used = (*step.inputs, *step.outputs, *step.scope.values())
        for source in used:
            touch(source, at)
    for source in outputs:
        touch(source, len(steps))
    return {b: Lifetime(b.nbytes, *span) for b, span in spans.items()}
