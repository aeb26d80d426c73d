"""Made-up moments on made-up rigs, to run a package on: no recording is needed.

Two rigs that differ in number, place, direction and lenses of their cameras, and pictures, clouds
and radar volumes that follow from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.geometry import Float64, rigid, rotation_from_euler
from bev_runtime.manifest import Manifest, Voxels
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import Calibration, CameraFrame, CameraModel, PointCloud, Snapshot

LIDAR = "LIDAR_TOP"
START_NS = 1_700_000_000_000_000_000
SPEED, TURN = 4.0, 0.06
"""Of the vehicle: m/s, rad/s."""
POINTS = 20_000
_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
_NAMES = ("FRONT", "FRONT_LEFT", "BACK_LEFT", "BACK", "BACK_RIGHT", "FRONT_RIGHT")


@dataclass(frozen=True, slots=True)
class _Layout:
    """A rig: `yaws` in radians, focal length as a share of the width, mounting height in metres."""

    yaws: tuple[float, ...]
    size: tuple[int, int]
    focal: float
    height: float
    ahead: float
    pitch: float


LAYOUTS = (
    _Layout((0.0, 0.96, 1.92, 3.14, -1.92, -0.96), (640, 360), 0.79, 1.5, 1.5, 0.0),
    _Layout((0.03, 1.2, 2.5, -2.5, -1.2), (640, 400), 0.62, 1.95, 1.9, 0.05),
)
"""A car like those of published data, and a taller shuttle with five wider cameras."""


@dataclass(frozen=True, slots=True)
class SceneSpec:
    """Which scene to make, and what to change in it.

    `layout`: index of LAYOUTS. `seed`: of everything. `other_images`: all pictures are others.
    `camera_shift`: metres by which every camera is said to be mounted further left.
    `cloud_shift`: metres by which the cloud is moved to the left. `cameras_only`: there is no
    cloud.
    """

    layout: int
    seed: int
    other_images: bool = False
    camera_shift: float = 0.0
    cloud_shift: float = 0.0
    cameras_only: bool = False

    @property
    def name(self) -> str:
        """`rig 0, inputs 0`."""
        return f"rig {self.layout}, inputs {self.seed}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Moments of a drive, the last of which counts; those before fill a temporal memory.

    `radar`: the volume that a model with radar reads at each moment. `missing`: sensors that the
    model would take, and why they are not there.
    """

    rig: Rig
    calibration: Calibration
    snapshots: tuple[Snapshot, ...]
    transforms: TransformTree
    radar: NDArray[np.float32] | None
    missing: Mapping[str, str]


def make_scene(manifest: Manifest, spec: SceneSpec) -> Scene:
    """A scene for a model: its cameras by name, as many as it takes and the rig has."""
    layout = LAYOUTS[spec.layout]
    names = camera_names(manifest, len(layout.yaws)) if manifest.cameras is not None else ()
    has_cloud = manifest.lidar is not None and not spec.cameras_only
    lidar = {"name": LIDAR, "topic": "/points"} if manifest.lidar is not None else None
    rig = Rig.model_validate(
        {"cameras": {name: {"topic": f"/{name}/image"} for name in names}, "lidar": lidar}
    )
    cameras = {name: _camera(layout, i, spec.camera_shift) for i, name in enumerate(names)}
    ego_from_lidar = rigid(np.eye(3), [0.9, 0.0, layout.height + 0.35])
    temporal = manifest.temporal
    count, interval_s = (1, 0.0) if temporal is None else (temporal.frames, temporal.interval_s)
    stamps = [START_NS + round(i * interval_s * 1e9) for i in range(count)]
    transforms = TransformTree()
    for stamp in stamps:
        pose = _pose((stamp - START_NS) / 1e9)
        transforms.add_dynamic(rig.fixed_frame or "odom", rig.base_frame, stamp, pose)
    seed = spec.seed + 1000 * spec.other_images
    snapshots = tuple(
        _snapshot(names, layout, (seed, spec.seed, i), stamp, has_cloud, spec.cloud_shift)
        for i, stamp in enumerate(stamps)
    )
    calibration = Calibration(cameras, ego_from_lidar if lidar else None)
    missing = {LIDAR: "left out"} if lidar and not has_cloud else {}
    return Scene(rig, calibration, snapshots, transforms, _radar(manifest, spec.seed), missing)


