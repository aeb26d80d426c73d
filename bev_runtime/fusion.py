"""Which sensors an output is made from, and what stands in for those that are absent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bev_runtime.manifest import FusedInput, Manifest
from bev_runtime.rig import Rig
from bev_runtime.types import FusionPlan, Mode, Snapshot

Float32 = NDArray[np.float32]


def choose_plan(
    cameras: Sequence[str], lidar: str | None, missing: Mapping[str, str]
) -> FusionPlan:
    """Chooses mode and sensors; a pure function.

    Args:
        cameras: every camera that the model takes from this rig, in order.
        lidar: the LiDAR's name if the model takes it.
        missing: for each sensor that cannot be used now, why, in words.
    """
    live = tuple(name for name in cameras if name not in missing)
    use_lidar = lidar is not None and lidar not in missing
    wants_lidar = lidar is not None
    causes = [
        f"{name}: {missing[name]}"
        for name in (*cameras, *([lidar] if lidar else ()))
        if name in missing
    ]
    if not live and not use_lidar:
        nothing = "the rig has no sensor that this model takes"
        return FusionPlan(Mode.BLIND, (), False, "; ".join(causes) or nothing)
    if wants_lidar and not use_lidar:
        mode = Mode.CAMERA_ONLY
    elif use_lidar and cameras and not live:
        mode = Mode.LIDAR_ONLY
    elif causes:
        mode = Mode.DEGRADED
    else:
        mode = Mode.FULL
    return FusionPlan(
        mode,
        live,
        use_lidar,
        "; ".join(causes) or ("all sensors live" if wants_lidar else "all cameras live"),
    )


def sensor_ages_ms(snapshot: Snapshot, plan: FusionPlan) -> dict[str, float]:
    """Stamp of the output minus stamp of the sample of each sensor that takes part."""
    reference = snapshot.reference_stamp_ns
    ages = {name: (reference - snapshot.cameras[name].stamp_ns) / 1e6 for name in plan.cameras}
    if plan.use_lidar and snapshot.cloud is not None:
        ages[snapshot.cloud.name] = (reference - snapshot.cloud.stamp_ns) / 1e6
    return ages


def cameras_taken(manifest: Manifest, rig: Rig) -> tuple[str, ...]:
    """The cameras of the rig that the model takes, in the order in which the network gets them."""
    if manifest.cameras is None:
        return ()
    if manifest.cameras.names != "any":
        return tuple(manifest.cameras.names)
    taken = tuple(rig.cameras)[: manifest.cameras.max]
    return taken or (("camera",) if manifest.lidar is not None else ())  # a name to be missed by


def lidar_taken(manifest: Manifest, rig: Rig) -> str | None:
    """The rig's LiDAR if the model takes one; where the rig has none, `lidar` as a name for it."""
    if manifest.lidar is None:
        return None
    return rig.lidar.name if rig.lidar is not None else "lidar"


def stages_to_run(manifest: Manifest, *, cameras: bool, lidar: bool) -> tuple[str, ...]:
    """The stages that are run when there are live cameras or not, and a LiDAR or not, in order.

    A branch without its sensors is not run. The head is run when everything that it reads was made
    or has a stand-in.
    """
    chosen = [name for name, live in (("camera_branch", cameras), ("lidar_branch", lidar)) if live]
    stages = [stage for name in chosen if (stage := manifest.stage(name)) is not None]
    head = manifest.stage("head")
    there = {tensor.name for stage in stages for tensor in stage.outputs}
    for fused in fused_inputs(manifest):
        there |= {fused.tensor, fused.mask}
    if manifest.radar is not None:
        there.add(manifest.radar.tensor)
    if manifest.temporal is not None:
        there |= {manifest.temporal.past, manifest.temporal.ego_motion}
    if head is not None and {tensor.name for tensor in head.inputs} <= there:
        stages.append(head)
    return tuple(stage.name for stage in stages)


def stages_by_sensors(manifest: Manifest) -> dict[tuple[bool, bool], tuple[str, ...]]:
    """`stages_to_run` for every (live cameras, live LiDAR)."""
    both = (False, True)
    return {
        (cameras, lidar): stages_to_run(manifest, cameras=cameras, lidar=lidar)
        for cameras in both
        for lidar in both
    }


def fused_inputs(manifest: Manifest) -> tuple[FusedInput, ...]:
    """Camera and LiDAR features of a fusing head; empty for another model."""
    return (manifest.fusion.camera, manifest.fusion.lidar) if manifest.fusion is not None else ()


@dataclass(frozen=True, slots=True)
class _Modality:
    """`zeros` stand in for absent features; `mask` float32 [1, 1, rows, columns]."""

    spec: FusedInput
    zeros: Float32
    mask: Float32


class HeadInputs:
    """What the head reads beside the features of the branches, in memory that is allocated once:
    masks, stand-ins for absent features, and the radar's volume.

    Args:
        manifest: any model; without the sections `fusion` and `radar` there is nothing.
    """

    def __init__(self, manifest: Manifest) -> None:
        shapes = {tensor.name: tensor.shape for s in manifest.stages for tensor in s.outputs}
        grid = manifest.grid.to_grid().shape
        self._modalities = tuple(
            _Modality(
                spec,
                np.zeros([int(size) for size in shapes[spec.tensor]], np.float32),
                np.zeros((1, 1, *grid), np.float32),
            )
            for spec in fused_inputs(manifest)
        )
        self._radar = manifest.radar
        self._offered: Float32 | None = None
        read = {tensor.name: tensor.shape for s in manifest.stages for tensor in s.inputs}
        if self._radar is not None:
            shape = [int(size) for size in read[self._radar.tensor]]
            self._no_radar = np.zeros(shape, np.float32)

    def offer(self, radar: Float32) -> None:
        """Gives the radar's volume to the next output, and to no other.

        Args:
            radar: from `RadarVolume.fill`; read in place, so leave it alone until that output.

        Raises:
            ValueError: the model takes no radar, or another shape.
        """
        if self._radar is None or radar.shape != self._no_radar.shape:
            expected = "no radar" if self._radar is None else list(self._no_radar.shape)
            raise ValueError(f"a radar volume {list(radar.shape)} was given, expected {expected}")
        self._offered = radar

    def tensors(
        self, plan: FusionPlan, camera_covered: NDArray[np.bool_], lidar_covered: NDArray[np.bool_]
    ) -> dict[str, Float32]:
        """What the head reads beside the features that are computed, by name.

        Args:
            plan: says which features are not computed.
            camera_covered: bool [rows, columns], cells that take features of a live camera.
            lidar_covered: the same of the LiDAR.
        """
        inputs: dict[str, Float32] = {}
        live = ((bool(plan.cameras), camera_covered), (plan.use_lidar, lidar_covered))
        for modality, (computed, covered) in zip(self._modalities, live, strict=False):
            if computed:
                np.copyto(modality.mask[0, 0], covered)
            else:
                modality.mask.fill(0)
                inputs[modality.spec.tensor] = modality.zeros
            inputs[modality.spec.mask] = modality.mask
        if self._radar is not None:
            offered, self._offered = self._offered, None
            inputs[self._radar.tensor] = self._no_radar if offered is None else offered
        return inputs
