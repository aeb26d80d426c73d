"""From camera frames to the network's image tensor, and to cameras in pixels of its feature map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import scale_camera
from bev_runtime.camera_geometry import ground_geometry
from bev_runtime.errors import SampleRejected
from bev_runtime.geometry import Float64, pixel_scaling
from bev_runtime.manifest import Cameras, Voxels
from bev_runtime.manifest_sections import GEOMETRY_CHANNELS
from bev_runtime.manifest_views import View
from bev_runtime.preprocess import NetworkInput
from bev_runtime.types import Calibration, CameraFrame, CameraModel, Snapshot

ASPECT_TOLERANCE = 0.01
Models = Mapping[str, CameraModel]
"""Cameras by name, in the order of the batch."""


@dataclass(slots=True)
class _FeatureCamera:
    """A camera in pixels of the feature map, kept while calibration and image size stay."""

    source: CameraModel
    pixel_map: Float64
    model: CameraModel
    geometry: NDArray[np.float32] | None


class CameraInputs:
    """Fills the network's input with all usable cameras.

    Args:
        cameras: says how an image becomes an input.
        view: gives the size of the feature map.
        num_threads: cameras that are decoded at once.
    """

    def __init__(self, cameras: Cameras, view: View, *, num_threads: int = 1) -> None:
        self._pool = ThreadPoolExecutor(num_threads, "decode") if num_threads > 1 else None
        image = cameras.image
        self._input = NetworkInput(image, cameras.max)
        self._geometry_name = cameras.geometry
        self._has_geometry = cameras.geometry is not None
        shape = (cameras.max, GEOMETRY_CHANNELS, view.feature_height, view.feature_width)
        self._geometry = np.zeros(shape if cameras.geometry else 0, np.float32)
        self._feature_size = (view.feature_width, view.feature_height)
        self._feature_map = pixel_scaling(
            view.feature_width / image.width, view.feature_height / image.height
        )
        if view.feature_pixels is not None:
            self._feature_map = np.diag([*view.feature_pixels.scale, 1.0])
            self._feature_map[:2, 2] = view.feature_pixels.offset
        self._is_scaled = view.resized_pixels == "scaled"
        self._reference = view.reference_camera if isinstance(view, Voxels) else None
        self._cameras: dict[str, _FeatureCamera] = {}

    def tensors(self, count: int) -> dict[str, NDArray[Any]]:
        """The first `count` slots of the camera branch's inputs, by name; views."""
        tensors: dict[str, NDArray[Any]] = {"images": self._input.images[:count]}
        if self._geometry_name is not None:
            tensors[self._geometry_name] = self._geometry[:count]
        return tensors

    def fill(
        self, names: Sequence[str], snapshot: Snapshot, calibration: Calibration
    ) -> tuple[dict[str, CameraModel], dict[str, str]]:
        """Writes the images of all usable cameras into consecutive slots.

        Args:
            names: the model's cameras in order; those that are not in the snapshot are passed over.
            snapshot: the frames.
            calibration: has every camera of the snapshot.

        Returns:
            For each camera written, in the order of the slots, its model in pixels of the feature
            map; for each one that turned out to be unusable, the reason. Without the pose of the
            camera that the model's volume is fixed to, that is all of them.
        """
        live = [snapshot.cameras[name] for name in names if name in snapshot.cameras]
        if self._reference is not None and self._reference not in calibration.cameras:
            return {}, {frame.name: f"no_pose_of_{self._reference}" for frame in live}
        cameras = [calibration.cameras[frame.name] for frame in live]
        work = (self._try_write, range(len(live)), live, cameras)
        each = list(self._pool.map(*work) if self._pool is not None else map(*work))
        models: dict[str, CameraModel] = {}
        rejected: dict[str, str] = {}
        for slot, (frame, found) in enumerate(zip(live, each, strict=True)):
            if isinstance(found, SampleRejected):
                rejected[frame.name] = found.reason
                continue
            if slot != len(models):  # a camera before it was rejected: close the gap
                for tensor in (self._input.images, *([self._geometry] * self._has_geometry)):
                    np.copyto(tensor[len(models)], tensor[slot])
            models[frame.name] = found
        return models, rejected

    def _try_write(
        self, slot: int, frame: CameraFrame, camera: CameraModel
    ) -> CameraModel | SampleRejected:
        """As `_write`, with the rejection as a value, for other threads."""
        try:
            return self._write(slot, frame, camera)
        except SampleRejected as problem:
            return problem

    def _write(self, slot: int, frame: CameraFrame, camera: CameraModel) -> CameraModel:
        """Fills one slot of the network's input; gives the camera in pixels of the feature map."""
        sent = sent_size_map(camera, frame)
        pixel_map = self._input.write(slot, frame)
        kept = self._cameras.get(frame.name)
        if kept is None or kept.source is not camera or kept.pixel_map is not pixel_map:
            resized = pixel_map @ sent
            if self._is_scaled:  # moves pixel centres from integers to halves
                resized[:2, 2] += (1 - resized.diagonal()[:2]) / 2
            model = scale_camera(camera, self._feature_map @ resized, self._feature_size)
            geometry = ground_geometry(model) if self._geometry_name else None
            kept = _FeatureCamera(camera, pixel_map, model, geometry)
            self._cameras[frame.name] = kept
        if kept.geometry is not None:
            np.copyto(self._geometry[slot], kept.geometry)
        return kept.model


def sent_size_map(camera: CameraModel, frame: CameraFrame) -> Float64:
    """float64 [3, 3] from the pixels that a camera was calibrated for to those of a frame.

    Raises:
        SampleRejected: size_mismatch, where the frame has another aspect ratio.
    """
    image, (width, height) = frame.image, camera.size
    aspect = image.width * height / (image.height * width)
    if abs(aspect - 1) > ASPECT_TOLERANCE:
        raise SampleRejected(
            "size_mismatch",
            f"{frame.name}: image is {image.width}x{image.height}, its calibration is for "
            f"{width}x{height}: another aspect ratio, so the intrinsics cannot be scaled",
        )
    return pixel_scaling(image.width / width, image.height / height)
