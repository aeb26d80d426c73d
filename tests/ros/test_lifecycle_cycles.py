"""Starts, stops and changes of mind, again and again: nothing grows and nothing is left behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

from live_talker import Talker, live_rig
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters
from ros_processes import Process, World, until, values_of

pytestmark = pytest.mark.ros
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
CAMERAS = {"front": 0.0, "left": 90.0, "back": 180.0}
GRID = "nav_msgs/msg/OccupancyGrid"
CYCLES, SETTLED = 20, 6
GROWTH_MB = 8.0


@pytest.fixture
def rig(tmp_path: Path) -> Path:
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump(live_rig(list(CAMERAS), lidar=True)))
    return path


def set_model(world: World, model: Path) -> None:
    value = ParameterValue(type=4, string_value=str(model))
    request = SetParameters.Request(parameters=[ParameterMessage(name="model", value=value)])
    answer = world.listener.call(SetParameters, "/bev_runtime/set_parameters", request)
    assert answer.results[0].successful, answer.results[0].reason


def footprint(process: Process) -> tuple[int, float]:
    """Threads, and resident memory in MB."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return int(fields["Threads"]), int(fields["VmRSS"].split()[0]) / 1024


def test_many_cycles_leave_neither_threads_nor_memory_behind(
    world: World, fusion_model: Path, rig: Path
):
    talker = Talker(world.listener.node, CAMERAS, lidar=True)
    node = world.node(model=fusion_model, rig_file=rig, autostart=False)
    footprints = []
    for _ in range(CYCLES):
        for transition in (CONFIGURE, ACTIVATE, DEACTIVATE, CLEANUP):
            assert world.listener.change_state(transition), node.log
        footprints.append(footprint(node))
    talker.close()
    least = min(threads for threads, _ in footprints)  # those of a pool end a moment later
    until(lambda: footprint(node)[0] <= least, 3, f"{least} threads, as after {footprints}")
    assert footprints[-1][1] - footprints[SETTLED][1] < GROWTH_MB, footprints
    assert node.stop()[0] == 0
    assert "Traceback" not in node.log


def test_after_a_failed_configure_and_after_a_cleanup_another_model_can_be_taken(
    world: World, tiny_model: Path, fusion_model: Path, rig: Path
):
    talker = Talker(world.listener.node, CAMERAS, lidar=True)
    red = world.listener.hear("/bev_runtime/output/map/red", GRID)
    mix = world.listener.hear("/bev_runtime/output/map/mix", GRID)
    node = world.node(model="no_such_model", rig_file=rig, autostart=False)
    assert not world.listener.change_state(CONFIGURE)
    assert not world.listener.change_state(CONFIGURE)
    for model, mine, other in ((tiny_model, red, mix), (fusion_model, mix, red)):
        set_model(world, model)
        assert world.listener.change_state(CONFIGURE), node.log
        assert world.listener.change_state(ACTIVATE), node.log
        until(lambda mine=mine: len(mine) > 3, 8, f"outputs\n{node.log}")
        silent = len(other)
        assert world.listener.change_state(DEACTIVATE), node.log
        assert world.listener.change_state(CLEANUP), node.log
        assert len(other) == silent
    talker.close()
    assert "Traceback" not in node.log


def test_a_node_that_is_deactivated_in_the_middle_of_an_inference_starts_afresh(
    world: World, rig: Path
):
    talker = Talker(world.listener.node, CAMERAS, lidar=True)
    modes = world.listener.modes()
    node = world.node(model="twinlite_ground_map", rig_file=rig, autostart=False)
    assert world.listener.change_state(CONFIGURE), node.log
    for _ in range(3):
        count = len(modes)
        assert world.listener.change_state(ACTIVATE), node.log
        until(lambda count=count: len(modes) > count + 1, 15, f"outputs\n{node.log}")
        assert values_of(modes[count][1])["mode"] == "FULL", node.log  # nothing old counts as lost
        time.sleep(0.07)
        assert world.listener.change_state(DEACTIVATE), node.log
        count = len(modes)
        time.sleep(0.6)
        assert len(modes) == count
    talker.close()
    assert node.stop()[0] == 0
    assert "Traceback" not in node.log


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start_ends_the_process_in_order(
    world: World, tiny_model: Path, rig: Path, with_signal
):
    for delay_s in (0.4, 0.8, 1.2, 1.6, 2.0):
        node = world.node(model=tiny_model, rig_file=rig)
        time.sleep(delay_s)
        code, seconds = node.stop(with_signal)
        assert code == 0, f"{delay_s} s: {node.log}"
        assert seconds < 2.0
        assert "Traceback" not in node.log
