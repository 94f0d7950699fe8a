"""Networks as a PyTorch user writes them, for export: a U-Net, and one on a ResNet-34 encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def twice(inputs: int, outputs: int, bias: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = []
    for source in (inputs, outputs):
        layers += [
            nn.Conv2d(source, outputs, 3, padding=1, bias=bias),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Ronneberger, Fischer and Brox, "U-Net", 2015, with padding and batch normalisation."""

    def __init__(self, classes: int, width: int, depth: int = 4):
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(map(twice, [3, *widths], widths))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(twice(a, b) for a, b in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(x if not level else F.max_pool2d(x, 2))
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], 1))
        return torch.softmax(self.head(x), 1)


class BasicBlock(nn.Module):
    """He et al., "Deep Residual Learning", 2016, figure 5 left."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.first(x)))
        return F.relu(self.norms[1](self.second(y)) + self.shortcut(x))


class ResNet34UNet(nn.Module):
    """A U-Net decoder on the features of a ResNet-34; logits, at the input's size."""

    def __init__(self, classes: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64))
        stages = [(64, 64, 3, 1), (64, 128, 4, 2), (128, 256, 6, 2), (256, 512, 3, 2)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(BasicBlock(i if n == 0 else o, o, s if n == 0 else 1) for n in range(count))
            )
            for i, o, count, s in stages
        )
        joins = [(512 + 256, 256), (256 + 128, 128), (128 + 64, 64), (64 + 64, 32), (32, 16)]
        self.decoder = nn.ModuleList(twice(i, o, bias=False) for i, o in joins)
        self.head = nn.Conv2d(16, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        features = [F.relu(self.stem(x))]
        y = F.max_pool2d(features[0], 3, 2, 1)
        for stage in self.stages:
            y = stage(y)
            features.append(y)
        for block, skip in zip(self.decoder, [*features[-2::-1], None], strict=True):
            y = F.interpolate(y, scale_factor=2.0, mode="nearest")
            y = block(y if skip is None else torch.cat([y, skip], 1))
        return self.head(y)


def settle(network: nn.Module, seed: int) -> nn.Module:
    """``network`` with random weights and the batch statistics of a few noisy pictures."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.bias, -0.2, 0.6)
    network.train()
    with torch.no_grad():
        for _ in range(12):
            network(torch.randn(2, 3, 64, 96))
    return network.eval()
