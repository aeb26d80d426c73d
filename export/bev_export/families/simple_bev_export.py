"""`python -m bev_export simple_bev` and `simple_bev_radar`: from a checkpoint to a package."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bev_export.checkpoint import load_checkpoint
from bev_export.families import simple_bev
from bev_export.families.lift import BevPoolNode
from bev_export.families.onnx_stage import CONSTANT_DEPTH, POOL_INPUTS, StageSpec
from bev_export.families.package import image_section, write_family

MAX_CAMERAS = 6
TAPS = 4
GRID = {"x_min": -50.0, "x_max": 50.0, "y_min": -50.0, "y_max": 50.0, "cell": 0.5}
RADAR_FIELDS = (
    *("dyn_prop", "id", "rcs", "vx", "vy", "vx_comp", "vy_comp", "is_quality_valid"),
    *("ambig_state", "x_rms", "y_rms", "invalid_state", "pdh0", "vx_rms", "vy_rms", "lag_s"),
)
"""nuScenes' radar fields 3 to 17, and the age of the point in seconds."""
CARD = """# Simple-BEV{radar_title}

Vehicles on a map of 100 m x 100 m around the vehicle, from up to {cameras} cameras{radar}. Written
from the paper and the published conventions (github.com/aharley/simple_bev, commit be46f0e); the
weights are those of the checkpoint that was given.

- The network's volume is fixed to the optical frame of {reference}: 50 m ahead and behind, 50 m to
  both sides, 4 m up and 6 m down. The rig must have that camera and its pose, also while its images
  are missing.
- Tensors `segmentation` (logit), `center` (0..1) and `offset` (cells along X and Z) are as
  published: [.., Z, X], row 0 is 50 m behind {reference}, column 0 is 50 m to the left.
- The map is the sigmoid of `segmentation`, moved to base_link: x forward, y left, row 0 at
  x = -50 m, column 0 at y = -50 m. It is a copy where base_link is at the camera's place with axes
  along the camera's; otherwise each cell is a bilinear mean of four.
- Pictures are stretched to 800x448 whatever their shape was, as in training.
- Sampling is bilinear, with the published pixel convention and the masked mean over cameras.
"""
RADAR_CARD = """
## Radar

The head also reads `radar`, float32 [1, 16, 200, 8, 200] (channel, Z, Y, X): the nuScenes fields
{fields}, of five sweeps, not scaled. Make it with `bev_runtime.radar.RadarVolume` and give it to
`pipeline.head_inputs.offer` before a step. Without it the head reads zeros, which is what it was
trained to see where no radar point is; what that costs in accuracy was not measured.
"""


class CameraBranch(nn.Module):
    """The stage `camera_branch`: pictures and pooling table to voxels [1, Z, X * Y, 128]."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self._encoder = encoder

    def forward(
        self, images: torch.Tensor, depth: torch.Tensor, *table: torch.Tensor
    ) -> torch.Tensor:
        """The encoder's features get a border of zeros, where samples beyond the picture fall."""
        feat = functional.pad(self._encoder(images), (1, 1, 1, 1)).permute(0, 2, 3, 1)
        forward, down, right = simple_bev.CELLS
        pooled: torch.Tensor = BevPoolNode.apply(
            depth, feat, *table, forward, right * down, simple_bev.LATENT
        )
        return pooled


