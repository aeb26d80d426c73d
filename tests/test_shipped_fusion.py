"""The shipped fusion models on a drive through a simulated town that they were not trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bev_runtime.cli import main

pytest.importorskip("embreex", reason="the extra `sim` is not installed")

MODELS = ("metabev_tiny", "metabev_tiny_int8")
CONDITIONS = ("full", "no_lidar", "no_cameras")
Table = dict[str, dict[str, dict[str, float]]]


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag with truth."""
    bag = tmp_path_factory.mktemp("shipped") / "drive"
    town = ["--seed", "910100", "--seconds", "8", "--rate", "2", "--scale", "0.4"]
    assert main(["simulate", "bag", str(bag), *town]) == 0
    return bag


@pytest.fixture(scope="module")
def tables(drive: Path) -> dict[str, Table]:
    """By model: by condition: `metrics` of the runtime and of a `naive` node."""
    return {name: study(name, drive, drive.parent / name) for name in MODELS}


def study(name: str, drive: Path, out: Path) -> Table:
    chosen = ["--conditions", ",".join(CONDITIONS)]
    assert main(["robustness", name, "--bags", str(drive), "--out", str(out), *chosen]) == 0
    rows: list[dict[str, Any]] = json.loads((out / "table.json").read_text())["rows"]
    return {row["condition"]: row for row in rows}


@pytest.mark.parametrize("name", MODELS)
def test_cars_and_the_road_are_found_with_whatever_is_left(tables, name):
    full, blind, dark = (tables[name][condition]["metrics"] for condition in CONDITIONS)
    assert full["AP_car_2m"] > 0.85
    assert full["mIoU"] > 0.5
    assert blind["AP_car_2m"] > 0.2
    assert blind["mIoU"] > 0.7 * full["mIoU"]
    assert dark["NDS"] > 0.85 * full["NDS"]
    assert dark["mIoU"] > 0.85 * full["mIoU"]


def test_velocities_are_told_once_they_are_known(drive, tables, tmp_path, capsys):
    assert "mAVE" not in tables["metabev_tiny"]["full"]["metrics"]
    out = tmp_path / "out"
    assert main(["replay", str(drive), "--model", "metabev_tiny", "--out", str(out)]) == 0
    outputs = [
        json.loads(line)["boxes"] for line in (out / "detections.jsonl").read_text().splitlines()
    ]
    assert not any(box["vx"] is not None for box in outputs[0])
    known = [box["vx"] is not None for box in outputs[-1] if box["score"] > 0.5]
    assert sum(known) > 0.5 * len(known) > 2
    capsys.readouterr()
    assert main(["evaluate", str(out), "--truth", str(drive), "--json"]) == 0
    classes = json.loads(capsys.readouterr().out)["detection"]["classes"]
    assert classes["car"]["AVE"] < 1.5, "standing still would be off by several"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_to_say_what_is_missing_beats_black_pictures_and_empty_clouds(tables, name, condition):
    row = tables[name][condition]
    assert row["metrics"]["NDS"] > row["naive"]["NDS"] - 0.005
    assert row["metrics"]["mIoU"] > row["naive"]["mIoU"] + 0.02


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("metric", ["NDS", "mAP", "mIoU"])
def test_integers_cost_next_to_nothing(tables, condition, metric):
    exact, coarse = (tables[name][condition]["metrics"][metric] for name in MODELS)
    assert coarse == pytest.approx(exact, abs=0.02)
