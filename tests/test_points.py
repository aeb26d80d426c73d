"""Point clouds of every layout become x y z intensity; unusable points and layouts are named."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from data_pack import data_pack
from hypothesis import given, settings
from hypothesis import strategies as st
from ros_messages import STORE, T, header, serialize

from bev_runtime.bags import Bag
from bev_runtime.errors import SampleRejected
from bev_runtime.preprocess import cloud_from_message
from bev_runtime.preprocess.points import DATATYPES, _layout

CODES = {name: code for code, name in DATATYPES.items()}
XYZI = [("x", 0, "f4"), ("y", 4, "f4"), ("z", 8, "f4"), ("intensity", 12, "f4")]


@pytest.fixture(autouse=True)
def _forget_layouts():
    _layout.cache_clear()


def message(
    values: dict[str, np.ndarray],
    layout: list[tuple[str, int, str]],
    point_step: int,
    *,
    height: int = 1,
    row_padding: int = 0,
    big_endian: bool = False,
    change: dict[str, Any] | None = None,
) -> Any:
    """A PointCloud2 as the runtime gets it: `values` by field name, filler 0xA5 in every gap.

    `change` overwrites fields of the message afterwards.
    """
    count = len(next(iter(values.values())))
    width = count // height
    row_step = width * point_step + row_padding
    data = np.full((height, row_step), 0xA5, np.uint8)
    order = ">" if big_endian else "<"
    for name, offset, kind in layout:
        column = np.asarray(values[name]).astype(order + kind).reshape(height, width, 1)
        raw = column.view(np.uint8)
        for row in range(height):
            points = data[row, : width * point_step].reshape(width, point_step)
            points[:, offset : offset + raw.shape[-1]] = raw[row]
    field = T["sensor_msgs/msg/PointField"]
    fields = {
        "header": header(1, "lidar"),
        "height": height,
        "width": width,
        "fields": [field(name, offset, CODES[kind], 1) for name, offset, kind in layout],
        "is_bigendian": big_endian,
        "point_step": point_step,
        "row_step": row_step,
        "data": data.reshape(-1),
        "is_dense": True,
    }
    built = T["sensor_msgs/msg/PointCloud2"](**{**fields, **(change or {})})
    return STORE.deserialize_cdr(memoryview(serialize(built)), built.__msgtype__)


def numbers(count: int = 60) -> dict[str, np.ndarray]:
    """Whole numbers that every datatype of one byte holds."""
    rng = np.random.default_rng(3)
    values = {name: rng.integers(0, 100, count).astype(float) for name in "xyz"}
    return {**values, "intensity": rng.integers(0, 100, count).astype(float)}


def expected(values: dict[str, np.ndarray], intensity: str = "intensity") -> np.ndarray:
    return np.stack([values[name] for name in ("x", "y", "z", intensity)], 1).astype(np.float32)


def read(msg: Any, **options: Any) -> Any:
    return cloud_from_message("lidar", 1, msg, **options)


LAYOUTS = {
    "packed 16": (XYZI, 16),
    "with a ring, 18": ([*XYZI, ("ring", 16, "u2")], 18),
    "with ring and time, 22": ([*XYZI, ("ring", 16, "u2"), ("t", 18, "u4")], 22),
    "PCL, 32": ([*XYZI[:3], ("intensity", 16, "f4"), ("ring", 20, "u2")], 32),
    "in another order": (
        [("intensity", 1, "u1"), ("z", 3, "f4"), ("x", 7, "f4"), ("y", 12, "f4")],
        19,
    ),
    "y and z swapped": ([XYZI[0], ("z", 4, "f4"), ("y", 8, "f4"), XYZI[3]], 16),
}


@pytest.mark.parametrize("row_padding", [0, 5])
@pytest.mark.parametrize("height", [1, 4])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_points(layout, big_endian, height, row_padding):
    fields, point_step = LAYOUTS[layout]
    values = {**numbers(), "ring": np.arange(60) % 32, "t": np.arange(60)}
    order = {"height": height, "row_padding": row_padding, "big_endian": big_endian}
    cloud = read(message(values, fields, point_step, **order))
    assert cloud.points.dtype == np.float32
    assert cloud.points.flags.c_contiguous
    np.testing.assert_array_equal(cloud.points, expected(values))
    assert cloud.removed == {}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("kind", CODES)
def test_every_datatype_is_read(kind, big_endian):
    values = numbers()
    layout = [(name, 9 * i, kind) for i, name in enumerate(values)]
    cloud = read(message(values, layout, 36, big_endian=big_endian))
    np.testing.assert_array_equal(cloud.points, expected(values))


def test_negative_coordinates_survive_in_signed_and_float_datatypes():
    values = {name: -column for name, column in numbers().items()}
    for kind in ("i1", "i2", "i4", "f4", "f8"):
        layout = [(name, 8 * i, kind) for i, name in enumerate(values)]
        np.testing.assert_array_equal(read(message(values, layout, 32)).points, expected(values))


@pytest.mark.parametrize("name", ["i", "intensities", "reflectivity", "reflectance"])
def test_intensity_is_found_under_its_other_names(name):
    values = numbers()
    values[name] = values.pop("intensity")
    layout = [*XYZI[:3], (name, 12, "u2")]
    cloud = read(message(values, layout, 14))
    np.testing.assert_array_equal(cloud.points, expected(values, name))


def test_a_cloud_without_intensity_gets_zero_and_says_so_once(caplog):
    msg = message({k: v for k, v in numbers().items() if k != "intensity"}, XYZI[:3], 12)
    with caplog.at_level(logging.WARNING):
        clouds = [read(msg) for _ in range(3)]
    assert (clouds[0].points[:, 3] == 0).all()
    assert len(caplog.records) == 1
    assert "lidar: cloud has no intensity" in caplog.text


def test_unusable_points_are_removed_and_counted_whatever_is_dense_says():
    values = numbers(10)
    values["x"][:7] = [np.nan, np.inf, -np.inf, 1e30, 301, 1, 2]
    values["y"][6] = np.nan
    values["intensity"][5] = np.nan
    cloud = read(message(values, XYZI, 16))
    assert cloud.removed == {"nonfinite": 5, "out_of_range": 2}
    np.testing.assert_array_equal(cloud.points, expected(values)[7:])


def test_range_is_measured_in_space_and_can_be_set():
    values = {name: np.array([10.0, 9.0]) for name in ("x", "y", "z", "intensity")}
    cloud = read(message(values, XYZI, 16), max_range=16.0)
    np.testing.assert_array_equal(cloud.points, [[9, 9, 9, 9]])
    assert cloud.removed == {"out_of_range": 1}


def test_float64_beyond_float32_is_removed_without_a_warning():
    values = numbers(4)
    values["z"][:2] = [1e300, np.nan]
    layout = [(name, 8 * i, "f8") for i, name in enumerate(values)]
    cloud = read(message(values, layout, 32))
    assert cloud.removed == {"nonfinite": 2}
    kept = {name: column[2:] for name, column in values.items()}
    np.testing.assert_array_equal(cloud.points, expected(kept))


def test_a_cloud_of_nothing_but_nan_is_empty_and_valid():
    values = {name: np.full(6, np.nan) for name in numbers()}
    cloud = read(message(values, XYZI, 16, height=2))
    assert cloud.points.shape == (0, 4)
    assert cloud.removed == {"nonfinite": 6}


@pytest.mark.parametrize("change", [{"width": 0}, {"height": 0}, {"width": 0, "fields": []}])
def test_an_empty_cloud_is_valid(change):
    cloud = read(message(numbers(), XYZI, 16, change={"data": np.empty(0, np.uint8), **change}))
    assert cloud.points.shape == (0, 4)
    assert cloud.removed == {}


@pytest.mark.parametrize("row_padding", [0, 8])
@pytest.mark.parametrize("height", [1, 4, 30])
def test_too_many_points_are_thinned_evenly_and_counted(height, row_padding):
    values = numbers()
    values["x"] = np.arange(60.0)
    msg = message(values, XYZI, 16, height=height, row_padding=row_padding)
    cloud = read(msg, max_points=20)
    assert 15 <= len(cloud.points) <= 20
    assert cloud.removed == {"over_limit": 60 - len(cloud.points)}
    assert cloud.points[0, 0] == 0
    assert cloud.points[-1, 0] >= 54
    if row_padding == 0:
        np.testing.assert_array_equal(cloud.points[:, 0], np.arange(0, 60, 3))


def test_a_repeated_field_is_taken_from_its_first_declaration():
    values = numbers()
    msg = message(values, XYZI, 16)
    msg.fields.append(T["sensor_msgs/msg/PointField"]("x", 4, 7, 1))
    np.testing.assert_array_equal(read(msg).points, expected(values))


def fields_with(index: int, **change: Any) -> list[Any]:
    field = T["sensor_msgs/msg/PointField"]
    fields = [[name, offset, CODES[kind], 1] for name, offset, kind in XYZI]
    for key, value in change.items():
        fields[index][("name", "offset", "datatype", "count").index(key)] = value
    return [field(*values) for values in fields]


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("missing_field", {"fields": []}),
        ("missing_field", {"fields": fields_with(2, name="zz")}),
        ("unsupported_datatype", {"fields": fields_with(0, datatype=0)}),
        ("unsupported_datatype", {"fields": fields_with(3, datatype=9)}),
        ("unsupported_datatype", {"fields": fields_with(1, count=3)}),
        ("bad_point_step", {"point_step": 15}),
        ("bad_point_step", {"point_step": 0}),
        ("bad_point_step", {"fields": fields_with(0, offset=13)}),
        ("bad_point_step", {"fields": fields_with(0, offset=2**32 - 1)}),
        ("bad_row_step", {"row_step": 60 * 16 - 1}),
        ("bad_row_step", {"row_step": 0}),
        ("bad_row_step", {"width": 2**32 - 1, "height": 2**32 - 1}),
        ("short_data", {"height": 2}),
        ("short_data", {"height": 2**32 - 1}),
        ("short_data", {"row_step": 2**32 - 1}),
        ("short_data", {"data": np.zeros(60 * 16 - 1, np.uint8)}),
    ],
)
def test_an_inconsistent_cloud_is_rejected_by_name_and_reason(reason, change):
    with pytest.raises(SampleRejected) as caught:
        read(message(numbers(), XYZI, 16, change=change))
    assert caught.value.reason == reason
    assert str(caught.value).startswith("lidar: ")


@settings(deadline=None, max_examples=400)
@given(
    size=st.tuples(st.integers(0, 20), st.integers(0, 6)),
    point_step=st.integers(0, 40),
    row_padding=st.integers(-2, 9),
    data=st.binary(min_size=1, max_size=200),
    data_padding=st.integers(-3, 20),
    offsets=st.lists(st.integers(0, 16), min_size=4, max_size=4),
    kinds=st.lists(st.integers(1, 9), min_size=4, max_size=4),
    big_endian=st.booleans(),
)
def test_any_header_and_any_bytes_give_finite_points_or_a_rejection(
    size, point_step, row_padding, data, data_padding, offsets, kinds, big_endian
):
    field = T["sensor_msgs/msg/PointField"]
    names = ("x", "y", "z", "intensity")
    width, height = size
    row_step = max(width * point_step + row_padding, 0)
    change = {
        "fields": [field(*f, 1) for f in zip(names, offsets, kinds, strict=True)],
        "width": width,
        "height": height,
        "point_step": point_step,
        "row_step": row_step,
        "is_bigendian": big_endian,
        "data": np.resize(np.frombuffer(data, np.uint8), max(row_step * height + data_padding, 0)),
    }
    try:
        cloud = read(message(numbers(), XYZI, 16, change=change), max_points=100)
    except SampleRejected:
        return
    assert np.isfinite(cloud.points).all()
    assert len(cloud.points) + sum(cloud.removed.values()) == width * height
    assert len(cloud.points) <= 100


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "point_step"),
    [
        ("nuscenes_scene0061", 18),
        ("nuscenes_bevdet_sample0", 32),
        ("av2_7fab2350", 22),
        ("kitti_object", 16),
    ],
)
def test_real_clouds_equal_a_field_by_field_reading(name, point_step):
    count = 0
    with Bag(data_pack() / "bags" / name) as bag:
        for recorded in bag.messages():
            if recorded.msgtype != "sensor_msgs/msg/PointCloud2":
                continue
            msg = bag.decode(recorded)
            assert msg.point_step == point_step
            rows = np.asarray(msg.data).reshape(-1, point_step)
            offsets = {f.name: f.offset for f in msg.fields}
            columns = [
                np.ascontiguousarray(rows[:, offsets[f] : offsets[f] + 4]).view("<f4")[:, 0]
                for f in ("x", "y", "z", "intensity")
            ]
            cloud = read(msg)
            assert len(cloud.points) == msg.width > 10_000
            np.testing.assert_array_equal(cloud.points, np.stack(columns, 1))
            assert not np.shares_memory(cloud.points, msg.data)
            count += 1
    assert count
