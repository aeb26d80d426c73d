"""Everything runs once before the first sample comes, and leaves no trace in the outputs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ros_messages import drive, serialize
from rosbags.typesys import Stores, get_typestore
from temporal_model import Vehicle, write_temporal_model

from bev_runtime.backends import create_backend
from bev_runtime.errors import BackendError
from bev_runtime.fusion import stages_by_sensors
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import CameraConfig, LidarConfig, Rig
from bev_runtime.types import Mode
from bev_runtime.warm_up import input_types, learn_types, warm_up

NAMES = ("front", "left", "back")
RIG = Rig(
    cameras={name: CameraConfig(topic=f"/{name}") for name in NAMES},
    lidar=LidarConfig(name="lidar", topic="/lidar/points"),
)


def steps_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list that will hold every output of every pipeline."""
    outputs: list[Any] = []
    step = Pipeline.step

    def noted(self: Pipeline, *args: Any, **named: Any) -> Any:
        outputs.append(step(self, *args, **named))
        return outputs[-1]

    monkeypatch.setattr(Pipeline, "step", noted)
    return outputs


def test_every_set_of_stages_that_can_occur_ran_and_its_stages_are_told(
    fusion_model, monkeypatch, cpu_backend
):
    model = load_model(fusion_model)
    backend = create_backend(cpu_backend, model, num_threads=1)
    ran: list[tuple[str, ...]] = []
    infer = backend.infer

    def noted(stages: Any, *rest: Any) -> Any:
        ran.append(tuple(stages))
        return infer(stages, *rest)

    monkeypatch.setattr(backend, "infer", noted)
    outputs = steps_of(monkeypatch)
    told = warm_up(model.manifest, backend, RIG)
    possible = {
        stages for sensors, stages in stages_by_sensors(model.manifest).items() if any(sensors)
    }
    assert set(ran) == possible
    assert not any(output.mode is Mode.BLIND or output.rejected for output in outputs)
    assert told == frozenset().union(*(output.timings_ms for output in outputs))
    assert {"camera_branch.encoder", "lidar_branch", "head", "pillars", "total"} <= told


def test_a_slow_network_makes_one_step(fusion_model, monkeypatch):
    model = load_model(fusion_model)
    outputs = steps_of(monkeypatch)
    monkeypatch.setattr("bev_runtime.warm_up.SLOW_MS", 0.0)
    warm_up(model.manifest, create_backend("onnxruntime", model, num_threads=1), RIG)
    assert len(outputs) == 1


@pytest.mark.parametrize("name", ["twinlite_ground_map", "metabev_tiny", "metabev_tiny_int8"])
def test_shipped_models_warm_up_without_a_complaint(name, monkeypatch, caplog, cpu_backend):
    model = load_model(name)
    outputs = steps_of(monkeypatch)
    with caplog.at_level(logging.WARNING):
        warm_up(model.manifest, create_backend(cpu_backend, model, num_threads=1), RIG)
    assert not caplog.records
    assert len(outputs) >= 2
    assert not any(output.rejected for output in outputs)


def test_what_follows_a_warm_up_is_the_same_to_the_bit(tmp_path: Path):
    package = write_temporal_model(tmp_path / "temporal")
    cold, warm = Vehicle(package), Vehicle(package)
    rig = Rig(cameras={name: CameraConfig(topic=f"/{name}") for name in warm.pipeline.cameras})
    assert "memory" in warm_up(warm.pipeline.manifest, warm.backend, rig)
    for seconds in (0.0, 0.5, 1.0, 1.5):
        first, second = cold.step(seconds), warm.step(seconds)
        assert first.reason == second.reason
        assert first.history == second.history
        assert first.map is not None
        assert second.map is not None
        np.testing.assert_array_equal(first.map.scores, second.map.scores)


def test_no_message_of_a_rig_has_to_wait_for_its_decoder():
    store = get_typestore(Stores.ROS2_HUMBLE)
    learn_types(store, (*input_types(RIG), "a_package/msg/ThatNobodyKnows"))
    known = set(store.cache)
    for _, _, message in drive(frames=1):
        store.deserialize_cdr(serialize(message), message.__msgtype__)
    assert set(store.cache) == known
    assert "sensor_msgs/msg/PointCloud2" in known


@pytest.mark.parametrize("kind", [BackendError, ValueError])
def test_a_network_that_fails_on_black_images_is_told_and_stops_nothing(
    tiny_model, monkeypatch, caplog, kind
):
    model = load_model(tiny_model)
    backend = create_backend("onnxruntime", model, num_threads=1)

    def broken(*_: Any) -> Any:
        raise kind("the engine is out of memory")

    monkeypatch.setattr(backend, "infer", broken)
    with caplog.at_level(logging.WARNING):
        assert warm_up(model.manifest, backend, RIG) == frozenset()
    assert len(caplog.records) == 1
    assert "out of memory" in caplog.text


def test_cameras_that_the_rig_lacks_are_not_warmed_up_and_nothing_fails(tiny_model, monkeypatch):
    model = load_model(tiny_model)
    outputs = steps_of(monkeypatch)
    backend = create_backend("onnxruntime", model, num_threads=1)
    only_lidar = Rig(lidar=LidarConfig(name="lidar", topic="/lidar/points"))
    assert warm_up(model.manifest, backend, only_lidar) == frozenset()
    assert not outputs
