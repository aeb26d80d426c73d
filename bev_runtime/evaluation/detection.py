"""Detection metrics of nuScenes: average precision by centre distance, true positive errors, NDS.

The definitions are those of the nuScenes detection challenge (H. Caesar et al., nuScenes: A
multimodal dataset for autonomous driving, CVPR 2020, configuration detection_cvpr_2019) without the
attribute error, in base_link. Predictions of equal score are taken last in the file first, as the
dev-kit of the dataset does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bev_runtime.evaluation.files import BoxSet

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

DISTANCES_M = (0.5, 1.0, 2.0, 4.0)
ERROR_DISTANCE_M = 2.0
"""Centre distance of the matches that errors are measured on."""
RECALLS = np.linspace(0.0, 1.0, 101)
FIRST_RECALL = 11
"""First of RECALLS that counts: those up to 0.1 are noise."""
MIN_PRECISION = 0.1
CLASS_RANGE_M: Mapping[str, float] = {
    "car": 50.0,
    "truck": 50.0,
    "bus": 50.0,
    "trailer": 50.0,
    "construction_vehicle": 50.0,
    "pedestrian": 40.0,
    "motorcycle": 40.0,
    "bicycle": 40.0,
    "traffic_cone": 30.0,
    "barrier": 30.0,
}
OTHER_RANGE_M = 50.0
"""Of a class that nuScenes does not have."""
ERRORS = ("ATE", "ASE", "AOE", "AVE")
ERROR_UNITS = ("m", "1 - IoU", "rad", "m/s")
UNDEFINED: Mapping[str, tuple[str, ...]] = {"traffic_cone": ("AOE", "AVE"), "barrier": ("AVE",)}
"""Errors that mean nothing for a class: a cone has no heading, and neither moves."""
HALF_TURN = ("barrier",)
"""Classes whose front and back are alike."""


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """Of one class. `ap`: by centre distance in metres. `errors`: by name, NaN where undefined for
    the class. `num_truth`, `num_results`: boxes that were compared.
    """

    ap: Mapping[float, float]
    errors: Mapping[str, float]
    num_truth: int
    num_results: int

    @property
    def mean_ap(self) -> float:
        """Over the centre distances."""
        return float(np.mean(list(self.ap.values())))


@dataclass(frozen=True, slots=True)
class DetectionMetrics:
    """Of all classes. `measured`: the errors that NDS is made of beside mAP; `ERRORS` without those
    that the truth gives no ground to measure.
    """

    classes: Mapping[str, ClassMetrics]
    measured: tuple[str, ...]

    @property
    def mean_ap(self) -> float:
        """mAP: over classes and centre distances."""
        return float(np.mean([found.mean_ap for found in self.classes.values()]))

    @property
    def errors(self) -> dict[str, float]:
        """mATE, mASE, mAOE and mAVE by the names in `ERRORS`, NaN where no class defines one."""
        means = {}
        for name in ERRORS:
            values = [c.errors[name] for c in self.classes.values()]
            known = [value for value in values if not np.isnan(value)]
            means[name] = float(np.mean(known)) if known else float("nan")
        return means

    @property
    def nds(self) -> float:
        """The nuScenes detection score of what was measured: (5 mAP + sum of 1 - error) over the
        number of terms; 9 of them with all four errors.
        """
        errors = self.errors
        kept = [1.0 - min(1.0, errors[e]) for e in self.measured if not np.isnan(errors[e])]
        return float((5.0 * self.mean_ap + sum(kept)) / (5 + len(kept)))


def class_ranges(
    classes: Sequence[str], overrides: Mapping[str, float] | float | None = None
) -> dict[str, float]:
    """Metres within which each class counts: that of nuScenes, or 50 for a class it does not have.

    Args:
        classes: the names.
        overrides: a number for all classes, or numbers by class.
    """
    if isinstance(overrides, (int, float)):
        return dict.fromkeys(classes, float(overrides))
    known = {**CLASS_RANGE_M, **(overrides or {})}
    return {name: known.get(name, OTHER_RANGE_M) for name in classes}


def counted_truth(truth: BoxSet) -> NDArray[np.bool_]:
    """Which true boxes a detector is expected to find: those with a LiDAR or radar point.

    Where the file counts no point at all (a vehicle without LiDAR) those that a camera sees at all;
    boxes of which neither is known count.
    """
    seen = truth.points != 0
    if not (truth.points > 0).any() and not np.isnan(truth.visibility).all():
        seen = np.nan_to_num(truth.visibility, nan=1.0) > 0
    return np.asarray(seen)


def evaluate_boxes(
    results: BoxSet,
    truth: BoxSet,
    frame_of_result: Int64,
    *,
    classes: Sequence[str],
    ranges: Mapping[str, float],
) -> DetectionMetrics:
    """Compares detections with the truth.

    Args:
        results: the detections.
        truth: what is there.
        frame_of_result: int64 [F], for each frame of the results the frame of the truth, or -1 for
            one that is not to be compared.
        classes: over which the means go; a class without truth has an AP of 0 and errors of 1.
        ranges: metres by class; see `class_ranges`.
    """
    result_frame = frame_of_result[results.frame] if len(results) else results.frame
    expected = counted_truth(truth)
    found = {}
    for name in classes:
        mine = _chosen(results, name, ranges[name]) & (result_frame >= 0)
        theirs = _chosen(truth, name, ranges[name]) & expected
        found[name] = _class_metrics(
            name,
            results.boxes[mine],
            results.scores[mine],
            result_frame[mine],
            truth.boxes[theirs],
            truth.frame[theirs],
        )
    known_speed = not len(truth) or not np.isnan(truth.boxes[:, 7:9]).any(axis=1).all()
    return DetectionMetrics(found, tuple(e for e in ERRORS if e != "AVE" or known_speed))


def _chosen(boxes: BoxSet, name: str, reach: float) -> NDArray[np.bool_]:
    if name not in boxes.names:
        return np.zeros(len(boxes), np.bool_)
    near = np.hypot(boxes.boxes[:, 0], boxes.boxes[:, 1]) < reach
    return np.asarray(near & (boxes.labels == boxes.names.index(name)))


def _class_metrics(
    name: str,
    boxes: Float64,
    scores: Float64,
    frames: Int64,
    true_boxes: Float64,
    true_frames: Int64,
) -> ClassMetrics:
    order = np.lexsort((np.arange(len(scores)), scores))[::-1]
    boxes, scores, frames = boxes[order], scores[order], frames[order]
    pairs = _near_pairs(boxes, frames, true_boxes, true_frames)
    ap, errors = {}, dict.fromkeys(ERRORS, 1.0)
    for distance in DISTANCES_M:
        partner = _match(pairs, distance, len(boxes), len(true_boxes))
        hit = partner >= 0
        if not hit.any():
            ap[distance] = 0.0
            continue
        recall = np.cumsum(hit) / len(true_boxes)
        precision = np.cumsum(hit) / np.arange(1, len(hit) + 1)
        ap[distance] = _average_precision(recall, precision)
        if distance == ERROR_DISTANCE_M:
            per_match = _match_errors(boxes[hit], true_boxes[partner[hit]], name in HALF_TURN)
            at_recall = np.interp(RECALLS, recall, scores, right=0)
            errors = _mean_errors(per_match, scores[hit], at_recall)
    for error in UNDEFINED.get(name, ()):
        errors[error] = float("nan")
    return ClassMetrics(ap, errors, len(true_boxes), len(boxes))


def _near_pairs(
    boxes: Float64, frames: Int64, true_boxes: Float64, true_frames: Int64
) -> tuple[Int64, Int64, Float64]:
    """All pairs of one frame whose centres are less than the largest distance apart.

    Returns:
        Index of the prediction, index of the true box and distance; by prediction, then distance,
        then true box.
    """
    theirs_of = _by_frame(true_frames)
    mine, theirs, apart = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for frame, rows in _by_frame(frames).items():
        columns = theirs_of.get(frame)
        if columns is None:
            continue
        offset = boxes[rows, None, :2] - true_boxes[None, columns, :2]
        distance = np.sqrt(offset[..., 0] ** 2 + offset[..., 1] ** 2)
        row, column = np.nonzero(distance < max(DISTANCES_M))
        mine.append(rows[row])
        theirs.append(columns[column])
        apart.append(distance[row, column])
    first, second, third = np.concatenate(mine), np.concatenate(theirs), np.concatenate(apart)
    order = np.lexsort((second, third, first))
    return first[order], second[order], third[order]


def _by_frame(frames: Int64) -> dict[int, Int64]:
    """Indices of each frame's entries, in their order."""
    order = np.argsort(frames, kind="stable")
    unique, starts = np.unique(frames[order], return_index=True)
    return dict(zip(unique.tolist(), np.split(order, starts[1:]), strict=False))


