"""Which sensors an output is made from: a pure function from what is usable to a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bev_runtime.types import FusionPlan, Mode


def choose_plan(
    cameras: Sequence[str], lidar: str | None, missing: Mapping[str, str]
) -> FusionPlan:
    """Chooses mode and sensors.

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
