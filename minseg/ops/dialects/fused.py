"""The domain minseg, of floats: several operators in the one step that a kernel makes of them.

`CONVOLUTIONS` is the table that passes ask what they may put into one node. The reference composes
the operators that were fused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from minseg.graph.domains import MINSEG
from minseg.graph.model import TensorType
from minseg.ops.conv import conv, conv_transpose
from minseg.ops.dialects.epilogue import split
from minseg.ops.quantize import dequantize_linear, quantize_linear
from minseg.ops.reduce import arg_max
from minseg.ops.registry import Trait, newest, operator
from minseg.ops.resize import resize
from minseg.ops.types import same


@dataclass(frozen=True)
class Convolution:
    """What is done in one step with a convolution [N, C, H, W] by constant weights: any activation
    that has `Trait.FUSED` or a quantiser; before it, a sum with a ``residual`` of the result's
    shape, and one of bytes with a ``byte_residual``, where there may be one. ``dynamic`` tells
    whether the zero point and the scale of bytes may be known in a run only. ``floats`` and
    ``bytes`` are the operators of the domain minseg that take it all in, of float32 and of bytes.
    """

    floats: str
    bytes: str
    residual: bool
    byte_residual: bool
    dynamic: bool


#: By ONNX's operator.
CONVOLUTIONS: Mapping[str, Convolution] = {
    "Conv": Convolution(
        "FusedConv", "IntegerConv", residual=True, byte_residual=True, dynamic=True
    ),
    "ConvTranspose": Convolution(
        "FusedConvTranspose",
        "IntegerConvTranspose",
        residual=True,
        byte_residual=False,
        dynamic=False,
    ),
}


def _infer_as(name: str) -> Callable[..., Any]:
    """The shape rule of ONNX's operator, which knows nothing of what was fused."""

    def infer(
        x: TensorType,
        w: TensorType,
        b: TensorType | None = None,
        z: TensorType | None = None,
        **attributes: Any,
    ) -> Any:
        return newest(name).infer(x, w, b, **split(attributes)[1])

    return infer


@operator("FusedConv", since=1, domain=MINSEG, infer=_infer_as("Conv"))
def fused_conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    z: np.ndarray | None = None,
    **attributes: Any,
) -> np.ndarray:
    """Conv, + z, the activation. x (N, IC, ...), w (OC, IC / group, ...), b (OC,), z as y."""
    epilogue, layout = split(attributes)
    return epilogue.of(conv(x, w, b, **layout), z)


@operator("FusedConvTranspose", since=1, domain=MINSEG, infer=_infer_as("ConvTranspose"))
def fused_conv_transpose(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **attributes: Any
) -> np.ndarray:
    """ConvTranspose, then the activation. w (IC, OC / group, ...)."""
    epilogue, layout = split(attributes)
    return epilogue.of(conv_transpose(x, w, b, **layout))


def _infer_resize_arg_max(
    x: TensorType, *parameters: TensorType | None, keepdims: int = 1, **attributes: Any
) -> TensorType:
    large = newest("Resize").infer(x, *parameters, **attributes)
    result: TensorType = newest("ArgMax").infer(large, axis=1, keepdims=keepdims)
    return result


@operator("ResizeArgMax", since=1, domain=MINSEG, infer=_infer_resize_arg_max)
def resize_arg_max(
    x: np.ndarray, *parameters: np.ndarray | None, keepdims: int = 1, **attributes: Any
) -> np.ndarray:
    """ArgMax along axis 1 of what Resize makes of ``x``; the other inputs and attributes are
    Resize's."""
    labels: np.ndarray = arg_max(resize(x, *parameters, **attributes), axis=1, keepdims=keepdims)
    return labels


def _infer_quantize_dequantize(x: TensorType, *parameters: Any, axis: int = 1) -> TensorType:
    return same(x)


@operator(
    "QuantizeDequantize",
    since=1,
    domain=MINSEG,
    infer=_infer_quantize_dequantize,
    traits=Trait.ROUNDS,
)
def quantize_dequantize(
    x: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, *, axis: int = 1
) -> np.ndarray:
    """What DequantizeLinear makes of what QuantizeLinear makes of ``x``. Shape and dtype kept."""
    integers = quantize_linear(x, scale, zero_point, axis=axis)
    return dequantize_linear(integers, scale, zero_point, axis=axis)
