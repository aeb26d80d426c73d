from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from data_pack import data_pack
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.highlevel import AnyReader
from rosbags.interfaces import QosDurability

from bev_runtime.camera import make_camera, make_distortion, project
from bev_runtime.demo_world import (
    BagOptions,
    DemoLidar,
    DemoRig,
    Mount,
    World,
    demo_camera,
    load_truth,
    make_world,
    nuscenes_like_rig,
    write_bag,
)
from bev_runtime.demo_world.render import CameraRenderer, cast, enter_distance
from bev_runtime.demo_world.scene import Solid, Surface
from bev_runtime.demo_world.sensors import sweep
from bev_runtime.errors import BagError, ConfigError
from bev_runtime.geometry import (
    invert_rigid,
    rigid,
    rigid_from_quaternion,
    rotation_from_euler,
    transform_points,
)
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevGrid

GRID = BevGrid(-20.0, 30.0, -15.0, 15.0, 0.5)
SIZE = (320, 180)
RIG = DemoRig(
    (
        demo_camera("CAM_FRONT", Mount((1.7, 0.0, 1.5)), size=SIZE, focal=250.0),
        demo_camera(
            "CAM_BACK",
            Mount((0.0, 0.1, 1.6), yaw_deg=180.0, pitch_deg=3.0),
            size=SIZE,
            focal=160.0,
            distortion=("plumb_bob", (-0.1, 0.02, 0.001, 0.0, 0.0)),
            phase_s=0.02,
        ),
    ),
    DemoLidar(columns=540),
)
OPTIONS = BagOptions(duration_s=0.4, rate_hz=10.0, image_scale=1.0, truth_grid=GRID)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, length_m=150.0)


@pytest.fixture(scope="module")
def bag(world, tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp("demo") / "drive", RIG, world, OPTIONS)


def read(bag):
    """[(topic, bag time, message)] and the connections."""
    with AnyReader([bag]) as reader:
        rows = [
            (connection.topic, time, reader.deserialize(raw, connection.msgtype))
            for connection, time, raw in reader.messages()
        ]
        return rows, list(reader.connections)


def of(rows, topic):
    return [message for name, _, message in rows if name == topic]


def stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def matrix(transform):
    t, q = transform.translation, transform.rotation
    return rigid_from_quaternion([t.x, t.y, t.z], [q.x, q.y, q.z, q.w])


def transforms(rows):
    tree = TransformTree()
    for edge in of(rows, "/tf_static")[0].transforms:
        tree.set_static(edge.header.frame_id, edge.child_frame_id, matrix(edge.transform))
    for message in of(rows, "/tf"):
        edge = message.transforms[0]
        pose = matrix(edge.transform)
        tree.add_dynamic(edge.header.frame_id, edge.child_frame_id, stamp(edge), pose)
    return tree


def picture(message):
    return simplejpeg.decode_jpeg(message.data.tobytes())


def points(cloud):
    """x y z intensity float32 [N, 4], read by the offsets that the cloud declares."""
    table = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)
    offsets = {field.name: field.offset for field in cloud.fields}
    columns = [table[:, offsets[n] : offsets[n] + 4] for n in ("x", "y", "z", "intensity")]
    return np.concatenate([np.ascontiguousarray(c).view("<f4") for c in columns], axis=1)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_holds_every_sensor_at_its_rate_and_phase_in_order_of_time(world, tmp_path, storage):
    options = dataclasses.replace(OPTIONS, storage=storage, lidar_rate_hz=20.0)
    rows, connections = read(write_bag(tmp_path / "bag", RIG, world, options))
    front, back, cloud = (
        [stamp(m) - options.start_ns for m in of(rows, topic)]
        for topic in (
            "/CAM_FRONT/image/compressed",
            "/CAM_BACK/image/compressed",
            "/LIDAR_TOP/points",
        )
    )
    tick, half = 100_000_000, 50_000_000
    assert front == [i * tick for i in range(4)]
    assert back == [i * tick + 20_000_000 for i in range(4)]
    assert cloud == [i * half + 43_000_000 for i in range(8)]
    assert [stamp(m) - options.start_ns for m in of(rows, "/CAM_BACK/camera_info")] == back
    assert all(time == stamp(m) for topic, time, m in rows if not topic.startswith("/tf"))
    assert [time for _, time, _ in rows] == sorted(time for _, time, _ in rows)
    kept = QosDurability.TRANSIENT_LOCAL
    latched = [c.topic for c in connections if c.ext.offered_qos_profiles[0].durability is kept]
    assert latched == ["/tf_static"]
    poses = np.array([stamp(m) for m in of(rows, "/odom")])
    assert np.diff(poses).max() <= 20_000_000
    assert poses[0] < options.start_ns
    assert poses[-1] > options.start_ns + max(back + cloud)


