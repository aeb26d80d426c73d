"""PowerBEV's spatio-temporal network: from a stack of BEV features to segmentation and flow.

Two U-Nets of the same shape, one for each output, whose time axis is folded into the channels; see
Li et al., PowerBEV: A Powerful yet Lightweight Framework for Instance Prediction in Bird's-Eye
View, IJCAI 2023. Names of parameters are those of the published checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

CHANNELS = (16, 24, 32, 48, 64)
UNITS = 3
LATENT = 16
"""Channels of each time slot between a branch and its head."""
SLOPE = 0.01
Change = Literal["same", "down", "up"]


class Shortcut(nn.Module):
    """The way around a unit: resampled, then a 1x1 convolution and BatchNorm."""

    def __init__(self, inputs: int, outputs: int, change: Change) -> None:
        super().__init__()
        self.change = change
        self.conv_skip_proj = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn_skip_proj = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """From [B, inputs, H, W] to [B, outputs, H', W']."""
        if self.change == "down":
            height, width = x.shape[-2:]
            if height % 2 or width % 2:  # the last row or column of an odd size has a pool of zeros
                x = functional.pad(x, (0, width % 2, 0, height % 2))
            x = functional.max_pool2d(x, 2)
        elif self.change == "up":
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.bn_skip_proj(self.conv_skip_proj(x))


class Unit(nn.Module):
    """Convolution 3x3, BatchNorm, leaky ReLU, plus the shortcut; no activation after the sum."""

    def __init__(self, inputs: int, outputs: int, change: Change = "same") -> None:
        super().__init__()
        if change == "up":
            conv: nn.Module = nn.ConvTranspose2d(
                inputs, outputs, 3, stride=2, padding=1, output_padding=1, bias=False
            )
        else:
            stride = 2 if change == "down" else 1
            conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE))
        plain = inputs == outputs and change == "same"
        self.projection = None if plain else Shortcut(inputs, outputs, change)

    def forward(self, x: Tensor) -> Tensor:
        """From [B, inputs, H, W] to [B, outputs, H', W']."""
        return self.layers(x) + (x if self.projection is None else self.projection(x))


def _stage(prefix: str, units: list[Unit]) -> nn.Sequential:
    named = OrderedDict((f"{prefix}_{n}", unit) for n, unit in enumerate(units, start=1))
    return nn.Sequential(named)


class Encoder(nn.Module):
    """Five stages; the last unit of each halves the size."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        stages = []
        for number, width in enumerate(widths, start=1):
            units = [Unit(inputs, width)]
            units += [Unit(width, width) for _ in range(UNITS - 2)]
            units.append(Unit(width, width, "down"))
            stages.append(_stage(f"downconv_{number}", units))
            inputs = width
        self.conv = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        """The output of each stage, fine to coarse."""
        maps = []
        for stage in self.conv:
            x = stage(x)
            maps.append(x)
        return maps


class Predictor(nn.Module):
    """At each scale, from the channels of the frames seen to those of the slots predicted."""

    def __init__(self, widths: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.predictor = nn.ModuleList(
            nn.Sequential(
                *(Unit(seen, seen) for _ in range(UNITS - 1)),
                Unit(seen, predicted),
                *(Unit(predicted, predicted) for _ in range(UNITS - 1)),
            )
            for seen, predicted in zip(widths, outputs, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """One map for each scale, of the same size."""
        return [stage(x) for stage, x in zip(self.predictor, maps, strict=True)]


class Decoder(nn.Module):
    """Coarse to fine; the first unit of each stage doubles the size."""

    def __init__(self, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        super().__init__()
        stages, running = [], inputs[-1]
        for number, (skip, width) in enumerate(zip(inputs[::-1], outputs, strict=True), start=1):
            units = [Unit(running + skip, width, "up")]
            units += [Unit(width, width) for _ in range(UNITS - 1)]
            stages.append(_stage(f"upconv_{number}", units))
            running = width
        self.conv = nn.ModuleList(stages)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The finest map, [B, outputs[-1], H, W]."""
        x = maps[-1]
        for stage, skip in zip(self.conv, maps[::-1], strict=True):
            if x.shape[-2:] != skip.shape[-2:]:
                size = (int(skip.shape[-2]), int(skip.shape[-1]))
                x = functional.interpolate(x, size=size, mode="bilinear", align_corners=True)
            x = stage(torch.cat([x, skip], dim=1))
        return x


class Branch(nn.Module):
    """One U-Net: [1, frames * C, H, W] to [slots, LATENT, H, W]."""

    def __init__(self, inputs: int, frames: int, slots: int) -> None:
        super().__init__()
        seen = tuple(frames * width for width in CHANNELS)
        predicted = tuple(slots * width for width in CHANNELS)
        self.slots = slots
        self.BEV_encoder = Encoder(frames * inputs, seen)
        self.BEV_predictor = Predictor(seen, predicted)
        self.BEV_decoder = Decoder(predicted, (*predicted[-2::-1], slots * LATENT))

    def forward(self, x: Tensor) -> Tensor:
        """Slot by slot along the first axis."""
        x = self.BEV_decoder(self.BEV_predictor(self.BEV_encoder(x)))
        return x.reshape(self.slots, LATENT, x.shape[-2], x.shape[-1])


class Head(nn.Module):
    """Shared by all slots: [slots, LATENT, H, W] to [slots, outputs, H, W]."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        half, quarter = LATENT // 2, LATENT // 4
        self.head = nn.Sequential(
            Unit(LATENT, half), Unit(half, half), Unit(half, quarter), Unit(quarter, quarter)
        )
        self.last_conv = nn.Conv2d(quarter, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Raw outputs."""
        return self.last_conv(self.head(x))


class SpatioTemporal(nn.Module):
    """Both branches and heads.

    Args:
        inputs: channels of one frame, the ego motion included.
        frames: moments seen.
        slots: moments predicted.
    """

    def __init__(self, inputs: int, frames: int, slots: int) -> None:
        super().__init__()
        self.segmentation_branch = Branch(inputs, frames, slots)
        self.segmentation_head = Head(2)
        self.flow_branch = Branch(inputs, frames, slots)
        self.flow_head = Head(2)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Segmentation logits and flow, each [1, slots, 2, H, W].

        Args:
            frames: [1, frames, inputs, H, W], in the present ego frame, oldest first.
        """
        folded = frames.reshape(1, -1, frames.shape[-2], frames.shape[-1])
        segmentation = self.segmentation_head(self.segmentation_branch(folded))
        flow = self.flow_head(self.flow_branch(folded))
        return segmentation.unsqueeze(0), flow.unsqueeze(0)
