"""Networks that other tools quantised, against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Count
from parity import agreement, onnxruntime_run
from quantised_models import DYNAMIC, FORMS, NNCF, POWERS, TRAINED, Quantised, quantised_model

import minseg

#: Streets that no network was calibrated on.
UNSEEN = range(1_000_000, 1_000_004)

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


@pytest.mark.parametrize("form", [form for form in DYNAMIC if form.network in TRAINED], ids=str)
def test_networks_quantised_while_they_run(form: Quantised, count: Count) -> None:
    path, feeds = quantised_model(form), form.feeds(UNSEEN[0])
    (expected,) = onnxruntime_run(path, feeds)
    (got,) = minseg.load(path).run(None, feeds)
    assert agreement(got, expected) >= 0.999
    count("parity", "dynamically quantised networks with onnxruntime's labels")
