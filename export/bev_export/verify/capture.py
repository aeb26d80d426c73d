"""Runs a package through the runtime itself and keeps what its stages read and made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from bev_export.verify.compare import Array, Arrays
from bev_export.verify.scenes import SceneSpec, make_scene
from bev_runtime.backends.onnxruntime import OnnxRuntimeBackend
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.model import ModelPackage
from bev_runtime.pipeline import Pipeline

Backend = TypeVar("Backend", bound="KeepingBackend")
TableArrays = tuple[Array, Array, Array, Array, Array]
"""Of a pooling table, in the order of the operator."""


@dataclass(frozen=True, slots=True)
class Call:
    """One inference; all arrays are copies.

    `inputs`: as the runtime made them. `table`: None where nothing is pooled. `weights`: those of
    the table, float32 [K]. `outputs`: every output of every stage that ran, in that order.
    """

    stages: tuple[str, ...]
    inputs: Arrays
    table: TableArrays | None
    weights: Array | None
    outputs: Arrays


@dataclass(frozen=True, slots=True)
class Case:
    """The last inference of a scene. `score`: the map that was decoded from it, float32
    [layers, rows, columns] on the model's grid, None for a model without a map.
    """

    spec: SceneSpec
    call: Call
    score: Array | None


class KeepingBackend(OnnxRuntimeBackend):
    """Keeps the last call."""

    last: Call | None = None

    def __enter__(self: Backend) -> Backend:
        return self

    def infer(
        self, stages: Sequence[str], inputs: Mapping[str, Array], table: BevPoolTable | None = None
    ) -> Mapping[str, Array]:
        """As `Backend.infer`, and copies."""
        made = super().infer(stages, inputs, table)
        given = {name: np.array(array) for name, array in inputs.items()}
        arrays, weights = copy_table(table)
        self.last = Call(tuple(stages), given, arrays, weights, self._copy(stages, made))
        return made

    def _copy(self, stages: Sequence[str], made: Mapping[str, Array]) -> dict[str, Array]:
        wanted = [
            tensor.name
            for name in stages
            if (stage := self.manifest.stage(name)) is not None
            for tensor in stage.outputs
        ]
        return {name: np.array(made[name]) for name in wanted}


def copy_table(table: BevPoolTable | None) -> tuple[TableArrays | None, Array | None]:
    """The arrays of a table in the operator's order, and its weights."""
    if table is None:
        return None, None
    arrays = (
        np.array(table.ranks_depth),
        np.array(table.ranks_feat),
        np.array(table.ranks_bev),
        np.array(table.interval_starts),
        np.array(table.interval_lengths),
    )
    return arrays, np.array(table.weights)


def run_scene(model: ModelPackage, backend: KeepingBackend, spec: SceneSpec) -> Case:
    """Runs a scene from its first moment; the backend may be used again."""
    scene = make_scene(model.manifest, spec)
    pipeline = Pipeline(model.manifest, backend, scene.rig)
    for snapshot in scene.snapshots:
        if scene.radar is not None:
            pipeline.head_inputs.offer(scene.radar)
        output = pipeline.step(
            snapshot,
            missing=scene.missing,
            calibration=scene.calibration,
            transforms=scene.transforms,
        )
    assert backend.last is not None  # cameras or a LiDAR are there, so a stage ran
    score = None if output.map is None else np.array(output.map.scores)
    return Case(spec, backend.last, score)
