"""Lift-splat: features spread along their rays by the network's own distribution over depth."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bev_runtime import native, numpy_kernels
from bev_runtime.camera import project, unproject
from bev_runtime.ground_sampler import GroundSampler
from bev_runtime.pool_table import BevPoolTable, Float32
from bev_runtime.types import BevGrid, CameraModel
from bev_runtime.view_base import Poses, Slots, cover

MAX_RAY_ERROR = 0.5
"""Pixels that a ray may miss its own pixel by; beyond it the lens model could not be inverted."""
SIGHT_HEIGHT_M = 1.0
"""Of a point that stands for a cell: half the height of a vehicle."""


class LiftSplatter:
    """Lift-splat: every feature pixel at every depth falls into the cell below or above it.

    A cell is `floor((x - x_min) / cell), floor((y - y_min) / cell)`; points outside the
    grid or outside z_range (lower end included) are dropped, and so are pixels that no ray of the
    lens model reaches.

    Attributes:
        max_points: frustum points of all cameras.

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
        self._slots = Slots(feature_size, max_cameras)
        self._depths = np.array(depths, np.float32).reshape(-1)
        self._grid, self._z_range = grid, z_range
        self._native_grid = native.SplatGrid(
            grid.x_min, grid.y_min, grid.cell, *z_range, *grid.shape
        )
        self.max_points = max_cameras * self._depths.size * height * width
        if not 0 < self.max_points < 2**31:
            raise ValueError(
                f"{max_cameras} cameras, {self._depths.size} depths, {width}x{height} pixels "
                f"are {self.max_points} points, expected 1..2147483647: use fewer"
            )
        self._covered = np.zeros(grid.shape, np.bool_)
        self._rays = np.empty((max_cameras, height, width, 3), np.float32)
        self._models: list[CameraModel | None] = [None] * max_cameras
        self._known_rays: dict[tuple[str, bytes, bytes], Float32] = {}
        self._poses = np.empty((max_cameras, 3, 4))
        self._cells = np.empty(self.max_points + self._covered.size, np.int32)
        self._directions = np.empty((3, height, width))
        self._fixed = (
            *(self._depths.size, height, width, ctypes.byref(self._native_grid)),
            *(self._cells.ctypes.data, self._directions.ctypes.data),
        )

    def make_table(self) -> BevPoolTable:
        """See `ViewTransform.make_table`."""
        return BevPoolTable(self.max_points, min(self._covered.size, self.max_points))

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
            cover(self._covered, table)
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


class TowardZeroSplatter:
    """A `LiftSplatter` whose cells are found by rounding toward zero.

    A point up to one cell below x_min or y_min is in the first cell. It builds on a grid with one
    more row and column there, and merges. Arguments are those of `LiftSplatter`.
    """

    def __init__(
        self,
        grid: BevGrid,
        depths: ArrayLike,
        z_range: tuple[float, float],
        feature_size: tuple[int, int],
        max_cameras: int,
    ) -> None:
        wide = BevGrid(
            grid.x_min - grid.cell, grid.x_max, grid.y_min - grid.cell, grid.y_max, grid.cell
        )
        self._splatter = LiftSplatter(wide, depths, z_range, feature_size, max_cameras)
        self._table = self._splatter.make_table()
        row, column = np.indices(wide.shape, np.int32)
        inner = np.maximum(row - 1, 0) * grid.columns + np.maximum(column - 1, 0)
        self._inner = inner.reshape(-1).astype(np.int32)
        self._second_row = 2 * wide.columns
        self._ranks = np.empty((3, self._splatter.max_points), np.int32)
        self._covered = np.zeros(grid.shape, np.bool_)

    def make_table(self) -> BevPoolTable:
        """See `ViewTransform.make_table`."""
        return self._splatter.make_table()

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """See `ViewTransform.build`."""
        self._splatter.build(cameras, ref_from_camera, self._table)
        table.clear()
        self._covered.fill(False)
        wide = self._table
        count = wide.num_points
        depth, feat, cells = self._ranks[:, :count]
        np.copyto(depth, wide.ranks_depth)
        np.copyto(feat, wide.ranks_feat)
        np.take(self._inner, wide.ranks_bev, out=cells, mode="clip")
        # Only the two lowest rows interleave; the two lowest columns follow one another.
        mixed = int(np.searchsorted(wide.ranks_bev, self._second_row))
        order = np.argsort(cells[:mixed], kind="stable")
        for ranks in (depth, feat, cells):
            ranks[:mixed] = ranks[:mixed][order]
        table.fill(None, depth, feat, cells)
        assert wide.bounds is not None  # it was just built
        table.bounds = (*wide.bounds[:2], self._covered.size)
        cover(self._covered, table)

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """See `ViewTransform.coverage`."""
        np.copyto(out, self._covered)


class InSight:
    """A view transform whose coverage is what its cameras look at.

    A cell is covered where a camera sees the point `SIGHT_HEIGHT_M` above its centre, however far
    away it is.

    Args:
        view: makes the tables; None for a network that needs none.
        grid: its cells.
        feature_size: (width, height) of the feature map.
        max_cameras: most cameras at once.
    """

    def __init__(
        self,
        view: LiftSplatter | TowardZeroSplatter | None,
        grid: BevGrid,
        feature_size: tuple[int, int],
        max_cameras: int,
    ) -> None:
        points = np.full((*grid.shape, 3), SIGHT_HEIGHT_M, np.float32)
        points[..., :2] = grid.centres()
        self._view = view
        self._sight = GroundSampler(points, feature_size, max_cameras)
        self._unused = self._sight.make_table()

    def make_table(self) -> BevPoolTable:
        """See `ViewTransform.make_table`."""
        return BevPoolTable(0, 0) if self._view is None else self._view.make_table()

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """See `ViewTransform.build`."""
        if self._view is not None:
            self._view.build(cameras, ref_from_camera, table)
        self._sight.build(cameras, ref_from_camera, self._unused)

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """See `ViewTransform.coverage`."""
        self._sight.coverage(out)
