"""What each condition leaves of a moment, and how the table is written down."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_faults_content import cloud as cloud_with_rings

from bev_runtime.errors import MissingExtraError, ModelError
from bev_runtime.geometry import rigid, transform_points
from bev_runtime.model import load_model
from bev_runtime.preprocess import cloud_from_message, decode_rgb
from bev_runtime.robustness.conditions import (
    Moment,
    camera_delay,
    conditions_of,
    frozen_camera,
    inside_any,
    lidar_beams,
    lidar_sector,
    lost_cameras,
    missing_objects,
    no_lidar,
    occluded_cameras,
    view_noise,
)
from bev_runtime.robustness.study import Row
from bev_runtime.robustness.tables import MARKS, markdown, plot, store
from bev_runtime.types import CameraFrame, Snapshot

NAMES = ("back", "front", "left", "right")
NOW, BEFORE = 2_000, 1_000
# Mounted as on nuScenes: the sensor's y axis looks forward.
TURNED = rigid(np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]), [0.9, 0, 1.8])
BOXES = np.array([[9.0, 0, 1.8, 4, 2, 2, 0.5, 0, 0], [-8.0, 0, 1.8, 5, 3, 2, 0, 0, 0]])


def frames(stamp_ns: int) -> dict[str, CameraFrame]:
    rng = np.random.default_rng(stamp_ns)
    pictures = rng.integers(60, 255, (len(NAMES), 90, 160, 3), np.uint8)
    return {
        name: CameraFrame.from_rgb(name, stamp_ns, picture)
        for name, picture in zip(NAMES, pictures, strict=True)
    }


@pytest.fixture
def moment() -> Moment:
    sweep = cloud_with_rings()
    cloud = cloud_from_message("lidar", NOW, sweep)
    snapshot = Snapshot(NOW, frames(NOW), cloud)
    return Moment(3, snapshot, TURNED, sweep, frames(BEFORE), frames(0), BOXES, seed=5)


def rgb(frame: CameraFrame) -> np.ndarray:
    return decode_rgb(frame)


def test_a_larger_loss_holds_the_smaller_one_and_differs_between_moments(moment):
    lost = [set(lost_cameras(moment, count).lost) for count in range(1, 7)]
    assert [len(names) for names in lost] == [1, 2, 3, 4, 4, 4]
    assert all(few <= more for few, more in itertools.pairwise(lost))
    firsts = {tuple(lost_cameras(replace(moment, index=index), 1).lost) for index in range(40)}
    assert len(firsts) == len(NAMES)
    left = lost_cameras(moment, 2)
    assert set(left.cameras) == set(NAMES) - set(left.lost)
    assert left.cloud is moment.snapshot.cloud


def test_a_lost_lidar_is_named(moment):
    scene = no_lidar(moment)
    assert scene.cloud is None
    assert scene.lost == {"lidar": "lost"}


def test_the_sector_looks_to_the_vehicles_front_however_the_lidar_is_mounted(moment):
    points = lidar_sector(moment, 90).cloud.points
    ahead = points[:, :3] @ TURNED[:3, :3].T
    azimuth = np.degrees(np.arctan2(ahead[:, 1], ahead[:, 0]))
    assert np.abs(azimuth).max() <= 45.01
    assert azimuth.min() < -40
    assert azimuth.max() > 40


def test_beams_thin_the_sweep(moment):
    whole, thin = moment.snapshot.cloud.points, lidar_beams(moment, 4).cloud.points
    assert 0.4 * len(whole) < len(thin) < 0.6 * len(whole)


def test_missing_objects_lose_all_their_points_and_nothing_else_does(moment):
    points = moment.snapshot.cloud.points
    base = transform_points(TURNED, points[:, :3])
    on_object = inside_any(base, BOXES)
    assert on_object.sum() > 100
    assert (missing_objects(moment, 1.0).cloud.points == points[~on_object]).all()
    assert len(missing_objects(moment, 0.0).cloud.points) == len(points)
    counts = [len(missing_objects(moment, share).cloud.points) for share in (0.1, 0.5, 0.9, 1.0)]
    assert counts == sorted(counts, reverse=True)


def test_points_inside_turned_boxes_are_found_with_a_small_margin():
    box = np.array([[0.0, 0, 0, 4, 2, 2, np.pi / 2, 0, 0]])
    points = np.array([[0, 2.05, 0], [0, 2.2, 0], [1.05, 0, 0], [1.2, 0, 0], [0, 0, 1.2]])
    assert inside_any(points, box).tolist() == [True, False, True, False, False]


def test_noise_replaces_some_views_and_dirt_all(moment):
    noisy = view_noise(moment, 2)
    changed = [n for n in NAMES if noisy.cameras[n] is not moment.snapshot.cameras[n]]
    assert len(changed) == 2
    assert all(noisy.cameras[name].stamp_ns == NOW for name in changed)
    dirty, later = occluded_cameras(moment), occluded_cameras(replace(moment, index=4))
    for name in NAMES:
        picture = rgb(dirty.cameras[name])
        covered = (picture != rgb(moment.snapshot.cameras[name])).any(axis=2)
        assert 0.3 <= covered.mean() < 0.5
        assert (rgb(later.cameras[name]) == picture).all()


def test_a_frozen_camera_is_left_out_and_the_naive_node_takes_its_first_picture_as_new(moment):
    scene = frozen_camera(moment)
    ((name, reason),) = scene.lost.items()
    assert reason == "frozen"
    assert name not in scene.cameras
    assert scene.stale[name].stamp_ns == NOW
    assert (rgb(scene.stale[name]) == rgb(moment.first[name])).all()


def test_delayed_pictures_keep_their_stamps_and_the_naive_node_takes_them_as_new(moment):
    scene = camera_delay(moment)
    for name in NAMES:
        assert scene.cameras[name].stamp_ns == BEFORE
        assert scene.unaware[name].stamp_ns == NOW
        assert (rgb(scene.cameras[name]) == rgb(moment.before[name])).all()
        assert (rgb(scene.unaware[name]) == rgb(moment.before[name])).all()


def test_a_model_without_lidar_has_no_lidar_conditions(tiny_model):
    names = set(conditions_of(load_model(tiny_model).manifest))
    assert "lost_cameras_1" in names
    assert not any("lidar" in name or "objects" in name for name in names)
    assert "no_cameras" not in names


ROWS = [
    Row("full", {"NDS": 0.5, "mIoU": 0.8, "mAP": 0.4}, {"NDS": 0.5, "mIoU": 0.7, "mAP": 0.4}),
    Row("no_lidar", {"NDS": 0.3, "mAP": 0.2}, {"NDS": 0.1, "mIoU": 0.2, "mAP": 0.1}),
]


def test_the_markdown_shows_both_nodes_and_what_is_kept():
    lines = markdown(ROWS, "On data.").splitlines()
    assert "| condition | NDS | mAP | map mIoU | NDS kept | map mIoU kept |" in lines
    assert "| no_lidar | 0.300 / 0.100 | 0.200 / 0.100 | - / 0.200 | 60% / 20% | - / 25% |" in lines


def test_storing_replaces_rows_of_the_same_data_and_keeps_all_else(tiny_model, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    before = (folder / "manifest.yaml").read_text().rstrip("\n")
    (folder / "README.md").write_text("# A model\n\nIts text.\n")
    store(folder, ROWS, "first data", "About the first.")
    store(folder, ROWS[:1], "second data", "About the second.")
    changed = [Row("full", {"NDS": 0.9}, {"NDS": 0.8})]
    store(folder, changed, "first data", "About the last.")
    assert (folder / "manifest.yaml").read_text().startswith(before.split("accuracy:")[0].rstrip())
    stored = load_model(folder).manifest.accuracy
    assert len(stored) == 6
    rows = {(row.condition, row.dataset): row.metrics for row in stored}
    assert set(rows) == {
        ("no_lidar", "first data"),
        ("no_lidar_naive", "first data"),
        ("full", "second data"),
        ("full_naive", "second data"),
        ("full", "first data"),
        ("full_naive", "first data"),
    }
    assert rows["full", "first data"] == {"NDS": 0.9}
    text = (folder / "README.md").read_text()
    assert text.startswith("# A model\n\nIts text.\n")
    assert [text.count(mark) for mark in MARKS] == [1, 1]
    assert "About the last." in text
    assert "About the first." not in text


def test_a_package_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be stored"):
        store(tmp_path / "none", ROWS, "data", "About.")


def test_the_plot_is_drawn_or_says_what_is_missing(tmp_path: Path, monkeypatch):
    pytest.importorskip("matplotlib", reason="the plot needs the extra 'view'")
    plot(ROWS, tmp_path / "table.png")
    assert (tmp_path / "table.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r"bev-runtime\[view\]"):
        plot(ROWS, tmp_path / "none.png")
