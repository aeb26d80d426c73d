"""TensorRT and TensorRT-RTX: one code path, the Python module differs.

Inputs go up once, stages hand their tensors on in device memory, outputs come down once; everything
is enqueued on one stream. Only a machine with a GPU can run this; engines are built without one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from bev_runtime.backends.base import Array, Backend, Shape
from bev_runtime.backends.device_memory import DeviceBuffer, Stream, Untyped, open_device
from bev_runtime.backends.device_pool import KERNELS, NATIVE, TABLE, DevicePool, open_kernels
from bev_runtime.backends.engine_build import get_engine
from bev_runtime.backends.engine_cache import EngineCache
from bev_runtime.backends.engine_parts import StageParts, stage_parts
from bev_runtime.backends.engine_target import Target, import_library, make_target
from bev_runtime.backends.tensorrt_engine import EngineRunner
from bev_runtime.bevpool import BevPoolTable
from bev_runtime.errors import BackendError
from bev_runtime.manifest import Stage, Tensor
from bev_runtime.model import ModelPackage

PLUGIN = NATIVE / "libbev_runtime_tensorrt.so"
log = logging.getLogger(__name__)


class TensorRtBackend(Backend):
    """Full TensorRT, with the BevPool plugin inside the camera engine where it is installed.

    Args:
        model: the checked package.
        num_threads: of the CPU pooling kernel, where the CUDA kernels are not installed.
        cache: folder of the engines; see `engine_cache.default_folder`.
        plugin: the BevPool plugin; the installed one when None.

    Raises:
        BackendError: no GPU, or an engine cannot be built or loaded.
        MissingExtraError: the library is not installed.
    """

    library: ClassVar[str] = "tensorrt"

    def __init__(
        self,
        model: ModelPackage,
        *,
        num_threads: int,
        cache: Path | None = None,
        plugin: Path | None = None,
    ) -> None:
        super().__init__(model, num_threads=num_threads)
        trt = import_library(self.library)
        device = open_device()
        if self.library == "tensorrt" and plugin is None and PLUGIN.is_file():
            plugin = PLUGIN
        target = make_target(self.library, sm=(device.sm,), gpu=device.name, plugin=plugin)
        self._buffers: dict[str, DeviceBuffer] = {}
        self._stages: dict[str, _DeviceStage] = {}
        self._stream = Stream()
        # The registry and the logger must outlive every engine.
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        try:
            self._load(model, trt, target, EngineCache(cache))
        except BaseException:
            self.close()
            raise
        log.info(
            "%s %s on %s: %d buffers", self.library, target.version, device, len(self._buffers)
        )

    def _load(self, model: ModelPackage, trt: Untyped, target: Target, cache: EngineCache) -> None:
        """Engines, buffers, and a first run of everything."""
        with_plugin = target.plugin is not None
        if with_plugin:
            registry = self._runtime.get_plugin_registry()
            if registry.load_library(str(target.plugin)) is None:
                raise BackendError(
                    f"plugin {target.plugin} was refused by {self.library} {target.version}, the "
                    "log has its reason: build it again from plugins/tensorrt"
                )
        for stage in model.manifest.stages:
            parts = stage_parts(model, stage.name, with_plugin=with_plugin)
            runners: list[EngineRunner] = []
            self._stages[stage.name] = _DeviceStage(self, stage, parts, runners, self._stream)
            for part in parts.parts:
                built = get_engine(model, part, target, cache)
                buffers = {
                    tensor.name: self.buffer(stage, tensor)
                    for tensor in (*part.inputs, *part.outputs)
                }
                runners.append(
                    EngineRunner(
                        trt,
                        self._runtime,
                        part,
                        built.engine.data,
                        buffers=buffers,
                        stream=self._stream,
                        graph_symbols=self._camera_symbols(),
                    )
                )
            self._stages[stage.name].warm_up(self._dimensions)
        self._stream.synchronise()

    def buffer(self, stage: Stage, tensor: Tensor) -> DeviceBuffer:
        """The memory of a tensor; tensors inside a stage are not seen by others."""
        public = {item.name for item in (*stage.inputs, *stage.outputs)}
        key = tensor.name if tensor.name in public else f"{stage.name}/{tensor.name}"
        if key not in self._buffers:
            self._buffers[key] = DeviceBuffer(tensor.dtype, self.max_shape(tensor))
        held = self._buffers[key]
        if held.max_shape != self.max_shape(tensor) or held.dtype.name != tensor.dtype:
            raise BackendError(
                f"tensor '{tensor.name}' is {tensor.dtype} {list(self.max_shape(tensor))} in stage "
                f"'{stage.name}', another stage has {held.dtype} {list(held.max_shape)}: give it "
                "another name in one of them"
            )
        return held

    def infer_impl(
        self,
        stages: Sequence[Stage],
        inputs: Mapping[str, Array],
        sizes: Mapping[str, int],
        table: BevPoolTable | None,
    ) -> Mapping[str, Array]:
        """See `Backend.infer_impl`. The arrays are views of pinned memory."""
        for name, array in inputs.items():
            self._buffers[name].upload(array, self._stream.handle)
        for stage in stages:
            self._stages[stage.name].enqueue(sizes, table)
        outputs = {
            tensor.name: self._buffers[tensor.name].download(
                self.shape_of(tensor, sizes), self._stream.handle
            )
            for stage in stages
            for tensor in stage.outputs
        }
        self._stream.synchronise()
        self._stream.read_marks(self._timings)
        return outputs

    def close(self) -> None:
        """See `Backend.close`."""
        for stage in self._stages.values():
            stage.close()
        self._stages.clear()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        self._stream.close()

    def _camera_symbols(self) -> set[str]:
        """The symbol of the number of cameras: its values repeat, those of a table do not."""
        stage = self.manifest.stage("camera_branch")
        shapes = [] if stage is None else [t.shape for t in stage.inputs if t.name == "images"]
        return {item for shape in shapes for item in shape[:1] if isinstance(item, str)}


class TensorRtRtxBackend(TensorRtBackend):
    """TensorRT-RTX: takes no plugins, so the camera stage is two engines around the kernel."""

    library = "tensorrt_rtx"


class _DeviceStage:
    """A stage: its engines in order, and the pooling between or inside them."""

    def __init__(
        self,
        backend: TensorRtBackend,
        stage: Stage,
        parts: StageParts,
        runners: Sequence[EngineRunner],
        stream: Stream,
    ) -> None:
        self._backend, self._stage, self._parts = backend, stage, parts
        self._runners, self._stream = runners, stream
        self._node = backend.pool_node(stage.name)
        self._tensors = {tensor.name: tensor for tensor in stage.inputs}
        self._pool: DevicePool | None = None
        if parts.pool is not None and parts.feat is not None:
            node, feat = parts.pool, parts.feat
            depth = parts.depth or self._tensors[node.depth]
            out = Tensor.model_validate(
                {
                    "name": node.output,
                    "dtype": feat.dtype,
                    "shape": (1, *node.size, backend.max_shape(feat)[3]),
                }
            )
            self._feat, self._depth = feat, depth
            self._pool = DevicePool(
                buffers=(
                    backend.buffer(stage, depth),
                    backend.buffer(stage, feat),
                    backend.buffer(stage, out),
                ),
                ranks=tuple(backend.buffer(stage, self._tensors[name]) for name in node.ranks),
                stream=stream,
                kernels=open_kernels(KERNELS) if KERNELS.is_file() else None,
                num_threads=backend.num_threads,
            )

    def enqueue(self, sizes: Mapping[str, int], table: BevPoolTable | None) -> None:
        """Enqueues the stage behind what is on the stream."""
        if self._node is not None and self._pool is None and table is not None:
            self._upload_table(table)
            sizes = {name: max(value, 1) for name, value in sizes.items()}
        pooled = self._pool is None
        for runner in self._runners:
            if not pooled and runner.part.name.endswith(".decoder"):
                self._run_pool(sizes, table)
                pooled = True
            self._stream.mark(f"start {runner.part.name}")
            shapes = {
                tensor.name: self._backend.shape_of(tensor, sizes) for tensor in runner.part.inputs
            }
            if all(0 not in shape for shape in shapes.values()):
                runner.enqueue(shapes)
            self._stream.mark(runner.part.name)
        if not pooled:
            self._run_pool(sizes, table)

    def warm_up(self, sizes: Mapping[str, int]) -> None:
        """Runs every engine on the largest shapes, twice: the second run captures a graph."""
        for runner in self._runners:
            shapes = {
                tensor.name: self._backend.shape_of(tensor, sizes) for tensor in runner.part.inputs
            }
            for _ in range(2):
                runner.enqueue(shapes)

    def _run_pool(self, sizes: Mapping[str, int], table: BevPoolTable | None) -> None:
        assert self._pool is not None
        assert self._node is not None
        assert table is not None  # Backend.infer checked it
        self._stream.mark("start bev_pool")
        constant = self._node.constant_depth
        depth: Shape = (1, 1, 1, table.num_points)
        if not constant:
            depth = self._backend.shape_of(self._depth, sizes)
        feat = self._backend.shape_of(self._feat, sizes)
        self._pool.run(table, depth, feat, constant_depth=constant)
        self._stream.mark("bev_pool")

    def _upload_table(self, table: BevPoolTable) -> None:
        """For the plugin: the table's arrays are inputs of the engine. An empty table has one
        interval of no points, because the engine's profile begins at one.
        """
        assert self._node is not None
        handle, stage = self._stream.handle, self._stage
        names = dict(zip(TABLE, self._node.ranks, strict=True))
        for field, name in names.items():
            buffer = self._backend.buffer(stage, self._tensors[name])
            array = getattr(table, field)
            if array.size:
                buffer.upload(array, handle)
            else:
                buffer.clear(handle)
        if self._node.constant_depth:
            depth = self._backend.buffer(stage, self._tensors[self._node.depth])
            if table.num_points:
                depth.upload(table.weights, handle)
            else:
                depth.clear(handle)

    def close(self) -> None:
        """Frees the engines."""
        for runner in self._runners:
            runner.close()
