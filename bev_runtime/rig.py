"""The operator's rig file: which topics carry which sensors, and how patient the runtime is.

It says nothing about the model. Calibration normally comes from CameraInfo and tf; a rig may give
it instead.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
from pydantic import Field, model_validator

from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.errors import CalibrationError, ConfigError
from bev_runtime.geometry import Float64, rigid_from_quaternion
from bev_runtime.manifest import Strict
from bev_runtime.types import BASE_FRAME, CameraModel
from bev_runtime.yaml_schema import read_yaml

SensorName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_\-]{0,63}$")]
Topic = Annotated[str, Field(min_length=1, max_length=1024)]
Seconds = Annotated[float, Field(gt=0, le=3600)]


Checked = TypeVar("Checked", bound=Strict)


def _checked(schema: Checked, use: Callable[[], object]) -> Checked:
    """Turns what using a value would raise into a mistake of the file."""
    try:
        use()
    except CalibrationError as problem:
        raise ValueError(str(problem)) from None
    return schema


class Pose(Strict):
    """A sensor's pose in base_link: translation in metres, rotation as a quaternion x y z w."""

    translation: tuple[float, float, float]
    rotation_xyzw: tuple[float, float, float, float]

    @model_validator(mode="after")
    def _is_rigid(self) -> Pose:
        return _checked(self, self.matrix)

    def matrix(self) -> Float64:
        """float64 [4, 4]."""
        return rigid_from_quaternion(self.translation, self.rotation_xyzw)


class CameraCalibration(Strict):
    """Intrinsics and pose of one camera; `intrinsics` is K row by row, for images of width x
    height.
    """

    width: int = Field(ge=1, le=65535)
    height: int = Field(ge=1, le=65535)
    intrinsics: tuple[float, float, float, float, float, float, float, float, float]
    distortion_model: str = "none"
    distortion: tuple[float, ...] = ()
    base_from_camera: Pose | None = None

    @model_validator(mode="after")
    def _is_a_camera(self) -> CameraCalibration:
        return _checked(self, lambda: self.camera_model(np.eye(4)))

    def camera_model(self, base_from_camera: Float64) -> CameraModel:
        """Builds and validates the CameraModel."""
        distortion = make_distortion(self.distortion_model, self.distortion or (0.0,))
        size = (self.width, self.height)
        return make_camera(self.intrinsics, distortion, size, base_from_camera)


class CameraConfig(Strict):
    """One camera. `rectified`: the images are rectified, so CameraInfo's P is used and D is
    ignored.

    `rate_hz`: expected rate; a camera slower than 8 Hz needs it, or its silence between frames
    looks like a loss. `stamp_offset_s`: added to every stamp, for a driver whose stamps are early
    or late (say, by half an exposure, or by the delay of a camera's own buffer).
    """

    topic: Topic
    info_topic: Topic | None = None
    frame_id: str | None = None
    rectified: bool = False
    rate_hz: float | None = Field(default=None, gt=0, le=1000)
    stamp_offset_s: float = Field(default=0.0, ge=-1, le=1)
    calibration: CameraCalibration | None = None


class LidarConfig(Strict):
    """The LiDAR; its frame is read from the clouds unless `frame_id` says otherwise.
    `stamp_offset_s`: as of a camera (say, half a turn where stamps are those of its start).
    """

    name: SensorName
    topic: Topic
    frame_id: str | None = None
    rate_hz: float | None = Field(default=None, gt=0, le=1000)
    stamp_offset_s: float = Field(default=0.0, ge=-1, le=1)
    base_from_lidar: Pose | None = None


class Timing(Strict):
    """Patience, in seconds. See docs/timing.md for what each value trades.

    `max_wait_s`: from the first new sample to the output, at most. `timeout_s`: silence after which
    a sensor is lost (or 2.5 periods of its `rate_hz`, if longer). `max_age_s`: oldest sample,
    against the output's stamp, that is still fused.
    `max_delay_s`: a sample that arrives this long after its stamp is rejected as late. `future_s`:
    a stamp this far ahead of the clock is rejected. `recovery_samples` and `min_dwell_s`: good
    samples in a row, and time since the loss, before a lost sensor is trusted again. `heartbeat_s`:
    how often a blind runtime says so. `frozen_samples`: identical payloads in a row, while most
    other cameras change, after which a camera counts as frozen; 0 switches it off.
    """

    max_wait_s: Seconds = 0.07
    timeout_s: Seconds = 0.3
    max_age_s: Seconds = 0.3
    max_delay_s: Seconds = 0.15
    future_s: Seconds = 0.1
    recovery_samples: int = Field(default=3, ge=1, le=100)
    min_dwell_s: float = Field(default=0.5, ge=0, le=60)
    heartbeat_s: Seconds = 0.1
    frozen_samples: int = Field(default=5, ge=0, le=1000)


class Rig(Strict):
    """A vehicle's sensors. `fixed_frame`: the frame in which ego motion is known (null: the vehicle
    is taken as standing).

    `reference`: the sensor whose stamp an output carries; by default the LiDAR if there is one
    (also for a camera-only model, so that the stamp does not depend on which cameras live), else
    the newest sample used.
    """

    base_frame: str = BASE_FRAME
    fixed_frame: str | None = "odom"
    cameras: dict[SensorName, CameraConfig] = Field(default_factory=dict)
    lidar: LidarConfig | None = None
    odometry_topic: Topic | None = None
    reference: SensorName | None = None
    timing: Timing = Timing()

    @model_validator(mode="after")
    def _consistent(self) -> Rig:
        topics = [camera.topic for camera in self.cameras.values()]
        topics += [self.lidar.topic] if self.lidar else []
        doubled = sorted({topic for topic in topics if topics.count(topic) > 1})
        if doubled:
            raise ValueError(f"topics {doubled} are given to two sensors")
        others = {camera.info_topic for camera in self.cameras.values()} | {self.odometry_topic}
        shared = sorted(set(topics) & (others - {None}))
        if shared:
            raise ValueError(
                f"topics {shared} are given as a sensor's and as a camera's info_topic or as "
                "odometry_topic: a topic carries one kind of message"
            )
        if self.lidar and self.lidar.name in self.cameras:
            raise ValueError(f"the name '{self.lidar.name}' is given to a camera and to the LiDAR")
        if self.reference is not None and self.reference not in self.sensor_names:
            raise ValueError(
                f"reference '{self.reference}' is no sensor, known: {list(self.sensor_names)}"
            )
        return self

    @property
    def sensor_names(self) -> tuple[str, ...]:
        """Cameras in order, then the LiDAR."""
        return (*self.cameras, *((self.lidar.name,) if self.lidar else ()))

    @property
    def reference_sensor(self) -> str | None:
        """The configured reference, else the LiDAR, else None."""
        return self.reference or (self.lidar.name if self.lidar else None)

    def timeout_s(self, sensor: str) -> float:
        """Silence after which this sensor is lost."""
        config = self.cameras.get(sensor) or self.lidar
        rate = config.rate_hz if config is not None else None
        return max(self.timing.timeout_s, 2.5 / rate) if rate else self.timing.timeout_s


def load_rig(path: Path) -> Rig:
    """Reads a rig file.

    Raises:
        ConfigError: unreadable, not plain YAML, unknown keys or impossible values, with the place
            of each.
    """
    return read_yaml(path, Rig, f"rig file {path}", ConfigError)
