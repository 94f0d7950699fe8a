"""Reads an OpenVINO IR model, an XML file and a ``.bin`` file, into a `Graph` of ONNX operators.

Nothing after this module sees OpenVINO's layers: each is translated to ONNX nodes (ir_layers_*.py).
Half precision is for storage, as in OpenVINO's CPU plugin: values in float16 and bfloat16 are
read as float32.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from minseg.errors import ModelError, UnsupportedModelError
from minseg.graph import (  # noqa: F401  (each registers its translations)
    ir_layers_elementwise,
    ir_layers_reduce,
    ir_layers_resize,
    ir_layers_shape,
    ir_layers_spatial,
)
from minseg.graph.domains import OPENVINO
from minseg.graph.ir_meta import metadata
from minseg.graph.ir_translate import (
    ONNX_TYPES,
    OPSET,
    Call,
    Draft,
    translation,
)
from minseg.graph.ir_weights import Unsupported, Weights, layer_dtype, stored_dtype, widened
from minseg.graph.ir_xml import End, Layer, Net, Port, declared_shape, read_net
from minseg.graph.model import Attribute, Graph, Node, TensorType, Value

#: Up to this version inputs and outputs in half precision are float32 to the caller.
_HALVES_HIDDEN_UNTIL = 10


def read_ir(
    xml_path: str | os.PathLike[str], bin_path: str | os.PathLike[str] | None = None
) -> Graph:
    """The model in ``xml_path`` with the weights in ``bin_path``.

    By default these lie beside it, under the same name with the suffix ``.bin``. Raises
    ModelError, naming the file, where a file cannot be read or breaks the format's rules,
    UnsupportedModelError with every layer that has no translation.
    """
    path = Path(xml_path)
    weights = Weights(path.with_suffix(".bin") if bin_path is None else Path(bin_path))
    try:
        return _Reader(read_net(path), weights).graph(os.fspath(xml_path))
    except UnsupportedModelError:
        raise
    except ModelError as error:
        raise ModelError(f"{os.fspath(xml_path)}: {error}") from error


@dataclass
class _Reader:
    net: Net
    weights: Weights
    draft: Draft = field(default_factory=Draft)
    values: dict[End, str] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        layers = self.net.layers
        self.ports = {(a.id, port.id): port for a in layers for port in a.outputs}
        self.read = frozenset(self.net.sources.values())
        results = {(a.id, port) for a in layers if a.type == "Result" for port in a.inputs}
        self.results = frozenset(self.net.sources[end] for end in results)

    def graph(self, model_name: str) -> Graph:
        for layer in self.net.layers:
            self.add(layer)
        if self.reasons:
            raise UnsupportedModelError(model_name, self.reasons)
        graph = Graph(
            name=self.net.name,
            inputs=tuple(self.inputs),
            outputs=tuple(self.outputs),
            nodes=tuple(self.draft.nodes),
            constants=self.draft.constants,
            metadata=metadata(self.net),
            opsets={"": OPSET, OPENVINO: 1},
        )
        return _without_unused(graph)

    def add(self, layer: Layer) -> None:
        """Translate one layer; what is not supported is kept for the end."""
        kinds = {"Parameter": self.parameter, "Const": self.constant, "Result": self.result}
        try:
            results = kinds.get(layer.type, self.translate)(layer)
            if len(results) < len(layer.outputs):
                raise ValueError(f"it has {len(layer.outputs)} outputs instead of {len(results)}")
        except Unsupported as reason:
            self.reasons.append(f"{layer}: {reason}")
            results = [""] * len(layer.outputs)
        except (ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
            raise ModelError(f"{layer}: {error}") from error
        ends = [(layer.id, port.id) for port in layer.outputs]
        self.values.update(zip(ends, results, strict=False))

    def parameter(self, layer: Layer) -> Sequence[str]:
        (port,) = layer.outputs
        name = self.draft.unique(_name(layer, port))
        stored = layer_dtype(layer, "element_type")
        outside = self.outside(stored)
        self.inputs.append(Value(name, TensorType(outside, declared_shape(layer))))
        return [name if outside == widened(stored) else self.cast(name, widened(stored))]

    def constant(self, layer: Layer) -> Sequence[str]:
        (port,) = layer.outputs
        name = self.draft.unique(_name(layer, port))
        self.draft.constants[name] = self.weights.constant(layer)
        return [name]

    def result(self, layer: Layer) -> Sequence[str]:
        source = self.net.sources[layer.id, layer.inputs[0]]
        port, value = self.ports[source], self.values[source]
        stored = stored_dtype(port.precision)
        if not value or stored is None:
            return []
        outside = self.outside(stored)
        name = next(iter((*layer.output_names, *port.names, layer.name)))
        made = any(value in node.outputs for node in self.draft.nodes)
        if outside != widened(stored):
            value = self.cast(value, outside, name)
        elif not made or any(v.name == value for v in self.outputs):
            value = self.node("Identity", value, name)
        self.outputs.append(Value(value, TensorType(outside, port.shape)))
        return []

    def translate(self, layer: Layer) -> Sequence[str]:
        translate = translation(layer)
        sources = [self.net.sources[layer.id, port] for port in layer.inputs]
        names = tuple(self.values[end] for end in sources)
        if not all(names):
            return [""] * len(layer.outputs)
        call = Call(
            layer=layer,
            draft=self.draft,
            inputs=names,
            ports=tuple(self.ports[end] for end in sources),
            used=tuple((layer.id, port.id) in self.read for port in layer.outputs),
        )
        first = len(self.draft.nodes)
        results = translate(call)
        return self.named(layer, first, [results] if isinstance(results, str) else results)

    def named(self, layer: Layer, first: int, results: Sequence[str]) -> Sequence[str]:
        """``results`` under the names that the file has, in the nodes from ``first`` on."""
        nodes = self.draft.nodes
        made = {name for node in nodes[first:] for name in node.outputs}
        renamed = {
            result: self.draft.unique(self.inside_name(layer, port))
            for port, result in zip(layer.outputs, results, strict=False)
            if result in made
        }
        nodes[first:] = [_renamed(node, renamed) for node in nodes[first:]]
        for old in renamed.keys() & self.draft.integers.keys():
            self.draft.integers[renamed[old]] = self.draft.integers.pop(old)
        return [renamed.get(result, result) for result in results]

    def inside_name(self, layer: Layer, port: Port) -> str:
        """Leaves the name of an output in half precision to the Cast that makes it."""
        stored = stored_dtype(port.precision)
        is_cast = stored is not None and self.outside(stored) != widened(stored)
        is_cast = is_cast and (layer.id, port.id) in self.results
        return _name(layer, port) + ("/float32" if is_cast else "")

    def outside(self, stored: np.dtype) -> np.dtype:
        """The dtype that a caller sees of an input or output stored as ``stored``."""
        return widened(stored) if self.net.version <= _HALVES_HIDDEN_UNTIL else stored

    def cast(self, value: str, dtype: np.dtype, name: str | None = None) -> str:
        name = f"{value}/{dtype.name}" if name is None else name
        return self.node("Cast", value, name, to=ONNX_TYPES[dtype])

    def node(self, op: str, value: str, name: str, **attributes: Attribute) -> str:
        name = self.draft.unique(name)
        self.draft.nodes.append(
            Node(f"{name}/{op}", op, (value,), (name,), attributes, opset=OPSET)
        )
        return name


def _name(layer: Layer, port: Port) -> str:
    if port.names:
        return port.names[0]
    index = layer.outputs.index(port)
    return layer.name if len(layer.outputs) == 1 else f"{layer.name}.{index}"


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        outputs=tuple(names.get(name, name) for name in node.outputs),
    )


def _without_unused(graph: Graph) -> Graph:
    """The graph without nodes and constants that no output depends on."""
    needed = {value.name for value in graph.outputs}
    nodes = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed |= node.reads
            nodes.append(node)
    constants = {name: array for name, array in graph.constants.items() if name in needed}
    return replace(graph, nodes=tuple(reversed(nodes)), constants=constants)
