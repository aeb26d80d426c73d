"""A second way to compute a package: graphs as they are written, on one thread, with the pooling
of the float64 oracle; and a look at every tensor inside.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from bev_export.verify.capture import Call, TableArrays
from bev_export.verify.compare import Array, Arrays
from bev_runtime.backends.graph_cut import PoolNode, cut_at_pool, find_pool, fix_inputs
from bev_runtime.manifest import Stage
from bev_runtime.model import ModelPackage
from bev_runtime.oracle import bev_pool_oracle

LOG_ERRORS = 3


class PlainGraph:
    """One ONNX graph in ONNX Runtime.

    Args:
        graph: complete, without operators of our own.
        inside: every tensor is given, not only the outputs.
        threads: of one operator; with 1 the graph is also left as it is written, otherwise
            ONNX Runtime may rewrite it as it does when serving.
    """

    def __init__(self, graph: onnx.ModelProto, *, inside: bool = False, threads: int = 1) -> None:
        shown = onnx.ModelProto()
        shown.CopyFrom(graph)
        given = {item.name for item in shown.graph.output}
        if inside:
            made = [name for node in shown.graph.node for name in node.output if name]
            extra = [helper.make_empty_tensor_value_info(n) for n in made if n not in given]
            shown.graph.output.extend(extra)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = LOG_ERRORS
        if threads == 1:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(
            shown.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = [item.name for item in self._session.get_inputs()]
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, tensors: Arrays) -> dict[str, Array]:
        """Every output (and tensor inside) by name."""
        made = self._session.run(None, {name: tensors[name] for name in self.inputs})
        return dict(zip(self.outputs, made, strict=True))


class PlainStage:
    """One stage of a package.

    Attributes:
        pool: its pooling node, None without one.
        order: tensors in the order in which the graph makes them.

    Args:
        graph: of the stage; edited.
        stage: what the manifest says of it.
        inside, threads: as for `PlainGraph`.
    """

    def __init__(
        self, graph: onnx.ModelProto, stage: Stage, *, inside: bool = False, threads: int = 1
    ) -> None:
        self.order = [name for node in graph.graph.node for name in node.output if name]
        self.pool = find_pool(graph)
        graph = fix_inputs(graph, stage, {})
        parts: tuple[onnx.ModelProto | None, ...] = (graph, None)
        if self.pool is not None:
            cut = cut_at_pool(graph, self.pool)
            parts = (cut.before, cut.after)
        self._before, self._after = (
            None if part is None else PlainGraph(part, inside=inside, threads=threads)
            for part in parts
        )

    def run(
        self, tensors: Arrays, table: TableArrays | None, weights: Array | None
    ) -> dict[str, Array]:
        """What the stage makes, and what is pooled; with `inside` everything. In the order of the
        graph's nodes.

        Args:
            tensors: the stage's inputs, and others.
            table: as in `Call`.
            weights: as in `Call`.
        """
        made: dict[str, Array] = {}
        if self._before is not None:
            made |= self._before.run(tensors)
        pool = self.pool
        if pool is not None:
            made[pool.output] = pool_exactly(pool, {**tensors, **made}, table, weights).astype(
                np.float32
            )
        if self._after is not None:
            made |= self._after.run({**tensors, **made})
        return {name: made[name] for name in self.order if name in made}


def pool_exactly(
    pool: PoolNode, tensors: Arrays, table: TableArrays | None, weights: Array | None
) -> Array:
    """What the pooling node computes, float64 [1, rows, columns, C]; arguments as for
    `PlainStage.run`.
    """
    if table is None or weights is None:
        raise ValueError("the stage pools features, but the call has no pooling table")
    depth = weights.reshape(1, 1, 1, -1) if pool.constant_depth else tensors[pool.depth]
    return bev_pool_oracle(depth, tensors[pool.feat], *table, *pool.size)


def run_plainly(
    model: ModelPackage, call: Call, *, inside: bool = False, threads: int = 1
) -> dict[str, dict[str, Array]]:
    """Runs the stages of a call on its inputs; the tensors that each makes, by stage.

    Args:
        model: whose graphs.
        call: what the runtime gave to its stages.
        inside: as for `PlainGraph`.
        threads: as for `PlainGraph`.
    """
    known: dict[str, Array] = dict(call.inputs)
    made: dict[str, dict[str, Array]] = {}
    for name in call.stages:
        stage = model.manifest.stage(name)
        assert stage is not None  # the runtime ran it
        plain = PlainStage(model.stage_graph(name), stage, inside=inside, threads=threads)
        made[name] = plain.run(known, call.table, call.weights)
        known |= made[name]
    return made


def outputs_of(model: ModelPackage, made: Mapping[str, Arrays]) -> dict[str, Array]:
    """Of all tensors by stage, those that the manifest names."""
    out: dict[str, Array] = {}
    for name, tensors in made.items():
        stage = model.manifest.stage(name)
        assert stage is not None
        out |= {tensor.name: tensors[tensor.name] for tensor in stage.outputs}
    return out
