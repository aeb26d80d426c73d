"""A common mistake gets one clear line within a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

import rclpy
from live_talker import Talker, live_rig
from ros_processes import Process, World, until, values_of
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros
CAMERAS = {"front": 0.0, "left": 90.0}


def write_rig(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def activated(world: World, process: Process) -> float:
    """Configures and activates a node that has had time to discover the others."""
    world.listener.state()
    time.sleep(1.5)
    assert world.listener.change_state(1), process.log
    since_s = time.monotonic()
    assert world.listener.change_state(3), process.log
    return since_s


def lines_with(process: Process, text: str) -> list[str]:
    return [line for line in process.log.splitlines() if text in line]


def expect_line(process: Process, text: str, since_s: float, within_s: float = 2.5) -> str:
    """The one line with a text: within a second of activation on an idle machine."""
    process.wait_for(text, 10.0)
    assert time.monotonic() - since_s < within_s, process.log
    time.sleep(0.6)
    found = lines_with(process, text)
    assert len(found) == 1, process.log
    return found[0]


def test_a_wrong_topic_is_named_with_the_topics_that_would_fit(
    world: World, tiny_model: Path, tmp_path: Path
):
    talker = Talker(world.listener.node, CAMERAS)
    rig = live_rig(list(CAMERAS))
    rig["cameras"]["front"]["topic"] = "/frnt/image_raw"
    node = world.node(model=tiny_model, rig_file=write_rig(tmp_path, rig), autostart=False)
    line = expect_line(node, "nobody publishes /frnt/image_raw", activated(world, node))
    assert "/front/image_raw" in line
    assert lines_with(node, "nobody publishes") == [line]
    talker.close()


def test_where_every_topic_is_wrong_one_line_names_what_is_there(
    world: World, tiny_model: Path, tmp_path: Path
):
    talker = Talker(world.listener.node, CAMERAS, static=False, prefix="/car")
    rig = write_rig(tmp_path, live_rig(list(CAMERAS)))
    node = world.node(model=tiny_model, rig_file=rig, autostart=False)
    line = expect_line(node, "nobody publishes any of this rig's 5 topics", activated(world, node))
    assert "/car/front/image_raw, /car/left/camera_info, /car/left/image_raw" in line
    assert lines_with(node, "nobody publishes") == [line]
    talker.close()


def test_a_qos_mismatch_is_named_with_its_cure(world: World, tiny_model: Path, tmp_path: Path):
    talker = Talker(world.listener.node, {"front": 0.0}, reliability="best_effort", infos=False)
    calibration = {
        "width": 160,
        "height": 90,
        "intrinsics": [80.0, 0, 79.5, 0, 80.0, 44.5, 0, 0, 1],
    }
    rig = live_rig(["front"])
    rig["cameras"]["front"] |= {"info_topic": None, "calibration": calibration}
    parameters = {"input_qos.reliability": "reliable"}
    node = world.node(
        model=tiny_model, rig_file=write_rig(tmp_path, rig), **parameters, autostart=False
    )
    line = expect_line(node, "offered best_effort", activated(world, node))
    assert "/front/image_raw" in line
    assert "input_qos.reliability" in line
    talker.close()


def test_transforms_that_are_not_published_are_named(
    world: World, tiny_model: Path, tmp_path: Path
):
    talker = Talker(world.listener.node, CAMERAS, static=False)
    rig = write_rig(tmp_path, live_rig(list(CAMERAS)))
    node = world.node(model=tiny_model, rig_file=rig, autostart=False)
    expect_line(node, "static transforms: nobody publishes /tf_static", activated(world, node))
    node.wait_for("front: not calibrated: no static transform from 'front' to 'base_link'", 3.0)
    assert "is not calibrated" not in node.log  # it follows, and the mode says it
    talker.close()


def test_a_frame_that_no_transform_has_is_named(world: World, tiny_model: Path, tmp_path: Path):
    talker = Talker(world.listener.node, CAMERAS)
    rig = live_rig(list(CAMERAS))
    rig["cameras"]["front"]["frame_id"] = "front_optical"
    node = world.node(model=tiny_model, rig_file=write_rig(tmp_path, rig), autostart=False)
    line = expect_line(node, "front is not calibrated", activated(world, node))
    assert "'front_optical'" in line
    assert "known frames: base_link, front, left" in line
    talker.close()


def test_static_transforms_that_are_not_latched_are_named(
    world: World, tiny_model: Path, tmp_path: Path
):
    talker = Talker(world.listener.node, CAMERAS, latched=False)
    rig = write_rig(tmp_path, live_rig(list(CAMERAS)))
    node = world.node(model=tiny_model, rig_file=rig, autostart=False)
    line = expect_line(node, "offered volatile", activated(world, node))
    assert "/tf_static" in line
    talker.close()


def test_a_topic_of_another_type_is_named(world: World, tiny_model: Path, tmp_path: Path):
    talker = Talker(world.listener.node, {**CAMERAS, "back": 180.0})
    rig = live_rig(list(CAMERAS))
    rig["cameras"]["front"]["topic"] = "/back/camera_info"
    node = world.node(model=tiny_model, rig_file=write_rig(tmp_path, rig), autostart=False)
    line = expect_line(node, "is published as sensor_msgs/msg/CameraInfo", activated(world, node))
    assert "expected sensor_msgs/msg/Image" in line
    talker.close()


def test_a_clock_that_does_not_run_is_named_and_nothing_else(
    world: World, tiny_model: Path, tmp_path: Path
):
    talker = Talker(world.listener.node, {"front": 0.0, "left": 90.0, "back": 180.0})
    rig = write_rig(tmp_path, live_rig(["front", "left", "back"]))
    node = world.node(model=tiny_model, rig_file=rig, use_sim_time=True, autostart=False)
    expect_line(node, "nothing publishes /clock", activated(world, node))
    assert len(node.log.strip().splitlines()) == 2, node.log  # and the one of configure
    talker.close()


def test_a_missing_model_leaves_the_node_unconfigured(world: World, drive_rig: Path):
    node = world.node(model="no_such_model", rig_file=drive_rig, autostart=False)
    world.listener.state()
    assert not world.listener.change_state(1)
    assert world.listener.state() == "unconfigured"
    assert "twinlite_ground_map" in expect_line(node, "no_such_model", time.monotonic())
    assert "Traceback" not in node.log


def test_with_autostart_a_missing_model_ends_the_process(world: World, drive_rig: Path):
    node = world.node(model="no_such_model", rig_file=drive_rig)
    assert node.popen.wait(10) == 1
    assert len(lines_with(node, "no_such_model")) == 1
    assert "Traceback" not in node.log


def test_cameras_named_differently_from_the_model_are_named(
    world: World, named_model: Path, drive_rig: Path
):
    node = world.node(model=named_model, rig_file=drive_rig, autostart=False)
    line = expect_line(node, "takes cameras CAM_A, CAM_B", activated(world, node))
    assert "back, front, left" in line


def test_outputs_without_their_package_are_off_and_the_others_work(
    world: World, fusion_model: Path, drive_rig: Path
):
    code = (
        "import sys; sys.modules['vision_msgs'] = None\n"
        "from bev_runtime_ros.main import main; sys.exit(main())"
    )
    words = [f"model:={fusion_model}", f"rig_file:={drive_rig}", "autostart:=false"]
    words = ["-c", code, "--ros-args", *(w for word in words for w in ("-p", word))]
    node = world.start(words, "node")
    line = expect_line(node, "~/output/detections is off", activated(world, node))
    assert "vision_msgs" in line

    def topics() -> set[str]:
        return {name for name, _ in world.listener.node.get_topic_names_and_types()}

    until(lambda: "/bev_runtime/output/mode" in topics(), 5, node.log)
    assert "/bev_runtime/output/detections" not in topics()


def test_without_rclpy_the_node_says_what_to_source(world: World):
    code = (
        "import sys; sys.modules['rclpy'] = None\n"
        "from bev_runtime_ros.main import main; sys.exit(main())"
    )
    node = world.start(["-c", code], "node")
    assert node.popen.wait(10) == 1
    assert "source your ROS 2 installation" in node.log
    assert "Traceback" not in node.log


def test_two_drivers_a_second_node_of_the_name_and_no_ego_motion_get_a_line_each(
    world: World, tiny_model: Path, tmp_path: Path
):
    talkers = [Talker(world.listener.node, CAMERAS) for _ in range(2)]
    namesake = rclpy.create_node("bev_runtime", context=world.listener.node.context)
    reports = world.listener.hear("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    rig = write_rig(tmp_path, live_rig(list(CAMERAS), fixed_frame="odom"))
    node = world.node(model=tiny_model, rig_file=rig, autostart=False)
    since_s = activated(world, node)
    line = expect_line(node, "/front/image_raw has 2 publishers", since_s)
    assert "left" in line
    until(lambda: len(reports) > 3, 5, node.log)
    levels = {status.name: status.level for status in reports[-1][1].status}
    (sensor,) = (level for name, level in levels.items() if name.endswith(": front"))
    assert sensor in (0, b"\0"), levels  # it delivers
    assert "/bev_runtime" in expect_line(node, "another node is named", since_s, 3.0)
    line = expect_line(node, "ego motion is unknown", since_s, 4.0)
    assert "'odom'" in line
    assert "fixed_frame" in line
    namesake.destroy_node()
    for talker in talkers:
        talker.close()


def test_bytes_that_are_no_message_are_counted_and_the_node_goes_on(
    world: World, tiny_model: Path, tmp_path: Path
):
    talker = Talker(world.listener.node, CAMERAS)
    damaged = world.listener.node.create_publisher(Image, "/front/image_raw", 5)
    got = world.listener.hear("/bev_runtime/output/map/red", "nav_msgs/msg/OccupancyGrid")
    reports = world.listener.hear("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")
    rig = write_rig(tmp_path, live_rig(list(CAMERAS)))
    node = world.node(model=tiny_model, rig_file=rig, autostart=False)
    activated(world, node)
    rng = np.random.default_rng(3)
    for _ in range(10):
        for raw in (b"\0\1\0\0", b"\0\1\0\0" + rng.bytes(60), rng.bytes(64)):
            damaged.publish(raw)
        time.sleep(0.05)
    count = len(got)
    until(lambda: len(got) > count + 3, 5, node.log)

    def counted() -> bool:
        names = [(s.name, values_of(s)) for s in reports[-1][1].status] if reports else []
        found = [values for name, values in names if name.endswith(": front")]
        return bool(found) and int(found[0].get("rejected/bad_cdr", 0)) >= 10

    until(counted, 3, node.log)
    assert len(lines_with(node, "are no sensor_msgs/msg/Image")) == 1
    assert "Traceback" not in node.log
    talker.close()
