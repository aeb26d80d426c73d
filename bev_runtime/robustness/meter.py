"""The figures of one row of the table, from the outputs of its condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bev_runtime.evaluation.detection import class_ranges, evaluate_boxes
from bev_runtime.evaluation.files import BoxSet
from bev_runtime.evaluation.maps import MapCounter, MapFile, TrueMaps
from bev_runtime.types import BevMap, Detections

AP_CLASS, AP_DISTANCE_M = "car", 2.0


class Meter:
    """Collects the outputs of one row of the table."""

    def __init__(self, layers: tuple[str, ...], thresholds: Mapping[str, float]) -> None:
        self._moments: list[int] = []
        self._detections: list[Detections] = []
        self._map, self._same = MapCounter(layers, thresholds), MapCounter(layers, thresholds)

    @property
    def num_moments(self) -> int:
        """How many outputs were added."""
        return len(self._moments)

    def add(
        self,
        index: int,
        output: tuple[Detections, BevMap | None],
        truth: tuple[TrueMaps, int] | None,
        cells: NDArray[np.bool_] | None,
    ) -> None:
        """Takes an output, and copies what it keeps.

        Args:
            index: of the moment in all bags.
            output: detections and map.
            truth: the bag's true maps and the moment's index in them; None without.
            cells: bool [rows, columns], over which runtime and naive node are both measured; None
                without a map.
        """
        found, bev_map = output
        self._moments.append(index)
        self._detections.append(
            replace(
                found,
                boxes=found.boxes.copy(),
                scores=found.scores.copy(),
                labels=found.labels.copy(),
            )
        )
        if bev_map is not None and truth is not None and self._map.layers:
            kept = MapFile(bev_map.grid, bev_map.layers, bev_map.scores, bev_map.observed)
            self._map.add(*truth, kept)
            if cells is not None:
                self._same.add(*truth, replace(kept, observed=bev_map.observed & cells))

    def metrics(self, truth: BoxSet | None, classes: Sequence[str]) -> dict[str, float]:
        """The figures of the row; those that cannot be measured are left out.

        Args:
            truth: true boxes; its frames are the moments of all bags.
            classes: over which the means go.
        """
        figures: dict[str, float] = {}
        if truth is not None and classes:
            found = evaluate_boxes(
                self._as_boxes(truth.frame_id, classes),
                truth,
                np.array(self._moments, np.int64),
                classes=classes,
                ranges=class_ranges(classes),
            )
            figures = {"mAP": found.mean_ap, "NDS": found.nds}
            if AP_CLASS in found.classes:
                figures[f"AP_{AP_CLASS}_2m"] = found.classes[AP_CLASS].ap[AP_DISTANCE_M]
            figures |= {f"m{name}": value for name, value in found.errors.items()}
        if self._map.layers:
            maps = self._map.finish(self.num_moments)
            figures |= {"mIoU": maps.mean_iou, "mIoU_visible": maps.mean_iou_visible}
            figures["mIoU_same_cells"] = self._same.finish(self.num_moments).mean_iou
            figures["observed_share"] = maps.observed_share
        return {name: float(value) for name, value in figures.items() if np.isfinite(value)}

    def _as_boxes(self, frame_id: str, classes: Sequence[str]) -> BoxSet:
        names = next((d.classes for d in self._detections if d.classes), tuple(classes))
        sizes = [len(found.scores) for found in self._detections]
        found = [Detections.empty(), *self._detections]
        count = sum(sizes)
        return BoxSet(
            frame_id,
            names,
            names,
            np.array(self._moments, np.int64),
            np.repeat(np.arange(len(sizes)), sizes),
            np.concatenate([item.boxes for item in found]).astype(np.float64),
            np.concatenate([item.labels for item in found]).astype(np.int64),
            np.concatenate([item.scores for item in found]).astype(np.float64),
            np.full(count, -1, np.int64),
            np.full(count, np.nan),
        )
