"""One step from a snapshot of the sensors to an output: plan, preprocess, infer, postprocess.

Whoever reads this file knows the system. Everything that a step needs was allocated when the
pipeline was made.
"""

from __future__ import annotations

from collections.abc import Mapping

from bev_runtime.backends import Backend
from bev_runtime.camera_inputs import CameraInputs
from bev_runtime.fusion import choose_plan
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
    Detections,
    FusionPlan,
    Mode,
    Snapshot,
)


class Pipeline:
    """A loaded model, ready to run on one rig.

    Args:
        manifest: what the model says of itself.
        backend: runs the model's stages.
        rig: decides which cameras exist and in which order they are taken.
    """

    def __init__(self, manifest: Manifest, backend: Backend, rig: Rig) -> None:
        self.manifest = manifest
        self.cameras = cameras_taken(manifest, rig)
        self._backend = backend
        self._base_frame = rig.base_frame
        self._stages = tuple(stage.name for stage in manifest.stages)
        self._inputs = CameraInputs(manifest)
        self._lifting = Lifting(manifest, rig)
        self._decoder = MapDecoder(manifest.map, manifest.grid.to_grid())
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
            snapshot: samples to use; each camera in it has a calibration.
            missing: for each sensor of the model that is not in the snapshot, why.
            calibration: intrinsics and poses on the vehicle.
            transforms: the ego motion, looked up at each camera's stamp and at the reference stamp.

        Returns:
            The output; its map belongs to the pipeline and is overwritten by the next step.

        Raises:
            BackendError: inference failed or produced values that are not numbers.
        """
        self._timer.clear()
        with self._timer.stage("preprocess"):
            models, rejected = self._inputs.fill(self.cameras, snapshot, calibration)
        plan = choose_plan(self.cameras, None, {**missing, **rejected})
        if plan.mode is Mode.BLIND:
            return self._output(snapshot, plan, None, rejected, motion_known=False)
        with self._timer.stage("view_transform"):
            motion_known = self._lifting.build(snapshot, models, transforms)
        with self._timer.stage("inference"):
            images = self._inputs.images(len(models))
            tensors = self._backend.infer(self._stages, {"images": images}, self._lifting.table)
        with self._timer.stage("postprocess"):
            self._lifting.coverage(self._decoder.observed)
            bev_map = self._decoder.decode(tensors[self.manifest.map.tensor])
        return self._output(snapshot, plan, bev_map, rejected, motion_known=motion_known)

    def _output(
        self,
        snapshot: Snapshot,
        plan: FusionPlan,
        bev_map: BevMap | None,
        rejected: Mapping[str, str],
        *,
        motion_known: bool,
    ) -> BevOutput:
        reference = snapshot.reference_stamp_ns
        ages = {n: (reference - snapshot.cameras[n].stamp_ns) / 1e6 for n in plan.cameras}
        stages = self._timer.milliseconds
        timings = {"total": sum(stages.values()), **stages, **self._backend.timings_ms}
        return BevOutput(
            stamp_ns=reference,
            frame_id=self._base_frame,
            mode=plan.mode,
            reason=plan.reason,
            detections=Detections.empty(),
            map=bev_map,
            sensor_age_ms=ages,
            motion_compensated=motion_known,
            rejected=rejected,
            timings_ms=timings,
        )


def cameras_taken(manifest: Manifest, rig: Rig) -> tuple[str, ...]:
    """The cameras of the rig that the model takes, in the order in which the network gets them."""
    if manifest.cameras.names == "any":
        return tuple(rig.cameras)[: manifest.cameras.max]
    return tuple(manifest.cameras.names)
