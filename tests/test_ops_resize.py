"""Resize, Upsample, GridSample, AffineGrid against loops over pixels, onnxruntime and PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from operator_calls import call, call_onnxruntime

from minseg.errors import MinsegError, ModelError
from minseg.graph.model import Node, TensorType
from minseg.ops.evaluate import run_node
from minseg.ops.infer import infer_node
from minseg.ops.resize import COORDINATE_MODES, ROUNDINGS

SMOOTH_MODES = [
    m for m in COORDINATE_MODES if m not in ("tf_half_pixel_for_nn", "tf_crop_and_resize")
]
#: Sums of two halves, so that float32 and float64 coordinates round alike.
SCALES = st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0])


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(result: np.ndarray, expected: np.ndarray) -> None:
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(result, expected)


def close(result: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    """Equal but for a rounding to float32, of sums of numbers around 1."""
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@st.composite
def scaled(draw: st.DrawFn) -> tuple[np.ndarray, list[int], list[float]]:
    """An input of rank 1 to 3, the sizes and the scales it is resized to."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    scales = [draw(SCALES) if n > 3 else draw(SCALES.filter(lambda s: s >= 1)) for n in shape]
    sizes = [int(n * s) for n, s in zip(shape, scales, strict=True)]
    return normal(*shape), sizes, scales


@given(scaled(), st.sampled_from(SMOOTH_MODES), st.sampled_from(sorted(ROUNDINGS)))
def test_nearest(case: Any, coordinates: str, rounding: str) -> None:
    x, sizes, scales = case
    if coordinates == "half_pixel_symmetric":
        # It also multiplies by size / scaled size, which is 1 only where the scaled size is whole.
        assume(all(n * s == size for n, s, size in zip(x.shape, scales, sizes, strict=True)))
    result = call(
        "Resize", x, None, np.float32(scales),
        coordinate_transformation_mode=coordinates, nearest_mode=rounding,
    )  # fmt: skip
    expected = oracles.resize(x, sizes, scales, "nearest", coordinates, rounding)
    same(result, expected.astype(np.float32))


@given(
    scaled(),
    st.sampled_from(["linear", "cubic"]),
    st.sampled_from(SMOOTH_MODES),
    st.booleans(),
    st.booleans(),
    st.sampled_from([-0.75, -0.5]),
)
def test_interpolation_by_scales(
    case: Any, mode: str, coordinates: str, antialias: bool, exclude: bool, a: float
) -> None:
    x, sizes, scales = case
    result = call(
        "Resize", x, None, np.float32(scales), mode=mode,
        coordinate_transformation_mode=coordinates, antialias=int(antialias),
        exclude_outside=int(exclude), cubic_coeff_a=a,
    )  # fmt: skip
    close(
        result, oracles.resize(x, sizes, scales, mode, coordinates, "", antialias, a, exclude), 1e-5
    )


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.data(),
    st.sampled_from(["linear", "cubic"]),
    st.sampled_from(SMOOTH_MODES),
    st.booleans(),
)
def test_interpolation_to_sizes(
    shape: list[int], data: st.DataObject, mode: str, coordinates: str, antialias: bool
) -> None:
    x = normal(*shape)
    sizes = [data.draw(st.integers(1, 9)) for _ in shape]
    scales = [size / n for size, n in zip(sizes, shape, strict=True)]
    result = call(
        "Resize", x, None, None, np.array(sizes), mode=mode,
        coordinate_transformation_mode=coordinates, antialias=int(antialias),
    )  # fmt: skip
    close(result, oracles.resize(x, sizes, scales, mode, coordinates, "", antialias), 1e-5)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=2),
    st.data(),
    st.sampled_from(["nearest", "linear", "cubic"]),
)
def test_crop_and_resize(shape: list[int], data: st.DataObject, mode: str) -> None:
    x = normal(*shape)
    sizes = [data.draw(st.integers(1, 7)) for _ in shape]
    places = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0, 1.5])
    roi = [data.draw(places) for _ in range(2 * len(shape))]
    result = call(
        "Resize", x, np.float32(roi), None, np.array(sizes), mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=7.5,
    )  # fmt: skip
    scales = [size / n for size, n in zip(sizes, shape, strict=True)]
    expected = oracles.resize(
        x, sizes, scales, mode, "tf_crop_and_resize", roi=roi, extrapolation_value=7.5
    )
    assert (result.shape, result.dtype) == (expected.shape, np.float32)
    # Where (end - start) * (size - 1) / (resized - 1) is inexact, float32 decides on the border.
    if mode == "nearest":
        assert np.isin(result, [*x.ravel(), np.float32(7.5)]).all()
    else:
        close(result, expected, 1e-5)


