"""The node's states, its parameters and its end, over real services and signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

from bev_runtime_ros.parameter_table import PARAMETERS
from live_talker import Talker, live_rig
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters, ListParameters, SetParameters
from ros_processes import Process, World, until

pytestmark = pytest.mark.ros
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
CAMERAS = {"front": 0.0, "left": 90.0, "back": 180.0}
GRID = "nav_msgs/msg/OccupancyGrid"


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(live_rig(list(CAMERAS))))
    return path


def set_parameter(world: World, name: str, value: ParameterValue) -> tuple[bool, str]:
    request = SetParameters.Request(parameters=[ParameterMessage(name=name, value=value)])
    answer = world.listener.call(SetParameters, "/bev_runtime/set_parameters", request)
    return answer.results[0].successful, answer.results[0].reason


def integer(value: int) -> ParameterValue:
    return ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)


def test_every_state_can_be_reached_and_left_and_only_an_active_node_publishes(
    world: World, tiny_model: Path, rig: Path
):
    talker = Talker(world.listener.node, CAMERAS)
    got = world.listener.hear("/bev_runtime/output/map/red", GRID)
    node = world.node(model=tiny_model, rig_file=rig, autostart=False)
    assert world.listener.state() == "unconfigured"
    for _ in range(2):
        assert world.listener.change_state(CONFIGURE), node.log
        assert world.listener.state() == "inactive"
        count = len(got)
        time.sleep(0.5)
        assert len(got) == count
        for _ in range(2):
            assert world.listener.change_state(ACTIVATE), node.log
            count = len(got)
            until(lambda count=count: len(got) > count + 3, 5, f"outputs\n{node.log}")
            assert world.listener.change_state(DEACTIVATE), node.log
            assert world.listener.state() == "inactive"
        assert world.listener.change_state(CLEANUP), node.log
        assert world.listener.state() == "unconfigured"
    talker.close()
    assert node.stop()[0] == 0
    assert "Traceback" not in node.log


def test_parameters_are_bounded_known_by_name_and_read_only_after_configure(
    world: World, tiny_model: Path, rig: Path
):
    world.node(model=tiny_model, rig_file=rig, autostart=False)
    prefix = "/bev_runtime"
    names = world.listener.call(
        ListParameters, f"{prefix}/list_parameters", ListParameters.Request()
    ).result.names
    assert {spec.name for spec in PARAMETERS} <= set(names)
    assert set_parameter(world, "input_qos.depth", integer(7)) == (True, "")
    accepted, reason = set_parameter(world, "input_qos.depth", integer(1000))
    assert not accepted
    assert reason
    accepted, reason = set_parameter(
        world, "input_qos.reliability", ParameterValue(type=4, string_value="sometimes")
    )
    assert not accepted
    assert "best_effort" in reason
    assert not set_parameter(world, "no_such_parameter", integer(1))[0]
    assert world.listener.change_state(CONFIGURE)
    accepted, reason = set_parameter(world, "input_qos.depth", integer(5))
    assert not accepted
    assert "read-only after configure" in reason
    request = GetParameters.Request(names=["input_qos.depth"])
    values = world.listener.call(GetParameters, f"{prefix}/get_parameters", request).values
    assert values[0].integer_value == 7
    assert world.listener.change_state(CLEANUP)
    assert set_parameter(world, "input_qos.depth", integer(5)) == (True, "")


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ({"modle": "x"}, "unknown parameters modle"),
        ({"num_threads": 100}, "expected 0 to 64"),
        ({"num_threads": "many"}, "expected a int"),
        ({"backend": "abacus"}, "onnxruntime"),
    ],
)
def test_wrong_parameters_end_the_start_with_one_line_and_a_usage_code(
    world: World, tiny_model: Path, rig: Path, parameter, said
):
    node = world.node(**{"model": tiny_model, "rig_file": rig, **parameter})
    assert node.popen.wait(20) == 2, node.log
    assert said in node.log
    assert "Traceback" not in node.log
    assert len(node.log.strip().splitlines()) == 1


def test_help_lists_every_parameter_with_its_bounds(world: World):
    words = [sys.executable, "-m", "bev_runtime_ros", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, env=world.env, check=True)
    for spec in PARAMETERS:
        assert f"  {spec.name} (" in done.stdout
        assert spec.allowed in done.stdout


def busy_node(world: World, drive_bag: Path, drive_rig: Path) -> Process:
    """A node that is inferring with a network of 80 ms a camera nearly all the time."""
    node = world.node(model="twinlite_ground_map", rig_file=drive_rig, use_sim_time=True)
    node.wait_for("configured")
    got = world.listener.hear("/bev_runtime/output/map/drivable_area", GRID)
    world.player(drive_bag, "--rig", str(drive_rig), "--loop", "--rate", "0.5")
    until(lambda: len(got) > 2, 40, f"outputs\n{node.log}")
    return node


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_an_inference_ends_the_process_in_order(
    world: World, drive_bag: Path, drive_rig: Path, with_signal
):
    node = busy_node(world, drive_bag, drive_rig)
    code, seconds = node.stop(with_signal)
    assert code == 0, node.log
    assert seconds < 2.0
    assert "Traceback" not in node.log


def test_the_first_output_comes_within_seconds_of_the_start(
    world: World, tiny_model: Path, rig: Path
):
    talker = Talker(world.listener.node, CAMERAS)
    got = world.listener.hear("/bev_runtime/output/map/red", GRID)
    node = world.node(model=tiny_model, rig_file=rig)
    until(lambda: got, 10, f"an output\n{node.log}")
    assert got[0][0] - node.start_s < 6.0, node.log  # 2 s on an idle machine
    talker.close()
