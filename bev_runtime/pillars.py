"""From LiDAR points to the pillar features that a network takes."""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from bev_runtime import native, numpy_kernels
from bev_runtime.aligned import aligned_zeros
from bev_runtime.manifest_sections import STATISTICS
from bev_runtime.types import BevGrid

Float32 = NDArray[np.float32]
PILLARS_PER_LINE = 16
"""Floats in a cache line."""


class PillarEncoder:
    """Counts and averages points per pillar of a grid.

    A point counts when it is over the grid and in one of the slices from `z_min` upwards. Channels
    of a pillar with n such points: 0 log1p(n)/4; 1 mean, 2 highest and 3 lowest z, metres / 2;
    4 mean and 5 highest intensity, clipped to 0..1 of `intensity_scale`; 6 and 7 mean offset from
    the pillar's middle along x and y, in cells; then log1p(points)/4 of each slice. A pillar
    without points is all 0.

    Args:
        grid: the pillars, in base_link.
        z_min: bottom of the lowest slice, metres.
        slices: how many, 1 to 64.
        slice_height: metres.
        intensity_scale: the intensity that counts as 1.

    Raises:
        ValueError: a size is not positive.
    """

    def __init__(
        self,
        grid: BevGrid,
        *,
        z_min: float,
        slices: int,
        slice_height: float,
        intensity_scale: float,
    ) -> None:
        if not (0 < slices <= 64 and slice_height > 0 and intensity_scale > 0):
            raise ValueError(
                f"{slices} slices of {slice_height} m and intensity scale {intensity_scale}: "
                "expected 1 to 64 slices and positive sizes"
            )
        self.grid, self.channels = grid, STATISTICS + slices
        self._slices = (z_min, slice_height, slices)
        self._intensity_scale = intensity_scale
        # Aligned, so that 16 channels of a pillar, and 16 pillars of a channel, are one cache line
        # and not parts of two.
        cells = grid.rows * grid.columns
        self._features: Float32 = aligned_zeros((1, self.channels, *grid.shape), np.float32)
        self.features: Float32 = self._features.view()
        self.features.flags.writeable = False  # a stray value would stay where no point falls
        self._scratch = aligned_zeros((cells * self.channels,), np.float32)
        self._lines = np.zeros(-(-cells // PILLARS_PER_LINE), np.uint32)
        self._native_grid = native.PillarGrid(
            grid.x_min,
            grid.y_min,
            grid.cell,
            z_min,
            slice_height,
            intensity_scale,
            grid.rows,
            grid.columns,
            slices,
        )

    def encode(self, points: Float32) -> Float32:
        """Features of a cloud.

        Args:
            points: float32 [P, >=4], C-contiguous: x y z in base_link and intensity.

        Returns:
            float32 [1, channels, rows, columns]; the encoder's own buffer, overwritten by the next
            call.

        Raises:
            ValueError: another dtype or shape.
        """
        if (
            points.ndim != 2
            or points.shape[1] < 4
            or points.dtype != np.float32
            or not points.flags.c_contiguous
        ):
            raise ValueError(
                f"points are {points.dtype} {points.shape}, expected C-contiguous float32 [P, >=4]"
            )
        library = native.load()
        if library is None:
            numpy_kernels.pillar_features(
                points, self.grid, self._slices, self._intensity_scale, self._features[0]
            )
            return self.features
        code = library.bev_pillar_features(
            points.ctypes.data,
            len(points),
            points.shape[1],
            ctypes.byref(self._native_grid),
            self._features.ctypes.data,
            self._scratch.ctypes.data,
            self._lines.ctypes.data,
        )
        native.check(code, "bev_pillar_features")
        return self.features
