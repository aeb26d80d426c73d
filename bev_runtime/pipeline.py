"""One step from a snapshot of the sensors to an output: plan, preprocess, infer, postprocess.

Whoever reads this file knows the system. Everything that a step needs was allocated when the
pipeline was made. A branch without its sensors does not run, and masks tell the head what there is.
A temporal model's memory gives the head features of the past, moved by the ego motion.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bev_runtime.backends import Backend
from bev_runtime.camera_inputs import CameraInputs, Models
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.errors import SampleRejected
from bev_runtime.fusion import (
    HeadInputs,
    cameras_taken,
    choose_plan,
    lidar_taken,
    sensor_ages_ms,
    stages_by_sensors,
)
from bev_runtime.lidar_inputs import LidarInputs
from bev_runtime.lifting import Lifting
from bev_runtime.manifest import Manifest
from bev_runtime.postprocess import NOTHING, Decoded, OutputDecoder
from bev_runtime.rig import Rig
from bev_runtime.temporal import TemporalMemory
from bev_runtime.timing import StageTimer
from bev_runtime.transforms import TransformTree
from bev_runtime.types import (
    BevOutput,
    Calibration,
    FusionPlan,
    History,
    Mode,
    Snapshot,
)


class Pipeline:
    """A loaded model, ready to run on one rig.

    Attributes:
        cameras, lidar: what the model takes: cameras in the order of the batch; None for no LiDAR.
        head_inputs: takes a radar's volume before a step.

    Args:
        manifest: what the model says of itself.
        backend: runs the model's stages.
        rig: decides which cameras exist and in which order they are taken.
    """

    def __init__(self, manifest: Manifest, backend: Backend, rig: Rig) -> None:
        self.manifest = manifest
        self.cameras, self.lidar = cameras_taken(manifest, rig), lidar_taken(manifest, rig)
        wanted = (*self.cameras, *((self.lidar,) if self.lidar else ()))
        self._not_in_rig = {n: "not in the rig" for n in wanted if n not in rig.sensor_names}
        self._backend, self._rig = backend, rig
        self._camera_inputs, self._lifting, self._lidar_inputs = None, None, None
        if manifest.cameras is not None and manifest.view_transform is not None:
            spec, threads = manifest.cameras, backend.num_threads
            self._camera_inputs = CameraInputs(spec, manifest.view_transform, num_threads=threads)
            self._lifting = Lifting(manifest)
        if manifest.lidar is not None:
            self._lidar_inputs = LidarInputs(manifest)
        self.head_inputs = HeadInputs(manifest)
        self._stages = stages_by_sensors(manifest)
        self._infer, self._memory = backend.infer, None
        if manifest.temporal is not None:
            self._memory = TemporalMemory(manifest, backend)
            self._infer = self._memory.infer
        plane = None if self._lifting is None else self._lifting.plane
        self._decoder = OutputDecoder(manifest, plane)
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
        models: Models = {}
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
            motion_known = self._lift(snapshot, models, motion, calibration) and lidar_motion_known
            self._find_observed(plan)
        history = None
        if self._memory is not None:
            with self._timer.stage("memory"):
                plan, history = self._memory.recall(plan, motion)
        with self._timer.stage("inference"):
            inputs = self.head_inputs.tensors(plan, self._camera_covered, self._lidar_covered)
            table = None
            if models and self._camera_inputs is not None and self._lifting is not None:
                inputs |= {**self._camera_inputs.tensors(len(models)), **self._lifting.tensors()}
                table = self._lifting.table
            if plan.use_lidar and self._lidar_inputs is not None:
                inputs |= self._lidar_inputs.tensors()
            stages = self._stages[bool(models), plan.use_lidar]
            tensors = self._infer(stages, inputs, table)
        with self._timer.stage("postprocess"):
            decoded = self._decoder.decode(tensors, motion, by_lidar=plan.use_lidar)
        if self._memory is not None:
            self._memory.keep(tensors)
        return self._output(snapshot, plan, rejected, decoded, history, motion_known=motion_known)

    def forget(self, cause: str) -> None:
        """Drops what was kept of past outputs: features and tracks; `cause` (a noun phrase) is told
        until a temporal model's history is complete again.
        """
        if self._memory is not None:
            self._memory.forget(cause)
        self._decoder.forget()

    def _fill_pillars(
        self, snapshot: Snapshot, calibration: Calibration, motion: EgoMotion
    ) -> bool:
        """Fills the LiDAR branch's input; whether the ego motion since the sweep is known."""
        cloud, ego_from_lidar = snapshot.cloud, calibration.ego_from_lidar
        if cloud is None or ego_from_lidar is None or self._lidar_inputs is None:
            raise SampleRejected("no_sample", f"{self.lidar}: no cloud or no pose in the snapshot")
        return self._lidar_inputs.fill(cloud, ego_from_lidar, motion)

    def _lift(
        self, snapshot: Snapshot, models: Models, motion: EgoMotion, calibration: Calibration
    ) -> bool:
        """Brings the pooling table up to date; whether the ego motion of all cameras is known."""
        self._camera_covered.fill(False)
        if not models or self._lifting is None:
            return True
        motion_known = self._lifting.build(snapshot, models, motion, calibration)
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
        decoded: Decoded = NOTHING,
        history: History | None = None,
        *,
        motion_known: bool,
    ) -> BevOutput:
        stages = self._timer.milliseconds
        timings = {"total": sum(stages.values()), **stages}
        if "inference" in stages:  # else the backend still has the times of an earlier output
            timings |= self._backend.timings_ms
        return BevOutput(
            stamp_ns=snapshot.reference_stamp_ns,
            frame_id=self._rig.base_frame,
            mode=plan.mode,
            reason=plan.reason,
            detections=decoded.detections,
            map=decoded.map,
            sensor_age_ms=sensor_ages_ms(snapshot, plan),
            motion_compensated=motion_known,
            rejected=rejected,
            timings_ms=timings,
            instances=decoded.instances,
            history=history,
        )
