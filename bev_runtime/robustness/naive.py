"""The same network as a node would run it that does not know about lost sensors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bev_runtime.backends import Backend
from bev_runtime.camera_inputs import CameraInputs
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.errors import SampleRejected
from bev_runtime.faults.pictures import black_picture
from bev_runtime.fusion import cameras_taken, fused_inputs, lidar_taken, stages_to_run
from bev_runtime.lidar_inputs import LidarInputs
from bev_runtime.lifting import Lifting
from bev_runtime.manifest import Manifest
from bev_runtime.postprocess import OutputDecoder
from bev_runtime.rig import Rig
from bev_runtime.robustness.conditions import Moment, Scene
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevMap, Calibration, CameraFrame, Detections, Snapshot


class NaiveRunner:
    """Runs every stage on every sensor: a black picture for a lost camera, an empty cloud for a
    lost LiDAR, and masks that claim every cell for both.

    Args:
        manifest: of the model.
        backend: runs its stages.
        rig: of the bag.
    """

    def __init__(self, manifest: Manifest, backend: Backend, rig: Rig) -> None:
        self._backend, self._rig = backend, rig
        self._cameras, self._lidar = cameras_taken(manifest, rig), lidar_taken(manifest, rig)
        self._camera_inputs = self._lifting = self._lidar_inputs = None
        if manifest.cameras is not None and manifest.view_transform is not None:
            self._camera_inputs = CameraInputs(manifest.cameras, manifest.view_transform)
            self._lifting = Lifting(manifest)
        self._no_pillars: dict[str, NDArray[np.float32]] = {}
        if manifest.lidar is not None:
            self._lidar_inputs = LidarInputs(manifest)
            shapes = self._lidar_inputs.tensors().items()
            self._no_pillars = {name: np.zeros_like(tensor) for name, tensor in shapes}
        mask = np.ones((1, 1, *manifest.grid.to_grid().shape), np.float32)
        self._masks = {fused.mask: mask for fused in fused_inputs(manifest)}
        self._stages = stages_to_run(
            manifest, cameras=manifest.cameras is not None, lidar=manifest.lidar is not None
        )
        plane = None if self._lifting is None else self._lifting.plane
        if manifest.map is not None:
            every_cell = manifest.map.model_copy(update={"sight": None})
            manifest = manifest.model_copy(update={"map": every_cell})
        self._decoder = OutputDecoder(manifest, plane)
        self._black: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def step(
        self, moment: Moment, scene: Scene, *, calibration: Calibration, transforms: TransformTree
    ) -> tuple[Detections, BevMap | None]:
        """Makes one output; its arrays are overwritten by the next step.

        Args:
            moment: with all sensors.
            scene: what is left of it.
            calibration: of the vehicle.
            transforms: the ego motion.

        Raises:
            BackendError: inference failed.
            SampleRejected: a picture cannot be read.
        """
        reference_ns = moment.snapshot.reference_stamp_ns
        motion = EgoMotion(self._rig, transforms, reference_ns)
        inputs, table = dict(self._masks), None
        if self._camera_inputs is not None and self._lifting is not None:
            frames = self._frames(moment, scene)
            snapshot = Snapshot(reference_ns, frames, None)
            models, rejected = self._camera_inputs.fill(self._cameras, snapshot, calibration)
            for name, reason in rejected.items():
                raise SampleRejected(reason, f"{name}: its picture cannot be used")
            self._lifting.build(snapshot, models, motion, calibration)
            inputs |= {**self._camera_inputs.tensors(len(models)), **self._lifting.tensors()}
            table = self._lifting.table
        if self._lidar_inputs is not None:
            inputs |= self._pillars(self._lidar_inputs, scene, calibration, motion)
        self._decoder.observed.fill(True)
        tensors = self._backend.infer(self._stages, inputs, table)
        decoded = self._decoder.decode(tensors, motion, by_lidar=self._lidar_inputs is not None)
        return decoded.detections, decoded.map

    def _frames(self, moment: Moment, scene: Scene) -> Mapping[str, CameraFrame]:
        frames = {**scene.cameras, **scene.unaware}
        for name, frame in moment.snapshot.cameras.items():
            if name in scene.lost:
                frames[name] = scene.stale.get(name) or self._blackened(frame)
        return frames

    def _blackened(self, frame: CameraFrame) -> CameraFrame:
        size = frame.image.width, frame.image.height
        if size not in self._black:
            self._black[size] = black_picture(size)
        return CameraFrame.from_rgb(frame.name, frame.stamp_ns, self._black[size])

    def _pillars(
        self,
        lidar: LidarInputs,
        scene: Scene,
        calibration: Calibration,
        motion: EgoMotion,
    ) -> Mapping[str, NDArray[np.float32]]:
        if scene.cloud is None or calibration.ego_from_lidar is None:
            return self._no_pillars
        try:
            lidar.fill(scene.cloud, calibration.ego_from_lidar, motion)
        except SampleRejected:  # no point is left, which the runtime takes as a lost LiDAR
            return self._no_pillars
        return lidar.tensors()
