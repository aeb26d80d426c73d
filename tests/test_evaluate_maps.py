"""Map metrics, against a count cell by cell."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from box_files import box, write

from bev_runtime.cli import main
from bev_runtime.evaluation import EvaluationError, Options, evaluate
from bev_runtime.sinks.maps import MapsSink
from bev_runtime.types import BevGrid, BevMap, BevOutput, Detections, Mode

GRID = BevGrid(-8.0, 8.0, -6.0, 6.0, 1.0)
LAYERS = ("drivable_area", "crossing")
STAMPS = np.array([100, 200, 300], np.int64)


def truth(folder: Path, **change: Any) -> tuple[Path, dict[str, Any]]:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "stamps": STAMPS,
        "truth": rng.random((3, 2, *GRID.shape)) < 0.4,
        "layers": np.array(LAYERS),
        "grid": np.array([-8.0, 8.0, -6.0, 6.0, 1.0]),
        "visible": rng.random((3, *GRID.shape)) < 0.7,
    }
    arrays = {name: value for name, value in {**arrays, **change}.items() if value is not None}
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / "truth.npz", **arrays)
    return folder, arrays


def results(folder: Path, grid: BevGrid = GRID, stamps: Any = STAMPS) -> tuple[Path, list[BevMap]]:
    """Maps as a replay writes them."""
    rng = np.random.default_rng(1)
    sink, maps = MapsSink(folder / "maps"), []
    for stamp in stamps:
        observed = rng.random(grid.shape) < 0.8
        scores = rng.integers(0, 20, (2, *grid.shape)).astype(np.float32) / 20 * observed
        maps.append(BevMap(grid, LAYERS[::-1], scores, observed))
        output = BevOutput(
            int(stamp), "base_link", Mode.FULL, "", Detections.empty(), maps[-1], {}, True, {}, {}
        )
        sink.write(output, None, None)
    return folder, maps


def count(
    maps: list[BevMap], arrays: dict[str, Any], layer: str, level: float, masks: Any
) -> float:
    hits = union = 0
    for moment, found in enumerate(maps):
        mine = found.scores[found.layers.index(layer)].astype(np.float16) >= level
        real = arrays["truth"][moment, LAYERS.index(layer)]
        for row, column in np.argwhere(masks[moment]):
            hits += bool(mine[row, column] and real[row, column])
            union += bool(mine[row, column] or real[row, column])
    return hits / union


def test_iou_counts_observed_cells_of_all_moments_at_the_given_threshold(tmp_path):
    folder, arrays = truth(tmp_path / "bag")
    made, maps = results(tmp_path / "out")
    options = Options(thresholds={"drivable_area": 0.33, "crossing": 0.6})
    report = evaluate(made, folder, options)
    for layer, level in options.thresholds.items():
        found = report.map.layers[layer]
        observed = [m.observed for m in maps]
        assert found.iou == pytest.approx(count(maps, arrays, layer, level, observed))
        both = [o & v for o, v in zip(observed, arrays["visible"], strict=True)]
        assert found.iou_visible == pytest.approx(count(maps, arrays, layer, level, both))
        assert (found.threshold, found.is_best) == (level, False)
    assert report.map.mean_iou == pytest.approx(
        np.mean([v.iou for v in report.map.layers.values()])
    )
    assert report.map.observed_share == pytest.approx(np.mean([m.observed for m in maps]))


def test_without_a_threshold_the_best_one_is_taken_and_called_so(tmp_path):
    folder, arrays = truth(tmp_path / "bag")
    made, maps = results(tmp_path / "out")
    report = evaluate(made, folder)
    observed = [m.observed for m in maps]
    levels = np.arange(1, 20) / 20
    best = max(count(maps, arrays, "crossing", level, observed) for level in levels)
    assert report.map.layers["crossing"].iou == pytest.approx(best)
    assert report.map.layers["crossing"].is_best
    assert any("best threshold chosen on this truth for: crossing" in n for n in report.notes)


def test_a_truth_without_visibility_is_said(tmp_path):
    folder, _ = truth(tmp_path / "bag", visible=None)
    report = evaluate(results(tmp_path / "out")[0], folder)
    assert np.isnan(report.map.mean_iou_visible)
    assert any("does not say which cells are visible" in note for note in report.notes)


def test_maps_of_another_grid_are_compared_at_their_cells_centres(tmp_path):
    coarse = BevGrid(-4.0, 12.0, -6.0, 6.0, 2.0)
    folder, arrays = truth(tmp_path / "bag")
    made, maps = results(tmp_path / "out", coarse)
    report = evaluate(made, folder, Options(thresholds={"crossing": 0.5, "drivable_area": 0.5}))
    hits = union = 0
    for moment, found in enumerate(maps):
        for row, column in np.argwhere(found.observed):
            x, y = coarse.centres()[row, column]
            if x > GRID.x_max:
                continue
            real = arrays["truth"][moment, 0, int(x - GRID.x_min), int(y - GRID.y_min)]
            mine = found.scores[1, row, column] >= 0.5
            hits, union = hits + (mine and real), union + (mine or real)
    assert report.map.layers["drivable_area"].iou == pytest.approx(hits / union)
    assert any("true cell at its centre" in note for note in report.notes)


def test_moments_without_a_map_lower_the_observed_share(tmp_path):
    folder, _ = truth(tmp_path / "bag")
    made, maps = results(tmp_path / "out", stamps=[100, 150])
    report = evaluate(made, folder)
    assert report.map_frames.as_dict()["compared"] == 1
    assert report.map.observed_share == pytest.approx(maps[0].observed.mean() / 3)
    assert any("1 maps have no truth of their stamp" in note for note in report.notes)
    assert any("2 moments of the truth have no maps and are left out" in n for n in report.notes)


def test_layers_that_one_side_lacks_are_named(tmp_path):
    folder, _ = truth(tmp_path / "bag", layers=np.array(["drivable_area", "kerb"]))
    report = evaluate(results(tmp_path / "out")[0], folder)
    assert list(report.map.layers) == ["drivable_area"]
    assert "map layers that only the results have: crossing" in report.notes
    assert "map layers that only the truth have: kerb" in report.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stamps": None}, "holds no stamps"),
        ({"stamps": np.array([1, 1, 2])}, "each once"),
        ({"truth": np.zeros((3, 2, 4, 4), bool)}, r"expected bool \[3, 2, 16, 12\]"),
        ({"truth": np.zeros((3, 2, *GRID.shape))}, "'truth' is float64"),
        ({"visible": np.ones((3, 2, 2), bool)}, "'visible' is bool"),
        ({"grid": np.array([0.0, 1.0])}, "'grid' is"),
        ({"grid": np.array([0, 1e9, 0, 1, 1e-9])}, "'grid' is"),
        ({"layers": np.array([1, 2])}, "list of names"),
        ({"layers": np.array([{}], object)}, "no readable .npz"),
    ],
)
def test_a_malformed_truth_is_named_with_its_mistake(tmp_path, change, message):
    folder, _ = truth(tmp_path / "bag", **change)
    with pytest.raises(EvaluationError, match=message):
        evaluate(results(tmp_path / "out")[0], folder)


def test_damaged_maps_are_errors(tmp_path):
    folder, _ = truth(tmp_path / "bag")
    made, maps = results(tmp_path / "out")
    path = made / "maps" / "200.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EvaluationError, match=r"200\.npz is no readable"):
        evaluate(made, folder)
    grid = np.array([-8.0, 8.0, -6.0, 6.0, 1.0])
    scores = np.full((2, *GRID.shape), np.nan, np.float16)
    np.savez(path, scores=scores, observed=maps[1].observed, layers=np.array(LAYERS), grid=grid)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        evaluate(made, folder)
    (made / "maps" / "x.npz").write_bytes(whole)
    with pytest.raises(EvaluationError, match="expected a stamp"):
        evaluate(made, folder)


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    folder, _ = truth(tmp_path / "bag")
    monkeypatch.setattr("bev_runtime.evaluation.maps.MAX_NPZ_BYTES", 1000)
    monkeypatch.setattr(np, "load", None)
    with pytest.raises(EvaluationError, match="expected at most 1000"):
        evaluate(results(tmp_path / "out")[0], folder)
    assert zipfile.is_zipfile(folder / "truth.npz")


def test_a_replay_of_a_bag_with_truth_is_evaluated_whole(tmp_path, capsys):
    folder, _ = truth(tmp_path / "bag")
    write(folder / "ground_truth.json", [[box(5, 0, num_lidar_pts=1)]])
    made, _ = results(tmp_path / "out")
    (made / "detections.jsonl").write_text('{"stamp_ns": 10, "frame_id": "base_link", "boxes": []}')
    assert (
        main(["evaluate", str(made), "--truth", str(folder), "--thresholds", "crossing=0.5"]) == 0
    )
    text = capsys.readouterr().out
    assert "mAP 0.0000" in text
    assert "drivable_area" in text
    assert "(best)" in text
