"""The rig's calibration, assembled from the rig file, CameraInfo and the transform tree, and
replaced whole on change.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.errors import CalibrationError, TransformError
from bev_runtime.geometry import Float64, check_rigid
from bev_runtime.rig import Rig
from bev_runtime.transforms import LATEST, TransformTree
from bev_runtime.types import Calibration, CameraModel, Distortion


class RegionOfInterest(Protocol):
    """sensor_msgs/RegionOfInterest."""

    x_offset: int
    y_offset: int


class Header(Protocol):
    """std_msgs/Header."""

    frame_id: str


class CameraInfo(Protocol):
    """What is read of a sensor_msgs/CameraInfo."""

    header: Header
    width: int
    height: int
    distortion_model: str
    d: NDArray[np.float64]
    k: NDArray[np.float64]
    p: NDArray[np.float64]
    binning_x: int
    binning_y: int
    roi: RegionOfInterest


_Intrinsics = tuple[Float64, Distortion, tuple[int, int]]


class CalibrationStore:
    """Collects what is known of the rig's geometry and hands out immutable `Calibration`s.

    Each sensor that cannot be calibrated has its cause in `problems`; the others are not affected.
    """

    def __init__(self, rig: Rig, transforms: TransformTree) -> None:
        self._rig = rig
        self._transforms = transforms
        self._frames = {name: camera.frame_id for name, camera in rig.cameras.items()}
        self._lidar_frame = rig.lidar.frame_id if rig.lidar else None
        self._intrinsics: dict[str, _Intrinsics | CalibrationError] = {}
        self._raw_info: dict[str, tuple[object, ...]] = {}
        self._tree_version = -1
        self._changed = True
        self.problems: dict[str, str] = {}
        self._current = Calibration({}, None)

    def on_camera_info(self, name: str, info: CameraInfo) -> None:
        """Takes a camera's intrinsics; a message equal to the last one costs a comparison."""
        config = self._rig.cameras[name]
        if config.calibration is not None:
            return
        if self._frames[name] is None:  # until an image says its own
            self.on_frame_id(name, info.header.frame_id.lstrip("/"))
        roi = (int(info.roi.x_offset), int(info.roi.y_offset))
        binning = (max(int(info.binning_x), 1), max(int(info.binning_y), 1))
        numbers = info.p if config.rectified else info.k
        raw = (
            int(info.width),
            int(info.height),
            info.distortion_model,
            info.d.tobytes(),
            numbers.tobytes(),
            roi,
            binning,
        )
        if self._raw_info.get(name) == raw:
            return
        self._raw_info[name], self._changed = raw, True
        try:
            self._intrinsics[name] = _read_intrinsics(info, config.rectified, roi, binning)
        except CalibrationError as problem:
            self._intrinsics[name] = problem

    def on_frame_id(self, name: str, frame_id: str) -> None:
        """Takes the frame that a sensor's own messages name, unless the rig file says another."""
        if name in self._frames:
            if self._rig.cameras[name].frame_id is None and self._frames[name] != frame_id:
                self._frames[name], self._changed = frame_id, True
        elif self._rig.lidar and self._rig.lidar.frame_id is None and self._lidar_frame != frame_id:
            self._lidar_frame, self._changed = frame_id, True

    def current(self) -> Calibration:
        """The newest calibration; the same object until something changes."""
        if self._changed or self._tree_version != self._transforms.version:
            self._changed, self._tree_version = False, self._transforms.version
            self._rebuild()
        return self._current

    def _rebuild(self) -> None:
        problems: dict[str, str] = {}
        cameras: dict[str, CameraModel] = {}
        for name in self._rig.cameras:
            try:
                cameras[name] = self._camera(name)
            except CalibrationError as problem:
                problems[name] = str(problem)
        lidar = None
        if self._rig.lidar is not None:
            try:
                lidar = self._lidar_pose()
            except CalibrationError as problem:
                problems[self._rig.lidar.name] = str(problem)
        self.problems = problems
        self._current = Calibration(cameras, lidar, self._current.version + 1)

    def _camera(self, name: str) -> CameraModel:
        given = self._rig.cameras[name].calibration
        if given is not None:
            pose = (
                given.base_from_camera.matrix()
                if given.base_from_camera
                else self._static_pose(self._frames[name])
            )
            return given.camera_model(pose)
        intrinsics = self._intrinsics.get(name)
        if intrinsics is None:
            topic = self._rig.cameras[name].info_topic or "a CameraInfo topic"
            raise CalibrationError(
                f"no CameraInfo yet, expected on {topic} (or give `calibration` in the rig file)"
            )
        if isinstance(intrinsics, CalibrationError):
            raise intrinsics
        matrix, distortion, size = intrinsics
        return make_camera(matrix, distortion, size, self._static_pose(self._frames[name]))

    def _lidar_pose(self) -> Float64:
        assert self._rig.lidar is not None
        given = self._rig.lidar.base_from_lidar
        pose = given.matrix() if given else self._static_pose(self._lidar_frame)
        check_rigid(pose, "base_from_lidar")
        return pose

    def _static_pose(self, frame: str | None) -> Float64:
        if not frame:
            raise CalibrationError(
                "its frame is unknown: no message with a frame_id yet (or set `frame_id` in the "
                "rig file)"
            )
        try:
            return self._transforms.lookup(self._rig.base_frame, frame, LATEST)
        except TransformError as problem:
            raise CalibrationError(
                f"no static transform from '{frame}' to '{self._rig.base_frame}': {problem} "
                "(it may also be given in the rig file)"
            ) from None


def _read_intrinsics(
    info: CameraInfo, rectified: bool, roi: tuple[int, int], binning: tuple[int, int]
) -> _Intrinsics:
    """K (or P when rectified) of the images as they are sent: shifted by the region of interest,
    scaled by binning.
    """
    matrix = info.p.reshape(3, 4)[:, :3].copy() if rectified else info.k.reshape(3, 3).copy()
    matrix[0, 2] -= roi[0]
    matrix[1, 2] -= roi[1]
    matrix[:2] /= np.array(binning, np.float64)[:, None]
    size = (int(info.width) // binning[0], int(info.height) // binning[1])
    distortion = (
        make_distortion("none", (0.0,))
        if rectified
        else make_distortion(info.distortion_model, info.d if info.d.size else (0.0,))
    )
    make_camera(
        matrix, distortion, size, np.eye(4)
    )  # refuses what cannot project, before it is stored
    return matrix, distortion, size
