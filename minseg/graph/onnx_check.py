"""The rules of ONNX: each node against its operator's schema, each graph against itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from minseg.errors import ModelError
from minseg.graph.model import Graph, TensorType
from minseg.graph.onnx_proto import AttributeProto, NodeProto, TensorProto, native
from minseg.graph.onnx_schema import schema


def check_text(message: Message) -> None:
    """Every string in the message is UTF-8 text. Raises ModelError."""
    if isinstance(message, TensorProto):  # all but its numbers
        texts: list[Any] = [message.name]
        messages: list[Any] = list(message.external_data)
    else:
        texts, messages = [], []
        for field, value in message.ListFields():
            values = [value] if isinstance(value, (str, bytes, Message)) else value
            if field.type == field.TYPE_STRING:
                texts += values
            elif field.type == field.TYPE_MESSAGE:
                messages += values
    for text in texts:
        if not isinstance(text, str):  # what protobuf gives for bytes that are no text
            raise ModelError(f"a name or text in it, {text!r}, is not UTF-8")
    for inner in messages:
        check_text(inner)


def check_node(
    proto: NodeProto, arguments: Collection[str], opsets: Mapping[str, int], ir_version: int
) -> None:
    """Compare a node with its operator's schema: number of values, names and types of attributes.

    Attributes that refer to one of a function's ``arguments`` count as present. Operators that
    onnx has no schema for are accepted. Raises ModelError.
    """
    domain = "" if proto.domain == "ai.onnx" else proto.domain
    if schema(proto.op_type, opsets[domain], domain) is None:
        return
    context = native.checker.CheckerContext()
    context.ir_version = ir_version
    context.opset_imports = dict(opsets)
    stub = NodeProto(
        name=proto.name,
        op_type=proto.op_type,
        domain=proto.domain,
        input=proto.input,
        output=proto.output,
        attribute=[
            _stub(a) for a in proto.attribute if not a.ref_attr_name or a.ref_attr_name in arguments
        ],
    )
    try:
        scope = native.checker.LexicalScopeContext()
        native.checker.check_node(stub.SerializeToString(), context, scope)
    except native.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0].rstrip(". ")
        raise ModelError(f"node '{proto.name}' ({proto.op_type}): {reason}") from error


def _stub(attribute: AttributeProto) -> AttributeProto:
    """The attribute without its tensors and graphs, which the reader checks itself."""
    stub = AttributeProto(name=attribute.name, type=attribute.type)
    match attribute.type:
        case AttributeProto.TENSOR:
            stub.t.CopyFrom(_EMPTY_TENSOR)
        case AttributeProto.SPARSE_TENSOR:
            stub.sparse_tensor.values.CopyFrom(_EMPTY_TENSOR)
            stub.sparse_tensor.indices.CopyFrom(_EMPTY_INDICES)
            stub.sparse_tensor.dims.append(1)
        case AttributeProto.GRAPH:
            stub.g.name = "graph"
        case AttributeProto.FLOAT if attribute.ref_attr_name:
            stub.f = 0.0
        case AttributeProto.INT if attribute.ref_attr_name:
            stub.i = 0
        case AttributeProto.STRING if attribute.ref_attr_name:
            stub.s = b""
        case _:
            stub.CopyFrom(attribute)
            stub.ref_attr_name = ""
    return stub


_EMPTY_TENSOR = TensorProto(name="values", data_type=TensorProto.FLOAT, dims=[0])
_EMPTY_INDICES = TensorProto(name="indices", data_type=TensorProto.INT64, dims=[0])


def check_graph(graph: Graph) -> None:
    """Every value is given once, and before it is used. Raises ModelError."""
    declared = {v.name: v.type for v in graph.inputs}
    for name, array in graph.defaults.items():
        if not _fits(array, declared[name]):
            raise ModelError(
                f"initializer '{name}' does not have the type that the input of its name declares"
            )
    _check_scope(graph, frozenset())


def _fits(array: np.ndarray, declared: TensorType) -> bool:
    if array.dtype != declared.dtype:
        return False
    if declared.shape is None:
        return True
    return array.ndim == declared.rank and all(
        size == d or not isinstance(d, int)
        for size, d in zip(array.shape, declared.shape, strict=True)
    )


def _check_scope(graph: Graph, outside: frozenset[str]) -> None:
    known = set(outside)
    for name in (*(v.name for v in graph.inputs), *graph.constants):
        _define(name, known)
    for node in graph.nodes:
        for name in node.inputs:
            if name and name not in known:
                raise ModelError(f"{node} reads '{name}', which nothing gives")
        for branch in node.subgraphs:
            _check_scope(branch, frozenset(known))
        for name in node.outputs:
            if name:
                _define(name, known)
    for value in graph.outputs:
        if value.name not in known:
            raise ModelError(f"output '{value.name}' is given by no node, input or initializer")


def _define(name: str, known: set[str]) -> None:
    if not name or name in known:
        raise ModelError(f"value '{name}' is given twice" if name else "a value has no name")
    known.add(name)
