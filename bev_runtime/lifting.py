"""Where image features go in the bird's-eye view: the pooling table for this moment's cameras."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.manifest import Manifest
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import CameraModel, Snapshot
from bev_runtime.view_transform import make_view_transform


class Lifting:
    """Keeps the pooling table up to date with the live cameras and the ego motion.

    Args:
        manifest: says which view transform the model was made for.
        rig: names the base frame and the frame in which ego motion is known.
    """

    def __init__(self, manifest: Manifest, rig: Rig) -> None:
        self._base_frame, self._fixed_frame = rig.base_frame, rig.fixed_frame
        self._view = make_view_transform(manifest)
        self.table = self._view.make_table()
        self._built: tuple[tuple[CameraModel, ...], tuple[Float64, ...]] | None = None

    def build(
        self, snapshot: Snapshot, models: Mapping[str, CameraModel], transforms: TransformTree
    ) -> bool:
        """Rebuilds the table if the cameras or their poses changed.

        Each camera's pose is moved by the ego motion between its own stamp and the reference stamp.

        Args:
            snapshot: stamps of the frames and of the output.
            models: the live cameras in the order of the batch, in pixels of the feature map.
            transforms: the ego motion.

        Returns:
            Whether the ego motion was known for all of them; otherwise it was taken as none.
        """
        cameras = tuple(models.values())
        fixed_from_ref = self._ego_pose(transforms, snapshot.reference_stamp_ns)
        motion_known = fixed_from_ref is not None
        poses = []
        for name, camera in models.items():
            fixed_from_ego = self._ego_pose(transforms, snapshot.cameras[name].stamp_ns)
            if fixed_from_ref is None or fixed_from_ego is None:
                motion_known = False
                poses.append(camera.ego_from_camera)
            else:
                ref_from_ego = invert_rigid(fixed_from_ref) @ fixed_from_ego
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

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """Writes which cells a live camera sees, bool [rows, columns]."""
        self._view.coverage(out)

    def _ego_pose(self, transforms: TransformTree, stamp_ns: int) -> Float64 | None:
        if self._fixed_frame is None:
            return None
        return transforms.find(self._fixed_frame, self._base_frame, stamp_ns)
