"""Where image features go in the bird's-eye view: the pooling table for this moment's cameras."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.ego_motion import EgoMotion
from bev_runtime.geometry import Float64
from bev_runtime.manifest import LiftSplat, Manifest, Voxels
from bev_runtime.pool_table import Float32
from bev_runtime.types import Calibration, CameraModel, Snapshot
from bev_runtime.view_transform import LearnedView, VoxelSampler, make_view_transform
from bev_runtime.volume_plane import VolumePlane

_NEIGHBOURS = np.ones((3, 3), np.uint8)


class Lifting:
    """Keeps the pooling table up to date with the live cameras and the ego motion.

    Attributes:
        table: of the last `build`.
        plane: for a model whose volume is fixed to a camera, the way from its planes to the grid.

    Args:
        manifest: says which view transform the model was made for.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._view = make_view_transform(manifest)
        self.table = self._view.make_table()
        self._has_gaps = isinstance(manifest.view_transform, LiftSplat) and (
            manifest.lidar is not None or manifest.detection is not None
        )
        spec, self.plane = manifest.view_transform, None
        if isinstance(spec, Voxels):
            self._reference = spec.reference_camera
            self.plane = VolumePlane(spec, manifest.grid.to_grid())
            self._seen = np.zeros(spec.plane, np.bool_)
        self._built: tuple[tuple[CameraModel, ...], tuple[Float64, ...]] | None = None

    def build(
        self,
        snapshot: Snapshot,
        models: Mapping[str, CameraModel],
        motion: EgoMotion,
        calibration: Calibration,
    ) -> bool:
        """Rebuilds the table if the cameras or their poses changed.

        Each camera's pose is moved by the ego motion between its own stamp and the reference stamp.

        Args:
            snapshot: stamps of the frames.
            models: the live cameras in the order of the batch, in pixels of the feature map.
            motion: the ego motion up to the output's stamp.
            calibration: has the camera that the model's volume is fixed to, if it is to one.

        Returns:
            Whether the ego motion was known for all of them; otherwise it was taken as none.
        """
        cameras, motion_known = tuple(models.values()), True
        if self.plane is not None and isinstance(self._view, VoxelSampler):
            ref_from_volume = calibration.cameras[self._reference].ego_from_camera
            if self._view.place(ref_from_volume):
                self.plane.place(ref_from_volume)
                self._built = None
        poses = []
        for name, camera in models.items():
            ref_from_ego = motion.ref_from_ego(snapshot.cameras[name].stamp_ns)
            if ref_from_ego is None:
                motion_known = False
                poses.append(camera.ego_from_camera)
            else:
                poses.append(ref_from_ego @ camera.ego_from_camera)
        built = self._built
        unchanged = (
            built is not None
            and len(built[0]) == len(cameras)
            and all(a is b for a, b in zip(built[0], cameras, strict=True))
            and all(np.array_equal(a, b) for a, b in zip(built[1], poses, strict=True))
        )
        if not unchanged:
            self._view.build(cameras, poses, self.table)
            self._built = (cameras, tuple(poses))
        return motion_known

    def tensors(self) -> Mapping[str, Float32]:
        """What the camera branch reads of the calibration, by name, as the last build left it;
        nothing for most models.
        """
        return self._view.tensors() if isinstance(self._view, LearnedView) else {}

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """Writes which cells a live camera looks towards, bool [rows, columns]: those that take
        features of it, and their neighbours. (A model of cameras that gives nothing but a map keeps
        the cells that take features.)
        """
        if self.plane is not None:
            self._view.coverage(self._seen)
            self.plane.sample_mask(self._seen, out)
        else:
            self._view.coverage(out)
        if self._has_gaps:
            grow(out)


def grow(covered: NDArray[np.bool_]) -> None:
    """Grows a lift-splat coverage, bool [rows, columns], by one cell, in place.

    Rays of neighbouring feature pixels, and depth bins, lie further apart than cells do: of what a
    camera sees beyond 30 m a third takes no features. Growing, unlike closing, gives the same cells
    for a camera whatever the others see.
    """
    plane = covered.view(np.uint8)
    cv2.dilate(plane, _NEIGHBOURS, dst=plane)