class Head(nn.Module):
    """The stage `head`: voxels, and the radar's volume where the network has one, to outputs.

    The first convolution's weights are reordered for voxels whose height runs slower than their
    features, so that no volume is transposed; the radar's part of it is a convolution of its own.
    """

    def __init__(self, model: simple_bev.SimpleBev) -> None:
        super().__init__()
        self._decoder = model.decoder
        self._after = model.bev_compressor[1:]
        latent, height = simple_bev.LATENT, simple_bev.CELLS[1]
        weight = model.bev_compressor[0].weight.detach()
        voxels = weight[:, : latent * height].unflatten(1, (latent, height))
        self._compress = _convolution(voxels.transpose(1, 2).flatten(1, 2))
        self._compress_radar = None
        if model.has_radar:
            self._compress_radar = _convolution(weight[:, latent * height :])

    def forward(
        self, voxels: torch.Tensor, radar: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Float [1, Z, X * Y, 128] and [1, 16, Z, Y, X] to segmentation, centre and offset."""
        forward, down, right = simple_bev.CELLS
        plane = voxels.view(1, forward, right, down * simple_bev.LATENT).permute(0, 3, 1, 2)
        bev = self._compress(plane)
        if self._compress_radar is not None and radar is not None:
            bev = bev + self._compress_radar(radar.permute(0, 1, 3, 2, 4).flatten(1, 2))
        return self._decoder.heads(self._decoder(self._after(bev)))


def run(family: str, options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    model = simple_bev.SimpleBev(has_radar=family == "simple_bev_radar")
    load_checkpoint(model, options.checkpoint, simple_bev.PACKAGING)
    card = CARD.format(
        cameras=MAX_CAMERAS,
        reference=options.reference_camera,
        radar=" and radar" * model.has_radar,
        radar_title=" with radar" * model.has_radar,
    )
    if model.has_radar:
        card += RADAR_CARD.format(fields=", ".join(f"`{name}`" for name in RADAR_FIELDS))
    description = describe(family, options.reference_camera)
    return write_family(options, description, make_stages(model), card)


def make_stages(model: simple_bev.SimpleBev) -> dict[str, StageSpec]:
    """The stages: pictures to voxels, voxels (and radar) to the heads' outputs."""
    forward, down, right = simple_bev.CELLS
    voxels = ("float32", [1, forward, right * down, simple_bev.LATENT])
    radar = ("float32", [1, simple_bev.RADAR_CHANNELS, *simple_bev.CELLS])
    images = ("float32", ["N", 3, *simple_bev.IMAGE_SIZE])
    outputs = (("segmentation", 1), ("center", 1), ("offset", 2))
    return {
        "camera_branch": StageSpec(
            CameraBranch(model.encoder),
            {"images": images, **CONSTANT_DEPTH, **POOL_INPUTS},
            {"voxels": voxels},
            independent_cameras=True,
        ),
        "head": StageSpec(
            Head(model),
            {"voxels": voxels, **({"radar": radar} if model.has_radar else {})},
            {name: ("float32", [1, count, forward, right]) for name, count in outputs},
        ),
    }


def describe(name: str, reference_camera: str) -> dict[str, Any]:
    """The manifest without format, stages and training data."""
    forward, down, right = simple_bev.CELLS
    height, width = simple_bev.FEATURE_SIZE
    axes = (
        ("forward", simple_bev.FORWARD, forward),
        ("right", simple_bev.RIGHT, right),
        ("down", simple_bev.DOWN, down),
    )
    # A pixel of the input is u / 8 in features, which is read at u * size / (size - 1) - 0.5; the
    # border moves it by one.
    scale = [
        features / pixels * features / (features - 1)
        for features, pixels in zip((width, height), simple_bev.IMAGE_SIZE[::-1], strict=True)
    ]
    voxels = forward * down * right
    radar = {"kind": "voxels", "tensor": "radar", "channels": list(RADAR_FIELDS)}
    return {
        "name": name,
        "version": "1.0.0",
        "family": "simple-bev",
        "licence": "of the code: MIT, as published; of the weights: ask who trained them",
        "description": "Vehicles on a map; bilinear sampling of image features in a volume.",
        "cameras": {
            "names": "any",
            "max": MAX_CAMERAS,
            "image": image_section(
                simple_bev.IMAGE_SIZE, (0.5, 0.5, 0.5), (1.0, 1.0, 1.0), fit="stretch"
            ),
        },
        "grid": GRID,
        "view_transform": {
            "kind": "voxels",
            "reference_camera": reference_camera,
            "feature_width": width + 2,
            "feature_height": height + 2,
            "feature_pixels": {"scale": scale, "offset": [0.5, 0.5]},
            "resized_pixels": "scaled",
            **{
                axis: {"low": low, "high": high, "cells": cells}
                for axis, (low, high), cells in axes
            },
        },
        **({"radar": radar} if name == "simple_bev_radar" else {}),
        "dimensions": {"N": MAX_CAMERAS, "K": TAPS * voxels * MAX_CAMERAS, "M": voxels},
        "map": {
            "tensor": "segmentation",
            "layers": ["vehicle"],
            "layout": "nchw",
            "activation": "sigmoid",
            "thresholds": [0.5],
        },
    }


def _convolution(weight: torch.Tensor) -> nn.Conv2d:
    made = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    made.weight = nn.Parameter(weight.contiguous())
    return made
