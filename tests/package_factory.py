"""Model packages of a few hundred weights, and hostile ones made from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

MAX_CAMERAS = 4
HEIGHT, WIDTH = 16, 24
BINS, CHANNELS = 5, 8
FEATURE = (4, 6)
ROWS, COLUMNS = 8, 10
RANKS = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")


def value(name: str, shape: list, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def spec(name: str, shape: list, dtype: str = "float32") -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


def rank_specs() -> list[dict[str, Any]]:
    return [spec(name, ["M" if name.startswith("interval") else "K"], "int32") for name in RANKS]


def lift_splat_graph(seed: int = 0) -> onnx.ModelProto:
    """Conv -> depth softmax and features -> BevPool -> Conv: images to bev [1, 2, 8, 10].

    The features also reach a second output past the pool, so that a tensor crosses the cut.
    """
    rng = np.random.default_rng(seed)
    weights = {
        "w": rng.normal(size=(BINS + CHANNELS, 3, 3, 3)).astype(np.float32),
        "b": rng.normal(size=BINS + CHANNELS).astype(np.float32),
        "w2": rng.normal(size=(2, CHANNELS, 3, 3)).astype(np.float32),
        "split": np.array([BINS, CHANNELS], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["images", "w", "b"], ["x"], strides=[4, 4], pads=[1] * 4),
        helper.make_node("Split", ["x", "split"], ["logits", "feat_nchw"], axis=1),
        helper.make_node("Softmax", ["logits"], ["depth"], axis=1),
        helper.make_node("Transpose", ["feat_nchw"], ["feat"], perm=[0, 2, 3, 1]),
        helper.make_node(
            "BevPool",
            ["depth", "feat", *RANKS],
            ["pooled"],
            domain="bev_runtime",
            out_height=ROWS,
            out_width=COLUMNS,
        ),
        helper.make_node("Transpose", ["pooled"], ["pooled_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("ReduceMean", ["feat_nchw", "axes"], ["mean"], keepdims=1),
        helper.make_node("Conv", ["pooled_nchw", "w2"], ["y"], pads=[1] * 4),
        helper.make_node("Add", ["y", "mean"], ["bev"]),
    ]
    weights["axes"] = np.array([0, 1, 2, 3], np.int64)
    graph = helper.make_graph(
        nodes,
        "lift_splat",
        [value("images", ["batch", 3, HEIGHT, WIDTH])]
        + [value(item["name"], item["shape"], TensorProto.INT32) for item in rank_specs()],
        [value("bev", [1, 2, ROWS, COLUMNS])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return wrap(graph)


def wrap(graph: onnx.GraphProto, *domains: str) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("bev_runtime", 1)]
    opsets += [helper.make_opsetid(domain, 1) for domain in domains]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def lift_splat_manifest() -> dict[str, Any]:
    image = {"width": WIDTH, "height": HEIGHT, "fit": "stretch", "std": [255.0, 255.0, 255.0]}
    return {
        "format": "bev-runtime-model-1",
        "name": "tiny",
        "version": "1",
        "family": "lift-splat",
        "licence": "MIT",
        "trained_on": "nothing, random weights",
        "cameras": {"names": "any", "max": MAX_CAMERAS, "image": image},
        "grid": {"x_min": -4.0, "x_max": 4.0, "y_min": -5.0, "y_max": 5.0, "cell": 1.0},
        "view_transform": {
            "kind": "lift_splat",
            "feature_width": FEATURE[1],
            "feature_height": FEATURE[0],
            "depth_min": 1.0,
            "depth_step": 1.0,
            "depth_bins": BINS,
        },
        "stages": [
            {
                "name": "camera_branch",
                "file": "camera_branch.onnx",
                "inputs": [spec("images", ["N", 3, HEIGHT, WIDTH]), *rank_specs()],
                "outputs": [spec("bev", [1, 2, ROWS, COLUMNS])],
            }
        ],
        "dimensions": {"N": MAX_CAMERAS, "K": 4000, "M": ROWS * COLUMNS},
        "map": {"tensor": "bev", "layers": ["a", "b"], "thresholds": [0.5, 0.5], "layout": "nchw"},
    }


def write(
    folder: Path, manifest: dict[str, Any], graphs: dict[str, onnx.ModelProto | bytes]
) -> Path:
    """Writes a package with right hashes, without checking anything."""
    folder.mkdir(parents=True, exist_ok=True)
    for stage in manifest["stages"]:
        graph = graphs[stage["name"]]
        data = graph if isinstance(graph, bytes) else graph.SerializeToString()
        stage["sha256"] = hashlib.sha256(data).hexdigest()
        path = folder / stage["file"]
        if ".." not in stage["file"] and not Path(stage["file"]).is_absolute():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    plain = json.loads(json.dumps(manifest))  # without shared objects there are no aliases
    (folder / "manifest.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    return folder


def tiny_package(folder: Path) -> Path:
    return write(folder, lift_splat_manifest(), {"camera_branch": lift_splat_graph()})


def sampling_package(folder: Path, *, independent: bool = True) -> Path:
    """Weights from the table: images -> Conv -> feat; the pool's output is that of the stage."""
    weight = np.random.default_rng(3).normal(size=(CHANNELS, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["x"], strides=[4, 4], pads=[1] * 4),
        helper.make_node("Transpose", ["x"], ["feat"], perm=[0, 2, 3, 1]),
        helper.make_node(
            "bev_pool_v2",
            ["weights", "feat", *RANKS],
            ["bev"],
            domain="bev_runtime",
            out_height=ROWS,
            out_width=COLUMNS,
        ),
    ]
    manifest = lift_splat_manifest()
    stage = manifest["stages"][0]
    stage["inputs"].append(spec("weights", [1, 1, 1, "K"]))
    stage["outputs"] = [spec("bev", [1, ROWS, COLUMNS, CHANNELS])]
    stage["independent_cameras"] = independent
    kinds = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    graph = helper.make_graph(
        nodes,
        "sampling",
        [value(t["name"], t["shape"], kinds[t["dtype"]]) for t in stage["inputs"]],
        [value("bev", stage["outputs"][0]["shape"])],
        [numpy_helper.from_array(weight, "w")],
    )
    return write(folder, manifest, {"camera_branch": wrap(graph)})


def two_stage_package(folder: Path) -> Path:
    """The lift-splat stage, and a head without a pool that reads its output by name."""
    manifest = lift_splat_manifest()
    shape = [1, 2, ROWS, COLUMNS]
    head = {"name": "head", "file": "head.onnx", "inputs": [spec("bev", shape)]}
    manifest["stages"].append(head | {"outputs": [spec("doubled", shape)]})
    graph = helper.make_graph(
        [helper.make_node("Add", ["bev", "bev"], ["doubled"])],
        "head",
        [value("bev", shape)],
        [value("doubled", shape)],
    )
    graphs = {"camera_branch": lift_splat_graph(), "head": wrap(graph)}
    return write(folder, manifest, graphs)
