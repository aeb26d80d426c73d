"""What PowerBEV and FIERY share: images of three moments to features in the present ego frame.

Images of each moment are lifted to bird's-eye-view features, and those of the past are moved to the
present by the ego motion. Here the past is recomputed from its images; the runtime keeps the
features. Images are RGB in 0..1, normalised; the BEV is indexed [x forward, y left] in the ego
frame.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bev_export.efficientnet import EfficientNet
from bev_export.families.ego_motion import cumulative_motions, planar_sampling
from bev_export.families.layers import UpsampleConcat
from bev_export.families.lift import (
    BevPoolNode,
    Bound,
    find_cells,
    grid_terms,
    lift_points,
    make_frustum,
    splat,
)

IMAGE_SIZE = (224, 480)
FEATURE_SIZE = (28, 60)
DEPTH = (2.0, 50.0, 1.0)
DEPTH_BINS = 48
HEIGHT = (-10.0, 10.0, 20.0)
LONG = ((-50.0, 50.0, 0.5), (-50.0, 50.0, 0.5), HEIGHT)
SHORT = ((-15.0, 15.0, 0.15), (-15.0, 15.0, 0.15), HEIGHT)
"""Lowest, highest and step along x, y and z, metres, of the published variants."""
CELLS = (200, 200)
Bounds = tuple[Bound, Bound, Bound]
FEATURES = 64
FRAMES, INTERVAL_S = 3, 0.5
EGO_TERMS = 6
TAPS = (9, 21)
"""Blocks of the trunk that are read: at an eighth and at a sixteenth of the image."""
NECK = 128
COMPUTED = ("bev_resolution", "bev_start_position", "bev_dimension", "frustum")
"""Keys of a checkpoint that follow from the configuration."""


class ImageEncoder(nn.Module):
    """Images to depth and features, at an eighth of their size."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = EfficientNet("b4", num_blocks=TAPS[-1] + 1)
        shallow, deep = (self.backbone.channels[tap] for tap in TAPS)
        self.upsampling_layer = UpsampleConcat(shallow + deep, NECK, align_corners=False)
        self.depth_layer = nn.Conv2d(NECK, DEPTH_BINS + FEATURES, 1)

    def raw(self, images: Tensor) -> Tensor:
        """Depth logits, then features, float [N, 48 + 64, 28, 60]."""
        shallow, deep = self.backbone(images, TAPS)
        return self.depth_layer(self.upsampling_layer(deep, shallow))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Float [N, 3, 224, 480] to depth [N, 48, 28, 60], which sums to 1, and features
        [N, 64, 28, 60].
        """
        raw = self.raw(images)
        return raw[:, :DEPTH_BINS].softmax(dim=1), raw[:, DEPTH_BINS:]


class TemporalLift(nn.Module):
    """Encoder, lift and warp; a family adds what it makes of the features.

    Args:
        bounds: of the grid, `LONG` or `SHORT`.
    """

    bev_resolution: Tensor
    bev_start_position: Tensor
    bev_dimension: Tensor
    frustum: Tensor

    def __init__(self, bounds: Bounds = LONG) -> None:
        super().__init__()
        self.bounds = bounds
        size, first, count = grid_terms(bounds)
        self.register_buffer("bev_resolution", size)
        self.register_buffer("bev_start_position", first)
        self.register_buffer("bev_dimension", count)
        self.register_buffer("frustum", make_frustum(IMAGE_SIZE, FEATURE_SIZE, DEPTH))
        self.encoder = ImageEncoder()

    def sequence(
        self, image: Tensor, intrinsics: Tensor, extrinsics: Tensor, future_egomotion: Tensor
    ) -> Tensor:
        """Features and ego motion of all moments, float [1, 3, 70, 200, 200]; see `to_present`.

        Args:
            image: float [1, 3, N, 3, 224, 480], oldest moment first.
            intrinsics: float [1, 3, N, 3, 3], pixels of the network's image.
            extrinsics: float [1, 3, N, 4, 4], camera to ego, each at its own moment.
            future_egomotion: float [1, 3, 6], entry t is the motion from moment t to t + 1.
        """
        moments = zip(image[0], intrinsics[0], extrinsics[0], strict=True)
        maps = torch.cat([self.lift(*moment) for moment in moments])
        return self.to_present(maps[None], future_egomotion)

    def cells(self, intrinsics: Tensor, extrinsics: Tensor) -> tuple[Tensor, Tensor]:
        """The cell of each frustum point of N cameras and whether it is inside; `find_cells`."""
        turn, shift = extrinsics[:, :3, :3], extrinsics[:, :3, 3]
        points = lift_points(self.frustum, turn, shift, intrinsics)
        return find_cells(points, self.bev_resolution, self.bev_start_position, self.bev_dimension)

    def lift(self, images: Tensor, intrinsics: Tensor, extrinsics: Tensor) -> Tensor:
        """BEV features of one moment, float [1, 64, 200, 200], in its own ego frame."""
        depth, features = self.encoder(images)
        return splat(depth, features, self.cells(intrinsics, extrinsics), CELLS)

    def to_present(self, maps: Tensor, future_egomotion: Tensor) -> Tensor:
        """Features of all moments in the present ego frame, with the ego motion as constant maps.

        Args:
            maps: float [1, 3, 64, 200, 200], each in its own ego frame.
            future_egomotion: float [1, 3, 6].

        Returns:
            Float [1, 3, 70, 200, 200].
        """
        *past, present = maps.unbind(dim=1)
        warped = []
        for moved, motion in zip(past, cumulative_motions(future_egomotion[0]), strict=False):
            theta = planar_sampling(motion, self.bounds[0][1])[None]
            grid = functional.affine_grid(theta, list(moved.shape), align_corners=False)
            warped.append(
                functional.grid_sample(moved, grid, "bilinear", "zeros", align_corners=False)
            )
        features = torch.stack([*warped, present], dim=1)
        before = torch.cat([torch.zeros_like(future_egomotion[:, :1]), future_egomotion[:, :-1]], 1)
        constant = before[..., None, None].expand(-1, -1, -1, *CELLS)
        return torch.cat([features, constant], dim=2)


class CameraBranch(nn.Module):
    """The stage `camera_branch`: images and pooling table to BEV features, channels last."""

    def __init__(self, encoder: ImageEncoder) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(self, images: Tensor, *table: Tensor) -> Tensor:
        """Float [N, 3, 224, 480] to [1, 200, 200, 64]."""
        depth, features = self._encoder(images)
        return BevPoolNode.apply(depth, features.permute(0, 2, 3, 1), *table, *CELLS, FEATURES)


def join_moments(camera_bev: Tensor, past_bev: Tensor, ego_motion: Tensor) -> Tensor:
    """What the runtime gives a head, as the network's sequence, float [1, 3, 70, 200, 200].

    Args:
        camera_bev: float [1, 200, 200, 64].
        past_bev: float [1, 2, 200, 200, 64], oldest first.
        ego_motion: float [1, 3, 6], row t from moment t - 1 to t, row 0 zero.
    """
    features = torch.cat([past_bev, camera_bev[:, None]], dim=1).permute(0, 1, 4, 2, 3)
    constant = ego_motion[..., None, None].expand(-1, -1, -1, *CELLS)
    return torch.cat([features, constant], dim=2)
