"""A rig from a bag: message types, CameraInfo and tf say which topics are which sensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice

import numpy as np

from bev_runtime.bags import Bag
from bev_runtime.errors import BagError
from bev_runtime.intake import CAMERA_INFO, COMPRESSED, IMAGE, ODOMETRY, POINTS, TF
from bev_runtime.rig import CameraConfig, LidarConfig, Rig
from bev_runtime.types import BASE_FRAME

FIXED_FRAMES = ("odom", "map", "world")
INFREQUENT_HZ = 8.0
RATE_SAMPLES = 20
TF_SAMPLES = 500
IMAGE_SUFFIX = re.compile(
    r"/(image(_[a-z0-9]+)*|compressed|theora|h264|ffmpeg|camera_info|points(_[a-z]+)*|pointcloud2?)$"
)


@dataclass(slots=True)
class InferredRig:
    """The rig and, in words, how it was found and what was left out."""

    rig: Rig
    notes: list[str] = field(default_factory=list)


def sensor_name(topic: str) -> str:
    """`/sensing/camera/front/image_raw/compressed` -> `front`; the last part that is not a kind of
    message.
    """
    stem = topic.rstrip("/")
    while (shorter := IMAGE_SUFFIX.sub("", stem)) != stem and shorter:
        stem = shorter
    return re.sub(r"[^A-Za-z0-9_]", "_", stem.strip("/").split("/")[-1])[:60] or "sensor"


def infer_rig(bag: Bag) -> InferredRig:
    """Builds a rig from what the bag holds.

    One camera for each image topic; of several image topics of one camera the compressed, or else
    the first, is taken. The LiDAR is the PointCloud2 topic with the most messages. Raises nothing:
    an empty rig is a valid answer.
    """
    notes: list[str] = []
    topics = bag.topics
    infos = sorted(name for name, topic in topics.items() if topic.msgtype == CAMERA_INFO)
    cameras: dict[str, CameraConfig] = {}
    images = [t for kind in (COMPRESSED, IMAGE) for t in _by_type(bag, kind) if _is_colour(t)]
    for topic in images:
        info = _matching_info(topic, infos)
        taken = next(
            (c for c in cameras.values() if info is not None and c.info_topic == info), None
        )
        if taken is not None:
            notes.append(f"{topic} left out: {taken.topic} is already this camera")
            continue
        name = _unique(sensor_name(topic), topic, cameras)
        if info is None:
            notes.append(
                f"{topic} has no CameraInfo beside it; expected "
                f"{topic.rsplit('/', 1)[0]}/camera_info"
            )
        cameras[name] = CameraConfig(
            topic=topic, info_topic=info, rectified="rect" in topic, rate_hz=_slow_rate(bag, topic)
        )
    cameras = dict(sorted(cameras.items()))
    clouds = sorted(_by_type(bag, POINTS), key=lambda t: -topics[t].count)
    lidar = None
    if clouds:
        lidar = LidarConfig(
            name=_unique(sensor_name(clouds[0]), clouds[0], cameras),
            topic=clouds[0],
            rate_hz=_slow_rate(bag, clouds[0]),
        )
        notes += [f"{topic} left out: one LiDAR is used, {clouds[0]}" for topic in clouds[1:]]
    moving, frames = _moving_frames(bag)
    odometry = next(iter(_by_type(bag, ODOMETRY)), None)
    base = BASE_FRAME
    if frames and base not in frames:
        found = next((f for f in ("base_footprint", "ego_vehicle", "base") if f in frames), None)
        notes.append(
            f"no frame '{BASE_FRAME}' in tf"
            + (f", '{found}' taken instead" if found else f"; frames: {sorted(frames)}")
        )
        base = found or base
    parents = [parent for parent, child in moving if child == base]
    fixed = next((f for f in FIXED_FRAMES if f in parents), parents[0] if parents else None)
    if fixed is None and odometry is not None:
        fixed = _odometry_frame(bag, odometry)
    elif fixed is not None:
        odometry = None
    if fixed is None:
        notes.append(
            "no ego motion in tf or odometry: the vehicle is taken as standing between stamps"
        )
    rig = Rig(
        base_frame=base, fixed_frame=fixed, cameras=cameras, lidar=lidar, odometry_topic=odometry
    )
    return InferredRig(rig, notes)


def check_topics(bag: Bag, rig: Rig) -> list[str]:
    """One sentence for each topic of the rig that the bag lacks, or holds with another type.

    Raises:
        BagError: none of the rig's sensors is in the bag, or the bag is empty.
    """
    topics = bag.topics
    if not any(topic.count for topic in topics.values()):
        raise BagError(f"bag {bag.path} holds no messages: was the recording stopped at once?")
    problems = []
    wanted: list[tuple[str, str, tuple[str, ...]]] = [
        (name, camera.topic, (IMAGE, COMPRESSED)) for name, camera in rig.cameras.items()
    ]
    wanted += [(n, c.info_topic, (CAMERA_INFO,)) for n, c in rig.cameras.items() if c.info_topic]
    if rig.lidar:
        wanted.append((rig.lidar.name, rig.lidar.topic, (POINTS,)))
    present = 0
    for name, topic, kinds in wanted:
        if topic not in topics:
            alike = [t for t, info in topics.items() if info.msgtype in kinds]
            near = get_close_matches(topic, alike, n=1, cutoff=0.5)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"topics of that type: {', '.join(sorted(alike)) or 'none'}"
            )
            problems.append(f"{name}: topic {topic} is not in the bag; {hint}")
        elif topics[topic].msgtype not in kinds:
            problems.append(
                f"{name}: topic {topic} is {topics[topic].msgtype}, expected {' or '.join(kinds)}"
            )
        elif kinds != (CAMERA_INFO,):
            present += 1
    if wanted and not present:
        raise BagError(f"bag {bag.path} has none of the rig's sensors:\n  " + "\n  ".join(problems))
    return problems


def _by_type(bag: Bag, msgtype: str) -> list[str]:
    return sorted(
        name for name, topic in bag.topics.items() if topic.msgtype == msgtype and topic.count
    )


def _is_colour(topic: str) -> bool:
    return not re.search(r"depth|disparity|/(left_)?ir(/|$)|infra|mask|semantic", topic.lower())


def _matching_info(topic: str, infos: Iterable[str]) -> str | None:
    """The camera_info topic in the image's own or the nearest enclosing namespace."""
    namespace = topic
    while namespace:
        namespace = namespace.rpartition("/")[0]
        if f"{namespace}/camera_info" in infos:
            return f"{namespace}/camera_info"
    return None


