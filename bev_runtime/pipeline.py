"""One step from a snapshot of the sensors to an output: plan, preprocess, infer, postprocess.

Whoever reads this file knows the system. Everything that a step needs was allocated when the
pipeline was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bev_runtime.backends import Backend
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.camera import scale_camera
from bev_runtime.errors import SampleRejected
from bev_runtime.fusion import choose_plan
from bev_runtime.geometry import Float64, invert_rigid, pixel_scaling
from bev_runtime.manifest import Manifest
from bev_runtime.postprocess import MapDecoder
from bev_runtime.preprocess import NetworkInput
from bev_runtime.rig import Rig
from bev_runtime.timing import StageTimer
from bev_runtime.transforms import TransformTree
from bev_runtime.types import (
    BevMap,
    BevOutput,
    Calibration,
    CameraFrame,
    CameraModel,
    Detections,
    FusionPlan,
    Mode,
    Snapshot,
)
from bev_runtime.view_transform import ViewTransform, make_view_transform

ASPECT_TOLERANCE = 0.01


@dataclass(slots=True)
class _FeatureCamera:
    """A camera in pixels of the feature map, kept while calibration and image size stay."""

    source: CameraModel
    pixel_map: Float64
    model: CameraModel


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
        self._base_frame, self._fixed_frame = rig.base_frame, rig.fixed_frame
        self._grid = manifest.grid.to_grid()
        self._stages = tuple(stage.name for stage in manifest.stages)
        self._decoder = MapDecoder(manifest.map, self._grid)
        self._input = NetworkInput(manifest.cameras.image, manifest.cameras.max)
        self._view: ViewTransform = make_view_transform(manifest)
        self._table: BevPoolTable = self._view.make_table()
        spec = manifest.view_transform
        self._feature_map = pixel_scaling(
            spec.feature_width / manifest.cameras.image.width,
            spec.feature_height / manifest.cameras.image.height,
        )
        self._feature_size = (spec.feature_width, spec.feature_height)
        self._feature_cameras: dict[str, _FeatureCamera] = {}
        self._built: tuple[tuple[CameraModel, ...], tuple[Float64, ...]] | None = None
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
            models, rejected = self._preprocess(snapshot, calibration)
        plan = choose_plan(self.cameras, None, {**missing, **rejected})
        if plan.mode is Mode.BLIND:
            return self._output(snapshot, plan, None, rejected, motion_known=False)
        with self._timer.stage("view_transform"):
            motion_known = self._build_table(snapshot, plan, models, transforms)
        with self._timer.stage("inference"):
            tensors = self._backend.infer(
                self._stages, {"images": self._input.images[: len(plan.cameras)]}, self._table
            )
        with self._timer.stage("postprocess"):
            self._view.coverage(self._decoder.observed)
            bev_map = self._decoder.decode(tensors[self.manifest.map.tensor])
        return self._output(snapshot, plan, bev_map, rejected, motion_known=motion_known)

    def _preprocess(
        self, snapshot: Snapshot, calibration: Calibration
    ) -> tuple[dict[str, CameraModel], dict[str, str]]:
        """Writes the images of all usable cameras into consecutive slots, in the rig's order."""
        models: dict[str, CameraModel] = {}
        rejected: dict[str, str] = {}
        for name in self.cameras:
            frame = snapshot.cameras.get(name)
            if frame is None:
                continue
            try:
                models[name] = self._write(len(models), frame, calibration.cameras[name])
            except SampleRejected as problem:
                rejected[name] = problem.reason
        return models, rejected

    def _write(self, slot: int, frame: CameraFrame, camera: CameraModel) -> CameraModel:
        """Fills one slot of the network's input; gives the camera in pixels of the feature map."""
        image, (width, height) = frame.image, camera.size
        aspect = image.width * height / (image.height * width)
        if abs(aspect - 1) > ASPECT_TOLERANCE:
            raise SampleRejected(
                "size_mismatch",
                f"{frame.name}: image is {image.width}x{image.height}, its calibration is for "
                f"{width}x{height}: another aspect ratio, so the intrinsics cannot be scaled",
            )
        pixel_map = self._input.write(slot, frame)
        kept = self._feature_cameras.get(frame.name)
        if kept is None or kept.source is not camera or kept.pixel_map is not pixel_map:
            sent = pixel_scaling(image.width / width, image.height / height)
            model = scale_camera(camera, self._feature_map @ pixel_map @ sent, self._feature_size)
            kept = self._feature_cameras[frame.name] = _FeatureCamera(camera, pixel_map, model)
        return kept.model

    def _build_table(
        self,
        snapshot: Snapshot,
        plan: FusionPlan,
        models: Mapping[str, CameraModel],
        transforms: TransformTree,
    ) -> bool:
        """Rebuilds the pooling table if the cameras or their poses changed; False if ego motion is
        unknown.
        """
        cameras = tuple(models[name] for name in plan.cameras)
        fixed_from_ref = self._ego_pose(transforms, snapshot.reference_stamp_ns)
        motion_known = fixed_from_ref is not None
        poses = []
        for name, camera in zip(plan.cameras, cameras, strict=True):
            fixed_from_ego = self._ego_pose(transforms, snapshot.cameras[name].stamp_ns)
            if fixed_from_ref is None or fixed_from_ego is None:
                motion_known = False
                poses.append(camera.ego_from_camera)
            else:
                ref_from_ego = invert_rigid(fixed_from_ref) @ fixed_from_ego
                poses.append(ref_from_ego @ camera.ego_from_camera)
        built = self._built
        unchanged = (
            built is not None
            and len(built[0]) == len(cameras)
            and all(a is b for a, b in zip(built[0], cameras, strict=True))
            and all(np.array_equal(a, b) for a, b in zip(built[1], poses, strict=True))
        )
        if not unchanged:
            self._view.build(cameras, poses, self._table)
            self._built = (cameras, tuple(poses))
        return motion_known

    def _ego_pose(self, transforms: TransformTree, stamp_ns: int) -> Float64 | None:
        if self._fixed_frame is None:
            return None
        return transforms.find(self._fixed_frame, self._base_frame, stamp_ns)

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
