"""Instances over time: tracks that last, and where instances are written and drawn."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from ros_messages import START, camera_info, camera_pose, image, transforms, write_bag
from temporal_model import Vehicle, write_temporal_model
from test_instances import section
from test_sinks import output, snapshot

from bev_runtime.ego_motion import EgoMotion
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.instance_tracks import InstanceFinder, TrackBook
from bev_runtime.rig import Rig
from bev_runtime.sinks.bev_view import BevView
from bev_runtime.sinks.instances import InstancesSink
from bev_runtime.sinks.ros_messages import MessageMaker, output_typestore
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevGrid, Detections

SECOND = 10**9


def motion_at(stamp_ns: int, poses) -> EgoMotion:
    """Ego motion up to a stamp where odom from base_link is known at some."""
    tree = TransformTree()
    for when, pose in poses.items():
        tree.add_dynamic("odom", "base_link", when, pose)
    return EgoMotion(Rig(cameras={}), tree, stamp_ns)


def standing(stamp_ns: int) -> EgoMotion:
    return motion_at(stamp_ns, {k * SECOND // 10: np.eye(4) for k in range(101)})


def ways(*items):
    """Centres [n, 3, 2] of objects at (x, y) that go on with (vx, vy), at 0, 0.5 and 1 s."""
    at = np.array([0, 0.5, 1.0])[:, None]
    return np.array([np.array(p) + at * v for p, v in items], np.float32).reshape(-1, 3, 2)


def test_objects_that_cross_keep_their_tracks():
    book = TrackBook((0.0, 0.5, 1.0))
    right, left = ((0, 0), (20, 0)), ((20, 1), (-20, 0))
    first = book.number(ways(right, left), standing(SECOND)).copy()
    assert first.tolist() == [1, 2]
    later = ways(((6, 1), (-20, 0)), ((14, 0), (20, 0)))  # 0.7 s later, listed the other way round
    assert book.number(later, standing(SECOND + 7 * SECOND // 10)).tolist() == [2, 1]


def test_an_object_that_stands_keeps_its_track_while_the_vehicle_drives_and_turns():
    book = TrackBook((0.0, 0.5, 1.0))
    then = rigid(rotation_from_euler(0, 0, 0.1), [100, 50, 0])
    now = rigid(rotation_from_euler(0, 0, 0.4), [108, 53, 0])
    world = np.array([[120.0, 60, 0, 1], [112.0, 49, 0, 1]])

    def seen_from(pose):
        return np.repeat((world @ np.linalg.inv(pose).T)[:, None, :2], 3, axis=1).astype(np.float32)

    poses = {SECOND: then, 3 * SECOND // 2: now}
    book.number(seen_from(then), motion_at(SECOND, {SECOND: then}))
    again = seen_from(now)[::-1].copy()
    assert book.number(again, motion_at(3 * SECOND // 2, poses)).tolist() == [2, 1]


def test_a_track_outlives_a_short_miss_and_its_number_is_never_used_again():
    book = TrackBook((0.0, 0.5, 1.0))
    one, other = ((0, 0), (4, 0)), ((10, 10), (0, 0))
    book.number(ways(one, other), standing(SECOND))
    assert book.number(ways(other), standing(SECOND + SECOND // 2)).tolist() == [2]
    assert book.number(ways(((4, 0), (4, 0))), standing(2 * SECOND)).tolist() == [1]
    assert book.number(ways(other), standing(4 * SECOND)).tolist() == [3]
    assert book.number(ways(), standing(4 * SECOND + 1)).tolist() == []


def test_forgotten_tracks_end_and_their_numbers_are_not_used_again():
    book = TrackBook((0.0, 0.5, 1.0))
    one = ((0, 0), (0, 0))
    assert book.number(ways(one), standing(SECOND)).tolist() == [1]
    book.forget()
    assert book.number(ways(one), standing(SECOND + SECOND // 10)).tolist() == [2]


def test_an_object_whose_prediction_ends_is_looked_for_where_it_was():
    book = TrackBook((0.0, 0.5, 1.0))
    ending = ways(((0, 0), (8, 0)))
    ending[:, 1:] = np.nan
    book.number(ending, standing(SECOND))
    assert book.number(ways(((1, 0), (0, 0))), standing(SECOND + SECOND // 2)).tolist() == [1]


def test_what_is_too_far_from_its_prediction_is_another_object():
    book = TrackBook((0.0, 0.5, 1.0))
    book.number(ways(((0, 0), (0, 0))), standing(SECOND))
    assert book.number(ways(((2.9, 0), (0, 0))), standing(SECOND + 1)).tolist() == [1]
    assert book.number(ways(((6.0, 0), (0, 0))), standing(SECOND + 2)).tolist() == [2]


@pytest.mark.parametrize("how", ["no ego motion", "the clock goes back"])
def test_tracks_end_when_it_is_not_known_where_they_would_be(how):
    book = TrackBook((0.0, 0.5, 1.0))
    book.number(ways(((0, 0), (0, 0))), standing(5 * SECOND))
    motion = motion_at(5 * SECOND + 1, {}) if how == "no ego motion" else standing(4 * SECOND)
    assert book.number(ways(((0, 0), (0, 0))), motion).tolist() == [2]


def test_instances_have_metric_centres_scores_and_say_whether_they_are_seen():
    grid = BevGrid(-10.0, 10.0, -5.0, 5.0, 0.5)
    segmentation = np.zeros((1, 6, 2, 40, 20), np.float32)
    segmentation[:, :, 0] = 5
    for rows in (slice(4, 7), slice(30, 33)):
        segmentation[:, :, :, rows, 8:11] = np.array([0, 1], np.float32)[:, None, None]
    tensors = {"segmentation": segmentation, "flow": np.zeros_like(segmentation)}
    observed = np.zeros(grid.shape, np.bool_)
    observed[20:] = True
    found = InstanceFinder(section(nms_cells=3), grid).find(tensors, observed, standing(SECOND))
    by_x = np.argsort(found.centres[:, 0, 0])
    middles = {tuple(found.centres[i, 0].tolist()) for i in by_x}
    assert found.times_s == (0.0, 0.5, 1.0, 1.5, 2.0)
    assert found.ids.shape == (5, 40, 20)
    assert np.allclose(found.scores, 1 / (1 + np.exp(-1)))
    assert found.observed.tolist() == [row[0] > 0 for row in found.centres[:, 0]]
    assert {x > 0 for x, _ in middles} == {True, False}
    cells = np.argwhere(found.ids[0] == 1)
    assert np.allclose(found.centres[0, 0], [-10, -5] + (cells.mean(axis=0) + 0.5) * 0.5)
    assert InstanceFinder(section(), grid).find({}, observed, standing(1)) is None


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return write_temporal_model(tmp_path_factory.mktemp("models") / "temporal")


def bright_square_bag(folder):
    """One camera ahead that sees a bright square on the road, two seconds at 10 Hz, standing."""
    pixels = np.zeros((180, 320, 3), np.uint8)
    pixels[100:120, 150:200, 0] = 255
    edges = [("base_link", "front", camera_pose(0.0))]
    items = [(START - 1000, "/tf_static", transforms(START - 1000, edges))]
    for tick in range(-5, 100):
        time = START + tick * 20_000_000
        items.append((time, "/tf", transforms(time, [("odom", "base_link", np.eye(4))])))
    for frame in range(20):
        time = START + frame * 100_000_000
        items.append((time, "/front/camera_info", camera_info(time, "front", (320, 180), 160.0)))
        items.append((time, "/front/image_raw", image(time, "front", pixels)))
    return write_bag(folder, sorted(items, key=lambda item: item[0]))


def test_a_replay_writes_instances_with_lasting_tracks(run_replay, package, tmp_path):
    out = tmp_path / "out"
    summary = run_replay(bright_square_bag(tmp_path / "bag"), model=package, out=out)
    assert set(summary["modes"]) == {"DEGRADED", "FULL"}
    reasons = [change["reason"] for change in summary["mode_changes"]]
    told = "all cameras live; history: {} of 2 past moments (nothing from before the start)"
    assert reasons == [told.format(0), told.format(1), "all cameras live"]
    lines = [json.loads(line) for line in (out / "instances.jsonl").read_text().splitlines()]
    assert len(lines) == summary["published"] == 20
    assert lines[0]["history"] == {"used": 0, "wanted": 2}
    assert lines[-1]["history"] == {"used": 2, "wanted": 2}
    assert lines[0]["times_s"] == [0.0, 0.5]
    tracks = [[item["track"] for item in line["instances"]] for line in lines]
    assert tracks[0]
    assert all(line == tracks[0] for line in tracks)
    item = lines[-1]["instances"][0]
    assert (item["class"], item["observed"]) == ("vehicle", True)
    assert 0.5 < item["score"] <= 1
    assert 2 < item["trajectory"][0]["x"] < 20
    assert item["area_m2"] > 0.2
    with np.load(sorted((out / "maps").glob("*.npz"))[-1]) as arrays:
        ids, centres = arrays["instance_ids"], arrays["instance_centres"]
        assert ids.shape == (2, 80, 80)
        assert arrays["instance_times_s"].tolist() == [0.0, 0.5]
        assert arrays["instance_tracks"].tolist() == tracks[0]
        row, column = np.argwhere(ids[0] == 1).mean(axis=0)
        assert np.allclose(centres[0, 0], [row * 0.5 - 19.75, column * 0.5 - 19.75])


def found_instances(**change):
    """Two instances on the usual grid; the second is not seen."""
    grid = BevGrid(-20.0, 20.0, -20.0, 20.0, 0.5)
    tensors = {name: np.zeros((1, 3, 2, 80, 80), np.float32) for name in ("segmentation", "flow")}
    tensors["segmentation"][:, :, 0] = 5
    for rows in (slice(60, 64), slice(10, 14)):
        tensors["segmentation"][:, :, :, rows, 38:42] = np.array([0, 3.0])[:, None, None]
    tensors["segmentation"][:, 0, 1, [62, 12], 40] += 1  # one centre each
    tensors["segmentation"][:, 2] = np.array([5, 0])[:, None, None]
    tensors["segmentation"][:, 2, :, 64:68, 38:42] = np.array([0, 3.0])[:, None, None]
    tensors["flow"][:, 2, 1] = -4
    observed = np.zeros(grid.shape, np.bool_)
    observed[40:] = True
    spec = section(times_s=(-0.5, 0.0, 0.5), nms_cells=9, **change)
    return InstanceFinder(spec, grid).find(tensors, observed, standing(SECOND))


def test_pictures_show_the_seen_instances_and_where_they_go():
    found = found_instances()
    views = []
    for instances in (replace(found, observed=np.zeros(2, np.bool_)), found):
        views.append(np.zeros((400, 400, 3), np.uint8))
        BevView(400).draw(views[-1], output(map=None, instances=instances))
    differs = np.abs(views[0].astype(int) - views[1]).sum(axis=-1) > 60
    # 10 pixels are a metre if the grid is that of the instances: x = 10..12 m is rows 80..100
    assert differs[82:98, 192:208].all()
    assert differs[70, 195:206].any()  # its way, to x = 13 m
    assert not differs[240:].any()


def test_markers_show_the_way_of_each_seen_instance():
    found = found_instances()
    message = MessageMaker(output_typestore()).markers(
        output(instances=found, detections=Detections.empty())
    )
    (line,) = [marker for marker in message.markers if marker.ns == "trajectories"]
    assert (line.type, line.id) == (4, int(found.tracks[found.observed][0]))
    assert [round(point.x, 3) for point in line.points] == [11.0, 13.0]


def test_the_instances_message_has_track_and_centre_of_each_seen_instance():
    found = found_instances()
    message = MessageMaker(output_typestore()).instances(output(instances=found))
    (item,) = message.detections
    assert item.id == str(found.tracks[found.observed][0])
    assert item.results[0].hypothesis.class_id == found.object_class
    assert item.bbox.center.position.x == pytest.approx(11.0)
    assert not MessageMaker(output_typestore()).instances(output(instances=None)).detections


def test_an_instance_that_ends_is_null_in_its_trajectory_and_old_files_go(tmp_path):
    path = tmp_path / "instances.jsonl"
    path.write_text("old")
    sink = InstancesSink(path)
    sink.write(output(), snapshot(()), None)
    assert not path.exists()
    found = found_instances()
    sink.write(output(instances=found), snapshot(()), None)
    sink.close()
    by_seen = {item["observed"]: item for item in json.loads(path.read_text())["instances"]}
    assert by_seen[False]["trajectory"][1] is None
    assert by_seen[True]["trajectory"][1] == pytest.approx({"x": 13.0, "y": 0.0})


def test_the_outputs_instances_are_those_of_its_own_moment(package):
    vehicle = Vehicle(package)
    outputs = [vehicle.step(seconds, seed=7) for seconds in (0.0, 0.5)]
    assert all(item.instances is not None for item in outputs)
    assert vehicle.step(1.0, live=()).instances is None
