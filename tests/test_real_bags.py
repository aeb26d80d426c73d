"""The shipped model on real sensor data: counts, stamps, frames, and how the map must look."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_pack import data_pack

from bev_runtime.bags import Bag
from bev_runtime.cli.replay import replay_bag
from bev_runtime.model import load_model
from bev_runtime.rig import load_rig
from bev_runtime.rig_inference import infer_rig

pytestmark = pytest.mark.data
MODEL = "twinlite_ground_map"
CAMERAS = [
    "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT", "CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT",
]  # fmt: skip
EXPECTED = {
    "nuscenes_scene0061": (CAMERAS, "LIDAR_TOP", 1),
    "nuscenes_scene0061_raw": (CAMERAS, "LIDAR_TOP", 1),
    "nuscenes_bevdet_sample0": (CAMERAS, "LIDAR_TOP", 1),
    "kitti_object": (["CAM2"], "velodyne", 2),
    "kitti_000134": (["CAM2"], "velodyne", 1),
    "av2_7fab2350": ([], "lidar", 0),
}


def run(name: str, out: Path, **options) -> tuple[dict, dict[int, dict[str, np.ndarray]]]:
    with Bag(data_pack() / "bags" / name) as bag:
        rig = infer_rig(bag).rig
        summary = replay_bag(bag, load_model(MODEL), rig, out=out, **options)
    maps = {}
    for path in sorted((out / "maps").glob("*.npz")):
        with np.load(path) as file:
            maps[int(path.stem)] = dict(file)
    return summary, maps


@pytest.mark.parametrize("name", EXPECTED)
def test_every_real_bag_replays_with_exact_counts_frames_and_stamps(name, tmp_path):
    cameras, lidar, frames = EXPECTED[name]
    summary, maps = run(name, tmp_path)
    assert sorted(summary["sensors"]) == sorted([*cameras, lidar])
    for sensor in cameras:
        assert summary["sensors"][sensor] == {
            "received": frames,
            "used": frames,
            "superseded": 0,
            "rejected": {},
        }
    assert summary["published"] == frames
    lines = [json.loads(s) for s in (tmp_path / "detections.jsonl").read_text().splitlines()]
    truth = json.loads((data_pack() / "ground_truth" / f"{name}.json").read_text())
    stamps = [line["stamp_ns"] for line in lines]
    assert stamps == [frame["stamp_ns"] for frame in truth["frames"]][:frames]
    assert list(maps) == stamps
    assert {line["frame_id"] for line in lines} <= {"base_link"}
    if not cameras:
        assert set(summary["modes"]) == {"BLIND"}
        assert "no sensor that this model takes" in summary["mode_changes"][0]["reason"]


def test_the_road_of_scene0061_is_found_ahead_and_behind_and_not_beside(tmp_path):
    _, maps = run("nuscenes_scene0061", tmp_path)
    found = next(iter(maps.values()))
    drivable = found["scores"][0].astype(np.float32)
    x = found["grid"][0] + (np.arange(200) + 0.5) * 0.5
    forward, left = np.meshgrid(x, x, indexing="ij")
    lane = np.abs(left) < 1.5
    assert drivable[lane & (forward > 8) & (forward < 30)].mean() > 0.8
    assert drivable[lane & (forward < -8) & (forward > -25)].mean() > 0.8
    assert drivable[(np.abs(left) > 15) & (np.abs(forward) < 40)].mean() < 0.05


def test_cells_under_and_behind_real_vehicles_are_not_drivable(tmp_path):
    _, maps = run("nuscenes_scene0061", tmp_path)
    drivable = next(iter(maps.values()))["scores"][0].astype(np.float32)
    truth = json.loads((data_pack() / "ground_truth/nuscenes_scene0061.json").read_text())
    values = []
    for box in truth["frames"][0]["boxes"]:
        x, y, _ = box["center"]
        near = 6 < np.hypot(x, y) < 25
        if near and box["class"] in ("car", "truck", "bus", "barrier"):
            values.append(drivable[int((x + 50) / 0.5), int((y + 50) / 0.5)])
    assert len(values) >= 5
    assert np.mean(values) < 0.25


@pytest.mark.parametrize("camera", ["CAM_FRONT", "CAM_BACK_RIGHT"])
def test_dropping_a_real_camera_changes_only_the_cells_that_it_sees(camera, tmp_path):
    _, full = run("nuscenes_scene0061", tmp_path / "full")
    summary, less = run("nuscenes_scene0061", tmp_path / "less", fault_specs=[f"drop:{camera}"])
    others = [f"drop:{name}" for name in CAMERAS if name != camera]
    _, alone = run("nuscenes_scene0061", tmp_path / "alone", fault_specs=others)
    _, rest = run("nuscenes_scene0061", tmp_path / "rest", fault_specs=[f"drop:{camera}"])
    assert summary["modes"] == {"DEGRADED": 1}
    assert full.keys() == less.keys() == alone.keys()
    (a,), (b,), (sees,), (_,) = full.values(), less.values(), alone.values(), rest.values()
    sees = sees["observed"]
    assert np.array_equal(a["scores"][:, ~sees], b["scores"][:, ~sees])
    assert (a["scores"][:, sees] != b["scores"][:, sees]).any()
    assert np.array_equal(b["observed"] | sees, a["observed"])
    assert not b["scores"][:, ~b["observed"]].any()


def test_rgb8_and_bgr8_images_of_one_moment_give_the_same_map(tmp_path):
    results = {}
    for encoding in ("rgb8", "bgr8"):
        path = tmp_path / f"{encoding}.yaml"
        cameras = "\n".join(
            f"  {name}: {{topic: /{name}/image_{encoding}, info_topic: /{name}/camera_info}}"
            for name in CAMERAS
        )
        path.write_text(
            f"cameras:\n{cameras}\nlidar: {{name: LIDAR_TOP, topic: /LIDAR_TOP/points}}\n"
        )
        with Bag(data_pack() / "bags/nuscenes_scene0061_raw") as bag:
            replay_bag(bag, load_model(MODEL), load_rig(path), out=tmp_path / encoding)
        (file,) = (tmp_path / encoding / "maps").glob("*.npz")
        results[encoding] = np.load(file)["scores"]
    assert np.array_equal(results["rgb8"], results["bgr8"])


def test_the_halved_raw_recording_agrees_with_the_original_jpegs(tmp_path):
    _, original = run("nuscenes_scene0061", tmp_path / "a")
    _, halved = run("nuscenes_scene0061_raw", tmp_path / "b")
    (a,), (b,) = original.values(), halved.values()
    both = a["observed"] & b["observed"]
    difference = np.abs(a["scores"][0].astype(np.float32) - b["scores"][0].astype(np.float32))
    assert both.mean() > 0.95
    assert difference[both].mean() < 0.01


def test_the_shipped_nuscenes_rig_file_gives_what_inference_gives(tmp_path):
    rig = load_rig(Path(__file__).parent.parent / "launch/rigs/nuscenes.yaml")
    with Bag(data_pack() / "bags/nuscenes_scene0061") as bag:
        replay_bag(bag, load_model(MODEL), rig, out=tmp_path / "file")
    _, inferred = run("nuscenes_scene0061", tmp_path / "inferred")
    (path,) = (tmp_path / "file/maps").glob("*.npz")
    (b,) = inferred.values()
    with np.load(path) as a:
        # Cameras are averaged in another order, so the last bit may differ.
        assert np.allclose(a["scores"], b["scores"], atol=1e-3)
        assert np.array_equal(a["observed"], b["observed"])
