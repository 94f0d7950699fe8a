"""The parts of the onnx package that reading a model needs: its messages, schemas and checker.

They are taken from where they are defined, so that onnx_alone.py can do without the rest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

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
    return sys.modules.get(name) or import_module(name)


#: onnx in C++: ``native.defs`` and ``native.checker``.
native: Any = _part("onnx.onnx_cpp2py_export")

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
else:
    _messages = _part("onnx.onnx_ml_pb2")
    IR_VERSION = _messages.IR_VERSION
    AttributeProto = _messages.AttributeProto
    FunctionProto = _messages.FunctionProto
    GraphProto = _messages.GraphProto
    ModelProto = _messages.ModelProto
    NodeProto = _messages.NodeProto
    TensorProto = _messages.TensorProto
