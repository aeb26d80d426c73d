"""Features sampled at fixed points of the ego frame, bilinearly, in every camera that sees them."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bev_runtime import native, numpy_kernels
from bev_runtime.camera import max_radius
from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.pool_table import BevPoolTable, Float32
from bev_runtime.types import CameraModel
from bev_runtime.view_base import Poses, Slots, cover


class GroundSampler:
    """Samples features bilinearly at fixed points and averages over the cameras that see them.

    Dropping a camera changes nothing at points that it does not see, to the bit.

    Args:
        points: float32 [..., 3], metres, reference ego frame; each is one cell. A ground grid is
            [rows, columns, 3].
        feature_size: (width, height) of the feature map.
        max_cameras: most cameras at once.
        min_depth: metres in front of a camera (for an equidistant lens: away from it) below which
            it sees nothing.
        max_range: metres from a camera beyond which it sees nothing.

    Raises:
        ValueError: `points` is not [..., 3], or a limit is not positive.
    """

    def __init__(
        self,
        points: NDArray[np.floating],
        feature_size: tuple[int, int],
        max_cameras: int,
        *,
        min_depth: float = 0.5,
        max_range: float = 1e3,
    ) -> None:
        if points.ndim < 2 or points.shape[-1] != 3:
            raise ValueError(f"points are {points.shape}, expected [..., 3]: x y z in metres")
        if not (min_depth > 0 and max_range > 0):
            raise ValueError(f"min_depth {min_depth} and max_range {max_range} m: must be positive")
        self._slots = Slots(feature_size, max_cameras)
        self._points = np.array(points, np.float32, order="C").reshape(-1, 3)
        self._covered = np.zeros(points.shape[:-1], np.bool_)
        self._limits = limits = (float(min_depth), float(max_range))
        self._fixed = (*feature_size, self._points.ctypes.data, len(self._points), *limits)
        self._cameras = np.zeros(max_cameras, native.CAMERA)
        self._models: list[CameraModel | None] = [None] * max_cameras

    def move(self, points: Float32) -> None:
        """Replaces all points by as many others, float32 [..., 3]; tables built before stay as they
        are.
        """
        self._points[:] = points.reshape(-1, 3)

    def make_table(self) -> BevPoolTable:
        """See `ViewTransform.make_table`."""
        points = len(self._points)
        return BevPoolTable(4 * points * self._slots.max_cameras, points)

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """See `ViewTransform.build`; pass `table.weights` as `depth` [1, 1, 1, K]."""
        self._slots.check(cameras, ref_from_camera)
        table.clear()
        self._covered.fill(False)
        width, height = self._slots.feature_size
        library = native.load()
        if library is None:
            table.fill(
                *numpy_kernels.sample_table(cameras, ref_from_camera, self._points, *self._limits)
            )
            cover(self._covered, table)
        else:
            for slot, (camera, pose) in enumerate(zip(cameras, ref_from_camera, strict=True)):
                self._write(slot, camera, pose)
            code = library.bev_build_sample_table(
                self._cameras.ctypes.data,
                len(cameras),
                *self._fixed,
                ctypes.byref(table.struct),
                self._covered.ctypes.data,
            )
            native.check(code, "bev_build_sample_table")
        table.bounds = (table.num_points, len(cameras) * width * height, len(self._points))

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """See `ViewTransform.coverage`."""
        np.copyto(out, self._covered)

    def _write(self, slot: int, camera: CameraModel, ref_from_camera: Float64) -> None:
        entry = self._cameras[slot]
        entry["camera_from_ref"] = invert_rigid(ref_from_camera)[:3]
        if self._models[slot] is not camera:
            entry["intrinsics"] = camera.intrinsics
            entry["distortion"] = camera.distortion.coefficients
            entry["max_radius"] = max_radius(camera.distortion)
            entry["lens"] = native.LENSES[camera.distortion.model]
            self._models[slot] = camera
