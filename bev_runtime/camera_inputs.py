"""From camera frames to the network's image tensor, and to cameras in pixels of its feature map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bev_runtime.camera import scale_camera
from bev_runtime.errors import SampleRejected
from bev_runtime.geometry import Float64, pixel_scaling
from bev_runtime.manifest import Manifest
from bev_runtime.preprocess import NetworkInput
from bev_runtime.types import Calibration, CameraFrame, CameraModel, Snapshot

ASPECT_TOLERANCE = 0.01


@dataclass(slots=True)
class _FeatureCamera:
    """A camera in pixels of the feature map, kept while calibration and image size stay."""

    source: CameraModel
    pixel_map: Float64
    model: CameraModel


class CameraInputs:
    """Fills the network's input with all usable cameras.

    Args:
        manifest: says how an image becomes an input.
    """

    def __init__(self, manifest: Manifest) -> None:
        image, view = manifest.cameras.image, manifest.view_transform
        self._input = NetworkInput(image, manifest.cameras.max)
        self._feature_size = (view.feature_width, view.feature_height)
        self._feature_map = pixel_scaling(
            view.feature_width / image.width, view.feature_height / image.height
        )
        self._cameras: dict[str, _FeatureCamera] = {}

    def images(self, count: int) -> NDArray[Any]:
        """The first `count` slots of the tensor, of the manifest's layout and dtype; a view."""
        return self._input.images[:count]

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
            map; for each one that turned out to be unusable, the reason.
        """
        models: dict[str, CameraModel] = {}
        rejected: dict[str, str] = {}
        for name in names:
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
        sent = sent_size_map(camera, frame)
        pixel_map = self._input.write(slot, frame)
        kept = self._cameras.get(frame.name)
        if kept is None or kept.source is not camera or kept.pixel_map is not pixel_map:
            model = scale_camera(camera, self._feature_map @ pixel_map @ sent, self._feature_size)
            kept = self._cameras[frame.name] = _FeatureCamera(camera, pixel_map, model)
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
