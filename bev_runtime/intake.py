"""From CDR bytes to the runtime: decode, convert, count. Replay and the live node share every line
of this.

The live node subscribes with raw=True and hands over the same bytes that a bag holds; both are
decoded by rosbags' typestore, which gives pixels and points as views of the message.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rosbags.typesys.store import Typestore

from bev_runtime.bags import CDR_ERRORS
from bev_runtime.errors import CalibrationError, SampleRejected, TransformError
from bev_runtime.geometry import Float64, rigid_from_quaternion
from bev_runtime.preprocess import (
    cloud_from_message,
    compressed_image_from_message,
    image_from_message,
)
from bev_runtime.runtime import Runtime
from bev_runtime.types import CameraFrame, EncodedImage, PointCloud

log = logging.getLogger(__name__)

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
POINTS = "sensor_msgs/msg/PointCloud2"
TF = "tf2_msgs/msg/TFMessage"
ODOMETRY = "nav_msgs/msg/Odometry"
CONVERTERS: dict[str, Callable[[str, int, Any], CameraFrame | PointCloud]] = {
    IMAGE: image_from_message,
    COMPRESSED: compressed_image_from_message,
    POINTS: cloud_from_message,
}

MAX_COORDINATE_M = 1e8
"""Further than any map projection reaches; larger numbers overflow in products."""

FUTURE_POSE_S = 1.0
"""Odometry may predict a little."""


class Intake:
    """Routes messages by topic into a runtime.

    Args:
        runtime: takes the samples.
        typestore: decodes CDR; a bag's own, or the distribution's of the live node.
    """

    def __init__(self, runtime: Runtime, typestore: Typestore) -> None:
        self._runtime = runtime
        self._typestore = typestore
        rig = runtime.rig
        self._routes: dict[str, Callable[[str, bytes | memoryview, int], None]] = {
            "/tf": partial(self._on_tf, False),
            "/tf_static": partial(self._on_tf, True),
        }
        infos: dict[str, list[str]] = {}
        for name, camera in rig.cameras.items():
            if camera.info_topic is not None:
                infos.setdefault(camera.info_topic, []).append(name)
        for topic, names in infos.items():  # cameras may share one CameraInfo
            self._routes[topic] = partial(self._on_camera_info, tuple(names))
        for name, camera in rig.cameras.items():
            self._routes[camera.topic] = partial(self._on_sample, name)
        if rig.lidar is not None:
            self._routes[rig.lidar.topic] = partial(self._on_sample, rig.lidar.name)
        if rig.odometry_topic is not None:
            self._routes[rig.odometry_topic] = self._on_odometry
        offsets_s = {name: camera.stamp_offset_s for name, camera in rig.cameras.items()}
        if rig.lidar is not None:
            offsets_s[rig.lidar.name] = rig.lidar.stamp_offset_s
        self._offsets_ns = {name: round(value * 1e9) for name, value in offsets_s.items()}
        self.ignored: dict[str, int] = {}

    @property
    def topics(self) -> frozenset[str]:
        """Every topic that is listened to."""
        return frozenset(self._routes)

    def receive(self, topic: str, msgtype: str, raw: bytes | memoryview, now_ns: int) -> None:
        """Takes one message as it arrived.

        Args:
            topic: one of `topics`.
            msgtype: its ROS type, for example `sensor_msgs/msg/Image`.
            raw: the CDR bytes, kept alive by what is made of them.
            now_ns: arrival time.
        """
        self._runtime.observe_clock(now_ns)
        self._routes[topic](msgtype, raw, now_ns)

    def _decode(self, msgtype: str, raw: bytes | memoryview, expected: str | None = None) -> Any:  # noqa: ANN401
        if expected is not None and msgtype != expected:
            raise SampleRejected("wrong_type", f"message is {msgtype}, expected {expected}")
        try:
            return self._typestore.deserialize_cdr(memoryview(raw), msgtype)  # slices uncopied
        except CDR_ERRORS as problem:
            text = f"{len(raw)} bytes are no {msgtype}: {type(problem).__name__} {problem}"
            raise SampleRejected("bad_cdr", text) from None

    def _on_sample(self, name: str, msgtype: str, raw: bytes | memoryview, now_ns: int) -> None:
        runtime = self._runtime
        runtime.received(name)
        try:
            if msgtype not in CONVERTERS:
                text = f"{name}: {msgtype}, expected one of {', '.join(CONVERTERS)}"
                raise SampleRejected("wrong_type", text)
            message = self._decode(msgtype, raw)
            stamp_ns = stamp_of(message.header) + self._offsets_ns[name]
            runtime.check_stamp(name, stamp_ns, now_ns)
            sample = CONVERTERS[msgtype](name, stamp_ns, message)
            fingerprint = fingerprint_of(sample)
        except SampleRejected as problem:
            runtime.reject(name, problem, now_ns)
            return
        runtime.calibration.on_frame_id(name, message.header.frame_id.lstrip("/"))
        runtime.accept(sample, now_ns, fingerprint)

    def _on_camera_info(
        self, names: tuple[str, ...], msgtype: str, raw: bytes | memoryview, _now_ns: int
    ) -> None:
        try:
            info = self._decode(msgtype, raw, CAMERA_INFO)
        except SampleRejected as problem:
            self._ignore("camera_info", problem)
            return
        for name in names:
            self._runtime.calibration.on_camera_info(name, info)

    def _on_tf(self, static: bool, msgtype: str, raw: bytes | memoryview, now_ns: int) -> None:
        try:
            transforms = self._decode(msgtype, raw, TF).transforms
        except SampleRejected as problem:
            self._ignore("tf", problem)
            return
        for item in transforms:
            position, rotation = item.transform.translation, item.transform.rotation
            stamp_ns = None if static else stamp_of(item.header)
            edge = (item.header.frame_id, item.child_frame_id)
            self._add_pose("tf", edge, stamp_ns, pose_numbers(position, rotation), now_ns)

    def _on_odometry(self, msgtype: str, raw: bytes | memoryview, now_ns: int) -> None:
        try:
            message = self._decode(msgtype, raw, ODOMETRY)
        except SampleRejected as problem:
            self._ignore("odometry", problem)
            return
        pose = pose_numbers(message.pose.pose.position, message.pose.pose.orientation)
        edge = (message.header.frame_id, message.child_frame_id)
        self._add_pose("odometry", edge, stamp_of(message.header), pose, now_ns)

    def _add_pose(
        self,
        source: str,
        edge: tuple[str, str],
        stamp_ns: int | None,
        pose: Float64,
        now_ns: int,
    ) -> None:
        """Adds an edge (parent, child). `stamp_ns` None: static. `pose`: x y z qx qy qz qw.

        A pose from the future would push the whole history out, so it is refused as a sample is.
        """
        parent, child = (frame.lstrip("/") for frame in edge)
        try:
            if not (np.abs(pose) <= MAX_COORDINATE_M).all():  # also False for NaN
                raise CalibrationError(
                    f"pose {pose.tolist()} is not finite or beyond {MAX_COORDINATE_M:g} m"
                )
            parent_from_child = rigid_from_quaternion(pose[:3], pose[3:])
            ahead_s = ((stamp_ns or now_ns) - now_ns) / 1e9
            if ahead_s > FUTURE_POSE_S:
                raise CalibrationError(f"stamped {ahead_s:.3f} s ahead of the clock")
            if stamp_ns is None:
                self._runtime.transforms.set_static(parent, child, parent_from_child)
            else:
                self._runtime.transforms.add_dynamic(parent, child, stamp_ns, parent_from_child)
        except (CalibrationError, TransformError) as problem:
            text = f"{parent} -> {child}: {problem}"
            self._ignore(source, SampleRejected("bad_transform", text))

    def _ignore(self, source: str, problem: SampleRejected) -> None:
        """Counts a message that carries no sensor sample and could not be used."""
        key = f"{source}:{problem.reason}"
        self.ignored[key] = self.ignored.get(key, 0) + 1
        if self.ignored[key] == 1:
            log.warning("%s message ignored: %s (further ones are only counted)", source, problem)


def stamp_of(header: Any) -> int:  # noqa: ANN401
    """A std_msgs/Header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def pose_numbers(position: Any, rotation: Any) -> Float64:  # noqa: ANN401
    """float64 [7]: x y z and the quaternion x y z w of a geometry_msgs position and orientation."""
    return np.array(
        [position.x, position.y, position.z, rotation.x, rotation.y, rotation.z, rotation.w]
    )


def fingerprint_of(sample: CameraFrame | PointCloud) -> int | None:
    """A cheap hash that changes when the sample does: length and parts of the payload. A cloud
    without points has none.

    A sensor's noise changes every region of a raw image or a cloud, and any change shifts the rest
    of an entropy-coded image.
    """
    if isinstance(sample, PointCloud):
        if not len(sample.points):
            return None
        every = max(len(sample.points) // 1024, 1)
        return zlib.crc32(sample.points[::every].tobytes(), len(sample.points))
    frame, data = sample, sample.image.data
    if isinstance(frame.image, EncodedImage):
        middle = data.size // 2
        return zlib.crc32(
            bytes(data[-2048:]), zlib.crc32(bytes(data[middle : middle + 2048]), data.size)
        )
    value = 0
    for row in range(0, len(data), max(len(data) // 16, 1)):
        value = zlib.crc32(data[row].tobytes(), value)
    return value
