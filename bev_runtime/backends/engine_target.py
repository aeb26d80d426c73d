"""What engines are built for: the library that builds, the GPU, the plugin."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from bev_runtime.backends.device_memory import Untyped
from bev_runtime.errors import BackendError, MissingExtraError

LIBRARIES = {
    "tensorrt": ("tensorrt",),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Modules that may provide each backend; the first that can be imported is used."""
RTX_TARGETS = (80, 86, 89, 120)
"""What an engine without a named target is built for: one file for Ampere to Blackwell. Turing (75)
is built on request: TensorRT-RTX has no float32 matrix products for it, and many networks do.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """What to build for.

    `backend`: a key of LIBRARIES. `module`: the module that builds. `version`: its version.
    `gpu`: name of the device, `any` without one. `sm`: compute capabilities, empty for the GPU of
    this machine. `plugin`: the BevPool library for full TensorRT, None to cut the graph there.
    """

    backend: str
    module: str
    version: str
    gpu: str = "any"
    sm: tuple[int, ...] = RTX_TARGETS
    plugin: Path | None = None

    @property
    def sm_text(self) -> str:
        """For names and keys: `89`, or `75,80,86`."""
        return ",".join(str(number) for number in self.sm)


def import_library(backend: str) -> Untyped:
    """The Python module of a TensorRT backend.

    Raises:
        MissingExtraError: none is installed, or a placeholder without the libraries.
    """
    problems = []
    for name in LIBRARIES[backend]:
        try:
            module: Any = import_module(name)
        except (ImportError, OSError, RuntimeError) as problem:
            problems.append(f"{name}: {problem}")
            continue
        if hasattr(module, "Builder"):
            return module
        problems.append(f"{name}: has no Builder, it is a placeholder")
    raise MissingExtraError(
        f"backend '{backend}' cannot be imported ({'; '.join(problems)}): install it with pip "
        f"install 'bev-runtime[{backend}]'"
        + ("" if backend == "tensorrt_rtx" else ", or TensorRT from NVIDIA's packages")
    )


def make_target(
    backend: str,
    *,
    sm: tuple[int, ...] = (),
    gpu: str = "any",
    plugin: Path | None = None,
) -> Target:
    """A target with the version that is installed.

    Args:
        backend: a key of LIBRARIES.
        sm: compute capabilities, RTX_TARGETS when empty; must be empty for full TensorRT without
            a GPU.
        gpu: the device's name.
        plugin: the BevPool plugin, full TensorRT only.

    Raises:
        BackendError: a target that this backend cannot build for.
        MissingExtraError: the library is not installed.
    """
    module = import_library(backend)
    if plugin is not None and backend != "tensorrt":
        raise BackendError(
            f"plugin {plugin}: TensorRT-RTX takes no plugins, leave it out: the graph is cut at "
            "the pooling node"
        )
    if plugin is not None and not plugin.is_file():
        raise BackendError(
            f"plugin {plugin} is no file, expected libbev_runtime_tensorrt.so: build it from "
            "plugins/tensorrt"
        )
    if backend == "tensorrt" and gpu == "any":
        raise BackendError(
            "backend 'tensorrt' builds for the GPU of this machine and there is none; build on the "
            "vehicle's computer, or use backend 'tensorrt_rtx' with --sm"
        )
    # RTX engines run on every GPU of their SM, so one that was built elsewhere is good here.
    gpu = gpu if backend == "tensorrt" else "any"
    return Target(backend, module.__name__, str(module.__version__), gpu, sm or RTX_TARGETS, plugin)
