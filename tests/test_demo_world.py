from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from data_pack import data_pack
from demo_rig import GRID, RIG

from bev_runtime.camera import project
from bev_runtime.demo_world import (
    DemoLidar,
    Mount,
    World,
    demo_camera,
    make_world,
    nuscenes_like_rig,
)
from bev_runtime.demo_world.render import CameraRenderer, cast, enter_distance
from bev_runtime.demo_world.scene import Solid, Surface
from bev_runtime.demo_world.sensors import sweep
from bev_runtime.geometry import (
    invert_rigid,
    rigid,
    rotation_from_euler,
    transform_points,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, length_m=150.0)


@pytest.mark.parametrize(("x", "turn"), [(2.0, 0.0), (50.0, 0.9), (58.0, -1.4)])
def test_true_cells_agree_with_the_pixels_that_they_project_to(world, x, turn):
    pose = world.road.pose(x) @ rigid(rotation_from_euler(0.0, 0.0, turn), [0.0, 0.0, 0.0])
    drivable = world.truth(GRID, pose)[0].astype(np.uint8)
    inner = cv2.erode(drivable, np.ones((3, 3))) > 0
    outer = cv2.dilate(drivable, np.ones((3, 3))) == 0
    centres = np.dstack([GRID.centres(), np.zeros(GRID.shape)]).reshape(-1, 3).astype(float)
    for camera in RIG.cameras:
        pixels, visible = project(
            camera.model, transform_points(invert_rigid(camera.model.ego_from_camera), centres)
        )
        labels = CameraRenderer(camera.model).labels(world, pose).surface
        column, row = np.round(pixels[visible]).astype(int).T
        seen = labels[row, column]
        road = np.isin(seen, (Surface.ROAD, Surface.LINE))
        in_inner, in_outer = inner.ravel()[visible], outer.ravel()[visible]
        assert in_inner.sum() > 100
        assert in_outer.sum() > 100
        assert road[in_inner & (seen != Surface.SOLID)].mean() > 0.99
        assert road[in_outer].mean() < 0.01


def test_truth_is_not_drivable_under_the_van_that_blocks_the_right_lane(world):
    van = next(s for s in world.solids if s.kind == "van" and abs(s.centre[0] - 36) < 1)
    pose = world.road.pose(24.0)
    drivable, lane = world.truth(GRID, pose)
    spot = invert_rigid(pose) @ [*van.centre[:2], 0.0, 1.0]
    row, column = (int((spot[i] - low) / GRID.cell) for i, low in ((0, -20.0), (1, -15.0)))
    assert not drivable[row - 4 : row + 5, column - 1 : column + 2].any()
    assert drivable[row, column + 7]
    assert drivable[row - 12, column]
    middle = int((0.0 - GRID.y_min) / GRID.cell)
    assert drivable[:, middle].all()
    along = lane[10:50].mean(axis=0)
    assert along[[middle - 4, middle + 3]].min() > 0.25, "dashes beside the middle lane"
    assert along[middle - 2 : middle + 2].max() < 0.05, "nothing within the lane"


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(
    ("mount", "focal", "distortion"),
    [
        (Mount((1.0, 0.3, 1.5)), 300.0, ("none", ())),
        (Mount((1.0, 0.3, 1.5), 10.0, -4.0, 35.0), 300.0, ("none", ())),
        (Mount((1.0, 0.3, 1.5), -8.0, 5.0), 260.0, ("plumb_bob", (-0.25, 0.05, 0.002, -0.001))),
        (
            Mount((0.5, -0.2, 1.2), -40.0, 20.0, -15.0),
            110.0,
            ("equidistant", (0.02, -0.004, 0.001, 0.0)),
        ),
        (Mount((0.5, 0.0, 1.2), 75.0, 0.0, 90.0), 105.0, ("equidistant", (0.0,))),
    ],
)
def test_a_known_point_is_found_at_its_projection(world, mount, focal, distortion, scale):
    camera = demo_camera("cam", mount, size=(401, 400), focal=focal, distortion=distortion).model
    pose = world.road.pose(10.0)
    centre = (pose @ [12.0, 1.4, 1.8, 1.0])[:3]
    ball = Solid("ball", tuple(centre), (0.5, 0.5, 0.5), 0.3, (255.0, 0.0, 255.0), ellipsoid=True)
    red = Solid("box", (*centre[:2], 0.2), (0.3, 0.3, 0.2), 0.3, (255.0, 30.0, 20.0))
    scene = dataclasses.replace(world, solids=(red, ball))
    rgb = CameraRenderer(camera, scale).render(scene, pose).astype(int)
    camera_from_odom = invert_rigid(pose @ camera.ego_from_camera)
    pixels, visible = project(
        camera, transform_points(camera_from_odom, np.array([centre, red.centre]))
    )
    assert visible.all()
    pink = (rgb[..., 0] - rgb[..., 1] > 60) & (rgb[..., 2] - rgb[..., 1] > 60)
    found = np.array(
        [np.flatnonzero(pink.any(axis=0)).mean(), np.flatnonzero(pink.any(axis=1)).mean()]
    )
    np.testing.assert_allclose(found, pixels[0], atol=1.0 / scale)
    column, row = np.round(pixels[1]).astype(int)
    r, g, b = rgb[row, column]
    assert r - g > 40
    assert r - b > 40


