"""Casts rays into the demo world and paints what they meet: camera pictures, label images and LiDAR
sweeps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import project, scale_camera, unproject
from bev_runtime.demo_world.paint import paint_ground, paint_sky, paint_solid
from bev_runtime.demo_world.scene import Float32, Solid, Surface, World
from bev_runtime.geometry import Float64, pixel_scaling
from bev_runtime.types import CameraModel

MAX_RANGE = 160.0
GROUND_RANGE = 640.0
HAZE_DISTANCE = 260.0
HAZE = np.array([206, 212, 217], np.float32)
CULL_STEP = 8
NO_SOLID = -1


@dataclass(frozen=True, slots=True)
class Hits:
    """What each ray of a [H, W] grid meets: `distance` float32 along unit rays (inf: nothing),
    `solid` int16, -1: none.
    """

    distance: Float32
    solid: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Labels:
    """What each pixel shows: `surface` uint8 [H, W] (`Surface`), `solid` int16 [H, W], index into
    the world or -1.
    """

    surface: NDArray[np.uint8]
    solid: NDArray[np.int16]


def enter_distance(solid: Solid, origin: Float64, rays: Float32) -> Float32:
    """Distance along rays [..., 3] to where they enter a solid, inf where they miss or start
    inside.
    """
    c, s = math.cos(solid.yaw), math.sin(solid.yaw)
    offset = origin - solid.centre
    start = (c * offset[0] + s * offset[1], c * offset[1] - s * offset[0], offset[2])
    x, y = rays[..., 0], rays[..., 1]
    direction = (
        np.float32(c) * x + np.float32(s) * y,
        np.float32(c) * y - np.float32(s) * x,
        rays[..., 2],
    )
    if solid.ellipsoid:
        scaled = [part / np.float32(half) for part, half in zip(direction, solid.half, strict=True)]
        begin = [part / half for part, half in zip(start, solid.half, strict=True)]
        a = scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2
        b = sum(np.float32(p) * q for p, q in zip(begin, scaled, strict=True))
        root = b * b - a * np.float32(sum(p * p for p in begin) - 1)
        near = (-b - np.sqrt(np.maximum(root, 0))) / a
        return np.asarray(np.where((root > 0) & (near > 0.05), near, np.inf), np.float32)
    near = np.full(x.shape, 0.05, np.float32)
    far = np.full(x.shape, np.inf, np.float32)
    for axis in range(3):
        inverse = 1 / np.where(np.abs(direction[axis]) < 1e-7, np.float32(1e-7), direction[axis])
        middle, reach = (
            np.float32(-start[axis]) * inverse,
            np.float32(solid.half[axis]) * np.abs(inverse),
        )
        near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
    return np.asarray(np.where((near < far) & (near > 0.05), near, np.inf), np.float32)


def _windows(
    solids: list[tuple[int, Solid]], origin: Float64, rays: Float32
) -> Iterator[tuple[int, Solid, tuple[slice, slice]]]:
    """The solids that rays [H, W, 3] may meet, nearest first, with the part of the ray grid that
    may meet them; found on every eighth ray by the angle to the sphere around a solid.
    """
    coarse = rays[::CULL_STEP, ::CULL_STEP]
    steps = [np.nan_to_num(np.linalg.norm(np.diff(coarse, axis=axis), axis=-1)) for axis in (0, 1)]
    margin = 1.5 * max((float(step.max()) for step in steps if step.size), default=math.pi)
    coarse = np.nan_to_num(coarse)
    to_centre = np.array([solid.centre for _, solid in solids]).reshape(-1, 3) - origin
    distance = np.maximum(np.linalg.norm(to_centre, axis=1), 1e-6)
    radius = np.array([solid.radius for _, solid in solids])
    angle = np.minimum(np.arcsin(np.minimum(radius / distance, 1.0)) + margin, math.pi)
    angle[radius >= distance] = math.pi
    directions = (to_centre / distance[:, None]).astype(np.float32)
    cosine = sum(directions[:, i, None, None] * coarse[None, ..., i] for i in range(3))
    inside = cosine >= np.cos(angle)[:, None, None].astype(np.float32)
    in_rows, in_columns = inside.any(axis=2), inside.any(axis=1)
    for position in np.argsort(distance - radius):
        rows, columns = np.flatnonzero(in_rows[position]), np.flatnonzero(in_columns[position])
        if rows.size:
            top, left = max(rows[0] - 1, 0) * CULL_STEP, max(columns[0] - 1, 0) * CULL_STEP
            bottom, right = (rows[-1] + 2) * CULL_STEP, (columns[-1] + 2) * CULL_STEP
            yield *solids[position], (slice(top, bottom), slice(left, right))


def cast(world: World, origin: Float64, rays: Float32, reach: float = MAX_RANGE) -> Hits:
    """Casts unit rays float32 [H, W, 3] (frame `odom`; NaN: no ray) from one origin float64 [3];
    solids further away than `reach` metres are left out.
    """
    down = rays[..., 2] < -1e-4
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(down, np.float32(-origin[2]) / rays[..., 2], np.float32(np.inf))
    distance[distance > GROUND_RANGE] = np.inf
    found = np.full(distance.shape, NO_SOLID, np.int16)
    for index, solid, window in _windows(world.near(origin[0], origin[1], reach), origin, rays):
        nearest = float(np.linalg.norm(np.asarray(solid.centre) - origin)) - solid.radius
        if nearest < distance[window].max():
            enter = enter_distance(solid, origin, rays[window])
            nearer = enter < distance[window]
            np.copyto(distance[window], enter, where=nearer)
            found[window][nearer] = index
    return Hits(distance, found)


class CameraRenderer:
    """Renders one camera; the rays through its pixels are computed once.

    Args:
        camera: any supported lens and pose.
        scale: internal resolution over the camera's; the picture is enlarged to the camera's size
            at the end.
    """

    def __init__(self, camera: CameraModel, scale: float = 1.0) -> None:
        width, height = camera.size
        inner = (max(round(width * scale), 1), max(round(height * scale), 1))
        scaled = scale_camera(camera, pixel_scaling(inner[0] / width, inner[1] / height), inner)
        self._size = camera.size
        self._ego_from_camera = camera.ego_from_camera
        self._pixel_angle = float(1 / scaled.intrinsics[0, 0])
        u, v = np.meshgrid(
            np.arange(inner[0], dtype=np.float64), np.arange(inner[1], dtype=np.float64)
        )
        pixels = np.stack([u.ravel(), v.ravel()], axis=1)
        rays = unproject(scaled, pixels)
        again, _ = project(scaled, np.nan_to_num(rays, nan=1.0), min_depth=1e-9)
        seen = np.isfinite(rays).all(axis=1) & (np.abs(again - pixels).max(axis=1) < 0.05)
        rays = np.where(seen[:, None], rays / np.linalg.norm(rays, axis=1, keepdims=True), np.nan)
        self._rays = (
            (rays @ camera.ego_from_camera[:3, :3].T)
            .astype(np.float32)
            .reshape(inner[1], inner[0], 3)
        )
        self._seen = seen.reshape(inner[1], inner[0])
        radius = np.hypot((u - inner[0] / 2) / inner[0], (v - inner[1] / 2) / inner[0])
        self._vignette = (1 - 0.35 * radius**2).astype(np.float32)[..., None]
        self._vignette[~self._seen] = 0

    def render(self, world: World, odom_from_base: Float64) -> NDArray[np.uint8]:
        """The picture without sensor noise, RGB uint8 [H, W, 3]; black outside the lens' view."""
        rays, origin, hits = self._cast(world, odom_from_base)
        distance, solid = hits.distance.reshape(-1), hits.solid.reshape(-1)
        rgb = np.zeros(rays.shape, np.float32)
        nothing = np.flatnonzero(~np.isfinite(distance) & self._seen.reshape(-1))
        rgb[nothing] = paint_sky(world, np.take(rays, nothing, axis=0), HAZE)
        order = np.argsort(solid, kind="stable")
        borders = np.flatnonzero(np.diff(solid[order])) + 1
        for pixels in np.split(order, borders):
            index = int(solid[pixels[0]])
            if index == NO_SOLID:
                pixels = pixels[np.isfinite(distance[pixels])]
            reach = distance[pixels]
            points = np.take(rays, pixels, axis=0) * reach[:, None] + origin.astype(np.float32)
            if index == NO_SOLID:
                colour = paint_ground(world, points, origin, self._pixel_angle)
            else:
                colour = paint_solid(
                    world, world.solids[index], points, reach * np.float32(self._pixel_angle)
                )
            clear = np.exp(reach / np.float32(-HAZE_DISTANCE))[:, None]
            rgb[pixels] = HAZE + (colour - HAZE) * clear
        rgb = rgb.reshape(*hits.solid.shape, 3)
        rgb *= self._vignette
        small = cv2.convertScaleAbs(rgb)
        if hits.solid.shape[::-1] != self._size:
            small = cv2.resize(small, self._size, interpolation=cv2.INTER_CUBIC)
        return np.asarray(small, np.uint8)

    def labels(self, world: World, odom_from_base: Float64) -> Labels:
        """What the same picture shows, pixel by pixel."""
        rays, origin, hits = self._cast(world, odom_from_base)
        surface = np.full(hits.solid.shape, Surface.SOLID, np.uint8)
        surface[~self._seen | ~np.isfinite(hits.distance)] = Surface.NOTHING
        ground = np.isfinite(hits.distance) & (hits.solid == NO_SOLID)
        points = rays.reshape(*hits.solid.shape, 3)[ground] * hits.distance[ground][:, None]
        points += origin.astype(np.float32)
        surface[ground] = world.surface(points[:, 0], points[:, 1])
        images = [
            cv2.resize(image, self._size, interpolation=cv2.INTER_NEAREST)
            for image in (surface, hits.solid)
        ]
        return Labels(images[0].astype(np.uint8), images[1].astype(np.int16))

    def _cast(self, world: World, odom_from_base: Float64) -> tuple[Float32, Float64, Hits]:
        """Rays float32 [H W, 3] and their origin in `odom`, and what they meet."""
        rays = np.asarray(cv2.transform(self._rays, odom_from_base[:3, :3]), np.float32)
        origin = (odom_from_base @ self._ego_from_camera)[:3, 3]
        return rays.reshape(-1, 3), origin, cast(world, origin, rays)
