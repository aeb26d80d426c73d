"""The network: two branches to the bird's-eye view, and a head that takes what there is."""

from __future__ import annotations

import torch
from torch import nn

from bev_export.metabev.encoder import ImageEncoder
from bev_export.metabev.pool import pool

CLASSES = (
    "car",
    "truck",
    "bus",
    "pedestrian",
    "motorcycle",
    "bicycle",
    "traffic_cone",
    "barrier",
)
LAYERS = ("drivable_area", "lane_line", "crossing")
GRID = 128
PILLAR_CHANNELS = 16
GEOMETRY_CHANNELS = 4
DEPTH_BINS = 56
DEPTH_MIN, DEPTH_STEP = 1.0, 1.0
CONTEXT = 48
BOX_TERMS = 12
HEADS = 4
MASKED = -1e4


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape out."""
        return nn.functional.relu(x + self.second(self.first(x)))


class CameraBranch(nn.Module):
    """Images to features and depth per pixel of stride 8, lifted and pooled to the grid.

    `geometry` tells each pixel where its ray meets flat ground, so that one set of weights serves
    lenses and mounts of any kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ImageEncoder()
        self.deep = conv(80, 64, 1)
        self.neck = conv(40 + 64 + GEOMETRY_CHANNELS, 64)
        self.refine = conv(64, 64)
        self.out = nn.Conv2d(64, DEPTH_BINS + CONTEXT, 1)
        self.pooled = conv(CONTEXT, CONTEXT, 1)

    def pixels(
        self, images: torch.Tensor, geometry: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, 3, 192, 528] and [N, 4, 24, 66] to depth logits [N, D, 24, 66] and features
        [N, 24, 66, C].
        """
        eighth, sixteenth = self.encoder(images)
        up = nn.functional.interpolate(self.deep(sixteenth), scale_factor=2.0, mode="nearest")
        x = self.refine(self.neck(torch.cat([eighth, up, geometry], dim=1)))
        x = self.out(x)
        return x[:, :DEPTH_BINS], x[:, DEPTH_BINS:].permute(0, 2, 3, 1)

    def bev(
        self,
        logits: torch.Tensor,
        feat: torch.Tensor,
        table: tuple[torch.Tensor, ...],
        groups: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pools B samples (`groups` [B + 1], None for one) to [B, C, 128, 128]."""
        samples = 1 if groups is None else len(groups) - 1
        depth = logits.float().softmax(dim=1)
        size = (samples * GRID, GRID)
        pooled = pool(depth, feat.float(), table, size, groups)
        pooled = pooled.view(samples, GRID, GRID, CONTEXT).permute(0, 3, 1, 2)
        return self.pooled(pooled)

    def forward(
        self, images: torch.Tensor, geometry: torch.Tensor, *table: torch.Tensor
    ) -> torch.Tensor:
        """One sample, as exported."""
        logits, feat = self.pixels(images, geometry)
        return self.bev(logits, feat, table)


