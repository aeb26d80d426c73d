"""Runs a model over bags with truth, every moment under every condition, and keeps the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bev_runtime.backends import Backend
from bev_runtime.bags import Bag
from bev_runtime.errors import ConfigError, SampleRejected
from bev_runtime.evaluation.detection import counted_truth
from bev_runtime.evaluation.files import BoxSet, EvaluationError
from bev_runtime.evaluation.maps import TrueMaps
from bev_runtime.intake import stamp_of
from bev_runtime.manifest import Manifest
from bev_runtime.pipeline import Pipeline
from bev_runtime.replay import replay
from bev_runtime.rig import Rig
from bev_runtime.robustness.conditions import Condition, Moment, Scene, conditions_of
from bev_runtime.robustness.meter import Meter
from bev_runtime.robustness.naive import NaiveRunner
from bev_runtime.robustness.truth import BagTruth, boxes_of_frame, join_boxes
from bev_runtime.runtime import Runtime
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevOutput, Calibration, CameraFrame, Snapshot

NAIVE = "_naive"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table: figures of the runtime and of the naive node, by name."""

    condition: str
    figures: Mapping[str, float]
    naive: Mapping[str, float]


def of_one_moment(manifest: Manifest) -> Manifest:
    """The model without velocities that come of following boxes from output to output."""
    spec = manifest.detection
    if spec is None or spec.velocity != "tracks":
        return manifest
    return manifest.model_copy(
        update={"detection": spec.model_copy(update={"velocity": "unknown"})}
    )


class Study:
    """The table in the making.

    Conditions are measured moment by moment, so velocities of tracks are not measured and count
    nothing in NDS.

    Args:
        manifest: of the model.
        backend: runs it.
        seed: of what is drawn: which camera is lost, which object, which noise.
        chosen: names of conditions; None for all that concern the model.

    Raises:
        ConfigError: a condition is unknown, or does not concern the model; or the model has a
            memory.
    """

    def __init__(
        self,
        manifest: Manifest,
        backend: Backend,
        *,
        seed: int = 0,
        chosen: Sequence[str] | None = None,
    ) -> None:
        self.manifest, self.backend, self.seed = of_one_moment(manifest), backend, seed
        if manifest.temporal is not None:
            raise ConfigError(
                f"model '{manifest.name}' remembers the past, expected one that makes each output "
                "of its own moment: conditions are measured moment by moment. Measure this model "
                "with `replay --fault` and `evaluate`"
            )
        known = conditions_of(manifest)
        unknown = sorted(set(chosen or ()) - set(known))
        if unknown:
            raise ConfigError(
                f"conditions {', '.join(unknown)} are unknown for model '{manifest.name}', "
                f"expected some of {', '.join(known)}"
            )
        self.conditions: dict[str, Condition] = {
            name: make for name, make in known.items() if chosen is None or name in chosen
        }
        self.notes: list[str] = []
        self._meters: dict[str, Meter] = {}
        self._truth: list[tuple[BoxSet, int] | None] = []
        self._layers: tuple[str, ...] | None = None

    @property
    def num_moments(self) -> int:
        """How many moments were measured."""
        return len(self._truth)

    def add_bag(
        self, path: Path, bag: Bag, rig: Rig, progress: Callable[[int], None] | None = None
    ) -> None:
        """Runs all moments of a bag that have a truth and all sensors.

        Args:
            path: the bag's folder, with ground_truth.json, truth.npz or both.
            bag: the open bag.
            rig: its sensors.
            progress: called with the bag's time in nanoseconds.

        Raises:
            EvaluationError: no truth, or a malformed one, or no moment of it could be run.
        """
        before = self.num_moments
        witness = _Witness(self, BagTruth.load(path), bag, rig)
        self._note_layers(witness.truth.maps)
        replay(bag, Runtime(rig, witness), progress=progress)
        if self.num_moments == before:
            raise EvaluationError(
                f"{path}: no output of the model has the stamp of a truth and all its sensors "
                f"({', '.join(witness.cameras) or 'no camera'}; {witness.lidar or 'no LiDAR'})"
            )
        if witness.incomplete:
            self.notes.append(f"{path.name}: {witness.incomplete} moments lack a sensor, left out")

    def measure(self, moment: Moment, truth: BagTruth, step: _Steps) -> None:
        """Runs one moment under all conditions; what is the same for two of them is run once."""
        stamp_ns = moment.snapshot.reference_stamp_ns
        self._truth.append(truth.boxes_at(stamp_ns))
        true_map = truth.map_at(stamp_ns)
        for scene, names in self._scenes(moment):
            output = step.pipeline.step(
                Snapshot(stamp_ns, scene.cameras, scene.cloud),
                missing=scene.lost,
                calibration=step.calibration,
                transforms=step.transforms,
            )
            own, cells = (output.detections, output.map), None
            if output.map is not None:
                cells = output.map.observed.copy()
            for name in names:
                self._meter(name).add(moment.index, own, true_map, cells)
            made = step.naive.step(
                moment, scene, calibration=step.calibration, transforms=step.transforms
            )
            for name in names:
                self._meter(name + NAIVE).add(moment.index, made, true_map, cells)

    def rows(self) -> list[Row]:
        """The table so far."""
        truth = join_boxes(self._truth)
        known = self.manifest.detection.classes if self.manifest.detection is not None else ()
        classes: list[str] = []
        if truth is not None:
            there = {truth.names[label] for label in truth.labels[counted_truth(truth)].tolist()}
            classes = [name for name in known if name in there]
            absent = [name for name in known if name not in there]
            if absent:
                self.notes.append(f"without a true box, so not in the means: {', '.join(absent)}")
        spec = self.manifest.detection
        unmeasured = {"mAVE"} if spec is not None and spec.velocity == "unknown" else set[str]()
        if unmeasured and truth is not None:
            self.notes.append("velocities need more than one moment: mAVE is not measured")

        def figures(name: str) -> dict[str, float]:
            found = self._meter(name).metrics(truth, classes)
            return {key: value for key, value in found.items() if key not in unmeasured}

        return [Row(name, figures(name), figures(name + NAIVE)) for name in self.conditions]

    def _scenes(self, moment: Moment) -> list[tuple[Scene, list[str]]]:
        """What is left of a moment, and the conditions under which just that is left."""
        groups: dict[tuple[object, ...], tuple[Scene, list[str]]] = {}
        for name, condition in list(self.conditions.items()):
            try:
                scene = condition(moment)
            except SampleRejected as problem:
                self.notes.append(f"{name} is left out: {problem}")
                del self.conditions[name]
                continue
            frames = (id(frame) for frame in scene.cameras.values())
            key = (*frames, id(scene.cloud), *scene.stale)
            groups.setdefault(key, (scene, []))[1].append(name)
        return list(groups.values())

    def _meter(self, name: str) -> Meter:
        if name not in self._meters:
            output = self.manifest.map
            thresholds = dict(zip(output.layers, output.thresholds, strict=True)) if output else {}
            layers = self._layers or ()
            self._meters[name] = Meter(layers, {layer: thresholds[layer] for layer in layers})
        return self._meters[name]

    def _note_layers(self, maps: TrueMaps | None) -> None:
        """Decides over which layers of the map the figures go: those that all bags know."""
        output = self.manifest.map
        there = maps.layers if maps is not None else ()
        layers = tuple(n for n in output.layers if n in there) if output is not None else ()
        if self._layers is not None and self._layers != layers:
            raise EvaluationError(
                f"the bags' truths have different map layers of the model: {self._layers} and "
                f"{layers}: study them apart"
            )
        self._layers = layers


