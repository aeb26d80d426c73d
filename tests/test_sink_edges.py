"""What sinks do with unknown velocities, failed writes and a folder that was used before."""

from __future__ import annotations

import dataclasses
import json
from contextlib import closing

import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from test_sinks import BOXES, GRID, NODE, STAMP, TYPES, calibration, output, read, record, snapshot

from bev_runtime.sinks import open_sinks
from bev_runtime.sinks.detections import DetectionsSink
from bev_runtime.sinks.mcap import McapSink
from bev_runtime.types import BevMap


def test_only_what_moves_has_an_arrow_that_ends_where_it_is_in_one_second(tmp_path):
    still, unknown = BOXES.boxes.copy(), BOXES.boxes.copy()
    still[:, 7:], unknown[:, 7:] = 0.0, np.nan
    found = [BOXES, *(dataclasses.replace(BOXES, boxes=each) for each in (still, unknown))]
    calls = ((output(detections=each), snapshot(), calibration()) for each in found)
    path = record(tmp_path / "out.mcap", *calls)
    arrows = [
        [marker for marker in message.markers if marker.ns == "velocity"]
        for message in read(path, f"{NODE}/markers")
    ]
    assert [len(each) for each in arrows] == [1, 0, 0]
    start, tip = arrows[0][0].points
    assert arrows[0][0].type == 0
    np.testing.assert_allclose([[start.x, start.y], [tip.x, tip.y]], [[12, 3], [15, 2]])


def test_an_unknown_velocity_is_null_in_the_line(tmp_path):
    boxes = BOXES.boxes.copy()
    boxes[0, 7:] = np.nan
    with closing(DetectionsSink(tmp_path / "d.jsonl")) as sink:
        sink.write(
            output(detections=dataclasses.replace(BOXES, boxes=boxes)), snapshot(), calibration()
        )
    first, second = json.loads((tmp_path / "d.jsonl").read_text())["boxes"]
    assert (first["vx"], first["vy"], first["x"], second["vx"]) == (None, None, 12.0, 0.0)


def test_a_file_whose_write_failed_midway_is_closed_and_read(tmp_path):
    sink = McapSink(tmp_path / "out.mcap")
    sink.write(output(), snapshot(), calibration())
    with pytest.raises(IndexError):
        sink.write(
            output(
                map=BevMap(
                    GRID,
                    ("a", "b", "c"),
                    np.zeros((1, *GRID.shape), "f4"),
                    np.ones(GRID.shape, bool),
                )
            ),
            snapshot(),
            calibration(),
        )
    sink.close()
    sink.close()
    with AnyReader([tmp_path / "out.mcap"]) as reader:
        assert {c.topic for c in reader.connections} >= TYPES.keys()
        (tf,) = (c for c in reader.connections if c.topic == "/tf_static")
        assert tf.ext.offered_qos_profiles[0].durability.name == "TRANSIENT_LOCAL"
        assert len(list(reader.messages())) >= len(TYPES)


def test_a_second_run_into_the_same_folder_leaves_nothing_of_the_first(tmp_path):
    for stamp in (STAMP, STAMP + 1):
        for sink in open_sinks(tmp_path, 1):
            with closing(sink):
                sink.write(output(stamp=stamp), snapshot(), calibration())
        (tmp_path / "maps/notes.npz").touch()
    assert {p.name for p in (tmp_path / "maps").iterdir()} == {f"{STAMP + 1}.npz", "notes.npz"}
    assert [p.stem for p in (tmp_path / "frames").iterdir()] == [str(STAMP + 1)]
