"""Builds ROS 2 messages and writes them to a rosbag2 folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from bev_runtime.demo_world.rigs import DemoCamera, DemoRig
from bev_runtime.geometry import Float64, quaternion_from_rotation
from bev_runtime.types import BASE_FRAME

FIXED_FRAME = "odom"
POINT = np.dtype([("xyzi", "<f4", 4), ("ring", "<u2")])
NUM_COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
FLOAT32, UINT16 = 7, 4
"""PointField datatypes."""


def _quality_of_service(*, latched: bool) -> Qos:
    forever = QosTime(2**63 // 10**9, 2**63 % 10**9 - 1)
    durability = QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


class Writer(Protocol):
    """What takes the messages: an open bag of rosbags, or live topics."""

    def add_connection(
        self,
        topic: str,
        msgtype: str,
        *,
        typestore: Typestore | None = None,
        offered_qos_profiles: Sequence[Qos] = (),
    ) -> Any:  # noqa: ANN401 (whatever `write` takes)
        """Announces a topic."""

    def write(self, connection: Any, timestamp: int, data: bytes | memoryview) -> None:  # noqa: ANN401
        """Takes one message as CDR bytes."""


class Recorder:
    """Writes the messages of one drive; a topic is announced with its first message.

    Args:
        writer: an open bag, or live topics.
        latency_ns: how long after its stamp each message arrives.
    """

    def __init__(self, writer: Writer, latency_ns: int = 0) -> None:
        self._writer = writer
        self._latency_ns = latency_ns
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._types: Mapping[str, Callable[..., object]] = self._store.types
        self._connections: dict[str, Any] = {}

    def static_transforms(self, stamp_ns: int, rig: DemoRig) -> None:
        """Writes the sensors' poses on /tf_static. A camera's frame id is its name, and is the
        optical frame.
        """
        edges = [(camera.name, camera.model.ego_from_camera) for camera in rig.cameras]
        edges += [(rig.lidar.name, rig.lidar.ego_from_lidar)] if rig.lidar else []
        messages = [self._transform(stamp_ns, BASE_FRAME, name, matrix) for name, matrix in edges]
        self._write(stamp_ns, "/tf_static", "tf2_msgs/msg/TFMessage", messages)

    def pose(self, stamp_ns: int, odom_from_base: Float64, twist: tuple[float, float]) -> None:
        """Writes the ego pose on /tf and /odom; `twist`: forward speed in m/s and yaw rate in
        rad/s.
        """
        edge = self._transform(stamp_ns, FIXED_FRAME, BASE_FRAME, odom_from_base)
        self._write(stamp_ns, "/tf", "tf2_msgs/msg/TFMessage", [edge])
        unknown = np.zeros(36)
        point = self._make("geometry_msgs/msg/Point", *odom_from_base[:3, 3].tolist())
        pose = self._make("geometry_msgs/msg/Pose", point, self._quaternion(odom_from_base))
        linear = self._make("geometry_msgs/msg/Vector3", twist[0], 0.0, 0.0)
        angular = self._make("geometry_msgs/msg/Vector3", 0.0, 0.0, twist[1])
        velocity = self._make("geometry_msgs/msg/Twist", linear, angular)
        self._write(
            stamp_ns,
            "/odom",
            "nav_msgs/msg/Odometry",
            self._header(stamp_ns, FIXED_FRAME),
            BASE_FRAME,
            self._make("geometry_msgs/msg/PoseWithCovariance", pose, unknown),
            self._make("geometry_msgs/msg/TwistWithCovariance", velocity, unknown),
        )

    def camera_info(self, stamp_ns: int, camera: DemoCamera) -> None:
        """Writes /NAME/camera_info."""
        model = camera.model
        lens = "plumb_bob" if model.distortion.model == "none" else model.distortion.model
        self._write(
            stamp_ns,
            f"/{camera.name}/camera_info",
            "sensor_msgs/msg/CameraInfo",
            self._header(stamp_ns, camera.name),
            model.size[1],
            model.size[0],
            lens,
            model.distortion.coefficients[: NUM_COEFFICIENTS[lens]].copy(),
            model.intrinsics.reshape(-1).copy(),
            np.eye(3).reshape(-1),
            np.hstack([model.intrinsics, np.zeros((3, 1))]).reshape(-1),
            0,
            0,
            self._make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False),
        )

    def jpeg(self, stamp_ns: int, name: str, rgb: NDArray[np.uint8], quality: int) -> None:
        """Writes RGB uint8 [H, W, 3] on /NAME/image/compressed."""
        encoded = simplejpeg.encode_jpeg(rgb, quality=quality, colorsubsampling="420")
        data = np.frombuffer(encoded, np.uint8)
        fields = (self._header(stamp_ns, name), "jpeg", data)
        self._write(
            stamp_ns, f"/{name}/image/compressed", "sensor_msgs/msg/CompressedImage", *fields
        )

    def raw(self, stamp_ns: int, name: str, rgb: NDArray[np.uint8]) -> None:
        """Writes RGB uint8 [H, W, 3] on /NAME/image_raw, encoding rgb8."""
        height, width = rgb.shape[:2]
        layout = (height, width, "rgb8", 0, 3 * width, rgb.reshape(-1))
        header = self._header(stamp_ns, name)
        self._write(stamp_ns, f"/{name}/image_raw", "sensor_msgs/msg/Image", header, *layout)

    def cloud(
        self, stamp_ns: int, name: str, points: NDArray[np.float32], ring: NDArray[np.uint16]
    ) -> None:
        """Writes x y z intensity float32 [N, 4] and ring [N] on /NAME/points, 18 bytes a point."""
        packed = np.empty(len(points), POINT)
        packed["xyzi"], packed["ring"] = points, ring
        layout = [(field, 4 * i, FLOAT32) for i, field in enumerate(("x", "y", "z", "intensity"))]
        layout.append(("ring", 16, UINT16))
        fields = [self._make("sensor_msgs/msg/PointField", *field, 1) for field in layout]
        self._write(
            stamp_ns,
            f"/{name}/points",
            "sensor_msgs/msg/PointCloud2",
            self._header(stamp_ns, name),
            1,
            len(points),
            fields,
            False,
            POINT.itemsize,
            packed.nbytes,
            packed.view(np.uint8).reshape(-1),
            True,
        )

    def _write(self, stamp_ns: int, topic: str, kind: str, *fields: object) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic,
                kind,
                typestore=self._store,
                offered_qos_profiles=[_quality_of_service(latched=topic == "/tf_static")],
            )
        raw = self._store.serialize_cdr(self._make(kind, *fields), kind)
        self._writer.write(self._connections[topic], stamp_ns + self._latency_ns, raw)

    def _make(self, kind: str, *fields: object) -> object:
        return self._types[kind](*fields)

    def _header(self, stamp_ns: int, frame: str) -> object:
        time = self._make("builtin_interfaces/msg/Time", *divmod(stamp_ns, 10**9))
        return self._make("std_msgs/msg/Header", time, frame)

    def _transform(self, stamp_ns: int, parent: str, child: str, matrix: Float64) -> object:
        position = self._make("geometry_msgs/msg/Vector3", *matrix[:3, 3].tolist())
        pose = self._make("geometry_msgs/msg/Transform", position, self._quaternion(matrix))
        header = self._header(stamp_ns, parent)
        return self._make("geometry_msgs/msg/TransformStamped", header, child, pose)

    def _quaternion(self, matrix: Float64) -> object:
        xyzw = quaternion_from_rotation(matrix[:3, :3]).tolist()
        return self._make("geometry_msgs/msg/Quaternion", *xyzw)
