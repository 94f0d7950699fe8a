"""Reads an ONNX file into a `Graph`. Nothing after this module sees protobuf.

What the file says is checked here (the rules of the ONNX IR specification and each operator's
schema); whether minseg can run it is asked later (minseg.ops.support).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from minseg.contents import START, recognised
from minseg.errors import ModelError
from minseg.graph.model import Attribute, Dim, Graph, Node, OtherType, TensorType, Value
from minseg.graph.model_file import CAN_DROP, ModelFile
from minseg.graph.onnx_check import check_graph, check_node, check_text
from minseg.graph.onnx_proto import (
    IR_VERSION,
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
)
from minseg.graph.onnx_split import split_weights
from minseg.graph.onnx_tensors import dtype_of, read_sparse, read_tensor
from minseg.graph.order import in_order

if TYPE_CHECKING:
    from onnx import OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto

Source: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | ModelProto"

#: What protobuf can hold in one message; larger models keep their weights in external data.
_MESSAGE_BYTES = (1 << 31) - 1

#: Nodes after inlining: far above any network, low enough that functions which call functions
#: which call functions cannot fill the memory.
_MAX_NODES = 100_000

#: From this IR version on an initializer may stand alone; one that is listed as a graph input
#: too is a default that callers may override.
_OVERRIDABLE_SINCE = 4


def read_onnx(source: Source) -> Graph:
    """The model in ``source``: a path, the bytes, a binary file object or a ModelProto.

    Local functions are inlined, Constant nodes become constants, sparse tensors dense arrays; nodes
    are put in topological order. External data is read from the folder of the path, or where that
    is a link from that of the file behind it, and below. Raises ModelError, naming the source, when
    it cannot be read or breaks the rules of ONNX.
    """
    name = source_name(source)
    try:
        parsed = _parse(source)
        check_text(parsed.model)
        return _Reader.of(parsed).model(parsed)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    except RecursionError as error:
        raise ModelError(f"{name}: its subgraphs or functions are nested too deeply") from error


def source_name(source: Source) -> str:
    """What error messages call the model: its path where there is one."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, ModelProto):
        return f"model '{source.graph.name}'"
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "model"


@dataclass(frozen=True)
class _Parsed:
    """The message; what lies in the source itself of its initializers (see onnx_split.py); the
    folders in which external data may lie; the source if it is a file that stays mapped."""

    model: ModelProto
    weights: Sequence[memoryview | None] = ()
    folders: Sequence[Path] = ()
    file: ModelFile | None = None


def _parse(source: Source) -> _Parsed:
    if isinstance(source, ModelProto):
        return _Parsed(source)
    folders: tuple[Path, ...] = ()
    file = None
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        data, folders = _read_file(path), _folders(path)
    else:
        data = source if isinstance(source, bytes) else source.read()
    if isinstance(data, ModelFile):
        file = data
    elif not isinstance(data, bytes):
        raise ModelError("a model is read from bytes; was the file opened in text mode?")
    contents = data.memory if isinstance(data, ModelFile) else memoryview(data)
    if (found := recognised(bytes(contents[:START]))) is not None:
        raise ModelError(f"this is {found}, not an ONNX model")
    message, weights = split_weights(contents)
    model = ModelProto()
    try:
        model.ParseFromString(message)
    except DecodeError as error:
        raise ModelError("this is not an ONNX model, or it is damaged") from error
    return _Parsed(model, weights, folders, file)


def _folders(path: Path) -> tuple[Path, ...]:
    """The folder of a file, and where the file really lies if ``path`` is a link."""
    folders = (path.parent, Path(os.path.realpath(path)).parent)
    return tuple(dict.fromkeys(Path(os.path.realpath(folder)) for folder in folders))


def _read_file(path: Path) -> ModelFile | bytes:
    """The file mapped, or its contents where that is not possible or of no use."""
    try:
        if path.exists() and not path.is_file():
            raise ModelError("this is not a file")
        size = path.stat().st_size
        if size > _MESSAGE_BYTES:
            raise ModelError("a file above 2 GiB must keep its weights in external data")
        return ModelFile(path) if CAN_DROP and size else path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"the file cannot be read ({reason})") from error


