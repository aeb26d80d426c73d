"""Cross-view transformers (Zhou and Kraehenbuehl, CVPR 2022), vehicle segmentation: the network.

BEV queries attend to the features of all cameras at once; positions are directions of pixels and
places of cameras in the ego frame. Nothing is pooled: the calibration goes into the network.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from bev_export.checkpoint import Packaging
from bev_export.efficientnet import BATCH_NORM_EPS, Block, StaticSameConv, block_specs
from bev_export.families.layers import RGB_MEAN, RGB_STD
from bev_export.resnet import Bottleneck, residual_stage

IMAGE_SIZE = (224, 480)
FEATURES = ((32, (56, 120)), (112, (14, 30)))
"""Channels and (height, width) of the two feature maps."""
GROUPS = ((0, 3), (3, 7), (7, 11))
"""Blocks of EfficientNet b4 that the checkpoint keeps together."""
DIM, HEADS, QUERIES, CELLS = 128, 4, 25, 200
METRES_PER_PIXEL = 0.5
NORM_EPS = 1e-7
PACKAGING = Packaging(wrapper="state_dict", prefix="backbone.")


class Backbone(nn.Module):
    """EfficientNet b4 to stride 16, its stem and blocks in four groups."""

    def __init__(self) -> None:
        super().__init__()
        specs = block_specs("b4")
        width = specs[0].inputs
        stem = nn.Sequential(
            StaticSameConv(3, width, 3, 2, size=380),
            nn.BatchNorm2d(width, eps=BATCH_NORM_EPS),
            nn.SiLU(),
        )
        groups = [nn.Sequential(*map(Block, specs[first:end])) for first, end in GROUPS]
        self.layers = nn.ModuleList([stem, *groups])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float [N, 3, 224, 480], normalised, to [N, 32, 56, 120] and [N, 112, 14, 30]."""
        shallow = self.layers[1](self.layers[0](images))
        return shallow, self.layers[3](self.layers[2](shallow))


