"""Writes a `Graph` as an ONNX model: the reader's way back.

A graph is written as it was read, but for what has another form in the standard
(minseg.graph.onnx_standard). Domains other than ONNX's own pass through.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TypeProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

import minseg
from minseg.errors import InputError, ModelError
from minseg.files import write_file
from minseg.graph.domains import MINSEG, OPENVINO
from minseg.graph.model import Attribute, Graph, Node, OtherType, TensorType, Value
from minseg.graph.onnx_standard import all_nodes, standardised, with_own_outputs

#: Weights above this size go to a second file: protobuf holds 2 GiB, all else in a model included.
EXTERNAL_BYTES = 2_000_000_000

#: The first version of the IR whose initializers need not be inputs.
_OLDEST_IR = 4

#: Domains whose operators mean something within minseg alone.
_OWN_DOMAINS = frozenset({MINSEG, OPENVINO})


def write_onnx(graph: Graph, sparse: Collection[str] = ()) -> ModelProto:
    """``graph`` as a model that any ONNX engine reads.

    Constants become initializers, those named in ``sparse`` sparse ones unless they are outputs;
    ``graph.defaults`` initializers that a caller may override.
    Raises ModelError for what ONNX has no form for: an operator of minseg's own passes, or nodes
    of opsets that differ in what they mean.
    """
    graph = with_own_outputs(standardised(graph))
    imports = [helper.make_opsetid(d, v) for d, v in _imports(graph).items()]
    model = ModelProto(
        ir_version=max(_OLDEST_IR, helper.find_min_ir_version_for(imports, ignore_unknown=True)),
        producer_name="minseg",
        producer_version=minseg.__version__,
        opset_import=imports,
    )
    _fill(model.graph, graph, sparse)
    if graph.metadata:
        helper.set_model_props(model, dict(graph.metadata))
    return model


def save_onnx(model: ModelProto, path: str | os.PathLike[str]) -> list[Path]:
    """Write ``model`` to the file ``path``; returns the files written.

    A file of that name is replaced once the new one is complete. Weights above `EXTERNAL_BYTES`
    go to a second file, named like the first with ``.data`` appended, and leave ``model``. Raises
    InputError where a file can't be written.
    """
    target = Path(path)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_BYTES:
        return _save_two_files(model, target)
    write_file(target, lambda file: file.write(model.SerializeToString(deterministic=True)))
    return [target]


def _save_two_files(model: ModelProto, target: Path) -> list[Path]:
    data = target.with_name(f"{target.name}.data")
    try:
        with tempfile.TemporaryDirectory(prefix=".minseg-", dir=target.parent) as folder:
            scratch = Path(folder) / target.name
            onnx.save_model(
                model, scratch, "protobuf", save_as_external_data=True, location=data.name
            )
            os.replace(scratch.with_name(data.name), data)
            os.replace(scratch, target)
    except OSError as error:
        raise InputError(f"cannot write '{target}': {error.strerror or error}") from error
    return [target, data]


def _imports(graph: Graph) -> dict[str, int]:
    """The version of each domain: what the graph says, unless its nodes are of others."""
    nodes = list(all_nodes(graph))
    domains = dict.fromkeys([*graph.opsets, *(node.domain for node in nodes)])
    return {
        d: _version(d, graph.opsets.get(d), [n for n in nodes if n.domain == d]) for d in domains
    }


def _version(domain: str, declared: int | None, nodes: list[Node]) -> int:
    opsets = sorted({node.opset for node in nodes})
    candidates = [] if declared is None else [declared]
    if opsets:
        candidates += range(opsets[-1], opsets[0] - 1, -1)
    for version in candidates:
        if all(_means_the_same(node, version) for node in nodes):
            return version
    old, new = (next(n for n in nodes if n.opset == opset) for opset in (opsets[0], opsets[-1]))
    raise ModelError(f"{old} and {new}: there is no opset in which both mean what they mean here")


def _means_the_same(node: Node, opset: int) -> bool:
    if node.opset == opset:
        return True
    here, there = _schema(node, node.opset), _schema(node, opset)
    if here is None or there is None:
        return False
    return bool(here.since_version == there.since_version)


def _schema(node: Node, opset: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(node.op, opset, node.domain)
    except onnx.defs.SchemaError:
        return None


def _fill(proto: GraphProto, graph: Graph, sparse: Collection[str] = ()) -> None:
    """Write ``graph`` into ``proto``, piece by piece: one message made of another holds 2 GiB."""
    proto.name = graph.name or "graph"
    proto.input.extend(map(_value, graph.inputs))
    proto.output.extend(_value(_completed(v, graph.types.get(v.name))) for v in graph.outputs)
    proto.node.extend(map(_node, graph.nodes))
    # Engines give sparse tensors neither to callers nor as defaults.
    dense = {*graph.defaults, *(v.name for v in graph.outputs)}
    for name, array in {**graph.constants, **graph.defaults}.items():
        if name in sparse and name not in dense:
            proto.sparse_initializer.append(_sparse_tensor(array, name))
        else:
            proto.initializer.append(numpy_helper.from_array(array, name))


def _sparse_tensor(array: np.ndarray, name: str) -> SparseTensorProto:
    """Values other than zero, and where they stand in row-major order."""
    (indices,) = np.nonzero(array.reshape(-1))
    return SparseTensorProto(
        values=numpy_helper.from_array(array.reshape(-1)[indices], name),
        indices=numpy_helper.from_array(indices.astype(np.int64), f"{name}_indices"),
        dims=array.shape,
    )


def _completed(value: Value, inferred: TensorType | None) -> Value:
    """An output with what inference found where the model does not declare it."""
    declared = value.type
    if inferred is None or (declared.dtype is not None and declared.shape is not None):
        return value
    dtype = inferred.dtype if declared.dtype is None else declared.dtype
    shape = inferred.shape if declared.shape is None else declared.shape
    return Value(value.name, TensorType(dtype, shape))


def _value(value: Value) -> ValueInfoProto:
    if isinstance(value.type, OtherType):
        raise ModelError(f"value '{value.name}' has type {value.type.kind}; tensors are written")
    if value.type.dtype is None:
        return ValueInfoProto(name=value.name)
    code = helper.np_dtype_to_tensor_dtype(value.type.dtype)
    tensor: TypeProto = helper.make_tensor_type_proto(code, value.type.shape)
    return ValueInfoProto(name=value.name, type=tensor)


def _node(node: Node) -> NodeProto:
    schema = _schema(node, node.opset)
    if node.domain in _OWN_DOMAINS or (schema is None and not node.domain):
        raise ModelError(f"{node} is no operator of the ONNX standard")
    known = {} if schema is None else schema.attributes
    return NodeProto(
        name=node.name,
        op_type=node.op,
        domain=node.domain,
        input=node.inputs,
        output=node.outputs,
        attribute=(
            _attribute(name, value, _declared_kind(known[name]) if name in known else _kind(value))
            for name, value in node.attributes.items()
        ),
    )


def _declared_kind(attribute: onnx.defs.OpSchema.Attribute) -> int:
    kind: Any = attribute.type
    return int(kind)


def _kind(value: Attribute) -> int:
    """The AttributeProto.AttributeType of a value of which no schema tells it."""
    match value:
        case Graph():
            return AttributeProto.GRAPH
        case np.ndarray():
            return AttributeProto.TENSOR
        case str():
            return AttributeProto.STRING
        case int():
            return AttributeProto.INT
        case float():
            return AttributeProto.FLOAT
        case (str(), *_):
            return AttributeProto.STRINGS
        case _ if any(isinstance(v, float) for v in value):
            return AttributeProto.FLOATS
    return AttributeProto.INTS


def _attribute(name: str, value: Attribute, kind: int) -> AttributeProto:
    proto = AttributeProto(name=name, type=kind)  # type: ignore[arg-type]
    match kind, value:
        case AttributeProto.FLOAT, int() | float():
            proto.f = value
        case AttributeProto.INT, int():
            proto.i = value
        case AttributeProto.STRING, str():
            proto.s = value.encode()
        case AttributeProto.TENSOR, np.ndarray():
            proto.t.CopyFrom(numpy_helper.from_array(value, name))
        case AttributeProto.GRAPH, Graph():
            _fill(proto.g, value)
        case AttributeProto.FLOATS, tuple():
            proto.floats.extend(value)
        case AttributeProto.INTS, tuple():
            proto.ints.extend(value)
        case AttributeProto.STRINGS, tuple():
            proto.strings.extend(str(v).encode() for v in value)
        case _:
            raise ModelError(f"attribute {name} = {value!r} does not have the type of its operator")
    return proto
