"""Calibration as tensors, for networks that learned what to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bev_runtime.lift_splat import InSight
from bev_runtime.manifest_views import Learned
from bev_runtime.pool_table import BevPoolTable, Float32
from bev_runtime.types import BevGrid, CameraModel
from bev_runtime.view_base import Poses


class LearnedView(InSight):
    """Gives the camera branch rays and poses instead of a table.

    Args:
        spec: names the tensors.
        grid: its cells, for the coverage.
        max_cameras: most cameras at once.
    """

    def __init__(self, spec: Learned, grid: BevGrid, max_cameras: int) -> None:
        super().__init__(None, grid, (spec.feature_width, spec.feature_height), max_cameras)
        self._spec, self._count = spec, 0
        self._rays = np.zeros((max_cameras, 3, 3), np.float32)
        self._poses = np.zeros((max_cameras, 4, 4), np.float32)

    def tensors(self) -> Mapping[str, Float32]:
        """Those of the last build, by name; views."""
        return {
            self._spec.rays: self._rays[: self._count],
            self._spec.poses: self._poses[: self._count],
        }

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """See `ViewTransform.build`; the table stays empty."""
        super().build(cameras, ref_from_camera, table)
        self._count = len(cameras)
        for slot, (camera, pose) in enumerate(zip(cameras, ref_from_camera, strict=True)):
            self._rays[slot] = np.linalg.inv(camera.intrinsics)
            self._poses[slot] = pose
