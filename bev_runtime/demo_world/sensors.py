"""What the sensors of the demo car measure: noisy pictures, and LiDAR sweeps."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.demo_world.render import NO_SOLID, cast
from bev_runtime.demo_world.rigs import DemoLidar
from bev_runtime.demo_world.scene import Surface, World
from bev_runtime.geometry import Float64, invert_rigid

RANGE_NOISE_M = 0.02
DROPOUT = 0.03
NOISE_GREY = 3.0
GRAIN_SHIFT = 128
INTENSITY = np.array([0, 18, 90, 40, 20, 35, 25, 60], np.float32)
"""By `Surface`, 0..255, as nuScenes' LiDAR reports it."""


class Grain:
    """Noise of an image sensor, deviation 3 grey values, drawn once and laid over each frame at
    another place.

    Args:
        size: (width, height) of the largest camera.
        rng: drawn from again for each frame, so that no two frames are alike.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        shape = (size[1] + GRAIN_SHIFT, size[0] + GRAIN_SHIFT, 3)
        self._rng = rng
        self._noise = np.round(rng.standard_normal(shape, np.float32) * NOISE_GREY).astype(np.int16)

    def add(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A noisy copy of a picture uint8 [H, W, 3]."""
        row, column = (int(value) for value in self._rng.integers(GRAIN_SHIFT, size=2))
        noise = self._noise[row : row + rgb.shape[0], column : column + rgb.shape[1]]
        return np.asarray(cv2.add(rgb, noise, dtype=cv2.CV_8U), np.uint8)


def sweep(
    world: World, lidar: DemoLidar, odom_from_base: Float64, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """One turn, as if taken at one moment.

    Returns:
        points float32 [N, 4], x y z in metres and intensity 0..255, LiDAR frame; ring uint16 [N].
    """
    elevation = np.radians(np.array(lidar.elevations_deg))[:, None]
    azimuth = np.linspace(-math.pi, math.pi, lidar.columns, endpoint=False)[None]
    directions = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.broadcast_to(np.sin(elevation), (elevation.size, azimuth.size)),
        ],
        axis=-1,
    )
    odom_from_lidar = odom_from_base @ lidar.ego_from_lidar
    rays = (directions @ odom_from_lidar[:3, :3].T).astype(np.float32)
    origin = odom_from_lidar[:3, 3]
    hits = cast(world, origin, rays, lidar.range_m)
    kept = (hits.distance < lidar.range_m) & (rng.random(hits.distance.shape) > DROPOUT)
    distance = hits.distance[kept].astype(np.float64)
    measured = distance + rng.normal(0, RANGE_NOISE_M, distance.shape)
    points = directions[kept] * measured[:, None]
    met = rays[kept] * distance[:, None] + origin
    surface = world.surface(met[:, 0].astype(np.float32), met[:, 1].astype(np.float32))
    surface[hits.solid[kept] != NO_SOLID] = Surface.SOLID
    spread = rng.normal(1.0, 0.1, distance.shape)
    intensity = np.clip(INTENSITY[surface] * spread, 0, 255)
    ring = np.broadcast_to(np.arange(elevation.size)[:, None], hits.distance.shape)[kept]
    cloud = np.column_stack([points, intensity]).astype(np.float32)
    return cloud, ring.astype(np.uint16)


def twist(before: Float64, after: Float64, seconds: float) -> tuple[float, float]:
    """Forward speed in m/s and yaw rate in rad/s between two poses odom_from_base."""
    moved = invert_rigid(before) @ after
    return float(moved[0, 3]) / seconds, math.atan2(moved[1, 0], moved[0, 0]) / seconds
