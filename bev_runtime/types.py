"""Data that crosses module borders: frozen dataclasses, keyed by sensor name.

Frames follow REP-103 (x forward, y left, z up; metres, radians, m/s). `base_link` is the ego frame
and every output is in it. Camera frames are optical (z forward, x right, y down). Times are integer
nanoseconds since the epoch of the stamps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64

BASE_FRAME = "base_link"


class Mode(str, Enum):
    """What an output was made from, best first."""

    FULL = "FULL"
    DEGRADED = "DEGRADED"
    CAMERA_ONLY = "CAMERA_ONLY"
    LIDAR_ONLY = "LIDAR_ONLY"
    BLIND = "BLIND"


@dataclass(frozen=True, slots=True)
class RawImage:
    """Pixels exactly as a sensor_msgs/Image holds them; a view of the message, never a copy.

    `data`: uint8 [height, step], `step >= width * bytes_per_pixel(encoding)`. `encoding`: a ROS
    encoding name.
    """

    data: NDArray[np.uint8]
    width: int
    height: int
    encoding: str
    is_bigendian: bool = False


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A compressed picture whose header was read and whose pixels were not.

    `data`: uint8 [bytes]. `codec`: `jpeg` or `png`, found from the first bytes. `width`, `height`:
    from the header.
    """

    data: NDArray[np.uint8]
    width: int
    height: int
    codec: str


@dataclass(frozen=True, slots=True)
class CameraFrame:
    """One image of one camera. Pixels are decoded late (see docs/adr/0003): only frames that are
    used cost a decode.
    """

    name: str
    stamp_ns: int
    image: RawImage | EncodedImage

    @classmethod
    def from_rgb(cls, name: str, stamp_ns: int, rgb: NDArray[np.uint8]) -> CameraFrame:
        """Wraps an array uint8 [H, W, 3], RGB, C-contiguous, without copying it."""
        height, width, channels = rgb.shape
        if channels != 3 or rgb.dtype != np.uint8 or not rgb.flags.c_contiguous:
            raise ValueError(
                f"expected a C-contiguous uint8 [H, W, 3] array, got {rgb.dtype} {rgb.shape}"
            )
        return cls(name, stamp_ns, RawImage(rgb.reshape(height, width * 3), width, height, "rgb8"))


@dataclass(frozen=True, slots=True)
class PointCloud:
    """One LiDAR sweep: `points` float32 [N, 4], x y z in metres and intensity, in the sensor's
    frame.

    All points are finite and within range; `removed` counts, by reason, those that were not.
    """

    name: str
    stamp_ns: int
    points: NDArray[np.float32]
    removed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Distortion:
    """Lens distortion in the conventions of OpenCV and sensor_msgs/CameraInfo.

    `model`: `none`, `plumb_bob` (k1 k2 p1 p2 k3), `rational_polynomial` (k1 k2 p1 p2 k3 k4 k5 k6)
    or `equidistant` (k1 k2 k3 k4 over the angle, OpenCV fisheye). `coefficients`: float64 [8],
    padded with zeros.
    """

    model: str
    coefficients: Float64


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A calibrated camera.

    `intrinsics`: float64 [3, 3], pixels, integer coordinates at pixel centres. `size`: (width,
    height) that the intrinsics belong to. `ego_from_camera`: float64 [4, 4], rigid, optical frame
    to base_link.
    """

    intrinsics: Float64
    distortion: Distortion
    size: tuple[int, int]
    ego_from_camera: Float64


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything known of the rig's geometry at one moment; replaced whole, never edited.

    `ego_from_lidar`: float64 [4, 4] or None while unknown. `version` grows by one with each change.
    """

    cameras: Mapping[str, CameraModel]
    ego_from_lidar: Float64 | None
    version: int = 0


