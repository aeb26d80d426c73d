"""How the vehicle moved between the samples' stamps and the stamp of the output."""

from __future__ import annotations

import numpy as np

from bev_runtime.geometry import Float64, invert_rigid
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree


class EgoMotion:
    """The vehicle at other times, seen from where it is at the reference stamp.

    Args:
        rig: names the base frame and the frame in which ego motion is known.
        transforms: the ego poses.
        reference_ns: stamp of the output.
    """

    def __init__(self, rig: Rig, transforms: TransformTree, reference_ns: int) -> None:
        self.reference_ns = reference_ns
        self._fixed_frame, self._base_frame = rig.fixed_frame, rig.base_frame
        self._transforms = transforms
        fixed_from_ref = self._pose(reference_ns)
        self._ref_from_fixed = None if fixed_from_ref is None else invert_rigid(fixed_from_ref)

    def ref_from_ego(self, stamp_ns: int) -> Float64 | None:
        """base_link at the reference stamp from base_link at another, float64 [4, 4]; None where
        the ego motion is unknown at one of them.
        """
        fixed_from_ego = self._pose(stamp_ns) if self._ref_from_fixed is not None else None
        if self._ref_from_fixed is None or fixed_from_ego is None:
            return None
        return np.asarray(self._ref_from_fixed @ fixed_from_ego)

    def _pose(self, stamp_ns: int) -> Float64 | None:
        if self._fixed_frame is None:
            return None
        return self._transforms.find(self._fixed_frame, self._base_frame, stamp_ns)
