"""View transforms: from the live cameras and their poses to the table that pools their features.

A table is rebuilt when a camera drops out or the vehicle moved between exposures, so building is
part of the hot path: all buffers are allocated once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bev_runtime import native, numpy_kernels
from bev_runtime.bevpool import BevPoolTable, Float32
from bev_runtime.camera import max_radius, project, unproject
from bev_runtime.errors import ModelError
from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.manifest import GroundPlane, Manifest
from bev_runtime.types import BevGrid, CameraModel

Poses = Sequence[Float64]
MAX_RAY_ERROR = 0.5
"""Pixels that a ray may miss its own pixel by; beyond it the lens model could not be inverted."""


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
        self._slots = _Slots(feature_size, max_cameras)
        self._points = np.array(points, np.float32, order="C").reshape(-1, 3)
        self._covered = np.zeros(points.shape[:-1], np.bool_)
        self._limits = limits = (float(min_depth), float(max_range))
        self._fixed = (*feature_size, self._points.ctypes.data, len(self._points), *limits)
        self._cameras = np.zeros(max_cameras, native.CAMERA)
        self._models: list[CameraModel | None] = [None] * max_cameras

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
            _cover(self._covered, table)
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


class LiftSplatter:
    """Lift-splat: every feature pixel at every depth falls into the cell below or above it.

    A cell is `floor((x - x_min) / cell), floor((y - y_min) / cell)`; points outside the
    grid or outside z_range (lower end included) are dropped, and so are pixels that no ray of the
    lens model reaches.

    Args:
        grid: the BEV grid.
        depths: [D], metres along the optical axis.
        z_range: metres, (lowest, highest) in the reference ego frame.
        feature_size: (width, height) of the feature map.
        max_cameras: most cameras at once.

    Raises:
        ValueError: sizes beyond int32, or no depth.
    """

    def __init__(
        self,
        grid: BevGrid,
        depths: ArrayLike,
        z_range: tuple[float, float],
        feature_size: tuple[int, int],
        max_cameras: int,
    ) -> None:
        width, height = feature_size
        self._slots = _Slots(feature_size, max_cameras)
        self._depths = np.array(depths, np.float32).reshape(-1)
        self._grid, self._z_range = grid, z_range
        self._native_grid = native.SplatGrid(
            grid.x_min, grid.y_min, grid.cell, *z_range, *grid.shape
        )
        self._max_points = max_cameras * self._depths.size * height * width
        if not 0 < self._max_points < 2**31:
            raise ValueError(
                f"{max_cameras} cameras, {self._depths.size} depths, {width}x{height} pixels "
                f"are {self._max_points} points, expected 1..2147483647: use fewer"
            )
        self._covered = np.zeros(grid.shape, np.bool_)
        self._rays = np.empty((max_cameras, height, width, 3), np.float32)
        self._models: list[CameraModel | None] = [None] * max_cameras
        self._known_rays: dict[tuple[str, bytes, bytes], Float32] = {}
        self._poses = np.empty((max_cameras, 3, 4))
        self._cells = np.empty(self._max_points + self._covered.size, np.int32)
        self._directions = np.empty((3, height, width))
        self._fixed = (
            *(self._depths.size, height, width, ctypes.byref(self._native_grid)),
            *(self._cells.ctypes.data, self._directions.ctypes.data),
        )

    def make_table(self) -> BevPoolTable:
        """See `ViewTransform.make_table`."""
        return BevPoolTable(self._max_points, min(self._covered.size, self._max_points))

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """See `ViewTransform.build`; the weights come from the network's `depth` [N, D, H, W]."""
        self._slots.check(cameras, ref_from_camera)
        table.clear()
        self._covered.fill(False)
        width, height = self._slots.feature_size
        for slot, (camera, pose) in enumerate(zip(cameras, ref_from_camera, strict=True)):
            self._poses[slot] = pose[:3]
            if self._models[slot] is not camera:
                self._rays[slot] = self._rays_of(camera)
                self._models[slot] = camera
        library = native.load()
        if library is None:
            rays, poses = self._rays[: len(cameras)], self._poses[: len(cameras)]
            ranks = numpy_kernels.splat_table(rays, poses, self._depths, self._grid, self._z_range)
            table.fill(None, *ranks)
            _cover(self._covered, table)
        else:
            code = library.bev_build_splat_table(
                self._rays.ctypes.data,
                self._poses.ctypes.data,
                self._depths.ctypes.data,
                len(cameras),
                *self._fixed,
                ctypes.byref(table.struct),
                self._covered.ctypes.data,
            )
            native.check(code, "bev_build_splat_table")
        pixels = len(cameras) * height * width
        table.bounds = (pixels * self._depths.size, pixels, self._covered.size)

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """See `ViewTransform.coverage`."""
        np.copyto(out, self._covered)

    def _rays_of(self, camera: CameraModel) -> Float32:
        """Rays float32 [H, W, 3] with z = 1 of all pixels, NaN where there is none.

        Kept by the lens' content: when a camera drops out the others move up by a slot, and must
        not be computed again.
        """
        lens, (width, height) = camera.distortion, self._slots.feature_size
        key = (lens.model, lens.coefficients.tobytes(), camera.intrinsics.tobytes())
        if key not in self._known_rays:
            v, u = np.mgrid[:height, :width]
            pixels = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64)
            rays = unproject(camera, pixels)
            again, visible = project(camera, rays)
            rays[~visible | (np.abs(again - pixels).max(axis=1) > MAX_RAY_ERROR)] = np.nan
            while len(self._known_rays) >= 4 * self._slots.max_cameras:
                del self._known_rays[next(iter(self._known_rays))]
            self._known_rays[key] = rays.astype(np.float32).reshape(height, width, 3)
        return self._known_rays[key]


class _Slots:
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
    grid, feature_size = manifest.grid.to_grid(), (spec.feature_width, spec.feature_height)
    if isinstance(spec, GroundPlane):
        points = np.full((*grid.shape, 3), spec.z, np.float32)
        points[..., :2] = grid.centres()
        return GroundSampler(points, feature_size, cameras.max, max_range=spec.max_range)
    depths = spec.depth_min + spec.depth_step * np.arange(spec.depth_bins)
    return LiftSplatter(grid, depths, (spec.z_min, spec.z_max), feature_size, cameras.max)


def _cover(covered: NDArray[np.bool_], table: BevPoolTable) -> None:
    covered.reshape(-1)[table.ranks_bev[table.interval_starts]] = True
