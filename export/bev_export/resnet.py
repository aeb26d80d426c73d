"""Residual stages of ResNet, named as in the published checkpoints (`0.conv1`, `0.downsample.1`).

Architecture: He et al., CVPR 2016; the bottleneck has its stride on the 3x3 convolution.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

BOTTLENECK_EXPANSION = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ResNet-18 and -34."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut; ResNet-50 and deeper."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // BOTTLENECK_EXPANSION
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [N, inputs, H, W] to [N, outputs, H / stride, W / stride]."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


def residual_stage(
    block: type[BasicBlock] | type[Bottleneck],
    inputs: int,
    outputs: int,
    *,
    count: int,
    stride: int,
) -> nn.Sequential:
    """`count` blocks of which the first has the stride."""
    first = block(inputs, outputs, stride)
    return nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """None where the input itself has the right shape."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
