"""maps/<stamp_ns>.npz: the map of each output."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bev_runtime.sinks.base import fresh_folder
from bev_runtime.types import BevOutput, Calibration, Snapshot


class MapsSink:
    """Writes scores float16 [C, rows, columns], observed bool, layers, and the grid's numbers.

    `grid`: float64 [5], x_min, x_max, y_min, y_max, cell. Loads without pickle. Maps of
    an earlier run in the folder are removed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = fresh_folder(folder, ".npz")

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:  # noqa: ARG002
        """Writes one file; outputs without a map have none."""
        if output.map is None:
            return
        grid = output.map.grid
        np.savez_compressed(
            self._folder / f"{output.stamp_ns}.npz",
            scores=output.map.scores.astype(np.float16),
            observed=output.map.observed,
            layers=np.array(output.map.layers),
            grid=np.array([grid.x_min, grid.x_max, grid.y_min, grid.y_max, grid.cell]),
        )

    def close(self) -> None:
        """Nothing is left open."""
