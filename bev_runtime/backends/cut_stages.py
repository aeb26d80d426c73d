"""Stages for engines on the CPU: sessions, and the native pooling kernel between the two parts of a
cut graph.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from bev_runtime.backends.base import Array, Backend
from bev_runtime.backends.graph_cut import PoolNode, cut_at_pool, fix_inputs
from bev_runtime.backends.session_parts import (
    CameraPart,
    Part,
    Session,
    Sizes,
    Tensors,
)
from bev_runtime.bevpool import BevPoolTable, PooledOutput
from bev_runtime.errors import BackendError, ModelError
from bev_runtime.manifest import Stage
from bev_runtime.model import ModelPackage


@dataclass(frozen=True, slots=True)
class _Call:
    """One inference: tensors by name (grows), values of the symbols, and where times go."""

    tensors: Tensors
    sizes: Sizes
    table: BevPoolTable | None
    timings: dict[str, float]

    def timed(self, name: str, work: Callable[[], None]) -> None:
        """Runs some work and notes its wall time in milliseconds."""
        start = time.perf_counter_ns()
        work()
        self.timings[name] = (time.perf_counter_ns() - start) / 1e6


class _PlainStage:
    """A stage without pooling: one session."""

    def __init__(self, backend: SessionBackend, stage: Stage, graph: onnx.ModelProto) -> None:
        session = backend.make_session(fix_inputs(graph, stage, {}), stage.name)
        self._part = Part(backend, session)
        _check_outputs(backend, stage, self._part.max_shapes)
        self._name = stage.name

    def run(self, call: _Call) -> None:
        """Adds the stage's outputs to the call's tensors."""
        call.timed(self._name, lambda: self._part.run(call.tensors, call.sizes))


class _PoolStage:
    """A stage cut at its pooling node: encoder, kernel, decoder."""

    def __init__(
        self, backend: SessionBackend, stage: Stage, graph: onnx.ModelProto, pool: PoolNode
    ) -> None:
        images = next((tensor for tensor in stage.inputs if tensor.name == "images"), None)
        symbol = images.shape[0] if images is not None else None
        self._count = symbol if isinstance(symbol, str) else None
        per_camera = stage.independent_cameras and self._count is not None
        fixed = {str(self._count): 1} if per_camera else {}
        cut = cut_at_pool(fix_inputs(graph, stage, fixed), pool)
        for tensor in (cut.feat, cut.depth):
            if tensor is not None and tensor.dtype != "float32":
                raise ModelError(
                    f"tensor '{tensor.name}' is {tensor.dtype}, the CPU pooling kernel takes "
                    "float32"
                )
        self._pool, self._stage, self._threads = pool, stage, backend.num_threads
        self._before: Part | CameraPart | None = None
        if cut.before is not None:
            session = backend.make_session(cut.before, f"{stage.name}.encoder")
            if per_camera:
                names = {
                    tensor.name for tensor in stage.inputs if tensor.shape[:1] == (self._count,)
                }
                self._before = CameraPart(backend, session, per_camera=names)
            else:
                self._before = Part(backend, session)
        self._after: Part | None = None
        if cut.after is not None:
            session = backend.make_session(cut.after, f"{stage.name}.decoder")
            self._after = Part(backend, session)
        *_, height, width, channels = backend.max_shape(cut.feat)
        view = backend.manifest.view_transform
        if view is None:
            raise ModelError(
                f"stage '{stage.name}' pools camera features, but the manifest has no "
                "'view_transform'"
            )
        if (width, height) != (view.feature_width, view.feature_height):
            raise ModelError(
                f"features of stage '{stage.name}' are {width}x{height}, the manifest's "
                f"view_transform says {view.feature_width}x{view.feature_height}: correct it"
            )
        self._out = PooledOutput(pool.size, channels)
        shapes: dict[str, tuple[int, ...]] = {pool.output: self._out.array.shape}
        for part in (self._before, self._after):
            shapes |= part.max_shapes if part is not None else {}
        _check_outputs(backend, stage, shapes)

    def run(self, call: _Call) -> None:
        """Adds the stage's outputs to the call's tensors."""
        # Tensors inside the stage are not seen by later stages, hence a mapping of their own.
        tensors = dict(call.tensors)
        name, after = self._stage.name, self._after
        if self._before is not None:
            call.timed(f"{name}.encoder", lambda: self._encode(tensors, call.sizes))
        tensors[self._pool.output] = self._out.array
        call.timed("bev_pool", lambda: self._run_pool(tensors, call.table))
        if after is not None:
            call.timed(f"{name}.decoder", lambda: after.run(tensors, call.sizes))
        for tensor in self._stage.outputs:
            call.tensors[tensor.name] = tensors[tensor.name]

    def _encode(self, tensors: Tensors, sizes: Sizes) -> None:
        if isinstance(self._before, CameraPart):
            self._before.run(tensors, sizes[str(self._count)])
        elif self._before is not None:
            self._before.run(tensors, sizes)

    def _run_pool(self, tensors: Tensors, table: BevPoolTable | None) -> None:
        assert table is not None  # Backend.infer checked it
        feat = tensors[self._pool.feat]
        if self._pool.constant_depth:
            depth = table.weights.reshape(1, 1, 1, table.num_points)
        else:
            depth = tensors[self._pool.depth]
        try:
            self._out.pool(depth, feat, table, self._threads)
        except ValueError as problem:
            raise BackendError(f"pooling in stage '{self._stage.name}': {problem}") from None


class SessionBackend(Backend):
    """Runs every stage in sessions on the CPU. See `Backend`."""

    def __init__(self, model: ModelPackage, *, num_threads: int) -> None:
        super().__init__(model, num_threads=num_threads)
        self._runners: dict[str, _PlainStage | _PoolStage] = {}
        for stage in model.manifest.stages:
            graph, pool = model.stage_graph(stage.name), self._pools[stage.name]
            if pool is None:
                self._runners[stage.name] = _PlainStage(self, stage, graph)
            else:
                self._runners[stage.name] = _PoolStage(self, stage, graph, pool)

    @abstractmethod
    def make_session(self, model: onnx.ModelProto, name: str) -> Session:
        """Loads one graph into the engine.

        Args:
            model: a graph without a pooling node, whose shapes were inferred.
            name: how messages and timings name it.

        Raises:
            BackendError: the engine refuses the graph.
        """

    def infer_impl(
        self,
        stages: Sequence[Stage],
        inputs: Mapping[str, Array],
        sizes: Sizes,
        table: BevPoolTable | None,
    ) -> Mapping[str, Array]:
        """See `Backend.infer_impl`."""
        call = _Call(dict(inputs), sizes, table, self._timings)
        for stage in stages:
            self._runners[stage.name].run(call)
        return {
            tensor.name: call.tensors[tensor.name] for stage in stages for tensor in stage.outputs
        }

    def close(self) -> None:
        """See `Backend.close`."""
        self._runners.clear()


def _check_outputs(backend: Backend, stage: Stage, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Compares what a stage really computes with the manifest, whatever the file says of itself."""
    for tensor in stage.outputs:
        expected = backend.max_shape(tensor)
        if shapes[tensor.name] != expected:
            raise ModelError(
                f"output '{tensor.name}' of stage '{stage.name}' has shape "
                f"{list(shapes[tensor.name])}, the manifest says {list(expected)}: export the "
                "package again"
            )
