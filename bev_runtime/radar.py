"""Radar points as the volume of features that some heads read beside the camera features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import ModelError
from bev_runtime.geometry import Float64, invert_rigid, transform_points
from bev_runtime.manifest import Manifest, Voxels

Float32 = NDArray[np.float32]
NEAR_VOXELS = 0.1
"""Points nearer than this to the volume's origin are dropped."""


class RadarVolume:
    """Scatters radar points into the volume of the view transform.

    A point is in the voxel whose centre is nearest (a tie goes to the even one). Of several points
    in one voxel the last one counts; Simple-BEV, which was trained with this input, takes any of
    them. The first voxel (all indices 0) stays empty, as in its training.

    Attributes:
        tensor: float32 [1, channels, forward, down, right], for `HeadInputs.offer`; written by
            `fill`.

    Args:
        manifest: with the section `radar`.

    Raises:
        ModelError: the model takes no radar.
    """

    def __init__(self, manifest: Manifest) -> None:
        spec, volume = manifest.radar, manifest.view_transform
        if spec is None or not isinstance(volume, Voxels):
            raise ModelError(
                f"model '{manifest.name}' takes no radar, expected a manifest with the section "
                "'radar': use another model, or leave the radar out"
            )
        axes = (volume.forward, volume.down, volume.right)
        self._low, self._size = (np.array([getattr(a, k) for a in axes]) for k in ("low", "size"))
        self._cells = np.array([axis.cells for axis in axes])
        self._channels = len(spec.channels)
        self.tensor: Float32 = np.zeros((1, self._channels, *self._cells), np.float32)

    def fill(self, points: Float32, features: Float32, ref_from_volume: Float64) -> Float32:
        """Writes `tensor` anew.

        Args:
            points: float32 [N, 3], metres, in base_link of the output's stamp.
            features: float32 [N, channels], in the manifest's order, not scaled.
            ref_from_volume: float64 [4, 4], rigid: optical frame of the reference camera to
                base_link.

        Returns:
            `tensor`.

        Raises:
            ValueError: points and features do not fit each other or the manifest.
        """
        if points.shape != (len(features), 3) or features.shape[1:] != (self._channels,):
            raise ValueError(
                f"points are {points.shape} and features {features.shape}, expected [N, 3] and "
                f"[N, {self._channels}]: the channels of the manifest's section 'radar'"
            )
        local = transform_points(invert_rigid(ref_from_volume), points.astype(np.float64))
        local = local[:, [2, 1, 0]]  # right, down, forward to the order of the volume
        cell = np.rint((local - self._low) / self._size - 0.5)
        far = np.linalg.norm(local / self._size, axis=1) >= NEAR_VOXELS
        kept = far & np.isfinite(local).all(axis=1)
        kept &= ((cell >= 0) & (cell < self._cells)).all(axis=1) & cell.any(axis=1)
        index = cell[kept].astype(np.intp)
        self.tensor.fill(0)
        self.tensor[0, :, index[:, 0], index[:, 1], index[:, 2]] = features[kept]
        return self.tensor
