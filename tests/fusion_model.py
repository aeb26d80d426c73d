"""A small fusion model: random weights, a masked head, and outputs that can be checked by hand.

Map layers: the camera mask, the LiDAR mask, and two mixtures of the masked features around a cell.
`sight`, which the manifest does not use by default, is the first mixture's logit.
Detections: `dense` where a cell holds many points, `dark` where the pooled pictures are dark, and
`ghost` wherever nothing looks, as a network may say that was never taught otherwise.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

CELLS, CELL, HALF = 80, 0.5, 20.0
PILLAR = 0.25
SLICES = 8
SIZE = (96, 54)
STRIDE, BINS, CHANNELS = 6, 24, 4
FEATURE = (SIZE[0] // STRIDE, SIZE[1] // STRIDE)
MAX_CAMERAS = 6
RANKS = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")
CLASSES = ("dense", "dark", "ghost")
LAYERS = ("camera_mask", "lidar_mask", "mix", "more_mix")
BEV = [1, CHANNELS, CELLS, CELLS]
MASK = [1, 1, CELLS, CELLS]
BOX = (3.0, 2.0, 1.5)
"""Length, width and height of every box."""


def _spec(name: str, shape: list[Any], dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


def _wrap(
    name: str,
    nodes: list[onnx.NodeProto],
    tensors: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    weights: dict[str, np.ndarray],
) -> onnx.ModelProto:
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    inputs, outputs = (
        [helper.make_tensor_value_info(t["name"], kinds[t["dtype"]], t["shape"]) for t in side]
        for side in tensors
    )
    graph = helper.make_graph(
        nodes,
        name,
        inputs,
        outputs,
        [numpy_helper.from_array(np.ascontiguousarray(w, w.dtype), n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bev_runtime", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def camera_branch(rng: np.random.Generator) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Images and ground geometry to depth and features, lifted."""
    node = helper.make_node
    nodes = [
        node("AveragePool", ["images"], ["small"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2),
        node("Concat", ["small", "geometry"], ["pixels"], axis=1),
        node("Conv", ["pixels", "wd"], ["logits"]),
        node("Softmax", ["logits"], ["depth"], axis=1),
        node("Conv", ["pixels", "wf"], ["feat_nchw"]),
        node("Transpose", ["feat_nchw"], ["feat"], perm=[0, 2, 3, 1]),
        node("BevPool", ["depth", "feat", *RANKS], ["pooled"], domain="bev_runtime",
             out_height=CELLS, out_width=CELLS),
        node("Transpose", ["pooled"], ["camera_bev"], perm=[0, 3, 1, 2]),
    ]  # fmt: skip
    weights = {
        "wd": rng.normal(0, 2, (BINS, 7, 1, 1)).astype(np.float32),
        "wf": rng.normal(0, 1, (CHANNELS, 7, 1, 1)).astype(np.float32),
    }
    inputs = [_spec("images", ["N", 3, SIZE[1], SIZE[0]])]
    inputs += [_spec("geometry", ["N", 4, FEATURE[1], FEATURE[0]])]
    inputs += [_spec(n, ["M" if n.startswith("interval") else "K"], "int32") for n in RANKS]
    outputs = [_spec("camera_bev", BEV)]
    stage = {"name": "camera_branch", "inputs": inputs, "outputs": outputs}
    return _wrap("camera", nodes, (inputs, outputs), weights), stage | {"independent_cameras": True}


def lidar_branch(rng: np.random.Generator) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Pillars to features; channel 0 is the mean of log(1 + points) / 4 over a cell."""
    weight = rng.normal(0, 1, (CHANNELS, 8 + SLICES, 2, 2)).astype(np.float32)
    weight[0], weight[0, 0] = 0, 0.25
    nodes = [helper.make_node("Conv", ["pillars", "w"], ["lidar_bev"], strides=[2, 2])]
    inputs = [_spec("pillars", [1, 8 + SLICES, 2 * CELLS, 2 * CELLS])]
    outputs = [_spec("lidar_bev", BEV)]
    stage = {"name": "lidar_branch", "inputs": inputs, "outputs": outputs}
    return _wrap("lidar", nodes, (inputs, outputs), {"w": weight}), stage


def head(rng: np.random.Generator) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Masks what is absent, and mixes what is left."""
    node, nodes = helper.make_node, []
    for kind in ("camera", "lidar"):
        nodes += [
            node("Greater", [f"{kind}_mask", "half"], [f"{kind}_on"]),
            node("Where", [f"{kind}_on", f"{kind}_bev", "zero"], [f"{kind}_kept"]),
        ]
    nodes += [
        node("Concat", ["camera_kept", "lidar_kept"], ["both"], axis=1),
        node("Conv", ["both", "wm"], ["mixed"], pads=[1] * 4),
        node("Sigmoid", ["mixed"], ["mix"]),
        node("Concat", ["camera_mask", "lidar_mask", "mix"], ["map"], axis=1),
        node("Concat", ["both", "camera_mask", "lidar_mask"], ["all"], axis=1),
        node("Conv", ["all", "wh", "bh"], ["heatmap"]),
        node("Conv", ["both", "wb", "bb"], ["boxes"]),
        node("Conv", ["both", "ws"], ["sight"], pads=[1] * 4),
    ]
    heat = np.zeros((3, 2 * CHANNELS + 2, 1, 1), np.float32)
    heat[0, CHANNELS], heat[1, 0], heat[2, -2:] = 40.0, -1.0, -10.0
    bias = np.zeros(10, np.float32)
    bias[2], bias[3:6], bias[7] = 0.75, np.log(BOX), 1.0
    mixture = rng.normal(0, 1, (2, 2 * CHANNELS, 3, 3)).astype(np.float32)
    weights = {
        "half": np.array(0.5, np.float32),
        "zero": np.array(0.0, np.float32),
        "wm": mixture,
        "ws": mixture[:1],
        "wh": heat,
        "bh": np.array([-6.0, -4.0, -0.5], np.float32),
        "wb": np.zeros((10, 2 * CHANNELS, 1, 1), np.float32),
        "bb": bias,
    }
    inputs = [_spec("camera_bev", BEV), _spec("lidar_bev", BEV)]
    inputs += [_spec("camera_mask", MASK), _spec("lidar_mask", MASK)]
    outputs = [_spec("heatmap", [1, 3, CELLS, CELLS]), _spec("boxes", [1, 10, CELLS, CELLS])]
    outputs += [_spec("map", [1, 4, CELLS, CELLS]), _spec("sight", MASK)]
    stage = {"name": "head", "inputs": inputs, "outputs": outputs}
    return _wrap("head", nodes, (inputs, outputs), weights), stage


def fusion_manifest() -> dict[str, Any]:
    image = {"width": SIZE[0], "height": SIZE[1], "fit": "stretch", "std": [255.0, 255.0, 255.0]}
    return {
        "format": "bev-runtime-model-1",
        "name": "small_fusion",
        "version": "1",
        "family": "test",
        "licence": "Apache-2.0",
        "trained_on": "nothing",
        "cameras": {"names": "any", "max": MAX_CAMERAS, "image": image, "geometry": "geometry"},
        "lidar": {"kind": "pillars", "tensor": "pillars", "cell": PILLAR, "z_min": -1.0,
                  "slices": SLICES, "slice_height": 0.5, "intensity_scale": 255.0},
        "grid": {"x_min": -HALF, "x_max": HALF, "y_min": -HALF, "y_max": HALF, "cell": CELL},
        "view_transform": {"kind": "lift_splat", "feature_width": FEATURE[0],
                           "feature_height": FEATURE[1], "depth_min": 1.0, "depth_step": 1.0,
                           "depth_bins": BINS},
        "dimensions": {"N": MAX_CAMERAS, "K": MAX_CAMERAS * BINS * FEATURE[0] * FEATURE[1],
                       "M": CELLS * CELLS},
        "fusion": {"camera": {"tensor": "camera_bev", "mask": "camera_mask"},
                   "lidar": {"tensor": "lidar_bev", "mask": "lidar_mask"}},
        "map": {"tensor": "map", "layers": list(LAYERS), "thresholds": [0.5] * 4,
                "layout": "nchw"},
        "detection": {"kind": "center_heatmap", "heatmap": "heatmap", "boxes": "boxes",
                      "classes": list(CLASSES), "score_threshold": 0.3, "max_detections": 100,
                      "nms_radius": [1.0, 1.0, 1.0]},
    }  # fmt: skip


def write_fusion_model(folder: Path, *, drop: tuple[str, ...] = (), **change: object) -> Path:
    """Writes the package.

    `drop`: stages that are left out. `change` replaces top-level keys of the manifest; None removes
    one.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    manifest = {**fusion_manifest(), "stages": []}
    for make in (head, lidar_branch, camera_branch):  # the order in the file does not matter
        model, stage = make(rng)
        if stage["name"] in drop:
            continue
        data = model.SerializeToString()
        file = f"{stage['name']}.onnx"
        (folder / file).write_bytes(data)
        manifest["stages"].append(
            {**stage, "file": file, "sha256": hashlib.sha256(data).hexdigest()}
        )
    manifest = {k: v for k, v in {**manifest, **change}.items() if v is not None}
    plain = json.loads(json.dumps(manifest))  # without shared objects there are no aliases
    (folder / "manifest.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    return folder
