"""OpenVINO's convolutions, pools and interpolations, each by itself, against openvino."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

ov = pytest.importorskip("openvino")
from ir_models import agrees, agrees_folded, fixed, normal  # noqa: E402
from openvino import (  # noqa: E402
    opset1,
    opset8,
    opset10,
    opset11,
    opset14,
    opset16,
)

X = 2 * normal(2, 3, 4, 5)

# Convolutions and pools


@st.composite
def windows(draw: st.DrawFn, kernel_max: int = 4) -> dict[str, Any]:
    pair = st.tuples(*[st.integers(1, 3)] * 2)
    pads = st.tuples(*[st.integers(0, 2)] * 2)
    return {
        "size": draw(st.tuples(*[st.integers(4, 9)] * 2)),
        "kernel": draw(st.tuples(*[st.integers(1, kernel_max)] * 2)),
        "strides": list(draw(pair)),
        "dilations": list(draw(st.tuples(*[st.integers(1, 2)] * 2))),
        "pads_begin": list(draw(pads)),
        "pads_end": list(draw(pads)),
        "auto_pad": draw(st.sampled_from(["explicit", "same_upper", "same_lower", "valid"])),
    }


def fits(w: dict[str, Any]) -> bool:
    """Each window is no longer than the padded input, and holds an element of it."""
    for axis in range(2):
        extent = (w["kernel"][axis] - 1) * w["dilations"][axis] + 1
        pads = w["pads_begin"][axis], w["pads_end"][axis]
        padded = w["size"][axis] + (sum(pads) if w["auto_pad"] == "explicit" else 0)
        if extent > padded or max(pads) >= w["kernel"][axis]:
            return False
    return True


def layout(w: dict[str, Any], *left_out: str) -> dict[str, Any]:
    return {k: v for k, v in w.items() if k not in ("size", "kernel", *left_out)}


@settings(max_examples=60)
@given(windows(), st.sampled_from([1, 3]))
def test_convolution(w: dict[str, Any], groups: int) -> None:
    assume(fits(w))
    x = normal(2, 3, *w["size"])
    if groups == 1:
        weights = opset1.constant(normal(4, 3, *w["kernel"], seed=1))
        agrees(lambda p: opset1.convolution(p, weights, **layout(w)), x, tolerance=1e-5)
    else:
        grouped = opset1.constant(normal(3, 2, 1, *w["kernel"], seed=1))
        agrees(lambda p: opset1.group_convolution(p, grouped, **layout(w)), x, tolerance=1e-5)


@settings(max_examples=100)
@given(
    windows(),
    st.sampled_from([1, 3]),
    st.tuples(*[st.integers(0, 1)] * 2),
    st.one_of(st.none(), st.tuples(*[st.integers(-2, 3)] * 2)),
)
def test_transposed_convolution(
    w: dict[str, Any], groups: int, extra: tuple[int, int], change: tuple[int, int] | None
) -> None:
    full = [
        s * (n - 1) + d * (k - 1) + 1
        for n, k, s, d in zip(w["size"], w["kernel"], w["strides"], w["dilations"], strict=True)
    ]
    padded = [n - b - e for n, b, e in zip(full, w["pads_begin"], w["pads_end"], strict=True)]
    assume(min(padded) >= 1)
    assume(all(a < s for a, s in zip(extra, w["strides"], strict=True)))
    options = layout(w) | {"output_padding": list(extra)}
    if change is not None:
        outputs = [n + c for n, c in zip(padded, change, strict=True)]
        assume(min(outputs) >= 1)
        options["output_shape"] = fixed(outputs)
    x = normal(2, 3, *w["size"])
    shape = (3, 4) if groups == 1 else (3, 1, 2)
    weights = opset1.constant(normal(*shape, *w["kernel"], seed=1))
    layer = (
        opset1.convolution_backprop_data if groups == 1 else opset1.group_convolution_backprop_data
    )
    agrees(lambda p: layer(p, weights, **options), x, tolerance=1e-5)


@settings(max_examples=100)
@given(windows(), st.sampled_from(["floor", "ceil", "ceil_torch"]), st.booleans())
def test_max_pool(w: dict[str, Any], rounding: str, with_indices: bool) -> None:
    assume(fits(w) and all_windows_meet(w))
    options = {"kernel_shape": list(w["kernel"]), "rounding_type": rounding} | layout(w)

    def build(p: Any) -> Any:
        pool = opset14.max_pool(p, index_element_type="i32", **options)
        return pool if with_indices else opset1.relu(pool.output(0))

    agrees(build, normal(2, 3, *w["size"]))


@pytest.mark.parametrize("rounding", ["floor", "ceil"])
def test_max_pool_of_the_first_set(rounding: str) -> None:
    agrees(
        lambda p: opset1.max_pool(p, [2, 2], [1, 0], [0, 1], [3, 3], rounding), normal(1, 2, 8, 9)
    )


def all_windows_meet(w: dict[str, Any]) -> bool:
    """No window lies in the padding alone, where openvino's results are not numbers."""
    return all(
        e + s <= (k - 1) * d + 1
        for e, s, k, d in zip(w["pads_end"], w["strides"], w["kernel"], w["dilations"], strict=True)
    )


