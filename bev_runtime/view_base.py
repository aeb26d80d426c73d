"""What all view transforms share: their interface, and the checks of what they are built for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bev_runtime import native
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.geometry import Float64
from bev_runtime.types import CameraModel

Poses = Sequence[Float64]


class ViewTransform(Protocol):
    """What the pipeline needs of a view transform."""

    def make_table(self) -> BevPoolTable:
        """A table with room for every camera."""

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """Fills the table.

        Args:
            cameras: the live cameras in the order of the batch, intrinsics in feature-map pixels.
            ref_from_camera: for each, float64 [4, 4], rigid: optical frame to the ego frame of
                the reference stamp.
            table: made by `make_table`.

        Raises:
            ValueError: too many cameras, another feature size, or a table without room.
        """

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """Writes which cells the last build gave a point, into an array of the cells' shape."""


class Slots:
    """The sizes that every camera of a build must have."""

    def __init__(self, feature_size: tuple[int, int], max_cameras: int) -> None:
        if not 1 <= max_cameras <= native.MAX_CAMERAS or min(feature_size) < 1:
            raise ValueError(
                f"{max_cameras} cameras of {feature_size} feature pixels, expected "
                f"1..{native.MAX_CAMERAS} cameras and (width, height) of 1 or more"
            )
        self.feature_size, self.max_cameras = feature_size, max_cameras

    def check(self, cameras: Sequence[CameraModel], ref_from_camera: Poses) -> None:
        """Refuses cameras that the buffers were not made for."""
        if len(cameras) > self.max_cameras or len(cameras) != len(ref_from_camera):
            raise ValueError(
                f"{len(cameras)} cameras and {len(ref_from_camera)} poses, expected one pose each "
                f"and at most {self.max_cameras}: raise max_cameras or pass fewer"
            )
        for camera in cameras:
            if camera.size != self.feature_size:
                raise ValueError(
                    f"camera is for {camera.size} pixels, expected the feature map's "
                    f"{self.feature_size}: use camera.scale_camera first"
                )


def cover(covered: NDArray[np.bool_], table: BevPoolTable) -> None:
    """Marks the cells that a table gives something."""
    covered.reshape(-1)[table.ranks_bev[table.interval_starts]] = True
