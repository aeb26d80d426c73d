"""`python -m bev_export lss`: a checkpoint of Lift-Splat-Shoot becomes a model package."""

from __future__ import annotations

import argparse
from typing import Any

from bev_export.checkpoint import load_checkpoint
from bev_export.families import lss
from bev_export.families.layers import RGB_MEAN, RGB_STD
from bev_export.families.onnx_stage import POOL_INPUTS, StageSpec
from bev_export.families.package import grid_section, image_section, write_family

MAX_CAMERAS = 8
CROP_FROM_TOP = 48 / 70
"""Of the rows that are cut off: 48 of 70 above the picture at 1600x900."""
CARD = """# Lift-Splat-Shoot

Vehicles on a map of 100 m x 100 m around the vehicle, from any number of cameras up to {cameras}.
Written from the paper and the published conventions (github.com/nv-tlabs/lift-splat-shoot, commit
d74598c); the weights are those of the checkpoint that was given.

- Frame: base_link, x forward, y left. Row 0 is the rear edge (x = -50 m), column 0 the right one
  (y = -50 m).
- A picture is resized to a width of 352 pixels and cropped to 352x128; of the rows that go, 48 of
  70 go at the top.
- Pixels, rounding of points to cells and the range of heights (-30 m to 10 m) are as published.
- `logits` is the logit of a vehicle; the map shows its sigmoid, the published threshold is 0.5.
- Cells at which no live camera looks are unobserved; depth bins end at 44 m.
"""


def run(family: str, options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    model = lss.LiftSplatShoot()
    load_checkpoint(model, options.checkpoint, lss.PACKAGING)
    card = CARD.format(cameras=MAX_CAMERAS)
    return write_family(options, describe(family), make_stages(model), card)


def make_stages(model: lss.LiftSplatShoot) -> dict[str, StageSpec]:
    """The stages: pictures to BEV features, BEV features to logits."""
    bev = ("float32", [1, lss.CONTEXT, *lss.CELLS])
    images = ("float32", ["N", 3, *lss.IMAGE_SIZE])
    return {
        "camera_branch": StageSpec(
            lss.CameraBranch(model.camencode, lss.CELLS),
            {"images": images, **POOL_INPUTS},
            {"camera_bev": bev},
            independent_cameras=True,
        ),
        "head": StageSpec(
            model.bevencode, {"camera_bev": bev}, {"logits": ("float32", [1, 1, *lss.CELLS])}
        ),
    }


def describe(name: str) -> dict[str, Any]:
    """The manifest without format, stages and training data."""
    height, width = lss.FEATURE_SIZE
    (z_low, z_high, layer), (start, _, step) = lss.BOUNDS[2], lss.DEPTH
    return {
        "name": name,
        "version": "1.0.0",
        "family": "lift-splat-shoot",
        "licence": "of the weights: NVIDIA Source Code License (non-commercial), as published",
        "description": "Vehicles on a map from cameras; lift-splat with a categorical depth.",
        "cameras": {
            "names": "any",
            "max": MAX_CAMERAS,
            "image": image_section(
                lss.IMAGE_SIZE, RGB_MEAN, RGB_STD, fit="cover", anchor=[0.5, CROP_FROM_TOP]
            ),
        },
        "grid": grid_section(lss.BOUNDS),
        "view_transform": {
            "kind": "lift_splat",
            "feature_width": width,
            "feature_height": height,
            "feature_pixels": {
                "scale": [
                    (width - 1) / (lss.IMAGE_SIZE[1] - 1),
                    (height - 1) / (lss.IMAGE_SIZE[0] - 1),
                ]
            },
            "resized_pixels": "scaled",
            "depth_min": start,
            "depth_step": step,
            "depth_bins": lss.DEPTH_BINS,
            "z_min": z_low - layer,
            "z_max": z_high,
            "rounding": "toward_zero",
            "observed": "view",
        },
        "dimensions": {
            "N": MAX_CAMERAS,
            "K": MAX_CAMERAS * lss.DEPTH_BINS * width * height,
            "M": lss.CELLS[0] * lss.CELLS[1],
        },
        "map": {
            "tensor": "logits",
            "layers": ["vehicle"],
            "layout": "nchw",
            "activation": "sigmoid",
            "thresholds": [0.5],
        },
    }
