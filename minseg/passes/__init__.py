"""Rewrites of the graph for the compiled backend: an ordered list, each of one small idea.

Run once for each set of concrete input shapes. See README.md for what each pass does and why the
order is as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from minseg.graph.model import Graph, TensorType
from minseg.ops.infer import infer
from minseg.passes.activations import recognise_activations, recognise_clips
from minseg.passes.affine import fold_affine_into_convolutions
from minseg.passes.constants import fold_constants, fold_quantised_weights
from minseg.passes.dynamic import quantised_while_running
from minseg.passes.fuse import fuse_convolutions, fuse_resizes
from minseg.passes.integers import fuse_integer_sums, integers
from minseg.passes.padding import merge_padding, spell_out_padding
from minseg.passes.precision import widen_halves
from minseg.passes.products import products_to_convolutions
from minseg.passes.qdq import spread_quantised
from minseg.passes.quantised import drop_repeated_quantisers, join_quantisers
from minseg.passes.resizes import push_resizes_down
from minseg.passes.rewrite import Pass, remove_dead, until_stable
from minseg.passes.simplify import (
    inline_constant_if,
    merge_equal_nodes,
    merge_views,
    name_outputs,
    pair_operands,
    remove_identities,
)
from minseg.passes.transposes import (
    pull_transposes_up,
    push_transposes_down,
    transposes_to_reshapes,
)

__all__ = ["PASSES", "condense", "one_notation", "optimize", "simplify", "specialise"]

_shorten = until_stable(
    fold_constants, inline_constant_if, remove_identities, merge_views, merge_equal_nodes
)

#: Those that leave ONNX's own operators and take normalisations into convolutions.
CONDENSING: tuple[Pass, ...] = (
    remove_dead,
    widen_halves,
    _shorten,
    spell_out_padding,
    until_stable(push_transposes_down, pull_transposes_up, _shorten),
    until_stable(recognise_clips),
    merge_padding,
    until_stable(fold_affine_into_convolutions),
    _shorten,
    name_outputs,
)

PASSES: tuple[Pass, ...] = (
    remove_dead,
    widen_halves,
    _shorten,
    pair_operands,
    spread_quantised,
    products_to_convolutions,
    quantised_while_running,
    spell_out_padding,
    until_stable(push_transposes_down, pull_transposes_up, _shorten),
    until_stable(recognise_clips),
    recognise_activations,
    merge_padding,
    # Whatever makes use of quantised weights belongs here.
    integers,
    fold_quantised_weights,
    join_quantisers,
    until_stable(push_resizes_down),
    drop_repeated_quantisers,
    until_stable(fold_affine_into_convolutions),
    fuse_convolutions,
    fuse_integer_sums,
    fuse_resizes,
    transposes_to_reshapes,
    _shorten,
    name_outputs,
)


def optimize(graph: Graph) -> Graph:
    """A graph that computes the same in fewer, larger steps, with every value's type.

    Inputs and outputs keep names, order and meaning. Types of inputs may leave sizes open, but
    most passes need them; see `specialise`. An output may come out as a constant or an Identity
    of an input. Raises ModelError where shapes contradict an operator.
    """
    return _through(PASSES, graph)


def condense(graph: Graph) -> Graph:
    """As `optimize`, in ONNX's own operators: the result can be written to a file."""
    return _through(CONDENSING, graph)


def one_notation(graph: Graph) -> Graph:
    """``graph`` with QuantizeLinear and DequantizeLinear for every notation of quantisation that
    has a form in them."""
    return _through((remove_dead, widen_halves, _shorten, spread_quantised), graph)


def _through(passes: Sequence[Pass], graph: Graph) -> Graph:
    graph = replace(graph, types=infer(graph))
    for step in passes:
        graph = step(graph)
    return replace(graph, types=infer(graph))


def specialise(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """``graph`` for inputs of the given ``types``; inputs not named keep theirs.

    Raises ModelError where shapes contradict an operator.
    """
    inputs = tuple(replace(v, type=types.get(v.name, v.type)) for v in graph.inputs)
    special = replace(graph, inputs=inputs)
    return replace(special, types=infer(special))


def simplify(graph: Graph, types: Mapping[str, TensorType]) -> Graph:
    """`specialise`, then only those passes that leave standard operators: for other engines.

    Raises ModelError where shapes contradict an operator.
    """
    graph = specialise(graph, types)
    for step in (remove_dead, _shorten, spell_out_padding, merge_padding, _shorten, name_outputs):
        graph = step(graph)
    return replace(graph, types=infer(graph))
