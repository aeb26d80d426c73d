"""A TensorRT whose engine is the ONNX graph, evaluated on a pretended device (fake_cuda).

It holds its callers to the rules of the real one: addresses and shapes are set before a run, a
capture follows a run with the same shapes, a captured graph is not replayed with other shapes.
The library that TensorRT-RTX pretends to be is fake_tensorrt_rtx.
"""
# ruff: noqa: ARG001, ARG002 - the signatures are TensorRT's

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
from fake_cuda import FakeCuda, array_at
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bev_runtime.oracle import bev_pool_oracle

__version__ = "10.99.0"
cuda = FakeCuda()
"""Replaced by each test."""
loaded_plugins: list[str] = []
MAGIC = b"fake plan\n"
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
ProfilingVerbosity = SimpleNamespace(DETAILED=2)


class BevPool(OpRun):
    """The operator, by the oracle."""

    op_domain = "bev_runtime"

    def _run(self, depth, feat, *ranks, out_height=None, out_width=None):
        return (bev_pool_oracle(depth, feat, *ranks, out_height, out_width).astype(np.float32),)


BevPoolV2 = type("bev_pool_v2", (BevPool,), {})


class Registry:
    """The plugin registry."""

    def load_library(self, path: str) -> object | None:
        if "refused" in path:
            return None
        loaded_plugins.append(path)
        return object()


def get_plugin_registry() -> Registry:
    return Registry()


def init_libnvinfer_plugins(logger: object, namespace: str) -> bool:
    return True


class ILogger:
    """Base of loggers."""

    ERROR, INTERNAL_ERROR, WARNING, INFO = range(4)


class Logger(ILogger):
    """The library's own."""

    def __init__(self, level: int) -> None:
        assert level == ILogger.WARNING


class IProgressMonitor:
    """Base of monitors."""


class Builder:
    """Compiles by copying; the network knows what was parsed."""

    def __init__(self, logger: ILogger) -> None:
        self.logger = logger

    def create_network(self, flags: int) -> Any:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(num_layers=0, data=b"")

    def create_builder_config(self) -> Any:
        profiles: list[dict[str, Any]] = []
        return SimpleNamespace(profiles=profiles, add_optimization_profile=profiles.append)

    def create_optimization_profile(self) -> Any:
        profile = _Profile()
        return profile

    def build_serialized_network(self, network: Any, config: Any) -> bytes:
        config.progress_monitor.phase_start("Building", None, 1)
        config.progress_monitor.step_complete("Building", 0)
        config.progress_monitor.phase_finish("Building")
        self.logger.log(ILogger.WARNING, "this is a pretended build")
        names = {item.name for item in onnx.load_model_from_string(network.data).graph.input}
        assert set(config.profiles[0]) == names
        return MAGIC + network.data


class _Profile(dict):
    def set_shape(self, name: str, least: list, best: list, most: list) -> None:
        assert all(a <= b <= c for a, b, c in zip(least, best, most, strict=True))
        self[name] = (least, best, most)


class OnnxParser:
    """Takes any graph; without its plugin, none that pools."""

    num_errors = 1

    def __init__(self, network: Any, logger: ILogger) -> None:
        self.network = network

    def parse(self, data: bytes) -> bool:
        self.network.data = data
        nodes = onnx.load_model_from_string(data).graph.node
        return bool(loaded_plugins) or all(node.domain != "bev_runtime" for node in nodes)

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(node=lambda: 0, desc=lambda: "BevPool has no plugin")


class Runtime:
    """Gives engines."""

    def __init__(self, logger: ILogger) -> None:
        assert isinstance(logger, ILogger)

    def get_plugin_registry(self) -> Registry:
        return Registry()

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        return Engine(data.removeprefix(MAGIC)) if data.startswith(MAGIC) else None


class Engine:
    """A graph that can be run."""

    device_memory_size_v2 = 1 << 20

    def __init__(self, data: bytes) -> None:
        self.model = onnx.load_model_from_string(data)

    def create_execution_context(self, settings: object = None) -> Context:
        return Context(self.model)


class Context:
    """Runs a graph on the pretended device."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.evaluator = ReferenceEvaluator(model, new_ops=[BevPool, BevPoolV2])
        self.inputs = {item.name: item for item in model.graph.input}
        self.outputs = [item.name for item in model.graph.output]
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.ran: dict[str, tuple[int, ...]] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address in cuda.memory
        self.addresses[name] = address
        return name in self.inputs or name in self.outputs

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return 0 not in shape

    def execute_async_v3(self, stream: int) -> bool:
        assert stream in cuda.streams
        assert set(self.addresses) == {*self.inputs, *self.outputs}
        shapes = dict(self.shapes)
        assert set(shapes) == set(self.inputs)
        if cuda.captured is not None:
            assert self.ran == shapes, "captured before a run with these shapes"
        else:
            self.ran = shapes
        cuda.enqueue(lambda: self._compute(shapes))
        return True

    def _compute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        assert shapes == self.shapes, "a graph runs that was captured with other shapes"
        feeds = {}
        for name, item in self.inputs.items():
            dtype = helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
            feeds[name] = array_at(self.addresses[name], shapes[name], dtype).copy()
        for name, array in zip(self.outputs, self.evaluator.run(None, feeds), strict=True):
            array_at(self.addresses[name], array.shape, array.dtype)[...] = array
