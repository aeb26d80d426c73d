"""Lift-Splat-Shoot (Philion and Fidler, ECCV 2020), vehicle segmentation: the network.

`camencode` gives every feature pixel a distribution over depth and a feature; their products are
summed over the points of each BEV cell; `bevencode` makes a logit of each cell. Images are RGB in
0..1, normalised; the BEV is indexed [x forward, y left] in the ego frame.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bev_export.checkpoint import Packaging
from bev_export.efficientnet import EfficientNet
from bev_export.families.layers import UpsampleConcat
from bev_export.families.lift import (
    BevPoolNode,
    find_cells,
    grid_terms,
    lift_points,
    make_frustum,
    splat,
)
from bev_export.resnet import BasicBlock, residual_stage

IMAGE_SIZE = (128, 352)
FEATURE_SIZE = (8, 22)
DEPTH = (4.0, 45.0, 1.0)
DEPTH_BINS = 41
BOUNDS = ((-50.0, 50.0, 0.5), (-50.0, 50.0, 0.5), (-10.0, 10.0, 20.0))
CELLS = (200, 200)
CONTEXT = 64
TAPS = (10, 15)
"""Blocks of the trunk that end stride 16 and stride 32."""
PACKAGING = Packaging(computed=("dx", "bx", "nx", "frustum"))


class CameraEncoder(nn.Module):
    """Images to depth and features."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = EfficientNet("b0", has_head=True)
        shallow, deep = (self.trunk.channels[tap] for tap in TAPS)
        self.up1 = UpsampleConcat(shallow + deep, 512, align_corners=True)
        self.depthnet = nn.Conv2d(512, DEPTH_BINS + CONTEXT, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float [N, 3, 128, 352] to depth [N, 41, 8, 22], which sums to 1, and features
        [N, 64, 8, 22].
        """
        shallow, deep = self.trunk(images, TAPS)
        x = self.depthnet(self.up1(deep, shallow))
        return x[:, :DEPTH_BINS].softmax(dim=1), x[:, DEPTH_BINS:]


class BevEncoder(nn.Module):
    """BEV features to logits, both on the same cells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CONTEXT, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = residual_stage(BasicBlock, 64, 64, count=2, stride=1)
        self.layer2 = residual_stage(BasicBlock, 64, 128, count=2, stride=2)
        self.layer3 = residual_stage(BasicBlock, 128, 256, count=2, stride=2)
        self.up1 = UpsampleConcat(64 + 256, 256, scale=4, align_corners=True)
        self.up2 = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(256, 128, 3, padding=1, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 1, 1),
        )

    def forward(self, bev: torch.Tensor) -> torch.Tensor:
        """Float [1, 64, 200, 200] to [1, 1, 200, 200]."""
        x = functional.relu(self.bn1(self.conv1(bev)))
        x1 = self.layer1(x)
        x = self.layer3(self.layer2(x1))
        return self.up2(self.up1(x, x1))


class LiftSplatShoot(nn.Module):
    """The whole network, as its checkpoint holds it."""

    def __init__(self) -> None:
        super().__init__()
        size, first, count = grid_terms(BOUNDS)
        self.register_buffer("dx", size)
        self.register_buffer("bx", first)
        self.register_buffer("nx", count)
        self.register_buffer("frustum", make_frustum(IMAGE_SIZE, FEATURE_SIZE, DEPTH))
        self.camencode = CameraEncoder()
        self.bevencode = BevEncoder()

    def forward(
        self,
        images: torch.Tensor,
        rotations: torch.Tensor,
        translations: torch.Tensor,
        intrinsics: torch.Tensor,
        image_maps: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """From pictures to logits; see the attributes of the manifest for the runtime's way.

        Args:
            images: float32 [N, 3, 128, 352], normalised.
            rotations: float32 [N, 3, 3], camera to ego.
            translations: float32 [N, 3], metres.
            intrinsics: float32 [N, 3, 3] of the original pictures.
            image_maps: float32 [N, 3, 3] and [N, 3]: matrix and offset that take original pixels to
                those of the network's input.

        Returns:
            float32 [1, 1, 200, 200], the logit of a vehicle.
        """
        points = self.points(rotations, translations, intrinsics, image_maps)
        return self.bevencode(self.lift(images, points))

    def points(
        self,
        rotations: torch.Tensor,
        translations: torch.Tensor,
        intrinsics: torch.Tensor,
        image_maps: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """Frustum points in the ego frame, float32 [N, 41, 8, 22, 3]."""
        matrix, offset = image_maps
        pixels = self.frustum - offset[:, None, None, None]
        pixels = torch.einsum("nij,ndhwj->ndhwi", torch.linalg.inv(matrix), pixels)
        return lift_points(pixels, rotations, translations, intrinsics)

    def lift(self, images: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
        """BEV features float32 [1, 64, 200, 200]."""
        depth, feat = self.camencode(images)
        return splat(depth, feat, find_cells(points, self.dx, self.bx, self.nx), CELLS)


class CameraBranch(nn.Module):
    """The stage `camera_branch`: images and pooling table to BEV features."""

    def __init__(self, encoder: nn.Module, cells: tuple[int, int]) -> None:
        super().__init__()
        self._encoder, self._cells = encoder, cells

    def forward(self, images: torch.Tensor, *table: torch.Tensor) -> torch.Tensor:
        """Float [N, 3, H, W] to [1, C, rows, columns]."""
        depth, feat = self._encoder(images)
        pooled = BevPoolNode.apply(depth, feat.permute(0, 2, 3, 1), *table, *self._cells, CONTEXT)
        return pooled.permute(0, 3, 1, 2)
