"""The domain org.openvinotoolkit, by OpenVINO's specification."""

from __future__ import annotations

import numpy as np

from minseg.graph.domains import OPENVINO
from minseg.ops.arguments import one_of
from minseg.ops.dtypes import in_float64
from minseg.ops.registry import Trait, operator
from minseg.ops.types import broadcast


@operator(
    "FakeQuantize",
    since=1,
    domain=OPENVINO,
    infer=broadcast,
    check=one_of("auto_broadcast", "numpy", "none"),
    traits=Trait.ELEMENTWISE | Trait.ROUNDS | Trait.QUANTISES | Trait.QUANTISED,
)
@in_float64
def fake_quantize(
    x: np.ndarray,
    input_low: np.ndarray,
    input_high: np.ndarray,
    output_low: np.ndarray,
    output_high: np.ndarray,
    *,
    levels: int,
    auto_broadcast: str = "numpy",
) -> np.ndarray:
    """``x`` on a grid of ``levels`` values, halves to even, mapped to the output range."""
    step = np.rint((x - input_low) / (input_high - input_low) * (levels - 1))
    inside = step / (levels - 1) * (output_high - output_low) + output_low
    below = x <= np.minimum(input_low, input_high)
    above = x > np.maximum(input_low, input_high)
    return np.where(below, output_low, np.where(above, output_high, inside))
