"""Publishers: the messages of a replay's outputs.mcap, byte for byte, on ROS topics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from bev_runtime.manifest import Manifest
from bev_runtime.sinks.ros_messages import MessageMaker, output_typestore
from bev_runtime.types import BevOutput, Mode
from bev_runtime.warm_up import learn_types
from bev_runtime_ros.autoware import detected_objects, register_autoware
from bev_runtime_ros.parameter_table import Settings
from bev_runtime_ros.session import Session
from bev_runtime_ros.sources import message_class

log = logging.getLogger(__name__)

STREAM = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
RCLError = rclpy_implementation.RCLError
FLOAT = "std_msgs/msg/Float64"


class Outputs:
    """Everything that a node publishes beside /diagnostics.

    Messages are made by the code that records replays and are published as their CDR bytes, which
    costs a tenth of filling rclpy's message classes.

    Args:
        node: publishes.
        settings: the parameters `publish.*`.
        session: says which outputs the model has, and which stages are timed.
        now_ns: the node's clock, for latencies.
    """

    def __init__(
        self, node: Node, settings: Settings, session: Session, now_ns: Callable[[], int]
    ) -> None:
        manifest = session.manifest
        self._node, self._now_ns = node, now_ns
        self._name = node.get_fully_qualified_name().strip("/")
        self._store = output_typestore()
        register_autoware(self._store)
        self._make = MessageMaker(self._store)
        self._accuracy = accuracy_values(manifest)
        self._publishers: dict[str, Publisher[Any]] = {}
        self._timings = bool(settings["publish.timings"])
        self._closed = False
        try:
            self._add_all(manifest, settings, session.timed)
        except Exception:
            self.close()
            raise

    def _add_all(self, manifest: Manifest, settings: Settings, timed: Iterable[str]) -> None:
        self._add("mode", "~/output/mode", "diagnostic_msgs/msg/DiagnosticStatus", LATCHED)
        if settings["publish.detections"] and manifest.detection is not None:
            self._add("detections", "~/output/detections", "vision_msgs/msg/Detection3DArray")
        if settings["publish.instances"] and manifest.instances is not None:
            self._add("instances", "~/output/instances", "vision_msgs/msg/Detection3DArray")
        if settings["publish.objects"] and manifest.detection is not None:
            kind = "autoware_perception_msgs/msg/DetectedObjects"
            self._add("objects", "~/output/objects", kind)
        draws = manifest.detection is not None or manifest.instances is not None
        if settings["publish.markers"] and draws:
            self._add("markers", "~/output/markers", "visualization_msgs/msg/MarkerArray")
        if settings["publish.map"] and manifest.map is not None:
            for layer in manifest.map.layers:
                self._add(f"map/{layer}", f"~/output/map/{layer}", "nav_msgs/msg/OccupancyGrid")
        if self._timings:
            self._add("latency", "~/debug/latency_ms", FLOAT)
            for stage in timed:
                self._add_time(stage)

    def close(self) -> None:
        """Destroys the publishers; a hung step that comes back publishes nothing more."""
        self._closed = True
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def publish(self, output: BevOutput) -> float:
        """Publishes one output; of a BLIND one only its mode.

        Returns:
            Milliseconds from the output's stamp to now, on the node's clock; 0 if nothing could be
            published, because the node stops.
        """
        if self._closed:
            return 0.0
        try:
            if output.mode is not Mode.BLIND:
                self._publish_content(output)
            latency_ms = (self._now_ns() - output.stamp_ns) / 1e6
            self._send("mode", self._mode(output))
            if output.mode is not Mode.BLIND and self._timings:
                self._publish_timings(output, latency_ms)
        except (RCLError, InvalidHandle):
            if self._node.context.ok() and not self._closed:
                raise
            return 0.0  # a signal or a stop came in the middle of an inference
        return latency_ms

    def publish_mode(self, mode: Mode, reason: str, now_ns: int) -> None:
        """Publishes a mode that no output of the runtime has, as of a hung inference."""
        values = [self._make.make("diagnostic_msgs/KeyValue", "mode", mode.value)]
        level = 2 if mode is Mode.BLIND else 1
        text = f"{mode.value}: {reason}"
        kind = "diagnostic_msgs/DiagnosticStatus"
        self._send("mode", self._make.make(kind, level, self._name, text, self._name, values))
        log.error("mode %s: %s (at %d)", mode.value, reason, now_ns)

    def _publish_content(self, output: BevOutput) -> None:
        make = self._make
        if "detections" in self._publishers:
            self._send("detections", make.detections(output))
        if "instances" in self._publishers:
            self._send("instances", make.instances(output))
        if "objects" in self._publishers:
            self._send("objects", detected_objects(make, output))
        if output.map is not None:
            for index, layer in enumerate(output.map.layers):
                if f"map/{layer}" in self._publishers:
                    self._send(f"map/{layer}", make.occupancy_grid(output, output.map, index))
        if self._is_heard("markers"):
            self._send("markers", make.markers(output))

    def _publish_timings(self, output: BevOutput, latency_ms: float) -> None:
        if self._is_heard("latency"):
            self._send("latency", self._make.make("std_msgs/Float64", latency_ms))
        for stage, spent_ms in output.timings_ms.items():
            if f"time/{stage}" not in self._publishers:
                self._add_time(stage)
            if self._is_heard(f"time/{stage}"):
                self._send(f"time/{stage}", self._make.make("std_msgs/Float64", float(spent_ms)))

    def _mode(self, output: BevOutput) -> Any:  # noqa: ANN401
        message = self._make.mode(output, self._name)
        message.values += [
            self._make.make("diagnostic_msgs/KeyValue", key, value)
            for key, value in self._accuracy.items()
        ]
        return message

    def _is_heard(self, key: str) -> bool:
        publisher = self._publishers.get(key)
        return publisher is not None and publisher.get_subscription_count() > 0

    def _send(self, key: str, message: Any) -> None:  # noqa: ANN401
        publisher = self._publishers.get(key)
        if publisher is not None:
            publisher.publish(bytes(self._store.serialize_cdr(message, message.__msgtype__)))

    def _add_time(self, stage: str) -> None:
        name = stage.replace(".", "/")
        self._add(f"time/{stage}", f"~/debug/processing_time/{name}_ms", FLOAT)

    def _add(self, key: str, topic: str, msgtype: str, qos: QoSProfile = STREAM) -> None:
        cls = message_class(msgtype)
        if self._closed:
            return
        if cls is None:
            package = msgtype.split("/")[0]
            log.warning(
                "%s is off: the interface package %s is not installed (apt install "
                "ros-$ROS_DISTRO-%s, or make ros-env)",
                *(topic, package, package.replace("_", "-")),
            )
            return
        self._publishers[key] = self._node.create_publisher(cls, topic, qos)
        learn_types(self._store, (msgtype,))


def accuracy_values(manifest: Manifest) -> Mapping[str, str]:
    """What the model package says it measured, as `accuracy/<condition>/<metric>`."""
    return {
        f"accuracy/{row.condition}/{metric}": f"{value:g}"
        for row in manifest.accuracy
        for metric, value in row.metrics.items()
    }
