"""Imports the parts of onnx that reading a model needs without the rest, which takes four times as
long."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec

PARTS = ("onnx.onnx_ml_pb2", "onnx.onnx_cpp2py_export")


def import_alone() -> None:
    """Import the parts, unless onnx is imported already.

    For a process that is minseg's own: a later ``import onnx`` uses the same modules, but does not
    have them as attributes.
    """
    package = None if "onnx" in sys.modules else find_spec("onnx")
    if package is None or not set(PARTS).isdisjoint(sys.modules):
        return
    for name in PARTS:
        spec = PathFinder.find_spec(name, package.submodule_search_locations)
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[name] = module
