"""The sections of a manifest that say how image features become a bird's-eye view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bev_runtime.manifest_sections import Name, Strict, Tensor

Side = Annotated[int, Field(ge=1, le=4096)]


class FeaturePixels(Strict):
    """Where pixels of the network's input lie in the feature map: `scale * pixel + offset`, along
    columns and rows, integers at pixel centres.
    """

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    offset: tuple[float, float] = (0.0, 0.0)


class _View(Strict):
    """What all view transforms say.

    `feature_pixels`: absent where features and input cover the same picture, edge to edge.
    `resized_pixels`: where a pixel u of a camera's image lies after a resize by s. `centred`: at
    (u + 0.5) s - 0.5, which is where its content goes. `scaled`: at s u, as some published models
    were trained.
    """

    feature_width: Side
    feature_height: Side
    feature_pixels: FeaturePixels | None = None
    resized_pixels: Literal["centred", "scaled"] = "centred"


class GroundPlane(_View):
    """Constant weights: each cell samples its centre at height `z` bilinearly in every camera that
    sees it, and averages. A camera sees no further than `max_range` metres from itself.
    """

    kind: Literal["ground_plane"]
    z: float = 0.0
    max_range: float = Field(default=1e3, gt=0)


class LiftSplat(_View):
    """Depth from the network: D bins from `depth_min`, `depth_step` apart, metres along the optical
    axis.

    `rounding`: which cell a point is in. `down`: the one that it lies in. `toward_zero`: also a
    point up to one cell below x_min or y_min is in the first one, as published networks were
    trained; their z_min is one layer lower, too. `observed`: which cells count as seen. `features`:
    those that take features. `view`: those that a live camera looks at, for networks whose rays and
    depth bins lie further apart than cells and that fill the gaps themselves.
    """

    kind: Literal["lift_splat"]
    depth_min: float = Field(gt=0)
    depth_step: float = Field(gt=0)
    depth_bins: int = Field(ge=1, le=512)
    z_min: float = -10.0
    z_max: float = 10.0
    rounding: Literal["down", "toward_zero"] = "down"
    observed: Literal["features", "view"] = "features"


class Axis(Strict):
    """Cells of one direction: `cells` of equal size from `low` to `high`, metres."""

    low: float = Field(ge=-1e4, le=1e4)
    high: float = Field(ge=-1e4, le=1e4)
    cells: Side

    @model_validator(mode="after")
    def _ascending(self) -> Axis:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low} and high {self.high}, expected low < high")
        return self

    @property
    def size(self) -> float:
        """Of one cell, metres."""
        return (self.high - self.low) / self.cells


class Voxels(_View):
    """Constant weights: each voxel samples its centre bilinearly in every camera that sees it, and
    averages.

    The volume is fixed to the optical frame of `reference_camera`, at the output's stamp: `forward`
    along its axis, `right`, `down`. BevPool has a row for each cell of `forward` and a column for
    each cell of `right` and, faster, of `down`. The outermost ring of feature pixels is a border of
    zeros, which the network adds: a camera sees a voxel whose sample touches anything but the
    border. Tensors of decoders are planes [forward, right]; the runtime moves them to the cells of
    `grid`.
    """

    kind: Literal["voxels"]
    reference_camera: Name
    forward: Axis
    right: Axis
    down: Axis

    @model_validator(mode="after")
    def _has_room(self) -> Voxels:
        if min(self.feature_width, self.feature_height) < 3:
            raise ValueError(
                f"features are {self.feature_width}x{self.feature_height}, expected 3 or more each "
                "way: the outermost pixels are a border of zeros"
            )
        if self.right.cells * self.down.cells > 4096:
            raise ValueError(
                f"{self.right.cells} cells to the right times {self.down.cells} down are more than "
                "4096 columns of BevPool: use larger voxels"
            )
        return self

    @property
    def plane(self) -> tuple[int, int]:
        """Cells of a plane: (forward, right)."""
        return self.forward.cells, self.right.cells


class Learned(_View):
    """The network itself looks at the calibration, as cross-view transformers do; nothing is
    pooled.

    The camera branch reads, beside the pictures, `rays` float32 [N, 3, 3], which take a feature
    pixel (u, v, 1) to the point of its ray at depth 1 (the inverse intrinsics; lens distortion is
    not in them), and `poses` float32 [N, 4, 4], optical frame to base_link of the output's stamp.
    Cells that a live camera looks at count as observed.
    """

    kind: Literal["learned"]
    rays: str
    poses: str

    @property
    def camera_tensors(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor for one camera."""
        return {self.rays: (3, 3), self.poses: (4, 4)}


class Radar(Strict):
    """Radar features that the head may read: `tensor` float32 [1, channels, forward, down, right],
    points scattered into the volume of the view transform; zeros stand in for an absent radar. See
    `radar.RadarVolume`.
    """

    kind: Literal["voxels"]
    tensor: str
    channels: tuple[Name, ...] = Field(min_length=1, max_length=256)


def check_radar(radar: Radar, view: object, inputs: Mapping[str, Tensor]) -> None:
    """Refuses a section `radar` that does not fit the view transform or the head's inputs.

    Raises:
        ValueError: no volume, or the head does not read such a tensor.
    """
    if not isinstance(view, Voxels):
        raise ValueError("radar: points go into a volume, expected a view_transform 'voxels'")
    cells = (view.forward.cells, view.down.cells, view.right.cells)
    shape, found = (1, len(radar.channels), *cells), inputs.get(radar.tensor)
    if found is None or (found.dtype, found.shape) != ("float32", shape):
        raise ValueError(
            f"radar.tensor is '{radar.tensor}', expected an input of the stage 'head', float32 "
            f"{list(shape)}; its inputs are {[(t.name, list(t.shape)) for t in inputs.values()]}"
        )


View = GroundPlane | LiftSplat | Voxels | Learned
ViewTransformSpec = Annotated[View, Field(discriminator="kind")]
