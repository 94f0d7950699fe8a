"""The vocabulary of rules: one sweep over a graph, node by node, looking only backwards.

A rule sees a node after everything before it has been rewritten, and says what stands in its
place: nodes that make the same outputs, the name of a value that is the same already, or None to
leave it. What the replacement no longer reads dies by itself. So a rule names only the *last* node
of its pattern, the order of nodes stays valid, and a chain of any length is done in one sweep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, TypeAlias

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import Attribute, Graph, Node, TensorType
from minseg.ops.dialects.epilogue import split
from minseg.ops.infer import infer_node
from minseg.ops.registry import Trait, has, newest

Pass: TypeAlias = Callable[[Graph], Graph]
Rule: TypeAlias = Callable[[Node, "Sweep"], "Sequence[Node] | str | None"]

#: The opset of nodes that rules make, unless they say another.
OPSET = 18


class Computed(np.ndarray):
    """A constant that need not be kept: ``again`` computes it anew. Arrays made of it are none."""

    again: Callable[[], np.ndarray] | None = None


def computed(function: Callable[[np.ndarray], np.ndarray], source: np.ndarray) -> np.ndarray:
    """``function(source)``, as a `Computed`."""
    kept = origin(source)
    result = function(source).view(Computed)
    result.again = lambda: function(kept() if callable(kept) else kept)
    return result


def origin(array: np.ndarray) -> np.ndarray | Callable[[], np.ndarray]:
    """``array``, or what computes it anew."""
    return getattr(array, "again", None) or array


def sweep(graph: Graph, *rules: Rule) -> Graph:
    """``graph`` with the first rule that fires applied to each node in turn, dead nodes removed.

    Returns the same object when no rule fired.
    """
    state = Sweep(graph)
    for node in graph.nodes:
        state.visit(node, rules)
    return state.result()


def until_stable(*passes: Pass) -> Pass:
    """One pass that repeats ``passes`` until none of them changes the graph."""

    def run(graph: Graph) -> Graph:
        before = None
        while graph is not before:
            before = graph
            for step in passes:
                graph = step(graph)
        return graph

    return run


def remove_dead(graph: Graph) -> Graph:
    """``graph`` without the nodes, constants and types that no output depends on."""
    live = {v.name for v in graph.outputs}
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if not live.isdisjoint(node.outputs):
            nodes.append(node)
            live |= node.reads
    constants = {n: a for n, a in graph.constants.items() if n in live}
    if len(nodes) == len(graph.nodes) and len(constants) == len(graph.constants):
        return graph
    known = {v.name for v in graph.inputs} | set(constants) | {o for n in nodes for o in n.outputs}
    types = {n: t for n, t in graph.types.items() if n in known}
    return replace(graph, nodes=tuple(reversed(nodes)), constants=constants, types=types)


class Sweep:
    """A sweep in progress: what rules may ask and make.

    ``constants`` and ``types`` are those of the rewritten part and of what is still to come.
    """

    def __init__(self, graph: Graph):
        self._graph = graph
        self.constants = dict(graph.constants)
        self.types = dict(graph.types)
        self._nodes: list[Node] = []
        self._positions: dict[str, int] = {}
        self._uses = Counter(name for node in graph.nodes for name in _reads(node))
        self._pinned = {v.name for v in graph.outputs}.union(*(n.captured for n in graph.nodes))
        self._aliases: dict[str, str] = {}
        self._names = {name for scope in graph.scopes for name in scope.own_names}
        self._changed = False

    # --- what is there ---

    def type(self, name: str) -> TensorType:
        """The type of a value, as far as it is known."""
        return self.types.get(name, TensorType(None))

    def constant(self, name: str) -> np.ndarray | None:
        """The array behind ``name`` where it is a constant."""
        return self.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """The number behind ``name`` where it is a constant of one element."""
        array = self.constants.get(name)
        return None if array is None or array.size != 1 else float(array.reshape(()))

    def producer(self, name: str, *kinds: str) -> Node | None:
        """The node that makes ``name``, if it is of one of ``kinds`` (see `kind`)."""
        position = self._positions.get(name)
        node = None if position is None else self._nodes[position]
        return node if node is not None and kind(node) in kinds else None

    def position(self, name: str) -> int:
        """Where ``name`` is made in the order of nodes; -1 for inputs and constants."""
        return self._positions.get(name, -1)

    def existing(self, op: str, source: str) -> Iterator[Node]:
        """The ``op`` nodes before this one that read ``source`` first."""
        return (n for n in self._nodes if n.op == op and n.inputs[:1] == (source,))

    def is_pinned(self, name: str) -> bool:
        """True for graph outputs and for what subgraphs read: such a value must stay."""
        return name in self._pinned

    def is_used_once(self, name: str) -> bool:
        """True when one node reads ``name`` and nobody else will miss it."""
        return self._uses[name] == 1 and name not in self._pinned

    def is_unused(self, name: str) -> bool:
        return not self._uses[name] and name not in self._pinned

    def parameters_are_constant(self, node: Node) -> bool:
        """True when every input but the first is a constant or omitted."""
        return all(not name or name in self.constants for name in node.inputs[1:])

    def parameter(self, node: Node, name: str, index: int) -> tuple[Any, ...] | None:
        """A list that is attribute ``name`` in older opsets, constant input ``index`` in newer.

        None where the node has neither.
        """
        if name in node.attributes:
            return tuple(np.ravel(attribute(node, name)).tolist())
        array = self.constants.get(input_name(node, index))
        return None if array is None else tuple(array.ravel().tolist())

    # --- what is made ---

    def fresh(self, hint: str) -> str:
        """A value name that is not taken yet."""
        name = next(n for n in (f"{hint}.{i}" for i in count(1)) if n not in self._names)
        self._names.add(name)
        return name

    def add_constant(self, array: np.ndarray, hint: str) -> str:
        """The name of a new constant."""
        name = self.fresh(hint)
        self.set_constant(name, array)
        return name

    def set_constant(self, name: str, array: np.ndarray) -> None:
        """Make the constant ``array`` the value called ``name``."""
        self.constants[name] = array
        self.types[name] = TensorType.of(array)

    def with_parameter(self, node: Node, name: str, index: int, values: Iterable[Any]) -> Node:
        """``node`` with the list ``values`` in the place where `parameter` finds it.

        A node with a single input is taken to be of an opset that has attributes there.
        """
        values = tuple(values)
        if len(node.inputs) == 1:
            return with_attributes(node, **{name: values})
        old = self.constants.get(input_name(node, index))
        array = np.array(values, np.int64 if old is None else old.dtype)
        inputs = [*node.inputs, *[""] * (index + 1 - len(node.inputs))]
        inputs[index] = self.add_constant(array, f"{node.outputs[0]}/{name}")
        return replace(node, inputs=tuple(inputs))

    # --- the sweep itself ---

    def visit(self, node: Node, rules: Iterable[Rule]) -> None:
        """Put in ``node``, or what the first rule that fires makes of it."""
        if not self._aliases.keys().isdisjoint(node.inputs):
            node = replace(node, inputs=tuple(self._aliases.get(n, n) for n in node.inputs))
        for rule in rules:
            result = rule(node, self)
            if isinstance(result, str):
                result = self._alias(node, result)
            if result is not None:
                self._replace(node, result)
                return
        self._append(node)

    def result(self) -> Graph:
        """The rewritten graph."""
        if not self._changed:
            return self._graph
        return remove_dead(
            replace(
                self._graph,
                nodes=tuple(self._nodes),
                constants=self.constants,
                types=self.types,
            )
        )

    def _alias(self, node: Node, name: str) -> Sequence[Node] | None:
        """Nodes that are left when the first output of ``node`` is the value ``name``."""
        output = node.outputs[0]
        if self.is_pinned(output):
            opset = OPSET if node.domain else node.opset
            identity = make("Identity", (name,), (output,), node.name, opset=opset)
            return None if node.op == "Identity" else (identity,)
        self._aliases[output] = name
        self._uses[name] += self._uses.pop(output, 0)
        return ()

    def _replace(self, node: Node, result: Sequence[Node]) -> None:
        self._changed = True
        for new in result:
            self._uses.update(_reads(new))
            types = infer_node(new, self.types)
            self.types.update((n, t) for n, t in zip(new.outputs, types, strict=False) if n)
            self._append(new)
        self._release(node)

    def _append(self, node: Node) -> None:
        self._positions.update((output, len(self._nodes)) for output in node.outputs if output)
        self._nodes.append(node)

    def _release(self, node: Node) -> None:
        """Count the reads of ``node`` down, and those of the nodes that die with it."""
        for name in _reads(node):
            self._uses[name] -= 1
            position = self._positions.get(name)
            if position is not None and self.is_unused(name):
                source = self._nodes[position]
                if all(self.is_unused(output) for output in source.outputs):
                    self._release(source)


def kind(node: Node) -> str:
    """The operator's name, after its domain and a dot where that is not ONNX's own."""
    return f"{node.domain}.{node.op}" if node.domain else node.op


def make(
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    name: str,
    *,
    opset: int = OPSET,
    **attributes: Attribute,
) -> Node:
    """A node of ONNX's own domain."""
    return Node(name, op, tuple(inputs), tuple(outputs), attributes, "", opset)