def _match(
    pairs: tuple[Int64, Int64, Float64], distance: float, num_boxes: int, num_true: int
) -> Int64:
    """Each prediction in turn takes the nearest true box that is left within the distance.

    Returns:
        int64 [num_boxes], index of the true box or -1.
    """
    near = pairs[2] < distance
    partner = np.full(num_boxes, -1, np.int64)
    matched, taken = bytearray(num_boxes), bytearray(num_true)
    for mine, theirs in zip(pairs[0][near].tolist(), pairs[1][near].tolist(), strict=True):
        if not matched[mine] and not taken[theirs]:
            matched[mine] = taken[theirs] = 1
            partner[mine] = theirs
    return partner


def _average_precision(recall: Float64, precision: Float64) -> float:
    at = np.interp(RECALLS, recall, precision, right=0)[FIRST_RECALL:]
    return float(np.clip(at - MIN_PRECISION, 0.0, None).mean() / (1.0 - MIN_PRECISION))


def _match_errors(boxes: Float64, true_boxes: Float64, half_turn: bool) -> dict[str, Float64]:
    """Errors of pairs of boxes float64 [M, 9], each float64 [M]; NaN: a velocity is unknown."""
    offset = boxes[:, :2] - true_boxes[:, :2]
    both = np.minimum(boxes[:, 3:6], true_boxes[:, 3:6]).prod(axis=1)
    union = boxes[:, 3:6].prod(axis=1) + true_boxes[:, 3:6].prod(axis=1) - both
    period = np.pi if half_turn else 2 * np.pi
    turn = (true_boxes[:, 6] - boxes[:, 6] + period / 2) % period - period / 2
    speed = boxes[:, 7:9] - true_boxes[:, 7:9]
    return {
        "ATE": np.hypot(offset[:, 0], offset[:, 1]),
        "ASE": 1.0 - both / union,
        "AOE": np.abs(turn),
        "AVE": np.hypot(speed[:, 0], speed[:, 1]),
    }


def _mean_errors(
    per_match: Mapping[str, Float64], scores: Float64, score_at_recall: Float64
) -> dict[str, float]:
    """Running means over the matches, read at each recall that is reached, and averaged.

    Args:
        per_match: errors of the matches, by falling score.
        scores: float64 [M], falling.
        score_at_recall: float64 [101], score at which each of RECALLS is reached, 0 beyond.
    """
    reached = np.flatnonzero(score_at_recall)
    last = int(reached[-1]) if len(reached) else 0
    if last < FIRST_RECALL:
        return dict.fromkeys(per_match, 1.0)
    means = {}
    for name, values in per_match.items():
        known = ~np.isnan(values)
        if not known.any():
            means[name] = 1.0
            continue
        count = np.cumsum(known)
        total = np.cumsum(np.where(known, values, 0.0))
        running = np.divide(total, count, out=np.zeros(len(total)), where=count > 0)
        at = np.interp(score_at_recall[::-1], scores[::-1], running[::-1])[::-1]
        means[name] = float(at[FIRST_RECALL : last + 1].mean())
    return means
