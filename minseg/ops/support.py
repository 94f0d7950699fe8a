"""Opens models: reads, refuses what minseg cannot run with every reason at once, infers types."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from minseg.errors import MinsegError, ModelError, UnsupportedModelError
from minseg.graph.model import Attribute, Graph, Node, OtherType
from minseg.ops.infer import infer
from minseg.ops.registry import lookup

if TYPE_CHECKING:
    from minseg.graph.onnx_reader import Source

#: The oldest version of the default domain whose operators minseg defines.
OLDEST_OPSET = 7

#: How the XML file of an OpenVINO IR begins.
_XML_STARTS = (b"<?xml", b"<net")


def load(source: Source) -> Graph:
    """The graph of a model, with its ``types``.

    An ONNX model is whatever minseg.graph.onnx_reader.read_onnx takes, an OpenVINO IR model the
    path of its XML file (see minseg.graph.ir_reader.read_ir).

    Raises ModelError for a file that is no valid model, UnsupportedModelError for a valid one
    that minseg cannot run.
    """
    from minseg.graph.onnx_reader import source_name

    graph = _read(source)
    name = source_name(source)
    check_support(graph, name)
    try:
        return replace(graph, types=infer(graph))
    except MinsegError as error:
        raise ModelError(f"{name}: {error}") from error


def _read(source: Source) -> Graph:
    if isinstance(source, (str, os.PathLike)) and _is_xml(source):
        from minseg.graph.ir_reader import read_ir

        return read_ir(source)
    if isinstance(source, bytes) and source.startswith(_XML_STARTS):
        raise ModelError(
            "an OpenVINO IR is read by the path of its XML file: its weights lie apart"
        )
    from minseg.graph.onnx_reader import read_onnx

    return read_onnx(source)


def _is_xml(path: str | os.PathLike[str]) -> bool:
    """By its suffix, or by how it begins: an ONNX file never begins so."""
    if os.fspath(path).lower().endswith(".xml"):
        return True
    try:
        with open(path, "rb") as file:
            return file.read(8).startswith(_XML_STARTS)
    except (OSError, ValueError):
        return False


def check_support(graph: Graph, model_name: str) -> None:
    """Raise UnsupportedModelError with all reasons why minseg cannot run ``graph``, if any."""
    reasons = [*_version_reasons(graph), *_reasons(graph)]
    if reasons:
        raise UnsupportedModelError(model_name, reasons)


def _version_reasons(graph: Graph) -> Iterator[str]:
    from minseg.graph.onnx_proto import native

    opset = graph.opsets.get("")
    newest = native.defs.schema_version_map()[""][1]
    if opset is not None and not OLDEST_OPSET <= opset <= newest:
        yield f"opset {opset} is outside of {OLDEST_OPSET} to {newest}"


def _reasons(graph: Graph) -> Iterator[str]:
    for kind, values in (("input", graph.inputs), ("output", graph.outputs)):
        for value in values:
            if isinstance(value.type, OtherType):
                yield f"{kind} '{value.name}' has type {value.type.kind}; minseg runs tensors"
    for node in graph.nodes:
        yield from _node_reasons(node)
        for attribute in node.attributes.values():
            if isinstance(attribute, Graph):
                yield from _reasons(attribute)


def _node_reasons(node: Node) -> Iterator[str]:
    operator = lookup(node.domain, node.op, node.opset)
    if operator is None:
        yield f"{node}: minseg has no such operator"
        return
    for name, value in node.attributes.items():
        if name not in operator.attributes:
            yield f"{node}: attribute {name} = {_short(value)} is not supported"
    reason = operator.check(node) if operator.check else None
    if reason is not None:
        yield f"{node}: {reason}"


def _short(value: Attribute) -> str:
    if isinstance(value, Graph):
        return "a graph"
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} tensor of shape {list(value.shape)}"
    return repr(value)
