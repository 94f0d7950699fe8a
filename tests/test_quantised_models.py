"""Networks that other tools quantised, against onnxruntime."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import Count
from parity import agreement, onnxruntime_run, with_all_values
from quantised_models import DYNAMIC, FORMS, NNCF, POWERS, TRAINED, Quantised, quantised_model

import minseg
from minseg.graph.model import Graph, Node, Value
from minseg.ops.infer import infer
from minseg.ops.support import load

#: Streets that no network was calibrated on.
UNSEEN = range(1_000_000, 1_000_004)

QOPERATOR = [form for form in FORMS if form.notation == "qoperator"]
#: As large as they come.
FULL = [
    replace(form, full=True)
    for form in QOPERATOR
    if (form.network, form.activations) in (("icnet", "u8"), ("unet", "s8")) and form.per_channel
]
ANY_SCALE = [
    form for form in (*FORMS, *NNCF) if form.network in TRAINED and form.notation != "qoperator"
]


@pytest.mark.parametrize("form", POWERS, ids=str)
def test_scales_of_powers_of_two_give_equal_integers(form: Quantised, count: Count) -> None:
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    (expected,) = onnxruntime_run(path, feeds)
    (got,) = minseg.load(path).run(None, feeds)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert len(np.unique(expected.argmax(1))) > 6
    assert (got == expected).mean() >= 0.9999
    count("parity", "quantised networks equal to onnxruntime's bit by bit")


@pytest.mark.parametrize("form", [*QOPERATOR, *FULL], ids=str)
def test_integer_operators_give_equal_integers_to_the_end(form: Quantised, count: Count) -> None:
    """Compiled, the whole network at once: what differs anywhere has grown by then."""
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    (expected,) = onnxruntime_run(path, feeds)
    (got,) = minseg.load(path).run(None, feeds)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert len(np.unique(expected.argmax(1))) > 6
    assert (got == expected).mean() >= 0.9999
    step = np.diff(np.unique(expected)).min()
    assert np.abs(got - expected).max() <= step * 1.001
    count("parity", "compiled networks of integer operators equal to onnxruntime's bit by bit")


@pytest.mark.parametrize("form", [f for f in QOPERATOR if f.network != "unet"], ids=str)
def test_definitions_of_integer_operators_give_equal_integers(
    form: Quantised, count: Count
) -> None:
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    (expected,) = onnxruntime_run(path, feeds)
    (got,) = minseg.load(path, backend="numpy").run(None, feeds)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert (got == expected).mean() >= 0.9999
    count("parity", "networks of integer operators equal to onnxruntime's bit by bit")


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("form", QOPERATOR, ids=str)
def test_every_integer_operator_gives_equal_integers(form: Quantised, backend: str) -> None:
    """Each node on what onnxruntime gave the node before it. In a network with synthetic weights,
    all that follows one integer that was rounded the other way is another.
    """
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    model, names = with_all_values(path)
    graph = load(path)
    values = {**graph.constants, **feeds}
    values.update(zip(names, onnxruntime_run(model, feeds, names), strict=True))
    differing, total = 0, 0
    for node in graph.nodes:
        expected = values.get(node.outputs[0])
        if expected is None or expected.dtype.kind not in "iu":
            continue
        alone = alone_of(node, graph)
        (got,) = minseg.Session(alone, backend=backend).run(
            None, {v.name: values[v.name] for v in alone.inputs}
        )
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype), node
        apart = np.abs(got.astype(np.int64) - expected.astype(np.int64))
        assert apart.max() <= 1, node
        differing, total = differing + np.count_nonzero(apart), total + apart.size
    assert total
    assert differing <= 1e-4 * total


def alone_of(node: Node, graph: Graph) -> Graph:
    """A graph of ``node`` alone, with its constants."""
    fed = dict.fromkeys(n for n in node.inputs if n and n not in graph.constants)
    alone = replace(
        graph,
        nodes=(node,),
        inputs=tuple(Value(n, graph.types[n]) for n in fed),
        outputs=(Value(node.outputs[0], graph.types[node.outputs[0]]),),
        constants={n: graph.constants[n] for n in node.inputs if n in graph.constants},
    )
    return replace(alone, types=infer(alone))


@pytest.mark.parametrize(
    "form", [f for f in ANY_SCALE if f.notation == "qdq" and f.activations == "u8"], ids=str
)
def test_integers_are_those_that_onnxruntime_computes_with(form: Quantised, count: Count) -> None:
    """With its optimisations on, which put operators of integers in the place of floats."""
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    (expected,) = onnxruntime_run(path, feeds, optimised=True)
    (got,) = minseg.load(path).run(None, feeds)
    assert agreement(got, expected) >= 0.9999
    count("parity", "quantised networks with all labels of onnxruntime in integers")


@pytest.mark.parametrize("form", ANY_SCALE, ids=str)
def test_labels_are_onnxruntimes_as_far_as_its_own_agree(form: Quantised, count: Count) -> None:
    """With other scales than powers of two sums of floats depend on their order, and one value of
    millions that is rounded the other way moves some labels: onnxruntime with its optimisations
    on, in integers, and with them off, in floats, agree in 99.8 to 99.9 % of these.
    """
    path = quantised_model(form)
    session = minseg.load(path)
    shares = []
    for seed in UNSEEN:
        feeds = form.feeds(seed)
        (expected,), (got,) = onnxruntime_run(path, feeds), session.run(None, feeds)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        shares.append(agreement(got, expected))
    assert np.mean(shares) >= 0.998
    count("parity", "quantised networks with onnxruntime's labels")


@pytest.mark.parametrize("form", DYNAMIC, ids=str)
def test_networks_quantised_while_they_run(form: Quantised, count: Count) -> None:
    """All integers are onnxruntime's, or labels would differ; what is left are the roundings of a
    Softmax at the end."""
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    (expected,) = onnxruntime_run(path, feeds)
    (got,) = minseg.load(path).run(None, feeds)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert agreement(got, expected) == 1
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    count("parity", "dynamically quantised networks with all of onnxruntime's labels")
