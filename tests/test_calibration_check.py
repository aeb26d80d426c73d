"""check-calib on real frames and on the drawn world."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_pack import data_pack

from bev_runtime.bags import Bag
from bev_runtime.calibration_check import Evidence, judge, measure, most_suspicious_first
from bev_runtime.cli import main
from bev_runtime.cli.check_calib import Collector
from bev_runtime.demo_world import BagOptions, make_world, nuscenes_like_rig, write_bag
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


@pytest.fixture(scope="module")
def scene() -> Collector:
    return collect(data_pack() / "bags/nuscenes_scene0061")


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["nuscenes_scene0061", "nuscenes_bevdet_sample0", "kitti_object", "kitti_000134"]
)
def test_no_real_camera_with_its_true_calibration_is_called_off(name):
    verdicts = {n: judge(e) for n, e in collect(data_pack() / "bags" / name).evidence.items()}
    assert {verdict.status for verdict in verdicts.values()} == {"ok"}


@pytest.mark.data
@pytest.mark.parametrize("axis", [0, 1], ids=["pitch", "yaw"])
@pytest.mark.parametrize("degrees", [-1.5, 1.5])
def test_each_real_camera_that_is_off_by_one_and_a_half_degrees_is_named(scene, axis, degrees):
    for name, (rgb, camera, points) in scene.shown.items():
        verdict = judge(measure(rgb, turned(camera, axis, degrees), points))
        found = (verdict.pitch_deg, verdict.yaw_deg)
        assert verdict.status == "misaligned", name
        assert abs(found[axis] - degrees) <= 0.8, (name, found)
        assert abs(found[1 - axis]) <= 0.8, (name, found)


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
    assert {judge(found).status for found in drawn.evidence.values()} == {"ok"}
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    verdict = judge(measure(rgb, turned(camera, 1, 2.0), points))
    assert verdict.status == "misaligned"
    assert abs(verdict.yaw_deg - 2.0) <= 0.8


def test_frames_add_up(drawn):
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    one = measure(rgb, camera, points)
    two = one + one
    assert (two.pairs, two.frames) == (2 * one.pairs, 2)
    assert judge(two).pitch_deg == judge(one).pitch_deg


def test_too_little_structure_is_said_and_not_judged(drawn):
    rgb, camera, points = drawn.shown["CAM_FRONT"]
    for cloud in (points[:0], points[points[:, 2] < 0.3]):
        assert judge(measure(rgb, camera, cloud)).status == "not_enough_evidence"
    blank = measure(np.full_like(rgb, 128), camera, points)
    assert judge(blank).status == "not_enough_evidence"
    assert most_suspicious_first({"a": judge(Evidence(blank.total * 0, 0))}) == ["a"]
