"""Models run on made-up moments with whatever is left of the sensors."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from bev_export.verify.scenes import LIDAR, SceneSpec, make_scene
from bev_runtime.backends import Backend
from bev_runtime.model import ModelPackage
from bev_runtime.pipeline import Pipeline
from bev_runtime.types import BevOutput, Mode

LOSSES = {
    Mode.FULL: lambda _: False,
    Mode.DEGRADED: lambda name: name in ("CAM_FRONT", "CAM_BACK_LEFT"),
    Mode.CAMERA_ONLY: lambda name: name == LIDAR,
    Mode.LIDAR_ONLY: lambda name: name != LIDAR,
}
"""By mode: which sensors are lost."""


class Moment:
    """A made-up moment, run with whatever is left of its sensors.

    Attributes:
        tensors: copies of what the backend gave at the last step, by name.
    """

    def __init__(self, model: ModelPackage, backend: Backend, seed: int = 0) -> None:
        self.scene = make_scene(model.manifest, SceneSpec(0, seed))
        self.pipeline = Pipeline(model.manifest, backend, self.scene.rig)
        self.tensors: dict[str, np.ndarray] = {}
        self._infer, self.pipeline._infer = backend.infer, self._keep

    def step(self, mode: Mode) -> BevOutput:
        """One output without the sensors that a mode lacks."""
        lost, snapshot = LOSSES[mode], self.scene.snapshots[-1]
        frames = {name: frame for name, frame in snapshot.cameras.items() if not lost(name)}
        cloud = None if lost(LIDAR) else snapshot.cloud
        wanted = [*self.pipeline.cameras, *([LIDAR] if self.pipeline.lidar else [])]
        return self.pipeline.step(
            dataclasses.replace(snapshot, cameras=frames, cloud=cloud),
            missing={name: "lost" for name in wanted if lost(name)},
            calibration=self.scene.calibration,
            transforms=self.scene.transforms,
        )

    def _keep(self, *args: Any) -> Any:
        made = self._infer(*args)
        self.tensors = {name: np.array(array) for name, array in made.items()}
        return made
