"""Simple-BEV (Harley et al., ICRA 2023), vehicle segmentation from cameras, or cameras and radar.

Features are sampled bilinearly at the voxels of a volume and averaged over the cameras that see
each voxel; no depth is predicted. The volume is fixed to the optical frame of the first camera, and
BEV maps are indexed [Z forward, X right].
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bev_export.checkpoint import Packaging
from bev_export.families.layers import RGB_MEAN, RGB_STD, UpsampleConcat
from bev_export.resnet import BasicBlock, Bottleneck, residual_stage

IMAGE_SIZE = (448, 800)
FEATURE_SIZE = (56, 100)
LATENT = 128
CELLS = (200, 8, 200)
"""Along Z, Y and X."""
FORWARD, DOWN, RIGHT = (-50.0, 50.0), (-4.0, 6.0), (-50.0, 50.0)
"""Metres, in the first camera's frame."""
RADAR_CHANNELS = 16
MIN_DEPTH_M = 1e-6
COUNT_BIAS = 1e-6
PACKAGING = Packaging(wrapper="model_state_dict")


class Encoder(nn.Module):
    """ResNet-101 to stride 16, brought together at stride 8."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            residual_stage(Bottleneck, 64, 256, count=3, stride=1),
            residual_stage(Bottleneck, 256, 512, count=4, stride=2),
        )
        self.layer3 = residual_stage(Bottleneck, 512, 1024, count=23, stride=2)
        self.depth_layer = nn.Conv2d(512, LATENT, 1)
        self.upsampling_layer = UpsampleConcat(
            1024 + 512, 512, align_corners=False, norm=nn.InstanceNorm2d
        )
        for name, values in (("mean", RGB_MEAN), ("std", RGB_STD)):
            buffer = torch.tensor(values).view(3, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Float [N, 3, 448, 800], RGB in -0.5..0.5, to [N, 128, 56, 100]."""
        eighth = self.backbone((images + 0.5 - self.mean) / self.std)
        return self.depth_layer(self.upsampling_layer(self.layer3(eighth), eighth))


class AddSkip(nn.Module):
    """Doubles a map, changes its channels and adds another."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.upsample_layer = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.InstanceNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Float [1, inputs, H, W] and [1, outputs, 2 H, 2 W] to the latter's shape."""
        return self.upsample_layer(x) + skip


class Decoder(nn.Module):
    """BEV features to the outputs of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.first_conv = nn.Conv2d(LATENT, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = residual_stage(BasicBlock, 64, 64, count=2, stride=1)
        self.layer2 = residual_stage(BasicBlock, 64, 128, count=2, stride=2)
        self.layer3 = residual_stage(BasicBlock, 128, 256, count=2, stride=2)
        self.up3_skip = AddSkip(256, 128)
        self.up2_skip = AddSkip(128, 64)
        self.up1_skip = AddSkip(64, LATENT)
        self.feat_head = _head(LATENT)
        self.segmentation_head = _head(1)
        self.instance_offset_head = _head(2)
        self.instance_center_head = _head(1)

    def forward(self, bev: torch.Tensor) -> torch.Tensor:
        """Float [1, 128, 200, 200] to the same shape, which the heads read."""
        x = functional.relu(self.bn1(self.first_conv(bev)))
        x1 = self.layer1(x)
        x2 = self.layer2(x1)
        x = self.up3_skip(self.layer3(x2), x2)
        x = self.up2_skip(x, x1)
        return self.up1_skip(x, bev)

    def heads(self, raw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Float [1, 128, 200, 200] to segmentation (logit), centre (probability) and offset (cells
        along X and Z), [1, 1 or 2, 200, 200].
        """
        centre = torch.sigmoid(self.instance_center_head(raw))
        return self.segmentation_head(raw), centre, self.instance_offset_head(raw)


