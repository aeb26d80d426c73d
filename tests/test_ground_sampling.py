from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from data_pack import data_pack
from hypothesis import given, settings
from hypothesis import strategies as st
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
    without_library,
)
from rosbags.highlevel import AnyReader

from bev_runtime import native
from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.camera import make_camera, make_distortion, max_radius, project, scale_camera
from bev_runtime.geometry import invert_rigid, pixel_scaling, rigid, transform_points
from bev_runtime.types import CameraModel
from bev_runtime.view_transform import GroundSampler

PIXEL_TOLERANCE = 1e-3


def dense(table: BevPoolTable, cells: int, pixels: int) -> np.ndarray:
    matrix = np.zeros((cells, pixels))
    np.add.at(matrix, (table.ranks_bev, table.ranks_feat), table.weights)
    return matrix


def reference_weights(
    cameras: list[CameraModel], points: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The sampling matrix, point by point, and which points are too near a border to tell."""
    width, height = cameras[0].size
    matrix, doubtful = (
        np.zeros((len(points), len(cameras) * width * height)),
        np.zeros(len(points), bool),
    )
    for index, each in enumerate(cameras):
        local = transform_points(invert_rigid(each.ego_from_camera), points.astype(np.float64))
        pixels, visible = project(each, local, 0.5)
        ideal = np.hypot(local[:, 0], local[:, 1])
        fisheye = each.distortion.model == "equidistant"
        radius = (
            np.arctan2(ideal, local[:, 2]) if fisheye else ideal / np.maximum(local[:, 2], 1e-9)
        )
        distance = np.linalg.norm(local, axis=1) if fisheye else local[:, 2]
        border = np.abs(
            np.concatenate([pixels + 0.5, pixels - [width - 0.5, height - 0.5]], axis=1)
        ).min(axis=1)
        limit = max_radius(each.distortion)
        doubtful |= (
            (border < PIXEL_TOLERANCE) | (abs(radius - limit) < 1e-4) | (abs(distance - 0.5) < 1e-4)
        )
        for point in np.flatnonzero(visible):
            u, v = pixels[point]
            for y in (math.floor(v), math.floor(v) + 1):
                for x in (math.floor(u), math.floor(u) + 1):
                    column, row = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
                    flat = (index * height + row) * width + column
                    matrix[point, flat] += (1 - abs(u - x)) * (1 - abs(v - y))
    total = matrix.sum(axis=1, keepdims=True)
    return matrix / np.where(total > 0, total, 1), doubtful


@settings(max_examples=40, deadline=None)
@given(
    lens=st.sampled_from(sorted(LENSES)),
    angles=st.tuples(st.floats(-3.2, 3.2), st.floats(-0.6, 1.2), st.floats(-1.6, 1.6)),
    focal=st.floats(0.25, 1.5),
    height=st.floats(0.3, 6),
    native_code=st.booleans() if native.available() else st.just(False),
)
def test_sampling_weights_equal_a_point_by_point_reference(
    lens, angles, focal, height, native_code
):
    yaw, pitch, roll = angles
    first = camera(yaw, lens, pitch=pitch, roll=roll, focal=focal, position=(0.5, -0.5, height))
    cameras = [first, camera(yaw + 0.5, "none"), camera(yaw - 1.0, "fisheye", pitch=0.4)]
    points = POINTS[::3, ::2].reshape(-1, 3)
    if native_code:
        table = sampled(cameras, points)
    else:
        with without_library():
            table = sampled(cameras, points)
    table.validate(table.num_points, len(cameras) * SIZE[0] * SIZE[1], len(points))
    expected, doubtful = reference_weights(cameras, points)
    error = np.abs(dense(table, *expected.shape) - expected).max(axis=1)
    assert error[~doubtful].max() <= 2 * PIXEL_TOLERANCE
    assert doubtful.mean() < 0.05


@needs_native
@pytest.mark.parametrize("lens", sorted(LENSES))
def test_library_and_numpy_build_the_same_sampling_table(lens):
    cameras = ring(lens)
    table = sampled(cameras)
    with without_library():
        other = sampled(cameras)
    assert table.num_points > 4 * 1000
    assert all(np.array_equal(getattr(table, f), getattr(other, f)) for f in FIELDS)
    assert np.abs(table.weights - other.weights).max() < 2 * PIXEL_TOLERANCE


@pytest.mark.parametrize("lens", sorted(LENSES))
def test_bilinear_sampling_equals_opencv_remap(lens):
    first = camera(0.3, lens)
    image = cv2.GaussianBlur(
        np.random.default_rng(0).random((*SIZE[::-1], 3), np.float32), (0, 0), 2
    )
    check_against_remap(first, image)


@pytest.mark.data
def test_sampling_a_real_image_equals_opencv_remap():
    with AnyReader([data_pack() / "bags" / "nuscenes_scene0061"]) as bag:
        messages = {c.topic: bag.deserialize(raw, c.msgtype) for c, _, raw in bag.messages()}
    image = cv2.imdecode(messages["/CAM_FRONT/image/compressed"].data, cv2.IMREAD_COLOR)
    intrinsics = messages["/CAM_FRONT/camera_info"].k
    size = (400, 225)
    pose = rigid(BODY_FROM_OPTICAL, [1.7, 0.0, 1.5])
    full = make_camera(intrinsics, LENSES["none"], (1600, 900), pose)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    check_against_remap(scale_camera(full, pixel_scaling(0.25, 0.25), size), small)


def check_against_remap(first: CameraModel, image: np.ndarray) -> None:
    table = sampled([first])
    out = np.empty((1, *GRID.shape, 3), np.float32)
    bev_pool(table.weights.reshape(1, 1, 1, -1), image[None], table, out)
    local = transform_points(
        invert_rigid(first.ego_from_camera), POINTS.reshape(-1, 3).astype(np.float64)
    )
    pixels, visible = project(first, local, 0.5)
    maps = pixels.reshape(*GRID.shape, 2).astype(np.float32)
    expected = cv2.remap(
        image, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    seen = visible.reshape(GRID.shape)
    # OpenCV may round positions to 1/32 pixel; the steepest step between neighbours is the bound.
    step = max(np.abs(np.diff(image, axis=axis)).max() for axis in (0, 1))
    assert seen.sum() > 100
    assert np.abs(out[0][seen] - expected[seen]).max() <= step / 32 + 1e-3
    assert not out[0][~seen].any()


@pytest.mark.parametrize("lens", sorted(LENSES))
def test_a_constant_image_stays_constant_where_any_camera_looks(lens):
    cameras = ring(lens)
    sampler = GroundSampler(POINTS, SIZE, 6)
    table = sampler.make_table()
    sampler.build(cameras, poses(cameras), table)
    out, seen = np.empty((1, *GRID.shape, 1), np.float32), np.empty(GRID.shape, bool)
    bev_pool(
        table.weights.reshape(1, 1, 1, -1), np.ones((6, *SIZE[::-1], 1), np.float32), table, out
    )
    sampler.coverage(seen)
    assert 0.5 < seen.mean() <= 1
    assert np.allclose(out[0, ..., 0], seen, atol=1e-6)


@pytest.mark.parametrize("lens", sorted(LENSES))
@pytest.mark.parametrize("dropped", [0, 2, 5])
def test_dropping_a_camera_changes_only_cells_that_it_sees_to_the_bit(lens, dropped):
    cameras = ring(lens)
    left = cameras[:dropped] + cameras[dropped + 1 :]
    pixels = SIZE[0] * SIZE[1]

    def entries(live: list[CameraModel]) -> dict[int, list[tuple[int, int, float]]]:
        table, found = sampled(live), {}
        for cell, feat, weight in zip(
            table.ranks_bev, table.ranks_feat, table.weights, strict=True
        ):
            who = id(live[feat // pixels])
            found.setdefault(int(cell), []).append((who, int(feat) % pixels, float(weight)))
        return found

    before, after = entries(cameras), entries(left)
    gone = {
        cell
        for cell, items in before.items()
        if id(cameras[dropped]) in {item[0] for item in items}
    }
    assert gone
    assert {cell: items for cell, items in before.items() if cell not in gone} == {
        cell: items for cell, items in after.items() if cell not in gone
    }
    for cell in gone:
        assert before[cell] != after.get(cell)


def test_points_beyond_the_lens_model_do_not_fold_into_the_image():
    first = camera(0.0, "plumb_bob", pitch=0.0, focal=0.5, position=(0, 0, 0))
    limit = max_radius(first.distortion)
    radius = np.linspace(0.0, 3.0, 301, dtype=np.float32)
    points = np.stack([np.ones_like(radius), -radius, np.zeros_like(radius)], axis=1)
    x = radius * (1 - 0.32 * radius**2 + 0.12 * radius**4 - 0.02 * radius**6)
    folded = (radius > limit) & (np.abs(x) * first.intrinsics[0, 0] < SIZE[0] / 2 - 2)
    assert folded.sum() > 10
    for table in both(lambda: sampled([first], points)):
        seen = np.zeros(len(points), bool)
        seen[table.ranks_bev] = True
        assert not seen[folded].any()
        assert seen[radius < 0.5].all()


def test_points_beyond_a_fisheye_model_do_not_fold_into_the_image():
    lens = make_distortion("equidistant", [-0.2, 0, 0, 0])
    k = [[20.0, 0, 31.5], [0, 20.0, 17.5], [0, 0, 1]]
    first = make_camera(k, lens, SIZE, rigid(BODY_FROM_OPTICAL, [0, 0, 0]))
    # theta (1 - 0.2 theta^2) turns back at 1.29 rad and is 0.27 at 2.1 rad: inside the image.
    angle = np.linspace(0, 3, 301)
    points = 5 * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    for table in both(lambda: sampled([first], points.astype(np.float32))):
        assert 1.2 < angle[table.ranks_bev.max()] < 1.3


def test_a_wide_fisheye_sees_behind_ninety_degrees():
    first = camera(0.0, "fisheye", pitch=0.0, focal=0.25, position=(0, 0, 0))
    angle = np.radians(np.arange(0, 180, 5))
    points = 5 * np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=1)
    for table in both(lambda: sampled([first], points.astype(np.float32))):
        assert 100 < np.degrees(angle[table.ranks_bev.max()]) < 130


def test_points_too_near_or_too_far_are_not_sampled():
    first = camera(0.0, pitch=0.0, position=(0, 0, 0))
    points = np.array(
        [[0.4, 0, 0], [0.6, 0, 0], [19.9, 0, 0], [20.1, 0, 0], [-5, 0, 0]], np.float32
    )
    for table in both(lambda: sampled([first], points, min_depth=0.5, max_range=20.0)):
        assert set(table.ranks_bev.tolist()) == {1, 2}


def test_values_that_are_not_numbers_are_seen_by_no_camera():
    points = np.full((300, 3), 5, np.float32)
    points[:, 1:] = 0
    points[7], points[150, 1], points[299, 2] = np.nan, np.inf, -np.inf
    table = sampled([camera(0.0, pitch=0.0)], points)
    assert sorted(set(range(300)) - set(table.ranks_bev.tolist())) == [7, 150, 299]


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_points_may_be_any_set_and_do_not_influence_each_other(count):
    voxels = np.random.default_rng(2).uniform(-20, 20, (10, 10, 10, 3)).astype(np.float32)
    whole, part = sampled(ring(), voxels), sampled(ring(), voxels.reshape(-1, 3)[:count])
    kept = whole.ranks_bev < count
    assert np.array_equal(whole.ranks_feat[kept], part.ranks_feat)
    assert np.array_equal(whole.weights[kept], part.weights)
