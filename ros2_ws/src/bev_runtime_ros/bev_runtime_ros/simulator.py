"""The simulator as live sensors: drives through town after town, on ROS topics with /clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock

from bev_runtime.demo_world import BagOptions
from bev_runtime.demo_world.recorder import Recorder
from bev_runtime.demo_world.rigs import DemoRig
from bev_runtime.errors import MissingExtraError
from bev_runtime.sim.drive import plan_drive, run_drive
from bev_runtime.sim.town import make_town
from bev_runtime_ros.sources import message_class

log = logging.getLogger(__name__)

DEPTH = 20
PAUSE_NS = 1_000_000_000
"""Between two drives: nothing of the town before is fresh in the next one."""


class TopicWriter:
    """Stands where a recording has its bag: a topic for each connection, /clock for the time.

    The simulated clock never runs faster than the wall's; it runs slower when rendering takes
    longer.

    Args:
        node: publishes.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._clock = node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
        self._publishers: dict[str, Publisher[Any]] = {}
        self._ahead_ns: int | None = None

    def add_connection(self, topic: str, msgtype: str, **_: object) -> Publisher[Any]:
        """The publisher of a topic; made with its first message.

        Raises:
            MissingExtraError: the interface package is not installed.
        """
        if topic not in self._publishers:
            cls = message_class(msgtype)
            if cls is None:
                raise MissingExtraError(
                    f"{topic} needs the interface package {msgtype.split('/')[0]}: install it, or "
                    "run make ros-env"
                )
            latched = topic == "/tf_static"
            durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
            qos = QoSProfile(
                depth=DEPTH, reliability=ReliabilityPolicy.RELIABLE, durability=durability
            )
            self._publishers[topic] = self._node.create_publisher(cls, topic, qos)
        return self._publishers[topic]

    def announce(self, rig: DemoRig, *, compressed: bool) -> None:
        """Makes the topics of a rig, so that listeners find them all at once."""
        kind, name = (
            ("CompressedImage", "image/compressed") if compressed else ("Image", "image_raw")
        )
        for camera in rig.cameras:
            self.add_connection(f"/{camera.name}/{name}", f"sensor_msgs/msg/{kind}")
            self.add_connection(f"/{camera.name}/camera_info", "sensor_msgs/msg/CameraInfo")
        if rig.lidar is not None:
            self.add_connection(f"/{rig.lidar.name}/points", "sensor_msgs/msg/PointCloud2")
        self.add_connection("/tf_static", "tf2_msgs/msg/TFMessage")

    def write(self, connection: Publisher[Any], timestamp: int, data: bytes | memoryview) -> None:
        """Waits for the time, tells it, and publishes.

        Raises:
            ExternalShutdownException: a signal ended the process.
        """
        if not rclpy.ok():
            raise ExternalShutdownException
        now_ns = time.monotonic_ns()
        if self._ahead_ns is None or timestamp - now_ns < self._ahead_ns:
            self._ahead_ns = timestamp - now_ns
        time.sleep(max(timestamp - now_ns - self._ahead_ns, 0) / 1e9)
        clock = Clock()
        clock.clock.sec, clock.clock.nanosec = divmod(timestamp, 1_000_000_000)
        self._clock.publish(clock)
        connection.publish(bytes(data))


def simulate_live(
    rig: DemoRig,
    options: BagOptions,
    *,
    drives: int | None = None,
    motion_distortion: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Drives on a node of its own, town after town, until a signal or the last drive.

    Args:
        rig: cameras and LiDAR.
        options: of the first drive; `seed` goes up by one for each town.
        drives: how many; None: until a signal.
        motion_distortion: as in `run_drive`.
        progress: called with (moments done, moments in all) of the drive.

    Returns:
        Drives begun.
    """
    rclpy.init()
    node = rclpy.create_node("bev_runtime_simulator")
    begun = 0
    try:
        writer = TopicWriter(node)
        writer.announce(rig, compressed=options.compressed)
        while drives is None or begun < drives:
            begun += 1
            log.info("driving through town %d", options.seed)
            drive = plan_drive(make_town(options.seed), rig, options)
            run_drive(
                drive, Recorder(writer), motion_distortion=motion_distortion, progress=progress
            )
            options = replace(
                options,
                seed=options.seed + 1,
                start_ns=options.start_ns + round(options.duration_s * 1e9) + PAUSE_NS,
            )
        time.sleep(0.3)  # a reliable writer still has to deliver its last messages
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except rclpy.exceptions.InvalidHandle:
        if rclpy.ok():  # else a signal ended the context between two messages
            raise
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
    return begun
