"""Small ROS messages and bags for tests, made with rosbags' own types."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from bev_runtime.geometry import quaternion_from_rotation, rigid

STORE = get_typestore(Stores.ROS2_HUMBLE)
T = STORE.types
# A camera that looks along +x of base_link: z forward, x right, y down.
FORWARD = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def header(stamp_ns: int, frame_id: str) -> Any:
    stamp = T["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 10**9))
    return T["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def image(
    stamp_ns: int, frame_id: str, pixels: np.ndarray, encoding: str = "rgb8", **change: Any
) -> Any:
    fields = {
        "header": header(stamp_ns, frame_id),
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "step": pixels.strides[0],
        "data": pixels.reshape(-1).view(np.uint8),
    }
    return T["sensor_msgs/msg/Image"](**{**fields, **change})


def jpeg(stamp_ns: int, frame_id: str, pixels: np.ndarray) -> Any:
    data = np.frombuffer(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality=90), np.uint8)
    return compressed(stamp_ns, frame_id, data)


def compressed(stamp_ns: int, frame_id: str, data: np.ndarray, fmt: str = "jpeg") -> Any:
    return T["sensor_msgs/msg/CompressedImage"](header(stamp_ns, frame_id), fmt, data)


def camera_info(
    stamp_ns: int, frame_id: str, size: tuple[int, int], focal: float, **change: Any
) -> Any:
    width, height = size
    k = np.array([focal, 0, width / 2 - 0.5, 0, focal, height / 2 - 0.5, 0, 0, 1.0])
    fields = {
        "header": header(stamp_ns, frame_id),
        "height": height,
        "width": width,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": k,
        "r": np.eye(3).reshape(-1),
        "p": np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).reshape(-1),
        "binning_x": 0,
        "binning_y": 0,
        "roi": T["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    }
    return T["sensor_msgs/msg/CameraInfo"](**{**fields, **change})


def cloud(stamp_ns: int, frame_id: str, points: np.ndarray) -> Any:
    field = T["sensor_msgs/msg/PointField"]
    fields = [field(name, 4 * i, 7, 1) for i, name in enumerate(("x", "y", "z", "intensity"))]
    data = np.ascontiguousarray(points, "<f4").reshape(-1).view(np.uint8)
    n = len(points)
    return T["sensor_msgs/msg/PointCloud2"](
        header(stamp_ns, frame_id), 1, n, fields, False, 16, 16 * n, data, True
    )


def transforms(stamp_ns: int, edges: Iterable[tuple[str, str, np.ndarray]]) -> Any:
    items = []
    for parent, child, matrix in edges:
        x, y, z = (float(v) for v in matrix[:3, 3])
        q = [float(v) for v in quaternion_from_rotation(matrix[:3, :3])]
        items.append(
            T["geometry_msgs/msg/TransformStamped"](
                header(stamp_ns, parent),
                child,
                T["geometry_msgs/msg/Transform"](
                    T["geometry_msgs/msg/Vector3"](x, y, z),
                    T["geometry_msgs/msg/Quaternion"](*q),
                ),
            )
        )
    return T["tf2_msgs/msg/TFMessage"](items)


def serialize(message: Any) -> bytes:
    return bytes(STORE.serialize_cdr(message, message.__msgtype__))


def camera_pose(yaw_deg: float, height: float = 1.5) -> np.ndarray:
    """base_link from an optical frame that looks at this yaw."""
    c, s = np.cos(np.radians(yaw_deg)), np.sin(np.radians(yaw_deg))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return rigid(turn @ FORWARD, [c, s, height])


def write_bag(
    path: Path,
    messages: Iterable[tuple[int, str, Any]],
    storage: StoragePlugin = StoragePlugin.MCAP,
) -> Path:
    """Writes (time_ns, topic, message or (msgtype, raw bytes)) in the given order."""
    connections: dict[str, Any] = {}
    with Writer(path, version=8, storage_plugin=storage) as writer:
        for time_ns, topic, message in messages:
            msgtype, raw = (
                message if isinstance(message, tuple) else (message.__msgtype__, serialize(message))
            )
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=STORE)
            writer.write(connections[topic], time_ns, raw)
    return path


START = 1_000 * 10**9
PERIOD = 100_000_000
SIZE = (320, 180)


def drive(
    *,
    cameras: dict[str, float] | None = None,
    frames: int = 20,
    speed: float = 5.0,
    lidar: bool = True,
    seed: int = 0,
    raw: bool = False,
    moving: bool = True,
) -> list[tuple[int, str, Any]]:
    """A short drive with random textures: {camera: yaw in degrees}, 10 Hz, tf at 50 Hz."""
    cameras = {"front": 0.0, "left": 90.0, "back": 180.0} if cameras is None else cameras
    rng = np.random.default_rng(seed)
    items: list[tuple[int, str, Any]] = []
    edges = [("base_link", name, camera_pose(yaw)) for name, yaw in cameras.items()]
    edges.append(("base_link", "lidar", rigid(np.eye(3), [0, 0, 1.8])))
    items.append((START - 1000, "/tf_static", transforms(START - 1000, edges)))
    if moving:
        for i in range(-5, frames * 5 + 10):
            time_ns = START + i * PERIOD // 5
            pose = rigid(np.eye(3), [1000 + speed * i * 0.02, 2000, 0])
            items.append((time_ns, "/tf", transforms(time_ns, [("odom", "base_link", pose)])))
    for i in range(frames):
        for j, name in enumerate(cameras):
            stamp = START + i * PERIOD + j * 7_000_000
            small = rng.integers(0, 255, (SIZE[1] // 20, SIZE[0] // 20, 3), np.uint8)
            pixels = np.ascontiguousarray(small.repeat(20, 0).repeat(20, 1))
            items.append((stamp, f"/{name}/camera_info", camera_info(stamp, name, SIZE, 160.0)))
            picture = image(stamp, name, pixels) if raw else jpeg(stamp, name, pixels)
            topic = f"/{name}/image_raw" if raw else f"/{name}/image/compressed"
            items.append((stamp, topic, picture))
        if lidar:
            stamp = START + i * PERIOD + 30_000_000
            points = rng.uniform(-20, 20, (500, 4))
            items.append((stamp, "/lidar/points", cloud(stamp, "lidar", points)))
    return sorted(items, key=lambda item: item[0])
