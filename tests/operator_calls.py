"""Calls one operator the way a graph does, and checks what every operator owes its callers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from onnx import helper

from minseg.graph.model import Dim, Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.infer import infer_node

NEWEST = 28


def call(
    op: str,
    *inputs: Any,
    opset: int = NEWEST,
    domain: str = "",
    outputs: int = 1,
    others: Mapping[str, Any] = MappingProxyType({}),
    **attributes: Any,
) -> Any:
    """The output of operator ``op``, or a tuple of them where ``outputs`` is above 1.

    Inputs are anything that NumPy makes an array of, or None. ``others`` are attributes that have
    the name of a parameter. Asserts that the inputs stay as they are, that the types inferred from
    the inputs' types are those of the outputs, and that they do not contradict them where sizes or
    the values of later inputs are unknown.
    """
    arrays = [None if x is None else np.asarray(x) for x in inputs]
    before = [None if x is None else x.copy() for x in arrays]
    names = tuple("" if x is None else f"x{i}" for i, x in enumerate(arrays))
    made = tuple(f"y{i}" for i in range(outputs))
    node = Node(op, op, names, made, {**attributes, **others}, domain, opset)
    results = run_node(node, arrays, {})
    for array, copy in zip(arrays, before, strict=True):
        if array is not None and copy is not None:
            assert array.tobytes() == copy.tobytes()
    _check_inference(node, dict(zip(names, arrays, strict=True)), results)
    return results if outputs > 1 else results[0]


def _check_inference(
    node: Node, arrays: dict[str, np.ndarray | None], results: tuple[np.ndarray, ...]
) -> None:
    given = {n: x for n, x in arrays.items() if x is not None}
    exact = {n: TensorType.of(x) for n, x in given.items()}
    exact["x0"] = TensorType(exact["x0"].dtype, exact["x0"].shape)
    for inferred, result in zip(infer_node(node, exact), results, strict=True):
        assert isinstance(result, np.ndarray)
        assert inferred.dtype == result.dtype
        assert inferred.shape == result.shape
    sizes = {n: TensorType(x.dtype, (None,) * x.ndim) for n, x in given.items()}
    for types in (sizes, {n: TensorType(None, None) for n in given}):
        for inferred, result in zip(infer_node(node, types), results, strict=True):
            assert inferred.dtype in (None, result.dtype)
            if inferred.shape is not None:
                assert len(inferred.shape) == result.ndim
                assert all(map(_agrees, inferred.shape, result.shape))


def call_onnxruntime(
    op: str,
    *inputs: Any,
    opset: int,
    domain: str = "",
    outputs: int = 1,
    others: Mapping[str, Any] = MappingProxyType({}),
    **attributes: Any,
) -> Any:
    """What onnxruntime says to the same call; the test is skipped where it is not installed.

    ``opset`` is that of ONNX's own domain; another ``domain`` is imported as version 1.
    """
    onnxruntime = pytest.importorskip("onnxruntime")
    arrays = {f"x{i}": np.asarray(x) for i, x in enumerate(inputs) if x is not None}
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    made = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(outputs)]
    keywords = {**attributes, **others, "domain": domain}
    graph = helper.make_graph(
        [helper.make_node(op, names, [y.name for y in made], **keywords)],
        op,
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in arrays.items()
        ],
        made,
    )
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results = session.run(None, arrays)
    return tuple(results) if outputs > 1 else results[0]


def _agrees(dim: Dim, size: int) -> bool:
    return not isinstance(dim, int) or dim == size
