"""`python -m bev_export metabev_tiny`: a checkpoint becomes a package of three ONNX stages."""

from __future__ import annotations

import argparse
import io
import warnings
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from bev_export.metabev import model as spec
from bev_export.metabev.data import (
    FEATURE_SIZE,
    IMAGE_HEIGHT,
    IMAGE_MEAN,
    IMAGE_STD,
    IMAGE_WIDTH,
    MAX_CAMERAS,
    MODEL_GRID,
    PILLAR_GRID,
    Z_RANGE,
)
from bev_export.metabev.pool import Table
from bev_export.package import ExportError, write_package
from bev_runtime.manifest import FORMAT, OP_DOMAIN

NAME = "metabev_tiny"
OPSET = 17
MAX_BYTES = 10_000_000
Z_MIN, SLICES, SLICE_HEIGHT, INTENSITY_SCALE = -1.0, 8, 0.5, 255.0
MIN_RANGE_M = 1.5
"""Nearer points are the vehicle; the simulator makes none below 1 m."""
SCORE_THRESHOLD, MAX_DETECTIONS = 0.1, 200
NMS_RADIUS_M = (2.0, 3.0, 3.5, 0.5, 1.0, 1.0, 0.5, 0.8)
"""By class; parked cars stand 2.4 m apart, people on a crossing less than a metre."""
MAP_THRESHOLDS = (0.5, 0.65, 0.65)
"""Of the best IoU of each layer on held-out simulated samples, all sensors live."""

GRID_SHAPE = list(MODEL_GRID.shape)
TABLE_SHAPES = {name: ["M" if name.startswith("interval") else "K"] for name in Table._fields}
FEATURES = [1, spec.CONTEXT, *GRID_SHAPE]
MASK = [1, 1, *GRID_SHAPE]
Tensors = dict[str, tuple[str, list[int | str]]]
INPUTS: dict[str, Tensors] = {
    "camera_branch": {
        "images": ("float32", ["N", 3, IMAGE_HEIGHT, IMAGE_WIDTH]),
        "geometry": ("float32", ["N", spec.GEOMETRY_CHANNELS, FEATURE_SIZE[1], FEATURE_SIZE[0]]),
        **{name: ("int32", [*shape]) for name, shape in TABLE_SHAPES.items()},
    },
    "lidar_branch": {"pillars": ("float32", [1, spec.PILLAR_CHANNELS, *PILLAR_GRID.shape])},
    "head": {
        "camera_bev": ("float32", [*FEATURES]),
        "lidar_bev": ("float32", [*FEATURES]),
        "camera_mask": ("float32", [*MASK]),
        "lidar_mask": ("float32", [*MASK]),
    },
}
OUTPUTS: dict[str, Tensors] = {
    "camera_branch": {"camera_bev": ("float32", [*FEATURES])},
    "lidar_branch": {"lidar_bev": ("float32", [*FEATURES])},
    "head": {
        "heatmap": ("float32", [1, len(spec.CLASSES), *GRID_SHAPE]),
        "boxes": ("float32", [1, spec.BOX_TERMS, *GRID_SHAPE]),
        "map": ("float32", [1, len(spec.LAYERS), *GRID_SHAPE]),
        "sight": ("float32", [1, 1, *GRID_SHAPE]),
    },
}


def run(options: argparse.Namespace) -> str:
    """Exports as the command line asks; returns what to tell the user."""
    stages = make_stages(load_checkpoint(options.checkpoint))
    size = sum(map(len, stages.values()))
    write_package(
        options.out,
        make_manifest(),
        stages=stages,
        texts={
            "LICENSE": options.licence.read_text(encoding="utf-8"),
            "README.md": (files("bev_export.metabev") / "card.md").read_text(encoding="utf-8"),
        },
    )
    return f"wrote {options.out} ({size} bytes of ONNX)"


def load_checkpoint(path: Path) -> spec.MetaBev:
    """The averaged weights of a training run, ready for inference.

    Raises:
        ExportError: the file is no checkpoint of this network.
    """
    model = spec.MetaBev()
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["ema"])
    except (RuntimeError, KeyError, TypeError, EOFError, ValueError, UnpicklingError) as problem:
        raise ExportError(
            f"{path} is no checkpoint of {NAME} ({str(problem).splitlines()[0]}), expected last.pt "
            "of `python -m bev_export train-metabev` of this version"
        ) from None
    return model.eval()


def make_stages(model: spec.MetaBev) -> dict[str, bytes]:
    """The ONNX bytes of the three stages, BatchNorm folded into the convolutions.

    Args:
        model: its running statistics are used, whatever mode it is in; it is left in `eval`.

    Raises:
        ExportError: the stages are larger than 10 MB together.
    """
    model.eval()
    modules = {
        "camera_branch": model.camera_branch,
        "lidar_branch": model.lidar_branch,
        "head": model.head,
    }
    stages = {name: _to_onnx(module, name) for name, module in modules.items()}
    size = sum(map(len, stages.values()))
    if size > MAX_BYTES:
        raise ExportError(f"the stages have {size} bytes, expected at most {MAX_BYTES}")
    return stages


