"""View transforms: from the live cameras and their poses to the table that pools their features.

A table is rebuilt when a camera drops out or the vehicle moved between exposures, so building is
part of the hot path: all buffers are allocated once.
"""

from __future__ import annotations

import numpy as np

from bev_runtime.errors import ModelError
from bev_runtime.ground_sampler import GroundSampler
from bev_runtime.learned_view import LearnedView
from bev_runtime.lift_splat import MAX_RAY_ERROR, InSight, LiftSplatter, TowardZeroSplatter
from bev_runtime.manifest import GroundPlane, Learned, Manifest, Voxels
from bev_runtime.view_base import Poses, ViewTransform
from bev_runtime.voxel_sampler import VoxelSampler

__all__ = [
    "MAX_RAY_ERROR",
    "GroundSampler",
    "LearnedView",
    "LiftSplatter",
    "Poses",
    "ViewTransform",
    "VoxelSampler",
    "make_view_transform",
]


def make_view_transform(manifest: Manifest) -> ViewTransform:
    """The view transform that a manifest asks for.

    Raises:
        ModelError: the manifest has no cameras or no view transform.
    """
    spec, cameras = manifest.view_transform, manifest.cameras
    if spec is None or cameras is None:
        raise ModelError(
            f"model '{manifest.name}' has no section 'cameras' and 'view_transform': "
            "it takes no images"
        )
    grid, size = manifest.grid.to_grid(), (spec.feature_width, spec.feature_height)
    if isinstance(spec, Learned):
        return LearnedView(spec, grid, cameras.max)
    if isinstance(spec, Voxels):
        return VoxelSampler(spec, cameras.max)
    if isinstance(spec, GroundPlane):
        points = np.full((*grid.shape, 3), spec.z, np.float32)
        points[..., :2] = grid.centres()
        return GroundSampler(points, size, cameras.max, max_range=spec.max_range)
    depths = spec.depth_min + spec.depth_step * np.arange(spec.depth_bins)
    splatter = TowardZeroSplatter if spec.rounding == "toward_zero" else LiftSplatter
    view = splatter(grid, depths, (spec.z_min, spec.z_max), size, cameras.max)
    if spec.observed == "features":
        return view
    return InSight(view, grid, size, cameras.max)
