"""What ONNX's schemas say of operators."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from minseg.graph.onnx_proto import native


@dataclass(frozen=True)
class Parameter:
    """An input of an operator. Inputs of one node whose ``type_variable`` is the same are of one
    element type; it is empty where the schema binds the input to no other."""

    name: str
    type_variable: str
    is_variadic: bool


def schema(op: str, opset: int, domain: str) -> Any | None:
    """onnx's own schema; None for operators that it does not know."""
    try:
        return native.defs.get_schema(op, opset, domain)
    except native.defs.SchemaError:
        return None


@cache
def parameters(op: str, opset: int, domain: str) -> tuple[Parameter, ...]:
    """The inputs of an operator, the last of which may stand for any number of them; none for
    operators that onnx does not know."""
    found = schema(op, opset, domain)
    if found is None:
        return ()
    variables = {constraint.type_param_str for constraint in found.type_constraints}
    variadic = native.defs.OpSchema.FormalParameterOption.Variadic
    return tuple(
        Parameter(
            formal.name,
            formal.type_str if formal.type_str in variables and formal.is_homogeneous else "",
            formal.option == variadic,
        )
        for formal in found.inputs
    )