def example_inputs(stage: str, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Random inputs of a stage in plausible ranges: two cameras, a table of 3000 points."""
    rng = np.random.default_rng(seed)
    sizes = {"N": 2, "K": 3000}
    out: dict[str, NDArray[Any]] = {}
    for name, (_, shape) in INPUTS[stage].items():
        if name in TABLE_SHAPES:
            continue
        value = rng.standard_normal([sizes.get(str(n), n) for n in shape], np.float32)
        out[name] = (value > 0).astype(np.float32) if name.endswith("_mask") else value
    if stage == "camera_branch":
        pixels = sizes["N"] * FEATURE_SIZE[0] * FEATURE_SIZE[1]
        cells = np.sort(rng.integers(0, GRID_SHAPE[0] * GRID_SHAPE[1], sizes["K"]))
        depth = rng.permutation(pixels * spec.DEPTH_BINS)[: sizes["K"]]
        plane = FEATURE_SIZE[0] * FEATURE_SIZE[1]
        pixel = depth // (plane * spec.DEPTH_BINS) * plane + depth % plane
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        lengths = np.diff(starts, append=sizes["K"])
        ranks = (depth, pixel, cells, starts, lengths)
        out |= {n: a.astype(np.int32) for n, a in zip(TABLE_SHAPES, ranks, strict=True)}
    return out


def _to_onnx(module: nn.Module, stage: str) -> bytes:
    example = tuple(torch.from_numpy(value) for value in example_inputs(stage).values())
    dynamic = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, (_, shape) in INPUTS[stage].items()
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter that can place an operator of our own is the older one, and it says so.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            example,
            buffer,
            input_names=list(INPUTS[stage]),
            output_names=list(OUTPUTS[stage]),
            dynamic_axes={name: axes for name, axes in dynamic.items() if axes},
            opset_version=OPSET,
            custom_opsets={OP_DOMAIN: 1} if stage == "camera_branch" else None,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    if isinstance(module, spec.Head):
        _add_position_on_load(model.graph, module.fusion)
    model.producer_name, model.producer_version = "bev_export", ""
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _add_position_on_load(graph: onnx.GraphProto, fusion: spec.Fusion) -> None:
    """The exporter adds up rows and columns of the position, to 3 MB; the file keeps the two."""
    (added,) = (item for item in graph.initializer if list(item.dims) == FEATURES)
    name = added.name
    graph.initializer.remove(added)
    names = []
    for part in ("row", "column"):
        names.append(f"fusion.{part}")
        value = getattr(fusion, part).detach().numpy()
        graph.initializer.append(onnx.numpy_helper.from_array(value, names[-1]))
    graph.node.insert(0, onnx.helper.make_node("Add", names, [name], name="/fusion/position"))


def _tensors(tensors: Tensors) -> list[dict[str, Any]]:
    return [{"name": n, "dtype": dtype, "shape": shape} for n, (dtype, shape) in tensors.items()]


def make_manifest() -> dict[str, Any]:
    """The manifest without hashes and accuracy."""
    width, height = FEATURE_SIZE
    grid = MODEL_GRID
    return {
        "format": FORMAT,
        "name": NAME,
        "version": "1.5.0",
        "family": "camera and LiDAR fusion by masked attention, after MetaBEV",
        "licence": "Apache-2.0",
        "trained_on": "simulated towns of bev_runtime.sim; image encoder from EfficientNet-Lite0 "
        "trained on ImageNet (Apache-2.0)",
        "description": "Boxes of eight classes with velocity, and three map layers, from up to six "
        "cameras and a LiDAR; trained to go on without any of them.",
        "cameras": {
            "names": "any",
            "max": MAX_CAMERAS,
            "image": {
                "width": IMAGE_WIDTH,
                "height": IMAGE_HEIGHT,
                "fit": "cover",
                "anchor": [0.5, 1.0],
                "color": "rgb",
                "layout": "nchw",
                "dtype": "float32",
                "mean": [IMAGE_MEAN] * 3,
                "std": [IMAGE_STD] * 3,
            },
            "geometry": "geometry",
        },
        "lidar": {
            "kind": "pillars",
            "tensor": "pillars",
            "cell": PILLAR_GRID.cell,
            "z_min": Z_MIN,
            "slices": SLICES,
            "slice_height": SLICE_HEIGHT,
            "intensity_scale": INTENSITY_SCALE,
            "min_range": MIN_RANGE_M,
        },
        "grid": {
            "x_min": grid.x_min,
            "x_max": grid.x_max,
            "y_min": grid.y_min,
            "y_max": grid.y_max,
            "cell": grid.cell,
        },
        "view_transform": {
            "kind": "lift_splat",
            "feature_width": width,
            "feature_height": height,
            "depth_min": spec.DEPTH_MIN,
            "depth_step": spec.DEPTH_STEP,
            "depth_bins": spec.DEPTH_BINS,
            "z_min": Z_RANGE[0],
            "z_max": Z_RANGE[1],
        },
        "stages": [
            {
                "name": stage,
                "file": f"{stage}.onnx",
                "sha256": "0" * 64,
                "inputs": _tensors(INPUTS[stage]),
                "outputs": _tensors(OUTPUTS[stage]),
                "independent_cameras": stage == "camera_branch",
            }
            for stage in INPUTS
        ],
        "dimensions": {
            "N": MAX_CAMERAS,
            "K": MAX_CAMERAS * spec.DEPTH_BINS * width * height,
            "M": GRID_SHAPE[0] * GRID_SHAPE[1],
        },
        "fusion": {
            "camera": {"tensor": "camera_bev", "mask": "camera_mask"},
            "lidar": {"tensor": "lidar_bev", "mask": "lidar_mask"},
        },
        "map": {
            "tensor": "map",
            "sight": "sight",
            "layers": list(spec.LAYERS),
            "layout": "nchw",
            "activation": "sigmoid",
            "thresholds": list(MAP_THRESHOLDS),
        },
        "detection": {
            "kind": "center_heatmap",
            "heatmap": "heatmap",
            "boxes": "boxes",
            "classes": list(spec.CLASSES),
            "score_threshold": SCORE_THRESHOLD,
            "max_detections": MAX_DETECTIONS,
            "nms_radius": list(NMS_RADIUS_M),
            "velocity": "tracks",
        },
    }
