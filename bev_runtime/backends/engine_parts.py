"""The graphs that become engines: a stage as it is, or its parts around the pooling node."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from bev_runtime.backends.graph_cut import PoolNode, cut_at_pool, find_pool, fix_inputs, tensor_spec
from bev_runtime.errors import ModelError
from bev_runtime.manifest import Manifest, Tensor
from bev_runtime.model import ModelPackage

Shape = tuple[int, ...]
FLOATS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Smallest, most frequent and largest shape of an input."""

    least: Shape
    best: Shape
    most: Shape


@dataclass(frozen=True, slots=True)
class EnginePart:
    """One graph to compile.

    `name`: `head`, or `camera_branch.encoder` and `camera_branch.decoder` of a cut stage.
    `inputs`, `outputs`: shapes hold the manifest's symbols. `profiles`: by input name. `pools`: the
    pooling node is inside, so that the engine needs the plugin.
    """

    name: str
    onnx_bytes: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: dict[str, Profile]
    precision: str
    pools: bool = False

    @property
    def onnx_sha256(self) -> str:
        """Of the bytes that the builder reads."""
        return hashlib.sha256(self.onnx_bytes).hexdigest()

    @property
    def profile_text(self) -> str:
        """The profiles as one line, for the key."""
        rows = {name: [p.least, p.best, p.most] for name, p in sorted(self.profiles.items())}
        return json.dumps(rows)


@dataclass(frozen=True, slots=True)
class StageParts:
    """A stage for TensorRT: `parts` in order of execution; `pool` if it runs between them."""

    parts: tuple[EnginePart, ...]
    pool: PoolNode | None
    feat: Tensor | None = None
    depth: Tensor | None = None


def stage_parts(model: ModelPackage, name: str, *, with_plugin: bool) -> StageParts:
    """What to compile for a stage.

    Args:
        model: a checked package: hostile graphs were refused at its load.
        name: of the stage.
        with_plugin: the engine runs the pooling node itself; otherwise the graph is cut there.

    Raises:
        ModelError: unknown stage, a graph that was quantised for CPUs or cannot be cut, or a shape
            that neither the graph nor the manifest tells.
    """
    stage = model.manifest.stage(name)
    graph = model.stage_graph(name)
    assert stage is not None  # stage_graph raises for an unknown name
    if _rounds_to_unsigned(graph.graph):
        raise ModelError(
            f"stage '{name}' of {model.manifest.name} is in integers for CPUs, which TensorRT "
            "does not take: run it with --backend onnxruntime or openvino, or quantise the "
            "original anew without --for cpu"
        )
    pool = find_pool(graph)
    graph = fix_inputs(graph, stage, {})
    if pool is None or with_plugin:
        if pool is not None:
            _restore_outputs(graph, stage.outputs)
        return StageParts((_part(model.manifest, name, graph),), None)
    cut = cut_at_pool(graph, pool)
    parts = [
        _part(model.manifest, f"{name}.{end}", half)
        for end, half in (("encoder", cut.before), ("decoder", cut.after))
        if half is not None
    ]
    return StageParts(tuple(parts), pool, cut.feat, cut.depth)


def manifest_sha256(manifest: Manifest) -> str:
    """Hash of everything that the manifest says, whatever its layout."""
    text = json.dumps(manifest.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def precision_of(graph: onnx.GraphProto) -> str:
    """Element types of weights, casts and quantisation in a graph: `fp32`, `fp16+fp32`,
    `fp32+int8`.
    """
    kinds = {item.data_type for item in graph.initializer}
    kinds |= {item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)}
    for node in graph.node:
        kinds |= {item.i for item in node.attribute if node.op_type == "Cast" and item.name == "to"}
    return "+".join(sorted({FLOATS[kind] for kind in kinds if kind in FLOATS})) or "none"


def _rounds_to_unsigned(graph: onnx.GraphProto) -> bool:
    """Whether activations are rounded to uint8; TensorRT wants int8 about zero."""
    zeros = {
        node.input[2] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[2:]
    }
    return any(
        item.name in zeros and item.data_type == TensorProto.UINT8 for item in graph.initializer
    )


def _part(manifest: Manifest, name: str, graph: onnx.ModelProto) -> EnginePart:
    weights = {item.name for item in graph.graph.initializer}
    inputs = [tensor_spec(item) for item in graph.graph.input if item.name not in weights]
    outputs = [tensor_spec(item) for item in graph.graph.output]
    return EnginePart(
        name=name,
        onnx_bytes=graph.SerializeToString(deterministic=True),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        profiles={tensor.name: _profile(manifest, tensor) for tensor in inputs},
        precision=precision_of(graph.graph),
        pools=find_pool(graph) is not None,
    )


def _profile(manifest: Manifest, tensor: Tensor) -> Profile:
    """Symbols run from 1 to the manifest's largest value, which is also the most frequent: all
    cameras live.
    """
    known = manifest.dimensions
    unknown = [size for size in tensor.shape if isinstance(size, str) and size not in known]
    if unknown:
        raise ModelError(
            f"tensor '{tensor.name}' has shape {list(tensor.shape)}, expected numbers and symbols "
            f"of the manifest {sorted(known)}: export the model with static shapes"
        )
    least = tuple(1 if isinstance(size, str) else size for size in tensor.shape)
    most = tuple(known[size] if isinstance(size, str) else size for size in tensor.shape)
    return Profile(least, most, most)


def _restore_outputs(graph: onnx.ModelProto, outputs: Iterable[Tensor]) -> None:
    """Shape inference stops at the pooling node; the manifest says what comes out."""
    shapes = {tensor.name: tensor.shape for tensor in outputs}
    for value in graph.graph.output:
        kind = value.type.tensor_type
        kind.ClearField("shape")
        for size in shapes[value.name]:
            if isinstance(size, str):
                kind.shape.dim.add().dim_param = size
            else:
                kind.shape.dim.add().dim_value = size