def test_mcap_ros2_support_reads_the_same_messages(bag):
    rows, _ = read(bag)
    with (bag / f"{bag.name}.mcap").open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        others = [
            (channel.topic, message.log_time, decoded)
            for _, channel, message, decoded in reader.iter_decoded_messages()
        ]
    assert len(others) == len(rows) > 50
    for (topic, time, message), (topic_too, time_too, other) in zip(
        sorted(rows, key=lambda r: (r[1], r[0])),
        sorted(others, key=lambda r: (r[1], r[0])),
        strict=True,
    ):
        assert (topic, time) == (topic_too, time_too)
        if topic.startswith("/tf"):
            pair = message.transforms[0].transform, other.transforms[0].transform
            np.testing.assert_array_equal(*map(matrix, pair))
        else:
            assert message.header.frame_id == other.header.frame_id
            for field in ("data", "k", "d", "p"):
                if hasattr(message, field):
                    mine, theirs = getattr(message, field), getattr(other, field)
                    assert np.asarray(mine).tobytes() == np.asarray(theirs).tobytes()


def test_the_bag_carries_the_calibration_of_the_rig(bag):
    rows, _ = read(bag)
    tree = transforms(rows)
    for camera in RIG.cameras:
        info = of(rows, f"/{camera.name}/camera_info")[0]
        lens = make_distortion(info.distortion_model, info.d)
        pose = tree.lookup("base_link", camera.name, OPTIONS.start_ns)
        found = make_camera(info.k, lens, (info.width, info.height), pose)
        assert (
            found.size
            == camera.model.size
            == picture(of(rows, f"/{camera.name}/image/compressed")[0]).shape[1::-1]
        )
        assert found.distortion.model == camera.model.distortion.model
        np.testing.assert_array_equal(
            found.distortion.coefficients, camera.model.distortion.coefficients
        )
        np.testing.assert_array_equal(found.intrinsics, camera.model.intrinsics)
        np.testing.assert_allclose(found.ego_from_camera, camera.model.ego_from_camera, atol=1e-12)
    lidar = tree.lookup("base_link", "LIDAR_TOP", OPTIONS.start_ns)
    np.testing.assert_allclose(lidar, RIG.lidar.ego_from_lidar, atol=1e-12)


def test_each_picture_shows_what_the_camera_sees_from_its_pose_at_its_stamp(bag, world):
    rows, _ = read(bag)
    tree = transforms(rows)
    for camera in RIG.cameras:
        message = of(rows, f"/{camera.name}/image/compressed")[2]
        pose = tree.lookup("odom", "base_link", stamp(message))
        elsewhere = tree.lookup("odom", "base_link", stamp(message) - 50_000_000)
        renderer = CameraRenderer(camera.model)
        shown = cv2.GaussianBlur(picture(message), (0, 0), 1).astype(float)
        here, there = (
            np.abs(cv2.GaussianBlur(renderer.render(world, p), (0, 0), 1) - shown).mean()
            for p in (pose, elsewhere)
        )
        assert here < 2.5
        assert there > 1.3 * here


def test_lidar_points_on_a_solid_land_on_its_pixels(bag, world):
    rows, _ = read(bag)
    tree = transforms(rows)
    cloud = of(rows, "/LIDAR_TOP/points")[1]
    in_odom = transform_points(
        tree.lookup("odom", "LIDAR_TOP", stamp(cloud)), points(cloud)[:, :3].astype(float)
    )
    checked = 0
    for camera in RIG.cameras:
        image = of(rows, f"/{camera.name}/image/compressed")[1]
        base = tree.lookup("odom", "base_link", stamp(image))
        labels = CameraRenderer(camera.model).labels(world, base).solid
        camera_from_odom = invert_rigid(base @ camera.model.ego_from_camera)
        pixels, visible = project(camera.model, transform_points(camera_from_odom, in_odom))
        for index, solid in world.near(*base[:2, 3], 30.0):
            c, s = np.cos(solid.yaw), np.sin(solid.yaw)
            local = (in_odom - solid.centre) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
            inside = (np.abs(local) < np.array(solid.half) - [-0.1, -0.1, 0.15]).all(axis=1)
            on = np.round(pixels[inside & visible]).astype(int)
            if solid.kind in ("body", "van") and len(on) > 20:
                hit = labels[on[:, 1], on[:, 0]]
                own = np.isin(hit, [i for i, other in world.near(*solid.centre[:2], 2.0)])
                assert own.mean() > 0.85, (camera.name, solid)
                assert (hit == index).mean() > 0.5
                checked += 1
    assert checked >= 3


