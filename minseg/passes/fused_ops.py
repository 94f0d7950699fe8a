"""The operators of the domain "minseg": what is done in one step with what follows it.

    y = activation(conv(x, w, b) + z)

z, the optional fourth input, has y's shape; ``activation`` is "" or a key of `ACTIVATIONS`, and
``activation_params`` its numbers. The reference composes the operators that were fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minseg.graph.model import TensorType
from minseg.ops.registry import lookup, operator

DOMAIN = "minseg"

#: Attributes of the ONNX operator that hold the numbers of an activation, in their order.
#: Clip's two are its bounds, infinite where there is none; Silu is Swish with alpha 1.
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Clip": ("min", "max"),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "Sigmoid": (),
    "Silu": (),
}

_OPSET = 24


def activate(x: np.ndarray, activation: str, params: Sequence[float]) -> np.ndarray:
    """``activation`` of every element of ``x``, "" standing for none. Shape and dtype are kept."""
    if not activation:
        return x
    if activation == "Clip":
        return _run("Clip", x, *(np.array(p, x.dtype) for p in params))
    name = "Swish" if activation == "Silu" else activation
    return _run(name, x, **dict(zip(ACTIVATIONS[activation], params, strict=True)))


def _run(name: str, *inputs: Any, **attributes: Any) -> np.ndarray:
    found = lookup("", name, _OPSET)
    if found is None:
        raise ValueError(f"operator {name} is not registered")
    result: np.ndarray = found.run(*inputs, **attributes)
    return result


def _type_rule(name: str) -> Callable[..., Any]:
    """The shape rule of the plain operator, which knows nothing of what was fused."""

    def infer(
        x: TensorType,
        w: TensorType,
        b: TensorType | None = None,
        z: TensorType | None = None,
        *,
        activation: str = "",
        activation_params: Sequence[float] = (),
        **attributes: Any,
    ) -> Any:
        found = lookup("", name, _OPSET)
        return TensorType(x.dtype) if found is None else found.infer(x, w, b, **attributes)

    return infer


@operator("FusedConv", domain=DOMAIN, infer=_type_rule("Conv"))
def fused_conv(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    z: np.ndarray | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """Conv, then + z, then the activation. x (N, IC, ...), w (OC, IC / group, ...), b (OC,)."""
    y = _run(
        "Conv",
        *(x, w, b),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return activate(y if z is None else y + z, activation, activation_params)


@operator("FusedConvTranspose", domain=DOMAIN, infer=_type_rule("ConvTranspose"))
def fused_conv_transpose(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    z: np.ndarray | None = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> np.ndarray:
    """ConvTranspose, then + z, then the activation. w (IC, OC / group, ...)."""
    y = _run(
        "ConvTranspose",
        *(x, w, b),
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        output_padding=output_padding,
        output_shape=output_shape,
        pads=pads,
        strides=strides,
    )
    return activate(y if z is None else y + z, activation, activation_params)


def _infer_resize_arg_max(
    x: TensorType, *parameters: TensorType | None, keepdims: int = 1, **attributes: Any
) -> TensorType:
    resize, arg_max = lookup("", "Resize", _OPSET), lookup("", "ArgMax", _OPSET)
    if resize is None or arg_max is None:
        return TensorType(np.dtype(np.int64))
    large = resize.infer(x, *parameters, **attributes)
    result: TensorType = arg_max.infer(large, axis=1, keepdims=keepdims)
    return result


@operator("ResizeArgMax", domain=DOMAIN, infer=_infer_resize_arg_max)
def resize_arg_max(
    x: np.ndarray, *parameters: np.ndarray | None, keepdims: int = 1, **attributes: Any
) -> np.ndarray:
    """ArgMax along axis 1 of what Resize makes of ``x``; the other inputs and attributes are
    Resize's."""
    large = _run("Resize", x, *parameters, **attributes)
    return _run("ArgMax", large, axis=1, keepdims=keepdims)
