"""Drives a demo car along the road of a world and records its sensors as a ROS 2 bag."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_runtime.demo_world.recorder import Recorder
from bev_runtime.demo_world.render import CameraRenderer
from bev_runtime.demo_world.rigs import DemoCamera, DemoLidar, DemoRig
from bev_runtime.demo_world.scene import World
from bev_runtime.demo_world.sensors import Grain, sweep, twist
from bev_runtime.errors import BagError, ConfigError
from bev_runtime.geometry import Float64
from bev_runtime.types import BevGrid

POSE_HZ = 100.0
POSE_MARGIN_S = 0.1
STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
TRUTH_FILE = "truth.npz"
TRUTH_LAYERS = ("drivable_area", "lane")


@dataclass(frozen=True, slots=True)
class BagOptions:
    """How to drive and record.

    `start_x`, `speed_mps`: along the road's x axis. `rate_hz`: of the rig's ticks; each sensor is
    `phase_s` behind. `lidar_rate_hz`: the LiDAR's own rate, by default that of the ticks.
    `image_scale`: internal resolution of the renderer over the cameras'. `compressed`: JPEG, else
    raw rgb8. `latency_s`: bag time minus stamp, of every message. `truth_grid`: also write the
    ground truth over this grid into the bag's folder; see `load_truth`.
    """

    duration_s: float = 4.0
    rate_hz: float = 12.0
    lidar_rate_hz: float | None = None
    start_x: float = 0.0
    speed_mps: float = 8.0
    image_scale: float = 0.5
    jpeg_quality: int = 85
    compressed: bool = True
    latency_s: float = 0.0
    start_ns: int = 1_700_000_000_000_000_000
    storage: str = "mcap"
    seed: int = 0
    truth_grid: BevGrid | None = None

    def __post_init__(self) -> None:
        for name in ("duration_s", "rate_hz", "lidar_rate_hz", "image_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < np.inf:
                raise ConfigError(f"{name} is {value}, expected a number above 0")
        if self.storage not in STORAGE:
            raise ConfigError(f"storage is '{self.storage}', expected one of {', '.join(STORAGE)}")


@dataclass(frozen=True, slots=True)
class Truth:
    """The true map at the stamps of a bag's LiDAR, or of the last camera of each tick where there
    is no LiDAR.

    `stamps_ns`: int64 [T]. `maps`: bool [T, 2, rows, columns], drivable area and lane lines over
    `grid` in base_link. `odom_from_base`: float64 [T, 4, 4].
    """

    grid: BevGrid
    stamps_ns: NDArray[np.int64]
    maps: NDArray[np.bool_]
    odom_from_base: Float64
    layers: tuple[str, ...] = TRUTH_LAYERS


def write_bag(
    path: Path,
    rig: DemoRig,
    world: World,
    options: BagOptions | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Records a drive along the middle lane.

    Args:
        path: the rosbag2 folder to make; its parents are made too.
        rig: the car's sensors.
        world: where it drives.
        options: how to drive and record.
        progress: called with (moments done, moments in all).

    Returns:
        `path`.

    Raises:
        BagError: `path` exists.
    """
    options = options or BagOptions()
    path = Path(path)
    if path.exists():
        raise BagError(f"bag folder {path} exists already: give another path, or remove it first")
    renderers = {c.name: CameraRenderer(c.model, options.image_scale) for c in rig.cameras}
    rng = np.random.default_rng(options.seed)
    sizes = [camera.model.size for camera in rig.cameras] or [(1, 1)]
    grain = Grain((max(w for w, _ in sizes), max(h for _, h in sizes)), rng)
    last = max(rig.cameras, key=lambda camera: camera.phase_s) if rig.cameras else None
    witness = rig.lidar or last
    truth: list[tuple[int, NDArray[np.bool_], Float64]] = []

    def pose_at(seconds: float) -> Float64:
        return world.road.pose(options.start_x + options.speed_mps * seconds)

    schedule = sorted(moments(rig, options), key=lambda moment: moment[0])
    with Writer(path, version=8, storage_plugin=STORAGE[options.storage]) as writer:
        recorder = Recorder(writer, round(options.latency_s * 1e9))
        recorder.static_transforms(options.start_ns + round(schedule[0][0] * 1e9), rig)
        for done, (seconds, sensor) in enumerate(schedule, 1):
            stamp_ns, pose = options.start_ns + round(seconds * 1e9), pose_at(seconds)
            if sensor is None:
                ahead = pose_at(seconds + 1 / POSE_HZ)
                recorder.pose(stamp_ns, pose, twist(pose, ahead, 1 / POSE_HZ))
            elif isinstance(sensor, DemoLidar):
                recorder.cloud(stamp_ns, sensor.name, *sweep(world, sensor, pose, rng))
            else:
                rgb = grain.add(renderers[sensor.name].render(world, pose))
                recorder.camera_info(stamp_ns, sensor)
                if options.compressed:
                    recorder.jpeg(stamp_ns, sensor.name, rgb, options.jpeg_quality)
                else:
                    recorder.raw(stamp_ns, sensor.name, rgb)
            if options.truth_grid is not None and sensor is not None and sensor is witness:
                truth.append((stamp_ns, world.truth(options.truth_grid, pose), pose))
            if progress is not None:
                progress(done, len(schedule))
    if options.truth_grid is not None:
        write_truth(path / TRUTH_FILE, options.truth_grid, truth)
    return path