@dataclass(frozen=True, slots=True)
class BevGrid:
    """A regular grid on the ground plane of base_link, metres.

    Arrays over it are indexed [row = x forward, column = y left]; cell (0, 0) touches (x_min,
    y_min).
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell: float

    @property
    def rows(self) -> int:
        """Number of cells along x."""
        return round((self.x_max - self.x_min) / self.cell)

    @property
    def columns(self) -> int:
        """Number of cells along y."""
        return round((self.y_max - self.y_min) / self.cell)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    def centres(self) -> NDArray[np.float32]:
        """x, y of the cell centres, float32 [rows, columns, 2]."""
        x = self.x_min + (np.arange(self.rows) + 0.5) * self.cell
        y = self.y_min + (np.arange(self.columns) + 0.5) * self.cell
        return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes as a struct of arrays.

    `boxes`: float32 [N, 9] = x y z l w h yaw vx vy in base_link, gravity centre, over-ground
    velocity. `scores`: float32 [N].
    `labels`: int32 [N], indices into `classes`.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int32]
    classes: tuple[str, ...] = ()

    @classmethod
    def empty(cls, classes: tuple[str, ...] = ()) -> Detections:
        """No boxes."""
        return cls(
            np.empty((0, 9), np.float32), np.empty(0, np.float32), np.empty(0, np.int32), classes
        )


@dataclass(frozen=True, slots=True)
class BevMap:
    """Map layers over a grid: `scores` float32 [C, rows, columns] in 0..1, `observed` bool [rows,
    columns].

    Where `observed` is False no live sensor sees the cell, its scores are 0 and mean nothing.
    """

    grid: BevGrid
    layers: tuple[str, ...]
    scores: NDArray[np.float32]
    observed: NDArray[np.bool_]

    def copy(self) -> BevMap:
        """A deep copy that outlives the pipeline's buffers."""
        return BevMap(self.grid, self.layers, self.scores.copy(), self.observed.copy())


@dataclass(frozen=True, slots=True)
class Instances:
    """Objects on the grid, now and as they are predicted to move.

    `times_s`: T times after the output's stamp, seconds; the first is 0. `ids`: int16 [T, rows,
    columns], 0 where there is no object, else 1 + the object's place in the other arrays. `tracks`:
    int64 [n], the same number from output to output for the same object. `centres`: float32
    [n, T, 2], x y of the mean of its cells in base_link of the output's stamp, metres, NaN when it
    has none. `scores`: float32 [n], mean probability over its present cells. `observed`: bool [n],
    whether a live sensor sees the present centre now; the others are known from the past only.
    """

    grid: BevGrid
    object_class: str
    times_s: tuple[float, ...]
    ids: NDArray[np.int16]
    tracks: NDArray[np.int64]
    centres: NDArray[np.float32]
    scores: NDArray[np.float32]
    observed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class History:
    """How many of the `wanted` past moments a temporal model was given; `reason` says why not
    all.
    """

    used: int
    wanted: int
    reason: str


@dataclass(frozen=True, slots=True)
class FusionPlan:
    """Which sensors the next output is made from, and why."""

    mode: Mode
    cameras: tuple[str, ...]
    use_lidar: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest usable sample of every sensor at one trigger.

    `reference_stamp_ns` is the stamp of the output. A sensor without a usable sample is a missing
    key.
    """

    reference_stamp_ns: int
    cameras: Mapping[str, CameraFrame]
    cloud: PointCloud | None


@dataclass(frozen=True, slots=True)
class BevOutput:
    """One output of the pipeline.

    Arrays in `detections`, `map` and `instances` belong to the pipeline and are valid until its
    next step; copy what you keep. `map` is None when the model has no map layers or the pipeline is
    blind, and so is `instances`. `history` is None for a model without memory.
    `sensor_age_ms`: reference stamp minus sample stamp of every sensor that took part.
    `motion_compensated`: False when the ego motion between a camera's stamp and the reference stamp
    was unknown and taken as none. `rejected`: sensors whose sample turned out to be unusable, and
    the reason.
    `timings_ms`: wall time by stage.
    """

    stamp_ns: int
    frame_id: str
    mode: Mode
    reason: str
    detections: Detections
    map: BevMap | None
    sensor_age_ms: Mapping[str, float]
    motion_compensated: bool
    rejected: Mapping[str, str]
    timings_ms: Mapping[str, float]
    instances: Instances | None = None
    history: History | None = None