def _unique(name: str, topic: str, taken: Iterable[str]) -> str:
    if name not in taken:
        return name
    longer = re.sub(r"[^A-Za-z0-9_]", "_", topic.strip("/"))[-60:]
    return longer if longer not in taken else f"{longer}_2"


def _slow_rate(bag: Bag, topic: str) -> float | None:
    """The topic's rate if it is so low that the default patience would call the sensor lost between
    frames.
    """
    first = islice(bag.messages(frozenset({topic})), RATE_SAMPLES)
    times = np.array([message.time_ns for message in first], np.float64)
    if times.size < 2:
        return None
    period_s = float(np.median(np.diff(times))) / 1e9
    return round(1 / period_s, 3) if period_s > 1 / INFREQUENT_HZ else None


def _moving_frames(bag: Bag) -> tuple[list[tuple[str, str]], set[str]]:
    """(parent, child) edges on /tf, and every frame of /tf and /tf_static."""
    moving: dict[tuple[str, str], None] = {}
    frames: set[str] = set()
    static = bag.messages(frozenset({"/tf_static"}))
    dynamic = islice(bag.messages(frozenset({"/tf"})), TF_SAMPLES)
    for message in (*static, *dynamic):
        if message.msgtype != TF:
            continue
        decoded = bag.decode(message)
        for item in decoded.transforms if decoded is not None else ():
            edge = (item.header.frame_id.lstrip("/"), item.child_frame_id.lstrip("/"))
            frames.update(edge)
            if message.topic == "/tf":
                moving[edge] = None
    return list(moving), frames


def _odometry_frame(bag: Bag, topic: str) -> str | None:
    first = next(iter(bag.messages(frozenset({topic}))), None)
    decoded = bag.decode(first) if first is not None else None
    return str(decoded.header.frame_id).lstrip("/") if decoded is not None else None