class LidarBranch(nn.Module):
    """Pillar features [B, 16, 256, 256] to [B, C, 128, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(conv(PILLAR_CHANNELS, 32, stride=2), conv(32, CONTEXT))

    def forward(self, pillars: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.layers(pillars)


class Fusion(nn.Module):
    """A learned query per cell attends over camera, LiDAR and a null token.

    Where a mask is 0 its features have no influence, whatever they are; where both are, the cell is
    the null token's value.

    Sums over a head and their spreading over its channels are written as 1x1 convolutions: between
    convolutions ONNX Runtime keeps its own layout of channels, and would leave it for anything
    else. That is a sixth of the head's time.
    """

    sum_heads: torch.Tensor
    spread: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.randn(1, CONTEXT, GRID, 1) * 0.02)
        self.column = nn.Parameter(torch.randn(1, CONTEXT, 1, GRID) * 0.02)
        self.query = nn.Conv2d(2 * CONTEXT, CONTEXT, 1)
        self.camera = nn.Conv2d(CONTEXT, 2 * CONTEXT, 1)
        self.lidar = nn.Conv2d(CONTEXT, 2 * CONTEXT, 1)
        self.null_key = nn.Parameter(torch.zeros(1, CONTEXT, 1, 1))
        self.null_value = nn.Parameter(torch.zeros(1, CONTEXT, 1, 1))
        self.out = conv(CONTEXT, CONTEXT, 1)
        of_head = torch.eye(HEADS).repeat_interleave(CONTEXT // HEADS, dim=1)[:, :, None, None]
        scale = (CONTEXT // HEADS) ** -0.5
        self.register_buffer("sum_heads", of_head * scale, persistent=False)  # [heads, C, 1, 1]
        self.register_buffer("spread", of_head.transpose(0, 1).contiguous(), persistent=False)

    def forward(
        self,
        camera: torch.Tensor,
        lidar: torch.Tensor,
        camera_mask: torch.Tensor,
        lidar_mask: torch.Tensor,
    ) -> torch.Tensor:
        """[B, C, 128, 128] twice and masks [B, 1, 128, 128] to [B, C, 128, 128]."""
        zero = torch.zeros((), dtype=camera.dtype, device=camera.device)
        camera = torch.where(camera_mask > 0.5, camera, zero)
        lidar = torch.where(lidar_mask > 0.5, lidar, zero)
        conv2d = nn.functional.conv2d
        weight = self.query.weight
        query = conv2d(camera, weight[:, :CONTEXT], self.query.bias)
        query = query + conv2d(lidar, weight[:, CONTEXT:]) + (self.row + self.column)
        camera_key, camera_value = self._keys_and_values(self.camera, camera)
        lidar_key, lidar_value = self._keys_and_values(self.lidar, lidar)
        scores = [
            conv2d(query * camera_key, self.sum_heads) + (1 - camera_mask) * MASKED,
            conv2d(query * lidar_key, self.sum_heads) + (1 - lidar_mask) * MASKED,
            conv2d(query, self.sum_heads * self.null_key),
        ]
        # Softmax written out: over three in front, ONNX Runtime's costs a tenth of the head.
        top = torch.maximum(torch.maximum(scores[0], scores[1]), scores[2])
        powers = [(score - top).exp() for score in scores]
        total = powers[0] + powers[1] + powers[2]
        shares = [power / total for power in powers]
        mixed = (
            conv2d(shares[0], self.spread) * camera_value
            + conv2d(shares[1], self.spread) * lidar_value
            + conv2d(shares[2], self.spread * self.null_value.transpose(0, 1))
        )
        return self.out(mixed)

    @staticmethod
    def _keys_and_values(layer: nn.Conv2d, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert layer.bias is not None
        parts = slice(0, CONTEXT), slice(CONTEXT, None)
        return tuple(
            nn.functional.conv2d(features, layer.weight[part], layer.bias[part]) for part in parts
        )


class Head(nn.Module):
    """Fusion, a small U-shaped backbone over 128, 64 and 32 cells, boxes, map and line of sight."""

    def __init__(self) -> None:
        super().__init__()
        self.fusion = Fusion()
        self.down1 = nn.Sequential(conv(CONTEXT, 64, stride=2), Residual(64))
        self.down2 = nn.Sequential(conv(64, 112, stride=2), Residual(112), Residual(112))
        self.up2 = conv(112, 64, 1)
        self.merge = conv(64, 48)
        self.up1 = conv(48, CONTEXT, 1)
        self.trunk = conv(CONTEXT, CONTEXT)
        self.heatmap = nn.Conv2d(CONTEXT, len(CLASSES), 1)
        self.boxes = nn.Conv2d(CONTEXT, BOX_TERMS, 1)
        self.map = nn.Conv2d(CONTEXT, len(LAYERS), 1)
        self.sight = nn.Conv2d(CONTEXT, 1, 1)
        nn.init.constant_(self.heatmap.bias, -2.5)

    def forward(
        self,
        camera: torch.Tensor,
        lidar: torch.Tensor,
        camera_mask: torch.Tensor,
        lidar_mask: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Heatmap logits [B, 8, 128, 128], box terms [B, 12, 128, 128], map logits
        [B, 3, 128, 128], and logits [B, 1, 128, 128] of whether a live sensor sees the ground.
        """
        fused = self.fusion(camera, lidar, camera_mask, lidar_mask)
        half = self.down1(fused)
        quarter = self.down2(half)
        up = nn.functional.interpolate(self.up2(quarter), scale_factor=2.0, mode="nearest")
        half = self.merge(half + up)
        up = nn.functional.interpolate(self.up1(half), scale_factor=2.0, mode="nearest")
        x = self.trunk(fused + up)
        return self.heatmap(x), self.boxes(x), self.map(x), self.sight(x)


class MetaBev(nn.Module):
    """The three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.camera_branch = CameraBranch()
        self.lidar_branch = LidarBranch()
        self.head = Head()
