"""outputs.mcap: everything that the live node would publish, and small pictures of its inputs;
opens in Foxglove.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from mcap.writer import CompressionType, Writer

from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess import ImageDecoder
from bev_runtime.sinks.ros_messages import MessageMaker, output_typestore
from bev_runtime.types import BevOutput, Calibration, CameraFrame, PointCloud, Snapshot

NODE = "/bev_runtime"
IMAGE_WIDTH = 480
JPEG_QUALITY = 75
_FOREVER = "{sec: 9223372036, nsec: 854775807}"
LATCHED = (
    "- {history: 1, depth: 1, reliability: 1, durability: 1, liveliness: 1, "
    f"deadline: {_FOREVER}, lifespan: {_FOREVER}, liveliness_lease_duration: {_FOREVER}, "
    "avoid_ros_namespace_conventions: false}"
)
"""QoS reliable and transient local, in rosbag2's YAML. tf2 listens to /tf_static with it and hears
nothing from a `ros2 bag play` that offers less."""


class McapSink:
    """Records outputs as CDR with their schemas, readable by any MCAP or rosbag2 tool.

    Topics are those of a node called `bev_runtime` in the root namespace. Log and publish time are
    the output's stamp. The file is readable after `close`, whatever happened before.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._writer = Writer(self._file, compression=CompressionType.LZ4)
        self._writer.start(profile="ros2", library="bev-runtime")
        self._store = output_typestore()
        self._make = MessageMaker(self._store)
        self._channels: dict[str, int] = {}
        self._schemas: dict[str, int] = {}
        self._decoders: dict[str, ImageDecoder] = {}
        self._calibration: Calibration | None = None
        self._cloud_frame: str | None = None

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:
        """Records one output and the samples that it was made from."""
        stamp_ns, make, cloud = output.stamp_ns, self._make, snapshot.cloud
        if calibration is not self._calibration or self._lacks_frame_of(cloud):
            self._write_frames(output, cloud, calibration)
        self._add(stamp_ns, f"{NODE}/output/mode", make.mode(output, NODE.strip("/")))
        self._add(stamp_ns, f"{NODE}/output/detections", make.detections(output))
        self._add(stamp_ns, f"{NODE}/output/markers", make.markers(output))
        if output.map is not None:
            for index, layer in enumerate(output.map.layers):
                grid = make.occupancy_grid(output, output.map, index)
                self._add(stamp_ns, f"{NODE}/output/map/{layer}", grid)
        for name in output.sensor_age_ms:
            if name in snapshot.cameras:
                self._write_image(stamp_ns, snapshot.cameras[name])
        if cloud is not None:
            message = make.cloud(cloud.stamp_ns, cloud.name, cloud.points)
            self._add(stamp_ns, f"/{cloud.name}/points", message)

    def close(self) -> None:
        """Writes the index and closes the file; closing again does nothing."""
        if not self._file.closed:
            with self._file:
                self._writer.finish()  # type: ignore[no-untyped-call]  # mcap types only arguments

    def _lacks_frame_of(self, cloud: PointCloud | None) -> bool:
        """Whether a cloud came whose frame is known but was not written yet."""
        if cloud is None or self._calibration is None or self._calibration.ego_from_lidar is None:
            return False
        return cloud.name != self._cloud_frame

    def _write_frames(
        self, output: BevOutput, cloud: PointCloud | None, calibration: Calibration
    ) -> None:
        self._calibration, self._cloud_frame = calibration, None
        poses = {name: camera.ego_from_camera for name, camera in calibration.cameras.items()}
        if cloud is not None and calibration.ego_from_lidar is not None:
            poses[cloud.name] = calibration.ego_from_lidar
            self._cloud_frame = cloud.name
        edges = [
            self._make.transform(output.stamp_ns, output.frame_id, name, pose)
            for name, pose in poses.items()
            if name != output.frame_id
        ]
        self._add(output.stamp_ns, "/tf_static", self._make.make("tf2_msgs/TFMessage", edges))

    def _write_image(self, stamp_ns: int, frame: CameraFrame) -> None:
        """A small JPEG of a camera's image; one that does not decode is left out."""
        image = frame.image
        size = (IMAGE_WIDTH, max(round(IMAGE_WIDTH * image.height / image.width), 1))
        decoder = self._decoders.setdefault(frame.name, ImageDecoder())
        try:
            decoded = decoder.decode(image, size)
        except SampleRejected:
            return
        small = cv2.resize(decoded.pixels, size, interpolation=cv2.INTER_LINEAR)
        small = small.reshape(size[1], size[0], -1)
        rgb = np.ascontiguousarray(small[:, :, list(decoded.channels)])
        data = np.frombuffer(simplejpeg.encode_jpeg(rgb, quality=JPEG_QUALITY), np.uint8)
        header = self._make.header(frame.stamp_ns, frame.name)
        message = self._make.make("sensor_msgs/CompressedImage", header, "jpeg", data)
        self._add(stamp_ns, f"/{frame.name}/image/compressed", message)

    def _add(self, stamp_ns: int, topic: str, message: Any) -> None:  # noqa: ANN401
        msgtype = message.__msgtype__
        if topic not in self._channels:
            if msgtype not in self._schemas:
                text, _ = self._store.generate_msgdef(msgtype, ros_version=2)
                self._schemas[msgtype] = self._writer.register_schema(
                    name=msgtype, encoding="ros2msg", data=text.encode()
                )
            self._channels[topic] = self._writer.register_channel(
                topic=topic,
                message_encoding="cdr",
                schema_id=self._schemas[msgtype],
                metadata={"offered_qos_profiles": LATCHED} if topic == "/tf_static" else {},
            )
        data = bytes(self._store.serialize_cdr(message, msgtype))
        self._writer.add_message(
            channel_id=self._channels[topic], log_time=stamp_ns, publish_time=stamp_ns, data=data
        )
