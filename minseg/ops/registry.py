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
from functools import cached_property
from typing import Any

from minseg.graph.model import Node


@dataclass(frozen=True)
class Operator:
    """An operator's definition from opset ``since`` of ``domain`` on."""

    name: str
    domain: str
    since: int
    run: Callable[..., Any]
    infer: Callable[..., Any]
    check: Callable[[Node], str | None] | None = None

    @cached_property
    def attributes(self) -> frozenset[str]:
        """Names of the attributes that ``run`` understands."""
        parameters = inspect.signature(self.run).parameters.values()
        return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) - {"n_outputs"}

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
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as operator ``name`` from opset ``since`` on.

    ``check`` may look at a node and return why minseg cannot run it (an attribute out of range),
    or None.
    """

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        versions = _OPERATORS.setdefault((domain, name), [])
        if any(o.since == since for o in versions):
            raise ValueError(f"operator {name} is registered twice for opset {since}")
        versions.append(Operator(name, domain, since, run, infer, check))
        versions.sort(key=lambda o: o.since)
        return run

    return register


def lookup(domain: str, name: str, opset: int) -> Operator | None:
    """The newest definition not newer than ``opset``, or None."""
    versions = _OPERATORS.get((domain, name), [])
    return next((o for o in reversed(versions) if o.since <= opset), None)


def declared() -> tuple[Operator, ...]:
    """Every registered definition, sorted by domain, name and opset."""
    return tuple(o for key in sorted(_OPERATORS) for o in _OPERATORS[key])
