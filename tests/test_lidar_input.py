"""Clouds through the whole runtime: where they are, and clouds that no LiDAR should send."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from data_pack import data_pack
from fusion_model import BOX, HALF
from fusion_replays import NO_CAMERAS, POST, assert_accounts_close, lines, maps, post, with_clouds
from ros_messages import START, drive, write_bag

from bev_runtime.backends import create_backend
from bev_runtime.bags import Bag
from bev_runtime.ego_motion import EgoMotion
from bev_runtime.geometry import rigid
from bev_runtime.lidar_inputs import LidarInputs
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import LidarConfig, Rig
from bev_runtime.rig_inference import infer_rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import Calibration, Mode, PointCloud, Snapshot


def test_detections_stand_where_the_points_do_at_the_outputs_stamp(fusion_replay, tmp_path):
    bag = write_bag(tmp_path / "bag", with_clouds(drive(), lambda _i, stamp, _p: post(stamp)))
    for faults in ((), NO_CAMERAS):
        _, out = fusion_replay(bag, *faults)
        for line in lines(out):
            (box,) = (box for box in line["boxes"] if box["class"] == "dense")
            seconds = (line["stamp_ns"] - START) / 1e9
            assert box["x"] == pytest.approx(POST[0] - 5 * seconds, abs=0.3)
            assert box["y"] == pytest.approx(POST[1], abs=0.3)
            assert (box["l"], box["w"], box["h"]) == pytest.approx(BOX, rel=1e-5)


@pytest.mark.parametrize("known", [True, False])
def test_a_cloud_is_moved_by_the_ego_motion_to_the_stamp_of_another_reference(
    fusion_replay, tmp_path, known
):
    """At 40 m/s the 30 ms between camera and LiDAR are 1.2 m."""
    items = with_clouds(drive(speed=40.0, frames=4), lambda _i, stamp, _p: post(stamp, 40.0))
    bag = write_bag(tmp_path / "bag", items)
    with Bag(bag) as opened:
        rig = infer_rig(opened).rig
    fixed = rig.fixed_frame if known else None
    rig = Rig(**{**dict(rig), "reference": "front", "fixed_frame": fixed})
    _, out = fusion_replay(bag, rig=rig)
    for line in lines(out):
        (box,) = (box for box in line["boxes"] if box["class"] == "dense")
        assert line["sensor_age_ms"]["lidar"] == pytest.approx(-30)
        at = line["stamp_ns"] if known else line["stamp_ns"] + 30_000_000
        assert box["x"] == pytest.approx(POST[0] - 40 * (at - START) / 1e9, abs=0.3)
        assert line["motion_compensated"] is known


def test_without_odometry_a_lidar_output_at_its_own_stamp_needs_no_motion(fusion_replay, tmp_path):
    bag = write_bag(tmp_path / "bag", drive(frames=3, moving=False))
    _, alone = fusion_replay(bag, *NO_CAMERAS)
    _, both = fusion_replay(bag)
    assert [line["motion_compensated"] for line in lines(alone)] == [True] * 3
    assert [line["motion_compensated"] for line in lines(both)] == [False] * 3


def test_a_lidar_without_a_transform_is_not_calibrated_and_says_so(fusion_replay, tmp_path):
    items = drive(frames=5)
    statics = next(m for _, topic, m in items if topic == "/tf_static")
    statics.transforms[:] = [t for t in statics.transforms if t.child_frame_id != "lidar"]
    summary, _ = fusion_replay(write_bag(tmp_path / "bag", items))
    assert summary["modes"] == {"CAMERA_ONLY": 5}
    assert "lidar: not calibrated: no static transform" in summary["mode_changes"][0]["reason"]
    assert summary["sensors"]["lidar"]["rejected"] == {"no_calibration": 5}
    assert_accounts_close(summary)


@pytest.mark.parametrize(
    ("share", "value", "mode", "rejected"),
    [
        (0.002, np.nan, "FULL", {}),
        (0.5, np.inf, "FULL", {}),
        (0.5, 1e30, "FULL", {}),
        (1.0, np.nan, "CAMERA_ONLY", {"no_valid_points": 6}),
        (1.0, 1e30, "CAMERA_ONLY", {"no_valid_points": 6}),
        (1.0, 5 * HALF, "CAMERA_ONLY", {"no_points": 6}),
    ],
)
def test_points_that_cannot_be_used_are_removed_and_a_cloud_of_nothing_else_is_refused(
    fusion_replay, tmp_path, share, value, mode, rejected
):
    def spoil(_index, _stamp, points):
        spoilt = points.copy()
        spoilt[: max(int(share * len(points)), 1), 0] = value
        return spoilt

    summary, _ = fusion_replay(write_bag(tmp_path / "bag", with_clouds(drive(frames=6), spoil)))
    assert summary["modes"] == {mode: 6}
    assert summary["sensors"]["lidar"]["rejected"] == rejected
    if rejected:
        assert f"lidar: {next(iter(rejected))}" in summary["mode_changes"][0]["reason"]
    else:
        removed = summary["sensors"]["lidar"]["removed_points"]
        assert sum(removed.values()) == 6 * max(int(share * 500), 1)
    assert_accounts_close(summary)


def test_empty_clouds_are_no_crash_and_no_observation(fusion_replay, tmp_path):
    bag = write_bag(tmp_path / "bag", with_clouds(drive(), lambda *_: np.zeros((0, 4))))
    summary, out = fusion_replay(bag)
    assert summary["modes"] == {"CAMERA_ONLY": 20}
    assert not any(m["scores"][1].any() for m in maps(out).values())
    blind, _ = fusion_replay(bag, *NO_CAMERAS)
    assert blind["published"] == 0
    assert_accounts_close(summary)


@pytest.mark.parametrize("cameras", [True, False])
def test_a_frozen_lidar_is_lost_while_the_cameras_or_its_own_past_differ(
    fusion_replay, drive_bag, cameras
):
    summary, out = fusion_replay(drive_bag, "freeze:lidar@0.8-", *(() if cameras else NO_CAMERAS))
    last = summary["mode_changes"][-1]
    assert last["mode"] == ("CAMERA_ONLY" if cameras else "BLIND")
    assert "lidar: frozen, 5 or more identical samples" in last["reason"]
    assert len(lines(out)) == (20 if cameras else 11)
    assert_accounts_close(summary)


def test_a_bag_that_repeats_one_sweep_is_not_frozen(fusion_replay, tmp_path):
    still = with_clouds(drive(), lambda *_: post(START))
    summary, _ = fusion_replay(write_bag(tmp_path / "bag", still), *NO_CAMERAS)
    assert summary["modes"] == {"LIDAR_ONLY": 20}


def test_a_sweep_leaves_no_trace_in_an_output_without_it(fusion_replay, drive_bag):
    _, warm = fusion_replay(drive_bag, "drop:lidar@1-")
    _, cold = fusion_replay(drive_bag, "drop:lidar")
    last = max(maps(warm))
    assert np.array_equal(maps(warm)[last]["scores"], maps(cold)[last]["scores"])
    _, warm = fusion_replay(drive_bag, *(f"{fault}@1-" for fault in NO_CAMERAS))
    _, cold = fusion_replay(drive_bag, *NO_CAMERAS)
    last = max(maps(warm))
    assert np.array_equal(maps(warm)[last]["scores"], maps(cold)[last]["scores"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "modes", "reason"),
    [
        ("nuscenes_scene0061", {"FULL": 1}, "all sensors live"),
        ("nuscenes_bevdet_sample0", {"FULL": 1}, "all sensors live"),
        ("kitti_object", {"FULL": 2}, "all sensors live"),
        ("av2_7fab2350", {"LIDAR_ONLY": 2}, "camera: not in the rig"),
    ],
)
def test_real_sweeps_are_used_with_whatever_cameras_their_rig_has(
    fusion_replay, name, modes, reason
):
    summary, out = fusion_replay(data_pack() / "bags" / name)
    assert summary["modes"] == modes
    assert summary["mode_changes"][0]["reason"] == reason
    for one in maps(out).values():
        looked = one["scores"][1] > 0
        # KITTI's clouds are cut to what its camera sees.
        assert (0.1 < looked.mean() < 0.4) if name.startswith("kitti") else looked.mean() > 0.9
    assert_accounts_close(summary)


def test_a_step_with_a_sweep_copies_no_cloud_and_no_grid(fusion_model):
    """A copy of this cloud would be 560 kB, and one of the pillars 1.6 MB."""
    model = load_model(fusion_model)
    rig = Rig(lidar=LidarConfig(name="lidar", topic="/points"))
    backend = create_backend("onnxruntime", model, num_threads=1)
    pipeline = Pipeline(model.manifest, backend, rig)
    transforms = TransformTree()
    for i in range(40):
        transforms.add_dynamic("odom", "base_link", i * 10**7 + 1, rigid(np.eye(3), [i, 0, 0]))
    calibration = Calibration({}, rigid(np.eye(3), [1, 0, 1.8]), 1)
    points = np.random.default_rng(0).uniform(-25, 25, (35_000, 4)).astype(np.float32)

    def step(i: int) -> None:
        stamp = i * 10**7 + 5_000_000
        snapshot = Snapshot(stamp + i * 1000, {}, PointCloud("lidar", stamp, points))
        output = pipeline.step(snapshot, missing={}, calibration=calibration, transforms=transforms)
        assert output.mode is Mode.LIDAR_ONLY
        assert output.motion_compensated

    for i in range(1, 8):
        step(i)
    tracemalloc.start()
    try:
        peaks = []
        for i in range(8, 20):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            step(i)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    assert max(peaks) < 300_000, peaks


def test_a_sweep_of_two_million_points_is_thinned_with_a_warning(fusion_model, caplog):
    inputs = LidarInputs(load_model(fusion_model).manifest)
    points = np.random.default_rng(0).uniform(-20, 20, (2_000_000, 4)).astype(np.float32)
    motion = EgoMotion(Rig(), TransformTree(), 5)
    assert inputs.fill(PointCloud("lidar", 5, points), np.eye(4), motion)
    assert inputs.fill(PointCloud("lidar", 5, points), np.eye(4), motion)
    (said,) = caplog.messages
    assert "2000000 points" in said
    (features,) = inputs.tensors().values()
    count = np.expm1(4.0 * features[0, 0]).sum()
    assert 0.8 * 500_000 * 4 / 40 < count < 500_000
    assert inputs.covered.all()


def test_a_frozen_lidar_still_gives_the_time_to_a_model_of_cameras(
    fusion_replay, drive_bag, tiny_model
):
    _, clean = fusion_replay(drive_bag, model=tiny_model)
    summary, frozen = fusion_replay(drive_bag, "freeze:lidar", model=tiny_model)
    assert summary["modes"] == {"FULL": 20}
    assert [x["stamp_ns"] for x in lines(frozen)] == [x["stamp_ns"] for x in lines(clean)]
