"""Wrong arguments, parameter files and rig files are named before the node starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

from bev_runtime_ros.mistakes import unused_files
from live_talker import live_rig
from ros_processes import World

pytestmark = pytest.mark.ros
CAMERAS = ("front", "left")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "tiny"], "unknown arguments --model tiny"),
        (["--ros-args", "-r", "foo:bar"], "Couldn't parse remap rule: '-r foo:bar'"),
        (["--ros-args", "--params-file", "/no/such/file"], "Couldn't parse params file"),
    ],
)
def test_wrong_arguments_end_the_start_with_a_usage_code(world: World, words, said):
    node = world.start(["-m", "bev_runtime_ros", *words], "node")
    assert node.popen.wait(20) == 2, node.log
    lines = [line for line in node.log.splitlines() if said in line]
    assert len(lines) == 1, node.log
    assert "Traceback" not in node.log
    assert "/project/" not in lines[0]


def test_a_rig_file_that_cannot_be_used_is_one_line_with_the_place(
    world: World, tiny_model, tmp_path
):
    (tmp_path / "tabs.yaml").write_text("cameras:\n\tfront:\n\t\ttopic: /front\n")
    wrong = live_rig(list(CAMERAS), timing={"max_wait_s": -1})
    wrong["cameras"]["front"]["rate"] = 3
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(wrong))
    bad_topic = live_rig(list(CAMERAS))
    bad_topic["cameras"]["front"]["topic"] = "/front image"
    (tmp_path / "topic.yaml").write_text(yaml.safe_dump(bad_topic))
    expected = {"tabs": "line 2", "rig": "max_wait_s", "topic": "'/front image' of front"}
    nodes = {n: world.node(model=tiny_model, rig_file=tmp_path / f"{n}.yaml") for n in expected}
    for name, said in expected.items():
        assert nodes[name].popen.wait(20) == 1, nodes[name].log
        assert said in nodes[name].log
        assert len(nodes[name].log.strip().splitlines()) == 1, nodes[name].log


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"bev_runtme": {"ros__parameters": {"model": "x"}}}, "is for /bev_runtme and not for"),
        ({"other": {"bev_runtime": {"ros__parameters": {}}}}, "is for /other/bev_runtime and not"),
        ({"bev_runtime": {"ros__parameters": {}}}, None),
        ({"/bev_runtime": {"ros__parameters": {}}}, None),
        ({"/**": {"ros__parameters": {}}}, None),
        ({"/**/bev_runtime": {"ros__parameters": {}}}, None),
        ({"/*": {"ros__parameters": {}}}, None),
        ({"a": {"ros__parameters": {}}, "bev_runtime": {"ros__parameters": {}}}, None),
    ],
)
def test_a_parameter_file_for_another_node_is_told(tmp_path: Path, content, told):
    path = tmp_path / "parameters.yaml"
    path.write_text(yaml.safe_dump(content))
    lines = unused_files(["--ros-args", "--params-file", str(path)], "/bev_runtime")
    assert len(lines) == (told is not None)
    assert told is None or told in lines[0]


def test_a_camera_that_is_named_twice_is_refused(world: World, tiny_model: Path):
    node = world.node("-p", "cameras:=[front, front]", model=tiny_model)
    assert node.popen.wait(20) == 1, node.log
    assert "names front twice" in node.log
