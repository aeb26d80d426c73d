"""The pretended TensorRT (fake_tensorrt) with what TensorRT-RTX has in addition."""

from types import SimpleNamespace
from typing import Any

import fake_tensorrt as base
from fake_tensorrt import *  # noqa: F403

__version__ = "1.99.0"
CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
ComputeCapability = SimpleNamespace(__members__={f"SM{n}": n for n in (75, 80, 86, 89, 120)})
settings_seen: list[Any] = []


class Engine(base.Engine):
    """Captures graphs itself, if its settings say so."""

    def create_runtime_config(self) -> Any:
        return SimpleNamespace(cuda_graph_strategy=None)

    def create_execution_context(self, settings: Any = None) -> base.Context:
        settings_seen.append(settings)
        return super().create_execution_context()


class Runtime(base.Runtime):
    """Gives such engines."""

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        return Engine(data.removeprefix(base.MAGIC)) if data.startswith(base.MAGIC) else None


class Builder(base.Builder):
    """Builds for named GPUs."""

    def create_builder_config(self) -> Any:
        config = super().create_builder_config()
        config.num_compute_capabilities = 0
        config.set_compute_capability = lambda *_: None
        return config
