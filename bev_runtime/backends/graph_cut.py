"""Cuts an ONNX graph at its BevPool node, for engines that cannot run the operator.

The part before the node runs in one session, the native kernel pools between, and the part after
runs in another session.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, shape_inference
from onnx.utils import Extractor

from bev_runtime.errors import ModelError
from bev_runtime.manifest import OP_DOMAIN, Stage, Tensor
from bev_runtime.onnx_guard import POOL_OPS


@dataclass(frozen=True, slots=True)
class PoolNode:
    """The BevPool node of a stage, all by tensor name.

    `depth` and `feat`: what is pooled. `constant_depth`: `depth` is an input of the stage, so the
    pooling table gives the weights. `ranks`: ranks_depth, ranks_feat, ranks_bev, interval_starts,
    interval_lengths. `size`: (rows, columns).
    """

    depth: str
    feat: str
    ranks: tuple[str, ...]
    output: str
    size: tuple[int, int]
    constant_depth: bool

    @property
    def table_inputs(self) -> tuple[str, ...]:
        """Inputs of the stage that come from the pooling table, not from the caller."""
        return (self.depth, *self.ranks) if self.constant_depth else self.ranks


@dataclass(frozen=True, slots=True)
class GraphCut:
    """The parts around a pool; a part that computes nothing is None.

    `feat` and `depth`: type and shape of what is pooled; `depth` is None where the table gives it.
    """

    before: onnx.ModelProto | None
    after: onnx.ModelProto | None
    feat: Tensor
    depth: Tensor | None


def find_pool(model: onnx.ModelProto) -> PoolNode | None:
    """The BevPool node of a graph, None without one.

    Raises:
        ModelError: more than one, not the seven inputs and two attributes of the operator, or ranks
            that are not inputs.
    """
    graph = model.graph
    nodes = [node for node in graph.node if node.domain == OP_DOMAIN and node.op_type in POOL_OPS]
    if not nodes:
        return None
    if len(nodes) > 1:
        raise ModelError(
            f"the graph holds {len(nodes)} {POOL_OPS[0]} nodes, expected at most one per stage"
        )
    node = nodes[0]
    size = {item.name: item.i for item in node.attribute}
    rows, columns = size.get("out_height", 0), size.get("out_width", 0)
    if (
        len(node.input) != 7
        or len(node.output) != 1
        or not (0 < rows <= 4096 and 0 < columns <= 4096)
    ):
        raise ModelError(
            f"{node.op_type} node '{node.name}' has {len(node.input)} inputs and attributes "
            f"{size}, expected 7 inputs (depth, feat, "
            "ranks_depth, ranks_feat, ranks_bev, interval_starts, interval_lengths), out_height "
            "and out_width in 1..4096"
        )
    inputs = {item.name for item in graph.input}
    computed = [name for name in node.input[2:] if name not in inputs]
    if computed:
        raise ModelError(
            f"{node.op_type} node '{node.name}' computes {computed} in the graph, expected inputs: "
            "the runtime makes them"
        )
    depth, feat, *ranks = node.input
    return PoolNode(depth, feat, tuple(ranks), node.output[0], (rows, columns), depth in inputs)


def fix_inputs(model: onnx.ModelProto, stage: Stage, fixed: Mapping[str, int]) -> onnx.ModelProto:
    """Writes the manifest's shapes into a graph's inputs and infers all others from them.

    Args:
        model: edited in place.
        stage: the manifest's entry.
        fixed: symbols that become a number, for example one camera.
    """
    shapes = {tensor.name: tensor.shape for tensor in stage.inputs}
    for value in model.graph.input:
        for dimension, size in zip(
            value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False
        ):
            size = fixed.get(size, size) if isinstance(size, str) else size
            if isinstance(size, str):
                dimension.dim_param = size
            else:
                dimension.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    return shape_inference.infer_shapes(model, data_prop=True)


def tensor_spec(value: onnx.ValueInfoProto) -> Tensor:
    """Name, dtype and shape of a tensor of the graph.

    Raises:
        ModelError: its shape was not found by shape inference.
    """
    kind = value.type.tensor_type
    shape = tuple(
        item.dim_value if item.HasField("dim_value") else item.dim_param or None
        for item in kind.shape.dim
    )
    if not kind.HasField("shape") or any(size is None for size in shape):
        raise ModelError(
            f"the shape of tensor '{value.name}' is {list(shape)} after shape inference, expected "
            "numbers and symbols of the manifest: "
            "export the model with static shapes, or add the tensor's value_info"
        )
    dtype = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
    return Tensor.model_validate({"name": value.name, "dtype": dtype, "shape": shape})


def cut_at_pool(model: onnx.ModelProto, pool: PoolNode) -> GraphCut:
    """Cuts a graph whose shapes were inferred (see `fix_inputs`).

    Tensors that were made before the pool and are read after it cross the cut and are not computed
    again.

    Raises:
        ModelError: control flow, quantisation annotations or unknown shapes at the cut.
    """
    graph = model.graph
    if any(
        attribute.g.ByteSize() or attribute.graphs
        for node in graph.node
        for attribute in node.attribute
    ):
        raise ModelError(
            f"the graph has control flow (If, Loop, Scan) and a {POOL_OPS[0]} node: export without "
            "control flow"
        )
    values = {item.name: item for item in (*graph.value_info, *graph.input, *graph.output)}
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    inputs = {item.name for item in graph.input}
    feat = _spec(values, pool.feat)
    depth = None if pool.constant_depth else _spec(values, pool.depth)
    if len(feat.shape) != 4:
        raise ModelError(
            f"tensor '{pool.feat}' has shape {list(feat.shape)}, expected [N, H, W, C]"
        )

    pooled = [name for name in (pool.depth, pool.feat) if name not in inputs]
    before = _ancestors(graph, makers, pooled, stop=())
    made = {name for index in before for name in graph.node[index].output}
    ends = [item.name for item in graph.output]
    after = _ancestors(graph, makers, ends, stop=made | {pool.output})
    read = {name for index in after for name in graph.node[index].input}
    crossing = sorted((made & (read | set(ends))) - set(pooled))

    channels = feat.shape[-1]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(feat.dtype))
    graph.value_info.append(
        helper.make_tensor_value_info(pool.output, kind, [1, *pool.size, channels])
    )
    try:
        extractor = Extractor(model)
        first = (
            extractor.extract_model(sorted(inputs & _reads(graph, before)), [*pooled, *crossing])
            if before
            else None
        )
        sources = sorted((inputs | made | {pool.output}) & read)
        results = [name for name in ends if name not in made and name != pool.output]
        second = extractor.extract_model(sources, results) if after else None
        # Nothing was known of the shapes beyond the pool before its own was.
        second = shape_inference.infer_shapes(second, data_prop=True) if second else None
    except (ValueError, AssertionError) as problem:
        raise ModelError(
            f"the graph cannot be cut at its {POOL_OPS[0]} node: {problem}. Export the model again"
        ) from None
    return GraphCut(first, second, feat, depth)


def _spec(values: Mapping[str, onnx.ValueInfoProto], name: str) -> Tensor:
    return tensor_spec(values.get(name) or onnx.ValueInfoProto(name=name))


def _reads(graph: onnx.GraphProto, nodes: Iterable[int]) -> set[str]:
    return {name for index in nodes for name in graph.node[index].input}


def _ancestors(
    graph: onnx.GraphProto, makers: Mapping[str, int], tensors: Iterable[str], stop: Collection[str]
) -> set[int]:
    """Indices of all nodes that the tensors depend on, not going beyond the tensors in `stop`."""
    found: set[int] = set()
    waiting = list(tensors)
    while waiting:
        name = waiting.pop()
        index = makers.get(name)
        if index is not None and name not in stop and index not in found:
            found.add(index)
            waiting.extend(graph.node[index].input)
    return found
