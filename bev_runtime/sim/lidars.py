"""What a spinning LiDAR measures: ranges with noise, intensities by material, lost returns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bev_runtime.demo_world.rigs import DemoLidar
from bev_runtime.geometry import Float64
from bev_runtime.sim.caster import GROUND, Caster, Hits
from bev_runtime.sim.materials import DROPOUT, INTENSITY, Material
from bev_runtime.sim.town import Town

Float32 = NDArray[np.float32]
SIGNAL = 40.0
"""Signal to threshold of a surface of intensity 20, straight on, at 30 m; it falls with the square
of the range.
"""
MIN_RANGE_M = 1.0
GLASS_PASSES = 0.7
"""Share of the light that goes on behind a window."""
PANES = 2
BEHIND_GLASS_M = 0.01
POSES_PER_TURN = 36


@dataclass(frozen=True, slots=True)
class Sweep:
    """`points`: float32 [N, 4], x y z in metres and intensity 0..255, LiDAR frame. `ring`: uint16
    [N], 0 = lowest. `owner`: int32 [N], the agent's index, GROUND or SCENERY.
    """

    points: Float32
    ring: NDArray[np.uint16]
    owner: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class LidarNoise:
    """`range_m`: deviation of a range. `dropout`: share of returns lost for no reason.
    `intensity`: relative deviation.
    """

    range_m: float = 0.02
    dropout: float = 0.02
    intensity: float = 0.15


def take_sweep(
    town: Town,
    caster: Caster,
    lidar: DemoLidar,
    town_from_base: Float64 | Callable[[float], Float64],
    rng: np.random.Generator,
    noise: LidarNoise | None = None,
) -> Sweep:
    """One turn.

    Args:
        town: for the paint on the ground.
        caster: what can be met.
        lidar: beams and pose on the vehicle.
        town_from_base: float64 [4, 4], one pose for the whole turn; or a function of the part of
            the turn done (0 to 1), which gives a cloud distorted by the ego motion, as a real
            sensor that is not compensated sends it.
        rng: of noise and dropouts.
        noise: how much.
    """
    noise = noise or LidarNoise()
    elevation = np.radians(np.array(lidar.elevations_deg, np.float32))[:, None]
    azimuth = np.linspace(math.pi, -math.pi, lidar.columns, endpoint=False, dtype=np.float32)[None]
    directions = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.broadcast_to(np.sin(elevation), (elevation.size, azimuth.size)),
        ],
        axis=-1,
    )
    origins, rays = _place(directions, lidar, town_from_base)
    hits = caster.cast(origins.reshape(-1, 3), rays.reshape(-1, 3))
    look_through_glass(caster, hits, origins.reshape(-1, 3), rays.reshape(-1, 3), rng)
    met = np.flatnonzero((hits.face >= 0) & (hits.distance < lidar.range_m))
    distance, face = hits.distance[met], hits.face[met]
    ray = rays.reshape(-1, 3)[met]
    facing = np.abs(np.einsum("ij,ij->i", caster.normal[face], ray))
    owner = caster.owner[face]
    bright = _brightness(town, caster, face, origins.reshape(-1, 3)[met] + distance[:, None] * ray)
    signal = SIGNAL * bright / 20 * np.maximum(facing, 0.02) * (30 / np.maximum(distance, 5)) ** 2
    lost = 1 - (1 - np.exp(-signal)) * (1 - DROPOUT[caster.material[face]]) * (1 - noise.dropout)
    kept = (rng.random(len(met), np.float32) >= lost) & (distance > MIN_RANGE_M)
    met, distance, owner = met[kept], distance[kept], owner[kept]
    measured = distance + noise.range_m * rng.standard_normal(len(met), np.float32)
    spread = 1 + noise.intensity * rng.standard_normal(len(met), np.float32)
    intensity = np.clip(bright[kept] * np.sqrt(facing[kept].clip(0.05)) * spread, 0, 255)
    points = np.empty((len(met), 4), np.float32)
    points[:, :3] = directions.reshape(-1, 3)[met] * measured[:, None]
    points[:, 3] = intensity
    ring = (met // lidar.columns).astype(np.uint16)
    return Sweep(points, ring, owner.astype(np.int32))


def look_through_glass(
    caster: Caster, hits: Hits, origins: Float32, rays: Float32, rng: np.random.Generator
) -> None:
    """Moves most hits on windows of road users to what is met behind them, in place.

    Of the returns from real cars about 30 % come from inside the body outline, through glass.

    Args:
        caster: what can be met.
        hits: of the rays; `distance` and `face` are changed.
        origins: float32 [R, 3], metres.
        rays: float32 [R, 3], unit directions.
        rng: which rays pass.
    """
    for _ in range(PANES):
        met = np.flatnonzero(hits.face >= 0)
        face = hits.face[met]
        glass = (caster.material[face] == Material.GLASS) & (caster.owner[face] >= 0)
        passed = met[glass & (rng.random(len(met), np.float32) < GLASS_PASSES)]
        if not len(passed):
            return
        start = hits.distance[passed] + BEHIND_GLASS_M
        places = origins[passed] + start[:, None] * rays[passed]
        behind = caster.cast(np.ascontiguousarray(places, np.float32), rays[passed])
        hits.distance[passed] = start + behind.distance
        hits.face[passed] = behind.face


def _place(
    directions: Float32, lidar: DemoLidar, town_from_base: Float64 | Callable[[float], Float64]
) -> tuple[Float32, Float32]:
    """Origins and directions of all rays in the town, float32 [beams, columns, 3] each."""
    beams, columns = directions.shape[:2]
    if not callable(town_from_base):
        pose = town_from_base @ lidar.ego_from_lidar
        rays = directions @ pose[:3, :3].T.astype(np.float32)
        origin = np.broadcast_to(pose[:3, 3].astype(np.float32), (beams, columns, 3))
        return np.ascontiguousarray(origin), np.ascontiguousarray(rays, np.float32)
    origins, rays = np.empty_like(directions), np.empty_like(directions)
    edges = np.linspace(0, columns, POSES_PER_TURN + 1).astype(int)
    for first, last in itertools.pairwise(edges):
        pose = town_from_base((first + last) / 2 / columns) @ lidar.ego_from_lidar
        rays[:, first:last] = directions[:, first:last] @ pose[:3, :3].T.astype(np.float32)
        origins[:, first:last] = pose[:3, 3]
    return origins, rays


def _brightness(town: Town, caster: Caster, face: NDArray[np.int32], position: Float32) -> Float32:
    """Mean intensity of what was met, float32 [N]."""
    material = caster.material[face]
    bright = INTENSITY[material].astype(np.float32)
    painted = material == Material.CAR_PAINT
    luminance = caster.colour[face[painted]].mean(axis=1) / 255
    bright[painted] *= 0.25 + 1.4 * luminance
    on_ground = np.flatnonzero(caster.owner[face] == GROUND)
    row, column = town.ground.cells(position[on_ground, 0], position[on_ground, 1])
    bright[on_ground] = INTENSITY[town.ground.kind[row, column]]
    bright[on_ground[town.ground.paint[row, column] > 110]] = INTENSITY[Material.PAINT]
    cells = np.floor(position * 3).astype(np.int32)
    noise = town.noise[(cells[:, 0] + 31 * cells[:, 2]) & 511, cells[:, 1] & 511]
    return np.asarray(bright * np.clip(1 + 0.2 * noise, 0.4, 2.0), np.float32)
