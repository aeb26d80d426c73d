"""check-calib on real frames and on the drawn world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_pack import data_pack

from bev_runtime.bags import Bag
from bev_runtime.calibration_check import (
    CameraScore,
    accumulate,
    in_camera_frame,
    judge,
    most_suspicious_first,
    score_camera,
)
from bev_runtime.calibration_check.score import ANGLE_DEG, ROLL_DEG
from bev_runtime.cli import main
from bev_runtime.cli.check_calib import Collector
from bev_runtime.demo_world import BagOptions, make_world, nuscenes_like_rig, write_bag
from bev_runtime.errors import CalibrationError
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.recording import RecordingPipeline
from bev_runtime.replay import replay
from bev_runtime.rig_inference import infer_rig
from bev_runtime.runtime import Runtime


def collect(path: Path) -> Collector:
    with Bag(path) as bag:
        rig = infer_rig(bag).rig
        runtime = Runtime(rig, RecordingPipeline(rig))
        collector = Collector(runtime, rig, 1)
        replay(bag, runtime, sinks=[collector])
    return collector


def turned(camera, axis: int, degrees: float):
    """The camera with a calibration that is wrong by a turn about its own axis."""
    turn = rigid(rotation_from_euler(*np.radians(degrees * np.eye(3)[axis])), [0, 0, 0])
    return replace(camera, ego_from_camera=camera.ego_from_camera @ turn)


def measure(rgb, camera, points):
    return score_camera(rgb, camera, in_camera_frame(camera, points))


@pytest.fixture(scope="module")
def scene() -> Collector:
    return collect(data_pack() / "bags/nuscenes_scene0061")


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["nuscenes_scene0061", "nuscenes_bevdet_sample0", "kitti_object", "kitti_000134"]
)
def test_no_real_camera_with_its_true_calibration_is_called_off(name):
    verdicts = judge(collect(data_pack() / "bags" / name).evidence)
    assert {verdict.status for verdict in verdicts.values()} == {"ok"}


@pytest.mark.data
@pytest.mark.parametrize("axis", [0, 1], ids=["pitch", "yaw"])
@pytest.mark.parametrize("degrees", [-1.5, 1.5])
def test_the_one_real_camera_that_is_off_by_one_and_a_half_degrees_is_named(scene, axis, degrees):
    true = judge(scene.evidence)
    for name in sorted(scene.shown)[axis + (degrees > 0) :: 2]:
        rgb, camera, points = scene.shown[name]
        found = measure(rgb, turned(camera, axis, degrees), points)
        verdicts = judge(scene.evidence | {name: found})
        assert [n for n, v in verdicts.items() if v.status == "misaligned"] == [name]
        assert judge({name: found})[name].status == "misaligned", "also without the other cameras"
        change = np.subtract(verdicts[name].offset_deg, true[name].offset_deg)[1:]
        assert abs(change[axis] - degrees) <= 0.3, (name, change)
        assert abs(change[1 - axis]) <= 0.3, (name, change)


@pytest.mark.data
@pytest.mark.parametrize("degrees", [-2.0, 2.0])
def test_a_real_camera_that_is_rolled_is_named(scene, degrees):
    for name in ("CAM_FRONT_RIGHT", "CAM_BACK_RIGHT"):
        rgb, camera, points = scene.shown[name]
        verdict = judge({name: measure(rgb, turned(camera, 2, degrees), points)})[name]
        assert verdict.status == "misaligned"
        assert abs(verdict.offset_deg[0] - degrees) <= 0.8


@pytest.mark.data
def test_a_cloud_of_another_place_is_no_evidence(scene):
    rgb, camera, _ = scene.shown["CAM_FRONT"]
    for other in ("CAM_BACK_LEFT", "CAM_FRONT_RIGHT"):
        _, elsewhere, points = scene.shown[other]
        cloud = in_camera_frame(elsewhere, points)
        verdict = judge({"a": score_camera(rgb, camera, cloud)})["a"]
        assert verdict.status == "not_enough_evidence"


@pytest.mark.data
def test_the_command_names_the_one_camera_whose_transform_is_off(tmp_path, capsys):
    from rosbags.highlevel import AnyReader
    from rosbags.rosbag2 import Writer

    source, path = data_pack() / "bags/nuscenes_scene0061", tmp_path / "off"
    half = np.radians(1.5) / 2
    with AnyReader([source]) as reader, Writer(path, version=8) as writer:
        channels = {
            c.id: writer.add_connection(c.topic, c.msgtype, typestore=reader.typestore)
            for c in reader.connections
        }
        for connection, time_ns, raw in reader.messages():
            if connection.topic == "/tf_static":
                message = reader.deserialize(raw, connection.msgtype)
                for item in message.transforms:
                    if item.child_frame_id == "CAM_FRONT_LEFT":
                        q = item.transform.rotation  # times a turn about the camera's own y
                        s, c = np.sin(half), np.cos(half)
                        x, y, z, w = q.x, q.y, q.z, q.w
                        q.x, q.y, q.z, q.w = (
                            x * c - z * s,
                            y * c + w * s,
                            z * c + x * s,
                            w * c - y * s,
                        )
                raw = reader.typestore.serialize_cdr(message, connection.msgtype)
            writer.write(channels[connection.id], time_ns, raw)
    assert main(["check-calib", str(path), "--json", "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["misaligned"] == ["CAM_FRONT_LEFT"]
    assert report["most_suspicious_first"][0] == "CAM_FRONT_LEFT"
    assert abs(report["cameras"]["CAM_FRONT_LEFT"]["yaw_error_deg"] - 1.5) <= 0.8
    assert len(list((tmp_path / "out").glob("*.png"))) == 6
    assert main(["check-calib", str(path), "--json", "--strict"]) == 1


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Collector:
    path = tmp_path_factory.mktemp("world") / "bag"
    rig = nuscenes_like_rig((800, 450))
    rig = replace(rig, cameras=rig.cameras[1:5:3])
    options = BagOptions(duration_s=0.3, rate_hz=10, image_scale=1.0)
    return collect(write_bag(path, rig, make_world(3), options))


def test_the_drawn_worlds_cameras_are_found_right_and_a_turned_one_is_named(drawn):
    assert {verdict.status for verdict in judge(drawn.evidence).values()} == {"ok"}
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    verdict = judge({"a": measure(rgb, turned(camera, 1, 2.0), points)})["a"]
    assert verdict.status == "misaligned"
    assert abs(verdict.offset_deg[2] - 2.0) <= 0.5


def test_frames_add_up(drawn):
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    one = measure(rgb, camera, points)
    blank = measure(np.full_like(rgb, 128), camera, points)
    two = accumulate(one, one)
    assert (two.num_points, two.num_frames) == (2 * one.num_points, 2)
    np.testing.assert_allclose(two.surfaces, one.surfaces)
    mixed = accumulate(accumulate(None, one), blank)
    np.testing.assert_allclose(mixed.surfaces, one.surfaces / 2)


def test_too_little_structure_is_said_and_not_judged(drawn):
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    for cloud in (points[:0], points[:1], points[:50]):
        verdict = judge({"a": measure(rgb, camera, cloud)})["a"]
        assert verdict.status == "not_enough_evidence"
    blank = measure(np.full_like(rgb, 128), camera, points)
    assert judge({"a": blank})["a"].status == "not_enough_evidence"
    assert most_suspicious_first(judge({"a": blank, "b": drawn.evidence["CAM_FRONT"]})) == [
        "a",
        "b",
    ]


def test_an_image_of_another_size_than_the_cameras_is_refused(drawn):
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    with pytest.raises(CalibrationError, match="check that CameraInfo belongs to this image"):
        measure(rgb[:-1], camera, points)
    with pytest.raises(CalibrationError, match=r"expected \[N, 4\]"):
        score_camera(rgb, camera, points[:, :3])


def peaked_at(roll: float, pitch: float, yaw: float) -> CameraScore:
    """Evidence with one clear maximum, and some ripple."""
    ripple = 0.01 * np.random.default_rng(1).random((7, 33, 33))
    near = (
        ((ROLL_DEG - roll) / 2)[:, None, None] ** 2
        + (ANGLE_DEG - pitch)[None, :, None] ** 2
        + (ANGLE_DEG - yaw)[None, None, :] ** 2
    )
    surface = np.exp(-near / (2 * 0.4**2)) + ripple
    return CameraScore(np.stack([surface, surface]), np.array([300.0, 300.0]), 4000)


@pytest.mark.parametrize("offset", [(1.5, 0, 0), (-1.5, 0, 0), (0, 1.1, 0), (0, 0, -1.1)])
def test_an_offset_about_each_axis_is_named_and_measured(offset):
    verdict = judge({"a": peaked_at(*offset)})["a"]
    assert verdict.status == "misaligned"
    np.testing.assert_allclose(verdict.offset_deg, offset, atol=0.25)
    assert verdict.score < 0.9
    assert verdict.confidence > 0.9
    small = judge({"a": peaked_at(*(value / 2.5 for value in offset))})["a"]
    assert (small.status, small.offset_deg == (0, 0, 0)) == ("ok", False)


def test_what_all_cameras_have_in_common_is_not_held_against_one():
    rig = {name: peaked_at(0, 0, 0.9) for name in "abcd"}
    assert {verdict.status for verdict in judge(rig).values()} == {"ok"}
    assert judge({"a": rig["a"]})["a"].status == "misaligned", "alone, it cannot be told apart"
    far = {name: peaked_at(0, 0, 2.0) for name in "abcd"}
    assert {verdict.status for verdict in judge(far).values()} == {"misaligned"}


def test_a_maximum_at_the_border_of_the_search_is_no_answer():
    assert judge({"a": peaked_at(0, 0, 4.0)})["a"].status == "not_enough_evidence"
