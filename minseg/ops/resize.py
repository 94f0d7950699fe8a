"""Resize and Upsample, over any number of axes.

They treat one axis after the other: `resized_axes` says how long each becomes, `axis_taps`
which input elements make up each output element, with which weights. Interpolation is float64 and
cast back. The coordinates of mode "nearest" are float32, like the scales they come from, so that
those meant to be whole are whole, as in onnxruntime.

Linear interpolation of integers, which lose their fraction, and of float32, which often is
quantised next, is a matter of the last bit: all is float32 and in onnxruntime's order (`_linear`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.graph.model import Dim, Node, TensorType
from minseg.ops.arguments import checked_dims, checked_shape, normalize_axes
from minseg.ops.dtypes import is_integer, limits
from minseg.ops.registry import Trait, operator
from minseg.ops.types import check_vectors

COORDINATE_MODES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)

#: How far a float32 coordinate may be from the middle of two pixels and still count as in the
#: middle, as in onnxruntime.
TIE = 1e-6

ROUNDINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x.astype(np.float64) - (0.5 + TIE)),
    "round_prefer_ceil": lambda x: np.floor(x.astype(np.float64) + (0.5 + TIE)),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class ResizedAxis:
    """How one axis of a tensor is resized: from ``input`` to ``output`` elements.

    ``roi`` is the part of the axis that is sampled, as fractions (for tf_crop_and_resize only).
    """

    axis: int
    input: int
    output: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def is_identity(self) -> bool:
        return self.input == self.output and self.scale == 1 and self.roi == (0.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """Where and how Resize samples: its attributes, without those that only decide sizes."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    antialias: bool = False
    cubic_coeff_a: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, ("nearest", "linear", "cubic")),
            ("coordinate_transformation_mode", self.coordinates, COORDINATE_MODES),
            ("nearest_mode", self.rounding, tuple(ROUNDINGS)),
        ):
            if value not in known:
                raise ValueError(f"{name} is '{value}'; it must be one of {', '.join(known)}")

    @property
    def is_plain_linear(self) -> bool:
        """Whether two neighbours along each axis decide."""
        plain = self.mode == "linear" and not self.antialias and not self.exclude_outside
        return plain and self.coordinates != "tf_crop_and_resize"


@dataclass(frozen=True)
class AxisTaps:
    """Output element o of an axis is the sum over t of ``weights[t, o] * x[indices[t, o]]``.

    ``weights`` (float64, or float32 of linear interpolation) is None for a plain copy, one tap.
    ``outside`` [output] marks elements that take the extrapolation value instead; None where there
    are none.
    """

    indices: np.ndarray
    weights: np.ndarray | None
    outside: np.ndarray | None = None


