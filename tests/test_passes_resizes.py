"""Resizes that move down: where they may, what they pass, and that no bit changes.

The reference operators run both graphs, and pixels that are equal stay equal whatever f is: a
Resize that repeats pixels leaves results as they are, to the bit.
"""

from __future__ import annotations

import numpy as np
import pytest
from graphs import Build, assert_same_results, feeds_of, kinds, optimised
from hypothesis import given
from hypothesis import strategies as st

from minseg.ops.evaluate import evaluate
from minseg.passes import optimize


def nearest(b, x, *factors):
    """x with every pixel repeated."""
    scales = b.constant([1, 1, *factors], np.float32)
    return b.op("Resize", x, "", scales, mode="nearest")


def exact(graph):
    """`optimised`, for graphs whose results may not change by a bit."""
    result, feeds = optimised(graph), feeds_of(graph)
    before, after = evaluate(graph, feeds), evaluate(result, feeds)
    for value in graph.outputs:
        np.testing.assert_array_equal(after[value.name], before[value.name], strict=True)
    return result


def quantiser(b, x, scale, zero_point):
    q = b.op("QuantizeLinear", x, scale, zero_point)
    return b.op("DequantizeLinear", q, scale, zero_point)


REPEATS = {
    "scales": lambda b, x: nearest(b, x, 2, 3),
    "sizes": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 4, 6, 10), mode="nearest"),
    "sizes of axes": lambda b, x: b.op("Resize", x, "", "", b.ints(6, 10), axes=(2, 3)),
    "half_pixel": lambda b, x: b.op("Resize", x, "", b.constant([1, 1, 4, 2], np.float32)),
    "asymmetric": lambda b, x: b.op(
        *("Resize", x, "", "", b.ints(1, 4, 12, 5)),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "Resize-10": lambda b, x: b.op("Resize", x, b.constant([1, 1, 2, 2], np.float32), opset=10),
    "Upsample-9": lambda b, x: b.op("Upsample", x, b.constant([1, 1, 2, 2], np.float32), opset=9),
    "Upsample-7": lambda b, x: b.op("Upsample", x, scales=(1.0, 1.0, 2.0, 2.0), opset=7),
}
OTHERS = {
    "uneven": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 4, 7, 10)),
    "aligned": lambda b, x: b.op(
        *("Resize", x, "", "", b.ints(1, 4, 6, 10)),
        coordinate_transformation_mode="align_corners",
        nearest_mode="floor",
    ),
    "rounded up": lambda b, x: b.op(
        *("Resize", x, "", "", b.ints(1, 4, 6, 10)),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="ceil",
    ),
    "channels": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 8, 6, 10)),
    "smaller": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 4, 1, 5)),
    "interpolated": lambda b, x: b.op("Resize", x, "", "", b.ints(1, 4, 6, 10), mode="linear"),
    "a part": lambda b, x: b.op(
        *("Resize", x, b.constant([0, 0, 0, 0, 1, 1, 0.25, 1], np.float32), "", b.ints(1, 4, 3, 5)),
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
}


@pytest.mark.parametrize("case", REPEATS)
def test_a_resize_that_repeats_pixels_moves(case):
    b = Build()
    x = b.op("Exp", b.input(1, 4, 3, 5))
    result = exact(b.graph(b.op("Softmax", REPEATS[case](b, x), axis=1)))
    assert kinds(result)[:2] == ["Exp", "Softmax"]
    assert kinds(result)[2] in ("Resize", "Upsample")


@pytest.mark.parametrize("case", OTHERS)
def test_any_other_resize_stays(case):
    b = Build()
    x = b.op("Exp", b.input(1, 4, 3, 5))
    result = exact(b.graph(b.op("Softmax", OTHERS[case](b, x), axis=1)))
    assert kinds(result) == ["Exp", "Resize", "Softmax"]


