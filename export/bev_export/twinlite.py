"""The package `twinlite_ground_map`: a trained image segmentation, looked up on the ground plane by
every BEV cell.
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from bev_export import graph as rewrite
from bev_export.package import ExportError, write_package
from bev_export.twinlite_decoder import HEADS, build_decoder
from bev_runtime.manifest import FORMAT, OP_DOMAIN

NAME = "twinlite_ground_map"
IMAGE_SIZE = 320
MAX_CAMERAS = 12
GRID = {"x_min": -50.0, "x_max": 50.0, "y_min": -50.0, "y_max": 50.0, "cell": 0.5}
CELLS = 200
BILINEAR_TAPS = 4
MIN_SAVING = 2000
"""Channels are gathered where that saves this many multiply-adds per pixel; a copied channel costs
about as much as 100.
"""

POOL_INPUTS = {
    "depth": ("float32", [1, 1, 1, "K"]),
    "ranks_depth": ("int32", ["K"]),
    "ranks_feat": ("int32", ["K"]),
    "ranks_bev": ("int32", ["K"]),
    "interval_starts": ("int32", ["M"]),
    "interval_lengths": ("int32", ["M"]),
}


def add_command(subparsers: Any) -> None:  # noqa: ANN401 (argparse names no public type for it)
    """Adds `twinlite_ground_map` to the command line."""
    parser = subparsers.add_parser(
        NAME,
        help="drivable area and lanes from TwinLiteNet, placed on a flat ground",
        description="Makes the model package from a trained TwinLiteNet "
        "(github.com/chequanghuy/TwinLiteNet, MIT), "
        "exported to ONNX with input [1, 3, 320, 320] and outputs drivable_area and lanes [1, 2, "
        "320, 320].",
        epilog=f"example: python -m bev_export {NAME} --weights twinlitenet.onnx --licence LICENSE "
        f"--out {NAME}",
    )
    parser.add_argument(
        "--weights", type=Path, required=True, help="the trained network, an ONNX file"
    )
    parser.add_argument(
        "--licence", type=Path, help="its licence text (default: LICENSE beside the weights)"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the package, made if needed"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    licence = options.licence or options.weights.parent / "LICENSE"
    if not licence.is_file():
        raise ExportError(
            f"no licence text at {licence}: the MIT licence must travel with the weights, give "
            "--licence"
        )
    try:
        network = onnx.load(options.weights, load_external_data=False)
    except DecodeError as problem:
        raise ExportError(f"{options.weights} is not an ONNX file: {problem}") from None
    stage = make_camera_branch(network)
    data = stage.SerializeToString(deterministic=True)
    write_package(
        options.out,
        make_manifest(),
        stages={"camera_branch": data},
        texts={
            "LICENSE": licence.read_text(encoding="utf-8"),
            "README.md": (files("bev_export") / "twinlite_card.md").read_text(encoding="utf-8"),
        },
    )
    return f"wrote {options.out} ({len(data)} bytes of ONNX)"


def make_camera_branch(network: onnx.ModelProto) -> onnx.ModelProto:
    """The stage `camera_branch`: images float32 [N, 3, 320, 320], RGB in 0..1, to bev_map float32
    [1, 200, 200, 2].

    Args:
        network: the trained network; it is edited in place.

    Raises:
        ExportError: inputs or outputs are not those of TwinLiteNet.
    """
    graph = network.graph
    names = ([item.name for item in graph.input], [item.name for item in graph.output])
    if names != (["input"], list(HEADS)):
        raise ExportError(
            f"the network has inputs and outputs {names}, expected 'input' and {list(HEADS)}"
        )
    editor = rewrite.GraphEditor(graph)
    editor.redirect("input", "images")
    rewrite.free_batch(editor)
    try:
        build_decoder(editor, "feat")
    except (ValueError, IndexError) as problem:
        raise ExportError(f"the heads cannot be read: {problem}") from problem
    pool = helper.make_node(
        "BevPool",
        ["depth", "feat", *list(POOL_INPUTS)[1:]],
        ["bev_map"],
        name="bev_pool",
        domain=OP_DOMAIN,
        out_height=CELLS,
        out_width=CELLS,
    )
    editor.nodes.append(pool)
    del graph.input[:], graph.output[:]
    graph.input.append(_value("images", "float32", ["N", 3, IMAGE_SIZE, IMAGE_SIZE]))
    graph.input.extend(_value(name, *spec) for name, spec in POOL_INPUTS.items())
    graph.output.append(_value("bev_map", "float32", [1, CELLS, CELLS, 2]))

    # Drops what only the old heads needed, so that the passes below see the real readers.
    editor.finish()
    editor = rewrite.GraphEditor(graph)
    rewrite.drop_negligible_branches(editor)
    rewrite.prune_dead_outputs(editor)
    rewrite.prune_unread_inputs(editor, MIN_SAVING)
    rewrite.replace_prelu(editor)
    editor.finish()
    graph.name = NAME
    model = helper.make_model(
        graph,
        producer_name="bev_export",
        ir_version=network.ir_version,
        opset_imports=[*network.opset_import, helper.make_opsetid(OP_DOMAIN, 1)],
    )
    onnx.checker.check_model(model)
    return model


def make_manifest() -> dict[str, Any]:
    """The manifest without the hash of the stage."""
    images = {"name": "images", "dtype": "float32", "shape": ["N", 3, IMAGE_SIZE, IMAGE_SIZE]}
    pool = [
        {"name": name, "dtype": dtype, "shape": shape}
        for name, (dtype, shape) in POOL_INPUTS.items()
    ]
    return {
        "format": FORMAT,
        "name": NAME,
        "version": "1.0.0",
        "family": "ground-plane segmentation",
        "licence": "MIT",
        "trained_on": "BDD100K, front cameras (the authors' training; the data set's own terms are "
        "for research and "
        "other non-commercial use, and whether they reach weights trained on it is not settled: "
        "see README.md)",
        "description": "TwinLiteNet finds drivable area and lanes in each image; each BEV cell "
        "looks up its centre on a "
        "flat ground in every camera that sees it and averages.",
        "cameras": {
            "names": "any",
            "max": MAX_CAMERAS,
            "image": {
                "width": IMAGE_SIZE,
                "height": IMAGE_SIZE,
                "fit": "stretch",
                "color": "rgb",
                "layout": "nchw",
                "dtype": "float32",
                "mean": [0.0, 0.0, 0.0],
                "std": [255.0, 255.0, 255.0],
            },
        },
        "grid": GRID,
        "view_transform": {
            "kind": "ground_plane",
            "z": 0.0,
            "feature_width": IMAGE_SIZE,
            "feature_height": IMAGE_SIZE,
        },
        "stages": [
            {
                "name": "camera_branch",
                "file": "camera_branch.onnx",
                "sha256": "0" * 64,
                "inputs": [images, *pool],
                "outputs": [{"name": "bev_map", "dtype": "float32", "shape": [1, CELLS, CELLS, 2]}],
                "independent_cameras": True,
            }
        ],
        "dimensions": {
            "N": MAX_CAMERAS,
            "K": BILINEAR_TAPS * CELLS * CELLS * MAX_CAMERAS,
            "M": CELLS * CELLS,
        },
        "map": {"tensor": "bev_map", "layers": ["drivable_area", "lane"], "thresholds": [0.5, 0.5]},
    }


def _value(name: str, dtype: str, shape: list[int | str]) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return helper.make_tensor_value_info(name, kind, shape)
