"""Features sampled at the voxels of a volume and averaged over the cameras that see each voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bev_runtime.bevpool import BevPoolTable
from bev_runtime.geometry import Float64, transform_points
from bev_runtime.ground_sampler import GroundSampler
from bev_runtime.manifest_views import Axis, Voxels
from bev_runtime.types import CameraModel
from bev_runtime.view_base import Poses

TAPS = 4
MIN_DEPTH_M = 1e-6


class VoxelSampler:
    """The bilinear lifting and masked mean of Simple-BEV (Harley et al., ICRA 2023).

    A camera counts for a voxel when its sample has weight on a pixel inside the border. (Published
    code adds 1e-6 to the number of cameras; here the mean is exact.)

    Args:
        spec: the volume and the size of the feature map.
        max_cameras: most cameras at once.
    """

    def __init__(self, spec: Voxels, max_cameras: int) -> None:
        self._spec = spec
        forward, right, down = np.meshgrid(
            _centres(spec.forward), _centres(spec.right), _centres(spec.down), indexing="ij"
        )
        self._local = np.stack([right, down, forward], axis=-1)
        size = (spec.feature_width, spec.feature_height)
        self._sampler = GroundSampler(self._local, size, max_cameras, min_depth=MIN_DEPTH_M)
        border = np.ones((max_cameras, spec.feature_height, spec.feature_width), np.bool_)
        border[:, 1:-1, 1:-1] = False
        self._border = border.reshape(-1)
        self._covered = np.zeros(self._local.shape[:-1], np.bool_)
        self._ref_from_volume: Float64 | None = None

    def place(self, ref_from_volume: Float64) -> bool:
        """Says where the volume is.

        Args:
            ref_from_volume: float64 [4, 4], rigid: optical frame of the reference camera to the
                ego frame of the reference stamp.

        Returns:
            Whether it moved, so that a table built before is of no use.
        """
        if self._ref_from_volume is not None and np.array_equal(
            self._ref_from_volume, ref_from_volume
        ):
            return False
        self._ref_from_volume = ref_from_volume.copy()
        self._sampler.move(transform_points(ref_from_volume, self._local).astype(np.float32))
        return True

    def make_table(self) -> BevPoolTable:
        """See `ViewTransform.make_table`."""
        return self._sampler.make_table()

    def build(
        self, cameras: Sequence[CameraModel], ref_from_camera: Poses, table: BevPoolTable
    ) -> None:
        """See `ViewTransform.build`; pass `table.weights` as `depth` [1, 1, 1, K].

        Raises:
            ValueError: `place` was not called, or as `ViewTransform.build`.
        """
        if self._ref_from_volume is None:
            raise ValueError("the volume has no place yet, expected a call of place() before")
        self._sampler.build(cameras, ref_from_camera, table)
        self._sampler.coverage(self._covered)
        self._leave_out_borders(table)

    def _leave_out_borders(self, table: BevPoolTable) -> None:
        """Takes cameras out of the mean of voxels that touch only the border of their pictures.

        The sampler's mean is over all cameras in whose picture, border included, a voxel lies. Only
        intervals with a tap on a border can differ: 3 % of them.
        """
        starts, lengths = table.interval_starts, table.interval_lengths
        taps = np.flatnonzero(self._border[table.ranks_feat])
        which = np.unique(np.searchsorted(starts, taps, side="right") - 1)
        if which.size == 0:
            return
        lengths = lengths[which]
        begins = np.cumsum(lengths) - lengths
        points = np.repeat(starts[which] - begins, lengths) + np.arange(lengths.sum())
        weights = table.weights
        weights.flags.writeable = True
        inside = ~self._border[table.ranks_feat[points]] & (weights[points] > 0)
        counts = np.add.reduceat(
            inside.reshape(-1, TAPS).any(axis=1), begins // TAPS, dtype=np.int32
        )
        factor = lengths / TAPS / np.maximum(counts, 1)
        weights[points] *= np.repeat(factor, lengths).astype(np.float32)
        self._covered.reshape(-1)[table.ranks_bev[starts[which]]] = counts > 0

    def coverage(self, out: NDArray[np.bool_]) -> None:
        """Writes which columns of voxels a camera sees, bool [forward, right]."""
        np.any(self._covered, axis=-1, out=out)


def _centres(axis: Axis) -> NDArray[np.float64]:
    return np.asarray(axis.low + (np.arange(axis.cells) + 0.5) * axis.size, np.float64)
