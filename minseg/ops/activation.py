"""Activations: functions of one element, and Softmax and its kin.

Definitions follow the ONNX operator specification. Everything composed of several steps is
computed in float64.
"""

from __future__ import annotations

import math

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.arguments import normalize_axis, one_of
from minseg.ops.arithmetic import erf
from minseg.ops.dtypes import in_float64
from minseg.ops.registry import ACTIVATION, FUNCTION, Trait, operator
from minseg.ops.types import check_fit, same


@operator("Relu", infer=same, traits=ACTIVATION | Trait.FUSED | Trait.CLAMP | Trait.NON_NEGATIVE)
def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.zeros((), x.dtype))


@operator("LeakyRelu", infer=same, traits=ACTIVATION | Trait.FUSED)
@in_float64
def leaky_relu(x: np.ndarray, *, alpha: float = 0.01) -> np.ndarray:
    return np.where(x < 0, alpha * x, x)


def _infer_p_relu(x: TensorType, slope: TensorType) -> TensorType:
    check_fit(x.shape, slope=slope)
    return same(x)


@operator("PRelu", since=7, infer=_infer_p_relu, traits=ACTIVATION)
def p_relu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.where(x < 0, slope * x, x)


@operator("Elu", infer=same, traits=ACTIVATION)
@in_float64
def elu(x: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    return np.where(x < 0, alpha * np.expm1(x), x)


@operator("Selu", since=6, infer=same, traits=ACTIVATION)
@in_float64
def selu(
    x: np.ndarray, *, alpha: float = 1.6732631921768188, gamma: float = 1.0507010221481323
) -> np.ndarray:
    return gamma * np.where(x > 0, x, alpha * np.expm1(x))


@operator("Celu", since=12, infer=same, traits=FUNCTION)
@in_float64
def celu(x: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    return np.maximum(x, 0) + np.minimum(alpha * np.expm1(x / alpha), 0)


@operator("ThresholdedRelu", since=10, infer=same, traits=FUNCTION)
@in_float64
def thresholded_relu(x: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    return np.where(x > alpha, x, 0)


@operator("HardSigmoid", infer=same, traits=ACTIVATION | Trait.FUSED | Trait.NON_NEGATIVE)
@in_float64
def hard_sigmoid(x: np.ndarray, *, alpha: float = 0.2, beta: float = 0.5) -> np.ndarray:
    return np.clip(alpha * x + beta, 0, 1)


@operator("HardSwish", since=14, infer=same, traits=ACTIVATION | Trait.FUSED)
@in_float64
def hard_swish(x: np.ndarray) -> np.ndarray:
    return x * np.clip(x / 6 + 0.5, 0, 1)


@operator("Sigmoid", infer=same, traits=ACTIVATION | Trait.FUSED | Trait.NON_NEGATIVE)
@in_float64
def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@operator("Softplus", infer=same, traits=FUNCTION | Trait.NON_NEGATIVE)
@in_float64
def softplus(x: np.ndarray) -> np.ndarray:
    """log(exp(x) + 1), without overflow."""
    return np.logaddexp(x, 0)


@operator("Softsign", infer=same, traits=FUNCTION)
@in_float64
def softsign(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.abs(x))


@operator(
    "Gelu", since=20, infer=same, check=one_of("approximate", "none", "tanh"), traits=ACTIVATION
)
@in_float64
def gelu(x: np.ndarray, *, approximate: str = "none") -> np.ndarray:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016)."""
    if approximate == "tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + erf(x / math.sqrt(2)))


@operator("Mish", since=18, infer=same, traits=ACTIVATION)
@in_float64
def mish(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.logaddexp(x, 0))


@operator("Swish", since=24, infer=same, traits=ACTIVATION | Trait.FUSED)
@in_float64
def swish(x: np.ndarray, *, alpha: float = 1.0) -> np.ndarray:
    return x / (1 + np.exp(-alpha * x))


@operator("Shrink", since=9, infer=same, traits=FUNCTION)
@in_float64
def shrink(x: np.ndarray, *, bias: float = 0.0, lambd: float = 0.5) -> np.ndarray:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0))


def _infer_along(x: TensorType, *, axis: int = -1) -> TensorType:
    if x.shape is not None:
        normalize_axis(axis, len(x.shape))
    return same(x)


@operator("Softmax", since=13, infer=_infer_along, traits=Trait.NON_NEGATIVE)
@in_float64
def softmax(x: np.ndarray, *, axis: int = -1) -> np.ndarray:
    powers = np.exp(x - np.max(x, axis, keepdims=True, initial=-np.inf))
    return powers / np.sum(powers, axis, keepdims=True)


@operator("LogSoftmax", since=13, infer=_infer_along)
@in_float64
def log_softmax(x: np.ndarray, *, axis: int = -1) -> np.ndarray:
    shifted = x - np.max(x, axis, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.sum(np.exp(shifted), axis, keepdims=True))


@operator("Hardmax", since=13, infer=_infer_along)
def hardmax(x: np.ndarray, *, axis: int = -1) -> np.ndarray:
    """1 at the first maximum along ``axis``, 0 elsewhere."""
    result = np.zeros_like(x)
    if x.size:
        np.put_along_axis(result, np.argmax(x, axis, keepdims=True), 1, axis)
    return result


def _infer_from(x: TensorType, *, axis: int = 1) -> TensorType:
    if x.shape is not None:
        _check_first_column(axis, len(x.shape))
    return same(x)


@operator("Softmax", infer=_infer_from, traits=Trait.NON_NEGATIVE)
def softmax_of_matrix(x: np.ndarray, *, axis: int = 1) -> np.ndarray:
    return softmax(as_matrix(x, axis)).reshape(x.shape)


@operator("LogSoftmax", infer=_infer_from)
def log_softmax_of_matrix(x: np.ndarray, *, axis: int = 1) -> np.ndarray:
    return log_softmax(as_matrix(x, axis)).reshape(x.shape)


@operator("Hardmax", infer=_infer_from)
def hardmax_of_matrix(x: np.ndarray, *, axis: int = 1) -> np.ndarray:
    return hardmax(as_matrix(x, axis)).reshape(x.shape)


def as_matrix(x: np.ndarray, axis: int) -> np.ndarray:
    """``x`` as before opset 13: the axes before ``axis`` are rows, those from it on columns."""
    _check_first_column(axis, x.ndim)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _check_first_column(axis: int, rank: int) -> None:
    if not -rank <= axis <= rank:
        raise ValueError(f"axis {axis} does not exist in a tensor of rank {rank}")
