"""The inference thread and what hangs on it, without other processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ros_messages as messages
from ros_messages import PERIOD, START, serialize

pytest.importorskip("rclpy", reason="rclpy is not installed: make ros-env")

import rclpy
from bev_runtime_ros.inbox import Arrival, Inbox
from bev_runtime_ros.mistakes import find_problems
from bev_runtime_ros.parameter_table import PARAMETERS
from bev_runtime_ros.publishers import Outputs
from bev_runtime_ros.sources import Source, Sources
from bev_runtime_ros.worker import Status, Worker
from rclpy.node import Node
from rosbags.typesys import Stores, get_typestore

from bev_runtime.geometry import rigid
from bev_runtime.intake import Intake
from bev_runtime.model import load_model
from bev_runtime.recording import RecordingPipeline
from bev_runtime.rig import Rig
from bev_runtime.runtime import Runtime
from bev_runtime.types import BevOutput

pytestmark = pytest.mark.ros
IMAGE = "sensor_msgs/msg/Image"
CALIBRATION = {
    "width": 8,
    "height": 8,
    "intrinsics": (8.0, 0, 3.5, 0, 8.0, 3.5, 0, 0, 1),
    "base_from_camera": {"translation": (0, 0, 1.5), "rotation_xyzw": (-0.5, 0.5, -0.5, 0.5)},
}


class Bench:
    """A worker on one camera whose clock a test sets."""

    def __init__(self, **rig: Any) -> None:
        front = {"topic": "/front", "calibration": CALIBRATION}
        self.rig = Rig.model_validate({"cameras": {"front": front}, **rig})
        self.pipeline = RecordingPipeline(self.rig)
        self.runtime = Runtime(self.rig, self.pipeline)
        intake = Intake(self.runtime, get_typestore(Stores.ROS2_HUMBLE))
        session: Any = SimpleNamespace(rig=self.rig, runtime=self.runtime, intake=intake)
        self.now_ns, self.sent, self.outputs = START, 0, list[BevOutput]()
        self.inbox = Inbox({"/front": 8})
        self.worker = Worker(
            session,
            self.inbox,
            now_ns=lambda: self.now_ns,
            publish=self._publish,
            follows_wall_time=False,
        )

    def _publish(self, output: BevOutput) -> float:
        self.outputs.append(output)
        return 1.0

    def send(self, *, arrival_ns: int | None = None) -> None:
        picture = np.full((8, 8, 3), self.sent % 200, np.uint8)
        stamp_ns = START + self.sent * PERIOD
        self.sent += 1
        if arrival_ns is None:
            self.now_ns = arrival_ns = stamp_ns + 1_000_000
        raw = bytes(serialize(messages.image(stamp_ns, "front", picture)))
        self.inbox.put(Arrival("/front", IMAGE, raw, arrival_ns))


def until(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_before_a_simulated_clock_runs_refused_samples_are_in_the_status():
    bench = Bench()
    bench.now_ns = 0
    bench.worker.start()
    for _ in range(3):
        bench.send(arrival_ns=0)
    until(lambda: bool(bench.worker.status.accounts))
    until(lambda: bench.worker.status.accounts["front"]["rejected"] == {"no_clock": 3})
    assert bench.worker.status.output is None
    assert bench.worker.stop(5)


def test_messages_that_wait_when_the_node_stops_are_counted():
    bench = Bench()
    stepping, go_on = threading.Event(), threading.Event()
    inner = bench.pipeline.step

    def step(*args: Any, **kwargs: Any) -> BevOutput:
        stepping.set()
        go_on.wait(10)
        return inner(*args, **kwargs)

    bench.pipeline.step = step  # type: ignore[method-assign]
    bench.worker.start()
    bench.send()
    assert stepping.wait(10)
    for _ in range(3):
        bench.send()
    assert not bench.worker.stop(0.05)
    go_on.set()
    until(lambda: not bench.worker.is_running)
    account = bench.runtime.buffer.accounts["front"]
    assert (account.received, account.used) == (4, 1)
    assert account.rejected == {"deactivated": 3}


def test_what_a_pipeline_keeps_of_the_past_goes_when_the_node_stops_and_when_the_clock_jumps():
    bench, causes = Bench(), list[str]()
    bench.pipeline.forget = causes.append  # type: ignore[method-assign]
    bench.worker.start()
    bench.send()
    until(lambda: bool(bench.outputs))
    assert not causes
    bench.now_ns -= 5_000_000_000
    bench.inbox.wake()
    until(lambda: causes == ["a clock that went back"])
    assert bench.worker.stop(5)
    assert causes[1:] == ["the activation"]


@pytest.mark.parametrize("poses", [True, False])
def test_the_status_says_whether_transforms_lead_to_the_fixed_frame(poses):
    bench = Bench(fixed_frame="odom")
    if poses:  # but long ago
        old_ns = START - 800_000_000
        bench.runtime.transforms.add_dynamic("odom", "base_link", old_ns, np.eye(4))
    bench.worker.start()
    for number in range(1, 5):
        bench.send()
        until(lambda number=number: bench.runtime.buffer.accounts["front"].received == number)
        bench.now_ns += 75_000_000  # a pose is waited for, but not for ever
        bench.inbox.wake()
        until(lambda number=number: bench.worker.status.outputs >= number)
    assert bench.worker.status.uncorrected == 4
    assert bench.worker.status.poses_connect is poses
    assert bench.worker.stop(5)


class QuietSources:
    """Sources with the given problems."""

    def __init__(self, **problems: str) -> None:
        self._problems = problems

    def problems(self) -> dict[str, str]:
        return dict(self._problems)

    def silent(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("rig", "connect", "problems", "told"),
    [
        ({}, False, {}, "nothing on /tf says where 'base_link' is in 'odom'"),
        ({}, False, {"/tf_static": "nobody"}, "nothing on /tf says"),
        ({}, True, {}, "has said where 'base_link' is in 'odom', but not within 0.15 s"),
        ({"odometry_topic": "/odom"}, False, {}, "nothing on /odom says"),
        ({"odometry_topic": "/odom"}, False, {"/odom": "nobody publishes /odom"}, None),
    ],
)
def test_missing_ego_motion_is_told_with_its_cause_and_once(node, rig, connect, problems, told):
    sources: Any = QuietSources(**problems)
    status = Status(0.0, uncorrected=3, poses_connect=connect)
    bench = Bench(fixed_frame="odom", **rig)
    found = find_problems(node, bench.rig, sources, status, START)
    assert (told is None) == ("ego motion" not in found)
    assert told is None or told in found["ego motion"]


@pytest.fixture
def node() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    made = rclpy.create_node("bench", context=context)
    yield made
    made.destroy_node()
    context.shutdown()


def settings() -> Any:
    return {parameter.name: parameter.default for parameter in PARAMETERS}


def test_subscriptions_that_were_made_go_when_a_later_one_fails(node: Node):
    before = len(list(node.subscriptions))
    sources = [
        Source("/front", "front", (IMAGE,), 4, is_sample=True),
        Source("/no name", "left", (IMAGE,), 4, is_sample=True),
    ]
    with pytest.raises(Exception, match="failed to resolve name"):
        Sources(node, sources, settings(), lambda _: None)
    assert len(list(node.subscriptions)) == before


def test_publishers_go_when_a_later_one_fails_and_none_comes_after_the_end(
    node: Node, tiny_model, monkeypatch
):
    bench = Bench()
    session: Any = SimpleNamespace(manifest=load_model(tiny_model).manifest, timed=("total",))
    before = len(list(node.publishers))
    outputs = Outputs(node, settings(), session, lambda: START)
    assert len(list(node.publishers)) > before
    outputs.close()
    bench.worker.start()
    bench.send()
    until(lambda: bool(bench.outputs))
    assert bench.worker.stop(5)
    bench.outputs[0].timings_ms["late"] = 1.0  # type: ignore[index]
    assert outputs.publish(bench.outputs[0]) == 0.0
    assert len(list(node.publishers)) == before
    monkeypatch.setattr(Outputs, "_add_time", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Outputs(node, settings(), session, lambda: START)
    assert len(list(node.publishers)) == before


def test_poses_are_told_apart_from_frames_that_nothing_connects():
    tree = Bench().runtime.transforms
    assert not tree.connects("odom", "base_link")
    tree.set_static("base_footprint", "base_link", np.eye(4))
    tree.add_dynamic("odom", "base_footprint", START, rigid(np.eye(3), [1, 0, 0]))
    assert tree.connects("odom", "base_link")
    assert not tree.connects("map", "base_link")