@dataclass(frozen=True)
class _Scope:
    """How names and attribute references of the proto being read are understood.

    In a function body, ``bound`` maps formal to actual names, everything else gets ``prefix``,
    and ``arguments`` are the attributes of the call.
    """

    opsets: Mapping[str, int]
    prefix: str = ""
    bound: Mapping[str, str] = field(default_factory=dict)
    arguments: dict[str, Attribute] = field(default_factory=dict)
    calls: tuple[str, ...] = ()

    def value(self, name: str) -> str:
        return name and self.bound.get(name, self.prefix + name)

    def opset(self, node: NodeProto) -> int:
        domain = _domain(node.domain)
        if domain not in self.opsets:
            raise ModelError(
                f"operator {node.op_type} is of domain '{domain or 'ai.onnx'}', "
                "which the model does not import"
            )
        return self.opsets[domain]


@dataclass
class _Reader:
    folders: Sequence[Path]
    ir_version: int
    functions: Mapping[tuple[str, str, str], FunctionProto]
    given_names: frozenset[str]
    taken_names: set[str] = field(default_factory=set)
    repeats: Counter[str] = field(default_factory=Counter)
    node_count: int = 0

    @classmethod
    def of(cls, parsed: _Parsed) -> _Reader:
        model = parsed.model
        if not model.ir_version or not model.HasField("graph"):
            raise ModelError("this is not an ONNX model, or it is damaged")
        if not 0 < model.ir_version <= IR_VERSION:
            import onnx

            raise ModelError(
                f"its IR version {model.ir_version} is not known to onnx {onnx.__version__}, "
                f"which reads up to {IR_VERSION}"
            )
        functions = {(_domain(f.domain), f.name, f.overload): f for f in model.functions}
        names = frozenset(_node_names(model.graph))
        return cls(parsed.folders, model.ir_version, functions, names)

    def model(self, parsed: _Parsed) -> Graph:
        model = parsed.model
        opsets = _opsets(model.opset_import)
        proto = model.graph
        constants = self.initializers(proto, _Scope(opsets), parsed.weights)
        listed = {v.name for v in proto.input} & constants.keys()
        overridable = listed if self.ir_version >= _OVERRIDABLE_SINCE else set()
        inputs = tuple(
            _value(v) for v in proto.input if v.name not in listed or v.name in overridable
        )
        nodes = _sorted(self.nodes(proto.node, _Scope(opsets), constants))
        graph = Graph(
            name=proto.name,
            inputs=inputs,
            outputs=tuple(_value(v) for v in proto.output),
            nodes=nodes,
            constants={n: a for n, a in constants.items() if n not in overridable},
            defaults={n: a for n, a in constants.items() if n in overridable},
            metadata={p.key: p.value for p in model.metadata_props},
            opsets=opsets,
            file=parsed.file,
        )
        check_graph(graph)
        return graph

    def subgraph(self, proto: GraphProto, scope: _Scope) -> Graph:
        constants = self.initializers(proto, scope)
        return Graph(
            name=proto.name,
            inputs=tuple(_value(v, scope) for v in proto.input),
            outputs=tuple(_value(v, scope) for v in proto.output),
            nodes=_sorted(self.nodes(proto.node, scope, constants)),
            constants=constants,
        )

    def initializers(
        self, proto: GraphProto, scope: _Scope, weights: Sequence[memoryview | None] = ()
    ) -> dict[str, np.ndarray]:
        dense = [
            (t.name, read_tensor(t, self.folders, raw))
            for t, raw in zip_longest(proto.initializer, weights)
        ]
        sparse = [(s.values.name, read_sparse(s, self.folders)) for s in proto.sparse_initializer]
        constants: dict[str, np.ndarray] = {}
        for name, array in dense + sparse:
            if not name:
                raise ModelError("an initializer has no name")
            _add_constant(constants, scope.value(name), array)
        return constants

    def nodes(
        self, protos: Iterable[NodeProto], scope: _Scope, constants: dict[str, np.ndarray]
    ) -> tuple[Node, ...]:
        """The nodes; what Constant nodes hold is added to ``constants``."""
        nodes: list[Node] = []
        for index, proto in enumerate(protos):
            self.node_count += 1
            if self.node_count > _MAX_NODES:
                raise ModelError(f"it has more than {_MAX_NODES} nodes once functions are inlined")
            key = (_domain(proto.domain), proto.op_type, proto.overload)
            if key in self.functions:
                nodes += self.call(proto, self.functions[key], scope, index, constants)
                continue
            node = self.node(proto, scope, index)
            if (node.domain, node.op) == ("", "Constant"):
                _add_constant(constants, node.outputs[0], _constant(node))
            else:
                nodes.append(node)
        return tuple(nodes)

    def node(self, proto: NodeProto, scope: _Scope, index: int) -> Node:
        opset = scope.opset(proto)
        check_node(proto, scope.arguments.keys(), scope.opsets, self.ir_version)
        return Node(
            name=self.name(proto, scope, index),
            op=proto.op_type,
            inputs=tuple(scope.value(n) for n in proto.input),
            outputs=tuple(scope.value(n) for n in proto.output),
            attributes=self.attributes(proto.attribute, scope),
            domain=_domain(proto.domain),
            opset=opset,
        )

    def call(
        self,
        proto: NodeProto,
        function: FunctionProto,
        scope: _Scope,
        index: int,
        constants: dict[str, np.ndarray],
    ) -> tuple[Node, ...]:
        """The nodes of ``function`` in place of a node that calls it."""
        if len(proto.input) > len(function.input) or len(proto.output) > len(function.output):
            raise ModelError(f"function {function.name} is called with too many values")
        if function.name in scope.calls:
            raise ModelError(f"function {function.name} calls itself")
        name = self.name(proto, scope, index)
        # An omitted argument is an empty name inside, an omitted result a value nobody reads.
        bound = dict.fromkeys(function.input, "")
        bound |= {f: scope.value(a) for f, a in zip(function.input, proto.input, strict=False)}
        results = {
            formal: scope.value(actual)
            for formal, actual in zip(function.output, proto.output, strict=False)
            if actual
        }
        passed = {f: a for f, a in results.items() if f in function.input}
        inner = _Scope(
            opsets=_opsets(function.opset_import),
            prefix=f"{name}/",
            bound=bound | {f: a for f, a in results.items() if f not in passed},
            arguments=self.attributes(function.attribute_proto, scope)
            | self.attributes(proto.attribute, scope),
            calls=(*scope.calls, function.name),
        )
        nodes = self.nodes(function.node, inner, constants)
        copies = (
            Node(
                f"{name}/{formal}", "Identity", (bound[formal],), (actual,), opset=inner.opsets[""]
            )
            for formal, actual in passed.items()
        )
        return (*nodes, *copies)

    def attributes(self, protos: Iterable[AttributeProto], scope: _Scope) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {}
        for proto in protos:
            if not proto.ref_attr_name:
                attributes[proto.name] = self.attribute(proto, scope)
            elif proto.ref_attr_name in scope.arguments:
                attributes[proto.name] = scope.arguments[proto.ref_attr_name]
        return attributes

    def attribute(self, proto: AttributeProto, scope: _Scope) -> Attribute:
        try:
            match proto.type:
                case AttributeProto.FLOAT:
                    return proto.f
                case AttributeProto.INT:
                    return proto.i
                case AttributeProto.STRING:
                    return proto.s.decode()
                case AttributeProto.FLOATS:
                    return tuple(proto.floats)
                case AttributeProto.INTS:
                    return tuple(proto.ints)
                case AttributeProto.STRINGS:
                    return tuple(s.decode() for s in proto.strings)
                case AttributeProto.TENSOR:
                    return read_tensor(proto.t, self.folders)
                case AttributeProto.SPARSE_TENSOR:
                    return read_sparse(proto.sparse_tensor, self.folders)
                case AttributeProto.GRAPH:
                    return self.subgraph(proto.g, scope)
        except UnicodeDecodeError as error:
            raise ModelError(f"attribute '{proto.name}' is not UTF-8 text") from error
        if proto.type not in AttributeProto.AttributeType.values() or not proto.type:
            raise ModelError(f"attribute '{proto.name}' has no known type")
        # Lists of graphs, types and the like: named, so that the check of support can refuse them.
        return f"<{AttributeProto.AttributeType.Name(proto.type).lower()}>"

    def name(self, proto: NodeProto, scope: _Scope, index: int) -> str:
        """A name that no other node has: its own if it has one."""
        wanted = scope.prefix + (proto.name or f"{proto.op_type}_{index}")
        name = wanted
        while name in self.taken_names or (name in self.given_names and name != proto.name):
            self.repeats[wanted] += 1
            name = f"{wanted}_{self.repeats[wanted]}"
        self.taken_names.add(name)
        return name


