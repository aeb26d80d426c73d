"""Backends by name."""

from __future__ import annotations

import os
from importlib import import_module

from bev_runtime.backends.base import Backend
from bev_runtime.errors import MissingExtraError
from bev_runtime.model import ModelPackage

BACKENDS = {
    "onnxruntime": ("bev_runtime.backends.onnxruntime", "OnnxRuntimeBackend"),
    "openvino": ("bev_runtime.backends.openvino", "OpenVinoBackend"),
    "openvino_bf16": ("bev_runtime.backends.openvino", "OpenVinoBf16Backend"),
    "tensorrt": ("bev_runtime.backends.tensorrt", "TensorRtBackend"),
    "tensorrt_rtx": ("bev_runtime.backends.tensorrt", "TensorRtRtxBackend"),
}
"""Module and class of each backend."""
EXTRAS = {"openvino_bf16": "openvino"}
"""The extra of `pip install bev-runtime[EXTRA]`, where it has not the backend's name."""


def create_backend(name: str, model: ModelPackage, *, num_threads: int | None = None) -> Backend:
    """Makes a backend and loads a model into it, ready to run: buffers are allocated and every
    session ran once.

    Args:
        name: a key of BACKENDS.
        model: what to run.
        num_threads: CPU threads of one inference; all cores that this process may use when None.

    Raises:
        MissingExtraError: unknown name, or the engine's Python package is not installed.
        ModelError: a stage cannot be run by this backend.
        BackendError: the engine refused a stage.
    """
    if name not in BACKENDS:
        raise MissingExtraError(
            f"backend '{name}' is unknown, expected one of: {', '.join(sorted(BACKENDS))}"
        )
    module, class_name = BACKENDS[name]
    try:
        backend: type[Backend] = getattr(import_module(module), class_name)
    except ImportError as problem:
        raise MissingExtraError(
            f"backend '{name}' cannot be imported ({problem}): install it with pip install "
            f"'bev-runtime[{EXTRAS.get(name, name)}]'"
        ) from problem
    return backend(model, num_threads=num_threads or len(os.sched_getaffinity(0)))
