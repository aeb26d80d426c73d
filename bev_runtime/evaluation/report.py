"""Results of a run beside their truth: which moments belong together, and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bev_runtime.evaluation.detection import (
    ERRORS,
    DetectionMetrics,
    class_ranges,
    evaluate_boxes,
)
from bev_runtime.evaluation.files import (
    BoxSet,
    EvaluationError,
    load_result_boxes,
    load_truth_boxes,
    missing_names,
)
from bev_runtime.evaluation.maps import (
    MapCounter,
    MapMetrics,
    TrueMaps,
    load_true_maps,
    map_files,
    read_map,
)
from bev_runtime.evaluation.matching import Matching, match_stamps


@dataclass(frozen=True, slots=True)
class Options:
    """What to compare.

    `classes`: over which mAP goes; None for all that the truth knows. `ranges`: metres within which
    boxes count, for all classes or by class; None for those of nuScenes. `max_age_s`: an output
    belongs to a truth whose stamp is at most this much away. `skip_missing`: moments of the truth
    without an output do not count, instead of counting as missed. `thresholds`: of map layers;
    layers without one get that of the best IoU.
    """

    classes: tuple[str, ...] | None = None
    ranges: Mapping[str, float] | float | None = None
    max_age_s: float = 0.0
    skip_missing: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `notes`: whatever a reader of the figures must know."""

    detection: DetectionMetrics | None
    detection_frames: Matching | None
    map: MapMetrics | None
    map_frames: Matching | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """For scripts; a figure that is undefined is None."""
        result: dict[str, object] = {"notes": list(self.notes)}
        if self.detection is not None and self.detection_frames is not None:
            found = self.detection
            result["detection"] = {
                "frames": self.detection_frames.as_dict(),
                "mAP": _number(found.mean_ap),
                "NDS": _number(found.nds),
                "NDS_terms": ["mAP", *found.measured],
                **{f"m{name}": _number(value) for name, value in found.errors.items()},
                "classes": {
                    name: {
                        "AP": _number(metrics.mean_ap),
                        "AP_by_distance_m": {f"{d:g}": _number(v) for d, v in metrics.ap.items()},
                        **{error: _number(value) for error, value in metrics.errors.items()},
                        "num_truth": metrics.num_truth,
                        "num_results": metrics.num_results,
                    }
                    for name, metrics in found.classes.items()
                },
            }
        if self.map is not None and self.map_frames is not None:
            result["map"] = {
                "frames": self.map_frames.as_dict(),
                "mIoU": _number(self.map.mean_iou),
                "mIoU_visible": _number(self.map.mean_iou_visible),
                "observed_share": _number(self.map.observed_share),
                "layers": {
                    name: {
                        "IoU": _number(layer.iou),
                        "IoU_visible": _number(layer.iou_visible),
                        "threshold": layer.threshold,
                        "threshold_is_best": layer.is_best,
                    }
                    for name, layer in self.map.layers.items()
                },
            }
        return result


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def evaluate(results: Path, truth: Path, options: Options | None = None) -> Report:
    """Compares results with the truth, boxes and maps, whichever both have.

    Args:
        results: a replay folder, a detections.jsonl, or a `bev-boxes-1` file with scores.
        truth: a `bev-boxes-1` file, or a bag's folder with ground_truth.json or truth.npz.
        options: what to compare.

    Raises:
        EvaluationError: a file is missing or malformed, or there is nothing to compare.
    """
    options = options or Options()
    notes: list[str] = []
    for path in (results, truth):
        if not path.exists():
            raise EvaluationError(f"{path} does not exist, expected a file or folder")
    true_boxes, true_maps = load_truth_boxes(truth), load_true_maps(truth)
    boxes = load_result_boxes(results) if true_boxes is not None else None
    maps = map_files(results) if results.is_dir() and true_maps is not None else []
    detection = detection_frames = found_map = map_frames = None
    if boxes is not None and true_boxes is not None:
        detection_frames, detection = _evaluate_boxes(boxes, true_boxes, options, notes)
    if maps and true_maps is not None:
        map_frames, found_map = _evaluate_maps(maps, true_maps, options, notes)
    if detection is None and found_map is None:
        raise EvaluationError(
            f"{results} and {truth} have nothing in common to compare: expected detections with "
            "true boxes, or maps/ with truth.npz"
        )
    return Report(detection, detection_frames, found_map, map_frames, tuple(notes))


