"""The same bag gives the same bytes, live over DDS and in a replay."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

from mcap.reader import make_reader
from ros_processes import World, until

from bev_runtime.bags import Bag
from bev_runtime.cli.replay import replay_bag
from bev_runtime.model import load_model
from bev_runtime.rig import load_rig

pytestmark = pytest.mark.ros
LAYERS = ("red", "green", "blue")


def replayed(bag: Path, rig: Path, model: Path, out: Path, *faults: str) -> dict[str, set[bytes]]:
    with Bag(bag) as opened:
        replay_bag(
            opened, load_model(model), load_rig(rig), out=out, fault_specs=faults, pictures=0
        )
    found: dict[str, set[bytes]] = {}
    with (out / "outputs.mcap").open("rb") as file:
        for _, channel, message in make_reader(file).iter_messages():
            found.setdefault(channel.topic, set()).add(message.data)
    return found


def by_stamp(messages: set[bytes] | list[bytes]) -> dict[bytes, bytes]:
    """CDR bytes by their header's stamp, which is at the front of each."""
    return {raw[4:12]: raw for raw in messages}


def same_content(live: bytes, recorded: bytes) -> bool:
    """Whether the bytes are equal; DDS fills a message up to a multiple of four."""
    return live[: len(recorded)] == recorded and not any(live[len(recorded) :])


def assert_equal_live_and_replayed(
    world: World, folder: Path, bag: Path, rig: Path, model: Path, topics: dict[str, str], *faults
) -> None:
    heard = {
        topic: world.listener.hear(f"/bev_runtime/output/{topic}", f"{kind}")
        for topic, kind in topics.items()
    }
    node = world.node(model=model, rig_file=rig, use_sim_time=True)
    node.wait_for("configured")
    options = [word for fault in faults for word in ("--fault", fault)]
    player = world.player(bag, "--rig", str(rig), *options)
    assert player.popen.wait(30) == 0, player.log
    until(lambda: all(len(got) > 10 for got in heard.values()), 5, f"outputs\n{node.log}")
    expected = replayed(bag, rig, model, folder / "out", *faults)
    for topic, got in heard.items():
        live = by_stamp([raw for _, _, raw in got])
        recorded = by_stamp(expected[f"/bev_runtime/output/{topic}"])
        common = live.keys() & recorded.keys()
        assert len(common) >= 0.9 * len(recorded), node.log
        different = [s for s in common if not same_content(live[s], recorded[s])]
        assert len(different) <= 0.1 * len(common)  # a late message on a busy machine


@pytest.mark.parametrize("faults", [(), ("drop:front@0.5-1.2", "delay:left,ms=30")])
def test_maps_are_the_same_bytes_live_and_in_replay(
    world: World, tiny_model: Path, drive_bag: Path, drive_rig: Path, tmp_path: Path, faults
):
    topics = {f"map/{layer}": "nav_msgs/msg/OccupancyGrid" for layer in LAYERS}
    assert_equal_live_and_replayed(
        world, tmp_path, drive_bag, drive_rig, tiny_model, topics, *faults
    )


@pytest.mark.parametrize("faults", [(), ("drop:lidar@0.5-1.2",)])
def test_detections_are_the_same_bytes_live_and_in_replay(
    world: World, fusion_model: Path, drive_bag: Path, drive_rig: Path, tmp_path: Path, faults
):
    topics = {
        "detections": "vision_msgs/msg/Detection3DArray",
        "map/mix": "nav_msgs/msg/OccupancyGrid",
    }
    assert_equal_live_and_replayed(
        world, tmp_path, drive_bag, drive_rig, fusion_model, topics, *faults
    )
