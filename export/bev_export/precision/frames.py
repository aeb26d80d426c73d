"""Frames of a bag as the runtime itself prepares them, to calibrate and to measure with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bev_export.package import ExportError
from bev_export.verify.capture import Call, KeepingBackend
from bev_export.verify.compare import Array
from bev_runtime.bags import Bag
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.model import ModelPackage
from bev_runtime.pipeline import Pipeline
from bev_runtime.replay import replay
from bev_runtime.rig import load_rig
from bev_runtime.rig_inference import infer_rig
from bev_runtime.runtime import Runtime


class CollectingBackend(KeepingBackend):
    """Keeps every call that runs all stages, up to a number."""

    def __init__(self, model: ModelPackage, *, num_threads: int, most: int) -> None:
        super().__init__(model, num_threads=num_threads)
        self.calls: list[Call] = []
        self._most = most

    def infer(
        self, stages: Sequence[str], inputs: Mapping[str, Array], table: BevPoolTable | None = None
    ) -> Mapping[str, Array]:
        """As `Backend.infer`, and keeps copies."""
        made = super().infer(stages, inputs, table)
        if len(stages) == len(self.manifest.stages) and len(self.calls) < self._most:
            assert self.last is not None
            self.calls.append(self.last)
        return made


def collect_frames(
    model: ModelPackage, bag: Path, *, most: int, rig: Path | None = None, threads: int = 1
) -> list[Call]:
    """Replays a bag and keeps what the stages read, with every sensor live.

    Args:
        model: in float32.
        bag: as for `bev-runtime replay`.
        most: frames kept, from the start of the bag.
        rig: rig file; inferred from the bag when None.
        threads: of inference.

    Raises:
        ExportError: the bag has no frame with all the sensors of the model.
    """
    with Bag(bag) as opened, CollectingBackend(model, num_threads=threads, most=most) as backend:
        layout = load_rig(rig) if rig is not None else infer_rig(opened).rig
        runtime = Runtime(layout, Pipeline(model.manifest, backend, layout))
        result, _, _ = replay(opened, runtime)
        if not backend.calls:
            modes = ", ".join(f"{mode} {count}" for mode, count in result.modes.items())
            raise ExportError(
                f"{bag} gave no frame in which every stage of '{model.manifest.name}' ran "
                f"({modes or 'no output'}), expected cameras and LiDAR of the model: give a rig "
                "file or another bag"
            )
        return backend.calls
