"""The sensor conditions of the table: what is left of a moment under each of them.

The conditions are those of MetaBEV (C. Ge et al., ICCV 2023) and a few of a vehicle's daily life.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.faults import clouds, pictures
from bev_runtime.geometry import Float64, transform_points
from bev_runtime.manifest import Manifest
from bev_runtime.preprocess import cloud_from_message, decode_rgb
from bev_runtime.types import CameraFrame, PointCloud, Snapshot

MAX_LOST_CAMERAS = 6
OCCLUDED_SHARE = 0.3
BOX_MARGIN_M = 0.1
"""Points this far outside of a true box are still of the object."""


@dataclass(slots=True)
class Moment:
    """Everything that was measured for one output, with all sensors alive.

    `snapshot`: complete. `ego_from_lidar`: float64 [4, 4]; `sweep`: the cloud's message, both None
    without LiDAR. `before`: each camera's frame before the one in the snapshot; `first`: its first
    of the bag. `boxes`: float64 [N, 9], the true objects. `seed`, `index`: of what is drawn.
    """

    index: int
    snapshot: Snapshot
    ego_from_lidar: Float64 | None
    sweep: Any
    before: Mapping[str, CameraFrame]
    first: Mapping[str, CameraFrame]
    boxes: Float64
    seed: int
    _noise: dict[str, CameraFrame] = field(default_factory=dict)

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers of this moment, the same for conditions that differ in degree only."""
        return np.random.default_rng([self.seed, self.index, zlib.crc32(purpose.encode())])

    def some_cameras(self, count: int, purpose: str) -> tuple[str, ...]:
        """`count` cameras, or as many as there are; a larger choice holds the smaller one."""
        names = sorted(self.snapshot.cameras)
        order = self.rng(purpose).permutation(len(names))
        return tuple(names[index] for index in order[:count])

    def noise(self, name: str) -> CameraFrame:
        """A frame of noise in place of a camera's."""
        if name not in self._noise:
            frame = self.snapshot.cameras[name]
            size = frame.image.width, frame.image.height
            rgb = pictures.noise_picture(size, self.rng(f"noise {name}"))
            self._noise[name] = CameraFrame.from_rgb(name, frame.stamp_ns, rgb)
        return self._noise[name]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is left of a moment. `lost`: the sensors that the runtime leaves out, and why; `stale`:
    what a node that does not notice would take for them, where that is neither black nor empty.
    `unaware`: frames that such a node takes instead of those in `cameras`.
    """

    cameras: Mapping[str, CameraFrame]
    cloud: PointCloud | None
    lost: Mapping[str, str] = field(default_factory=dict)
    stale: Mapping[str, CameraFrame] = field(default_factory=dict)
    unaware: Mapping[str, CameraFrame] = field(default_factory=dict)


Condition = Callable[[Moment], Scene]


def conditions_of(manifest: Manifest) -> dict[str, Condition]:
    """The conditions that concern a model's sensors, by name, in the order of the table."""
    found: dict[str, Condition] = {"full": full}
    if manifest.cameras is not None and manifest.lidar is not None:
        found |= {"no_lidar": no_lidar, "no_cameras": partial(lost_cameras, count=1 << 30)}
    if manifest.cameras is not None:
        for count in range(1, MAX_LOST_CAMERAS + 1):
            found[f"lost_cameras_{count}"] = partial(lost_cameras, count=count)
    if manifest.lidar is not None:
        for degrees in (120, 90, 60):
            found[f"lidar_sector_{degrees}"] = partial(lidar_sector, degrees=degrees)
        for beams in (16, 8, 4, 1):
            found[f"lidar_beams_{beams}"] = partial(lidar_beams, beams=beams)
        for share in (0.1, 0.3, 0.5, 0.7, 1.0):
            found[f"missing_objects_{share}"] = partial(missing_objects, share=share)
    if manifest.cameras is not None:
        for count in range(1, MAX_LOST_CAMERAS + 1):
            found[f"view_noise_{count}"] = partial(view_noise, count=count)
        found["occluded_cameras"] = occluded_cameras
        found["frozen_camera"] = frozen_camera
        found["camera_delay_1"] = camera_delay
    return found


def full(moment: Moment) -> Scene:
    """All sensors as they are."""
    return Scene(moment.snapshot.cameras, moment.snapshot.cloud)


def no_lidar(moment: Moment) -> Scene:
    """The LiDAR is gone."""
    cloud = moment.snapshot.cloud
    return Scene(moment.snapshot.cameras, None, {cloud.name: "lost"} if cloud is not None else {})


