"""ONNX's official backend tests of every operator that minseg declares, on both backends.

pytest tests/test_onnx_node_suite.py -k "numpy and conv"
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import Count
from onnx import AttributeProto, GraphProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from minseg.backend import NumbaBackend, NumpyBackend
from minseg.ops import declared
from minseg.ops.support import OLDEST_OPSET, load

BACKENDS = {"numpy": NumpyBackend, "numba": NumbaBackend}

#: Operators that the reader replaces, so that no interpreter sees them.
READ_AWAY = {("", "Constant")}

#: Cases of declared operators that minseg does not run, and why.
REASONS = {
    "test_identity_sequence": "minseg runs tensors only, and Identity's input is a sequence here",
    "test_identity_opt": "minseg runs tensors only, and Identity's input is an optional here",
    "test_attention_4d_causal_fp16_expanded": "the expected values round to float16 inside of "
    "Softmax, which minseg does once at the end: both lie within one unit in the last place of the "
    "exact result, minseg nearer, but further from each other than the tolerance",
    "test_resize_downsample_scales_(linear|cubic)_align_corners": "the expected values align the "
    "last corner with a size before it was rounded; PyTorch, onnxruntime and OpenVINO, which the "
    "models come from and run on, with the size that the output has",
}


def selected_cases() -> list[TestCase]:
    """The cases all of whose operators are declared. Older releases of onnx keep some as files."""
    known = {(o.domain, o.name) for o in declared()} | READ_AWAY
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = load_model_tests(kind="node")
    return [c for c in cases if c.model and set(operators(c.model.graph)) <= known]


def operators(graph: GraphProto) -> Iterator[tuple[str, str]]:
    """Domain and name of every node, those of subgraphs included."""
    for node in graph.node:
        yield ("" if node.domain == "ai.onnx" else node.domain), node.op_type
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from operators(attribute.g)


def reason_to_skip(case: TestCase) -> str | None:
    for pattern, reason in REASONS.items():
        if re.fullmatch(pattern, case.name):
            return reason
    opset = max((o.version for o in case.model.opset_import if not o.domain), default=OLDEST_OPSET)
    return f"opset {opset} is older than {OLDEST_OPSET}" if opset < OLDEST_OPSET else None


CASES = selected_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.removeprefix("test_"))
@pytest.mark.parametrize("backend", BACKENDS)
def test_node(backend: str, case: TestCase, count: Count) -> None:
    topic = f"official ONNX node tests, {backend}"
    reason = reason_to_skip(case)
    if reason is not None:
        count(topic, "skipped")
        pytest.skip(reason)
    prepared = BACKENDS[backend].prepare(case.model)
    for inputs, expected in case.data_sets:
        results = prepared.run([array(i) for i in inputs])
        Runner.assert_similar_outputs(
            [array(e) for e in expected], results, rtol=case.rtol, atol=case.atol
        )
    count(topic, "passed")


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name.removeprefix("test_"))
def test_inference(case: TestCase, count: Count) -> None:
    """What is inferred before the run holds for what the specification's outputs are."""
    if reason_to_skip(case) is not None:
        pytest.skip(reason_to_skip(case))
    topic = "shape inference over the same cases"
    types = load(case.model).types
    for _, expected in case.data_sets:
        for value, output in zip(case.model.graph.output, expected, strict=True):
            actual, inferred = array(output), types[value.name]
            assert inferred.dtype in (None, actual.dtype)
            if inferred.shape is not None:
                assert len(inferred.shape) == actual.ndim
                for found, size in zip(inferred.shape, actual.shape, strict=True):
                    assert not isinstance(found, int) or found == size
            count(topic, "outputs")
            count(topic, "with a known dtype", int(inferred.dtype is not None))
            count(topic, "with every size known", int(inferred.is_static))


def array(value: np.ndarray | onnx.TensorProto) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def test_every_reason_is_needed() -> None:
    names = [case.name for case in CASES]
    for pattern in REASONS:
        assert any(re.fullmatch(pattern, name) for name in names), pattern
