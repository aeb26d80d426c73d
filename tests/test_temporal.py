"""Memory of a temporal model: kept features, moved by the ego motion; told when they are not."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from temporal_model import HALF, Vehicle, pose_at, write_temporal_model
from test_planar_warp import rotation_of
from tiny_model import CELLS, GRID

from bev_runtime.errors import ConfigError
from bev_runtime.geometry import invert_rigid, rigid
from bev_runtime.model import load_model
from bev_runtime.planar_warp import motion_vector
from bev_runtime.robustness.study import Study
from bev_runtime.sinks.ros_messages import MessageMaker, output_typestore
from bev_runtime.types import BevGrid, Mode

SQUARE = BevGrid(**GRID)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_temporal_model(tmp_path_factory.mktemp("models") / "temporal")


def between(start: float, end: float) -> np.ndarray:
    """The motion from one time to another: coordinates then to coordinates now."""
    return invert_rigid(pose_at(end)) @ pose_at(start)


def published_warp(features: np.ndarray, motion: np.ndarray, extent: float) -> np.ndarray:
    """What affine_grid and grid_sample do with the published matrix, in float64, cell by cell."""
    x, y, yaw = motion[0, 3], motion[1, 3], np.arctan2(-motion[0, 1], motion[0, 0])
    theta = [[np.cos(yaw), -np.sin(yaw), y / extent], [np.sin(yaw), np.cos(yaw), -x / extent]]
    size = len(features)
    centre = (2 * np.arange(size) + 1) / size - 1
    across, along = np.meshgrid(centre, centre)
    column, row = (((t[0] * across + t[1] * along + t[2] + 1) * size - 1) / 2 for t in theta)
    padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
    row, column = np.clip(row, -1, size) + 1, np.clip(column, -1, size) + 1
    low, left = (np.minimum(np.floor(v).astype(int), size) for v in (row, column))
    down, right = (row - low)[..., None], (column - left)[..., None]
    upper = padded[low, left] * (1 - right) + padded[low, left + 1] * right
    lower = padded[low + 1, left] * (1 - right) + padded[low + 1, left + 1] * right
    return upper * (1 - down) + lower * down


def test_memory_equals_recomputing_the_past_from_its_images(package):
    vehicle = Vehicle(package)
    for seconds in (0.0, 0.5, 1.0):
        output = vehicle.step(seconds)
    assert (output.mode, output.history.used) == (Mode.FULL, 2)
    past = vehicle.backend.read["past"][0]
    first, second = between(0, 0.5), between(0.5, 1.0)
    for moment, (seconds, motion) in enumerate(((0.0, first @ second), (0.5, second))):
        alone = Vehicle(package)
        alone.step(seconds)
        features = alone.backend.read["bev_map"][0]
        expected = published_warp(features.astype(np.float64), motion, SQUARE.x_max)
        assert expected.std() > 0.05
        assert np.abs(past[moment] - expected).max() < 1e-4
        wrong = published_warp(features.astype(np.float64), second @ first, SQUARE.x_max)
        assert moment == 1 or np.abs(past[moment] - wrong).max() > 1e-3


def test_the_head_gets_the_motion_from_each_moment_to_the_next(package):
    vehicle = Vehicle(package)
    for seconds in (0.0, 0.5, 1.0):
        vehicle.step(seconds)
    rows = vehicle.backend.read["ego_motion"][0]
    assert np.array_equal(rows[0], np.zeros(6))
    for row, motion in ((rows[1], between(0, 0.5)), (rows[2], between(0.5, 1.0))):
        assert np.allclose(row[:3], motion[:3, 3], atol=1e-5)
        assert np.allclose(rotation_of(row), motion[:3, :3], atol=1e-6)
        assert row[0] < -3.5  # forward drive: the past's origin lies behind


def test_the_past_changes_the_output_and_the_images_of_the_past_are_not_run_again(package):
    one, other = Vehicle(package), Vehicle(package)
    for vehicle, seed in ((one, 1), (other, 2)):
        vehicle.step(0.0, seed=seed)
        vehicle.step(0.5, seed=3)
    before = len(one.backend.ran)
    scores = [vehicle.step(1.0, seed=4).map.scores.copy() for vehicle in (one, other)]
    assert np.abs(scores[0] - scores[1]).max() > 0.05
    assert one.backend.ran[before:] == ("camera_branch", "head")
    assert len(one.backend.read["images"]) == 3


def test_an_incomplete_history_is_told_and_the_oldest_features_stand_in(package):
    vehicle = Vehicle(package)
    first = vehicle.step(0.0)
    assert (first.mode, first.history.used, first.history.wanted) == (Mode.DEGRADED, 0, 2)
    assert first.reason == (
        "all cameras live; history: 0 of 2 past moments (nothing from before the start)"
    )
    assert np.array_equal(vehicle.backend.read["past"][0, 0], vehicle.backend.read["bev_map"][0])
    assert not vehicle.backend.read["ego_motion"].any()
    second = vehicle.step(0.5)
    assert (second.mode, second.history.used) == (Mode.DEGRADED, 1)
    assert second.history.reason == "nothing from before the start"
    past = vehicle.backend.read["past"][0]
    assert np.array_equal(past[0], past[1])
    assert not vehicle.backend.read["ego_motion"][0, :2].any()
    assert vehicle.step(1.0).mode is Mode.FULL


def test_at_camera_rate_the_nearest_kept_moments_are_used_and_memory_is_bounded(package):
    vehicle = Vehicle(package)
    for tick in range(40):
        output = vehicle.step(tick / 12)
        assert (output.mode is Mode.FULL) == (tick >= 11), (tick, output.reason)
        if output.mode is Mode.FULL:
            row = vehicle.backend.read["ego_motion"][0, 2]
            choices = [(s - HALF * 4) / 1e9 for s, _ in vehicle.pipeline._memory._kept]
            near = min(choices, key=lambda seconds: abs(tick / 12 - 0.5 - seconds))
            assert abs(tick / 12 - 0.5 - near) <= 0.125
            assert np.allclose(row, motion_vector(between(near, tick / 12)), atol=1e-3)
    memory = vehicle.pipeline._memory
    stamps = [stamp for stamp, _ in memory._kept]
    assert len(stamps) <= len(memory._maps) == 10
    assert min(np.diff(stamps)) >= 125_000_000
    assert stamps[0] >= HALF * 4 + round(39 / 12 * 1e9) - 1_300_000_000


def test_a_gap_resets_the_history_and_says_so(package):
    vehicle = Vehicle(package)
    for seconds in (0.0, 0.5, 1.0):
        vehicle.step(seconds)
    output = vehicle.step(3.0)
    assert output.mode is Mode.DEGRADED
    assert output.history.used == 0
    assert not vehicle.backend.read["ego_motion"].any()
    assert "0 of 2 past moments (nothing from before a gap of 2.0 s without" in output.reason
    assert "1 of 2 past moments (nothing from before a gap" in vehicle.step(3.5).reason
    assert vehicle.step(4.0).mode is Mode.FULL


def test_a_clock_that_jumps_back_resets_the_history_and_says_so(package):
    vehicle = Vehicle(package)
    for seconds in (4.0, 4.5, 5.0):
        vehicle.step(seconds)
    output = vehicle.step(0.5)
    assert (output.mode, output.history.used) == (Mode.DEGRADED, 0)
    assert "nothing from before a clock that went back by 4.5 s" in output.reason


def test_a_forgotten_past_is_not_used_though_it_is_recent(package):
    vehicle = Vehicle(package)
    for seconds in (0.0, 0.5, 1.0):
        vehicle.step(seconds)
    vehicle.pipeline.forget("the activation")
    output = vehicle.step(1.5)
    assert (output.mode, output.history.used) == (Mode.DEGRADED, 0)
    assert "nothing from before the activation" in output.reason


def test_a_lost_history_recovers_to_the_bit(package):
    straight, interrupted = Vehicle(package), Vehicle(package)
    for seconds in (2.0, 2.5, 3.0):
        expected = straight.step(seconds)
    interrupted.step(0.0)
    for seconds in (2.0, 2.5, 3.0):
        found = interrupted.step(seconds)
    assert found.mode is expected.mode is Mode.FULL
    assert np.array_equal(found.map.scores, expected.map.scores)


def test_without_ego_motion_nothing_is_moved_and_the_output_says_so(package):
    vehicle = Vehicle(package, until_s=None)
    vehicle.step(0.0)
    output = vehicle.step(0.5)
    assert (output.mode, output.history.used) == (Mode.DEGRADED, 0)
    assert output.history.reason == "the ego motion since 0.5 s ago is unknown"
    assert np.array_equal(vehicle.backend.read["past"][0, 0], vehicle.backend.read["bev_map"][0])


def test_an_ego_pose_that_jumps_is_no_motion(package):
    def relocated(seconds: float) -> np.ndarray:
        return (
            rigid(np.eye(3), [0.7e3, 0, 0]) @ pose_at(seconds)
            if seconds > 0.7
            else pose_at(seconds)
        )

    vehicle = Vehicle(package, pose=relocated)
    for seconds in (0.0, 0.5, 1.0):
        output = vehicle.step(seconds)
    assert output.history.used == 0
    assert output.history.reason == "the ego pose jumped since 0.5 s ago"


def test_losing_every_camera_keeps_what_is_known_of_the_past(package):
    vehicle = Vehicle(package)
    for seconds in (0.0, 0.5):
        vehicle.step(seconds)
    assert vehicle.step(0.75, live=()).mode is Mode.BLIND
    assert vehicle.step(1.0).mode is Mode.FULL


def test_a_lost_camera_and_a_short_history_are_both_told(package):
    vehicle = Vehicle(package)
    output = vehicle.step(0.0, live=("front", "back"))
    assert output.reason.startswith("left: lost; history: 0 of 2")
    for seconds in (0.5, 1.0):
        output = vehicle.step(seconds, live=("front", "back"))
    assert (output.mode, output.reason) == (Mode.DEGRADED, "left: lost")


def test_a_steady_step_allocates_no_arrays(package):
    vehicle = Vehicle(package)
    vehicle.backend.infer = super(type(vehicle.backend), vehicle.backend).infer
    memory = vehicle.pipeline._memory
    for tick in range(30):
        vehicle.step(tick / 12)
    from bev_runtime.ego_motion import EgoMotion
    from bev_runtime.fusion import FusionPlan

    plan = FusionPlan(Mode.FULL, (), False, "")
    made = {"bev_map": np.ones((1, CELLS, CELLS, 3), np.float32)}
    rig = vehicle.pipeline._rig
    gc.collect()
    tracemalloc.start()
    try:
        for tick in range(30, 36):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            motion = EgoMotion(rig, vehicle.transforms, HALF * 4 + round(tick / 12 * 1e9))
            memory.recall(plan, motion)
            memory.keep(made)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < 20_000, peak  # one plane of doubles is 51 kB
    finally:
        tracemalloc.stop()


def test_diagnostics_count_the_past_moments(package):
    vehicle = Vehicle(package)
    vehicle.step(0.0)
    message = MessageMaker(output_typestore()).mode(vehicle.step(0.5), "bev")
    assert {pair.key: pair.value for pair in message.values}["past_moments"] == "1/2"


def test_robustness_is_not_measured_moment_by_moment(package):
    model = load_model(package)
    with pytest.raises(ConfigError, match="remembers the past"):
        Study(model.manifest, Vehicle(package).backend)
