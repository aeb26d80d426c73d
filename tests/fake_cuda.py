"""A CUDA runtime in host memory, for backends whose GPU is missing.

Nothing runs before the stream is synchronised, as late as a real device may be: a copy that was
enqueued too late, memory that was reused too early and a result that was read too soon all show.
Fresh memory holds garbage. Each call that a real device refuses raises AssertionError here.
"""
# ruff: noqa: N802, N815 - the names are CUDA's

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

GARBAGE = 0xC7
OK = SimpleNamespace(name="cudaSuccess")
Work = Callable[[], None]


class FakeCuda:
    """The functions of `cuda.bindings.runtime` that the backends call, for one stream."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.events: set[int] = set()
        self.graphs: dict[int, list[Work]] = {}
        self.queue: list[Work] = []
        self.captured: list[Work] | None = None
        self.counts = {"malloc": 0, "capture": 0, "launch": 0}
        self.broken = ""
        self._next = 1

    @property
    def held(self) -> int:
        """Everything that was made and not freed."""
        return len(self.memory) + len(self.streams) + len(self.events) + len(self.graphs)

    def enqueue(self, work: Work) -> None:
        """Runs later, or becomes part of the graph that is being captured."""
        (self.queue if self.captured is None else self.captured).append(work)

    def cudaGetDeviceCount(self) -> tuple[Any, int]:
        return OK, 1

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, Any]:
        assert index == 0
        return OK, SimpleNamespace(name=b"Pretended GPU" + bytes(243), major=8, minor=9)

    def cudaMalloc(self, size: int) -> tuple[Any, int]:
        assert self.captured is None, "memory is allocated while a graph is captured"
        block = (ctypes.c_uint8 * size)()
        ctypes.memset(block, GARBAGE, size)
        address = ctypes.addressof(block)
        self.memory[address] = block
        self.counts["malloc"] += 1
        return OK, address

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int]:
        assert flags == 0
        return self.cudaMalloc(size)

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.memory[address]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaMemset(self, address: int, value: int, size: int) -> tuple[Any]:
        ctypes.memset(address, value, size)
        return (OK,)

    def cudaMemsetAsync(self, address: int, value: int, size: int, _: int) -> tuple[Any]:
        self.enqueue(lambda: ctypes.memset(address, value, size))
        return (OK,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, _: int) -> tuple[Any]:
        assert kind in (1, 2)
        self.enqueue(lambda: ctypes.memmove(to, source, size))
        return (OK,)

    def cudaStreamCreate(self) -> tuple[Any, int]:
        return OK, self._make(self.streams)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any]:
        self.streams.remove(stream)
        return (OK,)

    def cudaStreamSynchronize(self, _: int) -> tuple[Any]:
        assert self.captured is None, "a stream that is being captured cannot be waited for"
        if self.broken:
            return (SimpleNamespace(name=self.broken),)
        while self.queue:
            self.queue.pop(0)()
        return (OK,)

    def cudaStreamBeginCapture(self, _: int, mode: int) -> tuple[Any]:
        assert self.captured is None
        assert mode == 1
        self.captured = []
        return (OK,)

    def cudaStreamEndCapture(self, _: int) -> tuple[Any, list[Work]]:
        assert self.captured
        graph, self.captured = self.captured, None
        self.counts["capture"] += 1
        return OK, graph

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, int]:
        assert flags == 0
        handle = self._make(set())
        self.graphs[handle] = list(graph)
        return OK, handle

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Any]:
        graph.clear()
        return (OK,)

    def cudaGraphLaunch(self, handle: int, _: int) -> tuple[Any]:
        self.counts["launch"] += 1
        self.queue.extend(self.graphs[handle])
        return (OK,)

    def cudaGraphExecDestroy(self, handle: int) -> tuple[Any]:
        assert not self.queue, "a graph is freed that may still run"
        del self.graphs[handle]
        return (OK,)

    def cudaEventCreate(self) -> tuple[Any, int]:
        return OK, self._make(self.events)

    def cudaEventDestroy(self, event: int) -> tuple[Any]:
        self.events.remove(event)
        return (OK,)

    def cudaEventRecord(self, event: int, _: int) -> tuple[Any]:
        assert event in self.events
        return (OK,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, float]:
        assert not self.queue, "time stamps are read before the work is done"
        assert {start, end} <= self.events
        return OK, 0.25

    def _make(self, kind: set[int]) -> int:
        self._next += 1
        kind.add(self._next)
        return self._next


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory of the pretended device as an array."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    block = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(block, dtype).reshape(shape)
