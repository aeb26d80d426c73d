"""What the runtime says of bad samples: once, with the numbers and what to do."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import ros_messages as messages
from ros_messages import PERIOD, START, drive, serialize, write_bag
from rosbags.typesys import Stores, get_typestore

from bev_runtime.errors import ModelError
from bev_runtime.intake import Intake
from bev_runtime.model import load_model
from bev_runtime.recording import RecordingPipeline
from bev_runtime.rig import CameraConfig, Rig
from bev_runtime.runtime import Runtime

NAMES = ("front", "left")
APART_NS = 100_000_000_000
IMAGE = "sensor_msgs/msg/Image"


def make_intake() -> tuple[Runtime, Intake]:
    rig = Rig(cameras={name: CameraConfig(topic=f"/{name}") for name in NAMES})
    runtime = Runtime(rig, RecordingPipeline(rig))
    return runtime, Intake(runtime, get_typestore(Stores.ROS2_HUMBLE))


def send(intake: Intake, name: str, stamp_ns: int, now_ns: int) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    raw = serialize(messages.image(stamp_ns, name, picture))
    intake.receive(f"/{name}", IMAGE, raw, now_ns)


@pytest.mark.parametrize("apart_ns", [APART_NS, -APART_NS])
def test_stamps_of_another_clock_get_one_line_for_all_sensors_that_names_use_sim_time(
    caplog, apart_ns
):
    runtime, intake = make_intake()
    with caplog.at_level(logging.WARNING):
        for i in range(3):
            for name in NAMES:
                send(intake, name, START + apart_ns + i * PERIOD, START + i * PERIOD)
    assert len(caplog.records) == 1, caplog.text
    assert "use_sim_time" in caplog.text
    assert f"{apart_ns / 1e9:+.0f} s" in caplog.text
    reason = "future" if apart_ns > 0 else "late"
    assert all(runtime.buffer.accounts[name].rejected == {reason: 3} for name in NAMES)


def test_a_sensor_that_goes_over_to_another_clock_later_gets_a_line_and_so_does_a_late_sample(
    caplog,
):
    _, intake = make_intake()
    with caplog.at_level(logging.WARNING):
        for i in range(30):
            send(intake, "front", START + APART_NS + i * PERIOD, START + i * PERIOD)
        assert len(caplog.records) == 1
        later_ns = START + 30 * PERIOD
        send(intake, "left", later_ns - APART_NS, later_ns)
        assert [r.getMessage().split(":")[0] for r in caplog.records] == ["front", "left"]
        send(intake, "left", later_ns - 400_000_000, later_ns)
    assert "max_delay_s" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 3


def test_after_a_jump_of_the_clock_another_clock_is_told_again(caplog):
    runtime, intake = make_intake()
    with caplog.at_level(logging.WARNING):
        runtime.observe_clock(START)
        send(intake, "front", START + APART_NS, START)
        back_ns = START - 20_000_000_000
        runtime.observe_clock(back_ns)
        send(intake, "front", back_ns + APART_NS, back_ns)
    said = [r.getMessage() for r in caplog.records if "by another clock" in r.getMessage()]
    assert len(said) == 2


def test_a_sample_that_is_only_late_is_told_for_each_sensor_with_its_setting(caplog):
    _, intake = make_intake()
    with caplog.at_level(logging.WARNING):
        for name in NAMES:
            send(intake, name, START, START + 400_000_000)
    assert [record.getMessage().split(":")[0] for record in caplog.records] == list(NAMES)
    assert "max_delay_s" in caplog.text


@pytest.mark.parametrize(
    ("behind_ms", "waits"), [(0, False), (50, True), (900, True), (1100, False)]
)
def test_a_pose_is_waited_for_while_poses_come_and_not_after_they_ended(behind_ms, waits):
    calibration = {
        "width": 8,
        "height": 8,
        "intrinsics": (8.0, 0, 3.5, 0, 8.0, 3.5, 0, 0, 1),
        "base_from_camera": {"translation": (0, 0, 1.5), "rotation_xyzw": (-0.5, 0.5, -0.5, 0.5)},
    }
    front = {"topic": "/front", "calibration": calibration}
    rig = Rig.model_validate({"cameras": {"front": front}})
    runtime = Runtime(rig, RecordingPipeline(rig))
    pose_ns = START - behind_ms * 1_000_000
    runtime.transforms.add_dynamic("odom", "base_link", pose_ns, np.eye(4))
    intake = Intake(runtime, get_typestore(Stores.ROS2_HUMBLE))
    send(intake, "front", START, START + 1_000_000)
    assert (runtime.poll(START + 2_000_000) is None) is waits
    assert not waits or runtime.poll(START + 1_000_000 + 70_000_000) is not None


def test_bytes_that_are_no_message_are_told_with_the_sensor(caplog):
    runtime, intake = make_intake()
    with caplog.at_level(logging.WARNING):
        for raw in (b"", b"\0", b"\0\1\0\0", b"\0\1\0\0" + bytes(40)):
            intake.receive("/front", IMAGE, raw, START)
    assert len([r for r in caplog.records if "front: " in r.getMessage()]) >= 1
    assert caplog.records[0].getMessage().startswith("front: 0 bytes are no sensor_msgs/msg/Image")
    assert runtime.buffer.accounts["front"].rejected["bad_cdr"] >= 3


def test_a_calibration_for_another_shape_of_image_is_told_with_both_sizes(
    run_replay, tmp_path: Path, caplog
):
    items = [
        (at, topic, messages.camera_info(at, "front", (300, 200), 80.0))
        if topic == "/front/camera_info"
        else (at, topic, message)
        for at, topic, message in drive(frames=3)
    ]
    with caplog.at_level(logging.WARNING):
        summary = run_replay(write_bag(tmp_path / "bag", items))
    assert summary["sensors"]["front"]["rejected"] == {"size_mismatch": 3}
    told = [r.getMessage() for r in caplog.records if "aspect ratio" in r.getMessage()]
    assert len(told) == 1
    assert "300x200" in told[0]


def test_a_file_of_a_model_package_is_answered_with_its_folder(tiny_model: Path):
    for name in ("manifest.yaml", "camera_branch.onnx"):
        with pytest.raises(ModelError, match=f"give '{tiny_model}'"):
            load_model(str(tiny_model / name))
