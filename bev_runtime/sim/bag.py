"""Drives through a town and records the sensors as a ROS 2 bag, with the truth beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import Writer

from bev_runtime.camera import scale_camera
from bev_runtime.demo_world.bag import (
    POSE_HZ,
    STORAGE,
    TRUTH_FILE,
    BagOptions,
    moments,
    write_truth,
)
from bev_runtime.demo_world.recorder import Recorder
from bev_runtime.demo_world.rigs import DemoCamera, DemoLidar, DemoRig
from bev_runtime.demo_world.sensors import twist
from bev_runtime.errors import BagError, ConfigError
from bev_runtime.geometry import Float64, pixel_scaling, quaternion_from_rotation
from bev_runtime.sim.agents import CLASSES
from bev_runtime.sim.agents import Path as AgentPath
from bev_runtime.sim.caster import Caster
from bev_runtime.sim.ground import LAYERS
from bev_runtime.sim.lidars import take_sweep
from bev_runtime.sim.pictures import PictureMaker, View, random_finish
from bev_runtime.sim.samples import EGO_LENGTH_M, MODEL_GRID
from bev_runtime.sim.town import Town
from bev_runtime.sim.truth import true_boxes, true_map, visibility, visible_cells
from bev_runtime.types import BASE_FRAME, BevGrid

BOXES_FILE = "ground_truth.json"
EGO_WIDTH_M = 2.0
LOOK_S = 0.25
"""Step of the search for agents that would get in the way."""
CONVENTION = (
    "All boxes in frame base_link (x forward, y left, z up, metres) at the stamp of the frame. "
    "center = geometric centre. size_lwh = length (along heading), width, height. yaw = heading in "
    "the xy plane of base_link, radians. velocity = [vx, vy] over ground, m/s, along the axes of "
    "base_link. visibility = share of the surface towards a camera that the best camera sees."
)


@dataclass(slots=True)
class _Drive:
    """One drive: where the vehicle is at a time, and what its sensors saw so far."""

    town: Town
    rig: DemoRig
    options: BagOptions
    path: AgentPath
    grid: BevGrid
    frames: list[dict[str, Any]] = field(default_factory=list)
    maps: list[tuple[int, NDArray[np.bool_], Float64]] = field(default_factory=list)
    visible: list[NDArray[np.bool_]] = field(default_factory=list)

    def pose(self, seconds: float) -> Float64:
        """town_from_base at a time."""
        sway = 0.004 * math.sin(2.1 * seconds), 0.005 * math.sin(1.3 * seconds)
        return self.town.stand(self.path.pose(seconds), sway)


def write_bag(
    path: Path,
    rig: DemoRig,
    town: Town,
    options: BagOptions | None = None,
    *,
    motion_distortion: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Records a drive along a lane of the main road, from `options.start_x` metres along it.

    Agents that would touch the vehicle on its way are taken out of the town. `ground_truth.json`
    (format `bev-boxes-1`) and `truth.npz` (map layers and visibility) are written into the bag's
    folder, for the stamps of the LiDAR or, without one, of the last camera.

    Args:
        path: the rosbag2 folder to make.
        rig: cameras and LiDAR.
        town: where to drive.
        options: how to drive and record; see `BagOptions`.
        motion_distortion: the LiDAR's points are where the moving sensor measured them, not
            compensated.
        progress: called with (moments done, moments in all).

    Returns:
        `path`.

    Raises:
        BagError: `path` exists.
        ConfigError: the drive is longer than the road.
    """
    options = options or BagOptions()
    path = Path(path)
    if path.exists():
        raise BagError(f"bag folder {path} exists already: give another path, or remove it first")
    way = _way(town, options)
    drive = _Drive(
        _cleared(town, way, options), rig, options, way, options.truth_grid or MODEL_GRID
    )
    town = drive.town
    rng = np.random.default_rng([options.seed, 2])
    finishes = {camera.name: random_finish(rng) for camera in rig.cameras}
    static, maker = town.caster(), PictureMaker(town)
    cameras = {camera.name: _drawn(camera, options.image_scale) for camera in rig.cameras}
    last = max(rig.cameras, key=lambda camera: camera.phase_s) if rig.cameras else None
    schedule = sorted(moments(rig, options), key=lambda moment: moment[0])
    with Writer(path, version=8, storage_plugin=STORAGE[options.storage]) as writer:
        recorder = Recorder(writer, round(options.latency_s * 1e9))
        recorder.static_transforms(options.start_ns + round(schedule[0][0] * 1e9), rig)
        for done, (seconds, sensor) in enumerate(schedule, 1):
            stamp_ns, pose = options.start_ns + round(seconds * 1e9), drive.pose(seconds)
            hits = None
            if sensor is None:
                ahead = drive.pose(seconds + 1 / POSE_HZ)
                recorder.pose(stamp_ns, pose, twist(pose, ahead, 1 / POSE_HZ))
                continue
            caster = static.with_part(town.agents_part(seconds))
            if isinstance(sensor, DemoLidar):
                where = _turning(drive, seconds) if motion_distortion else pose
                sweep = take_sweep(town, caster, sensor, where, rng)
                recorder.cloud(stamp_ns, sensor.name, sweep.points, sweep.ring)
                hits = np.bincount(sweep.owner[sweep.owner >= 0], minlength=len(town.agents))
            else:
                camera = cameras[sensor.name]
                view = View(camera, pose @ camera.ego_from_camera)
                rgb = maker.render(caster, [view], [finishes[sensor.name]], rng)[0].rgb
                _record_picture(recorder, stamp_ns, sensor, rgb, options)
            if sensor is (rig.lidar or last):
                _note(drive, caster, stamp_ns, seconds, hits)
            if progress is not None:
                progress(done, len(schedule))
    _write_boxes(path, drive)
    write_truth(path / TRUTH_FILE, drive.grid, drive.maps, LAYERS, visible=np.array(drive.visible))
    return path