class CrossAttention(nn.Module):
    """Attention of BEV cells to the pixels of all cameras, one softmax over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (
            nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, DIM)) for _ in range(3)
        )
        self.proj = nn.Linear(DIM, DIM)
        self.prenorm = nn.LayerNorm(DIM)
        self.mlp = nn.Sequential(nn.Linear(DIM, 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM))
        self.postnorm = nn.LayerNorm(DIM)

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, skip: torch.Tensor
    ) -> torch.Tensor:
        """Attends.

        Args:
            query: float [N, Q, 128], one for each camera and cell.
            key: float [N, P, 128].
            value: the same.
            skip: float [Q, 128].

        Returns:
            float [Q, 128].
        """
        depth = DIM // HEADS
        q, k, v = (
            project(x).unflatten(-1, (HEADS, depth))
            for project, x in ((self.to_q, query), (self.to_k, key), (self.to_v, value))
        )
        logits = depth**-0.5 * q.permute(2, 0, 1, 3) @ k.permute(2, 0, 3, 1)  # [heads, N, Q, P]
        weights = logits.permute(0, 2, 1, 3).flatten(2).softmax(dim=-1)
        mixed = weights @ v.permute(2, 0, 1, 3).flatten(1, 2)  # [heads, Q, depth]
        z = self.prenorm(self.proj(mixed.permute(1, 0, 2).flatten(1)) + skip)
        return self.postnorm(z + self.mlp(z))


class CrossView(nn.Module):
    """One exchange between the BEV map and one feature map of all cameras."""

    def __init__(self, channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.feature_linear, self.feature_proj = (
            nn.Sequential(
                nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, DIM, 1, bias=False)
            )
            for _ in range(2)
        )
        self.bev_embed = nn.Conv2d(2, DIM, 1)
        self.img_embed = nn.Conv2d(4, DIM, 1, bias=False)
        self.cam_embed = nn.Conv2d(4, DIM, 1, bias=False)
        self.cross_attend = CrossAttention()
        self.register_buffer("image_plane", image_plane(size), persistent=False)

    def forward(
        self,
        bev: torch.Tensor,
        feature: torch.Tensor,
        rays: torch.Tensor,
        poses: torch.Tensor,
        grid: torch.Tensor,
    ) -> torch.Tensor:
        """Looks at one feature map.

        Args:
            bev: float [1, 128, 25, 25].
            feature: float [N, channels, H, W].
            rays: float [N, 3, 3], pixel to the point of its ray at depth 1.
            poses: float [N, 4, 4], camera to ego.
            grid: float [3, 25, 25], x, y and 1 of the queries.

        Returns:
            float [1, 128, 25, 25].
        """
        points = rays @ self.image_plane.flatten(1)
        ahead = poses[:, :, :3] @ points + poses[:, :, 3:]
        camera = self.cam_embed(poses[:, :, 3:, None])
        seen = self.img_embed(ahead.unflatten(2, self.image_plane.shape[1:]))
        key = _unit(seen - camera) + self.feature_proj(feature)
        query = _unit(self.bev_embed(grid[None, :2]) - camera) + bev
        value = self.feature_linear(feature)
        flat = [x.flatten(2).transpose(1, 2) for x in (query, key, value, bev)]
        made = self.cross_attend(*flat[:3], flat[3][0])
        return made.t().unflatten(1, (QUERIES, QUERIES))[None]


class BevEmbedding(nn.Module):
    """What every BEV query starts with."""

    def __init__(self) -> None:
        super().__init__()
        self.learned_features = nn.Parameter(torch.zeros(DIM, QUERIES, QUERIES))
        self.register_buffer("grid", query_grid(), persistent=False)


class Encoder(nn.Module):
    """Pictures and calibration to a BEV map of 25 x 25."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.bev_embedding = BevEmbedding()
        self.cross_views = nn.ModuleList([CrossView(*feature) for feature in FEATURES])
        self.layers = nn.ModuleList(
            [residual_stage(Bottleneck, DIM, DIM, count=2, stride=1) for _ in FEATURES]
        )
        for name, values in (("mean", RGB_MEAN), ("std", RGB_STD)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(
        self, images: torch.Tensor, rays: torch.Tensor, poses: torch.Tensor
    ) -> torch.Tensor:
        """Float [N, 3, 224, 480] in 0..1, [N, 3, 3] and [N, 4, 4] to [1, 128, 25, 25]."""
        features = self.backbone((images - self.mean) / self.std)
        bev = self.bev_embedding.learned_features[None]
        for view, feature, layer in zip(self.cross_views, features, self.layers, strict=True):
            bev = layer(view(bev, feature, rays, poses, self.bev_embedding.grid))
        return bev


class DecoderBlock(nn.Module):
    """Doubles a map and adds the encoder's output."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(inputs, outputs // 2, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs // 2),
            nn.ReLU(),
            nn.Conv2d(outputs // 2, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.up = nn.Conv2d(DIM, outputs, 1)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """Float [1, inputs, H, W] and [1, 128, 25, 25] to [1, outputs, 2 H, 2 W]."""
        x = self.conv(x)
        return functional.relu(x + functional.interpolate(self.up(skip), x.shape[-2:]))


class Decoder(nn.Module):
    """A BEV map of 25 x 25 to 200 x 200."""

    def __init__(self) -> None:
        super().__init__()
        widths = (DIM, 128, 128, 64)
        self.layers = nn.ModuleList([DecoderBlock(*pair) for pair in pairwise(widths)])

    def forward(self, bev: torch.Tensor) -> torch.Tensor:
        """Float [1, 128, 25, 25] to [1, 64, 200, 200]."""
        x = bev
        for layer in self.layers:
            x = layer(x, bev)
        return x


class CrossViewTransformer(nn.Module):
    """The whole network, as its checkpoint holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.decoder = Decoder()
        self.to_logits = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.Conv2d(64, 2, 1),
        )

    def forward(
        self, images: torch.Tensor, intrinsics: torch.Tensor, camera_from_ego: torch.Tensor
    ) -> torch.Tensor:
        """From pictures to logits.

        Args:
            images: float32 [N, 3, 224, 480], RGB in 0..1.
            intrinsics: float32 [N, 3, 3] of the network's input.
            camera_from_ego: float32 [N, 4, 4].

        Returns:
            float32 [1, 2, 200, 200], logits of vehicle and centre; row 0 is 50 m ahead, column 0 is
            50 m to the left.
        """
        rays, poses = torch.linalg.inv(intrinsics), torch.linalg.inv(camera_from_ego)
        return self.decode(self.encoder(images, rays, poses))

    def decode(self, bev: torch.Tensor) -> torch.Tensor:
        """Float [1, 128, 25, 25] to [1, 2, 200, 200]."""
        logits: torch.Tensor = self.to_logits(self.decoder(bev))
        return logits


def image_plane(size: tuple[int, int]) -> torch.Tensor:
    """float32 [3, H, W]: u, v and 1 of feature pixels, spread over the picture, ends included."""
    v, u = (
        torch.linspace(0, 1, count) * side for count, side in zip(size, IMAGE_SIZE, strict=True)
    )
    v, u = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([u, v, torch.ones_like(u)])


def query_grid() -> torch.Tensor:
    """float32 [3, 25, 25]: x, y and 1 of the queries, metres, the BEV picture's ends included."""
    places = (CELLS / 2 - torch.linspace(0, 1, QUERIES) * CELLS) * METRES_PER_PIXEL
    x, y = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / (x.norm(dim=1, keepdim=True) + NORM_EPS)