def test_truth_has_a_map_and_a_pose_for_every_sweep(bag):
    truth = load_truth(bag)
    rows, _ = read(bag)
    assert truth.stamps_ns.tolist() == [stamp(m) for m in of(rows, "/LIDAR_TOP/points")]
    assert truth.grid == GRID
    assert truth.layers == ("drivable_area", "lane")
    tree, town = transforms(rows), make_world(0, length_m=150.0)
    for time, pose, maps in zip(truth.stamps_ns, truth.odom_from_base, truth.maps, strict=True):
        np.testing.assert_allclose(pose, tree.lookup("odom", "base_link", int(time)), atol=1e-4)
        np.testing.assert_array_equal(maps, town.truth(GRID, pose))


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


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    options = dataclasses.replace(OPTIONS, duration_s=0.1)

    def pixels_and_points(name, **changes):
        town = make_world(changes.pop("world_seed", 0), length_m=150.0)
        changed = dataclasses.replace(options, **changes)
        rows, _ = read(write_bag(tmp_path / name, RIG, town, changed))
        return [m.data.tobytes() for topic, _, m in rows if "image" in topic or "points" in topic]

    first = pixels_and_points("first")
    assert pixels_and_points("again") == first
    for other in (pixels_and_points("noise", seed=1), pixels_and_points("town", world_seed=1)):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_frames_of_a_standing_car_differ_by_noise_alone(world, tmp_path):
    options = dataclasses.replace(OPTIONS, speed_mps=0.0)
    rows, _ = read(write_bag(tmp_path / "bag", RIG, world, options))
    frames = [picture(m).astype(float) for m in of(rows, "/CAM_FRONT/image/compressed")]
    for first, second in pairwise(frames):
        assert 0.5 < np.abs(first - second).mean() < 5.0


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
    assert np.unique(solid).tolist() == [0, 1]
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


def test_latency_moves_arrival_and_leaves_stamps(world, tmp_path):
    options = dataclasses.replace(OPTIONS, duration_s=0.1, latency_s=0.03)
    rows, _ = read(write_bag(tmp_path / "bag", RIG, world, options))
    assert {time - stamp(m) for topic, time, m in rows if not topic.startswith("/tf")} == {
        30_000_000
    }


def test_raw_images_hold_rgb8_rows(world, tmp_path):
    options = dataclasses.replace(OPTIONS, duration_s=0.1, compressed=False)
    rows, _ = read(write_bag(tmp_path / "bag", RIG, world, options))
    image = of(rows, "/CAM_FRONT/image_raw")[0]
    assert (image.encoding, image.width, image.height, image.step) == ("rgb8", 320, 180, 960)
    sky, road = image.data.reshape(180, 320, 3)[[5, 150], 160].astype(int)
    assert sky[2] > sky[0]
    assert np.ptp(road) < 40


def test_without_lidar_truth_is_stamped_by_the_last_camera(world, tmp_path):
    rig = DemoRig(RIG.cameras)
    truth = load_truth(write_bag(tmp_path / "bag", rig, world, OPTIONS))
    assert truth.stamps_ns.tolist() == [
        OPTIONS.start_ns + 20_000_000 + i * 100_000_000 for i in range(4)
    ]


def test_odometry_says_how_the_poses_move(bag):
    messages = of(read(bag)[0], "/odom")
    for first, second in pairwise(messages):
        a, b = first.pose.pose.position, second.pose.pose.position
        seconds = (stamp(second) - stamp(first)) / 1e9
        speed = np.hypot(b.x - a.x, b.y - a.y) / seconds
        assert first.twist.twist.linear.x == pytest.approx(speed, abs=1e-3)
    assert speed == pytest.approx(8.0, rel=0.01)


def test_progress_counts_every_moment_once(world, tmp_path):
    calls = []
    options = dataclasses.replace(OPTIONS, duration_s=0.1)
    write_bag(tmp_path / "bag", RIG, world, options, progress=lambda *call: calls.append(call))
    assert calls == [(i + 1, len(calls)) for i in range(len(calls))]


def test_impossible_requests_are_refused_with_their_reason(world, tmp_path, bag):
    with pytest.raises(BagError, match="exists already"):
        write_bag(bag, RIG, world, OPTIONS)
    with pytest.raises(ConfigError, match="storage is 'rosbag1', expected one of mcap, sqlite3"):
        BagOptions(storage="rosbag1")
    with pytest.raises(ConfigError, match="rate_hz is 0"):
        BagOptions(rate_hz=0)
    with pytest.raises(ConfigError, match="each with its own name"):
        DemoRig((RIG.cameras[0], RIG.cameras[0]))
    with pytest.raises(ConfigError, match="at least one"):
        DemoRig(())
    plain = write_bag(tmp_path / "plain", RIG, world, BagOptions(duration_s=0.1, rate_hz=10.0))
    with pytest.raises(BagError, match="truth_grid"):
        load_truth(plain)


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