def camera_names(manifest: Manifest, wanted: int) -> tuple[str, ...]:
    """Names of cameras that a model takes, the one that looks ahead first."""
    cameras, view = manifest.cameras, manifest.view_transform
    if cameras is None:
        return ()
    if cameras.names != "any":
        return tuple(cameras.names)[:wanted]
    names = [f"CAM_{name}" for name in _NAMES[: min(wanted, cameras.max)]]
    if isinstance(view, Voxels):
        names = [view.reference_camera, *(n for n in names[1:] if n != view.reference_camera)]
    return tuple(names)


def _camera(layout: _Layout, index: int, shift: float) -> CameraModel:
    yaw = layout.yaws[index]
    width, height = layout.size
    focal = width * layout.focal * (1 + 0.03 * index)
    centre = ((width - 1) / 2 + 3 * index, (height - 1) / 2 - 2 * index)
    intrinsics = np.array([[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    place = [layout.ahead * np.cos(yaw), 0.8 * np.sin(yaw) + shift, layout.height]
    rotation = rotation_from_euler(0.0, layout.pitch, yaw) @ _OPTICAL
    return make_camera(intrinsics, make_distortion("none", []), layout.size, rigid(rotation, place))


def _pose(seconds: float) -> Float64:
    yaw = 0.3 + TURN * seconds
    return rigid(rotation_from_euler(0.0, 0.0, yaw), [20 + SPEED * seconds, -5.0, 0.0])


def _snapshot(
    names: tuple[str, ...],
    layout: _Layout,
    seeds: tuple[int, int, int],
    stamp_ns: int,
    has_lidar: bool,
    cloud_shift: float,
) -> Snapshot:
    image_seed, seed, moment = seeds
    frames = {}
    for i, name in enumerate(names):
        rng = np.random.default_rng([image_seed, moment, i])
        frames[name] = CameraFrame.from_rgb(name, stamp_ns, make_picture(rng, layout.size))
    cloud = None
    if has_lidar:
        points = make_cloud(np.random.default_rng([seed, moment, 99]), layout.height + 0.35)
        points[:, 1] += np.float32(cloud_shift)
        cloud = PointCloud(LIDAR, stamp_ns, points)
    return Snapshot(stamp_ns, frames, cloud)


def make_picture(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """uint8 [H, W, 3]: soft shapes, hard edges and noise, as different as two photographs are."""
    width, height = size
    picture = np.zeros((height, width, 3), np.float32)
    for cells, interpolation in ((5, cv2.INTER_CUBIC), (24, cv2.INTER_NEAREST)):
        shape = (max(2, cells * height // width), cells, 3)
        shades = rng.uniform(0, 128, shape).astype(np.float32)
        picture += cv2.resize(shades, size, interpolation=interpolation)
    picture += rng.normal(0, 8, picture.shape).astype(np.float32)
    out: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return out


def make_cloud(rng: np.random.Generator, height: float) -> NDArray[np.float32]:
    """float32 [POINTS, 4] in the LiDAR's frame: flat ground below it, and thirty boxes."""
    points: NDArray[np.float32] = np.empty((POINTS, 4), np.float32)
    ground = POINTS // 2
    distance = rng.uniform(2.5, 45, ground)
    angle = rng.uniform(-np.pi, np.pi, ground)
    points[:ground, 0] = distance * np.cos(angle)
    points[:ground, 1] = distance * np.sin(angle)
    points[:ground, 2] = rng.normal(-height, 0.03, ground)
    centres = rng.uniform(-40, 40, (30, 2))
    chosen = rng.integers(0, len(centres), POINTS - ground)
    points[ground:, :2] = centres[chosen] + rng.uniform(-1, 1, (POINTS - ground, 2)) * (2.2, 0.9)
    points[ground:, 2] = rng.uniform(-height, 1.6 - height, POINTS - ground)
    points[:, 3] = rng.uniform(0, 255, POINTS)
    return points


def _radar(manifest: Manifest, seed: int) -> NDArray[np.float32] | None:
    """A sparse volume float32 [1, channels, forward, down, right]."""
    spec, view = manifest.radar, manifest.view_transform
    if spec is None or not isinstance(view, Voxels):
        return None
    cells = (view.forward.cells, view.down.cells, view.right.cells)
    rng = np.random.default_rng([seed, 77])
    volume: NDArray[Any] = np.zeros((1, len(spec.channels), *cells), np.float32)
    hit = rng.random(cells) < 2e-3
    volume[0, :, hit] = rng.normal(0, 2, (int(hit.sum()), len(spec.channels)))
    return volume
