"""What each node asks of the kernels: the bridge between ONNX nodes and kernel problems."""

from __future__ import annotations

from minseg.graph.model import Graph, Node
from minseg.kernels.core.layout import Layout
from minseg.kernels.move.reorder import Reorder
from minseg.plan import movement, pointwise, quantised, windows
from minseg.plan.plan import Buffer
from minseg.plan.task import Statement, Task

STATEMENTS: dict[tuple[str, str], Statement] = {
    **windows.STATEMENTS,
    **pointwise.STATEMENTS,
    **movement.STATEMENTS,
    **quantised.STATEMENTS,
}


def tasks(node: Node, graph: Graph) -> list[Task]:
    """The node's problems; empty where no family of kernels covers it."""
    state = STATEMENTS.get((node.domain, node.op), pointwise.elementwise)
    return state(node, graph)


def reorder(buffer: Buffer, layout: Layout) -> Reorder:
    """The problem of moving a tensor into another layout."""
    N, C, H, W = buffer.shape
    return Reorder(N, C, H, W, buffer.layout, layout, buffer.dtype.itemsize)
