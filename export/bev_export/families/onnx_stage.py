"""From a torch module to an ONNX stage, and to what the manifest says of it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from bev_export.families.lift import POOL_TABLE
from bev_runtime.manifest import OP_DOMAIN

OPSET = 17
_LARGE = ("Expand", "Tile", "Resize")
EXAMPLE_SIZES = {"N": 2, "K": 64, "M": 16}
Shape = list[int | str]
Tensors = dict[str, tuple[str, Shape]]
"""dtype and shape by name; a symbol is a size that differs between calls."""

POOL_INPUTS: Tensors = {
    name: ("int32", ["M" if name.startswith("interval") else "K"]) for name in POOL_TABLE
}
CONSTANT_DEPTH: Tensors = {"depth": ("float32", [1, 1, 1, "K"])}
"""For a view transform whose weights come with the table."""


@dataclass(frozen=True)
class StageSpec:
    """One stage of a package: its module, its tensors in the order of the module's arguments and
    results, and whether each camera's features depend on its own image alone.
    """

    module: nn.Module
    inputs: Tensors
    outputs: Tensors
    independent_cameras: bool = False


def export_stages(stages: Mapping[str, StageSpec]) -> dict[str, bytes]:
    """The ONNX bytes of each stage; batch normalisation is folded into the convolutions."""
    return {name: _to_onnx(spec) for name, spec in stages.items()}


def describe_stages(stages: Mapping[str, StageSpec]) -> list[dict[str, Any]]:
    """The manifest's `stages`, without hashes."""
    return [
        {
            "name": name,
            "file": f"{name}.onnx",
            "sha256": "0" * 64,
            "inputs": _describe(spec.inputs),
            "outputs": _describe(spec.outputs),
            "independent_cameras": spec.independent_cameras,
        }
        for name, spec in stages.items()
    ]


def _to_onnx(spec: StageSpec) -> bytes:
    dynamic = {
        name: {axis: size for axis, size in enumerate(shape) if isinstance(size, str)}
        for name, (_, shape) in (*spec.inputs.items(), *spec.outputs.items())
    }
    example = tuple(
        torch.zeros([EXAMPLE_SIZES.get(str(size), size) for size in shape], dtype=_torch(dtype))
        for dtype, shape in spec.inputs.values()
    )
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that can place an operator of our own is the older one, and it says so.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            spec.module.eval(),
            example,
            buffer,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            dynamic_axes={name: axes for name, axes in dynamic.items() if axes},
            opset_version=OPSET,
            custom_opsets={OP_DOMAIN: 1} if POOL_TABLE[0] in spec.inputs else None,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    _fold_constants(model)
    model.producer_name, model.producer_version = "bev_export", ""
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def _fold_constants(model: onnx.ModelProto) -> None:
    """Computes what depends on constants only; a padding that is computed in the graph would hide
    all shapes behind it.
    """
    graph, opsets = model.graph, model.opset_import
    known = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    folded: dict[str, NDArray[Any]] = {}
    kept = []
    for node in graph.node:
        small = all(name in folded or name in known for name in node.input)
        if node.domain or not small or len(node.output) != 1 or node.op_type in _LARGE:
            kept.append(node)
            continue
        single = helper.make_graph([node], "fold", [], [onnx.ValueInfoProto(name=node.output[0])])
        single.initializer.extend(
            numpy_helper.from_array({**known, **folded}[name], name) for name in node.input if name
        )
        folded[node.output[0]] = ReferenceEvaluator(
            helper.make_model(single, opset_imports=opsets)
        ).run(None, {})[0]
    del graph.node[:]
    graph.node.extend(kept)
    read = {name for node in kept for name in node.input} | {item.name for item in graph.output}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name)
        for name, value in folded.items()
        if name in read
    )
    unread = [item for item in graph.initializer if item.name not in read]
    for item in unread:
        graph.initializer.remove(item)


def _describe(tensors: Tensors) -> list[dict[str, Any]]:
    return [{"name": n, "dtype": dtype, "shape": shape} for n, (dtype, shape) in tensors.items()]


def _torch(dtype: str) -> torch.dtype:
    kind: torch.dtype = torch.from_numpy(np.zeros(0, dtype)).dtype
    return kind