def make_own(
    op: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Attribute
) -> Node:
    """A node of the domain minseg."""
    since = newest(op, MINSEG).since
    return Node(name, op, tuple(inputs), tuple(outputs), attributes, MINSEG, since)


def with_epilogue(node: Node, **changes: Any) -> Node:
    """``node`` with some fields of its `Epilogue` replaced."""
    epilogue, others = split(node.attributes)
    return replace(node, attributes={**others, **replace(epilogue, **changes).attributes})


def attribute(node: Node, name: str, default: Any = None) -> Any:
    """The attribute's value, or ``default`` where the node leaves it out."""
    return node.attributes.get(name, default)


def with_attributes(node: Node, **changes: Attribute) -> Node:
    """``node`` with some attributes added or replaced."""
    return replace(node, attributes={**node.attributes, **changes})


def input_name(node: Node, index: int) -> str:
    """The name of input ``index``, empty where it is omitted."""
    return node.inputs[index] if index < len(node.inputs) else ""


def moves(node: Node) -> bool:
    """Whether ``node`` gives elements of its first input and no others."""
    return has(node, Trait.MOVES) and not interpolates(node)


def interpolates(node: Node) -> bool:
    """Whether ``node`` is a Resize that gives other numbers than those of its input."""
    crops = attribute(node, "coordinate_transformation_mode") == "tf_crop_and_resize"
    resizes = kind(node) in ("Resize", "Upsample")
    return resizes and (attribute(node, "mode", "nearest") != "nearest" or crops)


def has_subgraph(node: Node) -> bool:
    return bool(node.subgraphs)


def is_same_shape(a: TensorType, b: TensorType) -> bool:
    """True when both shapes are known, by size or by name, and equal."""
    return a.shape is not None and None not in a.shape and a.shape == b.shape


def _reads(node: Node) -> Iterator[str]:
    """Every read of a value by ``node``: an input given twice counts twice."""
    yield from filter(None, node.inputs)
    yield from node.captured