PASSED = {
    "Relu": lambda b, x: b.op("Relu", x),
    "Add a scalar": lambda b, x: b.op("Add", b.some(), x),
    "Mul by channels": lambda b, x: b.op("Mul", x, b.some(1, 4, 1, 1)),
    "Sub from channels": lambda b, x: b.op("Sub", b.some(4, 1, 1), x),
    "Clip": lambda b, x: b.op("Clip", x, b.constant(0.1), b.constant(0.5)),
    "Cast": lambda b, x: b.op("Cast", x, to=6),
    "Softmax": lambda b, x: b.op("Softmax", x, axis=-3),
    "LogSoftmax": lambda b, x: b.op("LogSoftmax", x, axis=1),
    "ArgMax": lambda b, x: b.op("ArgMax", x, axis=1),
    "ArgMin": lambda b, x: b.op("ArgMin", x, axis=-3, select_last_index=1),
    "BatchNormalization": lambda b, x: b.norm(x),
    "QuantizeLinear": lambda b, x: b.op(
        "QuantizeLinear", x, b.some(4), b.constant([0, 1, 2, 3], np.uint8)
    ),
    "FakeQuantize": lambda b, x: b.op(
        *("FakeQuantize", x, b.constant(-1.0), b.some(4, 1, 1), b.constant(-1.0), b.some(1)),
        domain="org.openvinotoolkit",
        opset=1,
        levels=256,
    ),
    "Conv 1×1": lambda b, x: b.conv(x, 3, 1),
    "Conv, padded by pixels": lambda b, x: b.conv(x, 3, 1, pads=(2, 3, 0, 6)),
    "Conv, dilated": lambda b, x: b.conv(x, 6, 3, dilations=(2, 3), pads=(2, 3, 2, 3)),
    "Conv, dilated more": lambda b, x: b.conv(x, 6, 2, dilations=(4, 3), pads=(0, 3, 4, 0)),
    "Conv, depthwise": lambda b, x: b.conv(x, 4, 3, group=4, dilations=(2, 3)),
}
STOPPED = {
    "Mul by rows": lambda b, x: b.op("Mul", x, b.some(1, 1, 6, 1)),
    "Mul by columns": lambda b, x: b.op("Mul", x, b.some(15)),
    "Add another rank": lambda b, x: b.op("Add", x, b.some(2, 1, 1, 1, 1)),
    "Add itself": lambda b, x: b.op("Add", x, x),
    "Softmax along rows": lambda b, x: b.op("Softmax", x, axis=3),
    "Softmax-11": lambda b, x: b.op("Softmax", x, axis=1, opset=11),
    "ArgMax of pictures": lambda b, x: b.op("ArgMax", x),
    "QuantizeLinear by rows": lambda b, x: b.op(
        "QuantizeLinear", x, b.some(6), b.constant([0] * 6, np.uint8), axis=2
    ),
    "Conv": lambda b, x: b.conv(x, 3, 3, pads=(1, 1, 1, 1)),
    "Conv, half dilated": lambda b, x: b.conv(x, 3, 3, dilations=(2, 1), pads=(2, 3, 2, 3)),
    "Conv, dilated, padded between": lambda b, x: b.conv(
        x, 3, 3, dilations=(2, 3), pads=(2, 3, 1, 3)
    ),
    "Conv, strided": lambda b, x: b.conv(x, 3, 1, strides=(2, 3)),
    "MaxPool": lambda b, x: b.op("MaxPool", x, kernel_shape=(2, 3)),
    "ReduceMean": lambda b, x: b.op("ReduceMean", x, b.ints(1)),
}


@pytest.mark.parametrize("case", PASSED)
def test_a_resize_passes(case):
    b = Build()
    y = PASSED[case](b, nearest(b, b.op("Exp", b.input(1, 4, 3, 5)), 2, 3))
    graph = b.graph(y)
    result = optimised(graph)
    assert kinds(result)[-1] == "Resize"
    assert len(result.nodes) == 3
    if not case.startswith("Conv"):  # whose sums NumPy may group by the size of the picture
        exact(graph)


@pytest.mark.parametrize("case", STOPPED)
def test_a_resize_stops_before(case):
    b = Build()
    y = STOPPED[case](b, nearest(b, b.op("Exp", b.input(1, 4, 3, 5)), 2, 3))
    result = exact(b.graph(y))
    assert kinds(result)[:2] == ["Exp", "Resize"]


def test_a_resize_with_other_readers_stays():
    b = Build()
    large = nearest(b, b.op("Exp", b.input(1, 4, 3, 5)), 2, 2)
    assert kinds(exact(b.graph(b.op("Relu", large), b.op("Neg", large))))[1] == "Resize"
    assert kinds(exact(b.graph(b.op("Relu", large), large)))[1] == "Resize"


def test_an_index_without_its_axis():
    b = Build()
    large = nearest(b, b.op("Exp", b.input(2, 4, 3, 5)), 2, 2)
    result = exact(b.graph(b.op("ArgMax", large, axis=1, keepdims=0)))
    assert kinds(result) == ["Exp", "ArgMax", "Resize", "Squeeze"]


def test_two_repeats_are_one_that_passes_a_whole_head():
    b = Build()
    x = nearest(b, b.conv(b.input(1, 4, 3, 5), pads=(1, 1, 1, 1)), 2, 2)
    x = b.norm(b.conv(x, 8, 3, dilations=(2, 2), pads=(2, 2, 2, 2)))
    x = b.conv(b.op("Relu", x), 3, 1)
    result = optimised(b.graph(b.op("Softmax", nearest(b, x, 4, 4), axis=1)))
    assert kinds(result) == ["Conv", "minseg.FusedConv", "Conv", "Softmax", "Resize"]
    scales = result.constants[result.nodes[-1].inputs[2]]
    assert scales.tolist() == [1, 1, 8, 8]


