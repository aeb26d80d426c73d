"""detections.jsonl: a line per output."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from bev_runtime.types import BevOutput, Calibration, Detections, Snapshot

FIELDS = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy")


class DetectionsSink:
    """Writes each output as one JSON line, flushed, so that a crash loses nothing.

    JSON knows no NaN: a number of a box that is not finite (an unknown velocity) becomes null.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", buffering=1)

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:  # noqa: ARG002
        """Appends a line."""
        line = {
            "stamp_ns": output.stamp_ns,
            "frame_id": output.frame_id,
            "mode": output.mode.value,
            "reason": output.reason,
            "boxes": boxes_as_dicts(output.detections),
            "sensor_age_ms": dict(output.sensor_age_ms),
            "motion_compensated": output.motion_compensated,
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def boxes_as_dicts(detections: Detections) -> list[dict[str, object]]:
    """Each box with named numbers, its score and its class."""
    rows = zip(detections.boxes, detections.scores, detections.labels, strict=True)
    return [
        {
            **{name: _number(value) for name, value in zip(FIELDS, box, strict=True)},
            "score": _number(score),
            "class": detections.classes[label],
        }
        for box, score, label in rows
    ]


def _number(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