def lost_cameras(moment: Moment, count: int) -> Scene:
    """Some cameras are gone; others at each moment, so that the mean does not depend on which."""
    gone = moment.some_cameras(count, "lost cameras")
    left = {name: frame for name, frame in moment.snapshot.cameras.items() if name not in gone}
    return Scene(left, moment.snapshot.cloud, dict.fromkeys(gone, "lost"))


def lidar_sector(moment: Moment, degrees: float) -> Scene:
    """The LiDAR sees a sector to the front only."""
    if moment.ego_from_lidar is None:
        return full(moment)
    forward = moment.ego_from_lidar[0, :2]  # base_link's x axis in the LiDAR's frame
    yaw = math.degrees(math.atan2(forward[1], forward[0]))
    return _with_sweep(moment, clouds.keep_sector(moment.sweep, degrees, yaw))


def lidar_beams(moment: Moment, beams: int) -> Scene:
    """The LiDAR has fewer beams."""
    return _with_sweep(moment, clouds.keep_beams(moment.sweep, beams))


def missing_objects(moment: Moment, share: float) -> Scene:
    """The LiDAR returns nothing from a share of the objects."""
    cloud = moment.snapshot.cloud
    if cloud is None or moment.ego_from_lidar is None:
        return full(moment)
    gone = moment.boxes[moment.rng("missing objects").random(len(moment.boxes)) < share]
    points = transform_points(moment.ego_from_lidar, cloud.points[:, :3])
    kept = ~inside_any(points, gone)
    edited = PointCloud(cloud.name, cloud.stamp_ns, np.ascontiguousarray(cloud.points[kept]))
    return Scene(moment.snapshot.cameras, edited)


def view_noise(moment: Moment, count: int) -> Scene:
    """Some cameras send noise."""
    noisy = moment.some_cameras(count, "view noise")
    frames = {
        name: moment.noise(name) if name in noisy else frame
        for name, frame in moment.snapshot.cameras.items()
    }
    return Scene(frames, moment.snapshot.cloud)


def occluded_cameras(moment: Moment) -> Scene:
    """Dirt on all lenses; it stays where it is."""
    frames = {}
    for name, frame in moment.snapshot.cameras.items():
        rgb = decode_rgb(frame)
        rng = np.random.default_rng([moment.seed, zlib.crc32(name.encode())])
        cover = pictures.dirt((rgb.shape[1], rgb.shape[0]), OCCLUDED_SHARE, rng)
        frames[name] = CameraFrame.from_rgb(name, frame.stamp_ns, pictures.soil(rgb, cover))
    return Scene(frames, moment.snapshot.cloud)


def frozen_camera(moment: Moment) -> Scene:
    """One camera repeats its first picture under new stamps; health monitoring has noticed."""
    (name,) = moment.some_cameras(1, "frozen camera")
    left = {n: frame for n, frame in moment.snapshot.cameras.items() if n != name}
    old = CameraFrame(name, moment.snapshot.cameras[name].stamp_ns, moment.first[name].image)
    return Scene(left, moment.snapshot.cloud, {name: "frozen"}, {name: old})


def camera_delay(moment: Moment) -> Scene:
    """All pictures are one frame old, and their stamps say so; a naive node takes them as new."""
    unaware = {
        name: CameraFrame(name, moment.snapshot.cameras[name].stamp_ns, frame.image)
        for name, frame in moment.before.items()
    }
    return Scene(moment.before, moment.snapshot.cloud, unaware=unaware)


def inside_any(points: NDArray[np.float32], boxes: Float64) -> NDArray[np.bool_]:
    """Which points float32 [P, 3] are in one of the boxes float64 [N, >=7] x y z l w h yaw, or
    within a margin of it; bool [P].
    """
    found = np.zeros(len(points), np.bool_)
    for x, y, z, length, width, height, yaw in boxes[:, :7].tolist():
        offset = points - np.array([x, y, z])
        along = offset[:, 0] * math.cos(yaw) + offset[:, 1] * math.sin(yaw)
        across = -offset[:, 0] * math.sin(yaw) + offset[:, 1] * math.cos(yaw)
        found |= (
            (np.abs(along) <= length / 2 + BOX_MARGIN_M)
            & (np.abs(across) <= width / 2 + BOX_MARGIN_M)
            & (np.abs(offset[:, 2]) <= height / 2 + BOX_MARGIN_M)
        )
    return found


def _with_sweep(moment: Moment, sweep: Any) -> Scene:  # noqa: ANN401
    cloud = moment.snapshot.cloud
    assert cloud is not None
    return Scene(moment.snapshot.cameras, cloud_from_message(cloud.name, cloud.stamp_ns, sweep))
