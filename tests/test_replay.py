"""A bag through the whole runtime, with sensors that die."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ros_messages import PERIOD, START, drive, write_bag
from rosbags.rosbag2 import StoragePlugin

from bev_runtime.bags import Bag
from bev_runtime.rig_inference import infer_rig

CAMERAS = ("back", "front", "left")


def maps(out: Path) -> dict[int, dict[str, np.ndarray]]:
    return {int(p.stem): dict(np.load(p)) for p in sorted((out / "maps").glob("*.npz"))}


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]


def assert_accounts_close(summary: dict) -> None:
    for name, account in summary["sensors"].items():
        total = account["used"] + account["superseded"] + sum(account["rejected"].values())
        assert account["received"] == total, (name, account)


def seen_by(run_replay, bag: Path, tmp_path: Path, camera: str) -> np.ndarray:
    """Cells that one camera sees: what stays observed when all the others are dropped."""
    out = tmp_path / f"only_{camera}"
    others = [f"drop:{name}" for name in CAMERAS if name != camera]
    run_replay(bag, out=out, fault_specs=others)
    return next(iter(maps(out).values()))["observed"]


def test_a_clean_bag_gives_a_full_output_for_each_cycle_at_the_lidars_stamp(
    run_replay, drive_bag, tmp_path
):
    summary = run_replay(drive_bag, out=tmp_path)
    assert summary["modes"] == {"FULL": 20}
    assert all(
        a == {"received": 20, "used": 20, "superseded": 0, "rejected": {}}
        for a in summary["sensors"].values()
    )
    found = lines(tmp_path)
    assert [line["stamp_ns"] for line in found] == [
        START + i * PERIOD + 30_000_000 for i in range(20)
    ]
    assert {line["frame_id"] for line in found} == {"base_link"}
    assert all(line["motion_compensated"] for line in found)
    assert json.loads((tmp_path / "summary.json").read_text())["modes"] == {"FULL": 20}


def test_replay_is_repeatable_to_the_bit(run_replay, drive_bag, tmp_path):
    run_replay(drive_bag, out=tmp_path / "a", fault_specs=["drop:*,p=0.3", "jitter:*"], seed=3)
    run_replay(drive_bag, out=tmp_path / "b", fault_specs=["drop:*,p=0.3", "jitter:*"], seed=3)
    first, second = maps(tmp_path / "a"), maps(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k]["scores"], second[k]["scores"]) for k in first)


@pytest.mark.parametrize("camera", CAMERAS)
def test_dropping_a_camera_changes_only_the_cells_that_it_sees(
    run_replay, drive_bag, tmp_path, camera
):
    run_replay(drive_bag, out=tmp_path / "full")
    summary = run_replay(drive_bag, out=tmp_path / "less", fault_specs=[f"drop:{camera}"])
    assert summary["modes"] == {"DEGRADED": 20}
    assert f"{camera}: " in summary["mode_changes"][0]["reason"]
    alone = seen_by(run_replay, drive_bag, tmp_path, camera)
    rest = np.zeros_like(alone)
    for other in CAMERAS:
        if other != camera:
            rest |= seen_by(run_replay, drive_bag, tmp_path, other)
    full, less = maps(tmp_path / "full"), maps(tmp_path / "less")
    assert full.keys() == less.keys()
    first = min(full)
    before, after = full[first], less[first]
    assert np.array_equal(before["scores"][:, ~alone], after["scores"][:, ~alone])
    assert np.array_equal(after["observed"], rest)
    assert not after["observed"][alone & ~rest].any()
    assert (before["scores"][:, alone] != after["scores"][:, alone]).any()


def test_a_camera_that_stops_is_masked_and_one_that_returns_restores_bit_equal_output(
    run_replay, drive_bag, tmp_path
):
    run_replay(drive_bag, out=tmp_path / "clean")
    summary = run_replay(drive_bag, out=tmp_path / "fault", fault_specs=["drop:front@0.5-0.9"])
    modes = [change["mode"] for change in summary["mode_changes"]]
    assert modes[0] == "FULL"
    assert "DEGRADED" in modes
    assert modes[-1] == "FULL"
    clean, fault = maps(tmp_path / "clean"), maps(tmp_path / "fault")
    last = max(clean)
    assert np.array_equal(clean[last]["scores"], fault[last]["scores"])
    assert summary["sensors"]["front"]["received"] == 16
    assert_accounts_close(summary)


def test_all_cameras_gone_is_blind_and_nothing_is_published(run_replay, drive_bag, tmp_path):
    names = "drop:[!l]*", "drop:left"
    summary = run_replay(drive_bag, out=tmp_path, fault_specs=list(names))
    assert set(summary["modes"]) == {"BLIND"}
    assert summary["published"] == 0
    assert lines(tmp_path) == []
    assert maps(tmp_path) == {}
    assert "front: never sent a sample" in summary["mode_changes"][-1]["reason"]


def test_cameras_that_die_midway_turn_the_runtime_blind_within_three_periods(
    run_replay, drive_bag, tmp_path
):
    summary = run_replay(drive_bag, out=tmp_path, fault_specs=[f"drop:{c}@1-" for c in CAMERAS])
    blind = next(c for c in summary["mode_changes"] if c["mode"] == "BLIND")
    last_output = lines(tmp_path)[-1]["stamp_ns"]
    assert blind["stamp_ns"] - (START + 10**9) <= 3 * PERIOD + 100_000_000
    assert last_output < START + 10**9 + 300_000_000
    assert_accounts_close(summary)


def test_a_late_camera_is_rejected_as_late_and_not_waited_for(run_replay, drive_bag):
    summary = run_replay(drive_bag, fault_specs=["delay:front,ms=200"])
    assert summary["sensors"]["front"]["rejected"] == {"late": 20}
    assert summary["modes"] == {"DEGRADED": 20}
    assert_accounts_close(summary)


def test_a_frozen_camera_is_masked_while_the_others_move(run_replay, drive_bag):
    summary = run_replay(drive_bag, fault_specs=["freeze:front@0.5-"])
    assert "front: frozen" in summary["mode_changes"][-1]["reason"]
    assert_accounts_close(summary)


def test_ten_percent_random_loss_keeps_the_rate_and_the_account(run_replay, drive_bag):
    summary = run_replay(drive_bag, fault_specs=["drop:*,p=0.1"], seed=5)
    assert summary["published"] >= 19
    assert_accounts_close(summary)


@pytest.mark.parametrize("spec", ["jitter:*,ms=60", "delay:*,ms=60", "delay:left,ms=100"])
def test_delays_within_the_limit_lose_nothing(run_replay, drive_bag, tmp_path, spec):
    summary = run_replay(drive_bag, out=tmp_path, fault_specs=[spec])
    assert summary["published"] >= 19
    stamps = [line["stamp_ns"] for line in lines(tmp_path)]
    assert stamps == sorted(set(stamps))
    assert_accounts_close(summary)


def test_a_camera_keeps_its_place_while_the_vehicle_moves_between_stamps(run_replay, tmp_path):
    """At 40 m/s and 20 ms, 0.8 m: with the ego motion known, the map moves by less than a cell."""
    still = write_bag(tmp_path / "still", drive(frames=1, speed=0.0))
    fast = write_bag(tmp_path / "fast", drive(frames=1, speed=40.0))
    unknown = write_bag(tmp_path / "unknown", drive(frames=1, speed=40.0, moving=False))
    for name, bag in (("still", still), ("fast", fast), ("unknown", unknown)):
        run_replay(bag, out=tmp_path / f"out_{name}")
    scores = {
        n: next(iter(maps(tmp_path / f"out_{n}").values()))["scores"]
        for n in ("still", "fast", "unknown")
    }
    assert np.array_equal(scores["still"], scores["unknown"])
    assert not np.array_equal(scores["still"], scores["fast"])
    assert lines(tmp_path / "out_unknown")[0]["motion_compensated"] is False


def test_sqlite_bags_give_the_same_output_as_mcap(run_replay, drive_bag, tmp_path):
    bag = write_bag(tmp_path / "db", drive(), StoragePlugin.SQLITE3)
    run_replay(bag, out=tmp_path / "a")
    run_replay(drive_bag, out=tmp_path / "b")
    first, second = maps(tmp_path / "a"), maps(tmp_path / "b")
    assert all(np.array_equal(first[k]["scores"], second[k]["scores"]) for k in second)


def test_a_single_mcap_file_is_a_bag(run_replay, drive_bag):
    assert run_replay(next(drive_bag.glob("*.mcap")))["published"] == 20


def test_a_model_with_named_cameras_calls_one_that_the_rig_lacks_missing(
    run_replay, drive_bag, tmp_path
):
    from tiny_model import SIZE as INPUT
    from tiny_model import write_tiny_model

    image = {"width": INPUT[0], "height": INPUT[1], "fit": "stretch"}
    names = ["front", "left", "back", "roof"]
    model = write_tiny_model(
        tmp_path / "m",
        cameras={"names": names, "max": 4, "image": image},
        dimensions={"N": 4, "K": 153600, "M": 6400},
    )
    summary = run_replay(drive_bag, model=model)
    assert summary["modes"] == {"DEGRADED": 20}
    assert "roof: not in the rig" in summary["mode_changes"][0]["reason"]


def test_a_stamp_offset_moves_the_outputs_and_shows_in_the_ages(run_replay, drive_bag, tmp_path):
    with Bag(drive_bag) as bag:
        rig = infer_rig(bag).rig
    assert rig.lidar is not None
    late = rig.cameras["left"].model_copy(update={"stamp_offset_s": -0.03})
    ahead = rig.lidar.model_copy(update={"stamp_offset_s": 0.01})
    moved = rig.model_copy(update={"cameras": {**rig.cameras, "left": late}, "lidar": ahead})
    stamps, ages = {}, {}
    for name, chosen in (("plain", rig), ("moved", moved)):
        run_replay(drive_bag, rig=chosen, out=tmp_path / name)
        lines = (tmp_path / name / "detections.jsonl").read_text().splitlines()
        stamps[name] = [json.loads(line)["stamp_ns"] for line in lines]
        ages[name] = json.loads(lines[5])["sensor_age_ms"]["left"]
    assert stamps["moved"][3] - stamps["plain"][3] == 10_000_000
    assert ages["moved"] - ages["plain"] == pytest.approx(40.0, abs=1e-3)
