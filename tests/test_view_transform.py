from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from rig_cameras import (
    BODY_FROM_OPTICAL,
    FIELDS,
    GRID,
    LENSES,
    POINTS,
    SIZE,
    both,
    camera,
    needs_native,
    poses,
    ring,
    sampled,
)

from bev_runtime.bevpool import BevPoolTable
from bev_runtime.camera import make_camera, make_distortion, project, unproject
from bev_runtime.geometry import rigid
from bev_runtime.manifest import Cameras, Grid, GroundPlane, ImageInput, LiftSplat, Manifest
from bev_runtime.types import CameraModel
from bev_runtime.view_transform import (
    GroundSampler,
    LiftSplatter,
    ViewTransform,
    make_view_transform,
)


def splatter(cameras: list[CameraModel], **changes) -> tuple[LiftSplatter, BevPoolTable]:
    settings_ = {"depths": np.arange(1, 20, 1.5), "z_range": (-1.0, 3.0)} | changes
    made = LiftSplatter(GRID, feature_size=cameras[0].size, max_cameras=6, **settings_)
    table = made.make_table()
    made.build(cameras, poses(cameras), table)
    return made, table


@pytest.mark.parametrize("lens", sorted(LENSES))
def test_splat_table_equals_a_loop_over_all_frustum_points(lens):
    size, depths = (11, 7), np.arange(1, 30, 1.7).astype(np.float32)
    cameras = [camera(0.0, lens, size=size, focal=0.3), camera(2.5, lens, size=size, pitch=0.5)]
    expected: list[tuple[int, int, int]] = []
    for n, each in enumerate(cameras):
        rotation, translation = each.ego_from_camera[:3, :3], each.ego_from_camera[:3, 3]
        v, u = np.mgrid[: size[1], : size[0]]
        pixels = np.stack([u, v], axis=-1).reshape(-1, 2).astype(float)
        rays = unproject(each, pixels)
        again, visible = project(each, rays)
        reached = visible & (np.abs(again - pixels).max(axis=1) < 0.5)
        for d, depth in enumerate(depths.astype(float)):
            for p in np.flatnonzero(reached):
                x, y, z = rotation @ rays[p].astype(np.float32) * depth + translation
                row, column = math.floor(x - GRID.x_min), math.floor(y - GRID.y_min)
                if 0 <= row < GRID.rows and 0 <= column < GRID.columns and -1 <= z < 3:
                    rank = (n * len(depths) + d) * size[0] * size[1] + p
                    expected.append((row * GRID.columns + column, rank, n * size[0] * size[1] + p))
    expected.sort()
    assert len(expected) > 100
    for table in both(lambda: splatter(cameras, depths=depths)[1]):
        found = np.stack([table.ranks_bev, table.ranks_depth, table.ranks_feat], axis=1)
        assert found.tolist() == [list(map(int, row)) for row in expected]
        table.validate(2 * len(depths) * 77, 2 * 77, GRID.rows * GRID.columns)


def test_pixels_that_the_lens_model_does_not_reach_are_not_splatted():
    lens = make_distortion("plumb_bob", [-0.35, 0, 0, 0, 0])
    k = [[20.0, 0, 31.5], [0, 20.0, 17.5], [0, 0, 1]]
    first = make_camera(k, lens, SIZE, rigid(BODY_FROM_OPTICAL, [0, 0, 0]))
    _, table = splatter([first], z_range=(-50.0, 50.0))
    columns = table.ranks_feat % SIZE[0]
    # r (1 - 0.35 r^2) is at most 0.65, at r = 0.98: 13 pixels from the centre.
    assert columns.min() >= 31.5 - 13.1
    assert columns.max() <= 31.5 + 13.1
    assert columns.min() <= 20