def moments(
    rig: DemoRig, options: BagOptions
) -> Iterator[tuple[float, DemoCamera | DemoLidar | None]]:
    """(time in seconds, the sensor that measures, or None for an ego pose); poses go beyond both
    ends.
    """
    end = options.duration_s + 2 * POSE_MARGIN_S
    for i in range(round(end * POSE_HZ) + 1):
        yield i / POSE_HZ - POSE_MARGIN_S, None
    for camera in rig.cameras:
        rate = camera.rate_hz or options.rate_hz
        for i in range(round(options.duration_s * rate)):
            yield i / rate + camera.phase_s, camera
    if rig.lidar is not None:
        rate = options.lidar_rate_hz or rig.lidar.rate_hz or options.rate_hz
        for i in range(round(options.duration_s * rate)):
            yield i / rate + rig.lidar.phase_s, rig.lidar


def write_truth(
    path: Path,
    grid: BevGrid,
    rows: Sequence[tuple[int, NDArray[np.bool_], Float64]],
    layers: Sequence[str] = TRUTH_LAYERS,
    **more: Any,  # noqa: ANN401 (numpy types its own options the same way)
) -> None:
    """Writes the true maps of a bag.

    Args:
        path: the file.
        grid: in base_link.
        rows: stamp in ns, bool [L, rows, columns] and odom_from_base float64 [4, 4] of each moment.
        layers: their L names.
        more: further arrays of one entry per moment, by name.
    """
    np.savez_compressed(
        path,
        stamps=np.array([row[0] for row in rows], np.int64),
        truth=np.array([row[1] for row in rows], np.bool_),
        odom_from_base=np.array([row[2] for row in rows]),
        layers=np.array(layers),
        grid=np.array([grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell]),
        **more,
    )


def load_truth(bag: Path) -> Truth:
    """Reads the ground truth that `write_bag` left in a bag's folder.

    Raises:
        BagError: there is none.
    """
    path = Path(bag) / TRUTH_FILE
    if not path.is_file():
        raise BagError(f"{path} does not exist: write the bag with a truth_grid")
    with np.load(path) as file:
        grid = BevGrid(*(float(value) for value in file["grid"]))
        layers = tuple(str(layer) for layer in file["layers"])
        return Truth(grid, file["stamps"], file["truth"], file["odom_from_base"], layers)
