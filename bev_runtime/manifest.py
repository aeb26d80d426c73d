"""The schema of a model package's `manifest.yaml`.

The manifest says everything about a model; the operator's rig file says nothing about it. Unknown
keys are errors. `python -m bev_runtime schema` prints the JSON schemas for editors.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from bev_runtime.types import BevGrid

FORMAT = "bev-runtime-model-1"
OP_DOMAIN = "bev_runtime"

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
    the rig's order.
    """

    names: Literal["any"] | tuple[Name, ...]
    max: int = Field(ge=1, le=64)
    image: ImageInput

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


class GroundPlane(Strict):
    """Constant weights: each cell samples its centre at height `z` bilinearly in every camera that
    sees it, and averages. A camera sees no further than `max_range` metres from itself.
    """

    kind: Literal["ground_plane"]
    z: float = 0.0
    feature_width: int = Field(ge=1, le=4096)
    feature_height: int = Field(ge=1, le=4096)
    max_range: float = Field(default=1e3, gt=0)


class LiftSplat(Strict):
    """Depth from the network: D bins from `depth_min`, `depth_step` apart, metres along the optical
    axis.
    """

    kind: Literal["lift_splat"]
    feature_width: int = Field(ge=1, le=4096)
    feature_height: int = Field(ge=1, le=4096)
    depth_min: float = Field(gt=0)
    depth_step: float = Field(gt=0)
    depth_bins: int = Field(ge=1, le=512)
    z_min: float = -10.0
    z_max: float = 10.0


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

    name: Literal["camera_branch", "head"]
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
    """A map decoder: `tensor` is [1, rows, columns, C], or [1, C, rows, columns] as nchw."""

    tensor: str
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


class Accuracy(Strict):
    """One measured row: the sensor condition, the data it was measured on, and metric values by
    name.
    """

    condition: str
    dataset: str
    metrics: dict[str, float]


class Manifest(Strict):
    """The whole manifest.

    `dimensions`: the largest value of each symbolic dimension; buffers are allocated for it once,
    at load.
    """

    format: Literal["bev-runtime-model-1"]
    name: Name
    version: str
    family: str
    licence: str
    trained_on: str
    description: str = ""
    cameras: Cameras
    grid: Grid
    view_transform: Annotated[GroundPlane | LiftSplat, Field(discriminator="kind")]
    stages: tuple[Stage, ...] = Field(min_length=1)
    dimensions: dict[Name, Annotated[int, Field(ge=1, le=1 << 28)]] = {}
    map: MapOutput
    accuracy: tuple[Accuracy, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages {names} are not unique")
        self._check_dimensions()
        self._check_images()
        tensors = {tensor.name for stage in self.stages for tensor in stage.outputs}
        if self.map.tensor not in tensors:
            raise ValueError(
                f"map tensor '{self.map.tensor}' is no output of a stage, known: {sorted(tensors)}"
            )
        return self

    def _check_dimensions(self) -> None:
        """Each symbol of a shape has a largest value, and nothing else has one."""
        used = {
            item
            for stage in self.stages
            for tensor in (*stage.inputs, *stage.outputs)
            for item in tensor.shape
            if isinstance(item, str)
        }
        if used != set(self.dimensions):
            raise ValueError(
                f"'dimensions' gives {sorted(self.dimensions)}, expected the largest value of each "
                f"of {sorted(used)}"
            )

    def _check_images(self) -> None:
        """The camera branch takes the tensor `images`, and it fits the section `cameras`."""
        stage = self.stage("camera_branch")
        if stage is None:
            return
        spec = self.cameras.image
        size = (spec.height, spec.width)
        expected = (3, *size) if spec.layout == "nchw" else (*size, 3)
        for tensor in stage.inputs:
            if tensor.name == "images" and len(tensor.shape) == 4:
                count = tensor.shape[0]
                count = self.dimensions[count] if isinstance(count, str) else count
                if (count, tensor.shape[1:], tensor.dtype) == (
                    self.cameras.max,
                    expected,
                    spec.dtype,
                ):
                    return
        raise ValueError(
            f"stage 'camera_branch' needs the input 'images', {spec.dtype} of up to "
            f"{self.cameras.max} x {list(expected)}, as the section 'cameras' says; its inputs are "
            f"{[(t.name, t.dtype, list(t.shape)) for t in stage.inputs]}"
        )

    def stage(self, name: str) -> Stage | None:
        """The stage of that name, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)
