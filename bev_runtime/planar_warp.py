"""Moves a BEV feature map of the past to where the vehicle is now.

Bilinear, zero outside, as `grid_sample` of torch with align_corners off. A warp is a sparse product
with four weights in each cell, so the pooling kernel does it.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.geometry import Float64
from bev_runtime.types import BevGrid

Float32 = NDArray[np.float32]
Kind = Literal["fiery", "rigid"]
TAPS = 4


def motion_vector(motion: Float64) -> Float64:
    """Translation x y z and the angles of Rx Ry Rz of a rigid transform [4, 4], float64 [6]."""
    roll = math.atan2(-motion[1, 2], motion[2, 2])
    pitch = math.atan2(motion[0, 2], math.hypot(motion[1, 2], motion[2, 2]))
    yaw = math.atan2(-motion[0, 1], motion[0, 0])
    return np.array([*motion[:3, 3], roll, pitch, yaw])


def source_map(kind: Kind, motion: Float64, grid: BevGrid) -> Float64:
    """Row and column of the past that a cell of the present looks at, float64 [2, 3].

    Multiply by (row, column, 1) of the present; integers are cell centres.

    Args:
        kind: `rigid` is the motion of the plane. `fiery` is what FIERY and PowerBEV were trained
            with: the translation is not turned into the past's axes and its sideways part has the
            other sign. Lengths are in units of the grid's upper bounds.
        motion: float64 [4, 4], coordinates of the past to those of the present.
        grid: of both maps.
    """
    x, y, _, _, _, yaw = motion_vector(motion)
    cos, sin = math.cos(yaw), math.sin(yaw)
    rows, columns = grid.shape
    if kind == "rigid":
        turn = np.array([[cos, sin], [-sin, cos]])
        first = np.array([grid.x_min, grid.y_min]) + grid.cell / 2
        shift = (turn @ (first - [x, y]) - first) / grid.cell
        return np.column_stack([turn, shift])
    # Normalised coordinates are -1..1 over the grid: n = (2 i + 1) / size - 1.
    scale = np.array([rows, columns]) / 2
    turn = np.array([[cos, sin], [-sin, cos]])
    shift = np.array([-x / grid.x_max, y / grid.y_max])
    start = 1 / np.array([rows, columns]) - 1
    offset = scale * (turn @ start + shift + 1) - 0.5
    return np.column_stack([scale[:, None] * turn / scale, offset])


class TapTable(BevPoolTable):
    """A pooling table whose points stay in their cells and look at other pixels for each warp."""

    def look_at(self, pixels: NDArray[np.int32]) -> None:
        """Points all points at other pixels.

        Args:
            pixels: int32 [K].

        Raises:
            ValueError: not one for each point, or out of range.
        """
        limit = self.num_points if self.bounds is None else self.bounds[1]
        low, high = int(pixels.min()), int(pixels.max())
        if pixels.shape != (self.num_points,) or low < 0 or high >= limit:
            raise ValueError(
                f"{pixels.shape} pixels {low}..{high}, expected {self.num_points} in 0..{limit - 1}"
            )
        self._ranks_feat[: self.num_points] = pixels


class PlanarWarp:
    """Warps maps over one grid; everything is allocated once.

    Args:
        grid: of all maps.
        kind: see `source_map`.
    """

    def __init__(self, grid: BevGrid, kind: Kind) -> None:
        self._grid, self._kind = grid, kind
        rows, columns = grid.shape
        cells = np.arange(rows * columns, dtype=np.int32)
        points = np.arange(TAPS * cells.size, dtype=np.int32)
        self._taps = np.zeros((rows, columns, TAPS), np.int32)
        self._table = TapTable(points.size, cells.size)
        self._table.fill(None, points, points // TAPS, points // TAPS)
        self._table.validate(points.size, cells.size, cells.size)
        self._weights = np.zeros((rows, columns, TAPS), np.float32)
        self._row, self._column = np.indices(grid.shape, np.float64)
        # by axis: source position, its cell, and the share of the next cell
        self._position, self._low, self._share = np.zeros((3, 2, rows, columns))
        self._near, self._far, self._index = np.zeros((3, rows, columns))
        self._outside = np.zeros((rows, columns), np.bool_)

    def warp(self, past: Float32, motion: Float64, out: Float32, num_threads: int = 1) -> None:
        """Writes a map of the past as the present sees it.

        Args:
            past: float32 [1, rows, columns, C].
            motion: float64 [4, 4], coordinates of the past to those of the present.
            out: float32, the same shape, overwritten.
            num_threads: of the kernel.
        """
        self._find_taps(source_map(self._kind, motion, self._grid))
        self._table.look_at(self._taps.reshape(-1))
        depth = self._weights.reshape(1, 1, 1, -1)
        bev_pool(depth, past, self._table, out, num_threads)

    def _find_taps(self, source: Float64) -> None:
        """Fills `_taps` and `_weights`; taps outside are put inside and weigh nothing."""
        for axis in (0, 1):
            position, low = self._position[axis], self._low[axis]
            along, across, offset = source[axis].tolist()
            np.multiply(self._row, along, out=position)
            np.multiply(self._column, across, out=self._index)
            np.add(position, self._index, out=position)
            np.add(position, offset, out=position)
            np.floor(position, out=low)
            np.subtract(position, low, out=self._share[axis])
        for tap in range(TAPS):
            steps = divmod(tap, 2)
            for axis, (step, size) in enumerate(zip(steps, self._grid.shape, strict=True)):
                weight = self._near if axis == 0 else self._far
                index = self._position[axis]
                np.add(self._low[axis], step, out=index)
                if step:
                    np.copyto(weight, self._share[axis])
                else:
                    np.subtract(1, self._share[axis], out=weight)
                for compare, limit in ((np.less, 0), (np.greater_equal, size)):
                    compare(index, limit, out=self._outside)
                    np.copyto(weight, 0, where=self._outside)
                np.clip(index, 0, size - 1, out=index)
            np.multiply(self._near, self._far, out=self._near)
            np.copyto(self._weights[..., tap], self._near, casting="same_kind")
            np.multiply(self._position[0], self._grid.columns, out=self._index)
            np.add(self._index, self._position[1], out=self._index)
            np.copyto(self._taps[..., tap], self._index, casting="unsafe")
