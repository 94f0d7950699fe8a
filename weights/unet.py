"""unet-camvid-onnx-0001: U-Net (Ronneberger et al., 2015) with batch normalisation."""

from __future__ import annotations

import numpy as np
import onnx

from minseg.weights.network import NetworkBuilder, Tensor, check_size
from minseg.weights.pictures import streets

CARD = "unet-camvid-onnx-0001"
WIDTHS = (64, 128, 256, 512, 1024)
#: Of the training pictures, RGB after division by 255.
MEAN = (0.39068785, 0.40521392, 0.41434407)
STD = (0.29652068, 0.30514979, 0.30080369)


def unet(*, classes: int = 12, height: int = 368, width: int = 480) -> onnx.ModelProto:
    """Probabilities [1, classes, height, width] of a BGR picture, values 0-255, of that size.

    ``height`` and ``width`` are multiples of 16.
    """
    check_size("classes", classes)
    check_size("height", height, 16)
    check_size("width", width, 16)
    net = NetworkBuilder(seed=1)
    sample = np.ascontiguousarray(streets(192, 256, seed=0)[..., ::-1].transpose(2, 0, 1)[None])
    x = normalised(net, net.input("input.1", (1, 3, height, width), sample))
    skips = []
    for level, channels in enumerate(WIDTHS):
        if level:
            x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = double_conv(net, x, channels)
        skips.append(x)
    for channels in WIDTHS[-2::-1]:
        x = up(net, x, channels)
        x = net.op("Concat", x, skips[WIDTHS.index(channels)], axis=1)
        x = double_conv(net, x, channels)
    probabilities = net.op("Softmax", net.classifier(x, classes), name="206", axis=1)
    net.output(probabilities, (1, classes, height, width))
    return net.model(CARD)


def normalised(net: NetworkBuilder, x: Tensor) -> Tensor:
    """``x`` less the training pictures' mean, divided by their deviation, BGR."""
    mean, std = (
        (255 * np.array(v[::-1], np.float32)).reshape(1, 3, 1, 1).astype(np.float32)
        for v in (MEAN, STD)
    )
    x = net.op("Sub", x, net.constant("mean", mean))
    return net.op("Div", x, net.constant("std", std))


def double_conv(net: NetworkBuilder, x: Tensor, channels: int) -> Tensor:
    """Twice a 3x3 convolution with bias, batch normalisation and ReLU."""
    for _ in range(2):
        weights = net.he_weights((channels, x.channels, 3, 3), 9 * x.channels)
        x = net.relu(net.batch_norm(net.conv(x, weights, drawn_bias(net, channels), pads=[1] * 4)))
    return x


def up(net: NetworkBuilder, x: Tensor, channels: int) -> Tensor:
    """A transposed 2x2 convolution of stride 2 with bias: twice the size."""
    name = net.next_name("ConvTranspose")
    weights = net.he_weights((x.channels, channels, 2, 2), x.channels)
    constants = (
        net.constant(f"{name}.weight", weights),
        net.constant(f"{name}.bias", drawn_bias(net, channels)),
    )
    return net.op("ConvTranspose", x, *constants, kernel_shape=[2, 2], strides=[2, 2])


def drawn_bias(net: NetworkBuilder, channels: int) -> np.ndarray:
    return net.rng.normal(0, 0.1, channels).astype(np.float32)
