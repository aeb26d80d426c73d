"""A pipeline that infers nothing: it hands out the synchronised snapshots that a model would get.

Tools such as check-calib use it to see the sensors through the same buffer, health and trigger as a
model does.
"""

from __future__ import annotations

from collections.abc import Mapping

from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevOutput, Calibration, Detections, Mode, Snapshot


class RecordingPipeline:
    """Takes all cameras of the rig, and no LiDAR; each step returns an output without content."""

    def __init__(self, rig: Rig) -> None:
        self.cameras = tuple(rig.cameras)
        self.lidar: str | None = None
        self._frame_id = rig.base_frame

    def step(
        self,
        snapshot: Snapshot,
        *,
        missing: Mapping[str, str],
        calibration: Calibration,  # noqa: ARG002 (the protocol of a pipeline)
        transforms: TransformTree,  # noqa: ARG002
    ) -> BevOutput:
        """An empty output that lists the cameras of the snapshot as used."""
        ages = {
            name: (snapshot.reference_stamp_ns - frame.stamp_ns) / 1e6
            for name, frame in snapshot.cameras.items()
        }
        return BevOutput(
            stamp_ns=snapshot.reference_stamp_ns,
            frame_id=self._frame_id,
            mode=Mode.DEGRADED if missing else Mode.FULL,
            reason="; ".join(f"{name}: {cause}" for name, cause in missing.items()),
            detections=Detections.empty(),
            map=None,
            sensor_age_ms=ages,
            motion_compensated=False,
            rejected={},
            timings_ms={},
        )

    def forget(self, cause: str) -> None:
        """Nothing is kept."""
