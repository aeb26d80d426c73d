"""The native kernels once more in numpy, for machines on which the library could not be built.

They allocate and are 10 to 50 times slower. Tables equal those of the library (weights to float32
rounding).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import project
from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.types import BevGrid, CameraModel

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Floats = NDArray[np.float32] | NDArray[np.float16]
MAX_PRODUCTS = 1 << 20


def pool(
    depth: Floats,
    feat: Floats,
    ranks: tuple[Int32, Int32, Int32],
    intervals: tuple[Int32, Int32],
    out: Floats,
) -> None:
    """Pools in pieces of whole intervals, which bounds the memory of the products.

    Args:
        depth: float32 or float16 [any].
        feat: [pixels, C], the type of `depth`.
        ranks: depth, feature pixel and cell of each point, int32 [K].
        intervals: starts and lengths, int32 [M], M > 0.
        out: [cells, C], the type of `depth`, overwritten.
    """
    ranks_depth, ranks_feat, ranks_bev = ranks
    starts, lengths = intervals
    out.fill(0.0)
    ends = np.cumsum(lengths, dtype=np.int64)
    step = max(1, MAX_PRODUCTS // feat.shape[1])
    pieces = [*np.unique(np.searchsorted(ends, np.arange(0, ends[-1], step))), starts.size]
    for first, last in pairwise(pieces):
        length = lengths[first:last]
        begins = np.cumsum(length) - length
        points = np.repeat(starts[first:last] - begins, length) + np.arange(length.sum())
        weights, pixels = depth[ranks_depth[points], None], feat[ranks_feat[points]]
        products = np.multiply(weights, pixels, dtype=np.float32)
        sums = np.add.reduceat(products, begins, axis=0, dtype=np.float64)
        out[ranks_bev[starts[first:last]]] = sums


def sample_table(
    cameras: Sequence[CameraModel],
    ref_from_camera: Sequence[Float64],
    points: Float32,
    min_depth: float,
    max_range: float,
) -> tuple[Float32, Int32, Int32, Int32]:
    """As `bev_build_sample_table`: weights, ranks_depth, ranks_feat, ranks_bev, [K] each."""
    cells = [np.empty(0, np.int64)]
    weights = [np.empty((0, 4))]
    taps = [np.empty((0, 4), np.int64)]
    for slot, (camera, pose) in enumerate(zip(cameras, ref_from_camera, strict=True)):
        width, height = camera.size
        camera_from_ref = invert_rigid(pose)
        local = points.astype(np.float64) @ camera_from_ref[:3, :3].T + camera_from_ref[:3, 3]
        pixels, visible = project(camera, local, min_depth)
        near = np.linalg.norm(local, axis=1) <= max_range
        seen: NDArray[np.int64] = np.flatnonzero(visible & near)
        low = np.floor(pixels[seen]).astype(np.int64)
        right, down = (pixels[seen] - low).T
        columns = np.clip(low[:, :1] + np.array([0, 1, 0, 1]), 0, width - 1)
        rows = np.clip(low[:, 1:] + np.array([0, 0, 1, 1]), 0, height - 1)
        cells.append(seen)
        across = np.stack([1 - right, right, 1 - right, right], axis=1)
        along = np.stack([1 - down, 1 - down, down, down], axis=1)
        weights.append(across * along)
        taps.append((slot * height + rows) * width + columns)
    cell = np.concatenate(cells)
    order = np.argsort(cell, kind="stable")
    count = np.bincount(cell, minlength=len(points))
    shares = (np.concatenate(weights) / count[cell, None])[order].ravel()
    return (
        shares.astype(np.float32),
        np.arange(shares.size, dtype=np.int32),
        np.concatenate(taps)[order].ravel().astype(np.int32),
        np.repeat(cell[order], 4).astype(np.int32),
    )


def splat_table(
    rays: Float32,
    ref_from_camera: Float64,
    depths: Float32,
    grid: BevGrid,
    z_range: tuple[float, float],
) -> tuple[Int32, Int32, Int32]:
    """As `bev_build_splat_table`: ranks_depth, ranks_feat, ranks_bev, [K] each."""
    cameras, pixels = len(rays), rays.shape[1] * rays.shape[2]
    directions = np.einsum(
        "nij,npj->npi",
        ref_from_camera[:, :, :3],
        rays.reshape(cameras, pixels, 3).astype(np.float64),
    )
    points = directions[:, None] * depths.astype(np.float64)[:, None, None]
    points += ref_from_camera[:, None, None, :, 3]
    x, y, z = points.reshape(-1, 3).T
    row, column = (x - grid.x_min) / grid.cell, (y - grid.y_min) / grid.cell
    inside = (row >= 0) & (row < grid.rows) & (column >= 0) & (column < grid.columns)
    kept = np.flatnonzero(inside & (z >= z_range[0]) & (z < z_range[1]))
    cells = row[kept].astype(np.int32) * np.int32(grid.columns) + column[kept].astype(np.int32)
    order = np.argsort(cells, kind="stable")
    ranks = kept[order]
    ranks_feat = ranks // (depths.size * pixels) * pixels + ranks % pixels
    return ranks.astype(np.int32), ranks_feat.astype(np.int32), cells[order]


def pillar_features(
    points: NDArray[np.float32],
    grid: BevGrid,
    slices: tuple[float, float, int],
    intensity_scale: float,
    out: NDArray[np.float32],
) -> None:
    """What `bev_pillar_features` does; sums in float64.

    Args:
        points: float32 [P, >=4].
        grid: of the pillars.
        slices: lowest z, height and number of the slices.
        intensity_scale: intensity that counts as 1.
        out: float32 [8 + slices, rows, columns], overwritten.
    """
    z_min, height, count = slices
    x, y, z = (points[:, i].astype(np.float64) for i in range(3))
    row, column = (x - grid.x_min) * (1 / grid.cell), (y - grid.y_min) * (1 / grid.cell)
    with np.errstate(over="ignore", invalid="ignore"):
        level = (points[:, 2] - np.float32(z_min)) * np.float32(1 / height)
        inside = (row >= 0) & (row < grid.rows) & (column >= 0) & (column < grid.columns)
        inside &= (level >= 0) & (level < count)
    row, column, z, level = row[inside], column[inside], z[inside], level[inside].astype(np.intp)
    bright = points[inside, 3].astype(np.float64) / intensity_scale
    bright = np.nan_to_num(np.clip(bright, 0, 1))  # as in the kernel, NaN is dark
    whole_row, whole_column = row.astype(np.intp), column.astype(np.intp)
    cell = whole_row * grid.columns + whole_column
    out.fill(0)
    if not len(cell):
        return
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    starts = np.flatnonzero(np.concatenate([[True], cell[1:] != cell[:-1]]))
    number = np.diff(np.concatenate([starts, [len(cell)]]))

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.add.reduceat(values[order], starts))

    planes = out.reshape(out.shape[0], -1)[:, cell[starts]]
    planes[0] = np.log1p(number) / 4
    planes[1] = total(z) / number / 2
    planes[2] = np.maximum.reduceat(z[order], starts) / 2
    planes[3] = np.minimum.reduceat(z[order], starts) / 2
    planes[4] = total(bright) / number
    planes[5] = np.maximum.reduceat(bright[order], starts)
    planes[6] = total(row - whole_row - 0.5) / number
    planes[7] = total(column - whole_column - 0.5) / number
    for k in range(count):
        planes[8 + k] = np.log1p(total((level == k).astype(np.float64))) / 4
    out.reshape(out.shape[0], -1)[:, cell[starts]] = planes
