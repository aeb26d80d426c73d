"""A model of a volume that is fixed to a camera: served, moved to base_link, with and without
radar.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from family_serving import Served, pinhole
from onnx import TensorProto, helper, numpy_helper

from bev_runtime.errors import ModelError
from bev_runtime.geometry import rigid, rotation_from_euler
from bev_runtime.manifest import FORMAT, Manifest
from bev_runtime.manifest_views import Axis, Voxels
from bev_runtime.radar import RadarVolume
from bev_runtime.types import BevGrid, CameraModel, Mode
from bev_runtime.volume_plane import VolumePlane

SIZE = (64, 32)
FORWARD, DOWN, RIGHT = 20, 4, 24
OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
RANKS = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")
VIEW = {
    "kind": "voxels",
    "reference_camera": "front",
    "feature_width": SIZE[0] + 2,
    "feature_height": SIZE[1] + 2,
    "feature_pixels": {"scale": [1.0, 1.0], "offset": [1.0, 1.0]},
    "forward": {"low": -10.0, "high": 10.0, "cells": FORWARD},
    "right": {"low": -12.0, "high": 12.0, "cells": RIGHT},
    "down": {"low": -2.0, "high": 2.0, "cells": DOWN},
}
RADAR = {"kind": "voxels", "tensor": "radar", "channels": ["rcs", "speed"]}
GRID = {"x_min": -10.0, "x_max": 10.0, "y_min": -12.0, "y_max": 12.0, "cell": 1.0}


def describe(*, has_radar: bool) -> dict[str, Any]:
    voxels = {"name": "voxels", "dtype": "float32", "shape": [1, FORWARD, RIGHT * DOWN, 3]}
    radar = {"name": "radar", "dtype": "float32", "shape": [1, 2, FORWARD, DOWN, RIGHT]}
    table = [
        {"name": n, "dtype": "int32", "shape": ["M" if n.startswith("interval") else "K"]}
        for n in RANKS
    ]
    images = {"name": "images", "dtype": "float32", "shape": ["N", 3, SIZE[1], SIZE[0]]}
    depth = {"name": "depth", "dtype": "float32", "shape": [1, 1, 1, "K"]}
    plane = {"name": "plane", "dtype": "float32", "shape": [1, 3, FORWARD, RIGHT]}
    zero = "0" * 64
    return {
        "format": FORMAT,
        "name": "voxels",
        "version": "1",
        "family": "test",
        "licence": "Apache-2.0",
        "trained_on": "nothing",
        "cameras": {
            "names": "any",
            "max": 3,
            "image": {"width": SIZE[0], "height": SIZE[1], "fit": "stretch", "std": [255.0] * 3},
        },
        "grid": GRID,
        "view_transform": VIEW,
        **({"radar": RADAR} if has_radar else {}),
        "stages": [
            {
                "name": "camera_branch",
                "file": "camera_branch.onnx",
                "sha256": zero,
                "inputs": [images, depth, *table],
                "outputs": [voxels],
                "independent_cameras": True,
            },
            {
                "name": "head",
                "file": "head.onnx",
                "sha256": zero,
                "inputs": [voxels, radar] if has_radar else [voxels],
                "outputs": [plane],
            },
        ],
        "dimensions": {"N": 3, "K": 4 * FORWARD * DOWN * RIGHT * 3, "M": FORWARD * DOWN * RIGHT},
        "map": {
            "tensor": "plane",
            "layers": ["red", "green", "blue"],
            "layout": "nchw",
            "thresholds": [0.5] * 3,
        },
    }


def graphs(*, has_radar: bool) -> dict[str, bytes]:
    """Pictures become voxels as they are; the head takes the mean over the heights, and adds the
    first radar channel's to red.
    """

    def value(tensor: dict[str, Any]) -> Any:
        kind = TensorProto.FLOAT if tensor["dtype"] == "float32" else TensorProto.INT32
        return helper.make_tensor_value_info(tensor["name"], kind, tensor["shape"])

    constants = {
        "border": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "shape": np.array([1, FORWARD, RIGHT, DOWN, 3], np.int64),
        "first": np.array([0], np.int64),
        "red": np.array([1, 0, 0], np.float32).reshape(1, 3, 1, 1),
    }
    branch = [
        helper.make_node("Pad", ["images", "border"], ["padded"]),
        helper.make_node("Transpose", ["padded"], ["feat"], perm=[0, 2, 3, 1]),
        helper.make_node(
            "BevPool",
            ["depth", "feat", *RANKS],
            ["voxels"],
            domain="bev_runtime",
            out_height=FORWARD,
            out_width=RIGHT * DOWN,
        ),
    ]
    mean = "mean" if has_radar else "plane"
    head = [
        helper.make_node("Reshape", ["voxels", "shape"], ["volume"]),
        helper.make_node("ReduceMean", ["volume"], ["level"], axes=[3], keepdims=0),
        helper.make_node("Transpose", ["level"], [mean], perm=[0, 3, 1, 2]),
    ]
    if has_radar:
        head += [
            helper.make_node("Gather", ["radar", "first"], ["rcs"], axis=1),
            helper.make_node("ReduceMax", ["rcs"], ["strongest"], axes=[3], keepdims=0),
            helper.make_node("Mul", ["strongest", "red"], ["painted"]),
            helper.make_node("Add", ["mean", "painted"], ["plane"]),
        ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bev_runtime", 1)]
    made = {}
    for stage in describe(has_radar=has_radar)["stages"]:
        nodes = branch if stage["name"] == "camera_branch" else head
        read = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            stage["name"],
            [value(tensor) for tensor in stage["inputs"]],
            [value(tensor) for tensor in stage["outputs"]],
            [numpy_helper.from_array(a, n) for n, a in constants.items() if n in read],
        )
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        made[stage["name"]] = model.SerializeToString()
    return made


def write(folder: Path, *, has_radar: bool = False) -> Path:
    folder.mkdir()
    manifest = describe(has_radar=has_radar)
    for stage in manifest["stages"]:
        data = graphs(has_radar=has_radar)[stage["name"]]
        stage["sha256"] = hashlib.sha256(data).hexdigest()
        (folder / stage["file"]).write_bytes(data)
    text = yaml.safe_dump(json.loads(json.dumps(manifest)))
    (folder / "manifest.yaml").write_text(text)
    return folder


def cameras(front_pose: np.ndarray) -> dict[str, CameraModel]:
    """One camera ahead, one to the left that overlaps it, both fixed to the first one's pose."""
    k = np.array([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
    to_left = rigid(OPTICAL.T @ rotation_from_euler(0, 0, 1.0) @ OPTICAL, [-0.3, 0.1, 0])
    return {"front": pinhole(k, SIZE, front_pose), "left": pinhole(k, SIZE, front_pose @ to_left)}


ALIGNED = rigid(OPTICAL, [0.0, 0, 0])


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("voxels") / "model")


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {n: rng.integers(1, 256, (3, SIZE[1], SIZE[0]), np.uint8) for n in ("front", "left")}


def test_a_grid_on_the_volumes_cells_copies_them(package, pictures):
    serving = Served(package, ["front", "left"])
    output = serving.step(pictures, cameras(ALIGNED))
    plane = serving.backend.tensors["plane"][0]
    assert output.mode is Mode.FULL
    seen = output.map.observed
    assert 0.2 < seen.mean() < 0.6
    assert np.array_equal(seen, (plane != 0).any(axis=0)[:, ::-1])
    assert np.array_equal(output.map.scores[:, seen], plane[:, :, ::-1][:, seen])


def test_a_tilted_camera_tilts_the_volume_and_not_the_map(package, pictures):
    """The volume hangs on the camera: its tensors do not change, the map turns with base_link."""
    serving = Served(package, ["front", "left"])
    level = serving.step(pictures, cameras(ALIGNED)).map.copy()
    tensor = serving.backend.tensors["plane"]
    quarter = rigid(rotation_from_euler(0, 0, np.pi / 2), [0.0, 0, 0])
    turned = serving.step(pictures, cameras(quarter @ ALIGNED)).map
    assert np.allclose(serving.backend.tensors["plane"], tensor, atol=1e-4)
    # What was at (x, y) is now at (-y, x); the volume is wider than long.
    expected = np.rot90(level.scores, 1, axes=(1, 2))[:, 2:-2, :]
    seen = np.rot90(level.observed)[2:-2]
    inside = np.zeros(level.observed.shape, np.bool_)
    inside[:, 2:-2] = seen[:, :]
    assert np.array_equal(turned.observed, inside)
    assert np.allclose(turned.scores[:, :, 2:-2][:, seen], expected[:, seen], atol=1e-4)


def test_without_the_reference_cameras_images_the_volume_stays(package, pictures):
    serving = Served(package, ["front", "left"])
    rig = cameras(ALIGNED)
    serving.step(pictures, rig)
    both = serving.backend.tensors["plane"]
    left = {"left": pictures["left"]}
    output = serving.step(left, rig, missing={"front": "lost"})
    assert output.mode is Mode.DEGRADED
    alone = serving.backend.tensors["plane"]
    assert (alone != both).any()
    assert np.array_equal(output.map.observed, (alone != 0).any(axis=(0, 1))[:, ::-1])


def test_without_the_reference_cameras_pose_the_output_is_blind_and_says_so(package, pictures):
    serving = Served(package, ["front", "left"])
    rig = cameras(ALIGNED)
    del rig["front"]
    output = serving.step({"left": pictures["left"]}, rig, missing={"front": "no calibration"})
    assert output.mode is Mode.BLIND
    assert output.map is None
    assert "no_pose_of_front" in output.reason


def test_radar_paints_one_output_and_is_not_kept(tmp_path, pictures):
    serving = Served(write(tmp_path / "radar", has_radar=True), ["front", "left"])
    without = serving.step(pictures, cameras(ALIGNED)).map.copy()
    radar = RadarVolume(serving.pipeline.manifest)
    point = np.array([[4.2, 0.9, 0.0]], np.float32)
    radar.fill(point, np.array([[0.5, 9.0]], np.float32), ALIGNED)
    serving.pipeline.head_inputs.offer(radar.tensor)
    with_radar = serving.step(pictures, cameras(ALIGNED)).map.copy()
    changed = np.argwhere(with_radar.scores != without.scores)
    assert changed.tolist() == [[0, 14, 12]]
    again = serving.step(pictures, cameras(ALIGNED)).map
    assert np.array_equal(again.scores, without.scores)


def test_radar_points_follow_the_published_rules():
    radar = RadarVolume(Manifest.model_validate_json(json.dumps(describe(has_radar=True))))
    optical = np.array(
        [
            [0.5, 0.0, 1.0],  # half way between voxels: the even one
            [0.02, 0.02, 0.02],  # nearer to the camera than a tenth of a voxel
            [-11.9, -1.9, -9.9],  # the first voxel
            [12.01, 0.0, 0.0],  # beyond the edge
            [3.2, 0.2, 7.6],
            [3.3, 0.3, 7.7],  # the same voxel again: the last one counts
            [np.nan, 0.0, 0.0],
        ]
    )
    features = np.arange(1, 15, dtype=np.float32).reshape(7, 2)
    made = radar.fill((optical @ OPTICAL.T).astype(np.float32), features, ALIGNED)
    assert np.argwhere(made[0, 0]).tolist() == [[10, 2, 12], [17, 2, 15]]
    assert made[0, :, 10, 2, 12].tolist() == [1, 2]
    assert made[0, :, 17, 2, 15].tolist() == [11, 12]
    with pytest.raises(ValueError, match=r"expected \[N, 3\] and \[N, 2\]"):
        radar.fill(np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), ALIGNED)


