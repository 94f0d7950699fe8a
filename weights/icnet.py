"""ICNet (Zhao et al., 2018) as two exporters wrote it: PyTorch with NNCF, and TensorFlow.

`icnet` is the topology; what the exporters write differently is in the two styles. Letters:
a size is (height, width), a fraction such as "1/8" is of the picture's size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import onnx

from minseg.errors import InputError
from minseg.weights.network import NetworkBuilder, Tensor, check_size
from minseg.weights.pictures import streets
from minseg.weights.quantize import Notation, Quantized, QuantizedBuilder, check_notation

Size: TypeAlias = tuple[int, int]
T = TypeVar("T", bound=Tensor)

#: Middle branch behind its stem, then low branch: (inner width, width, stride, dilation).
MIDDLE = ((32, 128, 1, 1), (32, 128, 1, 1), (32, 128, 1, 1), (64, 256, 2, 1))
LOW = (
    *((64, 256, 1, 1),) * 3,
    *((128, 512, 1, 2),) * 6,
    *((256, 1024, 1, 4),) * 3,
)
BINS = (1, 2, 3, 6)


class Style(Protocol[T]):
    """How an exporter writes the parts of ICNet."""

    def conv(
        self,
        x: T,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        like: T | None = None,
    ) -> T:
        """Convolution, batch normalisation and, unless told otherwise, ReLU.

        The result will be added to ``like``, if that is given.
        """

    def add_relu(self, x: T, y: T) -> T: ...

    def add(self, x: T, y: T) -> T: ...

    def max_pool(self, x: T) -> T:
        """3x3 with stride 2."""

    def average_pool(self, x: T, bins: int) -> T:
        """Averages over a grid of ``bins`` x ``bins`` parts."""

    def resize(self, x: T, size: Size) -> T: ...


def icnet(style: Style[T], x: T, width: int, detail: Sequence[int]) -> T:
    """Features at 1/4, ready for the classifier, of the picture ``x`` [1, 3, H, W].

    Every width of the tables above is multiplied by ``width``; ``detail`` are the widths of the
    full-resolution branch.
    """
    full = size_of(x)
    high = x
    for channels in detail:
        high = style.conv(high, channels, 3, stride=2)
    middle = style.resize(x, fraction(full, 2))
    for channels, stride in ((32, 2), (32, 1), (64, 1)):
        middle = style.conv(middle, width * channels, 3, stride=stride)
    middle = style.max_pool(middle)
    for inner, channels, stride, dilation in MIDDLE:
        middle = block(style, middle, width * inner, width * channels, stride, dilation)
    low = style.resize(middle, fraction(size_of(middle), 2))
    for inner, channels, stride, dilation in LOW:
        low = block(style, low, width * inner, width * channels, stride, dilation)
    low = style.conv(pyramid(style, low), width * 256, 1)
    fused = fuse(style, low, middle, width * 128)
    fused = fuse(style, fused, high, width * 128)
    return style.resize(fused, fraction(full, 4))


def block(style: Style[T], x: T, inner: int, channels: int, stride: int, dilation: int) -> T:
    """A bottleneck, its input projected where the width changes, added, ReLU."""
    y = style.conv(x, inner, 1, stride=stride)
    y = style.conv(y, inner, 3, dilation=dilation)
    if x.channels != channels:
        x = style.conv(x, channels, 1, stride=stride, relu=False)
    return style.add_relu(style.conv(y, channels, 1, relu=False, like=x), x)


def pyramid(style: Style[T], x: T) -> T:
    """Pyramid pooling in sum mode."""
    total = x
    for bins in BINS:
        total = style.add(total, style.resize(style.average_pool(x, bins), size_of(x)))
    return total


def fuse(style: Style[T], coarse: T, fine: T, channels: int) -> T:
    """Cascade feature fusion: ``coarse`` brought to the size of ``fine`` and added to it."""
    coarse = style.resize(coarse, size_of(fine))
    fine = style.conv(fine, channels, 1, relu=False)
    coarse = style.conv(coarse, channels, 3, dilation=2, relu=False, like=fine)
    return style.add_relu(coarse, fine)


def size_of(x: Tensor) -> Size:
    return int(x.sample.shape[2]), int(x.sample.shape[3])


def fraction(size: Size, divisor: int) -> Size:
    """``size`` divided, rounded up."""
    return math.ceil(size[0] / divisor), math.ceil(size[1] / divisor)


class TorchStyle:
    """PyTorch and NNCF: separate batch normalisation, nearest resizes, quantised activations.

    Quantised are the input, every ReLU, both operands of an addition, and what average pools and
    resizes give. A maximum pool gives numbers that are on its input's grid already.
    """

    def __init__(self, net: QuantizedBuilder):
        self.net = net

    def conv(
        self,
        x: Quantized,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        like: Quantized | None = None,
    ) -> Quantized:
        weights = self.net.he_weights(
            (channels, x.channels, kernel, kernel), kernel**2 * x.channels
        )
        return self.net.conv_layer(
            x,
            weights,
            relu=relu,
            like=like,
            strides=[stride] * 2,
            dilations=[dilation] * 2,
            pads=[kernel // 2 * dilation] * 4,
        )

    def add_relu(self, x: Quantized, y: Quantized) -> Quantized:
        return self.net.sum(self.net.relu(self.net.op("Add", x, y)), of=(x, y))

    def add(self, x: Quantized, y: Quantized) -> Quantized:
        return self.net.sum(self.net.op("Add", x, y), of=(x, y))

    def max_pool(self, x: Quantized) -> Quantized:
        y = self.net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        return Quantized(y.name, y.sample, x.unit, x.steps)

    def average_pool(self, x: Quantized, bins: int) -> Quantized:
        """An adaptive pool as the exporter writes it: a Pad by nothing, then the pool."""
        net = self.net
        pads = net.constant(f"{net.next_name('Pad')}.pads", np.zeros(8, np.int64))
        padded = net.op("Pad", x, pads)
        if bins == 1:
            return net.average(net.op("GlobalAveragePool", padded), of=x)
        kernel = [side // bins for side in size_of(x)]
        pooled = net.op("AveragePool", padded, kernel_shape=kernel, strides=kernel)
        return net.average(pooled, of=x)

    def resize(self, x: Quantized, size: Size) -> Quantized:
        return self.net.requantize(self.resize_only(x, size), like=x)

    def resize_only(self, x: Tensor, size: Size) -> Tensor:
        factors = [target / side for target, side in zip(size, size_of(x), strict=True)]
        scales = np.array([1, 1, *factors], np.float32)
        return self.net.op(
            "Resize",
            x,
            None,
            self.net.constant(f"{self.net.next_name('Resize')}.scales", scales),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )


def icnet_int8(
    *, notation: Notation = "qdq", classes: int = 12, height: int = 768, width: int = 768
) -> onnx.ModelProto:
    """Probabilities [1, classes, height, width] of a BGR picture, values 0-255, of that size.

    ``height`` and ``width`` are multiples of 192, so that every pool and resize is exact.
    ``notation`` is "qdq", "fakequantize" or "float" (see minseg.weights.quantize). The weights and
    quantisation grids are the same in the first two; "float" has no quantisers.
    """
    check_notation(notation)
    check_size("classes", classes)
    check_size("height", height, 192)
    check_size("width", width, 192)
    net = QuantizedBuilder(2, notation)
    style = TorchStyle(net)
    picture = streets(height, width, seed=0)[..., ::-1].transpose(2, 0, 1)[None]
    sample = np.ascontiguousarray(np.rint(picture))
    x = net.quantize(net.input("input.1", (1, 3, height, width), sample), unit=1, steps=1)
    logits = net.quantized_classifier(icnet(style, x, 1, (32, 32, 32)), classes)
    y = net.op("Transpose", style.resize_only(logits, (height, width)), perm=[0, 3, 2, 1])
    y = net.op("Softmax", y, axis=3)
    y = net.op("Transpose", y, name="probabilities", perm=[0, 3, 2, 1])
    net.output(y, (1, classes, height, width))
    return net.model("icnet-camvid-int8-onnx-0001")


class TensorFlowStyle:
    """TensorFlow, converted: SAME paddings, bilinear resizes with aligned corners, pruned weights.

    Batch normalisation is folded into the convolutions, as the converter does. Dilated
    convolutions are padded by a Pad node, others by their pads.
    """

    def __init__(self, net: NetworkBuilder):
        self.net = net

    def conv(
        self,
        x: Tensor,
        channels: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
        like: Tensor | None = None,
    ) -> Tensor:
        net = self.net
        weights = net.he_weights((channels, x.channels, kernel, kernel), kernel**2 * x.channels)
        pads = same_pads(size_of(x), kernel, stride, dilation)
        if dilation > 1:
            x, pads = self.pad(x, pads), [0] * 4
        y = net.conv_norm(
            x, weights, like, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads
        )
        return net.relu(y) if relu else y

    def pad(self, x: Tensor, pads: Sequence[int]) -> Tensor:
        """``x`` with zeros around: ``pads`` are those of top, left, bottom and right."""
        widths = np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)
        return self.net.op("Pad", x, self.net.constant(f"{self.net.next_name('Pad')}.pads", widths))

    def add_relu(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net.relu(self.net.op("Add", x, y))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self.net.op("Add", x, y)

    def max_pool(self, x: Tensor) -> Tensor:
        pads = same_pads(size_of(x), 3, 2, 1)
        return self.net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=pads)

    def average_pool(self, x: Tensor, bins: int) -> Tensor:
        kernel = [side // bins for side in size_of(x)]
        return self.net.op("AveragePool", x, kernel_shape=kernel, strides=kernel)

    def resize(self, x: Tensor, size: Size) -> Tensor:
        name = f"{self.net.next_name('Resize')}.sizes"
        return self.net.op(
            "Resize",
            x,
            None,
            None,
            self.net.constant(name, np.array([*x.sample.shape[:2], *size], np.int64)),
            mode="linear",
            coordinate_transformation_mode="align_corners",
        )


def same_pads(size: Size, kernel: int, stride: int, dilation: int) -> list[int]:
    """TensorFlow's SAME padding as ONNX pads: the odd pixel at the bottom and the right."""
    reach = (kernel - 1) * dilation + 1
    totals = [max((math.ceil(s / stride) - 1) * stride + reach - s, 0) for s in size]
    return [total // 2 for total in totals] + [total - total // 2 for total in totals]


def icnet_sparse(*, sparsity: float = 0.6, classes: int = 12) -> onnx.ModelProto:
    """Class indices [1, 720, 960], int64, of a BGR picture [1, 720, 960, 3], values 0-255.

    In every convolution the share ``sparsity`` of the weights is zero, those with the smallest
    magnitude; the first and the last convolution are no exception.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity must be at least 0 and less than 1, not {sparsity}")
    check_size("classes", classes)
    height, width = 720, 960
    net = NetworkBuilder(seed=3, sparsity=sparsity)
    style = TensorFlowStyle(net)
    sample = np.ascontiguousarray(streets(height, width, seed=0)[None, ..., ::-1])
    x = net.input("data", (1, height, width, 3), sample)
    x = net.op("Transpose", x, perm=[0, 3, 1, 2])
    logits = net.classifier(icnet(style, x, 2, (64, 64, 128)), classes)
    x = net.op("Transpose", style.resize(logits, (height, width)), perm=[0, 2, 3, 1])
    x = net.op("ArgMax", x, name="indices", axis=3, keepdims=0)
    net.output(x, (1, height, width))
    return net.model("icnet-camvid-ava-sparse-60-0001")
