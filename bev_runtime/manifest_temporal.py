"""The sections of a manifest for models that remember and predict; see `bev_runtime.manifest`."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bev_runtime.manifest_sections import Grid, Name, Strict, Tensor
from bev_runtime.manifest_views import ViewTransformSpec, Voxels

Tensors = Mapping[str, Tensor]
View = ViewTransformSpec | None

EGO_MOTION_TERMS = 6
"""Translation x y z and angles about x y z."""
MAX_SPAN_S = 8.0
"""Of the history; the transform tree knows ten seconds."""


class Temporal(Strict):
    """A head that also reads BEV features of the past, kept by the runtime and moved to the
    present.

    `frames`: how many moments the head reads, the present one included, `interval_s` apart.
    `features`: the tensor float32 [1, rows, columns, C] of a branch that is kept. `past`: the
    head's input float32 [1, frames - 1, rows, columns, C], oldest first. `ego_motion`: the head's
    input float32 [1, frames, 6]; row t is the motion from frame t - 1 to frame t (coordinates at
    t - 1 to coordinates at t) as x y z and the angles of Rx Ry Rz, row 0 is zero.

    A kept map is used for a moment if it is at most `tolerance_s` from it; see
    `bev_runtime.temporal`. `warp`: `rigid` moves a map with the plane, `fiery` does as FIERY and
    PowerBEV were trained; see `bev_runtime.planar_warp.source_map`.
    """

    frames: int = Field(ge=2, le=16)
    interval_s: float = Field(ge=0.01, le=10)
    tolerance_s: float = Field(ge=0.001, le=5)
    features: str
    past: str
    ego_motion: str
    warp: Literal["rigid", "fiery"] = "rigid"

    @model_validator(mode="after")
    def _tolerable(self) -> Temporal:
        if self.tolerance_s >= self.interval_s / 2:
            raise ValueError(
                f"tolerance_s is {self.tolerance_s}, expected less than half of interval_s "
                f"{self.interval_s}: one map must not stand for two moments"
            )
        span_s = (self.frames - 1) * self.interval_s
        if span_s > MAX_SPAN_S:
            raise ValueError(
                f"{self.frames} frames {self.interval_s} s apart span {span_s:g} s, expected at "
                f"most {MAX_SPAN_S:g}: ego poses are not known for longer"
            )
        return self


class InstanceOutput(Strict):
    """Objects as instances on the grid, now and in the future, as in PowerBEV.

    `segmentation`: logits float32 [1, times, 2, rows, columns], background and object. `flow`:
    float32 of the same shape, for each cell of an object at one time the way to the centre of the
    same object one time earlier, in cells, first along columns (y), then along rows (x). `times_s`:
    seconds after the output's stamp; the first is the past one in which centres are found, the
    second is 0. `nms_cells`: side of the square in which only the best centre stays.
    """

    kind: Literal["backward_flow"]
    segmentation: str
    flow: str
    object_class: Name = "vehicle"
    times_s: tuple[Annotated[float, Field(ge=-60, le=60)], ...] = Field(min_length=2, max_length=64)
    centre_threshold: float = Field(ge=0, lt=1)
    nms_cells: int = Field(ge=1, le=255)
    max_instances: int = Field(ge=1, le=10_000)
    ignored_flow: float = 255.0

    @model_validator(mode="after")
    def _sound(self) -> InstanceOutput:
        times = self.times_s
        if any(a >= b for a, b in pairwise(times)) or times[1] != 0:
            raise ValueError(f"times_s is {list(times)}, expected rising times of which [1] is 0")
        if not self.nms_cells % 2:
            raise ValueError(f"nms_cells is {self.nms_cells}, expected an odd number")
        return self


def check_temporal(spec: Temporal, grid: Grid, view: View, made: Tensors, read: Tensors) -> None:
    """Refuses a history whose tensors do not fit the stages.

    Args:
        spec: of the manifest.
        grid: of the model.
        view: its view transform.
        made: outputs of the branches by name.
        read: inputs of the head by name.

    Raises:
        ValueError: a tensor is missing or has another shape; or the warp does not suit the grid.
    """
    _check_view("temporal", view)
    rows, columns = grid.to_grid().shape
    features = made.get(spec.features)
    channels = features.shape[-1] if features is not None and features.shape else 0
    if not isinstance(channels, int):
        channels = 0
    frames = spec.frames
    for what, known, name, shape in (
        ("features", made, spec.features, (1, rows, columns, channels)),
        ("past", read, spec.past, (1, frames - 1, rows, columns, channels)),
        ("ego_motion", read, spec.ego_motion, (1, frames, EGO_MOTION_TERMS)),
    ):
        tensor = known.get(name)
        if tensor is None or tensor.dtype != "float32" or tensor.shape != shape or not channels:
            found = None if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(
                f"temporal.{what} '{name}' is {found}, expected float32 {list(shape)}, "
                f"{'an output of a branch' if known is made else 'an input of the head'}, one of "
                f"{sorted(known)}"
            )
    centred = grid.x_min == -grid.x_max == grid.y_min == -grid.y_max
    if spec.warp == "fiery" and not centred:
        raise ValueError(
            f"temporal.warp is 'fiery' for x {grid.x_min}..{grid.x_max}, y {grid.y_min}.."
            f"{grid.y_max}, expected a square around the vehicle: that warp is made for one"
        )


def check_instances(spec: InstanceOutput, grid: Grid, view: View, made: Tensors) -> None:
    """Refuses instance tensors that no stage makes on the cells of the grid.

    Raises:
        ValueError: a tensor is missing or has another shape.
    """
    _check_view("instances", view)
    shape = (1, len(spec.times_s), 2, *grid.to_grid().shape)
    for what, name in (("segmentation", spec.segmentation), ("flow", spec.flow)):
        tensor = made.get(name)
        if tensor is None or tensor.dtype != "float32" or tensor.shape != shape:
            found = None if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
            raise ValueError(
                f"instances.{what} '{name}' is {found}, expected float32 {list(shape)}, an output "
                f"of a stage, one of {sorted(made)}"
            )


def _check_view(section: str, view: View) -> None:
    if isinstance(view, Voxels):
        raise ValueError(
            f"'{section}' with view_transform '{view.kind}', expected features on the cells of "
            "'grid': planes that hang on a camera are neither warped nor searched for instances"
        )
