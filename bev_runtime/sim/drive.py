"""A drive through a town: where the vehicle is, and its sensors' messages one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import scale_camera
from bev_runtime.demo_world.bag import POSE_HZ, BagOptions, moments
from bev_runtime.demo_world.recorder import Recorder
from bev_runtime.demo_world.rigs import DemoCamera, DemoLidar, DemoRig
from bev_runtime.demo_world.sensors import twist
from bev_runtime.errors import ConfigError
from bev_runtime.geometry import Float64, pixel_scaling
from bev_runtime.sim.agents import Path as AgentPath
from bev_runtime.sim.caster import Caster
from bev_runtime.sim.lidars import take_sweep
from bev_runtime.sim.pictures import PictureMaker, View, random_finish
from bev_runtime.sim.samples import EGO_LENGTH_M
from bev_runtime.sim.town import Town

EGO_WIDTH_M = 2.0
LOOK_S = 0.25
"""Step of the search for agents that would get in the way."""
Note = Callable[[Caster, int, float, NDArray[np.int64] | None], None]
"""Called at each reference moment with the world, its stamp, its time in seconds, and how many
LiDAR points met each agent, int64 [agents].
"""


@dataclass(frozen=True, slots=True)
class Drive:
    """A vehicle with sensors on its way; see `plan_drive`."""

    town: Town
    rig: DemoRig
    options: BagOptions
    path: AgentPath

    def pose(self, seconds: float) -> Float64:
        """town_from_base at a time."""
        sway = 0.004 * math.sin(2.1 * seconds), 0.005 * math.sin(1.3 * seconds)
        return self.town.stand(self.path.pose(seconds), sway)


def plan_drive(town: Town, rig: DemoRig, options: BagOptions) -> Drive:
    """A drive along a lane of the main road, from `options.start_x` metres along it. Agents that
    would touch the vehicle on its way are taken out of the town.

    Raises:
        ConfigError: the drive is longer than the road.
    """
    way = _way(town, options)
    return Drive(_cleared(town, way, options), rig, options, way)


def run_drive(
    drive: Drive,
    recorder: Recorder,
    *,
    motion_distortion: bool = False,
    note: Note | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Gives every message of a drive to a recorder, in the order of time.

    Args:
        drive: where and how.
        recorder: takes the messages.
        motion_distortion: the LiDAR's points are where the moving sensor measured them, not
            compensated.
        note: called at the stamps of the LiDAR or, without one, of the last camera.
        progress: called with (moments done, moments in all).
    """
    town, rig, options = drive.town, drive.rig, drive.options
    rng = np.random.default_rng([options.seed, 2])
    finishes = {camera.name: random_finish(rng) for camera in rig.cameras}
    static, maker = town.caster(), PictureMaker(town)
    cameras = {camera.name: _drawn(camera, options.image_scale) for camera in rig.cameras}
    last = max(rig.cameras, key=lambda camera: camera.phase_s) if rig.cameras else None
    schedule = sorted(moments(rig, options), key=lambda moment: moment[0])
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
        if note is not None and sensor is (rig.lidar or last):
            note(caster, stamp_ns, seconds, hits)
        if progress is not None:
            progress(done, len(schedule))


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


def _turning(drive: Drive, seconds: float) -> Callable[[float], Float64]:
    """Poses during the turn that ends at a time."""
    own = drive.rig.lidar.rate_hz if drive.rig.lidar is not None else None
    rate = drive.options.lidar_rate_hz or own or drive.options.rate_hz
    return lambda part: drive.pose(seconds - (1 - part) / rate)
