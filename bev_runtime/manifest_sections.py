"""The sections of a model package's `manifest.yaml`; see `bev_runtime.manifest`."""

from __future__ import annotations

from collections.abc import Sequence, Set
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bev_runtime.types import BevGrid

GEOMETRY_CHANNELS = 4
"""Of `camera_geometry.ground_geometry`."""
STATISTICS = 8
"""Channels of `pillars.PillarEncoder` before those of the slices."""
BOX_TERMS, AXIS_TERMS = 10, 2
"""Channels of the box tensor, and those that it may have besides."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Dimension = Annotated[int, Field(ge=0, le=1 << 28)] | Name


class Strict(BaseModel):
    """Base of every schema: unknown keys are errors, nothing is coerced, instances are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=False)


class ImageInput(Strict):
    """How one camera image becomes one network input.

    `fit`: `stretch` resizes width and height independently; `cover` keeps the aspect ratio, fills
    the input and crops what is over, where `anchor` (x, y in 0..1) says which part stays (y = 1
    keeps the bottom). Values are then `(pixel - mean) / std` with pixels in 0..255; dtype uint8
    takes pixels unchanged and leaves the arithmetic to the network.
    """

    width: int = Field(ge=8, le=8192)
    height: int = Field(ge=8, le=8192)
    fit: Literal["stretch", "cover"]
    anchor: tuple[Share, Share] = (0.5, 1.0)
    color: Literal["rgb", "bgr"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "uint8"] = "float32"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @field_validator("std")
    @classmethod
    def _nonzero(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError(f"std must be positive, got {value}")
        return value


class Cameras(Strict):
    """The cameras that a model takes. `names: any` means that every camera of the rig is taken, in
    the rig's order. `geometry`: a tensor float32 [N, 4, feature_height, feature_width] that the
    camera branch also takes, see `camera_geometry.ground_geometry`.
    """

    names: Literal["any"] | tuple[Name, ...]
    max: int = Field(ge=1, le=64)
    image: ImageInput
    geometry: str | None = None

    @model_validator(mode="after")
    def _count(self) -> Cameras:
        if self.names != "any" and len(self.names) != self.max:
            raise ValueError(f"max is {self.max} but {len(self.names)} names are given")
        return self


class Grid(Strict):
    """The BEV grid in base_link, metres; (x_max - x_min) and (y_max - y_min) are whole numbers of
    cells.
    """

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    cell: float = Field(gt=0.01, le=100)

    @model_validator(mode="after")
    def _whole_cells(self) -> Grid:
        for axis, low, high in (("x", self.x_min, self.x_max), ("y", self.y_min, self.y_max)):
            cells = (high - low) / self.cell
            if not 1 <= cells <= 4096 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(
                    f"{axis} range {low}..{high} is {cells:g} cells of {self.cell}, expected a "
                    "whole number in 1..4096"
                )
        return self

    def to_grid(self) -> BevGrid:
        """The runtime's grid type."""
        return BevGrid(self.x_min, self.x_max, self.y_min, self.y_max, self.cell)


class Tensor(Strict):
    """A tensor by name. `shape` mixes numbers and symbols; a symbol has one value per inference."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    dtype: Literal["float32", "float16", "int32", "int64", "uint8", "bool"]
    shape: tuple[Dimension, ...]


class Stage(Strict):
    """One ONNX file of the package.

    `independent_cameras`: each camera's features depend on its own image alone, so a backend may
    run cameras one by one, and dropping one leaves the others bit-equal.
    """

    name: Literal["camera_branch", "lidar_branch", "head"]
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    independent_cameras: bool = False

    @field_validator("file")
    @classmethod
    def _inside(cls, value: str) -> str:
        path = PurePosixPath(value)
        if (
            path.is_absolute()
            or ".." in path.parts
            or "\\" in value
            or "\0" in value
            or not path.name
        ):
            raise ValueError(
                f"file '{value}' must be a relative path inside the model folder, without '..'"
            )
        return value


class MapOutput(Strict):
    """A map decoder: `tensor` is [1, rows, columns, C], or [1, C, rows, columns] as nchw.

    `sight`: logits float32 [1, 1, rows, columns], above 0 where the network takes a live sensor to
    see the ground; elsewhere, as behind a building, the map is not observed.
    """

    tensor: str
    sight: str | None = None
    layers: tuple[Name, ...]
    layout: Literal["nhwc", "nchw"] = "nhwc"
    activation: Literal["none", "sigmoid"] = "none"
    thresholds: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> MapOutput:
        if len(self.layers) != len(self.thresholds) or not self.layers:
            raise ValueError(
                f"{len(self.layers)} layers but {len(self.thresholds)} thresholds: give one "
                "threshold per layer"
            )
        return self

    def check_stage(self, outputs: Sequence[Set[str]]) -> None:
        """Refuses sight from another stage than the map: without its sensor a stage is not run.

        Args:
            outputs: names of the tensors that each stage makes.

        Raises:
            ValueError: no stage makes both.
        """
        if self.sight is not None and not any({self.tensor, self.sight} <= s for s in outputs):
            raise ValueError(
                f"sight tensor '{self.sight}' and map tensor '{self.tensor}' come from different "
                "stages, expected one: without its sensor a stage is not run"
            )


class Pillars(Strict):
    """How a cloud becomes the tensor float32 [1, 8 + slices, rows, columns] of the LiDAR branch.

    See `pillars.PillarEncoder`. The pillars cover the model's grid in cells of `cell` metres.
    Points nearer to the LiDAR than `min_range` metres are the vehicle itself and are left out.
    """

    kind: Literal["pillars"]
    tensor: str
    cell: float = Field(gt=0.01, le=10)
    z_min: float = Field(ge=-1000, le=1000)
    slices: int = Field(ge=1, le=64)
    slice_height: float = Field(ge=0.01, le=100)
    intensity_scale: float = Field(gt=0, le=1e9)
    min_range: float = Field(default=0.0, ge=0, le=100)


class FusedInput(Strict):
    """Features of one modality: the `tensor` that its branch makes, and the `mask` float32
    [1, 1, rows, columns] that tells the head where a live sensor of it looks.
    """

    tensor: str
    mask: str


class Fusion(Strict):
    """A head that takes whatever features exist. Where a mask is 0 the features must not matter;
    for a modality that is absent the branch is not run and its features are zeros.
    """

    camera: FusedInput
    lidar: FusedInput


class Detection(Strict):
    """Boxes at the peaks of a heatmap, as in CenterPoint.

    `heatmap`: logits float32 [1, classes, rows, columns]. `boxes`: float32 [1, 10 or 12, rows,
    columns]: centre minus cell centre along x and y in cells, z of the centre, log length, width
    and height, sine and cosine of the yaw, velocity along x and y. With 12, the last two are sine
    and cosine of twice the yaw: they alone give the axis, and the first two only which end of it
    is the front. `nms_radius`: metres, one per class; of two boxes of a class whose centres are
    nearer, the better one stays. `velocity`: whose velocities are told: the `network`'s terms;
    those of `tracks`, where the same box was in earlier outputs, for a network that sees one moment
    only; or none, `unknown`. Boxes are followed only while a LiDAR finds them.
    """

    kind: Literal["center_heatmap"]
    heatmap: str
    boxes: str
    classes: tuple[Name, ...] = Field(min_length=1)
    score_threshold: float = Field(gt=0, lt=1)
    max_detections: int = Field(ge=1, le=1000)
    nms_radius: tuple[Annotated[float, Field(ge=0, le=20)], ...]
    velocity: Literal["network", "tracks", "unknown"] = "network"

    @model_validator(mode="after")
    def _same_length(self) -> Detection:
        if len(self.classes) != len(self.nms_radius):
            raise ValueError(
                f"{len(self.classes)} classes but {len(self.nms_radius)} nms_radius: give one "
                "per class"
            )
        return self

    def check_sensors(self, *, lidar: bool) -> None:
        """Raises a ValueError if boxes shall be followed that no LiDAR finds."""
        if self.velocity == "tracks" and not lidar:
            raise ValueError(
                "detection.velocity is 'tracks' but the model takes no LiDAR: boxes that cameras "
                "alone find are not followed, give 'network' or 'unknown'"
            )


class Accuracy(Strict):
    """One measured row: the sensor condition, the data it was measured on, and metric values by
    name.
    """

    condition: str
    dataset: str
    metrics: dict[str, float]
