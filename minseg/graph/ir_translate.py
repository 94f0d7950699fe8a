"""From OpenVINO layers to ONNX nodes: the table of translations, and what they are written with.

A translation is a function of one `Call`, registered by `@layer` for a layer type from an
operation set on. It adds ONNX nodes and constants to the graph in the making and returns the
names of the values that stand for the layer's outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes  # noqa: F401  (makes bfloat16 known to NumPy by name)
import numpy as np

from minseg.graph.ir_weights import Unsupported, stored_dtype, widened
from minseg.graph.ir_xml import Layer, Port
from minseg.graph.model import Node

#: The ONNX operator set that layers are translated to.
OPSET = 21

#: Operation sets that are known here; a layer that a later one defines anew may mean another thing.
NEWEST_OPSET = 16

#: ONNX's numbers of element types (TensorProto.DataType).
ONNX_TYPES: Mapping[np.dtype, int] = {
    np.dtype(name): number
    for name, number in {
        "float32": 1,
        "uint8": 2,
        "int8": 3,
        "uint16": 4,
        "int16": 5,
        "int32": 6,
        "int64": 7,
        "bool": 9,
        "float16": 10,
        "float64": 11,
        "uint32": 12,
        "uint64": 13,
        "bfloat16": 16,
    }.items()
}


@dataclass(frozen=True)
class Integers:
    """Quantised weights: ``(values - zero_point) * scale``; the latter broadcast with ``values``.

    OpenVINO writes them as layers (Const, Convert, Subtract, Multiply); ONNX has one node.
    """

    values: np.ndarray
    zero_point: np.ndarray | None = None
    scale: np.ndarray | None = None


@dataclass
class Draft:
    """A graph in the making."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    integers: dict[str, Integers] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def unique(self, wanted: str) -> str:
        """``wanted``, numbered if something has that name already."""
        name, number = wanted, 1
        while not name or name in self.taken:
            name, number = f"{wanted}_{number}", number + 1
        self.taken.add(name)
        return name


@dataclass(frozen=True)
class Call:
    """One layer with the values that it reads: what a translation works with.

    ``inputs`` are names of values, ``ports`` the outputs of other layers that these come from;
    ``used`` says of each of the layer's own outputs whether anything reads it.
    """

    layer: Layer
    draft: Draft
    inputs: tuple[str, ...]
    ports: tuple[Port, ...]
    used: tuple[bool, ...]

    def op(self, name: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; the output's name."""
        return self.ops(name, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, name: str, *inputs: str, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node with several outputs; their names."""
        node = self.draft.unique(f"{self.layer.name}/{name}")
        results = tuple(
            self.draft.unique(node if outputs == 1 else f"{node}:{i}") for i in range(outputs)
        )
        opset = 1 if domain else OPSET
        self.draft.nodes.append(Node(node, name, inputs, results, attributes, domain, opset))
        return results

    def keep(self, array: Any, dtype: Any = None) -> str:
        """Add a constant; its name."""
        name = self.draft.unique(f"{self.layer.name}/constant")
        constant = np.array(array, dtype)
        constant.flags.writeable = False
        self.draft.constants[name] = constant
        return name

    def ints(self, *values: int) -> str:
        """Add a list of int64."""
        return self.keep(values, np.int64)

    def number(self, value: float) -> str:
        """Add a scalar of the first input's dtype."""
        return self.keep(value, self.dtype(0))

    def known(self, index: int) -> np.ndarray | None:
        """The value of an input, where it is a constant."""
        if index >= len(self.inputs):
            return None
        return self.draft.constants.get(self.inputs[index])

    def fixed(self, index: int, what: str) -> np.ndarray:
        """The value of an input, ``what``, that must be a constant. Raises Unsupported."""
        value = self.known(index)
        if value is None:
            raise Unsupported(f"its {what} must be constant")
        return value

    def fixed_ints(self, index: int, what: str) -> tuple[int, ...]:
        """A constant input as a list of integers. Raises Unsupported."""
        return tuple(int(v) for v in self.fixed(index, what).reshape(-1))

    def int64(self, index: int) -> str:
        """An input as int64: sizes, axes and indices are, in ONNX."""
        value = self.known(index)
        if value is not None:
            same = value.dtype == np.int64
            return self.inputs[index] if same else self.keep(value.astype(np.int64))
        return self.op("Cast", self.inputs[index], to=ONNX_TYPES[np.dtype(np.int64)])

    def int64_list(self, index: int) -> str:
        """An input as a list of int64, even if it is a scalar."""
        value = self.known(index)
        if value is not None:
            return self.ints(*value.reshape(-1).astype(np.int64))
        return self.op("Reshape", self.int64(index), self.ints(-1))

    def shape(self, index: int) -> tuple[int | None, ...]:
        """The sizes of an input, as the file says."""
        return self.ports[index].shape

    def rank(self, index: int) -> int:
        return len(self.shape(index))

    def dtype(self, index: int) -> np.dtype:
        """The dtype that an input is computed in."""
        dtype = stored_dtype(self.ports[index].precision)
        if dtype is None:
            raise Unsupported(f"precision {self.ports[index].precision!r} is not supported")
        return widened(dtype)

    def axis(self, axis: int, index: int = 0) -> int:
        """An axis of an input counted from the front."""
        rank = self.rank(index)
        if not -rank <= axis < max(rank, 1):
            raise ValueError(f"axis {axis} is not one of {rank} dimensions")
        return axis % rank if rank else 0

    def choice(self, key: str, options: Sequence[str], default: str | None = None) -> str:
        """An attribute that has one of several values, in lower case. Raises Unsupported."""
        value = self.layer.text(key, default).lower()
        if value not in options:
            raise Unsupported(f"{key} '{value}' is not supported")
        return value

    def cast(self, value: str, dtype: np.dtype) -> str:
        return self.op("Cast", value, to=ONNX_TYPES[dtype])


Translation: TypeAlias = Callable[[Call], "str | tuple[str, ...]"]

_LAYERS: dict[str, list[tuple[int, Translation]]] = {}


def layer(kind: str, *versions: int) -> Callable[[Translation], Translation]:
    """Register a translation of layers of type ``kind`` as the operation sets define it anew.

    Types are compared without regard to case, as OpenVINO does.
    """

    def register(translate: Translation) -> Translation:
        entries = _LAYERS.setdefault(kind.lower(), [])
        entries += ((version, translate) for version in versions)
        entries.sort(key=lambda entry: entry[0])
        return translate

    return register


def translation(layer: Layer) -> Translation:
    """The translation of the newest definition up to the layer's version. Raises Unsupported."""
    version = layer.version
    entries = _LAYERS.get(layer.type.lower(), [])
    if version is None or version > NEWEST_OPSET or not entries:
        raise Unsupported("minseg does not translate it")
    fitting = [translate for since, translate in entries if since <= version]
    if not fitting:
        raise Unsupported(f"operation set {version} does not define it")
    return fitting[-1]
