"""The parts of the onnx package that reading a model needs: its messages, schemas and checker.

They are imported without the rest of onnx, whose import takes four times as long as theirs. A
later ``import onnx`` uses the same modules.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import (
        IR_VERSION,
        AttributeProto,
        FunctionProto,
        GraphProto,
        ModelProto,
        NodeProto,
        TensorProto,
    )

__all__ = [
    "IR_VERSION",
    "AttributeProto",
    "FunctionProto",
    "GraphProto",
    "ModelProto",
    "NodeProto",
    "TensorProto",
    "native",
]


def _part(name: str) -> Any:
    """A module of onnx that imports nothing else of it."""
    full = f"onnx.{name}"
    package = None if "onnx" in sys.modules else find_spec("onnx")
    spec = package and PathFinder.find_spec(full, package.submodule_search_locations)
    if full in sys.modules or spec is None or spec.loader is None:
        return import_module(full)
    module = sys.modules[full] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[full]
        raise
    return module


_messages = _part("onnx_ml_pb2")

#: onnx in C++: ``native.defs`` and ``native.checker``.
native: Any = _part("onnx_cpp2py_export")

if not TYPE_CHECKING:
    IR_VERSION = _messages.IR_VERSION
    AttributeProto = _messages.AttributeProto
    FunctionProto = _messages.FunctionProto
    GraphProto = _messages.GraphProto
    ModelProto = _messages.ModelProto
    NodeProto = _messages.NodeProto
    TensorProto = _messages.TensorProto
