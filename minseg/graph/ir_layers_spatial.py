"""Layers on [N, C, *spatial]: convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from minseg.graph.ir_quantised import reshape_weights
from minseg.graph.ir_translate import Call, layer
from minseg.graph.ir_weights import Unsupported, layer_dtype

_AUTO_PADS = {
    "explicit": "NOTSET",
    "notset": "NOTSET",
    "valid": "VALID",
    "same_upper": "SAME_UPPER",
    "same_lower": "SAME_LOWER",
}

#: The largest matrix of averaging weights that AdaptiveAvgPool is written with.
_MAX_MATRIX = 1 << 22


def _strides(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Strides and dilations along the spatial axes, all of them positive."""
    spatial = call.rank(0) - 2
    strides = call.layer.integers("strides", count=spatial)
    dilations = call.layer.integers("dilations", (1,) * spatial, count=spatial)
    if any(v < 1 for v in (*strides, *dilations)):
        raise ValueError(f"strides {strides} and dilations {dilations} must be positive")
    return strides, dilations


def _pads(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    spatial = call.rank(0) - 2
    zeros = (0,) * spatial
    begin = call.layer.integers("pads_begin", zeros, count=spatial)
    return begin, call.layer.integers("pads_end", zeros, count=spatial)


def _auto_pad(call: Call) -> str:
    return _AUTO_PADS[call.choice("auto_pad", tuple(_AUTO_PADS), "explicit")]


def _window(call: Call) -> dict[str, Any]:
    """Strides, dilations and padding as ONNX attributes."""
    strides, dilations = _strides(call)
    window: dict[str, Any] = {"strides": strides, "dilations": dilations}
    auto_pad = _auto_pad(call)
    if auto_pad != "NOTSET":
        return window | {"auto_pad": auto_pad}
    begin, end = _pads(call)
    return window | {"pads": (*begin, *end)}


def _sizes(call: Call, index: int, what: str) -> tuple[int, ...]:
    """The sizes of an input behind its first two axes, all known. Raises Unsupported."""
    sizes = tuple(d for d in call.shape(index)[2:] if d is not None)
    if len(sizes) != call.rank(index) - 2:
        raise Unsupported(f"the size of its {what} must be known")
    return sizes


@layer("Convolution", 1)
def convolution(call: Call) -> str:
    return call.op("Conv", *call.inputs[:2], **_window(call))


def _merge_groups(call: Call) -> tuple[str, int]:
    """Weights [G, a, b, *kernel] as ONNX has them, [G * a, b, *kernel], and how many groups."""
    if call.rank(1) != call.rank(0) + 1:
        raise ValueError(f"its weights have {call.rank(1)} dimensions, not {call.rank(0) + 1}")
    shape = tuple(d for d in call.shape(1) if d is not None)
    if len(shape) < call.rank(1):
        raise Unsupported("the size of its weights must be known")
    return reshape_weights(call, 1, (shape[0] * shape[1], *shape[2:])), shape[0]


@layer("GroupConvolution", 1)
def group_convolution(call: Call) -> str:
    weights, groups = _merge_groups(call)
    return call.op("Conv", call.inputs[0], weights, group=groups, **_window(call))


@layer("ConvolutionBackpropData", 1)
def convolution_backprop_data(call: Call) -> str:
    return _transposed(call, call.inputs[1], 1, _sizes(call, 1, "weights"))


@layer("GroupConvolutionBackpropData", 1)
def group_convolution_backprop_data(call: Call) -> str:
    weights, groups = _merge_groups(call)
    return _transposed(call, weights, groups, _sizes(call, 1, "weights")[1:])


def _transposed(call: Call, weights: str, groups: int, kernel: Sequence[int]) -> str:
    strides, dilations = _strides(call)
    spatial = len(strides)
    begin, end = _pads(call) if _auto_pad(call) == "NOTSET" else ((0,) * spatial, (0,) * spatial)
    extra = call.layer.integers("output_padding", (0,) * spatial, count=spatial)
    if len(call.inputs) > 2:
        begin, end, extra = _pads_for_output(call, kernel, begin, extra)
    return call.op(
        "ConvTranspose",
        call.inputs[0],
        weights,
        strides=strides,
        dilations=dilations,
        group=groups,
        pads=(*begin, *end),
        output_padding=extra,
    )


_Ints: TypeAlias = "tuple[int, ...]"


def _pads_for_output(
    call: Call, kernel: Sequence[int], begin: Sequence[int], extra: Sequence[int]
) -> tuple[_Ints, _Ints, _Ints]:
    """Begin and end of the padding, and output padding, for the size that input 2 asks for.

    Only how much is cut off at the begin is the layer's choice: what auto_pad says. The end
    follows from the size.
    """
    outputs = call.fixed_ints(2, "output shape")
    rounding = {"SAME_UPPER": 1, "SAME_LOWER": 0}.get(_auto_pad(call))
    result = []
    axes = zip(
        _sizes(call, 0, "input"), *_strides(call), kernel, outputs, begin, extra, strict=True
    )
    for size, stride, dilation, taps, output, first, beyond in axes:
        full = stride * (size - 1) + dilation * (taps - 1) + 1
        if rounding is not None:
            first = max((full + beyond - output + rounding) // 2, 0)
        last = full - first - output
        result.append((first, max(last, 0), max(-last, 0)))
    first_pads, last_pads, output_padding = zip(*result, strict=True)
    return first_pads, last_pads, output_padding


def _pool_window(call: Call, counts_padding: bool = False) -> dict[str, Any]:
    """The window of a pool; rounding up is written as more padding where the size is known."""
    strides, dilations = _strides(call)
    window = _window(call)
    if window.get("auto_pad") == "VALID":
        window = {"strides": strides, "dilations": dilations, "pads": (0,) * 2 * len(strides)}
    kernel = call.layer.integers("kernel", count=len(strides))
    window["kernel_shape"] = kernel
    rounding = call.choice("rounding_type", ("floor", "ceil", "ceil_torch"), "floor")
    if rounding == "floor" or "auto_pad" in window:
        return window
    pads = window["pads"]
    begin, end = pads[: len(kernel)], pads[len(kernel) :]
    extents = [dilation * (taps - 1) + 1 for dilation, taps in zip(dilations, kernel, strict=True)]
    rounds = list(zip(call.shape(0)[2:], begin, end, extents, strides, strict=True))
    known = [(size, *rest) for size, *rest in rounds if size is not None]
    if len(known) == len(rounds):
        ends = [_end_rounded_up(rounding == "ceil_torch", *axis) for axis in known]
        return window | {"pads": (*begin, *ends)}
    may_hang_over = any(pad + stride > extent for _, _, pad, extent, stride in rounds)
    if counts_padding or (rounding == "ceil" and may_hang_over):
        raise Unsupported(f"rounding_type '{rounding}' on an input of unknown size")
    return window | {"ceil_mode": 1}


def _end_rounded_up(torch: bool, size: int, begin: int, end: int, extent: int, stride: int) -> int:
    """The padding at the end that a window begun before the end wants.

    As in PyTorch (``torch``) no window starts in the padding at the end.
    """
    steps = -(-(size + begin + end - extent) // stride)
    if torch and steps * stride >= size + begin:
        steps -= 1
    return max(steps * stride + extent - size - begin, end)


@layer("MaxPool", 1, 8, 14)
def max_pool(call: Call) -> str | tuple[str, ...]:
    window = _pool_window(call)
    if len(call.layer.outputs) < 2 or not call.used[1]:
        values = call.op("MaxPool", call.inputs[0], **window)
        return (values, "")[: len(call.layer.outputs)]
    if call.layer.integer("axis", 0) != 0:
        raise Unsupported("its second output is supported with axis 0 only")
    values, indices = call.ops("MaxPool", call.inputs[0], outputs=2, **window)
    dtype = np.dtype(np.int64)
    if "index_element_type" in call.layer.data:
        dtype = layer_dtype(call.layer, "index_element_type")
    return values, call.cast(indices, dtype)


@layer("AvgPool", 1, 14, 16)
def avg_pool(call: Call) -> str:
    auto_pad = _auto_pad(call)
    padded = any(sum(_pads(call), ())) if auto_pad == "NOTSET" else auto_pad != "VALID"
    counts_padding = padded and not call.layer.truth("exclude-pad")
    window = _pool_window(call, counts_padding)
    return call.op("AveragePool", call.inputs[0], count_include_pad=int(counts_padding), **window)


@layer("AdaptiveAvgPool", 8)
def adaptive_avg_pool(call: Call) -> str:
    """One product with a matrix of averaging weights along each axis that has no equal windows."""
    sizes = _sizes(call, 0, "input")
    outputs = call.fixed_ints(1, "output size")
    if len(outputs) != len(sizes) or any(v < 1 for v in (*sizes, *outputs)):
        raise ValueError(f"sizes {sizes} cannot be pooled to {outputs}")
    if all(size % output == 0 for size, output in zip(sizes, outputs, strict=True)):
        kernel = tuple(size // output for size, output in zip(sizes, outputs, strict=True))
        return call.op("AveragePool", call.inputs[0], kernel_shape=kernel, strides=kernel)
    value = call.inputs[0]
    rank = call.rank(0)
    for axis, (size, output) in enumerate(zip(sizes, outputs, strict=True), 2):
        matrix = call.keep(_averaging(size, output), call.dtype(0))
        if axis == rank - 1:
            value = call.op("MatMul", value, matrix)
            continue
        swapped = tuple({axis: rank - 1, rank - 1: axis}.get(a, a) for a in range(rank))
        product = call.op("MatMul", call.op("Transpose", value, perm=swapped), matrix)
        value = call.op("Transpose", product, perm=swapped)
    return value


def _averaging(size: int, output: int) -> np.ndarray:
    """[size, output]: column o averages from floor(o·size/output) to ceil((o+1)·size/output)."""
    if size * output > _MAX_MATRIX:
        raise Unsupported(f"pooling {size} elements to {output} needs too large a table")
    position, o = np.arange(size)[:, None], np.arange(output)
    first, end = o * size // output, -(-(o + 1) * size // output)
    return ((position >= first) & (position < end)) / (end - first)