@pytest.mark.parametrize("opening_deg", [20.0, 120.0, 340.0])
def test_skipping_solids_out_of_view_or_hidden_changes_no_ray(world, opening_deg):
    spread = np.radians(np.linspace(opening_deg / 2, -opening_deg / 2, 150))
    up = np.radians(np.linspace(15, -25, 45))[:, None]
    rays = np.stack(np.broadcast_arrays(np.cos(up) * np.cos(spread), np.cos(up) * np.sin(spread),
                                        np.sin(up)), axis=-1).astype(np.float32)  # fmt: skip
    for x in (5.0, 30.0, 58.0):
        origin = world.road.pose(x)[:3, 3] + [0.0, 0.0, 1.5]
        hits = cast(world, origin, rays)
        with np.errstate(divide="ignore"):
            expected = np.where(rays[..., 2] < -1e-4, -1.5 / rays[..., 2], np.inf)
        for _, solid in world.near(*origin[:2], 160.0):
            expected = np.minimum(expected, enter_distance(solid, origin, rays))
        np.testing.assert_allclose(hits.distance, expected, rtol=1e-6)
        assert np.unique(hits.solid).size > 10


def test_a_box_close_to_a_wall_hides_a_part_of_it(world):
    wall = Solid("house", (25.0, 0.0, 5.0), (1.0, 60.0, 40.0), 0.0, (200.0, 180.0, 150.0))
    box = Solid("box", (23.0, 0.0, 2.0), (0.5, 0.5, 0.5), 0.0, (255.0, 0.0, 0.0))
    camera = demo_camera("cam", Mount((0.0, 0.0, 2.0)), size=(200, 200), focal=400.0).model
    scene = dataclasses.replace(world, solids=(wall, box))
    solid = CameraRenderer(camera).labels(scene, np.eye(4)).solid
    assert (solid == 1).sum() == pytest.approx((400 / 22.5) ** 2, rel=0.1)


def test_mounts_turn_left_look_down_and_roll_clockwise():
    up_left = [10.0, 1.0, 1.0]
    for mount, right_down in (
        (Mount((0.0, 0.0, 0.0)), (-0.1, -0.1)),
        (Mount((0.0, 0.0, 0.0), yaw_deg=90.0), None),
        (Mount((0.0, 0.0, 0.0), yaw_deg=5.0), (-0.0125, -0.0995)),
        (Mount((0.0, 0.0, 0.0), pitch_deg=5.0), (-0.1013, -0.1891)),
        (Mount((0.0, 0.0, 0.0), roll_deg=90.0), (-0.1, 0.1)),
    ):
        x, y, z = transform_points(invert_rigid(mount.ego_from_camera()), np.array(up_left))
        if right_down is None:
            assert (x, z) == pytest.approx((10.0, 1.0))
        else:
            assert (x / z, y / z) == pytest.approx(right_down, abs=1e-4)


