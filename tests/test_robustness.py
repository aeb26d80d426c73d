"""The table of accuracies by sensor condition, on a small fusion model whose outputs are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ros_messages as ros
from box_files import box
from fusion_model import LAYERS, write_fusion_model
from test_faults_content import cloud as cloud_with_rings

from bev_runtime.backends import create_backend
from bev_runtime.bags import Bag
from bev_runtime.camera_inputs import CameraInputs
from bev_runtime.cli import main
from bev_runtime.errors import ConfigError
from bev_runtime.evaluation import EvaluationError, Options, evaluate
from bev_runtime.model import load_model
from bev_runtime.preprocess import decode_rgb
from bev_runtime.rig_inference import infer_rig
from bev_runtime.robustness import naive as naive_module
from bev_runtime.robustness import study as study_module
from bev_runtime.robustness.study import Row, Study
from bev_runtime.types import Snapshot

FRAMES = 6
SPOTS = ((6.0, 5.0), (-8.0, 3.0), (4.0, -9.0))
"""Where the LiDAR sees many points, which the model calls `dense`."""
GRID = [-20.0, 20.0, -20.0, 20.0, 0.5]


def sweep(stamp_ns: int, seed: int, rings: bool) -> Any:
    rng = np.random.default_rng(seed)
    around = np.column_stack([rng.uniform(-19, 19, (800, 2)), rng.uniform(-2, 0, 800)])
    spots = [
        np.column_stack([rng.normal(0, 0.1, (200, 2)) + spot, rng.uniform(-1.5, 0, 200)])
        for spot in SPOTS
    ]
    points = np.column_stack([np.vstack([around, *spots]), np.full(1400, 50.0)])
    if not rings:
        return ros.cloud(stamp_ns, "lidar", points)
    message = cloud_with_rings(len(points))
    records = np.ascontiguousarray(message.data).view(
        [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("i", "<f4"), ("ring", "<u2")]
    )
    for column, name in enumerate("xyzi"):
        records[name] = points[:, column]
    message.header, message.data = ros.header(stamp_ns, "lidar"), records.view(np.uint8)
    return message


def dense_box(x: float, y: float) -> dict[str, Any]:
    size = {"center": [x, y, 1.0], "size_lwh": [3.0, 2.0, 2.0]}
    return {**box(x, y, "dense", num_lidar_pts=200), **size}


def write_drive(
    folder: Path, *, rings: bool = True, truth: bool = True, left_ends_s: float = 1e9
) -> Path:
    """Three cameras and a LiDAR that stand still, with the truth beside the bag."""
    messages, stamps = [], []
    for time_ns, topic, message in ros.drive(frames=FRAMES, speed=0.0):
        if topic == "/lidar/points":
            message = sweep(time_ns, len(stamps), rings)
            stamps.append(time_ns)
        if not topic.startswith("/left") or time_ns < ros.START + left_ends_s * 1e9:
            messages.append((time_ns, topic, message))
    ros.write_bag(folder, messages)
    if truth:
        boxes = [dense_box(x, y) for x, y in SPOTS]
        frames = [{"stamp_ns": stamp, "boxes": boxes} for stamp in stamps]
        document = {"frame_id": "base_link", "classes": ["dense"], "frames": frames}
        (folder / "ground_truth.json").write_text(json.dumps(document))
        layers = np.random.default_rng(3).random((FRAMES, 4, 80, 80)) < 0.5
        np.savez(
            folder / "truth.npz",
            stamps=np.array(stamps),
            truth=layers,
            layers=np.array(LAYERS),
            grid=np.array(GRID),
            visible=np.ones((FRAMES, 80, 80), bool),
        )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fusion_model(tmp_path_factory.mktemp("models") / "fusion")


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drives") / "drive")


@pytest.fixture
def make_study(model: Path) -> Iterator[Any]:
    package = load_model(model)
    with create_backend("onnxruntime", package, num_threads=1) as backend:
        yield lambda **options: Study(package.manifest, backend, **options)


def run(study: Study, *paths: Path) -> dict[str, Row]:
    for path in paths:
        with Bag(path) as bag:
            study.add_bag(path, bag, infer_rig(bag).rig)
    return {row.condition: row for row in study.rows()}


def test_every_condition_has_its_row_beside_the_naive_one(make_study, drive):
    study = make_study()
    rows = run(study, drive)
    degrees = [f"lidar_sector_{n}" for n in (120, 90, 60)]
    beams = [f"lidar_beams_{n}" for n in (16, 8, 4, 1)]
    objects = [f"missing_objects_{n}" for n in (0.1, 0.3, 0.5, 0.7, 1.0)]
    views = [f"{kind}_{n}" for kind in ("lost_cameras", "view_noise") for n in range(1, 7)]
    others = ["full", "no_lidar", "no_cameras", "occluded_cameras", "frozen_camera"]
    assert set(rows) == {*degrees, *beams, *objects, *views, *others, "camera_delay_1"}
    assert study.num_moments == FRAMES
    for row in rows.values():
        for figures in (row.figures, row.naive):
            assert {"mAP", "NDS", "mIoU", "mIoU_visible", "observed_share"} <= set(figures)
        assert row.figures["mIoU_same_cells"] == row.figures["mIoU"]
    sector = rows["lidar_sector_60"]
    assert sector.naive["observed_share"] == 1 > sector.figures["observed_share"]
    assert sector.naive["mIoU_same_cells"] != sector.naive["mIoU"]
    assert rows["full"].figures["mAP"] > 0.9
    assert rows["missing_objects_1.0"].figures["mAP"] == 0
    assert rows["missing_objects_0.5"].figures["mAP"] < rows["full"].figures["mAP"]
    assert rows["no_lidar"].figures["mAP"] == 0
    assert rows["lidar_sector_60"].figures["observed_share"] < 1
    assert any("without a true box, so not in the means: dark" in note for note in study.notes)


def test_the_row_full_is_what_a_replay_and_evaluate_give(
    make_study, drive, model, run_replay, tmp_path
):
    row = run(make_study(chosen=["full"]), drive)["full"]
    run_replay(drive, model=model, out=tmp_path / "out")
    thresholds = dict.fromkeys(LAYERS, 0.5)
    report = evaluate(tmp_path / "out", drive, Options(classes=("dense",), thresholds=thresholds))
    assert report.detection_frames.num_matched == FRAMES
    assert row.figures["mAP"] == pytest.approx(report.detection.mean_ap)
    assert row.figures["NDS"] == pytest.approx(report.detection.nds)
    assert row.figures["mIoU"] == pytest.approx(report.map.mean_iou, abs=2e-3)  # stored as float16


def test_conditions_that_leave_the_same_sensors_are_run_once_and_agree(
    make_study, drive, monkeypatch
):
    steps = []
    original = study_module.Pipeline.step
    monkeypatch.setattr(
        study_module.Pipeline,
        "step",
        lambda self, *a, **k: steps.append(k["missing"]) or original(self, *a, **k),
    )
    names = ["no_cameras", *(f"lost_cameras_{n}" for n in range(1, 7))]
    rows = run(make_study(chosen=names), drive)
    lost = [sorted(missing) for missing in steps if missing]
    assert len(lost) == 3 * FRAMES
    assert {len(names) for names in lost} == {1, 2, 3}
    same = {json.dumps(dict(rows[n].figures)) for n in ("no_cameras", "lost_cameras_3")}
    assert same == {json.dumps(dict(rows["lost_cameras_6"].figures))}
    assert rows["lost_cameras_1"].figures != rows["no_cameras"].figures


def test_the_naive_node_claims_every_cell_for_lost_sensors_and_the_runtime_does_not(
    make_study, drive
):
    seen: dict[str, list[Any]] = {}
    original = study_module.Meter.add

    def add(self: Any, index: int, output: Any, truth: Any, cells: Any) -> None:
        seen.setdefault(id(self), []).append(output[1].scores[:2].copy())
        original(self, index, output, truth, cells)

    study = make_study(chosen=["no_lidar", "no_cameras"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_module.Meter, "add", add)
        run(study, drive)
    of = {name: np.array(seen[id(meter)]) for name, meter in study._meters.items()}
    for name, layer in (("no_cameras", 0), ("no_lidar", 1)):
        assert (of[f"{name}_naive"] == 1).all()
        assert (of[name][:, layer] == 0).all()
        assert of[name][:, 1 - layer].any()


def spy_on_naive_inputs(monkeypatch: pytest.MonkeyPatch) -> list[Snapshot]:
    """The snapshots that the naive node takes its pictures from."""
    seen: list[Snapshot] = []

    class Spy(CameraInputs):
        def fill(self, names: Any, snapshot: Snapshot, calibration: Any) -> Any:
            seen.append(snapshot)
            return super().fill(names, snapshot, calibration)

    monkeypatch.setattr(naive_module, "CameraInputs", Spy)
    return seen


def test_the_naive_node_takes_late_pictures_as_new(make_study, drive, monkeypatch):
    seen = spy_on_naive_inputs(monkeypatch)
    run(make_study(chosen=["camera_delay_1"]), drive)
    for snapshot in seen:
        ages = [snapshot.reference_stamp_ns - f.stamp_ns for f in snapshot.cameras.values()]
        assert max(ages) < ros.PERIOD


def test_the_naive_node_sees_black_for_a_lost_camera_and_an_old_picture_for_a_frozen_one(
    make_study, drive, monkeypatch
):
    seen = spy_on_naive_inputs(monkeypatch)
    run(make_study(chosen=["lost_cameras_2", "frozen_camera"]), drive)
    brightest = [[int(decode_rgb(f).max()) for f in s.cameras.values()] for s in seen]
    lost, frozen = brightest[::2], brightest[1::2]
    assert len(lost) == len(frozen) == FRAMES
    assert all(sorted(values)[:2] == [0, 0] and max(values) > 100 for values in lost)
    assert all(min(values) > 100 for values in frozen)


def test_moments_that_lack_a_sensor_already_are_left_out_and_counted(make_study, tmp_path):
    study = make_study(chosen=["full"])
    run(study, write_drive(tmp_path / "drive", left_ends_s=0.25))
    assert 0 < study.num_moments < FRAMES
    assert any("moments lack a sensor, left out" in note for note in study.notes)


def test_the_table_repeats_with_its_seed(make_study, drive):
    chosen = ["lost_cameras_1", "view_noise_1", "missing_objects_0.5", "occluded_cameras"]
    tables = [run(make_study(chosen=chosen, seed=seed), drive) for seed in (1, 1, 2)]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_moments_of_several_bags_are_pooled(make_study, drive, tmp_path):
    second = write_drive(tmp_path / "second")
    boxes = json.loads((second / "ground_truth.json").read_text())
    for frame in boxes["frames"]:
        frame["boxes"] = [{**box, "class": "bus"} for box in frame["boxes"]]
    (second / "ground_truth.json").write_text(json.dumps(boxes))
    study = make_study(chosen=["full"])
    both = run(study, drive, second)["full"].figures
    assert study.num_moments == 2 * FRAMES
    alone = run(make_study(chosen=["full"]), drive)["full"].figures
    assert 0.3 < both["mAP"] < 0.7 * alone["mAP"]


def test_beams_need_rings_and_their_rows_are_left_out_without(make_study, tmp_path):
    study = make_study(chosen=["full", "lidar_beams_4"])
    assert list(run(study, write_drive(tmp_path / "plain", rings=False))) == ["full"]
    assert any(
        "lidar_beams_4 is left out: cloud has no numeric field 'ring'" in n for n in study.notes
    )


def test_a_bag_without_truth_is_refused(make_study, tmp_path):
    with pytest.raises(EvaluationError, match=r"neither ground_truth\.json nor truth\.npz"):
        run(make_study(), write_drive(tmp_path / "drive", truth=False))


def test_a_truth_of_another_bag_is_refused(make_study, tmp_path):
    folder = write_drive(tmp_path / "drive")
    with np.load(folder / "truth.npz") as file:
        arrays = {**file, "stamps": file["stamps"] + 1}
    np.savez(folder / "truth.npz", **arrays)
    with pytest.raises(EvaluationError, match="no output of the model has the stamp of a truth"):
        run(make_study(), folder)


def test_an_unknown_condition_is_refused(make_study):
    with pytest.raises(ConfigError, match=r"conditions fog are unknown.*full, no_lidar"):
        make_study(chosen=["fog"])


def test_the_command_writes_json_markdown_and_stores_the_table(model, drive, tmp_path, capsys):
    copy = tmp_path / "model"
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    options = ["--conditions", "full,no_cameras", "--out", str(tmp_path / "out"), "--store"]
    assert main(["robustness", str(copy), "--bags", str(drive), *options, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["condition"] for row in printed["rows"]] == ["full", "no_cameras"]
    assert json.loads((tmp_path / "out/table.json").read_text()) == printed
    assert "| no_cameras |" in (tmp_path / "out/table.md").read_text()
    stored = {row.condition: row for row in load_model(copy).manifest.accuracy}
    assert list(stored) == ["full", "full_naive", "no_cameras", "no_cameras_naive"]
    assert stored["full"].dataset == "drive"
    assert stored["full"].metrics["mAP"] == pytest.approx(
        printed["rows"][0]["metrics"]["mAP"], abs=1e-4
    )
    assert main(["robustness", str(copy), "--bags", str(drive), *options[:2]]) == 0
    assert "this runtime / naive node" in capsys.readouterr().out


def test_wrong_options_are_usage_errors(model, drive, capsys):
    with pytest.raises(SystemExit):
        main(["robustness", str(model)])
    assert main(["robustness", str(model), "--sim", "0"]) == 2
    assert main(["robustness", str(model), "--bags", str(drive), "--conditions", "fog"]) == 2
    assert "conditions fog are unknown" in capsys.readouterr().err


@pytest.mark.slow
def test_simulated_drives_are_made_once_and_measured(model, tmp_path, monkeypatch, capsys):
    pytest.importorskip("embreex", reason="the simulator needs the extra 'sim'")
    from bev_runtime.cli import robustness

    monkeypatch.setattr(robustness, "SIM_SECONDS", 0.5)
    options = ["--sim", "2", "--sim-dir", str(tmp_path), "--conditions", "full", "--json"]
    assert main(["robustness", str(model), *options]) == 0
    first = json.loads(capsys.readouterr().out)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.mcap")}
    assert [path.parent.name for path in sorted(made)] == [
        "town_910000_nuscenes",
        "town_910001_shuttle",
    ]
    assert main(["robustness", str(model), *options]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert {path: path.stat().st_mtime_ns for path in made} == made
