"""Static quantisation of a graph: prepared, observed on pictures, written with quantisers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from minseg.errors import InputError
from minseg.graph.model import Graph, Node
from minseg.graph.onnx_standard import all_nodes
from minseg.ops.bytes import Grid
from minseg.ops.registry import Trait, has
from minseg.passes import condense
from minseg.quantization.insert import OPSET, Quantisation, insert_quantisers
from minseg.quantization.observe import Feeds, histograms
from minseg.quantization.points import Points, find_points, has_weights
from minseg.quantization.ranges import METHODS
from minseg.runtime.session import Session


@dataclass(frozen=True)
class Quantised:
    """A network in floats (``source``), which of its values became bytes on which grids, and the
    same network in integers."""

    source: Graph
    points: Points
    grids: Mapping[str, Grid]
    result: Quantisation

    def grid(self, name: str) -> Grid:
        """The grid of a value that became bytes."""
        return self.grids[self.points.leader[name]]


def quantise(
    graph: Graph,
    pictures: Iterable[Feeds],
    *,
    method: str = "mse",
    per_channel: bool = False,
    threads: int | None = None,
) -> Quantised:
    """``graph`` in 8-bit integers, with ranges that ``method`` (of `METHODS`) chooses from what
    its values are on ``pictures``, each the feeds of one run. Inputs with a default become
    constants; what is inside branches stays float.

    Raises InputError for an unknown method, a network that is quantised already or has nothing
    to quantise, no pictures, and values that are infinite or not numbers.
    """
    if method not in METHODS:
        raise InputError(f"method '{method}' is none of {', '.join(METHODS)}")
    source = prepared(graph)
    points = find_points(source)
    if not points.leader:
        raise InputError(
            "the model has no convolution or matrix product with constant weights, those inside "
            "branches left out"
        )
    session = Session(source, threads=threads)
    counted = histograms(session, points.measured, pictures)
    if any(not h.width for h in counted.values()):
        raise InputError("there are no pictures to calibrate on")
    grids = {name: Grid.over(METHODS[method](h)) for name, h in counted.items()}
    result = insert_quantisers(source, points, grids, per_channel=per_channel)
    return Quantised(source, points, grids, result)


def prepared(graph: Graph) -> Graph:
    """``graph`` in standard operators of an opset that quantises per axis, simplified: what
    normalises is part of the convolutions, inputs with a default are constants. Raises InputError
    where it is quantised already."""
    for node in all_nodes(graph):
        if has(node, Trait.QUANTISED):
            raise InputError(f"the model is quantised already: {node}")
    return _named(condense(_in_new_opset(graph.with_defaults())))


def _in_new_opset(graph: Graph) -> Graph:
    """``graph`` itself, or converted by onnx where it is of an opset before `OPSET`."""
    if graph.opsets.get("", OPSET) >= OPSET:
        return graph
    from onnx import version_converter

    from minseg.graph.onnx_writer import write_onnx
    from minseg.ops.support import load

    try:
        model = version_converter.convert_version(write_onnx(graph), OPSET)
    except Exception as error:  # onnx raises several types without a common base
        reason = " ".join(str(error).split())
        raise InputError(
            f"opset {graph.opsets['']} can't be converted to {OPSET}, the first that quantises "
            f"per channel: {reason}"
        ) from error
    return replace(load(model.SerializeToString()), metadata=graph.metadata)


def _named(graph: Graph) -> Graph:
    """``graph`` with a name of its own for every node with weights."""
    taken: set[str] = set()
    nodes: list[Node] = []
    for node in graph.nodes:
        name = node.name or node.outputs[0]
        while name in taken and has_weights(node, graph):
            name += "_"
        taken.add(name)
        nodes.append(replace(node, name=name))
    return replace(graph, nodes=tuple(nodes))
