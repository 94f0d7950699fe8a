"""Interpolate, in its three versions, as ONNX's Resize."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minseg.graph.ir_translate import Call, layer
from minseg.graph.ir_weights import Unsupported

#: OpenVINO's modes of sampling and ONNX's. "linear" heeds antialias, "linear_onnx" does not.
_MODES = {"nearest": "nearest", "linear": "linear", "linear_onnx": "linear", "cubic": "cubic"}

#: Modes that sample as Pillow does: a filter as wide as the pixels that it makes one of.
_PILLOW_MODES = {"bilinear_pillow": "linear", "bicubic_pillow": "cubic"}

_COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "asymmetric",
    "align_corners",
    "tf_half_pixel_for_nn",
)

_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple")

#: What OpenVINO adds to a scale before it rounds the size that results down.
_SCALE_MARGIN = 1e-5


@dataclass(frozen=True)
class _Target:
    """Sizes or scales, one for each of ``axes``, and the name of the value that holds them."""

    axes: tuple[int, ...]
    sizes: str = ""
    scales: str = ""


@layer("Interpolate", 1)
def interpolate_1(call: Call) -> str:
    """Coordinates are asymmetric; "nearest" rounds up where it shrinks."""
    mode = call.choice("mode", ("nearest", "linear", "cubic"))
    corners = call.layer.truth("align_corners", True)
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": "align_corners" if corners else "asymmetric",
        "cubic_coeff_a": -0.75,
    }
    axes = tuple(call.axis(axis) for axis in call.layer.integers("axes"))
    value = _padded(call)
    target = _Target(axes, sizes=call.int64_list(1))
    return _resized(call, value, target, attributes, "simple")


@layer("Interpolate", 4)
def interpolate_4(call: Call) -> str:
    by_sizes = call.choice("shape_calculation_mode", ("sizes", "scales")) == "sizes"
    axes = _axes(call, 3)
    value = _padded(call)
    target = _Target(axes, sizes=call.int64_list(1)) if by_sizes else _scaled(call, axes, 2)
    mode = _MODES[call.choice("mode", tuple(_MODES))]
    return _resized(call, value, target, *_sampling(call, mode))


@layer("Interpolate", 11)
def interpolate_11(call: Call) -> str:
    by_sizes = call.choice("shape_calculation_mode", ("sizes", "scales")) == "sizes"
    axes = _axes(call, 2)
    value = _padded(call)
    target = _Target(axes, sizes=call.int64_list(1)) if by_sizes else _scaled(call, axes, 1)
    mode = call.choice("mode", (*_MODES, *_PILLOW_MODES))
    if mode in _MODES:
        return _resized(call, value, target, *_sampling(call, _MODES[mode]))
    attributes: dict[str, Any] = {
        "mode": _PILLOW_MODES[mode],
        "coordinate_transformation_mode": "half_pixel",
        "cubic_coeff_a": call.layer.real("cube_coeff", -0.75),
        "antialias": 1,
        "exclude_outside": 1,
    }
    return _resized(call, value, target, attributes, "floor")


def _axes(call: Call, index: int) -> tuple[int, ...]:
    """The constant input ``index``; every axis where it is left out."""
    if index >= len(call.inputs):
        return tuple(range(call.rank(0)))
    return tuple(call.axis(axis) for axis in call.fixed_ints(index, "axes"))


def _sampling(call: Call, mode: str) -> tuple[dict[str, Any], str]:
    """ONNX's attributes, and OpenVINO's way of rounding for "nearest"."""
    attributes: dict[str, Any] = {
        "mode": mode,
        "coordinate_transformation_mode": call.choice(
            "coordinate_transformation_mode", _COORDINATES, "half_pixel"
        ),
        "cubic_coeff_a": call.layer.real("cube_coeff", -0.75),
    }
    if call.layer.text("mode").lower() == "linear" and call.layer.truth("antialias", False):
        attributes |= {"antialias": 1, "exclude_outside": 1}
    return attributes, call.choice("nearest_mode", _ROUNDINGS, "round_prefer_floor")


def _pad_sizes(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The zeros to put before and behind each axis; axes that are not named get none."""
    rank = call.rank(0)
    begin, end = (
        (call.layer.integers(key, ()) + (0,) * rank)[:rank] for key in ("pads_begin", "pads_end")
    )
    return begin, end


def _padded(call: Call) -> str:
    begin, end = _pad_sizes(call)
    if not any((*begin, *end)):
        return call.inputs[0]
    return call.op("Pad", call.inputs[0], call.ints(*begin, *end), call.number(0))


def _input_size(call: Call, axis: int) -> int | None:
    size = call.shape(0)[axis]
    begin, end = _pad_sizes(call)
    return None if size is None else size + begin[axis] + end[axis]


def _scaled(call: Call, axes: tuple[int, ...], index: int) -> _Target:
    """Scales that give the sizes OpenVINO's own rounding gives."""
    scales = call.fixed(index, "scales").reshape(-1).astype(np.float32)
    if len(scales) != len(axes):
        raise ValueError(f"{len(scales)} scales do not fit {len(axes)} axes")
    exact = [_exact(_input_size(call, a), s) for a, s in zip(axes, scales, strict=True)]
    return _Target(axes, scales=call.keep(exact, np.float32))


def _exact(size: int | None, scale: np.float32) -> np.float32:
    if not size or not math.isfinite(scale):
        return scale
    output = math.floor(size * (float(scale) + _SCALE_MARGIN))
    if math.floor(np.float32(size) * scale) == output:
        return scale
    return np.float32(np.nextafter(np.float32(output / size), np.float32(math.inf)))


def _resized(
    call: Call, value: str, target: _Target, attributes: dict[str, Any], rounding: str
) -> str:
    if attributes["mode"] != "nearest":
        return _resize(call, value, target, attributes)
    if rounding != "simple":
        return _resize(call, value, target, attributes | {"nearest_mode": rounding})
    shrinking = [_shrinks(call, target, i) for i in range(len(target.axes))]
    for nearest_mode, wanted in (("ceil", True), ("floor", False)):
        chosen = [i for i, shrinks in enumerate(shrinking) if shrinks is wanted]
        if chosen:
            part = _part(call, target, chosen)
            value = _resize(call, value, part, attributes | {"nearest_mode": nearest_mode})
    return value


def _shrinks(call: Call, target: _Target, index: int) -> bool:
    """Whether the output is shorter than the input along an axis. Raises Unsupported."""
    if target.scales:
        return bool(call.draft.constants[target.scales][index] < 1)
    axis = target.axes[index]
    size, output = _input_size(call, axis), call.layer.outputs[0].shape[axis]
    if size is None or output is None:
        raise Unsupported("nearest_mode 'simple' on an input or output of unknown size")
    return output < size


def _part(call: Call, target: _Target, chosen: Sequence[int]) -> _Target:
    """The target for some of the axes."""
    if len(chosen) == len(target.axes):
        return target
    axes = tuple(target.axes[i] for i in chosen)
    if target.scales:
        return _Target(axes, scales=call.keep(call.draft.constants[target.scales][chosen]))
    return replace(target, axes=axes, sizes=call.op("Gather", target.sizes, call.ints(*chosen)))


def _resize(call: Call, value: str, target: _Target, attributes: dict[str, Any]) -> str:
    inputs = (value, "", target.scales) + ((target.sizes,) if target.sizes else ())
    return call.op("Resize", *inputs, axes=target.axes, **attributes)
