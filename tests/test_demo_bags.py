from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from demo_rig import GRID, OPTIONS, RIG, matrix, of, picture, points, read, stamp, transforms
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.interfaces import QosDurability

from bev_runtime.camera import make_camera, make_distortion, project
from bev_runtime.demo_world import (
    BagOptions,
    DemoRig,
    World,
    load_truth,
    make_world,
    write_bag,
)
from bev_runtime.demo_world.render import CameraRenderer
from bev_runtime.errors import BagError, ConfigError
from bev_runtime.geometry import (
    invert_rigid,
    transform_points,
)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0, length_m=150.0)


@pytest.fixture(scope="module")
def bag(world, tmp_path_factory) -> Path:
    return write_bag(tmp_path_factory.mktemp("demo") / "drive", RIG, world, OPTIONS)


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
