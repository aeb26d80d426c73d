"""The peer of bench_ros.py: the node that a tutorial would write, on the same model and backend.

Typed subscriptions, an approximate synchroniser over all sensors (the rule of message_filters'
ApproximateTimeSynchronizer: one sample of each sensor, all within a slop), conversion and inference
in its callback, one thread. Prints one JSON object when it is interrupted.
"""

from __future__ import annotations

import array
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import OccupancyGrid
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image, PointCloud2
from tf2_msgs.msg import TFMessage

from bev_runtime.backends import create_backend
from bev_runtime.calibration import CalibrationStore
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import Rig, load_rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevOutput, CameraFrame, PointCloud, Snapshot

SLOP_S = 0.05
QUEUE = 10


class Synchroniser:
    """Calls back with one message of each topic, all within the slop; older ones are dropped."""

    def __init__(self, topics: list[str], callback: Callable[[dict[str, Any]], None]) -> None:
        self._queues: dict[str, deque[tuple[int, Any]]] = {t: deque(maxlen=QUEUE) for t in topics}
        self._callback = callback

    def add(self, topic: str, message: Any) -> None:  # noqa: ANN401
        """Takes a message."""
        stamp = message.header.stamp
        self._queues[topic].append((stamp.sec * 10**9 + stamp.nanosec, message))
        while all(self._queues.values()):
            stamps = {topic: queue[0][0] for topic, queue in self._queues.items()}
            oldest = min(stamps, key=lambda topic: stamps[topic])
            if max(stamps.values()) - stamps[oldest] > SLOP_S * 1e9:
                self._queues[oldest].popleft()
                continue
            self._callback({topic: queue.popleft()[1] for topic, queue in self._queues.items()})


class BaselineNode(Node):
    """See the module."""

    def __init__(self, model_path: str, rig: Rig) -> None:
        super().__init__("baseline")
        model = load_model(model_path)
        backend = create_backend("onnxruntime", model)
        self._pipeline = Pipeline(model.manifest, backend, rig)
        self._transforms = TransformTree()
        self._calibration = CalibrationStore(rig, self._transforms).current()
        self.received: dict[str, int] = {}
        self.latency_ms: list[float] = []
        self.total_ms: list[float] = []
        topics = {camera.topic: (name, Image) for name, camera in rig.cameras.items()}
        assert rig.lidar is not None
        topics[rig.lidar.topic] = (rig.lidar.name, PointCloud2)
        self._names = {topic: name for topic, (name, _) in topics.items()}
        self._synchroniser = Synchroniser(list(topics), self._on_set)
        for topic, (_, kind) in topics.items():
            self.received[topic] = 0
            self.create_subscription(kind, topic, self._listener(topic), qos_profile_sensor_data)
        self.create_subscription(TFMessage, "/tf", self._on_tf, 100)
        self._map = self.create_publisher(OccupancyGrid, "~/map", 1)

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def on_message(message: Any) -> None:  # noqa: ANN401
            self.received[topic] += 1
            self._synchroniser.add(topic, message)

        return on_message

    def _on_tf(self, message: TFMessage) -> None:
        for item in message.transforms:
            pose = np.eye(4)
            stamp_ns = item.header.stamp.sec * 10**9 + item.header.stamp.nanosec
            frames = item.header.frame_id, item.child_frame_id
            self._transforms.add_dynamic(*frames, stamp_ns, pose)

    def _on_set(self, messages: dict[str, Any]) -> None:
        samples: dict[str, Any] = {}
        for topic, message in messages.items():
            stamp_ns = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            samples[self._names[topic]] = convert(self._names[topic], stamp_ns, message)
        clouds = [sample for sample in samples.values() if isinstance(sample, PointCloud)]
        frames = {n: s for n, s in samples.items() if isinstance(s, CameraFrame)}
        snapshot = Snapshot(max(frame.stamp_ns for frame in frames.values()), frames, clouds[0])
        output = self._pipeline.step(
            snapshot, missing={}, calibration=self._calibration, transforms=self._transforms
        )
        if output.map is not None:
            self._publish(output)
            self.latency_ms.append((time.time_ns() - output.stamp_ns) / 1e6)
            self.total_ms.append(output.timings_ms["total"])

    def _publish(self, output: BevOutput) -> None:
        assert output.map is not None
        message = OccupancyGrid()
        cells = (output.map.scores[0] * 100).astype(np.int8)
        cells[~output.map.observed] = -1
        message.info.height, message.info.width = cells.shape
        message.data = array.array("b", cells.T.tobytes())
        self._map.publish(message)


def convert(name: str, stamp_ns: int, message: Any) -> CameraFrame | PointCloud:  # noqa: ANN401
    """As cv_bridge and point_cloud2 do it: a copy in the model's layout."""
    if isinstance(message, Image):
        pixels = np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)
        return CameraFrame.from_rgb(name, stamp_ns, np.ascontiguousarray(pixels[..., ::-1]))
    points = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)
    return PointCloud(name, stamp_ns, points[:, :16].copy().view("<f4"))


def main() -> int:
    """Runs until interrupted: bench_ros_baseline.py MODEL RIG."""
    model, rig = sys.argv[1:3]
    rclpy.init()
    node = BaselineNode(model, load_rig(Path(rig)))
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    result = {
        "received": node.received,
        "latency_ms": node.latency_ms,
        "total_ms": node.total_ms,
    }
    sys.stdout.write(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
