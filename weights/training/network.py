"""The network camvid-small: residual blocks at 1/8 and 1/16, and a decoder with two skips.

Every convolution is dense and has a batch normalisation behind it (an inference engine folds it
into the weights). Pictures enter as values from 0 to 255: the first batch normalisation is all the
scaling they need. Blocks are the bottlenecks of ResNet (He et al., 2016), widened by dilation as in
Dilated Residual Networks (Yu et al., 2017); the decoder adds skips as FPN does (Lin et al., 2017).
Before the last layer, training drops one of ten channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

CLASSES = 12
#: Dilations of the bottlenecks at 1/8 and at 1/16 of the picture's size.
EIGHTH = (1, 1, 2)
SIXTEENTH = (1, 2, 4, 1, 2, 4, 8)


class ConvBlock(nn.Sequential):
    """Convolution, batch normalisation and, unless ``relu`` is False, ReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        relu: bool = True,
    ):
        padding = dilation * (kernel // 2)
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Bottleneck(nn.Module):
    """Adds to its input what a narrow 3×3 convolution sees between two 1×1 convolutions."""

    def __init__(self, width: int, narrow: int, dilation: int):
        super().__init__()
        self.branch = nn.Sequential(
            ConvBlock(width, narrow, 1),
            ConvBlock(narrow, narrow, 3, dilation=dilation),
            ConvBlock(narrow, width, 1, relu=False),
        )
        nn.init.zeros_(self.branch[-1][1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.branch(x))


class SmallNet(nn.Module):
    """N×3×H×W RGB pictures, 0 to 255, to N×12×H/4×W/4 logits; `full_size` enlarges them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_quarter = nn.Sequential(ConvBlock(3, 16, 3, 2), ConvBlock(16, 48, 3, 2))
        self.to_eighth = nn.Sequential(
            ConvBlock(48, 96, 3, 2), *(Bottleneck(96, 48, d) for d in EIGHTH)
        )
        self.to_sixteenth = nn.Sequential(
            ConvBlock(96, 192, 3, 2), *(Bottleneck(192, 64, d) for d in SIXTEENTH)
        )
        self.deep = ConvBlock(192, 64, 1, relu=False)
        self.skip_eighth = ConvBlock(96, 64, 1, relu=False)
        self.mix_eighth = ConvBlock(64, 64, 3)
        self.narrow = ConvBlock(64, 48, 1, relu=False)
        self.skip_quarter = ConvBlock(48, 48, 1, relu=False)
        self.mix_quarter = ConvBlock(48, 48, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.head = nn.Conv2d(48, CLASSES, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        quarter = self.to_quarter(pictures)
        eighth = self.to_eighth(quarter)
        sixteenth = self.to_sixteenth(eighth)
        x = enlarge(self.deep(sixteenth), eighth) + self.skip_eighth(eighth)
        x = self.mix_eighth(functional.relu(x))
        x = enlarge(self.narrow(x), quarter) + self.skip_quarter(quarter)
        x = self.mix_quarter(functional.relu(x))
        logits: Tensor = self.head(self.dropout(x))
        return logits


class FullSize(nn.Module):
    """The network as it is exported: logits as large as the picture."""

    def __init__(self, network: SmallNet):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return enlarge(self.network(pictures), pictures)


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """``x`` bilinearly resized to the height and width of ``like``."""
    size = (int(like.shape[2]), int(like.shape[3]))
    return functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """The network's convolutions, in a fixed order."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]