def test_models_without_radar_refuse_one(package):
    serving = Served(package, ["front", "left"])
    with pytest.raises(ModelError, match="takes no radar"):
        RadarVolume(serving.pipeline.manifest)
    with pytest.raises(ValueError, match="expected no radar"):
        serving.pipeline.head_inputs.offer(np.zeros((1, 2, 2, 2, 2), np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radar": {**RADAR, "tensor": "other"}}, "radar.tensor is 'other'"),
        ({"radar": {**RADAR, "channels": ["rcs"]}}, "float32 \\[1, 1, 20, 4, 24\\]"),
        ({"radar": None}, "the head reads \\['radar'\\]"),
        ({"view_transform": {**VIEW, "feature_width": 2}}, "3 or more"),
        (
            {"view_transform": {**VIEW, "right": {"low": 3.0, "high": 3.0, "cells": 4}}},
            "low < high",
        ),
        ({"view_transform": {**VIEW, "down": {"low": 0.0, "high": 9.0, "cells": 400}}}, "4096"),
    ],
)
def test_manifests_that_do_not_fit_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        Manifest.model_validate_json(json.dumps({**describe(has_radar=True), **change}))


def test_between_the_volumes_cells_the_map_is_a_bilinear_mean():
    axes = {key: Axis(**VIEW[key]) for key in ("forward", "right", "down")}
    spec = Voxels(
        kind="voxels", reference_camera="front", feature_width=4, feature_height=4, **axes
    )
    plane = VolumePlane(spec, BevGrid(**GRID))
    plane.place(rigid(OPTICAL, [0.25, 0.0, 1.5]))
    rows = np.arange(FORWARD, dtype=np.float32)[:, None].repeat(RIGHT, axis=1)
    out = np.zeros((1, 20, 24), np.float32)
    plane.sample(rows[None], out)
    assert np.allclose(out[0, 1:, 0], np.arange(1, 20) - 0.25)
    assert out[0, 0].tolist() == [0.0] * 24  # within half a cell of the edge
    assert plane.inside[0].all()
    plane.place(rigid(OPTICAL, [0.75, 0.0, 1.5]))
    plane.sample(rows[None] + 1, out)
    assert not plane.inside[0].any()
    assert not out[0, 0].any()
