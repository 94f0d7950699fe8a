"""Layers that look along axes: reductions, TopK, SoftMax, normalisations, MatMul."""

from __future__ import annotations

from functools import partial

import numpy as np

from minseg.graph.ir_translate import Call, layer
from minseg.graph.ir_weights import Unsupported, layer_dtype

_REDUCTIONS = ("Sum", "Max", "Min", "Prod", "L1", "L2")


def _reduce(op: str, call: Call) -> str:
    return _reduced(call, op, call.inputs[0])


def _reduced(call: Call, op: str, value: str) -> str:
    """Without axes nothing is reduced."""
    keep = call.layer.truth("keep_dims", False)
    axes = call.int64_list(1)
    return call.op(op, value, axes, keepdims=int(keep), noop_with_empty_axes=1)


for _name in _REDUCTIONS:
    layer(f"Reduce{_name}", 1)(partial(_reduce, f"Reduce{_name}"))


@layer("ReduceMean", 1)
def reduce_mean(call: Call) -> str:
    """Over all spatial axes it is a pool."""
    axes, rank = call.known(1), call.rank(0)
    if axes is not None and rank > 2 and call.layer.truth("keep_dims", False):
        named = sorted(call.axis(int(axis)) for axis in axes.reshape(-1))
        if named == list(range(2, rank)):
            return call.op("GlobalAveragePool", call.inputs[0])
    return _reduced(call, "ReduceMean", call.inputs[0])


def _reduce_logical(op: str, call: Call) -> str:
    numbers = call.cast(call.inputs[0], np.dtype(np.int32))
    return call.cast(_reduced(call, op, numbers), np.dtype(bool))


layer("ReduceLogicalAnd", 1)(partial(_reduce_logical, "ReduceMin"))
layer("ReduceLogicalOr", 1)(partial(_reduce_logical, "ReduceMax"))


@layer("TopK", 1, 3, 11)
def top_k(call: Call) -> tuple[str, str]:
    """The best one alone is what ONNX calls ArgMax or ArgMin."""
    axis = call.axis(call.layer.integer("axis"))
    largest = call.choice("mode", ("max", "min")) == "max"
    order = call.choice("sort", ("value", "index", "none"), "value")
    dtype = np.dtype(np.int32)
    if "index_element_type" in call.layer.data:
        dtype = layer_dtype(call.layer, "index_element_type")
    count = call.known(1)
    if count is not None and count.size == 1 and int(count.reshape(())) == 1:
        return _best(call, axis, largest, dtype)
    x, k = call.inputs[0], call.int64_list(1)
    values, indices = call.ops("TopK", x, k, outputs=2, axis=axis, largest=int(largest))
    if order == "index":
        _, places = call.ops("TopK", indices, k, outputs=2, axis=axis, largest=0)
        values, indices = (
            call.op("GatherElements", v, places, axis=axis) for v in (values, indices)
        )
    return values, call.cast(indices, dtype)


def _best(call: Call, axis: int, largest: bool, dtype: np.dtype) -> tuple[str, str]:
    values = indices = ""
    used = (*call.used, False, False)
    if used[0]:
        reduce = "ReduceMax" if largest else "ReduceMin"
        values = call.op(reduce, call.inputs[0], call.ints(axis), keepdims=1)
    if used[1]:
        search = "ArgMax" if largest else "ArgMin"
        indices = call.cast(call.op(search, call.inputs[0], axis=axis, keepdims=1), dtype)
    return values, indices


@layer("SoftMax", 1, 8)
def softmax(call: Call) -> str:
    return call.op("Softmax", call.inputs[0], axis=call.layer.integer("axis", 1))


@layer("LogSoftmax", 5)
def log_softmax(call: Call) -> str:
    return call.op("LogSoftmax", call.inputs[0], axis=call.layer.integer("axis", 1))


@layer("BatchNormInference", 1)
def batch_norm_inference_1(call: Call) -> str:
    gamma, beta, x, mean, variance = call.inputs[:5]
    return _batch_norm(call, x, gamma, beta, mean, variance)


@layer("BatchNormInference", 5)
def batch_norm_inference(call: Call) -> str:
    return _batch_norm(call, *call.inputs[:5])


def _batch_norm(call: Call, *inputs: str) -> str:
    epsilon = call.layer.real("epsilon", call.layer.real("eps", 0.0))
    return call.op("BatchNormalization", *inputs, epsilon=epsilon)


@layer("MVN", 1)
def mvn_1(call: Call) -> str:
    axes = call.layer.integers("reduction_axes", ())
    if not axes:
        first = 1 if call.layer.truth("across_channels", True) else 2
        axes = tuple(range(first, call.rank(0)))
    return _mvn(call, call.ints(*axes), inside=True)


@layer("MVN", 6)
def mvn(call: Call) -> str:
    inside = call.choice("eps_mode", ("inside_sqrt", "outside_sqrt")) == "inside_sqrt"
    return _mvn(call, call.int64_list(1), inside)


def _mvn(call: Call, axes: str, inside: bool) -> str:
    """(x - mean) / sqrt(variance + eps), or / (sqrt(variance) + eps)."""
    x, epsilon = call.inputs[0], call.number(call.layer.real("eps", 1e-9))
    centred = call.op("Sub", x, call.op("ReduceMean", x, axes, keepdims=1))
    if not call.layer.truth("normalize_variance", True):
        return centred
    square = call.op("Mul", centred, centred)
    variance = call.op("ReduceMean", square, axes, keepdims=1)
    if inside:
        return call.op("Div", centred, call.op("Sqrt", call.op("Add", variance, epsilon)))
    return call.op("Div", centred, call.op("Add", call.op("Sqrt", variance), epsilon))


@layer("NormalizeL2", 1)
def normalize_l2(call: Call) -> str:
    """x / sqrt(sum of squares + eps), or of the larger of both; without axes each by itself."""
    x, epsilon = call.inputs[0], call.number(call.layer.real("eps"))
    join = {"add": "Add", "max": "Max"}[call.choice("eps_mode", ("add", "max"))]
    square = call.op("Mul", x, x)
    total = call.op("ReduceSum", square, call.int64_list(1), keepdims=1, noop_with_empty_axes=1)
    return call.op("Div", x, call.op("Sqrt", call.op(join, total, epsilon)))


@layer("LRN", 1)
def lrn(call: Call) -> str:
    if call.fixed_ints(1, "axes") != (1,):
        raise Unsupported("axes other than [1] are not supported")
    size = call.layer.integer("size")
    alpha, beta, bias = (call.layer.real(name) for name in ("alpha", "beta", "bias"))
    return call.op("LRN", call.inputs[0], size=size, alpha=alpha, beta=beta, bias=bias)


@layer("MatMul", 1)
def matmul(call: Call) -> str:
    """A list has no axes to swap."""
    a, b = (
        _swapped(call, index) if call.layer.truth(key, False) and call.rank(index) > 1 else value
        for index, (key, value) in enumerate(
            zip(("transpose_a", "transpose_b"), call.inputs, strict=False)
        )
    )
    return call.op("MatMul", a, b)


def _swapped(call: Call, index: int) -> str:
    """The last two axes exchanged."""
    rank = call.rank(index)
    return call.op("Transpose", call.inputs[index], perm=(*range(rank - 2), rank - 1, rank - 2))
