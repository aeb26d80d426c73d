"""One step from a snapshot of the sensors to an output: plan, preprocess, infer, postprocess.

Whoever reads this file knows the system. Everything that a step needs was allocated when the
pipeline was made. What an absent sensor would feed is not computed: without cameras the camera
branch does not run, without a LiDAR its branch does not, and masks tell the head what there is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bev_runtime.backends import Backend
from bev_runtime.camera_inputs import CameraInputs
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.errors import SampleRejected
from bev_runtime.fusion import (
    HeadInputs,
    cameras_taken,
    choose_plan,
    lidar_taken,
    stages_to_run,
)
from bev_runtime.lidar_inputs import LidarInputs
from bev_runtime.lifting import Lifting
from bev_runtime.manifest import Manifest
from bev_runtime.postprocess import OutputDecoder
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


class Pipeline:
    """A loaded model, ready to run on one rig.

    Attributes:
        cameras: the cameras that the model takes, in the order of the batch.
        lidar: the LiDAR if the model takes one, else None.

    Args:
        manifest: what the model says of itself.
        backend: runs the model's stages.
        rig: decides which cameras exist and in which order they are taken.
    """

    def __init__(self, manifest: Manifest, backend: Backend, rig: Rig) -> None:
        self.manifest = manifest
        self.cameras, self.lidar = cameras_taken(manifest, rig), lidar_taken(manifest, rig)
        self._not_in_rig = {
            name: "not in the rig"
            for name in (*self.cameras, *((self.lidar,) if self.lidar else ()))
            if name not in rig.sensor_names
        }
        self._backend, self._rig = backend, rig
        self._camera_inputs, self._lifting, self._lidar_inputs = None, None, None
        if manifest.cameras is not None and manifest.view_transform is not None:
            spec, threads = manifest.cameras, backend.num_threads
            self._camera_inputs = CameraInputs(spec, manifest.view_transform, num_threads=threads)
            self._lifting = Lifting(manifest)
        if manifest.lidar is not None:
            self._lidar_inputs = LidarInputs(manifest)
        self._head_inputs = HeadInputs(manifest)
        self._stages = {
            (cameras, lidar): stages_to_run(manifest, cameras=cameras, lidar=lidar)
            for cameras in (False, True)
            for lidar in (False, True)
        }
        self._decoder = OutputDecoder(manifest)
        shape = manifest.grid.to_grid().shape
        self._camera_covered, self._lidar_covered = np.zeros((2, *shape), np.bool_)
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
            snapshot: samples to use; each sensor in it has a calibration. A cloud whose sensor is
                in `missing` is not used.
            missing: for each sensor of the model that is not in the snapshot, why.
            calibration: intrinsics and poses on the vehicle.
            transforms: the ego motion, looked up at each sensor's stamp and at the reference stamp.

        Returns:
            The output; its arrays belong to the pipeline and are overwritten by the next step.

        Raises:
            BackendError: inference failed or produced values that are not numbers.
        """
        self._timer.clear()
        missing = {**self._not_in_rig, **missing}
        motion = EgoMotion(self._rig, transforms, snapshot.reference_stamp_ns)
        models: dict[str, CameraModel] = {}
        rejected: dict[str, str] = {}
        if self._camera_inputs is not None:
            with self._timer.stage("preprocess"):
                models, rejected = self._camera_inputs.fill(self.cameras, snapshot, calibration)
        lidar_motion_known = True
        if self.lidar is not None and self.lidar not in missing:
            with self._timer.stage("pillars"):
                try:
                    lidar_motion_known = self._fill_pillars(snapshot, calibration, motion)
                except SampleRejected as problem:
                    rejected[self.lidar] = problem.reason
        plan = choose_plan(self.cameras, self.lidar, {**missing, **rejected})
        if plan.mode is Mode.BLIND:
            return self._output(snapshot, plan, rejected, motion_known=False)
        with self._timer.stage("view_transform"):
            motion_known = self._lift(snapshot, models, motion) and lidar_motion_known
            self._find_observed(plan)
        with self._timer.stage("inference"):
            inputs = self._head_inputs.tensors(plan, self._camera_covered, self._lidar_covered)
            table = None
            if models and self._camera_inputs is not None and self._lifting is not None:
                inputs |= self._camera_inputs.tensors(len(models))
                table = self._lifting.table
            if plan.use_lidar and self._lidar_inputs is not None:
                inputs |= self._lidar_inputs.tensors()
            stages = self._stages[bool(models), plan.use_lidar]
            tensors = self._backend.infer(stages, inputs, table)
        with self._timer.stage("postprocess"):
            decoded = self._decoder.decode(tensors)
        return self._output(snapshot, plan, rejected, *decoded, motion_known=motion_known)

    def _fill_pillars(
        self, snapshot: Snapshot, calibration: Calibration, motion: EgoMotion
    ) -> bool:
        """Fills the LiDAR branch's input; whether the ego motion since the sweep is known."""
        cloud, ego_from_lidar = snapshot.cloud, calibration.ego_from_lidar
        if cloud is None or ego_from_lidar is None or self._lidar_inputs is None:
            raise SampleRejected("no_sample", f"{self.lidar}: no cloud or no pose in the snapshot")
        return self._lidar_inputs.fill(cloud, ego_from_lidar, motion)

    def _lift(
        self, snapshot: Snapshot, models: Mapping[str, CameraModel], motion: EgoMotion
    ) -> bool:
        """Brings the pooling table up to date; whether the ego motion of all cameras is known."""
        self._camera_covered.fill(False)
        if not models or self._lifting is None:
            return True
        motion_known = self._lifting.build(snapshot, models, motion)
        self._lifting.coverage(self._camera_covered)
        return motion_known

    def _find_observed(self, plan: FusionPlan) -> None:
        """Marks the cells that a live sensor sees, for the map and the detections."""
        observed = self._decoder.observed
        np.copyto(observed, self._camera_covered)
        self._lidar_covered.fill(False)
        if plan.use_lidar and self._lidar_inputs is not None:
            np.copyto(self._lidar_covered, self._lidar_inputs.covered)
            np.logical_or(observed, self._lidar_covered, out=observed)

    def _output(
        self,
        snapshot: Snapshot,
        plan: FusionPlan,
        rejected: Mapping[str, str],
        detections: Detections | None = None,
        bev_map: BevMap | None = None,
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
            frame_id=self._rig.base_frame,
            mode=plan.mode,
            reason=plan.reason,
            detections=Detections.empty() if detections is None else detections,
            map=bev_map,
            sensor_age_ms=ages,
            motion_compensated=motion_known,
            rejected=rejected,
            timings_ms=timings,
        )
