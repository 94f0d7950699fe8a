"""unet-resnet34-camvid: U-Net with a ResNet-34 encoder (He et al., 2016)."""

from __future__ import annotations

import numpy as np
import onnx

from minseg.weights.network import NetworkBuilder, Tensor, check_size
from minseg.weights.pictures import streets

CARD = "unet-resnet34-camvid"
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
DECODER = (256, 128, 64, 32, 16)
#: ImageNet's, RGB after division by 255.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def resnet34_unet(*, classes: int = 12) -> onnx.ModelProto:
    """Logits [batch, classes, 480, 640] of normalised RGB pictures [batch, 3, 480, 640]."""
    check_size("classes", classes)
    net = NetworkBuilder(seed=4)
    normal = (streets(192, 256, seed=0) / 255 - np.array(MEAN)) / np.array(STD)
    sample = np.ascontiguousarray(normal.transpose(2, 0, 1)[None].astype(np.float32))
    x = net.input("input", ("batch", 3, 480, 640), sample)
    features = encoder(net, x)
    x = features.pop()
    for channels in DECODER:
        x = decoder_block(net, x, features.pop() if features else None, channels)
    net.output(net.classifier(x, classes, kernel=3, name="output"), ("batch", classes, 480, 640))
    return net.model(CARD)


def encoder(net: NetworkBuilder, x: Tensor) -> list[Tensor]:
    """The features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the picture's size."""
    x = net.relu(conv_norm(net, x, 64, kernel=7, stride=2))
    features = [x]
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, (channels, blocks) in enumerate(STAGES):
        for block in range(blocks):
            x = basic_block(net, x, channels, stride=2 if stage and not block else 1)
        features.append(x)
    return features


def basic_block(net: NetworkBuilder, x: Tensor, channels: int, stride: int) -> Tensor:
    """Two 3x3 convolutions added to the input, which is projected where its shape changes."""
    inner = net.relu(conv_norm(net, x, channels, kernel=3, stride=stride))
    if stride != 1 or x.channels != channels:
        x = conv_norm(net, x, channels, kernel=1, stride=stride)
    inner = conv_norm(net, inner, channels, kernel=3, like=x)
    return net.relu(net.op("Add", inner, x))


def decoder_block(net: NetworkBuilder, x: Tensor, skip: Tensor | None, channels: int) -> Tensor:
    """Nearest x2, the encoder's feature of that size appended, twice 3x3 convolution and ReLU."""
    x = upsample(net, x)
    if skip is not None:
        x = net.op("Concat", x, skip, axis=1)
    for _ in range(2):
        x = net.relu(conv_norm(net, x, channels, kernel=3))
    return x


def upsample(net: NetworkBuilder, x: Tensor) -> Tensor:
    """Nearest x2 with the attributes that PyTorch exports."""
    scales = net.constant(f"{net.next_name('Resize')}.scales", np.array([1, 1, 2, 2], np.float32))
    return net.op(
        "Resize",
        x,
        None,
        scales,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def conv_norm(
    net: NetworkBuilder,
    x: Tensor,
    channels: int,
    kernel: int,
    stride: int = 1,
    like: Tensor | None = None,
) -> Tensor:
    """A convolution without bias and its batch normalisation; ``like`` as for `affine`."""
    weights = net.he_weights((channels, x.channels, kernel, kernel), kernel**2 * x.channels)
    conv = net.conv(x, weights, strides=[stride] * 2, pads=[kernel // 2] * 4)
    return net.batch_norm(conv, like)
