"""Device memory, streams and graphs through the CUDA driver, with ctypes alone."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np

HANDLE = ctypes.c_void_p
GLOBAL_CAPTURE, NON_BLOCKING = 0, 1


class Device:
    """The first GPU, through the context that the CUDA runtime shares.

    Raises:
        OSError: no driver.
        RuntimeError: a call failed.
    """

    def __init__(self) -> None:
        self._driver = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        device, context = ctypes.c_int(0), HANDLE()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        major, minor = ctypes.c_int(0), ctypes.c_int(0)
        self._call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
        self._call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
        self.architecture = f"{major.value}{minor.value}"
        self.stream = HANDLE()
        self._call("cuStreamCreate", ctypes.byref(self.stream), NON_BLOCKING)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code != 0:
            raise RuntimeError(f"{name} failed with CUresult {code}")

    def empty(self, bytes_: int) -> DeviceArray:
        """Memory of a size, not initialised."""
        pointer = ctypes.c_uint64(0)
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(max(bytes_, 1)))
        return DeviceArray(self, pointer.value, bytes_)

    def put(self, array: np.ndarray) -> DeviceArray:
        """A copy of an array."""
        memory = self.empty(array.nbytes)
        memory.write(array)
        return memory

    def synchronise(self) -> None:
        """Waits for the stream."""
        self._call("cuStreamSynchronize", self.stream)

    def graph(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Captures what `enqueue` puts into the stream; the result launches it once more."""
        graph, executable = HANDLE(), HANDLE()
        self._call("cuStreamBeginCapture_v2", self.stream, GLOBAL_CAPTURE)
        enqueue()
        self._call("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        flags = ctypes.c_uint64(0)
        self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        return lambda: self._call("cuGraphLaunch", executable, self.stream)

    def time_ms(self, work: Callable[[], None]) -> float:
        """Milliseconds of the stream from before `work` to after it."""
        events, taken = (HANDLE(), HANDLE()), ctypes.c_float(0)
        for event in events:
            self._call("cuEventCreate", ctypes.byref(event), 0)
        self._call("cuEventRecord", events[0], self.stream)
        work()
        self._call("cuEventRecord", events[1], self.stream)
        self._call("cuEventSynchronize", events[1])
        self._call("cuEventElapsedTime", ctypes.byref(taken), *events)
        for event in events:
            self._call("cuEventDestroy_v2", event)
        return taken.value

    def copy(self, pointer: int, array: np.ndarray, *, to_device: bool) -> None:
        """Copies between an array and the device."""
        size, at = ctypes.c_size_t(array.nbytes), ctypes.c_uint64(pointer)
        host = HANDLE(array.ctypes.data)
        if to_device:
            self._call("cuMemcpyHtoD_v2", at, host, size)
        else:
            self._call("cuMemcpyDtoH_v2", host, at, size)

    def release(self, pointer: int) -> None:
        """Gives memory back."""
        self._call("cuMemFree_v2", ctypes.c_uint64(pointer))


class DeviceArray:
    """Memory on the device; freed with the object."""

    def __init__(self, device: Device, pointer: int, size: int) -> None:
        self._device, self.pointer, self.size = device, pointer, size

    def write(self, array: np.ndarray) -> None:
        """Overwrites the front of the memory."""
        contiguous = np.ascontiguousarray(array)
        assert contiguous.nbytes <= self.size
        if contiguous.nbytes:
            self._device.copy(self.pointer, contiguous, to_device=True)

    def read(self, shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
        """The front of the memory, after all work of the stream."""
        self._device.synchronise()
        array = np.empty(shape, dtype)
        if array.nbytes:
            self._device.copy(self.pointer, array, to_device=False)
        return array

    def __del__(self) -> None:
        self._device.release(self.pointer)
