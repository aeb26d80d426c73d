"""One step from a snapshot of the sensors to an output: plan, preprocess, infer, postprocess.

Whoever reads this file knows the system. Everything that a step needs was allocated when the
pipeline was made. A sensor that is absent is not computed: without cameras the camera branch does
not run, without a LiDAR the LiDAR branch does not, and the head is told by masks what there is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.backends import Backend
from bev_runtime.camera_inputs import CameraInputs
from bev_runtime.detection_decoder import DetectionDecoder
from bev_runtime.fusion import choose_plan
from bev_runtime.lidar_inputs import EMPTY, LidarInputs
from bev_runtime.lifting import Lifting
from bev_runtime.manifest import Manifest
from bev_runtime.postprocess import MapDecoder
from bev_runtime.rig import Rig
from bev_runtime.timing import StageTimer
from bev_runtime.transforms import TransformTree
from bev_runtime.types import (
    BevMap,
    BevOutput,
    Calibration,
    CameraModel,
    Detections,
    FusionPlan,
    Mode,
    Snapshot,
)

Tensors = dict[str, NDArray[Any]]


class Pipeline:
    """A loaded model, ready to run on one rig.

    Attributes:
        cameras: the rig's cameras that the model takes, in the order of the batch.
        lidar: the rig's LiDAR if the model takes one, else None.

    Args:
        manifest: what the model says of itself.
        backend: runs the model's stages.
        rig: decides which cameras exist and in which order they are taken.
    """

    def __init__(self, manifest: Manifest, backend: Backend, rig: Rig) -> None:
        self.manifest = manifest
        self.cameras = cameras_taken(manifest, rig)
        self.lidar = lidar_taken(manifest, rig)
        self._backend = backend
        self._base_frame = rig.base_frame
        grid = manifest.grid.to_grid()
        self._camera_inputs, self._lifting = None, None
        if manifest.cameras is not None and manifest.view_transform is not None:
            self._camera_inputs = CameraInputs(manifest.cameras, manifest.view_transform)
            self._lifting = Lifting(manifest, rig)
        self._lidar_inputs = LidarInputs(manifest, rig) if manifest.lidar is not None else None
        self._map = MapDecoder(manifest.map, grid) if manifest.map is not None else None
        self._detection = None
        if manifest.detection is not None:
            self._detection = DetectionDecoder(manifest.detection, grid)
        self._camera_covered, self._lidar_covered = np.zeros((2, *grid.shape), np.bool_)
        self._fused = _fused_tensors(manifest)
        self._timer = StageTimer()

    def step(
        self,
        snapshot: Snapshot,
        *,
        missing: Mapping[str, str],
        calibration: Calibration,
        transforms: TransformTree,
    ) -> BevOutput:
        """Makes one output.

        Args:
            snapshot: samples to use; each sensor in it has a calibration.
            missing: for each sensor of the model that is not in the snapshot, why.
            calibration: intrinsics and poses on the vehicle.
            transforms: the ego motion, looked up at each sensor's stamp and at the reference stamp.

        Returns:
            The output; its arrays belong to the pipeline and are overwritten by the next step.

        Raises:
            BackendError: inference failed or produced values that are not numbers.
        """
        self._timer.clear()
        models: dict[str, CameraModel] = {}
        rejected: dict[str, str] = {}
        motion_known = True
        self._camera_covered.fill(False)
        self._lidar_covered.fill(False)
        with self._timer.stage("preprocess"):
            if self._camera_inputs is not None:
                models, rejected = self._camera_inputs.fill(self.cameras, snapshot, calibration)
            if self._lidar_inputs is not None and self.lidar is not None:
                if snapshot.cloud is None or self.lidar in missing:
                    missing = {self.lidar: "no sample", **missing}
                else:
                    motion_known = self._lidar_inputs.fill(snapshot, calibration, transforms)
                    np.copyto(self._lidar_covered, self._lidar_inputs.covered)
                    if not self._lidar_covered.any():
                        rejected[self.lidar] = EMPTY
        plan = choose_plan(self.cameras, self.lidar, {**missing, **rejected})
        if plan.mode is Mode.BLIND:
            return self._output(snapshot, plan, None, None, rejected, motion_known=False)
        with self._timer.stage("view_transform"):
            if models and self._lifting is not None:
                motion_known &= self._lifting.build(snapshot, models, transforms)
                self._lifting.coverage(self._camera_covered)
        with self._timer.stage("inference"):
            stages, inputs = self._inputs(plan, len(models))
            table = self._lifting.table if models and self._lifting is not None else None
            tensors = self._backend.infer(stages, inputs, table)
        with self._timer.stage("postprocess"):
            detections, bev_map = self._decode(tensors)
        return self._output(
            snapshot, plan, detections, bev_map, rejected, motion_known=motion_known
        )

    def _inputs(self, plan: FusionPlan, num_cameras: int) -> tuple[list[str], Tensors]:
        """The stages that this plan needs, and everything that they read."""
        inputs: Tensors = {}
        skipped = set()
        if num_cameras and self._camera_inputs is not None:
            inputs |= self._camera_inputs.tensors(num_cameras)
        else:
            skipped.add("camera_branch")
        if plan.use_lidar and self._lidar_inputs is not None and self.manifest.lidar is not None:
            inputs[self.manifest.lidar.tensor] = self._lidar_inputs.pillars
        else:
            skipped.add("lidar_branch")
        for branch, covered in (
            ("camera_branch", self._camera_covered),
            ("lidar_branch", self._lidar_covered),
        ):
            if branch in self._fused:
                tensor, zeros, mask_name, mask = self._fused[branch]
                np.copyto(mask[0, 0], covered)
                inputs[mask_name] = mask
                if branch in skipped:
                    inputs[tensor] = zeros
        return [s.name for s in self.manifest.stages if s.name not in skipped], inputs

    def _decode(self, tensors: Mapping[str, NDArray[Any]]) -> tuple[Detections, BevMap | None]:
        detections, bev_map = Detections.empty(), None
        if self._detection is not None and self.manifest.detection is not None:
            spec = self.manifest.detection
            detections = self._detection.decode(tensors[spec.heatmap], tensors[spec.boxes])
        if self._map is not None and self.manifest.map is not None:
            np.logical_or(self._camera_covered, self._lidar_covered, out=self._map.observed)
            bev_map = self._map.decode(tensors[self.manifest.map.tensor])
        return detections, bev_map

    def _output(
        self,
        snapshot: Snapshot,
        plan: FusionPlan,
        detections: Detections | None,
        bev_map: BevMap | None,
        rejected: Mapping[str, str],
        *,
        motion_known: bool,
    ) -> BevOutput:
        reference = snapshot.reference_stamp_ns
        ages = {n: (reference - snapshot.cameras[n].stamp_ns) / 1e6 for n in plan.cameras}
        if plan.use_lidar and snapshot.cloud is not None:
            ages[snapshot.cloud.name] = (reference - snapshot.cloud.stamp_ns) / 1e6
        stages = self._timer.milliseconds
        timings = {"total": sum(stages.values()), **stages, **self._backend.timings_ms}
        return BevOutput(
            stamp_ns=reference,
            frame_id=self._base_frame,
            mode=plan.mode,
            reason=plan.reason,
            detections=Detections.empty() if detections is None else detections,
            map=bev_map,
            sensor_age_ms=ages,
            motion_compensated=motion_known,
            rejected=rejected,
            timings_ms=timings,
        )


def cameras_taken(manifest: Manifest, rig: Rig) -> tuple[str, ...]:
    """The cameras of the rig that the model takes, in the order in which the network gets them."""
    if manifest.cameras is None:
        return ()
    if manifest.cameras.names == "any":
        return tuple(rig.cameras)[: manifest.cameras.max]
    return tuple(manifest.cameras.names)


def lidar_taken(manifest: Manifest, rig: Rig) -> str | None:
    """The rig's LiDAR if the model takes one; where the rig has none, `lidar` as a name for it."""
    if manifest.lidar is None:
        return None
    return rig.lidar.name if rig.lidar is not None else "lidar"


def _fused_tensors(
    manifest: Manifest,
) -> dict[str, tuple[str, NDArray[np.float32], str, NDArray[np.float32]]]:
    """For each branch of a fusion model: its tensor, zeros for when it is absent, its mask."""
    if manifest.fusion is None:
        return {}
    found = {}
    for branch, fused in (
        ("camera_branch", manifest.fusion.camera),
        ("lidar_branch", manifest.fusion.lidar),
    ):
        stage = manifest.stage(branch)
        assert stage is not None
        made = next(tensor for tensor in stage.outputs if tensor.name == fused.tensor)
        zeros = np.zeros([int(size) for size in made.shape], np.float32)
        mask = np.zeros((1, 1, *manifest.grid.to_grid().shape), np.float32)
        found[branch] = (fused.tensor, zeros, fused.mask, mask)
    return found
