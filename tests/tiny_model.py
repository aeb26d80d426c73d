"""A model package that runs in microseconds: the map is the image itself, laid on the ground."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import yaml
from onnx import TensorProto, helper

GRID = {"x_min": -20.0, "x_max": 20.0, "y_min": -20.0, "y_max": 20.0, "cell": 0.5}
CELLS = 80
SIZE = (96, 54)


def write_tiny_model(folder: Path, **change: object) -> Path:
    """Writes the package; `change` replaces top-level keys of the manifest."""
    folder.mkdir(parents=True)
    width, height = SIZE
    ints = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")
    symbols = dict.fromkeys(ints, "K") | {"interval_starts": "M", "interval_lengths": "M"}
    inputs = [("images", TensorProto.FLOAT, ["N", 3, height, width])]
    inputs += [("depth", TensorProto.FLOAT, [1, 1, 1, "K"])]
    inputs += [(name, TensorProto.INT32, [symbols[name]]) for name in ints]
    nodes = [
        helper.make_node("Transpose", ["images"], ["feat"], perm=[0, 2, 3, 1]),
        helper.make_node(
            "BevPool",
            ["depth", "feat", *ints],
            ["bev_map"],
            domain="bev_runtime",
            out_height=CELLS,
            out_width=CELLS,
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("bev_map", TensorProto.FLOAT, [1, CELLS, CELLS, 3])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bev_runtime", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    data = model.SerializeToString()
    (folder / "camera_branch.onnx").write_bytes(data)
    kinds = {TensorProto.FLOAT: "float32", TensorProto.INT32: "int32"}
    manifest = {
        "format": "bev-runtime-model-1",
        "name": "tiny",
        "version": "1",
        "family": "test",
        "licence": "Apache-2.0",
        "trained_on": "nothing",
        "cameras": {
            "names": "any",
            "max": 6,
            "image": {
                "width": width,
                "height": height,
                "fit": "stretch",
                "std": [255.0, 255.0, 255.0],
            },
        },
        "grid": GRID,
        "view_transform": {
            "kind": "ground_plane",
            "feature_width": width,
            "feature_height": height,
        },
        "stages": [
            {
                "name": "camera_branch",
                "file": "camera_branch.onnx",
                "sha256": hashlib.sha256(data).hexdigest(),
                "inputs": [
                    {"name": name, "dtype": kinds[kind], "shape": shape}
                    for name, kind, shape in inputs
                ],
                "outputs": [{"name": "bev_map", "dtype": "float32", "shape": [1, CELLS, CELLS, 3]}],
                "independent_cameras": True,
            }
        ],
        "dimensions": {"N": 6, "K": CELLS * CELLS * 6 * 4, "M": CELLS * CELLS},
        "map": {
            "tensor": "bev_map",
            "layers": ["red", "green", "blue"],
            "thresholds": [0.5, 0.5, 0.5],
        },
        **change,
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    assert onnx.load_model_from_string(data).graph.name == "tiny"
    return folder
