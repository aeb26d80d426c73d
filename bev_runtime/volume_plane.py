"""From planes of a volume that is fixed to a camera to the BEV grid of base_link."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.manifest_views import Axis, Voxels
from bev_runtime.types import BevGrid

Float32 = NDArray[np.float32]
SNAP_DIGITS = 6
"""Positions are rounded to a millionth of a cell, so that a grid that lies exactly on the volume's
cells copies them."""


class VolumePlane:
    """Samples planes [forward, right] at the ground points of the grid's cells.

    Bilinear; within half a cell of the volume's edge the outermost cells count.

    Attributes:
        shape: cells of a plane, (forward, right).
        inside: bool [rows, columns], cells whose ground point is in the volume.

    Args:
        spec: the volume.
        grid: in base_link.
    """

    def __init__(self, spec: Voxels, grid: BevGrid) -> None:
        self._spec, self._shape, self.shape = spec, grid.shape, spec.plane
        ground = np.zeros((grid.rows * grid.columns, 4))
        ground[:, :2] = grid.centres().reshape(-1, 2)
        ground[:, 3] = 1.0
        self._ground = ground
        count = len(ground)
        self._taps = np.zeros((4, count), np.intp)
        self._weights = np.zeros((4, count), np.float32)
        self._nearest = np.zeros(count, np.intp)
        self.inside = np.zeros(grid.shape, np.bool_)
        self._taken, self._sum = np.zeros((2, count), np.float32)
        self._mask = np.zeros(count, np.bool_)

    def place(self, ref_from_volume: Float64) -> None:
        """Says where the volume is, float64 [4, 4]; see `VoxelSampler.place`."""
        local = self._ground @ invert_rigid(ref_from_volume).T
        row, row_inside = _position(local[:, 2], self._spec.forward)
        column, column_inside = _position(local[:, 0], self._spec.right)
        rows, columns = self._spec.plane
        np.logical_and(row_inside, column_inside, out=self.inside.reshape(-1))
        top, left = np.floor(row).astype(np.intp), np.floor(column).astype(np.intp)
        below, right = np.minimum(top + 1, rows - 1), np.minimum(left + 1, columns - 1)
        down, across = row - top, column - left
        for tap, (r, c, weight) in enumerate(
            (
                (top, left, (1 - down) * (1 - across)),
                (top, right, (1 - down) * across),
                (below, left, down * (1 - across)),
                (below, right, down * across),
            )
        ):
            self._taps[tap] = r * columns + c
            self._weights[tap] = weight
        self._nearest[:] = np.rint(row).astype(np.intp) * columns + np.rint(column).astype(np.intp)

    def sample(self, planes: Float32, out: Float32) -> None:
        """Writes float32 [C, forward, right] to `out` float32 [C, rows, columns]; cells outside the
        volume become 0.
        """
        outside = ~self.inside.reshape(-1)
        for plane, target in zip(planes, out, strict=True):
            flat = plane.reshape(-1)
            self._sum.fill(0.0)
            for taps, weights in zip(self._taps, self._weights, strict=True):
                np.take(flat, taps, out=self._taken, mode="clip")
                np.multiply(self._taken, weights, out=self._taken)
                np.add(self._sum, self._taken, out=self._sum)
            np.copyto(self._sum, 0.0, where=outside)
            np.copyto(target, self._sum.reshape(self._shape))

    def sample_mask(self, plane: NDArray[np.bool_], out: NDArray[np.bool_]) -> None:
        """The same for bool [forward, right], nearest cell."""
        np.take(plane.reshape(-1), self._nearest, out=self._mask, mode="clip")
        np.logical_and(self._mask.reshape(self._shape), self.inside, out=out)


def _position(metres: Float64, axis: Axis) -> tuple[Float64, NDArray[np.bool_]]:
    """Cells from the centre of the first one, clipped to centres; whether it was in the axis."""
    cells = np.round((metres - axis.low) / axis.size - 0.5, SNAP_DIGITS)
    inside = (cells >= -0.5) & (cells < axis.cells - 0.5)
    return np.clip(cells, 0, axis.cells - 1), inside
