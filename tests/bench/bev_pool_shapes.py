"""The pooling problems that bench_bev_pool_gpu.py times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from bench_bev_pool import rig

from bev_runtime.types import BevGrid
from bev_runtime.view_transform import LiftSplatter

STRIDE = 16
"""Image pixels per pixel of the features."""
GRID = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)


@dataclass(frozen=True)
class Shape:
    """A pooling problem: image pixels, depth bins, channels, cameras and type."""

    width: int
    height: int
    depths: int
    channels: int
    cameras: int
    dtype: str

    @property
    def name(self) -> str:
        """Short and unique."""
        image = f"{self.height}x{self.width}"
        return f"{image}_D{self.depths}_C{self.channels}_N{self.cameras}_{self.dtype}"


@dataclass
class Problem:
    """Arrays of one shape on the host, in the order of the operator's inputs."""

    shape: Shape
    depth: np.ndarray
    feat: np.ndarray
    ranks: list[np.ndarray]
    cells: int = GRID.rows * GRID.columns
    compulsory_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        arrays = (self.depth, self.feat, *self.ranks)
        output = self.cells * self.shape.channels * self.feat.itemsize
        self.compulsory_bytes = sum(array.nbytes for array in arrays) + output


def shapes(*, quick: bool) -> Iterator[Shape]:
    """All combinations, or the two of BEVDet's geometry."""
    if quick:
        yield from (Shape(704, 256, 59, 80, 6, dtype) for dtype in ("float32", "float16"))
        return
    for width, height in ((704, 256), (1600, 640)):
        for depths in (59, 118):
            for channels in (64, 80):
                for cameras in (1, 2, 3, 4, 5, 6):
                    for dtype in ("float32", "float16"):
                        yield Shape(width, height, depths, channels, cameras, dtype)


def problem(shape: Shape) -> Problem:
    """Lift-splat of the cameras of a rig, 1 m to 60 m, features at a sixteenth of the image."""
    size = shape.width // STRIDE, shape.height // STRIDE
    cameras = rig(size)[: shape.cameras]
    depths = 1.0 + np.arange(shape.depths) * (59.0 / shape.depths)
    splatter = LiftSplatter(GRID, depths, (-5.0, 3.0), size, shape.cameras)
    table = splatter.make_table()
    splatter.build(cameras, [each.ego_from_camera for each in cameras], table)
    rng = np.random.default_rng(0)
    scores = rng.random((shape.cameras, shape.depths, *size[::-1]), np.float32)
    feat = rng.normal(size=(shape.cameras, *size[::-1], shape.channels))
    ranks = (table.ranks_depth, table.ranks_feat, table.ranks_bev)
    intervals = (table.interval_starts, table.interval_lengths)
    arrays = [array.copy() for array in (*ranks, *intervals)]
    return Problem(shape, scores.astype(shape.dtype), feat.astype(shape.dtype), arrays)
