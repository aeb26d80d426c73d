"""What Fast DDS leaves in shared memory when a process dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

from bev_runtime_ros.shared_memory import FOLDER, SEGMENT, free_dead_segments
from ros_processes import World

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(
        os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") != "rmw_fastrtps_cpp",
        reason="the segments are those of Fast DDS",
    ),
]


def segments() -> set[str]:
    return {path.name for path in FOLDER.iterdir() if SEGMENT.fullmatch(path.name)}


def test_a_node_frees_the_memory_of_one_that_was_killed_and_leaves_that_of_the_living(
    world: World, tiny_model: Path, drive_rig: Path
):
    free_dead_segments()
    before = segments()
    killed = world.node(model=tiny_model, rig_file=drive_rig)
    killed.wait_for("configured")
    of_killed = segments() - before
    assert of_killed
    killed.stop(signal.SIGKILL)
    living = world.node("-r", "__node:=living", model=tiny_model, rig_file=drive_rig)
    living.wait_for("configured")
    assert not of_killed & segments()
    assert "left behind" in living.log
    of_living = segments() - before
    assert of_living
    free_dead_segments()
    assert of_living <= segments()
    assert living.stop()[0] == 0, living.log
    assert not of_living & segments()


def test_a_segment_without_a_lock_or_of_another_kind_stays(tmp_path: Path):
    dead, unlocked, foreign = "fastdds_0123456789abcdef", "fastdds_fedcba9876543210", "other_0123"
    for name in (dead, f"{dead}_el", unlocked, foreign, f"{foreign}_el"):
        (tmp_path / name).write_bytes(b"12345")
    assert free_dead_segments(tmp_path) == (1, 5)
    assert {path.name for path in tmp_path.iterdir()} == {unlocked, foreign, f"{foreign}_el"}
    assert free_dead_segments(tmp_path / "absent") == (0, 0)