@settings(max_examples=100)
@given(windows(), st.sampled_from(["floor", "ceil", "ceil_torch"]), st.booleans(), st.booleans())
def test_avg_pool(w: dict[str, Any], rounding: str, exclude: bool, dilated: bool) -> None:
    if not dilated:
        w["dilations"] = [1, 1]
    assume(fits(w) and all_windows_meet(w))
    options = {"kernel_shape": list(w["kernel"]), "exclude_pad": exclude}
    options["rounding_type"] = rounding
    if dilated:
        agrees(
            lambda p: opset16.avg_pool(p, **options, **layout(w)),
            normal(2, 3, *w["size"]),
        )
    else:
        agrees(
            lambda p: opset14.avg_pool(p, **options, **layout(w, "dilations")),
            normal(2, 3, *w["size"]),
        )


@pytest.mark.parametrize("sizes", [[1, 1], [2, 3], [3, 2], [6, 9], [5, 7]])
def test_adaptive_avg_pool(sizes: list[int]) -> None:
    agrees(lambda p: opset8.adaptive_avg_pool(p, fixed(sizes)), normal(2, 3, 6, 9))


# Interpolate


MODES = ["nearest", "linear", "linear_onnx", "cubic"]
COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
ROUNDINGS = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"]
TF = "tf_half_pixel_for_nn"


def last_bit_decides(coordinates: str, rounding: str, size: int, output: int) -> bool:
    """Whether rounding jumps where an output lies, by a scale that float32 has not: there openvino
    computes the last bit otherwise than onnxruntime, whose operator minseg has."""
    scale = Fraction(output, size)
    moved = Fraction(0 if coordinates == "asymmetric" else 1, 2)
    places = [(o + moved) / scale - moved for o in range(output)]
    if coordinates == "align_corners":
        places = [Fraction(o * (size - 1), max(1, output - 1)) for o in range(output)]
    jump = Fraction(1 if rounding.startswith("round") else 0, 2)
    exact = Fraction(float(np.float32(scale))) == scale
    return not exact and any(place and place % 1 == jump for place in places)


