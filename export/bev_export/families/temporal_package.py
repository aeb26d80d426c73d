"""What the packages of PowerBEV and FIERY have in common: camera branch, lift and memory."""

from __future__ import annotations

from typing import Any

from bev_export.families import temporal_lift
from bev_export.families.layers import RGB_MEAN, RGB_STD
from bev_export.families.onnx_stage import POOL_INPUTS, StageSpec, Tensors
from bev_export.families.package import grid_section, image_section

MAX_CAMERAS = 8
TOLERANCE_S = 0.125
"""Cameras of 4 Hz and more always have a moment so near to each wish."""
MEMORY_CARD = """\
- Frame: base_link, x forward, y left. Row 0 is the rear edge (lowest x), column 0 the right one
  (lowest y). The training data had roll and pitch of the vehicle taken out of the ego frame.
- A picture is resized to a width of 480 pixels and the lowest 224 rows are kept.
- Pixels, rounding of points to cells, the range of heights (-30 m to 10 m), the order in which ego
  motions are composed and the warp are as published.
- Memory: BEV features of 0.5 s and 1 s ago, moved by the ego motion; images are not run again.
  While they are not there (start, gap, a clock that jumps, unknown ego motion) the oldest features
  that are stand in for them, and the output is not FULL and says so.
- Cells at which no live camera looks are unobserved.
"""


def camera_stage(model: temporal_lift.TemporalLift) -> StageSpec:
    """The stage `camera_branch`: images to BEV features."""
    bev = [1, *temporal_lift.CELLS, temporal_lift.FEATURES]
    return StageSpec(
        temporal_lift.CameraBranch(model.encoder),
        {"images": ("float32", ["N", 3, *temporal_lift.IMAGE_SIZE]), **POOL_INPUTS},
        {"camera_bev": ("float32", [*bev])},
        independent_cameras=True,
    )


def head_inputs() -> Tensors:
    """Features of the present and of the past, and the ego motion between them."""
    bev = [*temporal_lift.CELLS, temporal_lift.FEATURES]
    return {
        "camera_bev": ("float32", [1, *bev]),
        "past_bev": ("float32", [1, temporal_lift.FRAMES - 1, *bev]),
        "ego_motion": ("float32", [1, temporal_lift.FRAMES, temporal_lift.EGO_TERMS]),
    }


def describe_lift(
    times_s: tuple[float, ...], bounds: temporal_lift.Bounds = temporal_lift.LONG
) -> dict[str, Any]:
    """The manifest's sections from the cameras to the memory, and a map of vehicles.

    Args:
        bounds: of the grid.
        times_s: of the map's layers, seconds from now; the first is 0.
    """
    height, width = temporal_lift.FEATURE_SIZE
    image_height, image_width = temporal_lift.IMAGE_SIZE
    (z_low, z_high, layer), (start, _, step) = bounds[2], temporal_lift.DEPTH
    later = [f"vehicle_in_{time:.1f}_s".replace(".", "_") for time in times_s[1:]]
    return {
        "cameras": {
            "names": "any",
            "max": MAX_CAMERAS,
            "image": image_section(
                temporal_lift.IMAGE_SIZE, RGB_MEAN, RGB_STD, fit="cover", anchor=[0.5, 1.0]
            ),
        },
        "grid": grid_section(bounds),
        "view_transform": {
            "kind": "lift_splat",
            "feature_width": width,
            "feature_height": height,
            "feature_pixels": {
                "scale": [(width - 1) / (image_width - 1), (height - 1) / (image_height - 1)]
            },
            "resized_pixels": "scaled",
            "depth_min": start,
            "depth_step": step,
            "depth_bins": temporal_lift.DEPTH_BINS,
            "z_min": z_low - layer,
            "z_max": z_high,
            "rounding": "toward_zero",
            "observed": "view",
        },
        "dimensions": {
            "N": MAX_CAMERAS,
            "K": MAX_CAMERAS * temporal_lift.DEPTH_BINS * width * height,
            "M": temporal_lift.CELLS[0] * temporal_lift.CELLS[1],
        },
        "temporal": {
            "frames": temporal_lift.FRAMES,
            "interval_s": temporal_lift.INTERVAL_S,
            "tolerance_s": TOLERANCE_S,
            "features": "camera_bev",
            "past": "past_bev",
            "ego_motion": "ego_motion",
            "warp": "fiery",
        },
        "map": {
            "tensor": "vehicle",
            "layers": ["vehicle", *later],
            "layout": "nchw",
            "activation": "none",
            "thresholds": [0.5] * (1 + len(later)),
        },
    }