@pytest.mark.parametrize("dropped", [0, 3])
@pytest.mark.parametrize("kind", ["ground", "splat"])
def test_dropping_a_camera_and_taking_it_back_equals_a_fresh_start(kind, dropped):
    cameras = [camera(1.5 * i, lens, focal=0.5 + 0.1 * i) for i, lens in enumerate(sorted(LENSES))]
    used, table = made_for(kind, 4)
    for live in (cameras, cameras[:dropped] + cameras[dropped + 1 :], cameras):
        used.build(live, poses(live), table)
        fresh, expected = made_for(kind, 4)
        fresh.build(live, poses(live), expected)
        assert all(np.array_equal(getattr(table, f), getattr(expected, f)) for f in FIELDS)


def made_for(kind: str, max_cameras: int) -> tuple[ViewTransform, BevPoolTable]:
    made: ViewTransform = GroundSampler(POINTS, SIZE, max_cameras)
    if kind == "splat":
        made = LiftSplatter(GRID, np.arange(1.0, 20), (-2, 2), SIZE, max_cameras)
    return made, made.make_table()


@pytest.mark.parametrize("kind", ["ground", "splat"])
def test_coverage_follows_the_last_build(kind):
    cameras = ring(count=3)
    made, table = made_for(kind, 3)
    seen = np.ones(GRID.shape, bool)
    for live in (cameras, cameras[1:], [], cameras):
        made.build(live, poses(live), table)
        made.coverage(seen)
        expected = np.zeros(GRID.rows * GRID.columns, bool)
        expected[table.ranks_bev] = True
        assert np.array_equal(seen.ravel(), expected)
        assert seen.any() == bool(live)
        assert table.num_intervals == seen.sum()
    with pytest.raises(ValueError, match="no room"):
        made.build(cameras, poses(cameras), BevPoolTable(10, 10))
    made.coverage(seen)
    assert not seen.any()


def test_cameras_that_the_buffers_were_not_made_for_are_refused():
    made, table = splatter(ring())
    sampler = GroundSampler(POINTS, SIZE, 2)
    other = [camera(0.0, size=(32, 36))]
    for view in (made, sampler):
        with pytest.raises(ValueError, match="camera is for"):
            view.build(other, poses(other), table)
        with pytest.raises(ValueError, match="one pose each"):
            view.build(ring(), poses(ring())[:5], table)
    with pytest.raises(ValueError, match="at most 2"):
        sampler.build(ring(count=3), poses(ring(count=3)), table)


@needs_native
@pytest.mark.parametrize("kind", ["ground", "splat"])
def test_rebuilding_for_moved_cameras_allocates_little(kind):
    cameras = ring("plumb_bob")
    made, table = made_for(kind, 6)
    made.build(cameras, poses(cameras), table)
    moved = [rigid(np.eye(3), [0.3, 0, 0]) @ pose for pose in poses(cameras)]
    tracemalloc.start()
    try:
        made.build(cameras, moved, table)
        assert tracemalloc.get_traced_memory()[1] < 16384
    finally:
        tracemalloc.stop()


def test_the_manifest_chooses_the_view_transform():
    parts = {
        "name": "m",
        "grid": Grid(x_min=-30, x_max=30, y_min=-24, y_max=24, cell=1.0),
        "cameras": Cameras(
            names="any", max=6, image=ImageInput(width=128, height=72, fit="stretch")
        ),
    }
    ground = GroundPlane(kind="ground_plane", feature_width=64, feature_height=36, max_range=20)
    bins = {"depth_min": 1, "depth_step": 1.5, "depth_bins": 13, "z_min": -1, "z_max": 3}
    lift = LiftSplat(kind="lift_splat", feature_width=64, feature_height=36, **bins)
    cameras = ring()
    for spec, expected in ((ground, sampled(cameras, max_range=20)), (lift, splatter(cameras)[1])):
        made = make_view_transform(Manifest.model_construct(view_transform=spec, **parts))
        table = made.make_table()
        made.build(cameras, poses(cameras), table)
        assert table.num_points > 1000
        assert all(np.array_equal(getattr(table, f), getattr(expected, f)) for f in FIELDS)