@pytest.mark.parametrize("coordinates", [*SMOOTH_MODES, "tf_half_pixel_for_nn"])
@pytest.mark.parametrize("rounding", sorted(ROUNDINGS))
def test_nearest_chooses_onnxruntimes_pixels(coordinates: str, rounding: str) -> None:
    """Ties included, for every pair of sizes: both compute coordinates in float32."""
    if (coordinates, rounding) == ("half_pixel_symmetric", "floor"):
        pytest.skip("onnxruntime's float32 falls just below whole coordinates here")
    attributes = {"coordinate_transformation_mode": coordinates, "nearest_mode": rounding}
    opset = {"tf_half_pixel_for_nn": 11, "half_pixel_symmetric": 19}.get(coordinates, 13)
    for size in (1, 2, 3, 5, 7, 10):
        x = np.arange(size, dtype=np.float32).reshape(1, 1, 1, size)
        for resized in (1, 2, 3, 4, 6, 7, 9, 13, 21):
            sizes = np.array([1, 1, 1, resized])
            empty = np.zeros(0, np.float32) if opset == 11 else None
            inputs = (x, empty, empty, sizes)
            expected = call_onnxruntime("Resize", *inputs, opset=opset, **attributes)
            same(call("Resize", *inputs, opset=opset, **attributes), expected)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("coordinates", SMOOTH_MODES)
@pytest.mark.parametrize("antialias", [0, 1])
def test_interpolation_agrees_with_onnxruntime(mode: str, coordinates: str, antialias: int) -> None:
    x = normal(1, 2, 9, 11)
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates}
    for h, w in ((18, 22), (5, 4), (9, 30), (7, 11), (1, 3)):
        sizes = np.array([1, 2, h, w])
        inputs = (x, None, None, sizes)
        expected = call_onnxruntime("Resize", *inputs, opset=19, antialias=antialias, **attributes)
        result = call("Resize", *inputs, antialias=antialias, **attributes)
        assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("shape", [(9,), (7, 9), (5, 6, 7)])
@pytest.mark.parametrize("scale", [0.5, 0.7, 1.3, 1.5, 2.3])
def test_corners_are_those_of_the_rounded_size(
    mode: str, shape: tuple[int, ...], scale: float
) -> None:
    """As onnxruntime and PyTorch have them; ONNX's reference aligns the size before rounding."""
    x = normal(1, 2, *shape)
    scales = np.float32([1, 1, *[scale] * len(shape)])
    attributes = {"mode": mode, "coordinate_transformation_mode": "align_corners"}
    result = call("Resize", x, None, scales, **attributes)
    if mode == "cubic" and len(shape) != 2:
        expected = oracles.resize(x, list(result.shape), list(scales), mode, "align_corners")
    else:
        expected = call_onnxruntime("Resize", x, None, scales, opset=17, **attributes)
    assert result.shape[2:] == tuple(int(n * scale) for n in shape)
    close(result, expected.astype(np.float32), 1e-5)
    torch = pytest.importorskip("torch")
    kind = {"linear": ("linear", "bilinear", "trilinear")[len(shape) - 1], "cubic": "bicubic"}
    if mode == "linear" or (mode, len(shape)) == ("cubic", 2):
        resized = torch.nn.functional.interpolate(
            torch.from_numpy(x), scale_factor=scale, mode=kind[mode], align_corners=True
        )
        close(result, resized.numpy(), 1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_interpolation_agrees_with_pytorch(align_corners: bool, mode: str) -> None:
    torch = pytest.importorskip("torch")
    x = normal(2, 3, 8, 5)
    for size in ((16, 10), (3, 7), (5, 5), (8, 1)):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(x), size, mode=mode, align_corners=align_corners
        ).numpy()
        result = call(
            "Resize", x, None, None, np.array([2, 3, *size]), mode=mode[2:],
            coordinate_transformation_mode="align_corners" if align_corners else "half_pixel",
        )  # fmt: skip
        close(result, expected, 2e-5)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
