"""Training samples of metabev_tiny in the simulator's format, drawn at random."""

from __future__ import annotations

from pathlib import Path

import numpy as np

NUM_CAMERAS = 3


def write_samples(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Writes samples in which boxes stand on LiDAR points; three cameras look around."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        paths.append(folder / f"{index:04d}.npz")
        np.savez(paths[-1], **make_sample(rng))
    return paths


def make_sample(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One sample."""
    number = 12
    boxes = np.zeros((number, 9), np.float32)
    boxes[:, :2] = rng.uniform(-40, 40, (number, 2))
    boxes[:, 2:6] = (0.9, 4.5, 1.9, 1.7)
    boxes[:, 6] = rng.uniform(-3, 3, number)
    boxes[:, 7:9] = 5 * np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6])], 1)
    on_boxes = np.repeat(boxes[:, :3], 40, axis=0) + rng.uniform(-0.7, 0.7, (number * 40, 3))
    ground = np.column_stack([rng.uniform(-50, 50, (3000, 2)), rng.normal(0, 0.02, 3000)])
    points = np.zeros((len(on_boxes) + len(ground), 5), np.float32)
    points[:, :3] = np.concatenate([on_boxes, ground])
    points[:, 3] = rng.uniform(0, 255, len(points))
    points[:, 4] = rng.integers(0, 32, len(points))
    depth = np.zeros((NUM_CAMERAS, 24, 66)) + np.linspace(45, 3, 24)[:, None]
    intrinsics = np.tile(
        np.array([[405.0, 0, 255.0], [0, 405.0, 60.0], [0, 0, 1]]), (NUM_CAMERAS, 1, 1)
    )
    return {
        "images": rng.integers(0, 256, (NUM_CAMERAS, 192, 528, 3), np.uint8),
        "intrinsics": intrinsics,
        "ego_from_camera": np.stack([camera_pose(yaw) for yaw in (0.0, 2.0, -1.9)]),
        "depth": depth.astype(np.float16),
        "points": points,
        "lidar_position": np.array([0.9, 0.0, 1.8]),
        "boxes": boxes,
        "labels": rng.integers(0, 8, number).astype(np.int8),
        "num_lidar_pts": np.full(number, 40, np.int32),
        "visibility": rng.uniform(0, 1, number).astype(np.float32),
        "map": rng.integers(0, 2, (3, 360, 360)).astype(np.uint8),
        "visible": rng.integers(0, 2, (2, 128, 128)).astype(np.uint8),
    }


def camera_pose(yaw: float) -> np.ndarray:
    """ego_from_camera float64 [4, 4] of a level camera that looks towards `yaw`, 1.6 m up."""
    cos, sin = np.cos(yaw), np.sin(yaw)
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = (sin, -cos, 0), (0, 0, -1), (cos, sin, 0)
    pose[:3, 3] = (1.25 * cos, 0.4 * sin, 1.6)  # no depth of 1 m steps is a border of cells
    return pose
