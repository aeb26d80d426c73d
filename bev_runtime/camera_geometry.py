"""What a camera's mount and lens say about each pixel of its feature map."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import unproject
from bev_runtime.manifest_sections import GEOMETRY_CHANNELS
from bev_runtime.types import CameraModel

TYPICAL_HEIGHT_M = 2.0
TYPICAL_FOCAL_SHARE = 0.8
"""Focal length over the width of the picture."""


def ground_geometry(camera: CameraModel) -> NDArray[np.float32]:
    """Geometry channels of a camera.

    0: 1 / depth along the optical axis at which the pixel's ray meets the plane z = 0 of base_link,
    1/m clipped to 0..1, 0 above the horizon; 1: how much the ray rises per metre of depth, clipped
    to -2..2; 2: height of the camera / 2 m; 3: focal length / (0.8 x width). Pixels that have no
    ray are 0 in the first two.

    Args:
        camera: in pixels of the feature map.

    Returns:
        float32 [4, height, width].
    """
    width, height = camera.size
    v, u = np.mgrid[:height, :width]
    pixels = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64)
    rise = unproject(camera, pixels) @ camera.ego_from_camera[2, :3]
    rise = np.nan_to_num(rise, nan=0.0, posinf=0.0, neginf=0.0)
    above = max(float(camera.ego_from_camera[2, 3]), 0.1)
    out = np.empty((GEOMETRY_CHANNELS, height, width), np.float32)
    out[0] = np.clip(-rise / above, 0, 1).reshape(height, width)
    out[1] = np.clip(rise, -2, 2).reshape(height, width)
    out[2] = above / TYPICAL_HEIGHT_M
    out[3] = camera.intrinsics[0, 0] / (TYPICAL_FOCAL_SHARE * width)
    return out
