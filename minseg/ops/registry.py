"""The table of operators: which name, domain and opset mean which function.

An operator is two functions with one signature, the one the ONNX operator has: inputs are
positional (None where an optional one is omitted), attributes are keywords with the
specification's defaults.

* ``run`` takes and returns NumPy arrays: the definition, written to be read;
* ``infer`` takes and returns `TensorType`: dtype and shape (and values, for shape arithmetic),
  as far as they follow from what is known. It never fails on unknown sizes.

Both return one result or a tuple of them. A function with a keyword ``n_outputs`` is told how
many outputs the node asks for. A graph-valued attribute reaches ``run`` as a callable without
arguments that evaluates the subgraph and returns the tuple of its outputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto
from functools import cache, cached_property
from typing import Any

from minseg.graph.model import Node


class Trait(Flag):
    """What holds of an operator whatever its inputs and attributes are."""

    NONE = 0
    #: Works on equal indices of all inputs, which broadcast.
    ELEMENTWISE = auto()
    #: Element-wise, and of real numbers a real number: with bytes and constants a table of 256.
    FUNCTION = auto()
    #: A function of one number that networks have between their layers.
    ACTIVATION = auto()
    #: Kernels of convolutions apply it to what they store (see kernels/core/activation.py).
    FUSED = auto()
    #: Limits its input: what rounds to bytes can do so too.
    CLAMP = auto()
    #: Never gives a negative number.
    NON_NEGATIVE = auto()
    #: Gives elements of its first input and no others; a resize, where it doesn't interpolate.
    MOVES = auto()
    #: Gives the elements of its first input in their order, and nothing else.
    VIEW = auto()
    #: Gives sums of its inputs' elements, or numbers between them.
    MIXES = auto()
    #: Reduces ``axes`` of its input, or all.
    REDUCES = auto()
    #: Sums of products with weights, the second input.
    WEIGHTED = auto()
    #: Rounds floats to steps: a small error before may be a whole step after.
    ROUNDS = auto()
    #: Makes or undoes a quantised form, by numbers that are given.
    QUANTISES = auto()
    #: Is found in quantised models alone.
    QUANTISED = auto()


FUNCTION = Trait.ELEMENTWISE | Trait.FUNCTION
ACTIVATION = FUNCTION | Trait.ACTIVATION


@dataclass(frozen=True)
class Operator:
    """An operator's definition from opset ``since`` of ``domain`` on."""

    name: str
    domain: str
    since: int
    run: Callable[..., Any]
    infer: Callable[..., Any]
    check: Callable[[Node], str | None] | None = None
    traits: Trait = Trait.NONE

    @property
    def kind(self) -> str:
        """The name, after the domain and a dot where that is not ONNX's own."""
        return f"{self.domain}.{self.name}" if self.domain else self.name

    @cached_property
    def defaults(self) -> dict[str, Any]:
        """The attributes that ``run`` understands, and what each is where it is left out
        (`inspect.Parameter.empty` if it may not be)."""
        parameters = inspect.signature(self.run).parameters.values()
        named = (p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "n_outputs")
        return {p.name: p.default for p in named}

    @cached_property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that ``run`` understands."""
        return frozenset(self.defaults)

    @cached_property
    def wants_n_outputs(self) -> bool:
        return "n_outputs" in inspect.signature(self.run).parameters


_OPERATORS: dict[tuple[str, str], list[Operator]] = {}


def operator(
    name: str,
    *,
    infer: Callable[..., Any],
    since: int = 1,
    domain: str = "",
    check: Callable[[Node], str | None] | None = None,
    traits: Trait = Trait.NONE,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as operator ``name`` from opset ``since`` on.

    ``check`` may look at a node and return why minseg cannot run it (an attribute out of range),
    or None.
    """

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        versions = _OPERATORS.setdefault((domain, name), [])
        if any(o.since == since for o in versions):
            raise ValueError(f"operator {name} is registered twice for opset {since}")
        versions.append(Operator(name, domain, since, run, infer, check, traits))
        versions.sort(key=lambda o: o.since)
        having.cache_clear()
        return run

    return register


def lookup(domain: str, name: str, opset: int) -> Operator | None:
    """The newest definition not newer than ``opset``, or None."""
    versions = _OPERATORS.get((domain, name), [])
    return next((o for o in reversed(versions) if o.since <= opset), None)


def newest(name: str, domain: str = "") -> Operator:
    """The newest definition of an operator that is known to have one."""
    return _OPERATORS[domain, name][-1]


def has(node: Node, trait: Trait) -> bool:
    """Whether the operator that ``node`` calls has ``trait``."""
    found = lookup(node.domain, node.op, node.opset)
    return found is not None and trait in found.traits


def attributes_of(node: Node) -> dict[str, Any]:
    """All attributes that ``node`` may have, those left out as the definition has them."""
    found = lookup(node.domain, node.op, node.opset)
    return {**(found.defaults if found else {}), **node.attributes}


@cache
def having(trait: Trait) -> frozenset[str]:
    """The kinds (see `Operator.kind`) of all operators that have ``trait``."""
    return frozenset(o.kind for o in declared() if trait in o.traits)


def declared() -> tuple[Operator, ...]:
    """Every registered definition, sorted by domain, name and opset."""
    return tuple(o for key in sorted(_OPERATORS) for o in _OPERATORS[key])
