"""From a LiDAR cloud to the network's pillars, and to the cells that the LiDAR looks towards."""

from __future__ import annotations

import logging

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.ego_motion import EgoMotion
from bev_runtime.errors import SampleRejected
from bev_runtime.geometry import Float64
from bev_runtime.lidar_coverage import LidarCoverage
from bev_runtime.manifest import Manifest
from bev_runtime.pillars import PillarEncoder
from bev_runtime.types import PointCloud

Float32 = NDArray[np.float32]
log = logging.getLogger(__name__)

OFF_GRID = np.float32(1e9)
MAX_POINTS = 500_000
"""A larger cloud is thinned evenly: two million points would take 70 ms, the whole period."""


class LidarInputs:
    """Fills the network's pillars.

    Attributes:
        covered: bool [rows, columns], the cells that the LiDAR looks towards, as the last `fill`
            left them.

    Args:
        manifest: says how a cloud becomes an input; it has a section `lidar`.
    """

    def __init__(self, manifest: Manifest) -> None:
        spec = manifest.lidar
        assert spec is not None
        grid = manifest.grid.to_grid()
        self._name = spec.tensor
        self._encoder = PillarEncoder(
            manifest.pillar_grid,
            z_min=spec.z_min,
            slices=spec.slices,
            slice_height=spec.slice_height,
            intensity_scale=spec.intensity_scale,
        )
        self._coverage = LidarCoverage(grid)
        self.covered = np.zeros(grid.shape, np.bool_)
        self._points = np.empty((0, 4), np.float32)
        self._ranges = np.empty(0, np.float32)
        self._near = np.empty(0, np.bool_)
        self._min_range = spec.min_range
        self._affine = np.zeros((4, 5))
        self._affine[3, 3] = 1  # intensity stays
        self._warned = False

    def tensors(self) -> dict[str, Float32]:
        """The LiDAR branch's input by name, [1, 8 + slices, rows, columns], of the last `fill`."""
        return {self._name: self._encoder.features}

    def fill(self, cloud: PointCloud, ego_from_lidar: Float64, motion: EgoMotion) -> bool:
        """Moves a cloud to base_link at the reference stamp and encodes it.

        Args:
            cloud: in the LiDAR's frame.
            ego_from_lidar: float64 [4, 4], the LiDAR's pose on the vehicle.
            motion: the ego motion up to the output's stamp.

        Returns:
            Whether the ego motion since the cloud's stamp was known; otherwise it was taken as
            none.

        Raises:
            SampleRejected: `no_valid_points` where every point was removed at the door, `no_points`
                where none is over the grid.
        """
        self.covered.fill(False)
        if not len(cloud.points) and cloud.removed:
            text = f"{cloud.name}: none of its points can be used: {dict(cloud.removed)}"
            raise SampleRejected("no_valid_points", text)
        ref_from_lidar, motion_known = ego_from_lidar, True
        if cloud.stamp_ns != motion.reference_ns:
            ref_from_ego = motion.ref_from_ego(cloud.stamp_ns)
            motion_known = ref_from_ego is not None
            ref_from_lidar = (
                ego_from_lidar if ref_from_ego is None else ref_from_ego @ ego_from_lidar
            )
        if len(cloud.points):
            measured = self._thinned(cloud)
            points = self._moved(measured, ref_from_lidar)
            self._leave_out_vehicle(measured, points)
            x, y, _ = ref_from_lidar[:3, 3].tolist()
            self._coverage.find(points, (x, y), self.covered)
        if not self.covered.any():
            raise SampleRejected("no_points", f"{cloud.name}: no point is over the model's grid")
        self._encoder.encode(points)
        return motion_known

    def _thinned(self, cloud: PointCloud) -> Float32:
        """The points of a cloud, at even distances where there are too many."""
        every = -(-len(cloud.points) // MAX_POINTS)
        if every <= 1:
            return cloud.points
        if not self._warned:
            self._warned = True
            text = "%s: a sweep of %d points, of more than %d only every n-th is used (said once)"
            log.warning(text, cloud.name, len(cloud.points), MAX_POINTS)
        return np.ascontiguousarray(cloud.points[::every])

    def _moved(self, points: Float32, ref_from_lidar: Float64) -> Float32:
        """Points float32 [N, 4] in another frame; a view of a buffer that grows when it must."""
        if len(points) > len(self._points):
            room = 1 << (len(points) - 1).bit_length()
            self._points = np.empty((room, 4), np.float32)
            self._ranges, self._near = np.empty(room, np.float32), np.empty(room, np.bool_)
        moved = self._points[: len(points)]
        self._affine[:3, :3] = ref_from_lidar[:3, :3]
        self._affine[:3, 4] = ref_from_lidar[:3, 3]
        cv2.transform(points.reshape(-1, 1, 4), self._affine, dst=moved.reshape(-1, 1, 4))
        return moved

    def _leave_out_vehicle(self, measured: Float32, moved: Float32) -> None:
        """Moves points that are nearer to the LiDAR than the model wants off the grid.

        A roof LiDAR sees the roof: on the nuScenes car a quarter of all points, in all directions,
        which would look like an obstacle and hide that a sensor is covered.
        """
        if not self._min_range:
            return
        squared, near = self._ranges[: len(moved)], self._near[: len(moved)]
        np.einsum("ij,ij->i", measured[:, :3], measured[:, :3], out=squared)
        np.less(squared, self._min_range**2, out=near)
        moved[near] = OFF_GRID
