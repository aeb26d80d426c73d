"""What a lower precision costs in detections and maps, by the metrics of `bev-runtime evaluate`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bev_runtime.bags import Bag
from bev_runtime.cli.replay import replay_bag
from bev_runtime.evaluation import Options, evaluate
from bev_runtime.model import ModelPackage
from bev_runtime.rig import load_rig
from bev_runtime.rig_inference import infer_rig

METRICS = (("detection", "mAP"), ("detection", "NDS"), ("map", "mIoU"), ("map", "mIoU_visible"))
Accuracy = dict[str, dict[str, float]]


def compare_accuracy(
    before: ModelPackage, after: ModelPackage, bag: Path, truth: Path, rig: Path | None
) -> Accuracy:
    """Replays a bag through both packages and evaluates both.

    Returns:
        `before` and `after` by metric; a metric that is undefined for one is left out.

    Raises:
        EvaluationError: the results cannot be compared with the truth.
    """
    found = [_evaluate(model, bag, truth, rig) for model in (before, after)]
    return {
        name: {"before": found[0][name], "after": found[1][name]}
        for name in found[0]
        if name in found[1]
    }


def accuracy_rows(accuracy: Mapping[str, Mapping[str, float]], data: str) -> list[dict[str, Any]]:
    """Rows for the manifest's `accuracy` section."""
    metrics = {name: round(values["after"], 4) for name, values in accuracy.items()}
    return [{"condition": "full", "dataset": data, "metrics": metrics}] if metrics else []


def _evaluate(model: ModelPackage, bag: Path, truth: Path, rig: Path | None) -> dict[str, float]:
    thresholds: dict[str, float] = {}
    if model.manifest.map is not None:
        layers = model.manifest.map.layers
        thresholds = dict(zip(layers, model.manifest.map.thresholds, strict=True))
    with tempfile.TemporaryDirectory() as folder, Bag(bag) as opened:
        layout = load_rig(rig) if rig is not None else infer_rig(opened).rig
        replay_bag(opened, model, layout, out=Path(folder), pictures=0)
        report: Mapping[str, Any] = evaluate(
            Path(folder), truth, Options(thresholds=thresholds)
        ).as_dict()
    return {
        name: float(value)
        for part, name in METRICS
        if (value := report.get(part, {}).get(name)) is not None
    }
