"""Drives through a town and records the sensors as a ROS 2 bag, with the truth beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.rosbag2 import Writer

from bev_runtime.demo_world.bag import STORAGE, TRUTH_FILE, BagOptions, write_truth
from bev_runtime.demo_world.recorder import Recorder
from bev_runtime.demo_world.rigs import DemoRig
from bev_runtime.errors import BagError
from bev_runtime.geometry import Float64, quaternion_from_rotation
from bev_runtime.sim.agents import CLASSES
from bev_runtime.sim.caster import Caster
from bev_runtime.sim.drive import Drive, plan_drive, run_drive
from bev_runtime.sim.ground import LAYERS
from bev_runtime.sim.pictures import View
from bev_runtime.sim.samples import MODEL_GRID
from bev_runtime.sim.town import Town
from bev_runtime.sim.truth import true_boxes, true_map, visibility, visible_cells
from bev_runtime.types import BASE_FRAME, BevGrid

BOXES_FILE = "ground_truth.json"
CONVENTION = (
    "All boxes in frame base_link (x forward, y left, z up, metres) at the stamp of the frame. "
    "center = geometric centre. size_lwh = length (along heading), width, height. yaw = heading in "
    "the xy plane of base_link, radians. velocity = [vx, vy] over ground, m/s, along the axes of "
    "base_link. visibility = share of the surface towards a camera that the best camera sees."
)


@dataclass(slots=True)
class _Truth:
    """The truth of a drive's reference moments."""

    drive: Drive
    grid: BevGrid
    frames: list[dict[str, Any]] = field(default_factory=list)
    maps: list[tuple[int, NDArray[np.bool_], Float64]] = field(default_factory=list)
    visible: list[NDArray[np.bool_]] = field(default_factory=list)

    def note(
        self, caster: Caster, stamp_ns: int, seconds: float, hits: NDArray[np.int64] | None
    ) -> None:
        """Keeps the truth of a moment; see `drive.Note`."""
        town, pose = self.drive.town, self.drive.pose(seconds)
        views = {
            camera.name: View(camera.model, pose @ camera.model.ego_from_camera)
            for camera in self.drive.rig.cameras
        }
        truth = true_boxes(town, seconds, pose)
        seen = visibility(town, caster, truth, seconds, views)
        boxes = []
        for row, label, agent, share in zip(
            truth.boxes.tolist(), truth.labels, truth.agents, seen.tolist(), strict=True
        ):
            boxes.append(
                {
                    "center": row[:3],
                    "size_lwh": row[3:6],
                    "yaw": row[6],
                    "velocity": row[7:],
                    "class": CLASSES[label],
                    "num_lidar_pts": int(hits[agent]) if hits is not None else 0,
                    "visibility": round(share, 3),
                }
            )
        quaternion = quaternion_from_rotation(pose[:3, :3])
        self.frames.append(
            {
                "token": str(stamp_ns),
                "stamp_ns": stamp_ns,
                "stamp": dict(zip(("sec", "nanosec"), divmod(stamp_ns, 10**9), strict=True)),
                "ego_pose": {
                    "frame_id": "odom",
                    "translation": pose[:3, 3].tolist(),
                    "rotation_wxyz": [quaternion[3], *quaternion[:3]],
                },
                "boxes": boxes,
            }
        )
        visible = visible_cells(town, caster, self.grid, pose, views)
        if self.drive.rig.lidar is not None:
            eye = (pose @ self.drive.rig.lidar.ego_from_lidar)[:3, 3]
            visible |= visible_cells(town, caster, self.grid, pose, eye)
        self.maps.append((stamp_ns, true_map(town, self.grid, pose), pose))
        self.visible.append(visible)


def write_bag(
    path: Path,
    rig: DemoRig,
    town: Town,
    options: BagOptions | None = None,
    *,
    motion_distortion: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Records a drive; see `plan_drive`.

    `ground_truth.json`
    (format `bev-boxes-1`) and `truth.npz` (map layers and visibility) are written into the bag's
    folder, for the stamps of the LiDAR or, without one, of the last camera.

    Args:
        path: the rosbag2 folder to make.
        rig: cameras and LiDAR.
        town: where to drive.
        options: how to drive and record; see `BagOptions`.
        motion_distortion: the LiDAR's points are where the moving sensor measured them, not
            compensated.
        progress: called with (moments done, moments in all).

    Returns:
        `path`.

    Raises:
        BagError: `path` exists.
        ConfigError: the drive is longer than the road.
    """
    options = options or BagOptions()
    path = Path(path)
    if path.exists():
        raise BagError(f"bag folder {path} exists already: give another path, or remove it first")
    drive = plan_drive(town, rig, options)
    truth = _Truth(drive, options.truth_grid or MODEL_GRID)
    with Writer(path, version=8, storage_plugin=STORAGE[options.storage]) as writer:
        run_drive(
            drive,
            Recorder(writer, round(options.latency_s * 1e9)),
            motion_distortion=motion_distortion,
            note=truth.note,
            progress=progress,
        )
    _write_boxes(path, drive.town, truth.frames)
    write_truth(path / TRUTH_FILE, truth.grid, truth.maps, LAYERS, visible=np.array(truth.visible))
    return path


def _write_boxes(path: Path, town: Town, frames: list[dict[str, Any]]) -> None:
    document = {
        "format": "bev-boxes-1",
        "bag": path.name,
        "dataset": f"bev-runtime simulator, town {town.seed}",
        "licence": "Apache-2.0",
        "frame_id": BASE_FRAME,
        "convention": CONVENTION,
        "classes": list(CLASSES),
        "frames": frames,
    }
    (path / BOXES_FILE).write_text(json.dumps(document, default=float), encoding="utf-8")
