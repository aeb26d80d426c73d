"""Which cells of the grid a LiDAR looks towards: those in a direction from which points came."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.types import BevGrid

NUM_DIRECTIONS = 180
"""Bins of 2 degrees."""


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
            self._bins = _directions(
                self._centres[..., 0] - position[0], self._centres[..., 1] - position[1]
            )
            self._position = position
        x, y, grid = points[:, 0], points[:, 1], self._grid
        inside = (x >= grid.x_min) & (x < grid.x_max) & (y >= grid.y_min) & (y < grid.y_max)
        looked = np.zeros(NUM_DIRECTIONS, np.bool_)
        looked[_directions(x[inside] - position[0], y[inside] - position[1])] = True
        np.take(looked, self._bins, out=out)


def _directions(dx: NDArray[np.floating], dy: NDArray[np.floating]) -> NDArray[np.intp]:
    angle = np.arctan2(dy, dx) * (NUM_DIRECTIONS / (2 * np.pi))
    return np.asarray(np.floor(angle).astype(np.intp) % NUM_DIRECTIONS)
