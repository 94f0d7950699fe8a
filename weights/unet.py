"""unet-camvid-onnx-0001: U-Net (Ronneberger et al., 2015) with batch normalisation."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np
import onnx

from minseg.weights.network import NetworkBuilder, Tensor, check_size, measured
from minseg.weights.pictures import streets
from minseg.weights.quantize import (
    STEPS,
    Notation,
    Quantized,
    QuantizedBuilder,
    check_notation,
)

CARD = "unet-camvid-onnx-0001"
WIDTHS = (64, 128, 256, 512, 1024)
#: Of the training pictures, RGB after division by 255.
MEAN = (0.39068785, 0.40521392, 0.41434407)
STD = (0.29652068, 0.30514979, 0.30080369)
#: Where the integers begin that values from both sides of a Concat have in common.
JOINED_LOW = -64

T = TypeVar("T", bound=Tensor)


class Style(Protocol[T]):
    """How the parts of a U-Net are written."""

    def picture(self, x: Tensor, levels: np.ndarray) -> T:
        """``x``, whose values are all among ``levels``, as it enters the network."""

    def conv(self, x: T, channels: int, joined: bool) -> T:
        """3x3 convolution, batch normalisation and ReLU; ``joined`` if a Concat will read it."""

    def up(self, x: T, channels: int, skip: T) -> T:
        """A transposed 2x2 convolution of stride 2 with bias, twice the size; then ``skip``."""

    def pool(self, x: T) -> T:
        """Maxima of 2x2."""

    def classifier(self, x: T, classes: int) -> Tensor: ...


def unet(
    *, notation: Notation = "float", classes: int = 12, height: int = 368, width: int = 480
) -> onnx.ModelProto:
    """Probabilities [1, classes, height, width] of a BGR picture, values 0-255, of that size.

    ``height`` and ``width`` are multiples of 16. ``notation`` is "float", or "qdq" or
    "fakequantize" for a network of 8-bit integers (see minseg.weights.quantize) with weights of
    its own.
    """
    check_notation(notation)
    check_size("classes", classes)
    check_size("height", height, 16)
    check_size("width", width, 16)
    if notation == "float":
        net = NetworkBuilder(seed=1)
        return _built(net, FloatStyle(net), classes, height, width)
    quantized = QuantizedBuilder(1, notation)
    return _built(quantized, QuantizedStyle(quantized), classes, height, width)


def _built(
    net: NetworkBuilder, style: Style[T], classes: int, height: int, width: int
) -> onnx.ModelProto:
    sample = np.ascontiguousarray(streets(192, 256, seed=0)[..., ::-1].transpose(2, 0, 1)[None])
    mean, std = (
        (255 * np.array(v[::-1], np.float32)).reshape(1, 3, 1, 1).astype(np.float32)
        for v in (MEAN, STD)
    )
    x = net.op(
        "Sub", net.input("input.1", (1, 3, height, width), sample), net.constant("mean", mean)
    )
    x = net.op("Div", x, net.constant("std", std))
    levels = (np.arange(256, dtype=np.float32) - mean) / std
    y = style.picture(x, levels)
    skips = []
    for level, channels in enumerate(WIDTHS):
        if level:
            y = style.pool(y)
        y = style.conv(style.conv(y, channels, False), channels, level < len(WIDTHS) - 1)
        skips.append(y)
    for channels in WIDTHS[-2::-1]:
        y = style.up(y, channels, skips[WIDTHS.index(channels)])
        y = style.conv(style.conv(y, channels, False), channels, False)
    probabilities = net.op("Softmax", style.classifier(y, classes), name="206", axis=1)
    net.output(probabilities, (1, classes, height, width))
    return net.model(CARD)


POOL: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}


class FloatStyle:
    """Convolutions with bias, as PyTorch exports them."""

    def __init__(self, net: NetworkBuilder):
        self.net = net

    def picture(self, x: Tensor, levels: np.ndarray) -> Tensor:
        return x

    def conv(self, x: Tensor, channels: int, joined: bool) -> Tensor:
        net = self.net
        weights = net.he_weights((channels, x.channels, 3, 3), 9 * x.channels)
        bias = drawn_bias(net, channels)
        return net.relu(net.batch_norm(net.conv(x, weights, bias, pads=[1] * 4)))

    def up(self, x: Tensor, channels: int, skip: Tensor) -> Tensor:
        net = self.net
        name = net.next_name("ConvTranspose")
        weights = net.he_weights((x.channels, channels, 2, 2), x.channels)
        constants = (
            net.constant(f"{name}.weight", weights),
            net.constant(f"{name}.bias", drawn_bias(net, channels)),
        )
        return net.op("Concat", net.op("ConvTranspose", x, *constants, **POOL), skip, axis=1)

    def pool(self, x: Tensor) -> Tensor:
        return self.net.op("MaxPool", x, **POOL)

    def classifier(self, x: Tensor, classes: int) -> Tensor:
        return self.net.classifier(x, classes)


class QuantizedStyle:
    """Quantisers behind the normalised picture, every ReLU, and every transposed convolution.

    As NNCF does it, both inputs of a Concat have one scale and zero point, so that none is needed
    behind it.
    """

    def __init__(self, net: QuantizedBuilder):
        self.net = net

    def picture(self, x: Tensor, levels: np.ndarray) -> Quantized:
        return self.net.quantize(x, clear_scale(levels) / STEPS)

    def conv(self, x: Quantized, channels: int, joined: bool) -> Quantized:
        weights = self.net.he_weights((channels, x.channels, 3, 3), 9 * x.channels)
        low = JOINED_LOW if joined else None
        return self.net.conv_layer(x, weights, relu=True, low=low, pads=[1] * 4)

    def up(self, x: Quantized, channels: int, skip: Quantized) -> Quantized:
        weights = self.net.he_weights((x.channels, channels, 2, 2), x.channels)
        bias = drawn_bias(self.net, channels)
        y = self.net.transposed_layer(x, weights, bias, skip, JOINED_LOW, **POOL)
        joined = self.net.op("Concat", y, skip, axis=1)
        return Quantized(joined.name, joined.sample, skip.unit, skip.steps)

    def pool(self, x: Quantized) -> Quantized:
        y = self.net.op("MaxPool", x, **POOL)
        return Quantized(y.name, y.sample, x.unit, x.steps)

    def classifier(self, x: Quantized, classes: int) -> Quantized:
        return self.net.quantized_classifier(x, classes)


def clear_scale(levels: np.ndarray) -> float:
    """A scale whose signed 8 bits just hold ``levels`` and none of whose middles is near one."""
    least = np.abs(levels).max() / 127
    scales = [float(measured(least * (1 + k / 1000))) for k in range(1, 100)]

    def clearance(scale: float) -> float:
        steps = levels.astype(np.float64) / scale
        return float(np.abs(steps - np.floor(steps) - 0.5).min())

    return max(scales, key=clearance)


def drawn_bias(net: NetworkBuilder, channels: int) -> np.ndarray:
    return net.rng.normal(0, 0.1, channels).astype(np.float32)
