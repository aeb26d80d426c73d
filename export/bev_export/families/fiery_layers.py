"""Layers of FIERY: temporal blocks, bottlenecks, the latent distribution and a GRU.

Names of parameters are those of the published checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bev_export.families.power_bev_network import Shortcut

REDUCTION = 3
"""Channels of a temporal block's input for one of its pooled context."""
DOWN_STEPS = 4


class ConvNormRelu(nn.Module):
    """Convolution without bias, BatchNorm, ReLU over [B, C, T, H, W].

    `kernel` is (time, rows, columns). Time is padded with zeros before the first moment only, so
    nothing depends on what comes later.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(
            inputs, outputs, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2), bias=False
        )
        self.norm = nn.BatchNorm3d(outputs)
        self._before = kernel[0] - 1

    def forward(self, x: Tensor) -> Tensor:
        """The input's shape with other channels."""
        if self._before:
            x = functional.pad(x, (0, 0, 0, 0, self._before, 0))
        return functional.relu(self.norm(self.conv(x)))


class ContextPool(nn.Module):
    """The mean over the whole map of a moment and the one before, spread over the map."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers = OrderedDict(conv_bn_relu=ConvNormRelu(inputs, outputs))
        self.features = nn.ModuleList([nn.ModuleDict(layers)])

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, C, T, H, W] to [B, outputs, T, H, W]."""
        mean = x.mean(dim=(3, 4), keepdim=True)
        # The first moment has none before it.
        pooled = (torch.cat([mean[:, :, :1], mean[:, :, :-1]], dim=2) + mean) / 2
        return self.features[0]["conv_bn_relu"](pooled).expand(-1, -1, -1, *x.shape[-2:])


class TemporalBlock(nn.Module):
    """Paths with and without a look at the moment before, and the context, aggregated."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half, context = inputs // 2, inputs // REDUCTION
        self.convolution_paths = nn.ModuleList(
            [
                nn.Sequential(ConvNormRelu(inputs, half), ConvNormRelu(half, half, (2, 3, 3))),
                nn.Sequential(ConvNormRelu(inputs, half), ConvNormRelu(half, half, (1, 3, 3))),
                ConvNormRelu(inputs, half),
            ]
        )
        self.pyramid_pooling = ContextPool(inputs, context)
        self.aggregation = nn.Sequential(ConvNormRelu(3 * half + context, outputs))
        self.projection = None
        if inputs != outputs:
            self.projection = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, bias=False), nn.BatchNorm3d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, inputs, T, H, W] to [B, outputs, T, H, W]."""
        paths = [path(x) for path in self.convolution_paths]
        y = self.aggregation(torch.cat([*paths, self.pyramid_pooling(x)], dim=1))
        return y + (x if self.projection is None else self.projection(x))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each with BatchNorm and ReLU, and a shortcut; no activation after
    the sum.
    """

    def __init__(self, inputs: int, outputs: int, change: Literal["same", "down"] = "same") -> None:
        super().__init__()
        half, stride = inputs // 2, 2 if change == "down" else 1
        self.layers = nn.Sequential(
            OrderedDict(
                conv_down_project=nn.Conv2d(inputs, half, 1, bias=False),
                abn_down_project=_norm_relu(half),
                conv=nn.Conv2d(half, half, 3, stride, padding=1, bias=False),
                abn=_norm_relu(half),
                conv_up_project=nn.Conv2d(half, outputs, 1, bias=False),
                abn_up_project=_norm_relu(outputs),
            )
        )
        plain = inputs == outputs and change == "same"
        self.projection = None if plain else Shortcut(inputs, outputs, change)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, inputs, H, W] to [B, outputs, H', W']."""
        return self.layers(x) + (x if self.projection is None else self.projection(x))


class Distribution(nn.Module):
    """A state to mean and logarithm of the standard deviation of a normal distribution."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        half = inputs // 2
        blocks = [Bottleneck(inputs, half, "down")]
        blocks += [Bottleneck(half, half, "down") for _ in range(DOWN_STEPS - 1)]
        self.encoder = nn.ModuleDict({"model": nn.Sequential(*blocks)})
        self.last_conv = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(half, 2 * latent, 1))

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Float [1, inputs, H, W] to twice [1, latent, 1, 1]."""
        mean, log_sigma = self.last_conv(self.encoder["model"](state)).chunk(2, dim=1)
        return mean, log_sigma


class ConvNorm(nn.Module):
    """Convolution 3x3 without bias, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, inputs, H, W] to [B, outputs, H, W]."""
        return functional.relu(self.norm(self.conv(x)))


class SpatialGru(nn.Module):
    """One step of a gated recurrent unit on maps."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.conv_update = nn.Conv2d(inputs + hidden, hidden, 3, padding=1)
        self.conv_reset = nn.Conv2d(inputs + hidden, hidden, 3, padding=1)
        self.conv_state_tilde = ConvNorm(inputs + hidden, hidden)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state, float [1, hidden, H, W]."""
        both = torch.cat([x, state], dim=1)
        update = torch.sigmoid(self.conv_update(both))
        reset = torch.sigmoid(self.conv_reset(both))
        candidate = self.conv_state_tilde(torch.cat([x, (1 - reset) * state], dim=1))
        return (1 - update) * state + update * candidate


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
