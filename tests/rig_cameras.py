"""Cameras around a vehicle, and table builds with and without the native library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import pytest

from bev_runtime import native
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.types import BevGrid, CameraModel
from bev_runtime.view_transform import GroundSampler

Built = TypeVar("Built")
BODY_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
LENSES = {
    "none": make_distortion("none", []),
    "plumb_bob": make_distortion("plumb_bob", [-0.32, 0.12, 0.003, -0.002, -0.02]),
    "rational": make_distortion(
        "rational_polynomial", [0.5, 0.1, 1e-3, -1e-3, 0.02, 0.8, 0.2, 0.03]
    ),
    "fisheye": make_distortion("equidistant", [-0.02, 0.004, -0.001, 0.0001]),
}
SIZE = (64, 36)
GRID = BevGrid(-30, 30, -24, 24, 1.0)
POINTS = np.zeros((*GRID.shape, 3), np.float32)
POINTS[..., :2] = GRID.centres()
FIELDS = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")


def camera(
    yaw: float,
    lens: str = "none",
    *,
    pitch: float = 0.1,
    roll: float = 0.0,
    focal: float = 0.6,
    position: tuple[float, float, float] = (1.0, 0.2, 1.6),
    size: tuple[int, int] = SIZE,
) -> CameraModel:
    width, height = size
    k = [[focal * width, 0, width / 2 - 0.2], [0, focal * width, height / 2 - 0.7], [0, 0, 1]]
    rotation = rotation_from_euler(roll, pitch, yaw) @ BODY_FROM_OPTICAL
    return make_camera(k, LENSES[lens], size, rigid(rotation, position))


def ring(lens: str = "none", count: int = 6, **options: float) -> list[CameraModel]:
    return [camera(2 * math.pi * i / count, lens, roll=0.02 * i, **options) for i in range(count)]


def poses(cameras: list[CameraModel]) -> list[np.ndarray]:
    return [each.ego_from_camera for each in cameras]


needs_native = pytest.mark.skipif(not native.available(), reason="the native kernels are not built")


@contextmanager
def without_library() -> Iterator[None]:
    """Hides the native library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "load", lambda: None)
        yield


def both(build: Callable[[], Built]) -> Iterator[Built]:
    """What it builds with the library (where there is one), and without."""
    if native.available():
        yield build()
    with without_library():
        yield build()


def sampled(
    cameras: list[CameraModel], points: np.ndarray = POINTS, **limits: float
) -> BevPoolTable:
    sampler = GroundSampler(points, cameras[0].size, max(len(cameras), 1), **limits)
    table = sampler.make_table()
    sampler.build(cameras, poses(cameras), table)
    return table
