"""Rigs and LiDARs of the simulator, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from bev_runtime.demo_world.rigs import (
    LAST_PHASE_S,
    DemoCamera,
    DemoLidar,
    DemoRig,
    Mount,
    demo_camera,
    nuscenes_like_rig,
)
from bev_runtime.errors import ConfigError
from bev_runtime.geometry import rigid
from bev_runtime.rig import Rig


def shuttle_rig(size: tuple[int, int] = (1280, 800)) -> DemoRig:
    """Five wider cameras and a LiDAR on a taller vehicle: a rig that no training sample has."""
    layout = (
        ("front", (2.1, 0.0, 1.95), 0.0, 900.0),
        ("front_left", (1.8, 0.75, 1.9), 68.0, 760.0),
        ("front_right", (1.8, -0.75, 1.9), -68.0, 760.0),
        ("rear_left", (-0.6, 0.75, 1.9), 142.0, 760.0),
        ("rear_right", (-0.6, -0.75, 1.9), -142.0, 760.0),
    )
    cameras = tuple(
        demo_camera(
            name,
            Mount(position, yaw, pitch_deg=3.0),
            size=size,
            focal=focal * size[0] / 1280,
            phase_s=0.006 * index,
        )
        for index, (name, position, yaw, focal) in enumerate(layout)
    )
    place = rigid(np.eye(3), [0.6, 0.0, 2.25])
    lidar = DemoLidar("lidar", place, LIDARS["beams40"].elevations_deg, 1200)
    return DemoRig(cameras, lidar)


def rig_of(config: Rig, lidar: str = "beams32") -> DemoRig:
    """The sensors of a rig file, to be simulated.

    Cameras are exposed one after the other within 43 ms, in the file's order, and the LiDAR's turn
    ends with the last.

    Args:
        config: each camera needs `calibration` with `base_from_camera`, a LiDAR `base_from_lidar`.
        lidar: beam layout, a name in LIDARS.

    Raises:
        ConfigError: a calibration is missing, or unknown beams.
    """
    if lidar not in LIDARS:
        raise ConfigError(f"LiDAR '{lidar}' is unknown, expected one of: {', '.join(LIDARS)}")
    cameras = []
    for index, (name, camera) in enumerate(config.cameras.items()):
        given = camera.calibration
        if given is None or given.base_from_camera is None:
            raise ConfigError(
                f"camera '{name}' has no calibration with base_from_camera in the rig file: the "
                "simulator must know where it is and what it sees"
            )
        phase_s = LAST_PHASE_S * index / max(len(config.cameras) - 1, 1)
        model = given.camera_model(given.base_from_camera.matrix())
        cameras.append(DemoCamera(name, model, phase_s, camera.rate_hz))
    if config.lidar is None:
        return DemoRig(tuple(cameras))
    if config.lidar.base_from_lidar is None:
        raise ConfigError(
            f"LiDAR '{config.lidar.name}' has no base_from_lidar in the rig file: the simulator "
            "must know where it is"
        )
    beams = replace(
        LIDARS[lidar],
        name=config.lidar.name,
        ego_from_lidar=config.lidar.base_from_lidar.matrix(),
        rate_hz=config.lidar.rate_hz,
    )
    return DemoRig(tuple(cameras), beams)


def random_rig(rng: np.random.Generator) -> DemoRig:
    """Four to six cameras around a vehicle, of any make, and a LiDAR on its roof."""
    count = int(rng.integers(4, 7))
    sizes = ((1600, 900), (1280, 800), (1920, 1080), (1280, 720), (1440, 928))
    size = sizes[int(rng.integers(len(sizes)))]
    height, start = float(rng.uniform(1.2, 2.4)), float(rng.choice([0.0, 180.0 / count]))
    cameras = []
    for index in range(count):
        yaw = start + index * 360 / count + float(rng.normal(0, 6))
        view = math.radians(float(rng.uniform(58, 100)))
        place = (
            1.0 + 1.0 * math.cos(math.radians(yaw)) + float(rng.normal(0, 0.1)),
            0.7 * math.sin(math.radians(yaw)),
            height + float(rng.normal(0, 0.1)),
        )
        mount = Mount(place, yaw, pitch_deg=float(rng.uniform(-2, 8)))
        focal = size[0] / 2 / math.tan(view / 2)
        cameras.append(demo_camera(f"camera_{index}", mount, size=size, focal=focal))
    return DemoRig(tuple(cameras), LIDARS["beams32"])


LIDARS: Mapping[str, DemoLidar] = {
    "beams32": DemoLidar(),
    "beams64": DemoLidar(
        elevations_deg=tuple(float(e) for e in np.linspace(-24.8, 2.0, 64)), columns=1400
    ),
    "beams40": DemoLidar(
        elevations_deg=tuple(
            float(e)
            for e in np.concatenate(
                [np.linspace(-25, -6, 12), np.linspace(-5.7, 2, 24), [4, 7, 11, 15]]
            )
        ),
        columns=1200,
    ),
    "stacked64": DemoLidar(
        elevations_deg=tuple(
            float(e)
            for e in np.sort(np.concatenate([np.linspace(-25, 15, 14), np.linspace(-8.8, 3.3, 50)]))
        ),
        columns=1100,
    ),
    "beams16": DemoLidar(
        elevations_deg=tuple(float(e) for e in np.linspace(-15, 15, 16)), columns=1800
    ),
    "beams128": DemoLidar(
        elevations_deg=tuple(float(e) for e in np.linspace(-25, 15, 100)), columns=1000
    ),
}
"""Beam layouts: lowest beam first."""

RIGS: Mapping[str, Callable[[], DemoRig]] = {
    "nuscenes": nuscenes_like_rig,
    "shuttle": shuttle_rig,
}
