"""Faults in what messages hold: points that vanish, pictures that show something else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ros_messages as ros
import simplejpeg

from bev_runtime.bags import Bag, Message
from bev_runtime.errors import ConfigError
from bev_runtime.faults import FaultProxy, parse_fault
from bev_runtime.faults.pictures import dirt
from bev_runtime.preprocess import cloud_from_message

SENSORS = ("camera", "lidar")
TOPICS = {"/camera/image": "camera", "/lidar/points": "lidar"}
POINT = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4"), ("ring", "<u2")])
RINGS = (3, 4, 7, 8, 11, 12, 15, 16)


def cloud(num_points: int = 4000, padding: int = 0, rows: int = 1) -> Any:
    """Points in all directions, on rings that are not numbered from 0."""
    rng = np.random.default_rng(1)
    points = np.zeros(num_points, POINT)
    azimuth = rng.uniform(-np.pi, np.pi, num_points)
    points["x"], points["y"] = 10 * np.cos(azimuth), 10 * np.sin(azimuth)
    points["intensity"] = np.arange(num_points)
    points["ring"] = rng.choice(RINGS, num_points)
    field = ros.T["sensor_msgs/msg/PointField"]
    types = {"<f4": 7, "<u2": 4}
    fields = [field(name, POINT.fields[name][1], types[POINT[name].str], 1) for name in POINT.names]
    width = num_points // rows
    data = points.view(np.uint8).reshape(rows, width * POINT.itemsize)
    data = np.pad(data, ((0, 0), (0, padding)), constant_values=0xEE).reshape(-1)
    step = width * POINT.itemsize + padding
    header = ros.header(7_000_000_005, "lidar")
    return ros.T["sensor_msgs/msg/PointCloud2"](
        header, rows, width, fields, False, POINT.itemsize, step, data, True
    )


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 200, (96, 160, 3), np.uint8)


def run(spec: str, *messages: Any, seed: int = 0) -> tuple[list[Any], FaultProxy]:
    """The messages after the fault, decoded."""
    proxy = FaultProxy([parse_fault(spec, SENSORS)], TOPICS, seed)
    stream = [
        Message(
            index,
            "/lidar/points" if "PointCloud2" in item.__msgtype__ else "/camera/image",
            item.__msgtype__,
            ros.serialize(item),
        )
        for index, item in enumerate(messages)
    ]
    out = list(proxy.apply(stream, 0))
    return [ros.STORE.deserialize_cdr(m.raw, m.msgtype) for m in out], proxy


def records(msg: Any) -> np.ndarray:
    return np.ascontiguousarray(msg.data).view(POINT)


def test_a_sector_keeps_the_points_about_its_direction_and_their_bytes():
    before = cloud()
    (after,), proxy = run("sector:lidar,deg=90,yaw=60", before)
    azimuth = np.degrees(np.arctan2(records(after)["y"], records(after)["x"]))
    assert 15 <= azimuth.min() < 17
    assert 103 < azimuth.max() <= 105
    everything = records(before)
    angle = np.degrees(np.arctan2(everything["y"], everything["x"]))
    assert (records(after) == everything[(angle >= 15) & (angle <= 105)]).all()
    assert proxy.affected == {"sector:lidar,deg=90,yaw=60": 1}
    assert after.header == before.header


def test_a_sector_that_crosses_the_back_is_whole():
    (after,), _ = run("sector:lidar,deg=60,yaw=180", cloud())
    azimuth = np.degrees(np.arctan2(records(after)["y"], records(after)["x"]))
    assert (np.abs(azimuth) >= 150).all()
    assert (azimuth > 0).any()
    assert (azimuth < 0).any()


@pytest.mark.parametrize(
    ("keep", "rings"), [(8, set(RINGS)), (64, set(RINGS)), (4, {4, 8, 12, 16}), (1, {11})]
)
def test_beams_are_kept_evenly_among_those_that_are_present(keep, rings):
    (after,), _ = run(f"beams:lidar,keep={keep}", cloud())
    assert set(records(after)["ring"].tolist()) == rings
    before = records(cloud())
    assert (records(after) == before[np.isin(before["ring"], list(rings))]).all()


def test_points_vanish_with_their_probability_and_repeat_with_the_seed():
    (first,), _ = run("points:lidar,p=0.7", cloud())
    (again,), _ = run("points:lidar,p=0.7", cloud())
    (other,), _ = run("points:lidar,p=0.7", cloud(), seed=1)
    assert 1080 < len(records(first)) < 1320
    assert (records(first) == records(again)).all()
    assert records(first).tolist() != records(other).tolist()


def test_clouds_of_padded_rows_are_edited_and_read_by_the_runtime():
    (after,), _ = run("sector:lidar,deg=360", cloud(padding=10, rows=8))
    read = cloud_from_message("lidar", 1, after)
    assert (read.points == cloud_from_message("lidar", 1, cloud()).points).all()


def test_noise_and_black_replace_a_jpeg_by_another():
    before = ros.jpeg(5, "camera", picture())
    (noisy,), _ = run("noise:camera", before)
    (black,), _ = run("black:camera", before)
    shown = simplejpeg.decode_jpeg(noisy.data)
    assert shown.shape == (96, 160, 3)
    assert shown.std() > 50
    assert (simplejpeg.decode_jpeg(black.data) == 0).all()
    assert noisy.header == before.header


def test_noise_differs_between_messages_and_repeats_with_the_seed():
    before = [ros.jpeg(5, "camera", picture()), ros.jpeg(6, "camera", picture())]
    first, _ = run("noise:camera", *before)
    again, _ = run("noise:camera", *before)
    assert first[0].data.tobytes() != first[1].data.tobytes()
    assert [m.data.tobytes() for m in first] == [m.data.tobytes() for m in again]


def test_dirt_sticks_to_the_lens_and_leaves_the_rest_of_the_picture():
    pixels = [picture(0), picture(1)]
    out, _ = run("occlude:camera,share=0.4", *(ros.image(5, "camera", p) for p in pixels))
    shown = [m.data.reshape(96, 160, 3) for m in out]
    covered = [(s != p).any(axis=2) for s, p in zip(shown, pixels, strict=True)]
    assert (covered[0] == covered[1]).all()
    assert 0.4 <= covered[0].mean() < 0.6
    assert (shown[0][covered[0]] < 60).all()
    assert (shown[1][~covered[1]] == pixels[1][~covered[1]]).all()


def test_raw_pictures_of_other_encodings_become_rgb():
    (after,), _ = run("occlude:camera,share=0", ros.image(5, "camera", picture(), "bgr8"))
    assert after.encoding == "rgb8"
    assert (after.data.reshape(96, 160, 3) == picture()[..., ::-1]).all()


def test_a_share_of_one_covers_the_whole_lens():
    assert (dirt((64, 48), 1.0, np.random.default_rng(0)) > 0).all()
    assert not dirt((64, 48), 0.0, np.random.default_rng(0)).any()


@pytest.mark.parametrize("spec", ["sector:camera", "noise:lidar"])
def test_a_fault_that_does_not_fit_a_sensor_leaves_it_as_it_is_and_says_so(spec, caplog):
    before = [ros.jpeg(5, "camera", picture()), cloud()]
    out, proxy = run(spec, *before, *before)
    assert [ros.serialize(m) for m in out] == [ros.serialize(m) for m in before * 2]
    assert proxy.affected == {spec: 0}
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"fault '{spec.split(':')[0]}"
    ]
    assert "leaves a message of" in caplog.text


def test_messages_that_cannot_be_read_pass_as_they_are(caplog):
    proxy = FaultProxy([parse_fault("beams:lidar", SENSORS)], TOPICS)
    without_ring = ros.serialize(ros.cloud(1, "lidar", np.zeros((3, 4))))
    stream = [
        Message(0, "/lidar/points", "sensor_msgs/msg/PointCloud2", b"\x00\x01\x00\x00ab"),
        Message(1, "/lidar/points", "sensor_msgs/msg/PointCloud2", without_ring),
    ]
    assert list(proxy.apply(stream, 0)) == stream
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sector:lidar,deg=361", "deg must be in 0..360, got 361"),
        ("beams:lidar,keep=0", "keep must be in 1..1024"),
        ("points:lidar,p=1.5", "p must be in 0..1"),
        ("occlude:camera,share=-0.1", "share must be in 0..1"),
        ("noise:camera,p=1", "noise has no parameter 'p', expected none"),
    ],
)
def test_numbers_out_of_bounds_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        parse_fault(spec, SENSORS)


def test_a_replay_of_content_faults_runs_and_counts_them(drive_bag, run_replay):
    specs = ["noise:front", "sector:lidar,deg=90", "occlude:left@0.5-1"]
    summary = run_replay(drive_bag, fault_specs=specs)
    assert [fault["messages"] for fault in summary["faults"]] == [20, 20, 5]
    assert summary["sensors"]["front"]["rejected"] == {}
    with Bag(drive_bag) as bag:
        assert bag.topics["/lidar/points"].count == 20
