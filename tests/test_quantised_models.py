"""Networks that other tools quantised, against onnxruntime with its optimisations off."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Count
from parity import agreement, onnxruntime_run
from quantised_models import DYNAMIC, FORMS, NNCF, POWERS, TRAINED, Quantised, quantised_model

import minseg

#: A street that no network was calibrated on.
UNSEEN = 1_000_001

QDQ = [form for form in FORMS if form.notation == "qdq" and form.network in TRAINED]


def both(form: Quantised) -> tuple[np.ndarray, np.ndarray]:
    """minseg's output and onnxruntime's."""
    path, feeds = quantised_model(form), form.feeds(UNSEEN)
    (expected,) = onnxruntime_run(path, feeds)
    (got,) = minseg.load(path).run(None, feeds)
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert len(np.unique(expected.argmax(1))) > 6
    return got, expected


@pytest.mark.parametrize("form", POWERS, ids=str)
def test_scales_of_powers_of_two_give_equal_integers(form: Quantised, count: Count) -> None:
    got, expected = both(form)
    assert (got == expected).mean() >= 0.9999
    count("parity", "quantised networks equal to onnxruntime's bit by bit")


@pytest.mark.parametrize(
    "form", [*QDQ, *DYNAMIC, *(n for n in NNCF if n.network in TRAINED)], ids=str
)
def test_labels_are_onnxruntimes(form: Quantised, count: Count) -> None:
    got, expected = both(form)
    assert agreement(got, expected) >= 0.999
    count("parity", "quantised networks with onnxruntime's labels")
