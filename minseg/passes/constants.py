"""What is known before a picture is there: constants and what follows from them and from shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from minseg.graph.model import Graph, Node
from minseg.ops.evaluate import run_node
from minseg.ops.infer import infer
from minseg.ops.registry import Trait, has
from minseg.passes.rewrite import Rule, Sweep, has_subgraph, sweep

#: A result may grow beyond its inputs up to this many elements; a larger one (of ConstantOfShape,
#: Expand, Tile, Resize ...) is cheaper to make anew than to keep.
FOLDED_ELEMENTS = 1 << 20


def fold_constants(graph: Graph) -> Graph:
    """Results known from constants or shapes become constants, but for what hangs on quantisers:
    on weights these say how integer kernels may compute."""
    return _fold(graph, keep=Trait.QUANTISES)


def fold_quantised_weights(graph: Graph) -> Graph:
    """Folds what `fold_constants` left: quantised weights become plain ones.

    A pass that wants integer weights comes before this one.
    """
    return _fold(graph, keep=None)


def _fold(graph: Graph, keep: Trait | None) -> Graph:
    folded = sweep(graph, _folding(keep))
    return graph if folded is graph else replace(folded, types=infer(folded))


def _folding(keep: Trait | None) -> Rule:
    def fold(node: Node, state: Sweep) -> Sequence[Node] | None:
        kept = keep is not None and has(node, keep)
        if kept or has_subgraph(node) or not _is_worth_keeping(node, state):
            return None
        given = [name for name in node.inputs if name]
        waiting = [n for n in given if n not in state.constants]
        if any(state.type(n).value is not None for n in waiting):
            return None  # known, but kept: so is what follows from it
        outputs = [name for name in node.outputs if name]
        results = [state.type(name).value for name in outputs]
        if any(r is None for r in results):
            if waiting:
                return None
            arguments = [state.constants[n] if n else None for n in node.inputs]
            results = list(run_node(node, arguments, {}))
            outputs = list(node.outputs)
        for name, result in zip(outputs, results, strict=False):
            if name and result is not None:
                state.set_constant(name, result)
        return ()

    return fold


def _is_worth_keeping(node: Node, state: Sweep) -> bool:
    """False when the results are known to need far more room than what they are made from."""
    shapes = [state.type(name).shape or () for name in node.outputs if name]
    size = sum(math.prod(d for d in shape if isinstance(d, int)) for shape in shapes)
    given = sum(state.constants[n].size for n in node.inputs if n in state.constants)
    return size <= max(FOLDED_ELEMENTS, given)
