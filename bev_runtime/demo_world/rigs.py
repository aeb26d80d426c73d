"""Rigs of the demo world, described by numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.errors import ConfigError
from bev_runtime.geometry import Float64, rigid, rotation_from_euler
from bev_runtime.types import CameraModel

OPTICAL_FROM_BODY = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
LAST_PHASE_S = 0.043


@dataclass(frozen=True, slots=True)
class DemoCamera:
    """A camera by name. `phase_s`: delay of its stamps behind the rig's tick. `rate_hz`: its own,
    if not that of the recording.
    """

    name: str
    model: CameraModel
    phase_s: float = 0.0
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class DemoLidar:
    """A spinning LiDAR: `elevations_deg` lowest beam first (ring 0), `columns` firings per turn,
    `range_m` its reach.
    """

    name: str = "LIDAR_TOP"
    ego_from_lidar: Float64 = field(
        default_factory=lambda: rigid(rotation_from_euler(0, 0, -math.pi / 2), [0.94, 0.0, 1.84])
    )
    elevations_deg: tuple[float, ...] = tuple(float(e) for e in np.linspace(-30.67, 10.67, 32))
    columns: int = 1080
    range_m: float = 80.0
    phase_s: float = LAST_PHASE_S
    rate_hz: float | None = None


@dataclass(frozen=True, slots=True)
class DemoRig:
    """The sensors of a demo car."""

    cameras: tuple[DemoCamera, ...]
    lidar: DemoLidar | None = None

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras] + ([self.lidar.name] if self.lidar else [])
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"a demo rig has sensors {names}: expected at least one, each with its own name"
            )


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a camera sits and looks in base_link: metres and degrees.

    `yaw_deg` to the left, `pitch_deg` downwards, `roll_deg` clockwise as seen from behind the
    camera.
    """

    position: tuple[float, float, float] = (1.5, 0.0, 1.5)
    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0

    def ego_from_camera(self) -> Float64:
        """float64 [4, 4], optical frame to base_link."""
        angles = (math.radians(a) for a in (self.roll_deg, self.pitch_deg, self.yaw_deg))
        return rigid(rotation_from_euler(*angles) @ OPTICAL_FROM_BODY.T, self.position)


def demo_camera(
    name: str,
    mount: Mount,
    *,
    size: tuple[int, int],
    focal: float,
    distortion: tuple[str, Sequence[float]] = ("none", ()),
    phase_s: float = 0.0,
) -> DemoCamera:
    """Any camera, with its principal point in the middle.

    Args:
        name: of the sensor, its topics and its frame.
        mount: where it sits and looks.
        size: (width, height) in pixels.
        focal: focal length in pixels.
        distortion: model (`none`, `plumb_bob`, `rational_polynomial`, `equidistant`) and
            coefficients as in CameraInfo.
        phase_s: delay of its stamps behind the rig's tick.

    Raises:
        CalibrationError: the numbers describe no lens.
    """
    k = [[focal, 0.0, (size[0] - 1) / 2], [0.0, focal, (size[1] - 1) / 2], [0.0, 0.0, 1.0]]
    lens = make_distortion(distortion[0], list(distortion[1]) or [0.0])
    return DemoCamera(name, make_camera(k, lens, size, mount.ego_from_camera()), phase_s)


def nuscenes_like_rig(size: tuple[int, int] = (1600, 900), *, lidar: bool = True) -> DemoRig:
    """Six cameras around the car and a LiDAR on the roof, laid out as on the nuScenes vehicles."""
    layout = (
        ("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55.0, 1260.0),
        ("CAM_FRONT", (1.70, 0.0, 1.51), 0.0, 1260.0),
        ("CAM_FRONT_RIGHT", (1.55, -0.49, 1.50), -55.0, 1260.0),
        ("CAM_BACK_RIGHT", (1.02, -0.48, 1.56), -108.0, 1260.0),
        ("CAM_BACK", (0.03, 0.0, 1.58), 180.0, 805.0),
        ("CAM_BACK_LEFT", (1.04, 0.48, 1.59), 108.0, 1260.0),
    )
    cameras = tuple(
        demo_camera(
            name,
            Mount(position, yaw),
            size=size,
            focal=focal * size[0] / 1600,
            phase_s=0.008 * index,
        )
        for index, (name, position, yaw, focal) in enumerate(layout)
    )
    return DemoRig(cameras, DemoLidar() if lidar else None)
