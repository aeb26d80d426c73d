"""A vehicle's drivers: cameras, LiDAR and transforms on the system's clock, for tests."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import numpy as np
import ros_messages as messages
from bev_runtime_ros.sources import message_class
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from bev_runtime.geometry import rigid

SIZE = (160, 90)


class Talker:
    """Publishes `cameras` (name: yaw in degrees) and perhaps a LiDAR until closed.

    Attributes:
        silent: names of sensors that say nothing for now.
        focal: of the CameraInfo; may change.
    """

    def __init__(
        self,
        node: Node,
        cameras: dict[str, float],
        *,
        hz: float = 10.0,
        lidar: bool = False,
        static: bool = True,
        infos: bool = True,
        reliability: str = "reliable",
        latched: bool = True,
        prefix: str = "",
    ) -> None:
        self._node, self._cameras, self._period_s = node, cameras, 1 / hz
        self._lidar, self._infos, self._prefix = lidar, infos, prefix
        self._qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()])
        self._publishers: dict[str, Any] = {}
        self.silent: set[str] = set()
        self.focal = 80.0
        self.sent = 0
        self._running = True
        rng = np.random.default_rng(5)
        self._pictures = [rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(7)]
        if static:
            durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
            edges = [("base_link", n, messages.camera_pose(yaw)) for n, yaw in cameras.items()]
            edges.append(("base_link", "lidar", rigid(np.eye(3), [0, 0, 1.8])))
            self._qos_static = QoSProfile(depth=1, durability=durability)
            self._send("/tf_static", messages.transforms(1, edges), self._qos_static)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._running = False
        self._thread.join(2.0)
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)

    def _run(self) -> None:
        with suppress(InvalidHandle):  # a test that failed destroyed the node
            self._talk()

    def _talk(self) -> None:
        while self._running:
            stamp_ns = time.time_ns()
            for name in self._cameras:
                if name in self.silent:
                    continue
                if self._infos:
                    info = messages.camera_info(stamp_ns, name, SIZE, self.focal)
                    self._send(f"{self._prefix}/{name}/camera_info", info, self._qos)
                picture = self._pictures[self.sent % len(self._pictures)]
                image = messages.image(stamp_ns, name, picture)
                self._send(f"{self._prefix}/{name}/image_raw", image, self._qos)
            if self._lidar and "lidar" not in self.silent:
                points = np.random.default_rng(self.sent).uniform(-20, 20, (200, 4))
                cloud = messages.cloud(stamp_ns, "lidar", points)
                self._send(f"{self._prefix}/lidar/points", cloud, self._qos)
            self.sent += 1
            time.sleep(self._period_s)

    def _send(self, topic: str, message: Any, qos: QoSProfile) -> None:
        if topic not in self._publishers:
            cls = message_class(message.__msgtype__)
            silent = PublisherEventCallbacks(use_default_callbacks=False)
            self._publishers[topic] = self._node.create_publisher(
                cls, topic, qos, event_callbacks=silent
            )
        self._publishers[topic].publish(messages.serialize(message))


def live_rig(cameras: list[str], *, lidar: bool = False, **more: Any) -> dict[str, Any]:
    """The content of a rig file for a talker."""
    found: dict[str, Any] = {
        "cameras": {
            name: {"topic": f"/{name}/image_raw", "info_topic": f"/{name}/camera_info"}
            for name in cameras
        },
        "fixed_frame": None,
        **more,
    }
    if lidar:
        found["lidar"] = {"name": "lidar", "topic": "/lidar/points"}
    return found
