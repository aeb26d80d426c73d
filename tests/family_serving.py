"""Runs an exported package through the pipeline, with pictures of the network's own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.backends.onnxruntime import OnnxRuntimeBackend
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevOutput, Calibration, CameraFrame, CameraModel, Snapshot

STAMP_NS = 1_700_000_000_000_000_000
Arrays = dict[str, NDArray[Any]]


class KeepingBackend(OnnxRuntimeBackend):
    """Keeps the tensors and the table of the last inference."""

    def infer(
        self,
        stages: Sequence[str],
        inputs: Mapping[str, NDArray[Any]],
        table: BevPoolTable | None = None,
    ) -> Mapping[str, NDArray[Any]]:
        made = super().infer(stages, inputs, table)
        self.tensors: Arrays = {name: array.copy() for name, array in made.items()}
        self.images = inputs["images"].copy() if "images" in inputs else None
        self.table = table
        return made


class Served:
    """A package on a rig of the given cameras, in that order."""

    def __init__(self, package: Path, names: Sequence[str], threads: int = 1) -> None:
        model = load_model(package)
        cameras = {name: {"topic": f"/{name}/image"} for name in names}
        self.rig = Rig.model_validate({"cameras": cameras})
        self.backend = KeepingBackend(model, num_threads=threads)
        self.pipeline = Pipeline(model.manifest, self.backend, self.rig)

    def step(
        self,
        pictures: Mapping[str, NDArray[np.uint8]],
        calibration: Mapping[str, CameraModel],
        missing: Mapping[str, str] | None = None,
    ) -> BevOutput:
        """One output from pictures uint8 [3, H, W] by camera."""
        frames = {
            name: CameraFrame.from_rgb(name, STAMP_NS, np.ascontiguousarray(np.moveaxis(p, 0, 2)))
            for name, p in pictures.items()
        }
        return self.pipeline.step(
            Snapshot(STAMP_NS, frames, None),
            missing=missing or {},
            calibration=Calibration(dict(calibration), None),
            transforms=TransformTree(),
        )


def pinhole(
    intrinsics: NDArray[np.floating], size: tuple[int, int], ego_from_camera: NDArray[np.floating]
) -> CameraModel:
    """A camera without distortion; the pose is made rigid to float64 precision."""
    pose = np.asarray(ego_from_camera, np.float64).copy()
    left, _, right = np.linalg.svd(pose[:3, :3])
    pose[:3, :3] = left @ right
    return make_camera(intrinsics, make_distortion("none", []), size, pose)
