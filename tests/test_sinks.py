from __future__ import annotations

import dataclasses
import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from ros_messages import camera_pose
from rosbags.highlevel import AnyReader

from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.sinks import latency_percentiles, open_sinks, write_summary
from bev_runtime.sinks.detections import DetectionsSink
from bev_runtime.sinks.maps import MapsSink
from bev_runtime.sinks.mcap import McapSink
from bev_runtime.types import (
    BevGrid,
    BevMap,
    BevOutput,
    Calibration,
    CameraFrame,
    Detections,
    Mode,
    PointCloud,
    Snapshot,
)

STAMP = 1_000_123_456_789
GRID = BevGrid(-30.0, 50.0, -24.0, 16.0, 0.5)
BOXES = Detections(
    np.array([[12, 3, 0.8, 4.5, 1.9, 1.6, 0.5, 3, -1], [-8, -2, 1, 9, 2.5, 3, -2, 0, 0]], "f4"),
    np.array([0.75, 0.5], np.float32),
    np.array([1, 0], np.int32),
    ("bus", "car"),
)
CAMERAS = {"front": 0.0, "left": 60.0, "back": 180.0}
NODE = "/bev_runtime/output"
TYPES = {
    f"{NODE}/mode": "diagnostic_msgs/msg/DiagnosticStatus",
    f"{NODE}/detections": "vision_msgs/msg/Detection3DArray",
    f"{NODE}/markers": "visualization_msgs/msg/MarkerArray",
    f"{NODE}/map/road": "nav_msgs/msg/OccupancyGrid",
    f"{NODE}/map/lane": "nav_msgs/msg/OccupancyGrid",
    "/front/image/compressed": "sensor_msgs/msg/CompressedImage",
    "/left/image/compressed": "sensor_msgs/msg/CompressedImage",
    "/back/image/compressed": "sensor_msgs/msg/CompressedImage",
    "/lidar/points": "sensor_msgs/msg/PointCloud2",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


def bev_map() -> BevMap:
    """One road cell, at x=+10 m y=+5 m; everything behind x=-20 m is unobserved."""
    scores = np.zeros((2, *GRID.shape), np.float32)
    observed = np.ones(GRID.shape, bool)
    scores[0, int((10.1 + 30) / 0.5), int((5.1 + 24) / 0.5)] = 1.0
    scores[1] = 0.25
    observed[:20] = False
    scores[:, :20] = 0
    return BevMap(GRID, ("road", "lane"), scores, observed)


def calibration(yaws=CAMERAS, lidar=True) -> Calibration:
    lens = make_distortion("none", [])
    k = [[320.0, 0, 319.5], [0, 320.0, 179.5], [0, 0, 1]]
    cameras = {n: make_camera(k, lens, (640, 360), camera_pose(yaw)) for n, yaw in yaws.items()}
    pose = rigid(rotation_from_euler(0.0, 0.0, 0.3), [1.0, 0.0, 1.8])
    return Calibration(cameras, pose if lidar else None)


def snapshot(names=tuple(CAMERAS), cloud=True, stamp=STAMP) -> Snapshot:
    rgb = np.full((360, 640, 3), (200, 120, 40), np.uint8)
    points = np.array([[5, 0, 0, 7], [0, 9, 1, 8]], np.float32)
    frames = {name: CameraFrame.from_rgb(name, stamp - 5_000_000, rgb) for name in names}
    return Snapshot(stamp, frames, PointCloud("lidar", stamp, points) if cloud else None)


def output(names=tuple(CAMERAS), stamp=STAMP, **change) -> BevOutput:
    ages = dict.fromkeys((*names, "lidar"), 5.0)
    made = BevOutput(
        stamp, "base_link", Mode.FULL, "all live", BOXES, bev_map(), ages, True, {}, {}
    )
    return dataclasses.replace(made, **change)


def record(path: Path, *calls) -> Path:
    """An MCAP of (output, snapshot, calibration)."""
    with closing(McapSink(path)) as sink:
        for call in calls:
            sink.write(*call)
    return path


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sinks") / "outputs.mcap"
    rig, later = calibration(), STAMP + 100_000_000
    lost = output(("front",), stamp=later, mode=Mode.DEGRADED, reason="left: silent")
    return record(
        path,
        (output(), snapshot(), rig),
        (lost, snapshot(("front",), stamp=later), rig),
    )


def decoded(path, topics=None):
    """Every (schema, channel, message, decoded message), by mcap-ros2-support."""
    with path.open("rb") as file:
        reader = make_reader(file, decoder_factories=[DecoderFactory()])
        return list(reader.iter_decoded_messages(topics))


def read(path, topic):
    return [message for _, _, _, message in decoded(path, [topic])]


def stamp_of(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def test_every_sink_is_opened_and_pictures_only_on_request(tmp_path):
    for pictures, expected in ((0, set()), (2, {"frames"})):
        folder = tmp_path / str(pictures)
        sinks = open_sinks(folder, pictures)
        for sink in sinks:
            for i in range(3):
                sink.write(output(stamp=STAMP + i), snapshot(), calibration())
            sink.close()
        found = {path.name for path in folder.iterdir()}
        assert found == {"detections.jsonl", "maps", "outputs.mcap"} | expected
    names = sorted(path.name for path in (folder / "frames").iterdir())
    assert names == [f"{STAMP}.png", f"{STAMP + 2}.png"]


def test_detections_come_back_from_their_lines(tmp_path):
    path = tmp_path / "detections.jsonl"
    sink = DetectionsSink(path)
    sink.write(output(), snapshot(), calibration())
    assert path.read_text().endswith("\n"), "a line is on the disk before the sink is closed"
    sink.write(output(detections=Detections.empty(), map=None), snapshot(), calibration())
    with pytest.raises(ValueError, match="JSON"):
        sink.write(output(sensor_age_ms={"front": float("nan")}), snapshot(), calibration())
    sink.close()
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    keys = ("x", "y", "z", "l", "w", "h", "yaw", "vx", "vy", "score")
    found = np.array([[box[key] for key in keys] for box in first["boxes"]], np.float32)
    np.testing.assert_array_equal(found, np.column_stack([BOXES.boxes, BOXES.scores]))
    assert [box["class"] for box in first["boxes"]] == ["car", "bus"]
    assert (first["stamp_ns"], first["frame_id"]) == (STAMP, "base_link")
    assert (first["mode"], first["reason"]) == ("FULL", "all live")
    assert first["sensor_age_ms"] == {"front": 5.0, "left": 5.0, "back": 5.0, "lidar": 5.0}
    assert second["boxes"] == []


def test_maps_load_without_pickle(tmp_path):
    sink = MapsSink(tmp_path)
    sink.write(output(), snapshot(), calibration())
    sink.write(output(map=None, stamp=STAMP + 1), snapshot(), calibration())
    (path,) = tmp_path.iterdir()
    assert path.name == f"{STAMP}.npz"
    with np.load(path, allow_pickle=False) as file:
        assert BevGrid(*file["grid"].tolist()) == GRID
        assert file["layers"].tolist() == ["road", "lane"]
        assert (file["scores"].dtype, file["observed"].dtype) == (np.float16, np.bool_)
        np.testing.assert_array_equal(file["scores"], bev_map().scores)
        np.testing.assert_array_equal(file["observed"], bev_map().observed)


def test_two_independent_readers_find_every_topic(recorded):
    items = decoded(recorded)
    assert {channel.topic: schema.name for schema, channel, _, _ in items} == TYPES
    assert {message.log_time for _, _, message, _ in items} == {STAMP, STAMP + 100_000_000}
    with AnyReader([recorded]) as reader:
        assert {c.topic: c.msgtype for c in reader.connections} == TYPES
        messages = [
            (connection.topic, reader.deserialize(raw, connection.msgtype))
            for connection, _, raw in reader.messages()
        ]
    assert len(messages) == len(items)
    cubes = dict(messages)[f"{NODE}/markers"].markers[1:]
    assert [cube.scale.x for cube in cubes if cube.ns == "boxes"] == [4.5, 9.0]


def test_a_cell_of_the_occupancy_grid_is_where_it_is_on_the_road(recorded):
    road, lane = (read(recorded, f"{NODE}/map/{layer}")[0] for layer in ("road", "lane"))
    info = road.info
    data = np.array(road.data).reshape(info.height, info.width)
    ((row, column),) = np.argwhere(data == 100)
    x, y = (
        corner + (index + 0.5) * info.resolution
        for corner, index in ((info.origin.position.x, column), (info.origin.position.y, row))
    )
    assert (x, y) == pytest.approx((10.0, 5.0), abs=0.3)
    assert (info.width, info.height) == (160, 80)
    assert (info.origin.orientation.w, info.origin.position.z) == (1.0, 0.0)
    assert (stamp_of(road), road.header.frame_id) == (STAMP, "base_link")
    lanes = np.array(lane.data).reshape(info.height, info.width)
    assert np.unique(lanes[:, :20]).tolist() == [-1]
    assert np.unique(lanes[:, 20:]).tolist() == [25]


def test_boxes_carry_stamp_frame_pose_and_class(recorded):
    message = read(recorded, f"{NODE}/detections")[0]
    for item in (message, *message.detections):
        assert (stamp_of(item), item.header.frame_id) == (STAMP, "base_link")
    for item, box, score, name in zip(
        message.detections, BOXES.boxes, BOXES.scores, ("car", "bus"), strict=True
    ):
        (result,) = item.results
        assert (result.hypothesis.class_id, result.hypothesis.score) == (name, score)
        for pose in (item.bbox.center, result.pose.pose):
            at, turn = pose.position, pose.orientation
            np.testing.assert_allclose([at.x, at.y, at.z], box[:3])
            assert (turn.x, turn.y) == (0.0, 0.0)
            assert 2 * np.arctan2(turn.z, turn.w) == pytest.approx(box[6], abs=1e-6)
        size = item.bbox.size
        np.testing.assert_allclose([size.x, size.y, size.z], box[3:6])


def test_markers_first_delete_those_of_the_output_before(recorded):
    first, *rest = read(recorded, f"{NODE}/markers")[0].markers
    cubes = [marker for marker in rest if marker.ns == "boxes"]
    assert first.action == 3
    assert [(cube.action, cube.type, cube.id) for cube in cubes] == [(0, 1, 0), (0, 1, 1)]
    assert all(cube.color.a > 0 for cube in cubes)
    assert cubes[0].header.frame_id == "base_link"


def test_the_mode_topic_is_ok_only_with_all_sensors(recorded):
    ok, warn = read(recorded, f"{NODE}/mode")
    assert [m.level for m in (ok, warn)] == [0, 1]
    values = {pair.key: pair.value for pair in warn.values}
    assert (values["mode"], values["live_sensors"]) == ("DEGRADED", "front lidar")
    assert values["front/age_ms"] == "5.0"
    assert warn.message == "DEGRADED: left: silent"


def test_camera_images_are_small_and_keep_their_own_stamp(recorded):
    assert len(read(recorded, "/left/image/compressed")) == 1
    message = read(recorded, "/front/image/compressed")[0]
    assert (stamp_of(message), message.header.frame_id) == (STAMP - 5_000_000, "front")
    rgb = simplejpeg.decode_jpeg(bytes(message.data))
    assert rgb.shape == (270, 480, 3)
    np.testing.assert_allclose(rgb.mean(axis=(0, 1)), [200, 120, 40], atol=4)


def test_static_transforms_come_once_for_each_calibration(tmp_path):
    rig = calibration()
    other = calibration({"front": 5.0})
    path = record(
        tmp_path / "out.mcap",
        *((output(), snapshot(), rig) for _ in range(3)),
        *((output(), snapshot(), other) for _ in range(2)),
    )
    first, second = read(path, "/tf_static")
    assert [t.child_frame_id for t in first.transforms] == ["front", "left", "back", "lidar"]
    assert [t.child_frame_id for t in second.transforms] == ["front", "lidar"]
    edge = first.transforms[3]
    assert edge.header.frame_id == "base_link"
    assert edge.transform.translation.z == 1.8
    assert edge.transform.rotation.z == pytest.approx(np.sin(0.15))


def test_the_frame_of_a_lidar_that_starts_late_is_written_when_it_comes(tmp_path):
    rig = calibration()
    path = record(
        tmp_path / "out.mcap",
        *((output(), snapshot(cloud=c), rig) for c in (False, True, False, True)),
    )
    found = [[t.child_frame_id for t in m.transforms] for m in read(path, "/tf_static")]
    assert found == [["front", "left", "back"], ["front", "left", "back", "lidar"]]


def test_a_summary_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_summary(path, {"latency_ms": latency_percentiles({"all": [1.0, 2.0, 3.0], "none": []})})
    before = path.read_text()
    assert json.loads(before) == {
        "latency_ms": {"all": pytest.approx({"p50": 2, "p99": 2.98, "max": 3})}
    }
    for bad in (float("nan"), float("inf"), object()):
        with pytest.raises((ValueError, TypeError)):
            write_summary(path, {"fine": 1, "value": bad})
    assert path.read_text() == before
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]

    def full_disk(self, text, encoding):
        self.write_bytes(text[:3].encode(encoding))
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="space"):
        write_summary(path, {"run": 2})
    assert path.read_text() == before