def _sorted(nodes: tuple[Node, ...]) -> tuple[Node, ...]:
    """The nodes in topological order, which files should have but some do not."""
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.outputs:
            maker.setdefault(name, index)
    return tuple(in_order(nodes, [[maker[n] for n in node.reads if n in maker] for node in nodes]))


def _add_constant(constants: dict[str, np.ndarray], name: str, array: np.ndarray) -> None:
    if name in constants:
        raise ModelError(f"value '{name}' is given twice")
    constants[name] = array


def _constant(node: Node) -> np.ndarray:
    """What a Constant node holds, in whichever attribute."""
    (name, value), *others = node.attributes.items() or [("", 0)]
    dtype = _CONSTANT_DTYPES.get(name.removesuffix("s"))
    if others or (dtype is None and not isinstance(value, np.ndarray)):
        raise ModelError(f"{node} must have one attribute, its value")
    array = value if isinstance(value, np.ndarray) else np.array(value, dtype)
    array.flags.writeable = False
    return array


_CONSTANT_DTYPES: Mapping[str, Any] = {
    "value_int": np.int64,
    "value_float": np.float32,
    "value_string": object,
}


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _opsets(imports: Iterable[OperatorSetIdProto]) -> dict[str, int]:
    opsets: dict[str, int] = {}
    for entry in imports:
        domain = _domain(entry.domain)
        if not 0 < entry.version < 1 << 31:
            raise ModelError(f"it imports domain '{domain}' in version {entry.version}")
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"it imports domain '{domain or 'ai.onnx'}' in two versions")
    return opsets


def _node_names(graph: GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.name
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _node_names(attribute.g)


def _value(proto: ValueInfoProto, scope: _Scope | None = None) -> Value:
    name = scope.value(proto.name) if scope else proto.name
    try:
        return Value(name, _type(proto.type))
    except ModelError as error:
        raise ModelError(f"value '{proto.name}': {error}") from error


def _type(proto: TypeProto) -> TensorType:
    kind = proto.WhichOneof("value")
    if kind is None:
        return TensorType(None)
    if kind != "tensor_type":
        return OtherType(None, kind=kind.removesuffix("_type"))
    tensor = proto.tensor_type
    dtype = dtype_of(tensor.elem_type)
    if not tensor.HasField("shape"):
        return TensorType(dtype)
    return TensorType(dtype, tuple(_dim(d) for d in tensor.shape.dim))


def _dim(proto: TensorShapeProto.Dimension) -> Dim:
    if proto.HasField("dim_value"):
        if proto.dim_value == -1:  # how some exporters write a size that is not known
            return None
        if proto.dim_value < 0:
            raise ModelError(f"it has a negative size, {proto.dim_value}")
        return proto.dim_value
    return proto.dim_param or None
