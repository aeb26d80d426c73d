"""Velocities from where the same boxes were before: right when told, and NaN until they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from fusion_model import fusion_manifest, write_fusion_model
from hypothesis import given
from hypothesis import strategies as st
from test_detection_decoder import EVERYWHERE, GRID, empty, spec
from test_instance_tracks import SECOND, motion_at

from bev_runtime.association import nearest_pairs
from bev_runtime.detection_decoder import DetectionDecoder
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.model import load_model
from bev_runtime.postprocess import OutputDecoder
from bev_runtime.types import Detections
from bev_runtime.velocity_tracks import MAX_TRACKS, VelocityTracks, turn_forwards

CLASSES = ("car", "pedestrian")
STEP = SECOND // 10


def found(*rows, labels=None, length=4.0) -> Detections:
    """Boxes at x y (yaw), whose network claims to know that they stand."""
    boxes = np.zeros((len(rows), 9), np.float32)
    for box, row in zip(boxes, rows, strict=True):
        box[:2], box[3:6] = row[:2], (length, 2, 1.5)
        box[6] = row[2] if len(row) > 2 else 0.0
    labels = np.zeros(len(rows), np.int32) if labels is None else np.array(labels, np.int32)
    return Detections(boxes, np.full(len(rows), 0.5, np.float32), labels, CLASSES)


def driving(stamp_ns: int) -> np.ndarray:
    """odom from base_link of a vehicle in a curve."""
    seconds = stamp_ns / SECOND
    return rigid(rotation_from_euler(0, 0, 0.3 * seconds), [9 * seconds, 2 * seconds, 0])


class Drive:
    """Makes outputs of objects at (x, y) with (vx, vy) in odom at second 0."""

    def __init__(self, *objects, pose=driving, noise=0.0, seed=0) -> None:
        self.objects, self.pose = np.array(objects, float).reshape(-1, 4), pose
        self.tracks, self.noise = VelocityTracks(), noise
        self._rng = np.random.default_rng(seed)

    def output(self, index: int, *, poses=None, which=None, step=STEP):
        """Told and true velocities [n, 2] of the output of a stamp."""
        stamp = SECOND + index * step
        turn, here = self.pose(stamp)[:2, :2], self.pose(stamp)[:2, 3]
        chosen = self.objects if which is None else self.objects[which]
        at = (chosen[:, :2] + chosen[:, 2:] * stamp / SECOND - here) @ turn
        at += self._rng.normal(0, self.noise, at.shape)
        known = poses or {s: self.pose(s) for s in range(0, 10 * SECOND, STEP // 2)}
        boxes = found(*at.tolist())
        self.tracks.fill(boxes, motion_at(stamp, known))
        return boxes.boxes[:, 7:9], chosen[:, 2:] @ turn


def test_a_velocity_is_over_ground_and_told_only_once_it_is_known():
    drive = Drive((30, 0, -11, 3), (40, 10, 0, 0), (25, -8, 6, 6))
    told = [drive.output(index) for index in range(20)]
    assert np.isnan(told[0][0]).all()
    assert np.isnan(told[1][0]).all()
    first = next(k for k, (said, _) in enumerate(told) if not np.isnan(said).any())
    assert 4 <= first <= 6
    for said, true in told[first:]:
        assert np.abs(said - true).max() < 0.8
    assert np.abs(told[-1][0] - told[-1][1]).max() < 0.1


def test_even_slow_outputs_are_waited_for():
    drive = Drive((30, 0, -6, 3))
    told = [not np.isnan(drive.output(k, step=SECOND // 4)[0]).any() for k in range(6)]
    assert told == [False] * 4 + [True] * 2


def test_parked_cars_that_are_found_by_turns_do_not_drive():
    tracks, told = VelocityTracks(), []
    still = {s: np.eye(4) for s in range(0, 10 * SECOND, STEP // 2)}
    for index, x in enumerate([0.0, 5.0, 7.0, 12.5, 13.5, 19.0, 20.5, 25.5]):
        boxes = found((x, 3.0), length=4.8)
        tracks.fill(boxes, motion_at(SECOND + index * SECOND // 4, still))
        told.append(boxes.boxes[0, 7])
    assert np.isnan(told).all()


def test_noise_is_borne_with():
    drive = Drive((60, 0, -7, 0), (30, 12, 3, -1), noise=0.2, seed=4)
    told = [drive.output(index) for index in range(40)]
    off = np.stack([said - true for said, true in told])
    known = ~np.isnan(off[..., 0])
    assert known[-20:].mean() > 0.8
    assert known[:4].sum() == 0
    assert math.sqrt(np.nanmean(off**2)) < 0.5
    assert np.nanmax(np.abs(off)) < 1.5


def test_without_ego_motion_nothing_is_told_and_all_begins_anew():
    drive = Drive((30, 0, -11, 3))
    for index in range(10):
        drive.output(index)
    assert np.isnan(drive.output(10, poses={5 * SECOND: np.eye(4)})[0]).all()
    assert np.isnan(drive.output(11)[0]).all()
    assert not np.isnan([drive.output(index)[0] for index in range(12, 20)][-1]).any()


@pytest.mark.parametrize("index", [9, 5, 25], ids=["same stamp", "clock back", "long gap"])
def test_another_clock_or_a_long_gap_begins_anew(index):
    drive = Drive((30, 0, -1, 0))
    said = [drive.output(k)[0] for k in range(10)]
    assert not np.isnan(said[-1]).any()
    assert np.isnan(drive.output(index)[0]).all()


def test_forgotten_is_forgotten():
    drive = Drive((30, 0, -1, 0))
    for index in range(10):
        drive.output(index)
    drive.tracks.forget()
    assert np.isnan(drive.output(10)[0]).all()


def test_a_short_miss_does_not_end_a_track():
    drive = Drive((30, 0, -11, 3), (40, 10, 0, 0))
    for index in range(10):
        drive.output(index)
    for index in range(10, 14):
        drive.output(index, which=[1])
    said, true = drive.output(14)
    assert np.abs(said - true).max() < 0.3


def test_a_box_that_comes_back_after_more_than_a_second_is_another():
    drive = Drive((60, 0, -11, 3), (40, 10, 0, 0))
    for index in range(10):
        drive.output(index)
    for index in range(10, 24):
        drive.output(index, which=[1])
    said, _ = drive.output(24)
    assert np.isnan(said[0]).all()
    assert not np.isnan(said[1]).any()


def test_boxes_of_another_class_are_not_the_same():
    tracks = VelocityTracks()
    still = {s: np.eye(4) for s in range(0, 10 * SECOND, STEP)}
    for index in range(12):
        boxes = found((10.0, 0.0), labels=[index % 2])
        tracks.fill(boxes, motion_at(SECOND + index * STEP, still))
        assert np.isnan(boxes.boxes[:, 7:9]).all()


@pytest.mark.parametrize(("length", "told"), [(4.0, 20.0), (0.6, math.nan)])
def test_no_box_is_looked_for_further_away_than_its_length_and_a_metre(length, told):
    tracks = VelocityTracks()
    still = {s: np.eye(4) for s in range(0, 10 * SECOND, STEP)}
    for index in range(15):
        boxes = found((-20 + 2.0 * index, 0.0, 3.0), length=length)
        tracks.fill(boxes, motion_at(SECOND + index * STEP, still))
    assert boxes.boxes[0, 7] == pytest.approx(told, abs=0.3, nan_ok=True)
    turned = 3.0 - math.pi if length > 1 else 3.0
    assert boxes.boxes[0, 6] == pytest.approx(turned), "its front is ahead once that is known"


def test_a_storm_of_boxes_stays_bounded():
    rng, tracks = np.random.default_rng(0), VelocityTracks()
    still = {s: np.eye(4) for s in range(0, 10 * SECOND, STEP)}
    for index in range(12):
        spots = rng.uniform(-50, 50, (800, 2)).tolist()
        tracks.fill(found(*spots), motion_at(SECOND + index * STEP, still))
    assert len(tracks._tracks) <= MAX_TRACKS
    nothing = found()
    tracks.fill(nothing, motion_at(3 * SECOND, still))
    assert nothing.boxes.shape == (0, 9)


def test_what_moves_fast_has_its_front_ahead():
    boxes = np.zeros((5, 9), np.float32)
    boxes[:, 6] = [3.0, 0.2, 0.0, 0.0, -3.0]
    boxes[:, 7:9] = [[8, 0], [8, 0], [-2, 0], [np.nan, np.nan], [8, 1]]
    turn_forwards(boxes)
    assert boxes[:, 6] == pytest.approx([3.0 - math.pi, 0.2, 0, 0, math.pi - 3.0], abs=1e-6)


@pytest.mark.parametrize(("velocity", "told"), [("network", 1.5), ("unknown", math.nan)])
def test_the_manifest_says_whose_velocities_are_told(velocity, told):
    heatmap, terms = empty()
    heatmap[0, 0, 7, 20], terms[0, 8:10] = 1.2, 1.5
    decoder = DetectionDecoder(spec(velocity=velocity), GRID)
    boxes = decoder.decode(heatmap, terms, EVERYWHERE).boxes
    assert boxes[0, 7:9] == pytest.approx([told, told], nan_ok=True)


def test_a_decoder_follows_only_what_a_lidar_finds_and_forgets(tmp_path):
    detection = {**fusion_manifest()["detection"], "velocity": "tracks"}
    manifest = load_model(write_fusion_model(tmp_path / "m", detection=detection)).manifest
    decoder = OutputDecoder(manifest)
    decoder.observed.fill(True)
    rows, columns = manifest.grid.to_grid().shape
    heatmap = np.full((1, 3, rows, columns), -9.0, np.float32)
    heatmap[0, 0, rows // 2, columns // 2] = 5.0
    tensors = {"heatmap": heatmap, "boxes": np.zeros((1, 10, rows, columns), np.float32)}
    still = {s: np.eye(4) for s in range(0, 10 * SECOND, STEP)}

    def speed(index, *, by_lidar=True):
        motion = motion_at(SECOND + index * STEP, still)
        return decoder.decode(tensors, motion, by_lidar=by_lidar).detections.boxes[0, 7]

    said = [speed(index) for index in range(8)]
    assert np.isnan(said[0])
    assert said[-1] == pytest.approx(0, abs=1e-3)
    decoder.forget()
    again = [speed(index) for index in range(8, 16)]
    assert np.isnan(again[0])
    assert not np.isnan(again[-1])
    assert np.isnan(speed(16, by_lidar=False))
    assert np.isnan(speed(17))


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 2**32 - 1))
def test_pairs_are_those_of_taking_the_smallest_again_and_again(rows, columns, seed):
    rng = np.random.default_rng(seed)
    distance = rng.integers(0, 6, (rows, columns)).astype(float)
    distance[rng.random(distance.shape) < 0.2] = np.nan
    left, expected = np.where(np.isnan(distance), np.inf, distance), []
    while left.size and left.min() <= 3:
        row, column = np.unravel_index(int(np.argmin(left)), left.shape)
        expected.append((row, column))
        left[row], left[:, column] = np.inf, np.inf
    assert list(zip(*nearest_pairs(distance, 3), strict=True)) == expected