def test_keep_aspect_ratio(policy: str) -> None:
    x = normal(1, 3, 6, 9)
    sizes = np.array([10, 12])
    result = call(
        "Resize", x, None, None, sizes, axes=(-2, 3), mode="linear", keep_aspect_ratio_policy=policy
    )
    scale = (min if policy == "not_larger" else max)(10 / 6, 12 / 9)
    shape = [1, 3, int(6 * scale + 0.5), int(9 * scale + 0.5)]
    close(result, oracles.resize(x, shape, [1, 1, scale, scale], "linear"), 1e-5)


def test_axes_in_any_order_are_resized_and_others_stay() -> None:
    x = normal(2, 4, 3, 5)
    result = call("Resize", x, None, np.float32([2, 0.5]), axes=(3, 1), mode="linear")
    close(result, oracles.resize(x, [2, 2, 3, 10], [1, 0.5, 1, 2], "linear"))


def test_sizes_by_scales_are_products_in_float32() -> None:
    assert call("Resize", normal(10), None, np.float32([0.7])).shape == (7,)
    assert call("Resize", normal(480), None, np.float32([1 / 3])).shape == (160,)


@pytest.mark.parametrize("opset", [7, 8, 9])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(opset: int, mode: str) -> None:
    x = normal(1, 2, 3, 4)
    scales = np.float32([1, 1, 2, 1.5])
    if opset < 9:
        scales_as: dict[str, Any] = {"scales": tuple(float(s) for s in scales)}
        result = call("Upsample", x, opset=opset, mode=mode, **scales_as)
        expected = call_onnxruntime("Upsample", x, opset=opset, mode=mode, **scales_as)
    else:
        result = call("Upsample", x, scales, opset=opset, mode=mode)
        expected = call_onnxruntime("Upsample", x, scales, opset=opset, mode=mode)
    by_loops = oracles.resize(x, [1, 2, 6, 6], scales.tolist(), mode, "asymmetric", "floor")
    close(result, by_loops)
    close(result, expected)


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.7, 1.5, 2.0, 2.3])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_resize_10(scale: float, mode: str) -> None:
    x, scales = normal(1, 2, 7, 9), np.float32([1, 1, scale, 2])
    result = call("Resize", x, scales, opset=10, mode=mode)
    close(result, call_onnxruntime("Resize", x, scales, opset=10, mode=mode))


def test_integers_lose_their_fraction_and_are_saturated() -> None:
    x = np.array([0, 255, 255, 0, 0], np.uint8)
    result = call("Resize", x, None, np.float32([2]), mode="cubic")
    exact = oracles.resize(x, [10], [2.0], "cubic")
    assert exact.min() < 0
    assert exact.max() > 255
    same(result, np.clip(np.trunc(exact), 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("sizes", [(14, 18), (5, 31), (1, 7), (23, 4), (21, 27)])
def test_integers_between_neighbours_are_onnxruntimes(
    sizes: tuple[int, int], dtype: Any, coordinates: str
) -> None:
    """Bit by bit, also where both neighbours are one number and its fraction is an error."""
    rng = np.random.default_rng(sizes)
    x = rng.integers(0, 256, (1, 3, 7, 9)).astype(dtype)
    x[0, 0] = 77
    inputs = (x, None, None, np.array([1, 3, *sizes]))
    attributes = {"mode": "linear", "coordinate_transformation_mode": coordinates}
    same(
        call("Resize", *inputs, **attributes),
        call_onnxruntime("Resize", *inputs, opset=13, **attributes),
    )


@pytest.mark.parametrize("dtype", [bool, object, np.int64, np.float16])
def test_nearest_copies_any_type(dtype: Any) -> None:
    x = np.array([0, 1, 2**10], dtype)
    same(call("Resize", x, None, np.float32([2])), x.repeat(2))


def test_nan_reaches_only_what_it_interpolates() -> None:
    x = normal(1, 8)
    x[0, 4] = np.nan
    result = call("Resize", x, None, np.float32([1, 2]), mode="linear")
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result[0])), [7, 8, 9, 10])