def test_a_coarse_render_lies_exactly_over_a_fine_one(world):
    camera = nuscenes_like_rig((800, 450)).cameras[1].model
    pose = world.road.pose(0.0)
    fine, coarse = (
        cv2.cvtColor(CameraRenderer(camera, scale).render(world, pose), cv2.COLOR_RGB2GRAY)
        for scale in (1.0, 0.5)
    )
    shift, _ = cv2.phaseCorrelate(fine.astype(np.float32), coarse.astype(np.float32))
    assert np.abs(shift).max() < 0.15


def test_pixels_beyond_the_fold_of_a_lens_are_black(world):
    camera = demo_camera(
        "cam", Mount(), size=(400, 300), focal=250.0, distortion=("plumb_bob", (-0.4,))
    ).model
    rgb = CameraRenderer(camera).render(world, world.road.pose(0.0))
    v, u = np.mgrid[:300, :400]
    radius = np.hypot(u - 199.5, v - 149.5) / 250.0
    assert (rgb[radius > 0.62] == 0).all()
    assert (rgb[radius < 0.58].max(axis=1) > 0).all()


def test_a_fisheye_is_black_outside_its_circle_and_sees_all_within():
    camera = demo_camera(
        "cam", Mount(), size=(400, 300), focal=90.0, distortion=("equidistant", (0.0,))
    ).model
    rgb = CameraRenderer(camera).render(make_world(0, length_m=60.0), np.eye(4))
    v, u = np.mgrid[:300, :400]
    angle = np.hypot(u - 199.5, v - 149.5) / 90.0
    assert (rgb[angle > np.pi / 2 + 0.01] == 0).all()
    assert (rgb[angle < np.pi / 2 - 0.05].max(axis=1) > 0).all()


def test_a_sweep_on_open_road_is_flat_and_reaches_its_range(world):
    lidar = DemoLidar(columns=360)
    empty = dataclasses.replace(world, solids=())
    cloud, ring = sweep(empty, lidar, world.road.pose(5.0), np.random.default_rng(0))
    ground = transform_points(lidar.ego_from_lidar, cloud[:, :3].astype(float))
    assert np.abs(ground[:, 2]).max() < 0.1
    assert 60 < np.linalg.norm(cloud[:, :3], axis=1).max() < lidar.range_m + 0.2
    assert np.unique(ring).tolist() == sorted({int(r) for r in ring})
    assert ring.max() < 24, "beams above the horizon meet nothing"
    assert cloud[:, 3].min() >= 0
    assert np.ptp(cloud[:, 3]) > 30, "paint and grass differ"


@pytest.mark.data
@pytest.mark.parametrize("seed", [0, 3])
def test_a_network_trained_on_real_roads_finds_the_drawn_road(seed):
    onnxruntime = pytest.importorskip("onnxruntime")
    weights = data_pack() / "weights" / "twinlitenet_bdd100k" / "twinlitenet.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    town = make_world(seed, length_m=150.0)
    for camera in nuscenes_like_rig((800, 450)).cameras:
        if camera.name not in ("CAM_FRONT", "CAM_BACK"):
            continue
        renderer = CameraRenderer(camera.model)
        for x in (0.0, 16.0, 28.0):
            pose = town.road.pose(x)
            small = cv2.resize(renderer.render(town, pose), (320, 320))
            image = small.astype(np.float32).transpose(2, 0, 1)[None] / 255
            found = [head[0].argmax(axis=0) > 0 for head in session.run(None, {"input": image})]
            surface = renderer.labels(town, pose).surface
            surface = cv2.resize(surface, (320, 320), interpolation=cv2.INTER_NEAREST)
            road = np.isin(surface, (Surface.ROAD, Surface.LINE))
            assert (found[0] & road).sum() > 0.75 * (found[0] | road).sum(), (camera.name, x)
            assert (found[0] & ~road).sum() < 0.05 * found[0].sum()
            thick = cv2.dilate(found[1].astype(np.uint8), np.ones((5, 5))) > 0
            assert thick[surface == Surface.LINE].mean() > 0.4, (camera.name, x)
