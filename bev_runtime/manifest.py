"""The schema of a model package's `manifest.yaml`.

The manifest says everything about a model; the operator's rig file says nothing about it. Unknown
keys are errors. `python -m bev_runtime schema` prints the JSON schemas for editors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bev_runtime.manifest_sections import (
    AXIS_TERMS,
    BOX_TERMS,
    GEOMETRY_CHANNELS,
    STATISTICS,
    Accuracy,
    Cameras,
    Detection,
    FusedInput,
    Fusion,
    Grid,
    ImageInput,
    MapOutput,
    Name,
    Pillars,
    Stage,
    Strict,
    Tensor,
)
from bev_runtime.manifest_temporal import (
    InstanceOutput,
    Temporal,
    check_instances,
    check_temporal,
)
from bev_runtime.manifest_views import (
    GroundPlane,
    Learned,
    LiftSplat,
    Radar,
    ViewTransformSpec,
    Voxels,
    check_radar,
)
from bev_runtime.types import BevGrid

__all__ = [
    "Accuracy",
    "Cameras",
    "Detection",
    "FusedInput",
    "Fusion",
    "Grid",
    "GroundPlane",
    "ImageInput",
    "InstanceOutput",
    "Learned",
    "LiftSplat",
    "Manifest",
    "MapOutput",
    "Pillars",
    "Radar",
    "Stage",
    "Strict",
    "Temporal",
    "Tensor",
    "Voxels",
]

FORMAT = "bev-runtime-model-1"
OP_DOMAIN = "bev_runtime"
BRANCHES = ("camera_branch", "lidar_branch")


class Manifest(Strict):
    """The whole manifest.

    `cameras` with `view_transform`, `lidar`, or both; one or more of `map`, `detection` and
    `instances`. `fusion` is needed by a head that reads features of cameras and LiDAR, `temporal`
    by one that reads features of the past. `dimensions`: the largest value of each symbolic
    dimension; buffers are allocated for it once, at load.
    """

    format: Literal["bev-runtime-model-1"]
    name: Name
    version: str
    family: str
    licence: str
    trained_on: str
    description: str = ""
    cameras: Cameras | None = None
    lidar: Pillars | None = None
    grid: Grid
    view_transform: ViewTransformSpec | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)
    dimensions: dict[Name, Annotated[int, Field(ge=1, le=1 << 28)]] = Field(default_factory=dict)
    radar: Radar | None = None
    fusion: Fusion | None = None
    temporal: Temporal | None = None
    map: MapOutput | None = None
    detection: Detection | None = None
    instances: InstanceOutput | None = None
    accuracy: tuple[Accuracy, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stages {names} are not unique")
        self._check_dimensions()
        self._check_sections()
        self._check_images()
        self._check_pillars()
        self._check_head()
        self._check_outputs()
        return self

    def stage(self, name: str) -> Stage | None:
        """The stage of that name, or None."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def pillar_grid(self) -> BevGrid:
        """The grid of the pillars: the model's range in pillars of the section `lidar`.

        Raises:
            ValueError: the model takes no LiDAR.
        """
        if self.lidar is None:
            raise ValueError(f"model '{self.name}' has no section 'lidar': it takes no points")
        grid = self.grid
        return BevGrid(grid.x_min, grid.x_max, grid.y_min, grid.y_max, self.lidar.cell)

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

    def _check_sections(self) -> None:
        """Something goes in and something comes out, and branches have their sections."""
        if self.cameras is None and self.lidar is None:
            raise ValueError("neither 'cameras' nor 'lidar' is given: the model takes no sensor")
        if self.map is None and self.detection is None and self.instances is None:
            raise ValueError(
                "none of 'map', 'detection' and 'instances' is given: the model gives no output"
            )
        if (self.cameras is None) != (self.view_transform is None):
            raise ValueError("'cameras' and 'view_transform' belong together: give both or neither")
        if self.detection is not None:
            self.detection.check_sensors(lidar=self.lidar is not None)
        for branch, section in zip(BRANCHES, (self.cameras, self.lidar), strict=True):
            key = "cameras" if branch == "camera_branch" else "lidar"
            if section is None and self.stage(branch) is not None:
                raise ValueError(f"stage '{branch}' is given but not the section '{key}'")
            if section is not None and self.stage(branch) is None:
                raise ValueError(f"the section '{key}' is given but not the stage '{branch}'")

    def _check_images(self) -> None:
        """The camera branch takes the tensor `images`, and it fits the section `cameras`."""
        stage, cameras, view = self.stage("camera_branch"), self.cameras, self.view_transform
        if stage is None or cameras is None or view is None:
            return
        spec = cameras.image
        size = (spec.height, spec.width)
        shape: tuple[int, ...] = (3, *size) if spec.layout == "nchw" else (*size, 3)
        self._expect(stage, "images", spec.dtype, (cameras.max, *shape), "as 'cameras' says")
        each = view.camera_tensors if isinstance(view, Learned) else {}
        if cameras.geometry is not None:
            shape = (GEOMETRY_CHANNELS, view.feature_height, view.feature_width)
            each = {**each, cameras.geometry: shape}
        for name, shape in each.items():
            self._expect(stage, name, "float32", (cameras.max, *shape), "one for each camera")
            if self._input(stage, name).shape[0] != self._input(stage, "images").shape[0]:
                raise ValueError(
                    f"inputs 'images' and '{name}' of stage '{stage.name}' must have the same "
                    f"first dimension, expected {self._input(stage, 'images').shape[0]}"
                )

    def _check_pillars(self) -> None:
        """The LiDAR branch takes the pillars of the section `lidar` and nothing else."""
        stage, spec = self.stage("lidar_branch"), self.lidar
        if stage is None or spec is None:
            return
        for axis, low, high in (
            ("x", self.grid.x_min, self.grid.x_max),
            ("y", self.grid.y_min, self.grid.y_max),
        ):
            cells = (high - low) / spec.cell
            if not 1 <= cells <= 4096 or abs(cells - round(cells)) > 1e-6:
                raise ValueError(
                    f"lidar: the {axis} range {low}..{high} is {cells:g} pillars of {spec.cell}, "
                    "expected a whole number in 1..4096"
                )
        shape = (1, STATISTICS + spec.slices, *self.pillar_grid.shape)
        self._expect(stage, spec.tensor, "float32", shape, "as the section 'lidar' says")
        if len(stage.inputs) != 1:
            raise ValueError(
                f"stage 'lidar_branch' has inputs {[t.name for t in stage.inputs]}, expected only "
                f"'{spec.tensor}'"
            )

    def _check_head(self) -> None:
        """The head reads what the branches make and the masks of `fusion`."""
        head = self.stage("head")
        branches = [stage for name in BRANCHES if (stage := self.stage(name)) is not None]
        read = {tensor.name: tensor for tensor in head.inputs} if head is not None else {}
        feeding = [stage for stage in branches if {t.name for t in stage.outputs} & set(read)]
        if self.fusion is None and len(feeding) > 1:
            raise ValueError(
                "the head reads features of cameras and LiDAR, expected the section 'fusion': it "
                "says what stands in for the absent ones"
            )
        known = {tensor.name for stage in branches for tensor in stage.outputs}
        fused = (self.fusion.camera, self.fusion.lidar) if self.fusion is not None else (None, None)
        for branch, key, spec in zip(BRANCHES, ("camera", "lidar"), fused, strict=True):
            if spec is None:
                continue
            stage = self.stage(branch)
            made = {tensor.name: tensor for tensor in stage.outputs} if stage is not None else {}
            if head is None or spec.tensor not in made or spec.tensor not in read:
                raise ValueError(
                    f"fusion.{key}.tensor is '{spec.tensor}', expected an output of stage "
                    f"'{branch}' ({sorted(made)}) that the stage 'head' reads ({sorted(read)})"
                )
            tensor = made[spec.tensor]
            if tensor.dtype != "float32" or not all(isinstance(n, int) for n in tensor.shape):
                raise ValueError(
                    f"fusion.{key}.tensor '{spec.tensor}' is {tensor.dtype} {list(tensor.shape)}, "
                    "expected float32 of a fixed shape: zeros must be able to stand in for it"
                )
            shape = (1, 1, *self.grid.to_grid().shape)
            self._expect(head, spec.mask, "float32", shape, f"as fusion.{key}.mask says")
            known.add(spec.mask)
        if self.temporal is not None:
            outputs = {tensor.name: tensor for stage in branches for tensor in stage.outputs}
            check_temporal(self.temporal, self.grid, self.view_transform, outputs, read)
            known |= {self.temporal.past, self.temporal.ego_motion}
        if self.radar is not None:
            check_radar(self.radar, self.view_transform, read)
            known.add(self.radar.tensor)
        if not set(read) <= known:
            raise ValueError(
                f"the head reads {sorted(set(read) - known)}, expected outputs of the branches, "
                f"masks of 'fusion' and the past of 'temporal': {sorted(known)}"
            )

    def _check_outputs(self) -> None:
        """Every decoder's tensor is an output of a stage; detections come on the grid's cells."""
        made = {tensor.name: tensor for stage in self.stages for tensor in stage.outputs}
        wanted: dict[str, str] = {}
        if self.map is not None:
            wanted["map"] = self.map.tensor
            if self.map.sight is not None:
                wanted["sight"] = self.map.sight
        if self.detection is not None:
            wanted |= {"heatmap": self.detection.heatmap, "boxes": self.detection.boxes}
        for what, name in wanted.items():
            if name not in made:
                raise ValueError(
                    f"{what} tensor '{name}' is no output of a stage, known: {sorted(made)}"
                )
        if self.map is not None:
            self.map.check_stage([{tensor.name for tensor in s.outputs} for s in self.stages])
        if self.instances is not None:
            check_instances(self.instances, self.grid, self.view_transform, made)
        planes: list[tuple[str, list[int]]] = []
        if self.detection is not None:
            planes.append((self.detection.heatmap, [len(self.detection.classes)]))
            planes.append((self.detection.boxes, [BOX_TERMS, BOX_TERMS + AXIS_TERMS]))
        if self.map is not None and self.map.sight is not None:
            planes.append((self.map.sight, [1]))
        for name, counts in planes:
            tensor = made[name]
            shapes = [[1, count, *self.grid.to_grid().shape] for count in counts]
            if tensor.dtype != "float32" or list(tensor.shape) not in shapes:
                raise ValueError(
                    f"tensor '{name}' is {tensor.dtype} {list(tensor.shape)}, expected "
                    f"float32 {' or '.join(map(str, shapes))}: planes of classes or box terms"
                )

    def _expect(self, stage: Stage, name: str, dtype: str, shape: Sequence[int], why: str) -> None:
        """Refuses a stage without an input of this name, dtype and largest shape."""
        tensor = self._input(stage, name) if any(t.name == name for t in stage.inputs) else None
        if tensor is not None and tensor.shape:
            first = tensor.shape[0]
            first = self.dimensions[first] if isinstance(first, str) else first
            if (tensor.dtype, first, *tensor.shape[1:]) == (dtype, *shape):
                return
        raise ValueError(
            f"stage '{stage.name}' needs the input '{name}', {dtype} of up to {list(shape)}, "
            f"{why}; its inputs are {[(t.name, t.dtype, list(t.shape)) for t in stage.inputs]}"
        )

    @staticmethod
    def _input(stage: Stage, name: str) -> Tensor:
        return next(tensor for tensor in stage.inputs if tensor.name == name)
