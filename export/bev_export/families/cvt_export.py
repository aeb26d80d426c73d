"""`python -m bev_export cvt`: a checkpoint of a cross-view transformer becomes a model package."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn

from bev_export.checkpoint import load_checkpoint
from bev_export.families import cvt
from bev_export.families.onnx_stage import StageSpec
from bev_export.families.package import image_section, write_family

MAX_CAMERAS = 6
GRID = {"x_min": -50.0, "x_max": 50.0, "y_min": -50.0, "y_max": 50.0, "cell": 0.5}
CARD = """# Cross-view transformer

Vehicles on a map of 100 m x 100 m around the vehicle, from up to {cameras} cameras. Written from
the paper and the published conventions (github.com/bradyz/cross_view_transformers, commit 4de6e64);
the weights are those of the checkpoint that was given.

- Frame: base_link, x forward, y left. Row 0 is the rear edge (x = -50 m), column 0 the right one
  (y = -50 m); the published pictures have row 0 ahead and column 0 on the left, the head turns
  them round.
- A picture is resized to a width of 480 pixels; the lowest 224 rows are kept.
- The network reads the inverse intrinsics and the pose of each camera. Lens distortion is not in
  them: give rectified pictures.
- `vehicle` and `center` are logits; the map shows the sigmoid of `vehicle`.
- All cameras go through the network together, so a lost camera changes the whole map. Cells at
  which no live camera looks are unobserved.
"""


class Head(nn.Module):
    """The stage `head`: the encoder's map to logits, turned to rows forward and columns left."""

    def __init__(self, model: cvt.CrossViewTransformer) -> None:
        super().__init__()
        self._decoder, self._to_logits = model.decoder, model.to_logits

    def forward(self, bev: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Float [1, 128, 25, 25] to vehicle and centre, [1, 1, 200, 200]."""
        logits = self._to_logits(self._decoder(bev)).flip(2, 3)
        return logits[:, :1], logits[:, 1:]


def run(family: str, options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    model = cvt.CrossViewTransformer()
    load_checkpoint(model, options.checkpoint, cvt.PACKAGING)
    card = CARD.format(cameras=MAX_CAMERAS)
    return write_family(options, describe(family), make_stages(model), card)


def make_stages(model: cvt.CrossViewTransformer) -> dict[str, StageSpec]:
    """The stages: pictures and calibration to a BEV map of 25 x 25, that map to logits."""
    bev = ("float32", [1, cvt.DIM, cvt.QUERIES, cvt.QUERIES])
    plane = ("float32", [1, 1, cvt.CELLS, cvt.CELLS])
    return {
        "camera_branch": StageSpec(
            model.encoder,
            {
                "images": ("float32", ["N", 3, *cvt.IMAGE_SIZE]),
                "rays": ("float32", ["N", 3, 3]),
                "poses": ("float32", ["N", 4, 4]),
            },
            {"bev": bev},
        ),
        "head": StageSpec(Head(model), {"bev": bev}, {"vehicle": plane, "center": plane}),
    }


def describe(name: str) -> dict[str, Any]:
    """The manifest without format, stages and training data."""
    height, width = cvt.IMAGE_SIZE
    return {
        "name": name,
        "version": "1.0.0",
        "family": "cross-view transformer",
        "licence": "of the code: MIT, as published; of the weights: ask who trained them",
        "description": "Vehicles on a map; BEV queries attend to the pixels of all cameras.",
        "cameras": {
            "names": "any",
            "max": MAX_CAMERAS,
            "image": image_section(
                cvt.IMAGE_SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), fit="cover", anchor=[0.5, 1.0]
            ),
        },
        "grid": GRID,
        "view_transform": {
            "kind": "learned",
            "feature_width": width,
            "feature_height": height,
            "resized_pixels": "scaled",
            "rays": "rays",
            "poses": "poses",
        },
        "dimensions": {"N": MAX_CAMERAS},
        "map": {
            "tensor": "vehicle",
            "layers": ["vehicle"],
            "layout": "nchw",
            "activation": "sigmoid",
            "thresholds": [0.5],
        },
    }