def resized_axes(
    shape: Sequence[int],
    *,
    scales: Sequence[float] | np.ndarray | None = None,
    sizes: Sequence[int] | np.ndarray | None = None,
    roi: Sequence[float] | np.ndarray | None = None,
    axes: Sequence[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
) -> list[ResizedAxis]:
    """The axes that Resize names, with their new sizes, for an input of ``shape``.

    Of ``scales`` and ``sizes`` one is given; ``roi`` only under tf_crop_and_resize, all begins,
    then all ends. Raises ValueError where the arguments contradict each other.
    """
    named = _named_axes(axes, len(shape))
    regions = _regions(roi, len(named))
    if scales is not None and sizes is None:
        _check("scales", scales, len(named))
        return [
            _scaled(axis, shape[axis], scale, region)
            for axis, scale, region in zip(named, scales, regions, strict=True)
        ]
    if sizes is None or scales is not None:
        raise ValueError("Resize needs one of scales and sizes")
    _check("sizes", sizes, len(named))
    if any(shape[axis] == 0 and size > 0 for axis, size in zip(named, sizes, strict=True)):
        raise ValueError(f"an input of shape {list(shape)} cannot be resized to {list(sizes)}")
    ratios = [
        float(size / shape[axis]) if size else 1.0 for axis, size in zip(named, sizes, strict=True)
    ]
    outputs = [int(size) for size in sizes]
    if keep_aspect_ratio_policy != "stretch":
        if keep_aspect_ratio_policy not in _POLICIES:
            raise ValueError(f"keep_aspect_ratio_policy is '{keep_aspect_ratio_policy}'")
        ratios = [_POLICIES[keep_aspect_ratio_policy](ratios)] * len(named)
        outputs = [math.floor(r * shape[axis] + 0.5) for axis, r in zip(named, ratios, strict=True)]
    return [
        ResizedAxis(axis, shape[axis], output, ratio, region)
        for axis, output, ratio, region in zip(named, outputs, ratios, regions, strict=True)
    ]


_POLICIES: dict[str, Callable[[list[float]], float]] = {"not_larger": min, "not_smaller": max}


def _named_axes(axes: Sequence[int] | None, rank: int) -> tuple[int, ...]:
    return tuple(range(rank)) if axes is None else normalize_axes(axes, rank)


def _check(name: str, values: Sequence[float] | np.ndarray, count: int) -> None:
    given = [float(v) for v in values]
    if len(given) != count:
        raise ValueError(f"{name} has {len(given)} entries for {count} axes")
    if any(v < 0 or not math.isfinite(v) or (v == 0 and name == "scales") for v in given):
        raise ValueError(f"{name} is {given}; every entry must be finite and positive")


def _regions(roi: Sequence[float] | np.ndarray | None, count: int) -> list[tuple[float, float]]:
    if roi is None:
        return [(0.0, 1.0)] * count
    if len(roi) != 2 * count:
        raise ValueError(f"roi has {len(roi)} entries for {count} axes")
    return [(float(begin), float(end)) for begin, end in zip(roi[:count], roi[count:], strict=True)]


def _scaled(axis: int, size: int, scale: float, roi: tuple[float, float]) -> ResizedAxis:
    """An axis under a scale. The product is float32, as the scale is: 10 * 0.7 gives 7."""
    part = np.float32(size) * np.float32(roi[1] - roi[0])
    output = math.floor(part * np.float32(scale))
    return ResizedAxis(axis, size, output, float(scale), roi)


def sampled_axes(
    node: Node, shape: Sequence[int], constants: Mapping[str, np.ndarray]
) -> list[tuple[ResizedAxis, Sampling]]:
    """The axes that a Resize or Upsample node of any version resizes, for an input of ``shape``,
    and how each is sampled. All inputs but the first are in ``constants``. Raises ValueError
    where they contradict each other.
    """
    get: Any = node.attributes.get
    mode = get("mode", "nearest")
    if node.op == "Upsample" or node.opset < 11:
        axes = resized_axes(shape, scales=get("scales", _constant_input(node, 1, constants)))
        down = "ceil" if node.op == "Resize" and mode == "nearest" else "floor"
        return [(a, Sampling(mode, "asymmetric", down if a.scale < 1 else "floor")) for a in axes]
    sampling = Sampling(
        mode,
        get("coordinate_transformation_mode", "half_pixel"),
        get("nearest_mode", "round_prefer_floor"),
        bool(get("antialias", 0)),
        get("cubic_coeff_a", -0.75),
        bool(get("exclude_outside", 0)),
        get("extrapolation_value", 0.0),
    )
    roi, scales, sizes = (_constant_input(node, i, constants) for i in (1, 2, 3))
    axes = resized_axes(
        shape,
        scales=scales,
        sizes=sizes,
        roi=roi if sampling.coordinates == "tf_crop_and_resize" else None,
        axes=get("axes"),
        keep_aspect_ratio_policy=get("keep_aspect_ratio_policy", "stretch"),
    )
    return [(axis, sampling) for axis in axes]


def _constant_input(
    node: Node, index: int, constants: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """An input's value; None where it is left out or empty."""
    name = node.inputs[index] if index < len(node.inputs) else ""
    array = constants.get(name)
    return array if array is not None and array.size else None


def axis_taps(axis: ResizedAxis, sampling: Sampling) -> AxisTaps:
    """Which elements of ``axis`` each output element is made of (see `AxisTaps`)."""
    if sampling.is_plain_linear:
        return _neighbours(axis, sampling.coordinates)
    nearest = sampling.mode == "nearest"
    x = _coordinates(axis, sampling.coordinates, np.float32 if nearest else np.float64)
    outside = None
    if sampling.coordinates == "tf_crop_and_resize":
        outside = (x < 0) | (x > axis.input - 1)
    if nearest:
        indices, weights = ROUNDINGS[sampling.rounding](x)[None], None
    else:
        stretch = max(1.0, 1.0 / axis.scale) if sampling.antialias else 1.0
        kernel, support = _kernel(sampling)
        reach = math.ceil(support * stretch)
        indices = np.floor(x) + np.arange(1 - reach, reach + 1)[:, None]
        weights = kernel(np.abs(indices - x) / stretch)
        if sampling.exclude_outside:
            weights[(indices < 0) | (indices >= axis.input)] = 0
        if sampling.exclude_outside or sampling.antialias:
            total = weights.sum(0)
            weights = weights / np.where(total == 0, 1, total)
    return AxisTaps(np.clip(indices, 0, axis.input - 1).astype(np.intp), weights, outside)


def _neighbours(axis: ResizedAxis, coordinates: str) -> AxisTaps:
    """The two nearest elements and their float32 weights. A place outside is moved to the edge, of
    which both neighbours are one half."""
    last = axis.input - 1
    place = np.clip(_coordinates(axis, coordinates, np.float32), 0, last)
    low = np.floor(place)
    high = np.minimum(low + 1, last)
    half = np.where(low == high, np.float32(0.5), np.float32(0))
    weights = np.stack([np.abs(place - high) + half, place - low + half])
    return AxisTaps(np.stack([low, high]).astype(np.intp), weights.astype(np.float32))


def _coordinates(axis: ResizedAxis, mode: str, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Where on the input each output element lies, in input elements."""
    o = np.arange(axis.output, dtype=dtype)
    scale = dtype(axis.scale)
    if mode == "align_corners":
        # The last element lies on the last, whatever scale the output's size was rounded from:
        # engines and exporters agree on it, where ONNX's reference keeps the fraction.
        return o * (axis.input - 1) / dtype(axis.output - 1) if axis.output > 1 else o * 0
    if mode == "asymmetric":
        return o / scale
    if mode == "tf_half_pixel_for_nn":
        return (o + dtype(0.5)) / scale
    if mode == "tf_crop_and_resize":
        start, end = (dtype(r) for r in axis.roi)
        if axis.output == 1:
            return o + (start + end) * (axis.input - 1) / 2
        return start * (axis.input - 1) + o * (end - start) * (axis.input - 1) / (axis.output - 1)
    if mode == "pytorch_half_pixel" and axis.output == 1:
        return o * 0
    half_pixel = (o + dtype(0.5)) / scale - dtype(0.5)
    if mode == "half_pixel_symmetric":
        # What rounding took from the length is lost at both ends alike.
        kept = dtype(axis.output) / (scale * dtype(axis.input))
        return half_pixel + dtype(axis.input / 2) * (1 - kept)
    return half_pixel


def _kernel(sampling: Sampling) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """An interpolation kernel of the distance in elements, and the distance where it ends."""
    if sampling.mode == "linear":
        return (lambda d: np.maximum(1 - d, 0)), 1
    return (lambda d: cubic_kernel(d, sampling.cubic_coeff_a)), 2


def cubic_kernel(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, equation 4."""
    d = distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = a * (((d - 5) * d + 8) * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def resample(x: np.ndarray, axes: Sequence[ResizedAxis], sampling: Sampling) -> np.ndarray:
    """``x`` resized along ``axes``."""
    shape = list(x.shape)
    for axis in axes:
        shape[axis.axis] = axis.output
    checked_shape(shape)
    if sampling.is_plain_linear and (is_integer(x.dtype) or x.dtype == np.float32):
        return _linear(x, [a for a in axes if not a.is_identity], sampling)
    y = x if sampling.mode == "nearest" else x.astype(np.float64)
    outside = np.zeros((1,) * x.ndim, bool)
    for axis in axes:
        if axis.is_identity:
            continue
        taps = axis_taps(axis, sampling)
        y = _sum_taps(y, axis.axis, taps)
        if taps.outside is not None:
            outside = outside | _along(taps.outside, axis.axis, x.ndim)
    if outside.any():
        y = np.where(outside, np.asarray(sampling.extrapolation_value, y.dtype), y)
    return _cast_back(y, x.dtype)


def _along(v: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """A vector shaped to broadcast along ``axis``."""
    return v.reshape(-1, *(1,) * (rank - 1 - axis))


def _sum_taps(x: np.ndarray, axis: int, taps: AxisTaps) -> np.ndarray:
    if taps.weights is None:
        return x.take(taps.indices[0], axis)
    y: Any = 0.0
    for indices, weights in zip(taps.indices, taps.weights, strict=True):
        y = y + x.take(indices, axis) * _along(weights, axis, x.ndim)
    return np.asarray(y)


def _cast_back(y: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if is_integer(dtype) and y.dtype != dtype:
        y = np.clip(np.trunc(y), *limits(dtype))
    return y.astype(dtype)


def _linear(x: np.ndarray, axes: Sequence[ResizedAxis], sampling: Sampling) -> np.ndarray:
    """Between the two nearest along each axis, those of the last axis first. The weights of a place
    are multiplied before its element is."""
    taps = [axis_taps(axis, sampling) for axis in axes]
    y: Any = np.float32(0)
    for chosen in itertools.product((0, 1), repeat=len(axes)):
        term, weight = x, np.ones((), np.float32)
        for axis, tap, side in zip(axes, taps, chosen, strict=True):
            assert tap.weights is not None
            term = term.take(tap.indices[side], axis.axis)
            weight = weight * _along(tap.weights[side], axis.axis, x.ndim)
        y = y + weight * term.astype(np.float32)
    return _cast_back(y, x.dtype)


def _value(x: TensorType | None) -> np.ndarray | None:
    """An input's value where it is there and known; opset 11 leaves one out by making it empty."""
    return None if x is None or x.value is None or x.value.size == 0 else x.value


def _infer_resize(
    x: TensorType,
    roi: TensorType | None = None,
    scales: TensorType | None = None,
    sizes: TensorType | None = None,
    *,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    **_: Any,
) -> TensorType:
    Sampling(mode, coordinate_transformation_mode, nearest_mode)
    check_vectors(None, scales=scales, sizes=sizes)
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    region, by_scale, by_size = _value(roi), _value(scales), _value(sizes)
    stretch = by_size is not None and keep_aspect_ratio_policy == "stretch"
    if x.shape is None:
        known = by_size is not None and stretch and axes is None
        return TensorType(x.dtype, tuple(int(n) for n in by_size) if known else None)  # type: ignore[union-attr]
    dims: list[Dim] = list(x.shape)
    named = _named_axes(axes, len(dims))
    new: Sequence[Dim] = (None,) * len(named)
    if stretch and by_size is not None:
        _check("sizes", by_size, len(named))
        new = [int(n) for n in by_size]
    elif by_scale is not None and (region is not None or not crops):
        _check("scales", by_scale, len(named))
        regions = _regions(region if crops else None, len(named))
        new = [
            _scaled_dim(dims[axis], float(scale), part)
            for axis, scale, part in zip(named, by_scale, regions, strict=True)
        ]
    elif by_size is not None and all(isinstance(dims[axis], int) for axis in named):
        sizes_known: Any = x.shape
        policy = keep_aspect_ratio_policy
        resized = resized_axes(
            sizes_known, sizes=by_size, axes=axes, keep_aspect_ratio_policy=policy
        )
        new = [a.output for a in resized]
    for axis, dim in zip(named, new, strict=True):
        dims[axis] = dim
    return TensorType(x.dtype, checked_dims(dims))


def _scaled_dim(dim: Dim, scale: float, roi: tuple[float, float]) -> Dim:
    if isinstance(dim, int):
        return _scaled(0, dim, scale, roi).output
    return dim if scale == 1 and roi == (0.0, 1.0) else None


def _check_sampling(node: Node) -> str | None:
    get: Any = node.attributes.get
    try:
        Sampling(
            get("mode", "nearest"),
            get("coordinate_transformation_mode", "half_pixel"),
            get("nearest_mode", "round_prefer_floor"),
        )
    except ValueError as error:
        return str(error)
    return None


@operator(
    "Resize", since=11, infer=_infer_resize, check=_check_sampling, traits=Trait.MOVES | Trait.MIXES
)
def resize(
    x: np.ndarray,
    roi: np.ndarray | None = None,
    scales: np.ndarray | None = None,
    sizes: np.ndarray | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> np.ndarray:
    """``x`` resized by ``scales`` or to ``sizes`` (an empty one counts as left out).

    A length that a scale makes fractional stays so in half_pixel_symmetric only.
    """
    sampling = Sampling(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        bool(antialias),
        cubic_coeff_a,
        bool(exclude_outside),
        extrapolation_value,
    )
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    if crops and roi is None:
        raise ValueError("coordinate_transformation_mode tf_crop_and_resize needs the input roi")
    resized = resized_axes(
        x.shape,
        scales=scales if scales is not None and scales.size else None,
        sizes=sizes if sizes is not None and sizes.size else None,
        roi=roi if crops else None,
        axes=axes,
        keep_aspect_ratio_policy=keep_aspect_ratio_policy,
    )
    return resample(x, resized, sampling)


def _infer_scaled(x: TensorType, scales: TensorType, *, mode: str = "nearest") -> TensorType:
    return _infer_resize(x, None, scales, mode=mode)


@operator(
    "Resize", since=10, infer=_infer_scaled, check=_check_sampling, traits=Trait.MOVES | Trait.MIXES
)
def resize_10(x: np.ndarray, scales: np.ndarray, *, mode: str = "nearest") -> np.ndarray:
    """``x`` resized by ``scales``, the first corners aligned.

    "nearest" rounds down where an axis grows and up where it shrinks, as onnxruntime.
    """
    if mode != "nearest":
        return upsample_9(x, scales, mode=mode)
    y = x
    for axis in resized_axes(x.shape, scales=scales):
        rounding = "ceil" if axis.scale < 1 else "floor"
        y = resample(y, [axis], Sampling(mode, "asymmetric", rounding))
    return y


@operator(
    "Upsample",
    since=9,
    infer=_infer_scaled,
    check=_check_sampling,
    traits=Trait.MOVES | Trait.MIXES,
)
def upsample_9(x: np.ndarray, scales: np.ndarray, *, mode: str = "nearest") -> np.ndarray:
    """``x`` resized by ``scales``, each at least 1, the first corners aligned."""
    return resample(x, resized_axes(x.shape, scales=scales), Sampling(mode, "asymmetric", "floor"))


def _infer_upsample_7(
    x: TensorType, *, scales: Sequence[float], mode: str = "nearest"
) -> TensorType:
    return _infer_scaled(x, TensorType.of(np.asarray(scales, np.float32)), mode=mode)


@operator(
    "Upsample",
    since=7,
    infer=_infer_upsample_7,
    check=_check_sampling,
    traits=Trait.MOVES | Trait.MIXES,
)
def upsample_7(x: np.ndarray, *, scales: Sequence[float], mode: str = "nearest") -> np.ndarray:
    """As `upsample_9`, with ``scales`` an attribute."""
    return upsample_9(x, np.asarray(scales, np.float32), mode=mode)
