"""A model with a depth head runs through the same path: lift-splat tables, graph cut, drops."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper
from ros_messages import drive, write_bag
from tiny_model import CELLS, GRID, SIZE, write_tiny_model

DEPTH_BINS, STRIDE = 24, 6
WIDTH, HEIGHT = SIZE[0] // STRIDE, SIZE[1] // STRIDE
RANKS = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Depth from a random convolution and a softmax, features from another, one after pooling."""
    folder = write_tiny_model(tmp_path_factory.mktemp("models") / "lift")
    rng = np.random.default_rng(0)
    weights = {
        "wd": rng.normal(0, 2, (DEPTH_BINS, 3, 1, 1)),
        "wf": rng.normal(0, 1, (4, 3, 1, 1)),
        "wo": rng.normal(0, 1, (3, 4, 1, 1)),
    }
    nodes = [
        helper.make_node("AveragePool", ["images"], ["small"], kernel_shape=[6, 6], strides=[6, 6]),
        helper.make_node("Conv", ["small", "wd"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["depth"], axis=1),
        helper.make_node("Conv", ["small", "wf"], ["feat_nchw"]),
        helper.make_node("Transpose", ["feat_nchw"], ["feat"], perm=[0, 2, 3, 1]),
        helper.make_node(
            "BevPool",
            ["depth", "feat", *RANKS],
            ["bev"],
            domain="bev_runtime",
            out_height=CELLS,
            out_width=CELLS,
        ),
        helper.make_node("Transpose", ["bev"], ["bev_nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["bev_nchw", "wo"], ["bev_map"]),
    ]
    shapes = {name: ["M" if name.startswith("interval") else "K"] for name in RANKS}
    inputs = [("images", TensorProto.FLOAT, ["N", 3, SIZE[1], SIZE[0]])]
    inputs += [(name, TensorProto.INT32, shape) for name, shape in shapes.items()]
    out_shape = [1, 3, CELLS, CELLS]
    graph = helper.make_graph(
        nodes,
        "lift",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info("bev_map", TensorProto.FLOAT, out_shape)],
        [numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("bev_runtime", 1)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    onnx.load_model_from_string(data)
    (folder / "camera_branch.onnx").write_bytes(data)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["view_transform"] = {
        "kind": "lift_splat",
        "feature_width": WIDTH,
        "feature_height": HEIGHT,
        "depth_min": 1.0,
        "depth_step": 1.0,
        "depth_bins": DEPTH_BINS,
    }
    kinds = {TensorProto.FLOAT: "float32", TensorProto.INT32: "int32"}
    stage = manifest["stages"][0]
    stage["sha256"] = hashlib.sha256(data).hexdigest()
    stage["inputs"] = [{"name": n, "dtype": kinds[k], "shape": s} for n, k, s in inputs]
    stage["outputs"] = [{"name": "bev_map", "dtype": "float32", "shape": out_shape}]
    manifest["dimensions"] = {"N": 6, "K": 6 * DEPTH_BINS * WIDTH * HEIGHT, "M": CELLS * CELLS}
    manifest["map"] |= {"layout": "nchw", "activation": "sigmoid"}
    assert manifest["grid"] == GRID
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


def first_map(out: Path) -> dict[str, np.ndarray]:
    with np.load(sorted((out / "maps").glob("*.npz"))[0]) as file:
        return dict(file)


def test_a_lift_splat_model_is_served_and_loses_a_camera_cleanly(run_replay, model, tmp_path):
    bag = write_bag(tmp_path / "bag", drive(frames=3))
    summary = run_replay(bag, model=model, out=tmp_path / "full")
    assert summary["modes"] == {"FULL": 3}
    run_replay(bag, model=model, out=tmp_path / "less", fault_specs=["drop:left"])
    only = ["drop:front", "drop:back"]
    run_replay(bag, model=model, out=tmp_path / "alone", fault_specs=only)
    full, less, alone = (first_map(tmp_path / name) for name in ("full", "less", "alone"))
    sees = alone["observed"]
    assert 0.02 < sees.mean() < full["observed"].mean() < 0.9
    assert np.array_equal(full["scores"][:, ~sees], less["scores"][:, ~sees])
    assert (full["scores"][:, sees] != less["scores"][:, sees]).any()
    assert np.array_equal(less["observed"] | sees, full["observed"])
    assert full["scores"][:, full["observed"]].std() > 0.05


def test_a_manifest_whose_feature_size_is_not_the_networks_is_refused(run_replay, model, tmp_path):
    import shutil

    from bev_runtime.errors import ModelError

    copy = shutil.copytree(model, tmp_path / "copy")
    text = (copy / "manifest.yaml").read_text()
    (copy / "manifest.yaml").write_text(text.replace(f"feature_width: {WIDTH}", "feature_width: 7"))
    with pytest.raises(ModelError, match="view_transform"):
        run_replay(write_bag(tmp_path / "bag", drive(frames=1)), model=copy)
