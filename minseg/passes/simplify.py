"""Rules that need no algebra: what does nothing, what is done twice, what is decided already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minseg.graph.model import Attribute, Graph, Node
from minseg.ops.registry import Trait, has, having
from minseg.passes.rewrite import (
    Sweep,
    attribute,
    has_subgraph,
    input_name,
    is_same_shape,
    kind,
    make,
    sweep,
)

#: Constants up to this many elements are compared by content.
COMPARED_ELEMENTS = 64


def remove_identities(graph: Graph) -> Graph:
    """Nodes whose output equals one of their inputs are taken out."""
    return sweep(graph, _identity, _neutral_operand)


def merge_views(graph: Graph) -> Graph:
    """A chain of Reshape, Flatten, Squeeze and Unsqueeze becomes one Reshape, or nothing."""
    return sweep(graph, _view)


def merge_equal_nodes(graph: Graph) -> Graph:
    """Of two nodes that compute the same from the same, the second is taken out."""
    first: dict[Any, Node] = {}

    def merge(node: Node, state: Sweep) -> str | None:
        if has_subgraph(node) or len(node.outputs) != 1:
            return None
        key = (
            *(kind(node), node.opset, tuple(_content(n, state) for n in node.inputs)),
            *sorted((n, _comparable(a)) for n, a in node.attributes.items()),
        )
        twin = first.setdefault(key, node)
        return None if twin is node else twin.outputs[0]

    return sweep(graph, merge)


def pair_operands(graph: Graph) -> Graph:
    """Sum, Max and Min of many tensors take one after the other, as kernels do; a Sum becomes Adds,
    which is what convolutions take with them."""
    return sweep(graph, _in_pairs)


def inline_constant_if(graph: Graph) -> Graph:
    """An If whose condition is a constant becomes the nodes of the branch taken."""
    return sweep(graph, _inline)


def name_outputs(graph: Graph) -> Graph:
    """An Identity left only to give an output its name goes; its input takes that name."""
    outputs = {v.name for v in graph.outputs}
    free = {o for node in graph.nodes for o in node.outputs} - outputs
    names: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        is_name = kind(node) == "Identity" and node.outputs[0] in outputs
        if is_name and node.inputs[0] in free - names.keys():
            names[node.inputs[0]] = node.outputs[0]
        else:
            nodes.append(node)
    if not names:
        return graph
    types = {n: t for n, t in graph.types.items() if n not in names}
    return replace(graph, nodes=tuple(_renamed(n, names) for n in nodes), types=types)


def _identity(node: Node, state: Sweep) -> str | None:
    does_nothing = _IDENTITIES.get(kind(node))
    if does_nothing is None or not all(state.is_unused(o) for o in node.outputs[1:] if o):
        return None
    return node.inputs[0] if does_nothing(node, state) else None


def _always(node: Node, state: Sweep) -> bool:
    return True


def _single_input(node: Node, state: Sweep) -> bool:
    return len(node.inputs) == 1


def _is_inference(node: Node, state: Sweep) -> bool:
    """Dropout; from opset 12 on an input may ask for training."""
    training = input_name(node, 2)
    return not training or state.scalar(training) == 0


def _keeps_dtype(node: Node, state: Sweep) -> bool:
    source = state.type(node.inputs[0]).dtype
    return source is not None and source == state.type(node.outputs[0]).dtype


def _keeps_shape(node: Node, state: Sweep) -> bool:
    return is_same_shape(state.type(node.inputs[0]), state.type(node.outputs[0]))


def _keeps_order(node: Node, state: Sweep) -> bool:
    perm = attribute(node, "perm")
    return perm is not None and tuple(perm) == tuple(range(len(perm)))


def _keeps_everything(node: Node, state: Sweep) -> bool:
    """Slice: all of it, not backwards."""
    forwards = state.parameters_are_constant(node) and all(
        step > 0 for step in state.parameter(node, "steps", 4) or ()
    )
    return forwards and _keeps_shape(node, state)


def _pads_nothing(node: Node, state: Sweep) -> bool:
    pads = state.parameter(node, "pads", 1)
    return pads is not None and not any(pads)


def _scales_by_one(node: Node, state: Sweep) -> bool:
    """Resize: equal sizes map every grid onto itself, but for two coordinate modes that shift."""
    mode = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if mode in ("tf_crop_and_resize", "tf_half_pixel_for_nn") or not _keeps_shape(node, state):
        return False
    if input_name(node, 3):
        return bool(attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch")
    scales = state.parameter(
        node, "scales", 1 if kind(node) == "Upsample" or node.opset < 11 else 2
    )
    return scales is not None and all(s == 1 for s in scales)


_IDENTITIES = {
    "Identity": _always,
    "Dropout": _is_inference,
    "Cast": _keeps_dtype,
    "CastLike": _keeps_dtype,
    "Reshape": _keeps_shape,
    "Flatten": _keeps_shape,
    "Squeeze": _keeps_shape,
    "Expand": _keeps_shape,
    "Tile": _keeps_shape,
    "Transpose": _keeps_order,
    "Slice": _keeps_everything,
    "Pad": _pads_nothing,
    "Resize": _scales_by_one,
    "Upsample": _scales_by_one,
    "Concat": _single_input,
    "Sum": _single_input,
    "Mean": _single_input,
    "Max": _single_input,
    "Min": _single_input,
}

#: Right operands that change nothing; of Add and Mul the left one too.
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1}


def _neutral_operand(node: Node, state: Sweep) -> str | None:
    """x + 0, x * 1 and the like are x."""
    number = _NEUTRAL.get(kind(node))
    if number is None:
        return None
    a, b = node.inputs
    pairs = [(a, b), (b, a)] if node.op in ("Add", "Mul") else [(a, b)]
    result = state.type(node.outputs[0])
    for x, operand in pairs:
        array = state.constant(operand)
        kept = array is not None and is_same_shape(state.type(x), result)
        if kept and np.all(array == number):
            return x
    return None


def _view(node: Node, state: Sweep) -> Sequence[Node] | str | None:
    result = state.type(node.outputs[0])
    if not has(node, Trait.VIEW) or not result.is_static or 0 in (result.shape or ()):
        return None
    root = node.inputs[0]
    while (before := state.producer(root, *having(Trait.VIEW))) is not None:
        root = before.inputs[0]
    if is_same_shape(state.type(root), result):
        return root
    if root == node.inputs[0]:
        return None
    shape = state.add_constant(np.array(result.shape, np.int64), f"{node.outputs[0]}/shape")
    return (make("Reshape", (root, shape), node.outputs, node.name),)


#: Operators of any number of tensors, and what they are of two.
_OF_TWO = {"Sum": "Add", "Max": "Max", "Min": "Min"}


def _in_pairs(node: Node, state: Sweep) -> Sequence[Node] | None:
    op, count = _OF_TWO.get(kind(node)), len(node.inputs)
    if op is None or count == 1 or (op == node.op and count == 2):
        return None
    made, *others = node.inputs
    outputs = [*(state.fresh(node.outputs[0]) for _ in others[1:]), node.outputs[0]]
    nodes = []
    for other, output in zip(others, outputs, strict=True):
        nodes.append(make(op, (made, other), (output,), node.name))
        made = output
    return nodes


def _content(name: str, state: Sweep) -> Any:
    """What stands for an input in a comparison: its content where that is a small constant."""
    array = state.constant(name)
    small = array is not None and array.size <= COMPARED_ELEMENTS
    return _comparable(array) if small else name


def _comparable(value: Any) -> Any:
    """An attribute's or a constant's value as something with an order and a hash."""
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, value.tobytes())
    return (type(value).__name__, str(value))


def _inline(node: Node, state: Sweep) -> Sequence[Node] | None:
    if kind(node) != "If" or (condition := state.constant(node.inputs[0])) is None:
        return None
    branch = attribute(node, "then_branch" if condition.all() else "else_branch")
    own = [*branch.constants, *(o for child in branch.nodes for o in child.outputs if o)]
    names = {name: state.fresh(name) for name in own}
    for name, array in branch.constants.items():
        state.set_constant(names[name], array)
    results = [names.get(value.name, value.name) for value in branch.outputs]
    return (
        *(_renamed(child, names) for child in branch.nodes),
        *(
            make("Identity", (result,), (output,), node.name, opset=node.opset)
            for result, output in zip(results, node.outputs, strict=False)
            if output
        ),
    )


def _renamed(node: Node, names: Mapping[str, str]) -> Node:
    """``node`` with values renamed, in its subgraphs too."""
    attributes: dict[str, Attribute] = {
        name: _renamed_inside(value, names) if isinstance(value, Graph) else value
        for name, value in node.attributes.items()
    }
    return replace(
        node,
        inputs=tuple(names.get(n, n) for n in node.inputs),
        outputs=tuple(names.get(n, n) for n in node.outputs),
        attributes=attributes if has_subgraph(node) else node.attributes,
    )


def _renamed_inside(graph: Graph, names: Mapping[str, str]) -> Graph:
    """A subgraph that reads renamed values; its own names stay."""
    outer = {old: new for old, new in names.items() if old not in graph.own_names}
    outputs = tuple(replace(v, name=outer.get(v.name, v.name)) for v in graph.outputs)
    return replace(graph, nodes=tuple(_renamed(n, outer) for n in graph.nodes), outputs=outputs)
