"""Small files of boxes for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("car", "pedestrian", "traffic_cone", "barrier")


def box(x: float, y: float, kind: str = "car", **more: Any) -> dict[str, Any]:
    return {
        "center": [x, y, 0.5],
        "size_lwh": [4.0, 2.0, 1.5],
        "yaw": 0.0,
        "velocity": [0.0, 0.0],
        "class": kind,
        **more,
    }


def write(path: Path, frames: list[list[dict[str, Any]]], **more: Any) -> Path:
    document = {
        "format": "bev-boxes-1",
        "frame_id": "base_link",
        "classes": list(CLASSES),
        "frames": [{"stamp_ns": 10 * i + 10, "boxes": boxes} for i, boxes in enumerate(frames)],
    }
    path.write_text(json.dumps({**document, **more}))
    return path


def random_frames(seed: int, num_frames: int = 12) -> tuple[list[Any], list[Any]]:
    """Truth, and predictions about it with scores on a coarse scale."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(num_frames):
        true_boxes, predictions = [], []
        for _ in range(25):
            kind = CLASSES[rng.integers(len(CLASSES))]
            x, y = rng.uniform(-45, 45, 2)
            speed = None if rng.random() < 0.2 else rng.normal(0, 3, 2).tolist()
            true_boxes.append(
                box(x, y, kind, yaw=rng.uniform(-3, 3), velocity=speed, num_lidar_pts=1)
            )
            true_boxes[-1]["num_lidar_pts"] = int(rng.integers(0, 4))
            for _ in range(rng.integers(0, 3)):
                dx, dy = rng.normal(0, 1.2, 2)
                item = box(x + dx, y + dy, kind, score=float(rng.integers(0, 12)) / 12)
                item["yaw"] = true_boxes[-1]["yaw"] + rng.normal(0, 1.5)
                item["size_lwh"] = rng.uniform(0.5, 5, 3).tolist()
                item["velocity"] = rng.normal(0, 3, 2).tolist()
                predictions.append(item)
        truth.append(true_boxes)
        found.append(predictions)
    return truth, found
