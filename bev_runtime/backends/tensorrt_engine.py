"""One compiled engine on the device, reading and writing buffers that others own."""

from __future__ import annotations

from collections.abc import Mapping

from bev_runtime.backends.device_memory import DeviceBuffer, Shape, Stream, Untyped
from bev_runtime.backends.engine_parts import EnginePart
from bev_runtime.errors import BackendError


class EngineRunner:
    """An engine with its execution context, bound to buffers for its whole life.

    Args:
        trt: the module that built it.
        runtime: a `trt.Runtime`.
        part: what was compiled.
        data: the engine's bytes, whose hash was checked.
        buffers: of every input and output, by the engine's tensor names.
        stream: where work is enqueued.
        graph_symbols: symbols whose values repeat from frame to frame (the number of cameras);
            an engine with other symbols is enqueued without a graph.

    Raises:
        BackendError: the library refuses the engine or one of its tensors.
    """

    def __init__(
        self,
        trt: Untyped,
        runtime: Untyped,
        part: EnginePart,
        data: bytes,
        *,
        buffers: Mapping[str, DeviceBuffer],
        stream: Stream,
        graph_symbols: set[str],
    ) -> None:
        self.part, self._stream = part, stream
        self._engine = runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise BackendError(
                f"engine '{part.name}' was refused by the GPU's library although its key fits: "
                "delete it from the cache and build it again on this machine"
            )
        self._own_graphs = False
        self._context = self._make_context(trt)
        symbols = {item for tensor in part.inputs for item in tensor.shape if isinstance(item, str)}
        self._use_graphs = self._own_graphs and symbols <= graph_symbols
        self._graph: Untyped = None
        self._shapes: tuple[Shape, ...] | None = None
        for tensor in (*part.inputs, *part.outputs):
            if not self._context.set_tensor_address(tensor.name, buffers[tensor.name].address):
                raise BackendError(
                    f"engine '{part.name}' takes no memory for '{tensor.name}', expected it to be "
                    "an input or output: build the engine again"
                )

    def _make_context(self, trt: Untyped) -> Untyped:
        """TensorRT-RTX captures graphs itself; full TensorRT leaves that to its caller."""
        strategy = getattr(trt, "CudaGraphStrategy", None)
        if strategy is None:
            self._own_graphs = True
            context = self._engine.create_execution_context()
        else:
            settings = self._engine.create_runtime_config()
            settings.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE
            context = self._engine.create_execution_context(settings)
        if context is None:
            raise BackendError(
                f"engine '{self.part.name}': no memory on the GPU for its context "
                f"({self.device_bytes / 1e6:.0f} MB): free some, or use a smaller model"
            )
        return context

    @property
    def device_bytes(self) -> int:
        """Scratch memory of the engine on the device, without weights and buffers."""
        return int(self._engine.device_memory_size_v2)

    def enqueue(self, shapes: Mapping[str, Shape]) -> None:
        """Enqueues one inference; its inputs were enqueued on the same stream.

        Args:
            shapes: of every input.

        Raises:
            BackendError: a shape outside the engine's profile, or the device failed.
        """
        wanted = tuple([shapes[tensor.name] for tensor in self.part.inputs])
        if wanted != self._shapes:
            self._set_shapes(wanted)
            # The first run with new shapes may allocate, which a capture must not.
            self._execute()
            return
        if self._use_graphs and self._graph is None:
            self._graph = self._stream.capture(self._execute)
        if self._graph is not None:
            self._stream.launch(self._graph)
        else:
            self._execute()

    def _set_shapes(self, shapes: tuple[Shape, ...]) -> None:
        """A captured graph holds for the shapes of its context only."""
        self._forget_graph()
        self._shapes = None
        for tensor, shape in zip(self.part.inputs, shapes, strict=True):
            if not self._context.set_input_shape(tensor.name, shape):
                raise BackendError(
                    f"engine '{self.part.name}' refuses '{tensor.name}' of shape {list(shape)}, "
                    f"expected one of {self.part.profile_text}"
                )
        self._shapes = shapes

    def _forget_graph(self) -> None:
        if self._graph is not None:
            self._stream.synchronise()
            self._stream.free_graph(self._graph)
            self._graph = None

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(
                f"engine '{self.part.name}' failed on the device: restart the process; the log has "
                "TensorRT's reason"
            )

    def close(self) -> None:
        """Frees graph, context and engine; the buffers are their owner's."""
        self._forget_graph()
        self._context = self._engine = None
