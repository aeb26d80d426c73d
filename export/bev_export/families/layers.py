"""Layers that several families share."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, for pixels in 0..1; all published encoders here were trained with them."""


class UpsampleConcat(nn.Module):
    """Doubles (or more) a deep map, appends it to a shallow one and convolves twice.

    Args:
        inputs: channels of both together.
        outputs: channels of the result.
        scale: of the upsampling.
        align_corners: whether the corner pixels of both sizes lie on each other.
        norm: the normalisation, made with the number of channels.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        scale: int = 2,
        align_corners: bool,
        norm: type[nn.BatchNorm2d] | type[nn.InstanceNorm2d] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self._scale, self._align_corners = scale, align_corners
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
            nn.ReLU(),
        )

    def forward(self, deep: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        """Float [N, C1, H, W] and [N, C2, scale H, scale W] to [N, outputs, scale H, scale W]."""
        larger = functional.interpolate(
            deep, scale_factor=self._scale, mode="bilinear", align_corners=self._align_corners
        )
        return self.conv(torch.cat([shallow, larger], dim=1))
