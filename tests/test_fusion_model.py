"""Cameras and LiDAR through the whole runtime: every mode, and what is absent is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fusion_model import LAYERS, fusion_manifest, write_fusion_model
from fusion_replays import CAMERAS, NO_CAMERAS, assert_accounts_close, lines, maps, with_clouds
from ros_messages import PERIOD, START, drive, write_bag

from bev_runtime.bags import Bag
from bev_runtime.errors import BackendError
from bev_runtime.lidar_coverage import LidarCoverage
from bev_runtime.manifest import MapOutput
from bev_runtime.model import load_model
from bev_runtime.postprocess import MapDecoder
from bev_runtime.rig import Rig
from bev_runtime.rig_inference import infer_rig
from bev_runtime.types import BevGrid
from bev_runtime.view_transform import make_view_transform


def same_outputs(a: Path, b: Path) -> bool:
    first, second = maps(a), maps(b)
    assert first
    assert first.keys() == second.keys()
    equal = all(
        np.array_equal(first[k][name], second[k][name])
        for k in first
        for name in ("scores", "observed")
    )
    return equal and [x["boxes"] for x in lines(a)] == [x["boxes"] for x in lines(b)]


def test_all_sensors_give_full_outputs_and_every_message_is_accounted_for(fusion_replay, drive_bag):
    summary, out = fusion_replay(drive_bag)
    assert summary["modes"] == {"FULL": 20}
    assert summary["mode_changes"][0]["reason"] == "all sensors live"
    clean = {"received": 20, "used": 20, "superseded": 0, "rejected": {}}
    assert summary["sensors"] == dict.fromkeys((*CAMERAS, "lidar"), clean)
    found = lines(out)
    assert [line["stamp_ns"] for line in found] == [
        START + i * PERIOD + 30_000_000 for i in range(20)
    ]
    assert set(found[0]["sensor_age_ms"]) == {*CAMERAS, "lidar"}
    assert all(line["motion_compensated"] for line in found)
    assert found[0]["boxes"]
    assert "dark" in {box["class"] for box in found[0]["boxes"]}
    assert found[0]["boxes"] != found[1]["boxes"]


@pytest.mark.parametrize(
    ("faults", "mode", "absent"),
    [
        (["drop:lidar"], "CAMERA_ONLY", ["lidar_branch", "pillars"]),
        (NO_CAMERAS, "LIDAR_ONLY", ["camera_branch.encoder", "bev_pool", "camera_branch.decoder"]),
        (["drop:left"], "DEGRADED", []),
        (["drop:left", "drop:lidar"], "CAMERA_ONLY", ["lidar_branch"]),
        (["drop:left", "drop:back"], "DEGRADED", []),
    ],
)
def test_losing_sensors_gives_the_mode_and_does_not_run_what_they_would_feed(
    fusion_replay, drive_bag, faults, mode, absent, cpu_backend
):
    summary, out = fusion_replay(drive_bag, *faults, backend=cpu_backend)
    assert summary["modes"] == {mode: 20}
    lost = {spec.split(":")[1] for spec in faults}
    assert all(f"{name}: " in summary["mode_changes"][-1]["reason"] for name in lost)
    assert set(lines(out)[5]["sensor_age_ms"]) == {*CAMERAS, "lidar"} - lost
    full, _ = fusion_replay(drive_bag, backend=cpu_backend)
    assert not set(absent) & set(summary["latency_ms"])
    assert set(absent) <= set(full["latency_ms"])
    assert_accounts_close(summary)


def test_without_any_sensor_nothing_is_published_and_each_loss_is_named(fusion_replay, drive_bag):
    summary, out = fusion_replay(drive_bag, "drop:*")
    assert set(summary["modes"]) == {"BLIND"}
    assert lines(out) == []
    for name in (*CAMERAS, "lidar"):
        assert f"{name}: never sent a sample" in summary["mode_changes"][-1]["reason"]


def test_a_lidar_that_stops_is_lost_within_its_timeout_and_not_waited_for(fusion_replay, drive_bag):
    summary, out = fusion_replay(drive_bag, "drop:lidar@1-")
    change = summary["mode_changes"][-1]
    assert change["mode"] == "CAMERA_ONLY"
    assert change["reason"] == "lidar: silent for more than 0.3 s"
    assert change["stamp_ns"] - (START + 10**9) <= 3 * PERIOD + 100_000_000
    found = lines(out)
    assert len(found) == 20
    assert all("lidar" not in x["sensor_age_ms"] for x in found if x["mode"] == "CAMERA_ONLY")
    assert all(abs(age) <= 300 for x in found for age in x["sensor_age_ms"].values())
    assert_accounts_close(summary)


def test_a_lidar_that_returns_restores_bit_equal_outputs(fusion_replay, drive_bag, cpu_backend):
    summary, fault = fusion_replay(drive_bag, "drop:lidar@0.5-0.9", backend=cpu_backend)
    _, clean = fusion_replay(drive_bag, backend=cpu_backend)
    modes = [change["mode"] for change in summary["mode_changes"]]
    assert (modes[0], modes[-1], set(modes)) == ("FULL", "FULL", {"FULL", "CAMERA_ONLY"})
    last = max(maps(clean))
    assert np.array_equal(maps(clean)[last]["scores"], maps(fault)[last]["scores"])
    assert lines(clean)[-1]["boxes"] == lines(fault)[-1]["boxes"]
    assert_accounts_close(summary)


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_rig_without_a_camera_gives_the_outputs_of_a_rig_that_lost_it(
    fusion_replay, drive_bag, camera
):
    with Bag(drive_bag) as bag:
        rig = infer_rig(bag).rig
    less = {name: config for name, config in rig.cameras.items() if name != camera}
    _, lost = fusion_replay(drive_bag, f"drop:{camera}")
    _, without = fusion_replay(drive_bag, rig=Rig(**{**dict(rig), "cameras": less}))
    assert same_outputs(lost, without)


def test_losing_a_camera_leaves_the_cells_that_others_see_bit_equal(
    fusion_replay, drive_bag, cpu_backend
):
    _, full = fusion_replay(drive_bag, backend=cpu_backend)
    _, less = fusion_replay(drive_bag, "drop:left", backend=cpu_backend)
    faults = ("drop:front", "drop:back", "drop:lidar")
    _, alone = fusion_replay(drive_bag, *faults, backend=cpu_backend)
    first, stamp = min(maps(full)), min(maps(alone))
    sees = maps(alone)[stamp]["observed"]
    sees |= np.roll(sees, 1, 0) | np.roll(sees, -1, 0)  # the head looks one cell around
    sees |= np.roll(sees, 1, 1) | np.roll(sees, -1, 1)
    before, after = maps(full)[first]["scores"], maps(less)[first]["scores"]
    assert 0.05 < sees.mean() < 0.6
    assert np.array_equal(before[:, ~sees], after[:, ~sees])
    assert (before[2:, sees] != after[2:, sees]).any()


def sector(*_: object) -> np.ndarray:
    """A sweep that sees 120 degrees ahead."""
    angle = np.radians(np.arange(-59.75, 60, 0.5))
    return np.stack([9 * np.cos(angle), 9 * np.sin(angle), 0 * angle, 0 * angle], axis=1)


def test_what_a_network_says_of_places_where_nothing_looks_is_not_published(
    fusion_replay, tmp_path
):
    bag = write_bag(tmp_path / "bag", with_clouds(drive(frames=2), sector))
    _, out = fusion_replay(bag, *NO_CAMERAS)
    first = next(iter(maps(out).values()))
    assert 0.2 < first["observed"].mean() < 0.5
    assert not first["scores"][:, ~first["observed"]].any()
    assert lines(out)
    assert all(box["class"] != "ghost" for line in lines(out) for box in line["boxes"])


def test_where_the_network_says_that_nothing_sees_the_ground_the_map_is_not_observed(
    fusion_replay, drive_bag, tmp_path
):
    with_sight = fusion_manifest()["map"] | {"sight": "sight"}
    model = write_fusion_model(tmp_path / "with_sight", map=with_sight)
    _, plain = fusion_replay(drive_bag)
    _, seen = fusion_replay(drive_bag, model=model)
    assert [line["boxes"] for line in lines(plain)] == [line["boxes"] for line in lines(seen)]
    for stamp, whole in maps(plain).items():
        mix, part = whole["scores"][2].astype(np.float32), maps(seen)[stamp]
        clear = np.abs(mix - 0.5) > 1e-3  # the file's float16 rounds
        expected = whole["observed"] & (mix > 0.5)
        assert 0.1 < expected.mean() < 0.9
        assert np.array_equal(part["observed"][clear], expected[clear])
        assert not part["scores"][:, ~part["observed"]].any()


def test_a_line_of_sight_that_is_no_number_stops_the_output():
    spec = MapOutput(tensor="map", sight="sight", layers=("road",), thresholds=(0.5,))
    decoder = MapDecoder(spec, BevGrid(-20, 20, -20, 20, 0.5))
    sight = np.ones((1, 1, 80, 80), np.float32)
    sight[0, 0, 3, 4] = np.nan
    with pytest.raises(BackendError, match="'sight' holds NaN"):
        decoder.hide(sight)


def test_the_masks_say_which_cells_have_live_features(fusion_replay, tmp_path):
    bag = write_bag(tmp_path / "bag", with_clouds(drive(frames=2), sector))
    for faults in ((), ("drop:lidar",), NO_CAMERAS, ("drop:left",)):
        summary, out = fusion_replay(bag, *faults)
        stamp, first = next(iter(maps(out).items()))
        camera, lidar = first["scores"][0] > 0, first["scores"][1] > 0
        assert set(np.unique(first["scores"][:2])) <= {0.0, 1.0}
        assert first["layers"].tolist() == list(LAYERS)
        assert lidar.any() == ("drop:lidar" not in faults)
        assert camera.any() == (faults != NO_CAMERAS)
        assert not (camera | lidar)[~first["observed"]].any()
        if lidar.any():
            x0, x1, y0, y1, cell = first["grid"]
            x, y = np.meshgrid(np.arange(x0, x1, cell), np.arange(y0, y1, cell), indexing="ij")
            angle = np.abs(np.degrees(np.arctan2(y + cell / 2, x + cell / 2)))
            assert lidar[angle < 57].all()
            assert not lidar[angle > 63].any()
            assert stamp == START + 30_000_000
        assert summary["published"] == 2


def test_the_masks_are_those_of_the_view_transform_and_of_the_cloud(
    fusion_model, drive_bag, fusion_replay
):
    _, out = fusion_replay(drive_bag)
    first = maps(out)[START + 30_000_000]
    with Bag(drive_bag) as bag:
        message = next(m for m in bag.messages(frozenset({"/lidar/points"})))
        points = bag.decode(message).data.view("<f4").reshape(-1, 4)
    manifest = load_model(fusion_model).manifest
    looked = np.zeros(manifest.grid.to_grid().shape, bool)
    LidarCoverage(manifest.grid.to_grid()).find(points, (0.0, 0.0), looked)
    assert np.array_equal(first["scores"][1] > 0, looked)
    covered = np.zeros(looked.shape, bool)
    view = make_view_transform(manifest)
    view.build([], [], view.make_table())
    view.coverage(covered)
    assert not covered.any()
    assert np.array_equal(first["observed"], (first["scores"][0] > 0) | looked)


def test_a_rig_that_lacks_a_kind_of_sensor_runs_with_the_other_and_says_so(
    fusion_replay, drive_bag
):
    with Bag(drive_bag) as bag:
        rig = infer_rig(bag).rig
    summary, _ = fusion_replay(drive_bag, rig=Rig(**{**dict(rig), "cameras": {}}))
    assert summary["modes"] == {"LIDAR_ONLY": 20}
    assert summary["mode_changes"][0]["reason"] == "camera: not in the rig"
    summary, _ = fusion_replay(drive_bag, rig=Rig(**{**dict(rig), "lidar": None}))
    assert summary["modes"] == {"CAMERA_ONLY": 20}
    assert summary["mode_changes"][0]["reason"] == "lidar: not in the rig"


def test_random_loss_of_every_sensor_keeps_the_rate_and_the_account(fusion_replay, drive_bag):
    summary, out = fusion_replay(drive_bag, "drop:*,p=0.1", "jitter:*,ms=30", seed=4)
    assert summary["published"] >= 19
    stamps = [line["stamp_ns"] for line in lines(out)]
    assert stamps == sorted(set(stamps))
    assert_accounts_close(summary)