@dataclass(frozen=True, slots=True)
class _Steps:
    """What runs a moment."""

    pipeline: Pipeline
    naive: NaiveRunner
    calibration: Calibration
    transforms: TransformTree


class _Witness:
    """A pipeline that hands every complete moment to the study before it makes its output."""

    def __init__(self, study: Study, truth: BagTruth, bag: Bag, rig: Rig) -> None:
        self._study, self.truth = study, truth
        self._pipeline = Pipeline(study.manifest, study.backend, rig)
        self._naive = NaiveRunner(study.manifest, study.backend, rig)
        self.cameras, self.lidar = self._pipeline.cameras, self._pipeline.lidar
        self._sweeps = _sweeps(bag, rig) if self.lidar is not None else {}
        self._first: dict[str, CameraFrame] = {}
        self._before: dict[str, CameraFrame] = {}
        self.incomplete = 0

    def step(
        self,
        snapshot: Snapshot,
        *,
        missing: Mapping[str, str],
        calibration: Calibration,
        transforms: TransformTree,
    ) -> BevOutput:
        """The pipeline's own output."""
        for name, frame in snapshot.cameras.items():
            self._first.setdefault(name, frame)
        if self.truth.has(snapshot.reference_stamp_ns):
            if missing:
                self.incomplete += 1
            else:
                moment = self._moment(snapshot, calibration)
                steps = _Steps(self._pipeline, self._naive, calibration, transforms)
                self._study.measure(moment, self.truth, steps)
        self._before = dict(snapshot.cameras)
        return self._pipeline.step(
            snapshot, missing=missing, calibration=calibration, transforms=transforms
        )

    def forget(self, cause: str) -> None:
        """Hands it on."""
        self._pipeline.forget(cause)

    def _moment(self, snapshot: Snapshot, calibration: Calibration) -> Moment:
        boxes, cloud = self.truth.boxes_at(snapshot.reference_stamp_ns), snapshot.cloud
        return Moment(
            index=self._study.num_moments,
            snapshot=snapshot,
            ego_from_lidar=calibration.ego_from_lidar,
            sweep=self._sweeps[cloud.stamp_ns] if cloud is not None and self._sweeps else None,
            before={name: self._before.get(name, f) for name, f in snapshot.cameras.items()},
            first=self._first,
            boxes=np.empty((0, 9)) if boxes is None else boxes_of_frame(*boxes),
            seed=self._study.seed,
        )


def _sweeps(bag: Bag, rig: Rig) -> dict[int, Any]:
    """The LiDAR's messages by stamp; their bytes are kept, the points are views."""
    if rig.lidar is None:
        return {}
    decoded = (bag.decode(message) for message in bag.messages(frozenset({rig.lidar.topic})))
    return {stamp_of(message.header): message for message in decoded if message is not None}
