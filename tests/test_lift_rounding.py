"""Lift-splat with cells rounded toward zero, and coverage of what cameras look at."""

from __future__ import annotations

import numpy as np
import pytest
from rig_cameras import both, poses, ring

from bev_runtime.bevpool import BevPoolTable
from bev_runtime.camera import unproject
from bev_runtime.lift_splat import InSight, LiftSplatter, TowardZeroSplatter
from bev_runtime.types import BevGrid, CameraModel

GRID = BevGrid(-6, 8, -5, 7, 0.5)
SIZE = (24, 14)
DEPTHS = np.arange(1.0, 20.0)
Z_RANGE = (-5.0, 5.0)


def truncated_count(cameras: list[CameraModel]) -> np.ndarray:
    """Points of each cell when every index is cut off toward zero, one point after the other."""
    count = np.zeros(GRID.shape, np.int64)
    v, u = np.mgrid[: SIZE[1], : SIZE[0]]
    pixels = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float64)
    for camera in cameras:
        rays = unproject(camera, pixels)
        local = (rays[None] * DEPTHS[:, None, None]).reshape(-1, 3)
        x, y, z = (local @ camera.ego_from_camera[:3, :3].T + camera.ego_from_camera[:3, 3]).T
        row, column = (x - GRID.x_min) / GRID.cell, (y - GRID.y_min) / GRID.cell
        row, column = np.trunc(row).astype(int), np.trunc(column).astype(int)
        kept = (row >= 0) & (row < GRID.rows) & (column >= 0) & (column < GRID.columns)
        kept &= (z >= Z_RANGE[0]) & (z < Z_RANGE[1])
        np.add.at(count, (row[kept], column[kept]), 1)
    return count


def test_points_below_the_low_edges_join_the_first_cells():
    cameras = ring(size=SIZE)
    expected = truncated_count(cameras)

    def build() -> tuple[BevPoolTable, np.ndarray]:
        view = TowardZeroSplatter(GRID, DEPTHS, Z_RANGE, SIZE, len(cameras))
        table, covered = view.make_table(), np.zeros(GRID.shape, np.bool_)
        view.build(cameras, poses(cameras), table)
        view.coverage(covered)
        return table, covered

    for table, covered in both(build):
        count = np.bincount(table.ranks_bev, minlength=expected.size).reshape(GRID.shape)
        assert np.abs(count - expected).sum() <= 4  # rays in float32: a point on a border
        assert np.array_equal(covered, count > 0)
        plane = SIZE[0] * SIZE[1]
        table.validate(len(cameras) * len(DEPTHS) * plane, len(cameras) * plane, expected.size)
        assert np.unique(table.ranks_depth).size == table.num_points
    down = LiftSplatter(GRID, DEPTHS, Z_RANGE, SIZE, len(cameras))
    table = down.make_table()
    down.build(cameras, poses(cameras), table)
    assert expected.sum() - table.num_points > 50


@pytest.mark.parametrize("splatter", [LiftSplatter, TowardZeroSplatter])
def test_what_a_camera_looks_at_is_covered_without_gaps(splatter):
    camera = ring(count=1, size=SIZE)
    grid = BevGrid(-40, 40, -40, 40, 0.5)
    inner = splatter(grid, DEPTHS, Z_RANGE, SIZE, 1)
    view = InSight(inner, grid, SIZE, 1)
    table, seen, fed = view.make_table(), *np.zeros((2, *grid.shape), np.bool_)
    view.build(camera, poses(camera), table)
    view.coverage(seen)
    inner.coverage(fed)
    assert table.num_points > 1000
    assert fed.sum() < seen.sum() / 2
    assert (fed & ~seen).sum() < 0.1 * fed.sum()  # near the vehicle, below the point of a cell
    along = seen[:, 80]
    assert along[90:].all()
    assert not along[:80].any()


def test_without_cameras_nothing_is_covered():
    view = TowardZeroSplatter(GRID, DEPTHS, Z_RANGE, SIZE, 2)
    table, covered = view.make_table(), np.ones(GRID.shape, np.bool_)
    cameras = ring(count=2, size=SIZE)
    view.build(cameras, poses(cameras), table)
    view.build([], [], table)
    view.coverage(covered)
    assert table.num_points == 0
    assert not covered.any()
