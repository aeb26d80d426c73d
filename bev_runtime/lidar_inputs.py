"""From a LiDAR cloud to the network's pillars, and to the cells that the LiDAR looks towards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.lidar_coverage import LidarCoverage
from bev_runtime.manifest import Manifest
from bev_runtime.pillars import PillarEncoder
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import Calibration, Snapshot

Float32 = NDArray[np.float32]
EMPTY = "no_points"
"""Why a cloud without a point over the grid is not used."""


class LidarInputs:
    """Fills the network's pillars.

    Args:
        manifest: says how a cloud becomes an input; it has a section `lidar`.
        rig: names the frames in which ego motion is known.
    """

    def __init__(self, manifest: Manifest, rig: Rig) -> None:
        spec = manifest.lidar
        assert spec is not None
        grid = manifest.grid.to_grid()
        self._frames = (rig.fixed_frame, rig.base_frame)
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
        self._rotated = np.empty((0, 3), np.float32)

    @property
    def pillars(self) -> Float32:
        """float32 [1, 8 + slices, rows, columns], as the last `fill` left it."""
        return self._encoder.features

    def fill(self, snapshot: Snapshot, calibration: Calibration, transforms: TransformTree) -> bool:
        """Moves the cloud to base_link at the reference stamp and encodes it; `covered` is then
        true where it looks.

        Args:
            snapshot: has a cloud.
            calibration: knows the LiDAR's pose.
            transforms: the ego motion.

        Returns:
            Whether the ego motion between the cloud's stamp and the reference stamp was known (or
            there is none); otherwise it was taken as none.
        """
        cloud, ego_from_lidar = snapshot.cloud, calibration.ego_from_lidar
        assert cloud is not None
        assert ego_from_lidar is not None
        ref_from_lidar, motion_known = ego_from_lidar, True
        if cloud.stamp_ns != snapshot.reference_stamp_ns:
            ref_from_ego = self._motion(cloud.stamp_ns, snapshot.reference_stamp_ns, transforms)
            motion_known = ref_from_ego is not None
            if ref_from_ego is not None:
                ref_from_lidar = ref_from_ego @ ego_from_lidar
        count = len(cloud.points)
        if count > len(self._points):
            room = 1 << (count - 1).bit_length()
            self._points = np.empty((room, 4), np.float32)
            self._rotated = np.empty((room, 3), np.float32)
        points, rotated = self._points[:count], self._rotated[:count]
        turn = np.ascontiguousarray(ref_from_lidar[:3, :3].T, np.float32)
        np.matmul(cloud.points[:, :3], turn, out=rotated)
        np.add(rotated, ref_from_lidar[:3, 3].astype(np.float32), out=points[:, :3])
        points[:, 3] = cloud.points[:, 3]
        x, y, _ = ref_from_lidar[:3, 3].tolist()
        self._coverage.find(points, (x, y), self.covered)
        self._encoder.encode(points)
        return motion_known

    def _motion(self, from_ns: int, to_ns: int, transforms: TransformTree) -> Float64 | None:
        """Ego at `to_ns` from ego at `from_ns`, float64 [4, 4], or None."""
        fixed, base = self._frames
        if fixed is None:
            return None
        fixed_from_ref = transforms.find(fixed, base, to_ns)
        fixed_from_ego = transforms.find(fixed, base, from_ns)
        if fixed_from_ref is None or fixed_from_ego is None:
            return None
        return np.asarray(invert_rigid(fixed_from_ref) @ fixed_from_ego)
