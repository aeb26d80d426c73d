"""Which cells of the grid a LiDAR looks towards: those in a direction from which points came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.types import BevGrid

NUM_DIRECTIONS = 180
"""Bins of 2 degrees."""
BINS_PER_RADIAN = NUM_DIRECTIONS / (2 * np.pi)


class LidarCoverage:
    """Finds the directions that a cloud has points in; a sensor that is half covered sees half.

    Args:
        grid: of the model.
    """

    def __init__(self, grid: BevGrid) -> None:
        self._grid = grid
        self._centres = grid.centres().astype(np.float64)
        self._position: tuple[float, float] | None = None
        self._bins = np.zeros(grid.shape, np.intp)
        self._looked = np.zeros(NUM_DIRECTIONS + 1, np.bool_)  # the last one takes what is outside
        self._make_room(0)

    def find(
        self,
        points: NDArray[np.float32],
        position: tuple[float, float],
        out: NDArray[np.bool_],
    ) -> None:
        """Writes which cells are looked at.

        Args:
            points: float32 [P, >=2], x y in base_link; those beyond the grid do not count.
            position: x and y of the LiDAR in base_link.
            out: bool [rows, columns].
        """
        if position != self._position:
            ahead, left = np.moveaxis(self._centres - position, -1, 0)
            self._bins = np.floor(np.arctan2(left, ahead) * BINS_PER_RADIAN).astype(np.intp)
            self._bins %= NUM_DIRECTIONS
            self._position = position
        count, grid = len(points), self._grid
        if count > len(self._point_bins):
            self._make_room(1 << (count - 1).bit_length())
        x, y = self._offsets[0, :count], self._offsets[1, :count]
        inside, test, bins = self._inside[:count], self._test[:count], self._point_bins[:count]
        np.greater_equal(points[:, 0], grid.x_min, out=inside)
        np.logical_and(inside, np.less(points[:, 0], grid.x_max, out=test), out=inside)
        np.logical_and(inside, np.greater_equal(points[:, 1], grid.y_min, out=test), out=inside)
        np.logical_and(inside, np.less(points[:, 1], grid.y_max, out=test), out=inside)
        np.subtract(points[:, 0], position[0], out=x)
        np.subtract(points[:, 1], position[1], out=y)
        angle = np.arctan2(y, x, out=x)
        np.multiply(angle, BINS_PER_RADIAN, out=angle)
        np.copyto(bins, np.floor(angle, out=angle), casting="unsafe")
        np.remainder(bins, NUM_DIRECTIONS, out=bins)
        np.copyto(bins, NUM_DIRECTIONS, where=np.logical_not(inside, out=test))
        self._looked.fill(False)
        self._looked[bins] = True
        np.take(self._looked[:NUM_DIRECTIONS], self._bins, out=out)

    def _make_room(self, points: int) -> None:
        """Memory for clouds of up to so many points."""
        self._offsets = np.empty((2, points), np.float32)
        self._inside, self._test = np.empty((2, points), np.bool_)
        self._point_bins = np.empty(points, np.int16)