@settings(max_examples=150)
@given(
    st.sampled_from(MODES),
    st.sampled_from([*COORDINATES, TF]),
    st.sampled_from(ROUNDINGS),
    st.booleans(),
    st.tuples(*[st.integers(2, 8)] * 2),
    st.tuples(*[st.integers(1, 17)] * 2),
    st.sampled_from(["sizes", "scales"]),
)
def test_interpolate_4(
    mode: str, coordinates: str, rounding: str, antialias: bool,
    size: tuple[int, int], outputs: tuple[int, int], calculation: str,
) -> None:  # fmt: skip
    assume(mode == "nearest" or coordinates != TF)
    if mode == "nearest":
        assume(not any(map(partial(last_bit_decides, coordinates, rounding), size, outputs)))
    # openvino's CPU plugin samples pictures without antialiasing, whatever the layer says.
    antialias = antialias and (
        mode != "linear" or all(o >= n for o, n in zip(outputs, size, strict=True))
    )
    scales = [np.float32(o / n) for o, n in zip(outputs, size, strict=True)]
    agrees(
        lambda p: opset10.interpolate(
            p, fixed(outputs), fixed(scales, np.float32), mode, calculation,
            coordinate_transformation_mode=coordinates, nearest_mode=rounding,
            antialias=antialias, axes=fixed([2, 3]),
        ),
        normal(1, 2, *size),
        tolerance=2e-5,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["linear_onnx", "cubic"])
@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3, 1.5, 2.3])
def test_corners_are_those_of_the_rounded_size(mode: str, scale: float) -> None:
    attributes: dict[str, Any] = {"coordinate_transformation_mode": "align_corners"}
    scales = fixed([scale, scale], np.float32)
    for layer in (
        lambda p: opset10.interpolate(
            p, fixed([1, 1]), scales, mode, "scales", axes=fixed([2, 3]), **attributes
        ),
        lambda p: opset11.interpolate(p, scales, mode, "scales", axes=fixed([2, 3]), **attributes),
    ):
        agrees(layer, normal(1, 2, 7, 9), tolerance=2e-5)


@pytest.mark.parametrize("outputs", [(2, 3), (3, 5), (5, 2), (6, 1)])
@pytest.mark.parametrize("coordinates", ["half_pixel", "asymmetric", "align_corners"])
def test_antialiasing(outputs: tuple[int, int], coordinates: str) -> None:
    agrees_folded(
        lambda x: opset10.interpolate(
            x, fixed(outputs), fixed([1, 1], np.float32), "linear", "sizes",
            coordinate_transformation_mode=coordinates, antialias=True, axes=fixed([2, 3]),
        ),
        normal(1, 2, 6, 7),
        tolerance=2e-5,
    )  # fmt: skip


@settings(max_examples=60)
@given(
    st.sampled_from([*MODES, "bilinear_pillow", "bicubic_pillow"]),
    st.sampled_from(COORDINATES),
    st.tuples(*[st.integers(2, 8)] * 2),
    st.tuples(*[st.integers(1, 17)] * 2),
)
def test_interpolate_11(
    mode: str, coordinates: str, size: tuple[int, int], outputs: tuple[int, int]
) -> None:
    agrees(
        lambda p: opset11.interpolate(
            p, fixed(outputs), mode, "sizes", coordinate_transformation_mode=coordinates,
            cube_coeff=-0.5, axes=fixed([2, 3]),
        ),
        normal(1, 2, *size),
        tolerance=2e-5,
    )  # fmt: skip


@settings(max_examples=60)
@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.booleans(),
    st.booleans(),
    st.tuples(*[st.integers(2, 8)] * 2),
    st.tuples(*[st.integers(1, 17)] * 2),
)
def test_interpolate_1(
    mode: str, corners: bool, antialias: bool, size: tuple[int, int], outputs: tuple[int, int]
) -> None:
    attributes = {"axes": [2, 3], "mode": mode, "align_corners": corners, "antialias": antialias}
    agrees(
        lambda p: opset1.interpolate(p, fixed(outputs), attributes),
        normal(1, 2, *size),
        tolerance=2e-5,
    )


def test_interpolate_of_a_padded_input() -> None:
    agrees(
        lambda p: opset10.interpolate(
            p, fixed([1, 2, 13, 9]), fixed([1, 1, 2, 1], np.float32), "linear_onnx", "sizes",
            pads_begin=[0, 0, 1, 2], pads_end=[0, 0, 0, 1],
        ),
        normal(1, 2, 6, 7),
        tolerance=2e-5,
    )  # fmt: skip
