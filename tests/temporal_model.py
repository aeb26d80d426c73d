"""A temporal model package that runs in microseconds, and a vehicle to run it on.

The features are the image laid on the ground; the map is their mean over three moments, plus the
speed; a cell is an object where the present is bright.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from ros_messages import camera_pose
from tiny_model import CELLS, SIZE, write_tiny_model

from bev_runtime.backends.onnxruntime import OnnxRuntimeBackend
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.camera import make_camera, make_distortion
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.model import load_model
from bev_runtime.pipeline import Pipeline
from bev_runtime.rig import CameraConfig, Rig
from bev_runtime.transforms import TransformTree
from bev_runtime.types import BevOutput, Calibration, CameraFrame, Snapshot

FRAMES, INTERVAL_S = 3, 0.5
TIMES_S = (-0.5, 0.0, 0.5)
HALF = 500_000_000
YAWS = {"front": 0.0, "left": 90.0, "back": 180.0}
PLANE = [1, CELLS, CELLS, 3]
PAST = [1, FRAMES - 1, CELLS, CELLS, 3]
RAW = [1, len(TIMES_S), 2, CELLS, CELLS]


def write_temporal_model(folder: Path, **change: object) -> Path:
    """Writes the package; `change` replaces keys of the section `temporal`."""
    write_tiny_model(folder)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    (branch,) = manifest["stages"]
    branch["outputs"] = [{"name": "bev_map", "dtype": "float32", "shape": PLANE}]
    inputs = {"bev_map": PLANE, "past": PAST, "ego_motion": [1, FRAMES, 6]}
    outputs = {"mean": PLANE, "segmentation": RAW, "flow": RAW}
    data = _head().SerializeToString()
    (folder / "head.onnx").write_bytes(data)
    manifest["stages"].append(
        {
            "name": "head",
            "file": "head.onnx",
            "sha256": hashlib.sha256(data).hexdigest(),
            "inputs": [{"name": n, "dtype": "float32", "shape": s} for n, s in inputs.items()],
            "outputs": [{"name": n, "dtype": "float32", "shape": s} for n, s in outputs.items()],
        }
    )
    manifest["map"]["tensor"] = "mean"
    manifest["temporal"] = {
        "frames": FRAMES,
        "interval_s": INTERVAL_S,
        "tolerance_s": 0.125,
        "features": "bev_map",
        "past": "past",
        "ego_motion": "ego_motion",
        "warp": "fiery",
        **change,
    }
    manifest["instances"] = {
        "kind": "backward_flow",
        "segmentation": "segmentation",
        "flow": "flow",
        "times_s": list(TIMES_S),
        "centre_threshold": 0.1,
        "nms_cells": 7,
        "max_instances": 100,
    }
    plain = json.loads(json.dumps(manifest))  # without shared objects there are no aliases
    (folder / "manifest.yaml").write_text(yaml.safe_dump(plain))
    return folder


def _head() -> Any:
    weights = {
        "third": np.float32(1 / 3),
        "centi": np.float32(0.01),
        "bright": np.float32(0.6),
        "steep": np.float32(40),
        "zero": np.float32(0),
        "one_axis": np.array([1], np.int64),
        "all_axes": np.array([0, 1, 2], np.int64),
        "red": np.array([0], np.int64),
        "as_plane": np.array([1, 1, 1, CELLS, CELLS], np.int64),
        "as_raw": np.array(RAW, np.int64),
    }
    nodes = [
        helper.make_node("ReduceSum", ["past", "one_axis"], ["before"], keepdims=0),
        helper.make_node("Add", ["before", "bev_map"], ["total"]),
        helper.make_node("Mul", ["total", "third"], ["plain"]),
        helper.make_node("ReduceSum", ["ego_motion", "all_axes"], ["way"], keepdims=0),
        helper.make_node("Mul", ["way", "centi"], ["speed"]),
        helper.make_node("Add", ["plain", "speed"], ["mean"]),
        helper.make_node("Gather", ["bev_map", "red"], ["channel"], axis=3),
        helper.make_node("Reshape", ["channel", "as_plane"], ["plane"]),
        helper.make_node("Sub", ["plane", "bright"], ["above"]),
        helper.make_node("Mul", ["above", "steep"], ["object"]),
        helper.make_node("Mul", ["object", "zero"], ["nothing"]),
        helper.make_node("Concat", ["nothing", "object"], ["both"], axis=2),
        helper.make_node("Expand", ["both", "as_raw"], ["segmentation"]),
        helper.make_node("Expand", ["nothing", "as_raw"], ["flow"]),
    ]
    shapes = {"bev_map": PLANE, "past": PAST, "ego_motion": [1, FRAMES, 6]}
    results = {"mean": PLANE, "segmentation": RAW, "flow": RAW}
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in results.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class RecordingBackend(OnnxRuntimeBackend):
    """Notes what each call ran, and copies what it read and made."""

    def infer(
        self,
        stages: Sequence[str],
        inputs: Mapping[str, NDArray[Any]],
        table: BevPoolTable | None = None,
    ) -> Mapping[str, NDArray[Any]]:
        made = super().infer(stages, inputs, table)
        self.ran = (*getattr(self, "ran", ()), *stages)
        self.read = {name: array.copy() for name, array in inputs.items()}
        self.made = {name: array.copy() for name, array in made.items()}
        return made


def pose_at(seconds: float) -> NDArray[np.float64]:
    """odom from base_link: faster and faster into a narrowing curve, far from the origin, a bit
    tilted.
    """
    way, bearing = 8 * seconds + 0.8 * seconds**2, 0.3 + 0.02 * seconds
    turn = rotation_from_euler(0.002 * seconds, 0.004, 0.3 + 0.05 * seconds + 0.06 * seconds**2)
    position = [5000 + way * np.cos(bearing), way * np.sin(bearing) - 300, 0.02 * seconds]
    return rigid(turn, position)


class Vehicle:
    """A pipeline of a temporal model with three cameras, and poses every 20 ms.

    Args:
        package: the model.
        until_s: poses exist from -1 s to then; None for no poses at all.
        pose: odom from base_link by time.
    """

    def __init__(self, package: Path, *, until_s: float | None = 8.0, pose: Any = pose_at) -> None:
        rig = Rig(cameras={name: CameraConfig(topic=f"/{name}") for name in YAWS})
        model = load_model(package)
        self.backend = RecordingBackend(model, num_threads=1)
        self.pipeline = Pipeline(model.manifest, self.backend, rig)
        k = [60.0, 0, SIZE[0] / 2 - 0.5, 0, 60.0, SIZE[1] / 2 - 0.5, 0, 0, 1]
        lens = make_distortion("none", [])
        cameras = {n: make_camera(k, lens, SIZE, camera_pose(yaw)) for n, yaw in YAWS.items()}
        self.calibration = Calibration(cameras, None, 1)
        self.transforms = TransformTree()
        self.pose = pose
        for tick in range(-50, 0 if until_s is None else round(until_s * 50) + 1):
            if until_s is not None:
                stamp = HALF * 4 + tick * 20_000_000
                self.transforms.add_dynamic("odom", "base_link", stamp, pose(tick / 50))

    def step(
        self, seconds: float, *, seed: int | None = None, live: Any = tuple(YAWS)
    ) -> BevOutput:
        """The output at a time, from random pictures that depend on `seed`, or on the time."""
        stamp = HALF * 4 + round(seconds * 1e9)
        rng = np.random.default_rng(round(seconds * 1e3) + 9999 if seed is None else seed)
        pictures = {n: rng.integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8) for n in YAWS}
        frames = {n: CameraFrame.from_rgb(n, stamp, pictures[n]) for n in live}
        return self.pipeline.step(
            Snapshot(stamp, frames, None),
            missing={n: "lost" for n in YAWS if n not in live},
            calibration=self.calibration,
            transforms=self.transforms,
        )