def _evaluate_boxes(
    boxes: BoxSet, truth: BoxSet, options: Options, notes: list[str]
) -> tuple[Matching, DetectionMetrics]:
    classes = options.classes or truth.classes
    if not len(truth.stamps_ns):
        raise EvaluationError("the truth holds no frame, so nothing can be right or wrong")
    if not classes:
        raise EvaluationError("the truth holds no box and names no class: give --classes")
    matching = match_stamps(boxes.stamps_ns, truth.stamps_ns, options.max_age_s)
    _note_frames("detections", matching, options, notes)
    if boxes.frame_id and boxes.frame_id != truth.frame_id:
        notes.append(
            f"the results are in frame '{boxes.frame_id}', the truth is in '{truth.frame_id}': "
            "taken as the same"
        )
    unknown = missing_names(boxes.names, classes)
    if unknown:
        notes.append(f"classes of the results that are not compared: {', '.join(unknown)}")
    if not (truth.points >= 0).any() and len(truth):
        notes.append("the truth counts no points: every true box is expected to be found")
    compared = _kept_truth(truth, matching) if options.skip_missing else truth
    found = evaluate_boxes(
        boxes,
        compared,
        matching.frame_of_result,
        classes=classes,
        ranges=class_ranges(classes, options.ranges),
    )
    if "AVE" in found.measured:
        _note_velocities(boxes, classes, matching, notes)
    absent = [name for name, metrics in found.classes.items() if not metrics.num_truth]
    if absent:
        notes.append(
            f"no true box of {', '.join(absent)}: their AP counts as 0 and their errors as 1, "
            "choose --classes to leave them out"
        )
    left_out = [name for name in ERRORS if name not in found.measured]
    notes.append(
        "NDS is without the attribute error"
        + (f" and without {', '.join(left_out)}, which the truth does not give" if left_out else "")
        + f": (5 mAP + the sum of 1 - min(1, error) over "
        f"{', '.join(f'm{name}' for name in found.measured)}) / {5 + len(found.measured)}"
    )
    return matching, found


def _note_velocities(
    boxes: BoxSet, classes: Sequence[str], matching: Matching, notes: list[str]
) -> None:
    judged = [i for i, name in enumerate(boxes.names) if name in classes]
    compared = np.isin(boxes.labels, judged) & (matching.frame_of_result[boxes.frame] >= 0)
    unknown = np.isnan(boxes.boxes[compared, 7:9]).any(axis=1)
    if unknown.any():
        notes.append(f"{unknown.mean():.0%} of the results have no velocity: AVE is of the others")


def _kept_truth(truth: BoxSet, matching: Matching) -> BoxSet:
    """The truth of the compared moments; frames keep their index."""
    kept = np.isin(truth.frame, matching.frame_of_result)
    return BoxSet(
        truth.frame_id,
        truth.classes,
        truth.names,
        truth.stamps_ns,
        *(
            getattr(truth, name)[kept]
            for name in ("frame", "boxes", "labels", "scores", "points", "visibility")
        ),
    )


def _evaluate_maps(
    files: Sequence[tuple[int, Path]], truth: TrueMaps, options: Options, notes: list[str]
) -> tuple[Matching, MapMetrics | None]:
    stamps = np.array([stamp for stamp, _ in files], np.int64)
    matching = match_stamps(stamps, truth.stamps_ns, options.max_age_s)
    _note_frames("maps", matching, options, notes)
    counter: MapCounter | None = None
    known: tuple[str, ...] = ()
    for (_, path), moment in zip(files, matching.frame_of_result.tolist(), strict=True):
        if moment < 0:
            continue
        found = read_map(path)
        if counter is None:
            known = found.layers
            counter = _counter(found.layers, truth, options, notes)
            if counter is None:
                return matching, None
            if found.grid != truth.grid:
                notes.append(
                    f"the maps are over {found.grid}, the truth over {truth.grid}: each cell is "
                    "compared with the true cell at its centre"
                )
        elif found.layers != known:
            raise EvaluationError(f"{path} has layers {found.layers}, maps before it {known}")
        counter.add(truth, moment, found)
    return matching, counter.finish(len(truth.stamps_ns)) if counter is not None else None


def _counter(
    layers: Sequence[str], truth: TrueMaps, options: Options, notes: list[str]
) -> MapCounter | None:
    shared = tuple(name for name in layers if name in truth.layers)
    for what, names in (
        ("results", missing_names(layers, truth.layers)),
        ("truth", missing_names(truth.layers, layers)),
    ):
        if names:
            notes.append(f"map layers that only the {what} have: {', '.join(names)}")
    unknown = missing_names(options.thresholds, shared)
    if unknown:
        notes.append(f"thresholds of layers that are not compared: {', '.join(unknown)}")
    if not shared:
        return None
    free = [name for name in shared if name not in options.thresholds]
    if free:
        notes.append(f"best threshold chosen on this truth for: {', '.join(free)}")
    if truth.visible is None:
        notes.append("the truth does not say which cells are visible")
    given = {name: level for name, level in options.thresholds.items() if name in shared}
    return MapCounter(shared, given)


def _note_frames(what: str, matching: Matching, options: Options, notes: list[str]) -> None:
    alone = len(matching.frame_of_result) - matching.num_matched
    missed = matching.num_truth - matching.num_matched
    if not matching.num_matched:
        notes.append(f"no {what} have the stamp of a truth: are these of the same bag?")
    if alone:
        notes.append(f"{alone} {what} have no truth of their stamp and are not compared")
    if missed:
        fate = "are left out" if options.skip_missing or what == "maps" else "count as missed"
        notes.append(f"{missed} moments of the truth have no {what} and {fate}")
    if matching.max_difference_s > 0:
        notes.append(
            f"{what} and truth are up to {matching.max_difference_s * 1e3:.0f} ms apart, and "
            "nothing is moved to make up for it"
        )