@pytest.mark.parametrize(
    ("inputs", "attributes", "said"),
    [
        ((None, None, None), {}, "one of scales and sizes"),
        ((None, np.float32([1, 1]), np.array([2, 2])), {}, "one of scales and sizes"),
        ((None, np.float32([1])), {}, "scales has 1 entries for 2 axes"),
        ((None, np.float32([1, -1])), {}, "finite and positive"),
        ((None, np.float32([1, np.nan])), {}, "finite and positive"),
        ((None, np.float32([1, 1e12])), {}, "larger than minseg allows"),
        ((None, None, np.array([2, 2**40])), {}, "larger than minseg allows"),
        ((None, np.float32([2])), {"axes": (2,)}, "axis 2"),
        ((None, np.float32([2, 2])), {"axes": (0, -2)}, "twice"),
        ((None, np.float32([2, 2])), {"mode": "lanczos"}, "lanczos"),
        ((None, np.float32([2, 2])), {"coordinate_transformation_mode": "x"}, "'x'"),
        ((None, np.float32([2, 2])), {"nearest_mode": "up"}, "'up'"),
        ((None, None, np.array([2, 2])), {"keep_aspect_ratio_policy": "max"}, "'max'"),
        (
            (None, np.float32([2, 2])),
            {"coordinate_transformation_mode": "tf_crop_and_resize"},
            "needs the input roi",
        ),
    ],
)
def test_contradictions_are_named(inputs: Any, attributes: Any, said: str) -> None:
    names = tuple("" if x is None else f"x{i}" for i, x in enumerate((0, *inputs)))
    node = Node("up", "Resize", names, ("y",), attributes, opset=19)
    with pytest.raises(MinsegError, match="'up'.*" + said):
        run_node(node, [normal(3, 4), *inputs], {})


def test_unknown_sizes() -> None:
    x = TensorType(np.dtype(np.float32), ("N", 3, None, 5))
    scales = TensorType.of(np.float32([1, 1, 2, 2]))
    node = Node("up", "Resize", ("x", "", "s"), ("y",), {}, opset=13)
    (y,) = infer_node(node, {"x": x, "s": scales})
    assert y.shape == ("N", 3, None, 10)
    (y,) = infer_node(node, {"x": x, "s": TensorType(np.dtype(np.float32), (4,))})
    assert y.shape == (None, None, None, None)
    node = Node("up", "Resize", ("x", "", "", "s"), ("y",), {}, opset=13)
    (y,) = infer_node(node, {"x": x, "s": TensorType.of(np.array([1, 3, 8, 9]))})
    assert y.shape == (1, 3, 8, 9)
    with pytest.raises(ModelError, match="sizes has 1 entries"):
        infer_node(node, {"x": x, "s": TensorType.of(np.array([1]))})


# GridSample and AffineGrid


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("spatial", [(4, 5), (3, 4, 2)])
def test_grid_sample_agrees_with_pytorch(
    mode: str, padding: str, align_corners: int, spatial: tuple[int, ...]
) -> None:
    torch = pytest.importorskip("torch")
    if mode == "cubic" and len(spatial) == 3:
        pytest.skip("PyTorch has no tricubic sampling")
    x = normal(2, 3, *spatial)
    grid = np.random.default_rng(1).uniform(
        -2.5, 2.5, (2, 3, 7, *(4,) * (len(spatial) - 2), len(spatial))
    )
    grid = grid.astype(np.float32)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(x), torch.from_numpy(grid), align_corners=bool(align_corners),
        mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode), padding_mode=padding,
    ).numpy()  # fmt: skip
    attributes = {"padding_mode": padding, "align_corners": align_corners}
    close(call("GridSample", x, grid, mode=mode, **attributes), expected, 2e-5)
    older = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    close(call("GridSample", x, grid, opset=16, mode=older, **attributes), expected, 2e-5)


def test_grid_sample_along_one_axis() -> None:
    x = np.array([[[1.0, 2, 4]]], np.float32)
    grid = np.array([[[-1.0], [0.5], [1.0], [3.0]]], np.float32)
    same(call("GridSample", x, grid, align_corners=1), np.float32([[[1, 3, 4, 0]]]))


def test_a_grid_that_does_not_fit_is_refused() -> None:
    node = Node("n", "GridSample", ("x", "grid"), ("y",), {}, opset=20)
    for shape in ((1, 2, 2, 3), (1, 2, 2), (2, 4, 4, 2)):
        with pytest.raises(ModelError):
            run_node(node, [normal(1, 1, 4, 4), normal(*shape)], {})


@pytest.mark.parametrize("align_corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 1, 3, 4), (1, 2, 2, 3, 4)])
def test_affine_grid_agrees_with_pytorch(align_corners: int, size: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    rank = len(size) - 2
    theta = normal(size[0], rank, rank + 1)
    expected = torch.nn.functional.affine_grid(
        torch.from_numpy(theta), size, align_corners=bool(align_corners)
    ).numpy()
    close(call("AffineGrid", theta, np.array(size), align_corners=align_corners), expected)