def test_the_same_quantiser_after_a_resize_goes():
    """With 16 bits; integers of 8 are resized themselves."""
    b = Build()
    scale, zero = b.constant(0.1), b.constant(3, np.uint16)
    x = quantiser(b, b.input(1, 4, 6, 6), scale, zero)
    half = b.op("Resize", x, "", "", b.ints(1, 4, 3, 3))
    again = quantiser(b, half, b.constant(0.1), b.constant(3, np.uint16))
    assert kinds(exact(b.graph(again))) == ["minseg.QuantizeDequantize", "Resize"]
    for other in ((0.2, 3, np.uint16), (0.1, 4, np.uint16), (0.1, 3, np.int16)):
        y = quantiser(b, half, b.constant(other[0]), b.constant(*other[1:]))
        assert kinds(exact(b.graph(y))).count("minseg.QuantizeDequantize") == 2
    linear = b.op("Resize", x, "", "", b.ints(1, 4, 3, 3), mode="linear")
    y = quantiser(b, b.op("Neg", linear), scale, zero)
    assert kinds(exact(b.graph(y))).count("minseg.QuantizeDequantize") == 2


MEANS = {
    "linear": {"mode": "linear"},
    "linear, aligned": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    "cubic": {"mode": "cubic"},
}


@pytest.mark.parametrize("case", MEANS)
@pytest.mark.parametrize("axes", [{}, {"axes": (3, 2)}, {"axes": (0, -3, 2, 3)}])
def test_a_pointwise_convolution_comes_before_an_interpolation(case, axes):
    b = Build()
    sizes = b.ints(9, 7) if len(axes.get("axes", ())) == 2 else b.ints(1, 4, 7, 9)
    large = b.op("Resize", b.op("Exp", b.input(1, 4, 3, 5)), "", "", sizes, **MEANS[case], **axes)
    result = optimised(b.graph(b.conv(large, 3, 1)))
    assert kinds(result) == ["Exp", "Conv", "Resize"]
    assert_same_results(b.graph(large), optimize(b.graph(large)))


@pytest.mark.parametrize(
    ("sizes", "channels", "kernel", "attributes"),
    [
        ((7, 9), 5, 1, {}),  # more channels to resize
        ((3, 4), 2, 1, {}),  # more pixels to convolve
        ((7, 9), 2, 3, {}),
        ((7, 9), 2, 1, {"pads": (1, 0, 0, 0)}),
        ((7, 9), 2, 1, {"strides": (2, 2)}),
    ],
)
def test_other_convolutions_stay_after_it(sizes, channels, kernel, attributes):
    b = Build()
    large = b.op("Resize", b.input(1, 4, 3, 5), "", "", b.ints(1, 4, *sizes), mode="linear")
    result = optimised(b.graph(b.conv(large, channels, kernel, **attributes)))
    assert kinds(result) == ["Resize", "Conv"]


def test_an_interpolation_from_outside_the_picture_stays():
    b = Build()
    region = b.constant([0, 0, -0.5, 0, 1, 1, 1, 1], np.float32)
    mode = {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}
    large = b.op("Resize", b.input(1, 4, 3, 5), region, "", b.ints(1, 4, 7, 9), **mode)
    assert kinds(optimised(b.graph(b.conv(large, 3, 1)))) == ["Resize", "Conv"]


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("case", MEANS)
def test_labels_are_made_with_the_picture(case, keepdims):
    b = Build()
    large = b.op(
        "Resize", b.op("Exp", b.input(2, 4, 3, 5)), "", "", b.ints(2, 4, 7, 9), **MEANS[case]
    )
    result = exact(b.graph(b.op("ArgMax", large, axis=-3, keepdims=keepdims)))
    assert kinds(result) == ["Exp", "minseg.ResizeArgMax"]


@pytest.mark.parametrize(
    "label",
    [
        lambda b, x: (b.op("ArgMax", x, axis=1), x),
        lambda b, x: (b.op("ArgMax", x, axis=1), b.op("Neg", x)),
        lambda b, x: (b.op("ArgMax", x, axis=2),),
        lambda b, x: (b.op("ArgMax", x, axis=1, select_last_index=1),),
        lambda b, x: (b.op("ArgMin", x, axis=1),),
    ],
)
def test_other_labels_are_made_after_it(label):
    b = Build()
    large = b.op("Resize", b.input(2, 4, 3, 5), "", "", b.ints(2, 4, 7, 9), mode="linear")
    assert kinds(exact(b.graph(*label(b, large))))[:2] in (
        ["Resize", "ArgMax"],
        ["Resize", "ArgMin"],
    )


@st.composite
def axes_of_convolutions(draw):
    """Factor, kernel, dilation and pads along an axis; every second draw the Resize may pass."""
    factor, kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    unit = factor if draw(st.booleans()) else 1
    dilation, begin, end = (unit * draw(st.integers(low, 2)) for low in (1, 0, 0))
    return factor, kernel, dilation, begin, end


@given(axes_of_convolutions(), axes_of_convolutions())
def test_convolutions_of_any_dilation_keep_their_results(rows, columns):
    b = Build(dtype=np.float64)
    factors, kernels, dilations, begins, ends = zip(rows, columns, strict=True)
    large = nearest(b, b.input(1, 2, 13, 14), *factors)
    weights = b.some(3, 2, *kernels, low=-1, high=1)
    optimised(b.graph(b.op("Conv", large, weights, dilations=dilations, pads=(*begins, *ends))))