def _way(town: Town, options: BagOptions) -> AgentPath:
    """The lane of the main road that is driven."""
    road = town.roads[0]
    lanes = [offset for offset, direction in road.profile.lane_offsets() if direction > 0]
    needed = options.start_x + options.speed_mps * options.duration_s
    if needed > road.length:
        raise ConfigError(
            f"the drive ends {needed:.0f} m along a road of {road.length:.0f} m: drive less long, "
            "slower, or from a smaller start_x"
        )
    offset = lanes[options.seed % len(lanes)]
    return AgentPath((options.start_x, offset, 0.0), options.speed_mps, road)


def _cleared(town: Town, way: AgentPath, options: BagOptions) -> Town:
    """The town without the agents that come too near on the way."""
    kept = []
    for agent in town.agents:
        reach = (EGO_LENGTH_M + max(agent.size[:2])) / 2 + 0.5
        side = (EGO_WIDTH_M + min(agent.size[:2])) / 2 + 0.3
        free = True
        for seconds in np.arange(-LOOK_S, options.duration_s + LOOK_S, LOOK_S):
            x, y, yaw = way.pose(float(seconds))
            other = agent.path.pose(float(seconds))
            dx, dy = other[0] - x, other[1] - y
            along = abs(dx * math.cos(yaw) + dy * math.sin(yaw))
            across = abs(-dx * math.sin(yaw) + dy * math.cos(yaw))
            turned = abs(math.sin(other[2] - yaw)) > 0.5
            if along < reach and across < (reach if turned else side):
                free = False
                break
        if free:
            kept.append(agent)
    return replace(town, agents=tuple(kept))


def _drawn(camera: DemoCamera, scale: float) -> Any:  # noqa: ANN401
    width, height = camera.model.size
    size = max(round(width * scale), 8), max(round(height * scale), 8)
    return scale_camera(camera.model, pixel_scaling(size[0] / width, size[1] / height), size)


def _record_picture(
    recorder: Recorder,
    stamp_ns: int,
    camera: DemoCamera,
    rgb: NDArray[np.uint8],
    options: BagOptions,
) -> None:
    if (rgb.shape[1], rgb.shape[0]) != camera.model.size:
        rgb = np.asarray(cv2.resize(rgb, camera.model.size, interpolation=cv2.INTER_LINEAR))
    recorder.camera_info(stamp_ns, camera)
    if options.compressed:
        recorder.jpeg(stamp_ns, camera.name, rgb, options.jpeg_quality)
    else:
        recorder.raw(stamp_ns, camera.name, rgb)


def _turning(drive: _Drive, seconds: float) -> Callable[[float], Float64]:
    """Poses during the turn that ends at a time."""
    own = drive.rig.lidar.rate_hz if drive.rig.lidar is not None else None
    rate = drive.options.lidar_rate_hz or own or drive.options.rate_hz
    return lambda part: drive.pose(seconds - (1 - part) / rate)


def _note(
    drive: _Drive,
    caster: Caster,
    stamp_ns: int,
    seconds: float,
    hits: NDArray[np.int64] | None,
) -> None:
    """Keeps the truth of a moment."""
    town, pose = drive.town, drive.pose(seconds)
    views = {
        camera.name: View(camera.model, pose @ camera.model.ego_from_camera)
        for camera in drive.rig.cameras
    }
    truth = true_boxes(town, seconds, pose)
    seen = visibility(town, caster, truth, seconds, views)
    boxes = []
    for row, label, agent, share in zip(
        truth.boxes.tolist(), truth.labels, truth.agents, seen.tolist(), strict=True
    ):
        boxes.append(
            {
                "center": row[:3],
                "size_lwh": row[3:6],
                "yaw": row[6],
                "velocity": row[7:],
                "class": CLASSES[label],
                "num_lidar_pts": int(hits[agent]) if hits is not None else 0,
                "visibility": round(share, 3),
            }
        )
    quaternion = quaternion_from_rotation(pose[:3, :3])
    drive.frames.append(
        {
            "token": str(stamp_ns),
            "stamp_ns": stamp_ns,
            "stamp": dict(zip(("sec", "nanosec"), divmod(stamp_ns, 10**9), strict=True)),
            "ego_pose": {
                "frame_id": "odom",
                "translation": pose[:3, 3].tolist(),
                "rotation_wxyz": [quaternion[3], *quaternion[:3]],
            },
            "boxes": boxes,
        }
    )
    visible = visible_cells(town, caster, drive.grid, pose, views)
    if drive.rig.lidar is not None:
        eye = (pose @ drive.rig.lidar.ego_from_lidar)[:3, 3]
        visible |= visible_cells(town, caster, drive.grid, pose, eye)
    drive.maps.append((stamp_ns, true_map(town, drive.grid, pose), pose))
    drive.visible.append(visible)


def _write_boxes(path: Path, drive: _Drive) -> None:
    document = {
        "format": "bev-boxes-1",
        "bag": path.name,
        "dataset": f"bev-runtime simulator, town {drive.town.seed}",
        "licence": "Apache-2.0",
        "frame_id": BASE_FRAME,
        "convention": CONVENTION,
        "classes": list(CLASSES),
        "frames": drive.frames,
    }
    (path / BOXES_FILE).write_text(json.dumps(document, default=float), encoding="utf-8")
