"""Memory, streams and graphs of a CUDA device, through cuda-python's runtime bindings.

Everything is allocated once, at load. Calls raise; nothing returns a code.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import BackendError, MissingExtraError

Array = NDArray[Any]
Shape = tuple[int, ...]
Untyped: TypeAlias = Any
"""An object of a library that ships no type information."""


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device: `name`, and compute capability 8.9 as `sm` 89."""

    name: str
    sm: int


def cuda_runtime() -> Untyped:
    """The module of cuda-python.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as problem:
        raise MissingExtraError(
            f"CUDA cannot be used from Python ({problem}): install it with pip install "
            "cuda-bindings"
        ) from problem


def find_device() -> Device | None:
    """The first CUDA device, None where there is no driver, no device or no cuda-python."""
    try:
        return open_device()
    except (BackendError, MissingExtraError):
        return None


def open_device() -> Device:
    """The first CUDA device.

    Raises:
        BackendError: there is no driver or no device.
        MissingExtraError: cuda-python is not installed.
    """
    cuda = cuda_runtime()
    code, count = cuda.cudaGetDeviceCount()
    if code.name != "cudaSuccess" or not count:
        raise BackendError(
            f"no CUDA device: the driver says {code.name}, expected a GPU and its driver "
            "(nvidia-smi shows it). Run with --backend onnxruntime, or build engines for another "
            "machine with 'bev-runtime build MODEL --sm 89'"
        )
    properties = check(cuda.cudaGetDeviceProperties(0), "cudaGetDeviceProperties")
    name = bytes(properties.name).split(b"\0")[0].decode()
    return Device(name, int(properties.major) * 10 + int(properties.minor))


def check(answer: tuple[Untyped, ...], what: str) -> Untyped:
    """The value of a CUDA call.

    Raises:
        BackendError: the call failed.
    """
    code, *values = answer
    if code.name != "cudaSuccess":
        raise BackendError(
            f"CUDA: {what} failed with {code.name}: the device cannot be used any more, restart "
            "the process; if it was short of memory, free some first"
        )
    return values[0] if len(values) == 1 else tuple(values)


class DeviceBuffer:
    """Memory of the largest size of a tensor on the device, and the same in pinned host memory.

    Owned by whoever made it; `close` frees both. `host` views are valid until then.
    """

    def __init__(self, dtype: str, max_shape: Shape) -> None:
        self._cuda = cuda_runtime()
        self.dtype, self.max_shape = np.dtype(dtype), max_shape
        self.capacity = max(math.prod(max_shape) * self.dtype.itemsize, 1)
        self.address = int(check(self._cuda.cudaMalloc(self.capacity), "cudaMalloc"))
        check(self._cuda.cudaMemset(self.address, 0, self.capacity), "cudaMemset")
        check(self._cuda.cudaMemset(self.address, 0, self.capacity), "cudaMemset")
        try:
            self._pinned = int(check(self._cuda.cudaHostAlloc(self.capacity, 0), "cudaHostAlloc"))
        except BackendError:
            self._cuda.cudaFree(self.address)
            raise
        block = (ctypes.c_uint8 * self.capacity).from_address(self._pinned)
        count = math.prod(max_shape) * self.dtype.itemsize
        self._host: Array = np.ctypeslib.as_array(block)[:count].view(self.dtype)
        self._host[...] = 0

    def host(self, shape: Shape) -> Array:
        """The pinned memory as an array of a shape."""
        view: Array = self._host[: math.prod(shape)].reshape(shape)
        return view

    def upload(self, array: Array, stream: int) -> None:
        """Enqueues a copy to the device, in the buffer's dtype; the caller may reuse `array` at
        once.
        """
        if array.nbytes:
            np.copyto(self.host(array.shape), array)
            self.send(array.shape, stream)

    def send(self, shape: Shape, stream: int) -> None:
        """Enqueues a copy of what `host(shape)` holds to the device."""
        size = self.host(shape).nbytes
        if size:
            self._copy(self.address, self._pinned, size, "HostToDevice", stream)

    def download(self, shape: Shape, stream: int) -> Array:
        """Enqueues a copy to the host; the array holds it once the stream was synchronised."""
        host = self.host(shape)
        if host.nbytes:
            self._copy(self._pinned, self.address, host.nbytes, "DeviceToHost", stream)
        return host

    def clear(self, stream: int) -> None:
        """Enqueues zeros."""
        check(self._cuda.cudaMemsetAsync(self.address, 0, self.capacity, stream), "cudaMemset")

    def close(self) -> None:
        """Frees the memory."""
        if self.address:
            check(self._cuda.cudaFree(self.address), "cudaFree")
            check(self._cuda.cudaFreeHost(self._pinned), "cudaFreeHost")
            self.address = 0

    def _copy(self, to: int, source: int, size: int, direction: str, stream: int) -> None:
        kind = getattr(self._cuda.cudaMemcpyKind, f"cudaMemcpy{direction}")
        check(self._cuda.cudaMemcpyAsync(to, source, size, kind, stream), "cudaMemcpyAsync")


class Stream:
    """One CUDA stream, and graphs that were captured on it."""

    def __init__(self) -> None:
        self._cuda = cuda_runtime()
        self._stream = check(self._cuda.cudaStreamCreate(), "cudaStreamCreate")
        self.handle = int(self._stream)
        self._events: dict[str, Any] = {}
        self._marked: list[str] = []

    def mark(self, name: str) -> None:
        """Enqueues a time stamp: `start X` before X, and `X` after it."""
        if name not in self._events:
            self._events[name] = check(self._cuda.cudaEventCreate(), "cudaEventCreate")
        check(self._cuda.cudaEventRecord(self._events[name], self._stream), "cudaEventRecord")
        self._marked.append(name)

    def read_marks(self, times_ms: dict[str, float]) -> None:
        """Writes the device time between each pair of marks, once the stream was synchronised."""
        for name in self._marked:
            start = self._events.get(f"start {name}")
            if start is not None:
                answer = self._cuda.cudaEventElapsedTime(start, self._events[name])
                times_ms[name] = float(check(answer, "cudaEventElapsedTime"))
        self._marked.clear()

    def synchronise(self) -> None:
        """Waits for all that was enqueued."""
        check(self._cuda.cudaStreamSynchronize(self._stream), "cudaStreamSynchronize")

    def capture(self, work: Callable[[], None]) -> Untyped:
        """Records what `work` enqueues as a graph, without running it."""
        cuda = self._cuda
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cuda.cudaStreamBeginCapture(self._stream, mode), "cudaStreamBeginCapture")
        try:
            work()
        finally:
            graph = check(cuda.cudaStreamEndCapture(self._stream), "cudaStreamEndCapture")
        executable = check(cuda.cudaGraphInstantiate(graph, 0), "cudaGraphInstantiate")
        check(cuda.cudaGraphDestroy(graph), "cudaGraphDestroy")
        return executable

    def launch(self, graph: Untyped) -> None:
        """Enqueues a captured graph."""
        check(self._cuda.cudaGraphLaunch(graph, self._stream), "cudaGraphLaunch")

    def free_graph(self, graph: Untyped) -> None:
        """Frees a captured graph."""
        check(self._cuda.cudaGraphExecDestroy(graph), "cudaGraphExecDestroy")

    def close(self) -> None:
        """Frees the stream and its events."""
        for event in self._events.values():
            check(self._cuda.cudaEventDestroy(event), "cudaEventDestroy")
        self._events.clear()
        check(self._cuda.cudaStreamDestroy(self._stream), "cudaStreamDestroy")