class SimpleBev(nn.Module):
    """The whole network, as its checkpoint holds it.

    Args:
        has_radar: whether the network also reads a volume of radar features.
    """

    def __init__(self, *, has_radar: bool) -> None:
        super().__init__()
        self.has_radar = has_radar
        for name in ("ce_weight", "center_weight", "offset_weight"):
            setattr(self, name, nn.Parameter(torch.zeros(())))
        self.encoder = Encoder()
        folded = (LATENT + RADAR_CHANNELS * has_radar) * CELLS[1]
        self.bev_compressor = nn.Sequential(
            nn.Conv2d(folded, LATENT, 3, padding=1, bias=False),
            nn.InstanceNorm2d(LATENT),
            nn.GELU(),
        )
        self.decoder = Decoder()

    def forward(
        self,
        images: torch.Tensor,
        intrinsics: torch.Tensor,
        first_from_camera: torch.Tensor,
        radar: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """From pictures to all outputs; see the manifest for the runtime's way.

        Args:
            images: float32 [N, 3, 448, 800], RGB in -0.5..0.5.
            intrinsics: float32 [N, 3, 3] of the network's input.
            first_from_camera: float32 [N, 4, 4], each camera's optical frame to the first one's.
            radar: float32 [1, 16, Z, Y, X], features of the radar's points, 0 elsewhere.

        Returns:
            `raw` and `feat` [1, 128, Z, X], `segmentation` [1, 1, Z, X] (logit), `center` (the
            same, 0..1), `offset` [1, 2, Z, X] in cells; and what leads to them: `features`
            [N, 128, 56, 100], `voxels` [1, 128, Z, Y, X], `seen` int64 [Z, Y, X], `bev`
            [1, 128, Z, X].
        """
        features = self.encoder(images)
        voxels, seen = lift(features, intrinsics, first_from_camera)
        folded = [_fold(voxels)]
        if self.has_radar:
            empty = torch.zeros(1, RADAR_CHANNELS, *CELLS)
            folded.append(_fold(empty if radar is None else radar))
        bev = self.bev_compressor(torch.cat(folded, dim=1))
        raw = self.decoder(bev)
        segmentation, center, offset = self.decoder.heads(raw)
        return {
            "features": features,
            "voxels": voxels,
            "seen": seen,
            "bev": bev,
            "raw": raw,
            "feat": self.decoder.feat_head(raw),
            "segmentation": segmentation,
            "center": center,
            "offset": offset,
        }


def voxel_centres() -> torch.Tensor:
    """float32 [Z, Y, X, 3], x y z in the first camera's frame, metres."""
    axes = [
        low + (torch.arange(count, dtype=torch.float32) + 0.5) * ((high - low) / count)
        for (low, high), count in zip((FORWARD, DOWN, RIGHT), CELLS, strict=True)
    ]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([x, y, z], dim=-1)


def lift(
    features: torch.Tensor, intrinsics: torch.Tensor, first_from_camera: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples every camera at every voxel and averages what is not zero, as published.

    The sampling position is found with one convention for pixels and used with another, so a
    feature pixel u is really read at u * width / (width - 1) - 0.5.

    Args:
        features: float32 [N, C, 56, 100].
        intrinsics: float32 [N, 3, 3] of the network's input.
        first_from_camera: float32 [N, 4, 4].

    Returns:
        float32 [1, C, Z, Y, X], and int64 [Z, Y, X], the number of cameras in whose picture a voxel
        is.
    """
    height, width = FEATURE_SIZE
    scale = torch.tensor([width / IMAGE_SIZE[1], height / IMAGE_SIZE[0]])
    last = torch.tensor([width - 1.0, height - 1.0])
    points = voxel_centres().view(-1, 3)
    total = torch.zeros(features.shape[1], len(points))
    count = torch.zeros(features.shape[1], len(points))
    seen = torch.zeros(len(points), dtype=torch.int64)
    for feature, k, pose in zip(features, intrinsics, first_from_camera, strict=True):
        rotation, translation = pose[:3, :3], pose[:3, 3]
        local = points @ rotation - translation @ rotation
        focal, centre = k.diagonal()[:2] * scale, k[:2, 2] * scale
        depth = local[:, 2:]
        pixel = local[:, :2] * focal / depth.clamp(min=MIN_DEPTH_M) + centre
        valid = ((pixel > -0.5) & (pixel < last + 0.5)).all(dim=1) & (depth[:, 0] > 0)
        position = (2 * pixel / last - 1).clamp(-2, 2)
        sampled = functional.grid_sample(
            feature[None], position[None, None], mode="bilinear", align_corners=False
        )[0, :, 0]
        sampled = sampled * valid
        total += sampled
        count += sampled != 0
        seen += valid
    return (total / (COUNT_BIAS + count)).view(1, -1, *CELLS), seen.view(CELLS)


def _fold(voxels: torch.Tensor) -> torch.Tensor:
    """Float [1, C, Z, Y, X] to [1, C * Y, Z, X]."""
    return voxels.permute(0, 1, 3, 2, 4).flatten(1, 2)


def _head(outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(LATENT, LATENT, 3, padding=1, bias=False),
        nn.InstanceNorm2d(LATENT),
        nn.ReLU(),
        nn.Conv2d(LATENT, outputs, 1),
    )
