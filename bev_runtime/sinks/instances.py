"""instances.jsonl: the instances of each output, their tracks and where they go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

import numpy as np

from bev_runtime.types import BevOutput, Calibration, Instances, Snapshot


class InstancesSink:
    """Writes each output that has instances as one JSON line, flushed. The file is made with the
    first one; that of an earlier run is removed.

    JSON knows no NaN: a time at which an instance has no cells is null in its trajectory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        path.unlink(missing_ok=True)

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:  # noqa: ARG002
        """Appends a line; outputs without instances have none."""
        if output.instances is None:
            return
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8", buffering=1)
        past = output.history
        line = {
            "stamp_ns": output.stamp_ns,
            "frame_id": output.frame_id,
            "mode": output.mode.value,
            "history": None if past is None else {"used": past.used, "wanted": past.wanted},
            "times_s": list(output.instances.times_s),
            "instances": instances_as_dicts(output.instances),
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


def instances_as_dicts(found: Instances) -> list[dict[str, object]]:
    """Each instance with its track, class, score, area now and x y at each time, in metres."""
    cells = np.bincount(found.ids[0].reshape(-1), minlength=len(found.tracks) + 1)[1:]
    return [
        {
            "track": int(track),
            "class": found.object_class,
            "score": float(found.scores[index]),
            "observed": bool(found.observed[index]),
            "area_m2": float(cells[index] * found.grid.cell**2),
            "trajectory": [
                None if np.isnan(point).any() else {"x": float(point[0]), "y": float(point[1])}
                for point in found.centres[index]
            ],
        }
        for index, track in enumerate(found.tracks)
    ]
