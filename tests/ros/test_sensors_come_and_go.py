"""Drivers that start late, never, or die; bags that loop; calibrations that change."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

from live_talker import Talker, live_rig
from ros_processes import Got, World, until, values_of

pytestmark = pytest.mark.ros
CAMERAS = {"front": 0.0, "left": 90.0, "back": 180.0}
GRID = "nav_msgs/msg/OccupancyGrid"
RED = "/bev_runtime/output/map/red"


def write_rig(folder: Path, **options: Any) -> Path:
    path = folder / "rig.yaml"
    path.write_text(yaml.safe_dump(live_rig(list(CAMERAS), **options)))
    return path


def mode_of(modes: list[Got]) -> str:
    return values_of(modes[-1][1]).get("mode", "") if modes else ""


def stays(modes: list[Got], mode: str, seconds: float = 0.6) -> bool:
    """Whether every output of the last moments had a mode."""
    since = time.monotonic() - seconds
    recent = [values_of(m)["mode"] for at, m, _ in modes if at > since]
    return len(recent) > 1 and set(recent) == {mode}


@pytest.mark.parametrize("first", ["node", "drivers"])
def test_nodes_and_drivers_may_start_in_any_order(
    world: World, tiny_model: Path, tmp_path: Path, first
):
    rig, modes = write_rig(tmp_path), world.listener.modes()
    talker = Talker(world.listener.node, CAMERAS) if first == "drivers" else None
    if talker is not None:
        time.sleep(1.0)
    node = world.node(model=tiny_model, rig_file=rig)
    node.wait_for("configured")
    if talker is None:
        time.sleep(1.0)
        talker = Talker(world.listener.node, CAMERAS)
    until(lambda: stays(modes, "FULL"), 10, f"FULL\n{node.log}")
    talker.close()


def test_a_camera_that_never_starts_is_named_and_the_others_go_on(
    world: World, tiny_model: Path, tmp_path: Path
):
    rig, modes = write_rig(tmp_path), world.listener.modes()
    got = world.listener.hear(RED, GRID)
    talker = Talker(world.listener.node, {"front": 0.0, "back": 180.0})
    node = world.node(model=tiny_model, rig_file=rig)
    until(lambda: stays(modes, "DEGRADED"), 10, f"DEGRADED\n{node.log}")
    assert "left" in modes[-1][1].message
    count = len(got)
    until(lambda: len(got) > count + 5, 5, "outputs go on")
    node.wait_for("nobody publishes /left/image_raw", 2)
    talker.close()


def test_a_lidar_that_dies_and_comes_back_changes_the_mode_and_nothing_stale_is_used(
    world: World, fusion_model: Path, tmp_path: Path
):
    rig, modes = write_rig(tmp_path, lidar=True), world.listener.modes()
    masks = world.listener.hear("/bev_runtime/output/map/lidar_mask", GRID)
    talker = Talker(world.listener.node, CAMERAS, lidar=True)
    node = world.node(model=fusion_model, rig_file=rig)
    until(lambda: stays(modes, "FULL"), 15, f"FULL\n{node.log}")
    assert max(masks[-1][1].data) == 100
    talker.silent.add("lidar")
    until(lambda: stays(modes, "CAMERA_ONLY"), 5, f"CAMERA_ONLY\n{node.log}")
    assert "lidar" in modes[-1][1].message
    until(lambda: max(masks[-1][1].data) == 0, 2, "the LiDAR's cells are empty")
    talker.silent.clear()
    until(lambda: stays(modes, "FULL"), 5, f"FULL again\n{node.log}")
    talker.silent |= {*CAMERAS, "lidar"}
    until(lambda: mode_of(modes) == "BLIND", 5, f"BLIND\n{node.log}")
    count = len(masks)
    time.sleep(0.5)
    assert len(masks) <= count + 1  # nothing old goes on being published
    talker.close()


def test_a_new_calibration_is_taken_over_while_the_node_runs(
    world: World, tiny_model: Path, tmp_path: Path
):
    rig, got = write_rig(tmp_path), world.listener.hear(RED, GRID)
    talker = Talker(world.listener.node, CAMERAS)
    node = world.node(model=tiny_model, rig_file=rig)
    until(lambda: len(got) > 5, 10, f"outputs\n{node.log}")

    def observed() -> int:
        return sum(value >= 0 for value in got[-1][1].data)

    before = observed()
    talker.focal = 160.0  # half the field of view
    until(lambda: observed() < 0.8 * before, 5, f"fewer cells than {before}\n{node.log}")
    talker.close()
    assert "Traceback" not in node.log


def test_a_looping_bag_with_simulated_time_goes_on_after_each_jump(
    world: World, tiny_model: Path, drive_bag: Path, drive_rig: Path
):
    got = world.listener.hear(RED, GRID)
    node = world.node(model=tiny_model, rig_file=drive_rig, use_sim_time=True)
    node.wait_for("configured")
    world.player(drive_bag, "--rig", str(drive_rig), "--loop")

    def jumps() -> int:
        stamps = [(m.header.stamp.sec, m.header.stamp.nanosec) for _, m, _ in got]
        return sum(later < earlier for earlier, later in pairwise(stamps))

    until(lambda: jumps() >= 2, 20, f"two jumps\n{node.log}")
    count = len(got)
    until(lambda: len(got) > count + 5, 5, f"outputs after them\n{node.log}")
    assert "Traceback" not in node.log


def test_two_nodes_in_two_namespaces_do_not_hear_each_other(
    world: World, tiny_model: Path, tmp_path: Path
):
    names = ("a", "b")
    grids = {n: world.listener.hear(f"/{n}/bev_runtime/output/map/red", GRID) for n in names}
    modes = {n: world.listener.modes(f"/{n}/bev_runtime") for n in names}
    rig = live_rig(list(CAMERAS))
    for camera in rig["cameras"].values():
        for key in ("topic", "info_topic"):
            camera[key] = camera[key].lstrip("/")
    path = tmp_path / "relative.yaml"
    path.write_text(yaml.safe_dump(rig))
    nodes = {n: world.node("-r", f"__ns:=/{n}", model=tiny_model, rig_file=path) for n in names}
    everything = Talker(world.listener.node, CAMERAS, prefix="/a")
    one_less = Talker(world.listener.node, {"front": 0.0, "back": 180.0}, prefix="/b", static=False)
    until(lambda: stays(modes["a"], "FULL"), 15, f"FULL\n{nodes['a'].log}")
    until(lambda: stays(modes["b"], "DEGRADED"), 5, f"DEGRADED\n{nodes['b'].log}")
    assert grids["a"]
    assert grids["b"]
    everything.close()
    one_less.close()


@pytest.mark.parametrize(
    ("offered", "asked"),
    [("reliable", "best_effort"), ("best_effort", "auto"), ("reliable", "auto")],
)
def test_whatever_reliability_drivers_offer_there_is_a_setting_that_hears_them(
    world: World, tiny_model: Path, tmp_path: Path, offered, asked
):
    modes = world.listener.modes()
    talker = Talker(world.listener.node, CAMERAS, reliability=offered)
    parameters = {"input_qos.reliability": asked}
    node = world.node(model=tiny_model, rig_file=write_rig(tmp_path), **parameters)
    until(lambda: stays(modes, "FULL"), 10, f"FULL\n{node.log}")
    talker.close()
