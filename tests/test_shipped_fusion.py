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
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Table]:
    """By model: by condition: `metrics` of the runtime and of a `naive` node."""
    folder = tmp_path_factory.mktemp("shipped")
    drive = folder / "drive"
    town = ["--seed", "910100", "--seconds", "3", "--rate", "2", "--scale", "0.4"]
    assert main(["simulate", "bag", str(drive), *town]) == 0
    return {name: study(name, drive, folder / name) for name in MODELS}


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


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("condition", CONDITIONS)
def test_to_say_what_is_missing_beats_black_pictures_and_empty_clouds(tables, name, condition):
    row = tables[name][condition]
    assert row["metrics"]["NDS"] > row["naive"]["NDS"] - 0.01
    assert row["metrics"]["mIoU"] > row["naive"]["mIoU"] + 0.02


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("metric", ["NDS", "mAP", "mIoU"])
def test_integers_cost_next_to_nothing(tables, condition, metric):
    exact, coarse = (tables[name][condition]["metrics"][metric] for name in MODELS)
    assert coarse == pytest.approx(exact, abs=0.02)
