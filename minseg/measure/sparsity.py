"""What zero weights are worth: the ledger of a network's convolutions, dense against sparse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minseg.graph.model import Graph
from minseg.kernels.conv.problem import Conv2d
from minseg.kernels.conv.sparse import KERNELS, costs
from minseg.kernels.core.layout import aligned
from minseg.kernels.core.registry import Kernel, usable
from minseg.measure.launches import BoundLaunch
from minseg.plan.plan import KernelStep, Plan
from minseg.plan.planner import planned_graph
from minseg.plan.problems import tasks
from minseg.plan.task import Task
from minseg.precision import Precision

#: Calls of each kernel, in turns; the fastest counts.
ROUNDS = 5
#: Where the sparse kernel's cost is asked for, to find where it equals the dense one's.
DENSITIES = np.linspace(0, 1, 101).tolist()


@dataclass(frozen=True)
class Entry:
    """One convolution: what it takes with the best dense kernel and with the sparse one, for
    tensors in the layouts of the plan, in seconds on one core, and which kernel the plan ``chosen``
    for it. ``break_even`` is the density below which the sparse kernel is faster: 0 for never, 1
    for always."""

    layer: str
    problem: Conv2d
    dense_kernel: str
    sparse_kernel: Kernel
    chosen: str
    dense: float
    sparse: float

    @property
    def is_sparse(self) -> bool:
        return self.chosen == self.sparse_kernel.name

    @property
    def saved(self) -> float:
        """Seconds that skipping zeros saves."""
        return self.dense - self.sparse if self.is_sparse else 0.0

    @property
    def break_even(self) -> float:
        cost = self.sparse_kernel.cost
        scale = self.sparse / cost(self.problem)
        times = [scale * cost(replace(self.problem, density=d)) for d in DENSITIES]
        return float(np.interp(self.dense, times, DENSITIES))

    @property
    def reason(self) -> str:
        """In one line, why it isn't faster."""
        if self.is_sparse:
            return _what_binds(self.problem, self.sparse_kernel)
        if self.problem.density == 1:
            return "no zeros"
        if self.break_even == 0:
            return "changes of layout alone take longer than the dense kernel"
        below = f"fewer than {100 * self.break_even:.0f} % of the weights would have to remain"
        if "winograd" in self.dense_kernel:
            return f"Winograd multiplies a quarter as often: {below}"
        return f"too few zeros: {below}"


def _what_binds(problem: Conv2d, kernel: Kernel) -> str:
    parts = costs(problem, kernel.reads, kernel.writes)
    products, sums, lines = (100 * part / sum(parts) for part in parts)
    return (
        f"{products:.0f} % are products, {lines:.0f} % lines fetched and changes of layout, "
        f"{sums:.0f} % sums between K blocks"
    )


def ledger(
    graph: Graph,
    shapes: Mapping[str, tuple[int, ...]],
    plan: Plan,
    precision: Precision = Precision.F32,
    *,
    measure: bool = False,
) -> list[Entry]:
    """An entry for each convolution of floats that ``plan``, made of ``graph`` for ``shapes``, has
    a step for. Times are those that kernels are chosen by, or with ``measure`` taken on random
    inputs."""
    steps = [step for step in plan.steps if isinstance(step, KernelStep) and step.node]
    chosen = {step.output.name: step.kernel for step in steps}
    planned = planned_graph(graph, shapes)
    return [
        _entry(node.name, task, chosen[task.output], precision, measure)
        for node in planned.nodes
        for task in tasks(node, planned)
        if isinstance(task.problem, Conv2d) and task.output in chosen
    ]


def _entry(layer: str, task: Task, chosen: str, precision: Precision, measure: bool) -> Entry:
    problem = task.problem
    rivals = [k for k in usable(problem, precision) if k not in KERNELS]
    dense = next((k for k in rivals if k.name == chosen), None)
    dense = dense or min(rivals, key=lambda kernel: float(kernel.cost(problem)))
    sparse = next((k for k in KERNELS if k.name == chosen), KERNELS[0])
    if measure:
        times = measured(task, (dense, sparse))
    else:
        times = [float(kernel.cost(problem)) / 1e9 for kernel in (dense, sparse)]
    return Entry(layer, problem, dense.name, sparse, chosen, *times)


def measured(task: Task, kernels: Sequence[Kernel]) -> list[float]:
    """Seconds of each kernel on ``task``, with random inputs, on the calling thread."""
    calls = [_bound(task, kernel) for kernel in kernels]
    rounds = [[call() for call in calls] for _ in range(ROUNDS + 1)]
    return [min(seconds) for seconds in zip(*rounds[1:], strict=True)]


def _bound(task: Task, kernel: Kernel) -> BoundLaunch:
    q: Any = task.problem
    rng = np.random.default_rng(0)
    output = (q.N, q.OC, q.OH, q.OW)
    inputs = [rng.standard_normal((q.N, q.IC, q.IH, q.IW), np.float32)]
    if q.epilogue.residual:
        inputs.append(rng.standard_normal(output, np.float32))
    stored = [kernel.reads_at(i).store(x) for i, x in enumerate(inputs)]
    launch = kernel.prepare(q, *task.constants)
    return BoundLaunch(
        launch, stored, aligned(np.zeros(kernel.writes.stored_shape(output), np.float32))
    )
