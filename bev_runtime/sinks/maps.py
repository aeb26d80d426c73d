"""maps/<stamp_ns>.npz: the map and the instances of each output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_runtime.sinks.base import fresh_folder
from bev_runtime.types import BevOutput, Calibration, Snapshot


class MapsSink:
    """Writes scores float16 [C, rows, columns], observed bool, layers, and the grid's numbers.

    `grid`: float64 [5], x_min, x_max, y_min, y_max, cell. Of a model that finds instances also
    `instance_ids` int16 [T, rows, columns], `instance_times_s` float64 [T], and for the ids 1..n
    `instance_tracks` int64 [n] and `instance_centres` float32 [n, T, 2]. Loads without pickle. Maps
    of an earlier run in the folder are removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = fresh_folder(folder, ".npz")

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:  # noqa: ARG002
        """Writes one file; outputs without a map have none."""
        if output.map is None:
            return
        grid, found = output.map.grid, output.instances
        arrays: dict[str, NDArray[Any]] = {
            "scores": output.map.scores.astype(np.float16),
            "observed": output.map.observed,
            "layers": np.array(output.map.layers),
            "grid": np.array([grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell]),
        }
        if found is not None:
            arrays |= {
                "instance_ids": found.ids,
                "instance_times_s": np.array(found.times_s),
                "instance_tracks": found.tracks,
                "instance_centres": found.centres,
            }
        path = self._folder / f"{output.stamp_ns}.npz"
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]  # may also be its one option

    def close(self) -> None:
        """Nothing is left open."""
