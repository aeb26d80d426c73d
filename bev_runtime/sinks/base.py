"""What every sink is: it takes published outputs, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from bev_runtime.types import BevOutput, Calibration, Snapshot


class Sink(Protocol):
    """Takes the outputs of a run. Outputs of mode BLIND are never passed to a sink."""

    def write(self, output: BevOutput, snapshot: Snapshot, calibration: Calibration) -> None:
        """Takes one output; its arrays are valid during the call only.

        Args:
            output: what the pipeline published.
            snapshot: the samples that it was made from.
            calibration: the calibration at that time.
        """

    def close(self) -> None:
        """Finishes what was written; the sink cannot be used after that."""


def fresh_folder(folder: Path, suffix: str) -> Path:
    """Makes a folder and removes an earlier run's files in it, named `<stamp_ns><suffix>`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"*{suffix}"):
        if path.stem.isdigit():
            path.unlink()
    return folder
