"""BevPool between two engines: on the device with the CUDA kernels, or on the CPU without them."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from bev_runtime.backends.device_memory import DeviceBuffer, Shape, Stream
from bev_runtime.bevpool import BevPoolTable, bev_pool
from bev_runtime.errors import BackendError, ModelError

NATIVE = Path(__file__).parents[1] / "_native"
KERNELS = NATIVE / "libbev_runtime_cuda.so"
"""Where an installation has the CUDA kernels, built from plugins/cuda."""
ABI_VERSION = 1
DTYPES = {"float32": 0, "float16": 1}
TABLE = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")


class PoolJob(ctypes.Structure):
    """`struct BevCudaPool` of cuda_kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("depth", "feat", *TABLE, "out")),
        *(
            (name, ctypes.c_int64)
            for name in (
                "num_depth",
                "num_feat",
                "num_points",
                "num_intervals",
                "num_cells",
                "channels",
            )
        ),
        ("dtype", ctypes.c_int32),
        ("channels_first", ctypes.c_int32),
    )


def open_kernels(path: Path) -> ctypes.CDLL:
    """Opens the CUDA kernels.

    Raises:
        BackendError: the file is no such library or of another version.
    """
    try:
        library = ctypes.CDLL(str(path))
        library.bev_cuda_abi_version.restype = ctypes.c_int64
        version = library.bev_cuda_abi_version()
        library.bev_cuda_pool.restype = ctypes.c_int64
        library.bev_cuda_pool.argtypes = [ctypes.POINTER(PoolJob), ctypes.c_void_p]
    except (OSError, AttributeError) as problem:
        raise BackendError(
            f"{path} is not the library of CUDA kernels ({problem}): build it from plugins/cuda"
        ) from None
    if version != ABI_VERSION:
        raise BackendError(
            f"{path} has ABI version {version}, expected {ABI_VERSION}: build it again from "
            "plugins/cuda"
        )
    return library


class DevicePool:
    """Pools one stage's features.

    Args:
        buffers: of `depth` (in the table's order where its weights are constant), of `feat`
            [N, H, W, C] and of the output [1, rows, columns, C].
        ranks: buffers of the five arrays of the table, in the operator's order.
        stream: where the kernel is enqueued.
        kernels: see `open_kernels`; None pools on the CPU.
        num_threads: of the CPU kernel.

    Raises:
        ModelError: features that no kernel takes.
    """

    def __init__(
        self,
        *,
        buffers: tuple[DeviceBuffer, DeviceBuffer, DeviceBuffer],
        ranks: tuple[DeviceBuffer, ...],
        stream: Stream,
        kernels: ctypes.CDLL | None,
        num_threads: int,
    ) -> None:
        self._depth, self._feat, self._out = buffers
        self._ranks, self._stream, self._kernels = ranks, stream, kernels
        self._threads = num_threads
        name = self._feat.dtype.name
        if name not in DTYPES or self._depth.dtype != self._feat.dtype:
            raise ModelError(
                f"pooled features are {name} with depth {self._depth.dtype.name}, expected both to "
                f"be {' or '.join(DTYPES)}: export the model with casts around the BevPool node"
            )
        self._job = PoolJob(
            depth=self._depth.address,
            feat=self._feat.address,
            out=self._out.address,
            num_cells=self._out.max_shape[1] * self._out.max_shape[2],
            channels=self._feat.max_shape[3],
            dtype=DTYPES[name],
            channels_first=0,
        )
        for field, buffer in zip(TABLE, ranks, strict=True):
            setattr(self._job, field, buffer.address)

    def run(
        self, table: BevPoolTable, depth_shape: Shape, feat_shape: Shape, *, constant_depth: bool
    ) -> None:
        """Enqueues the pooling; on the CPU it waits for the features first.

        Raises:
            BackendError: the table does not fit the features.
        """
        if self._kernels is not None:
            self._run_device(table, depth_shape, feat_shape, constant_depth=constant_depth)
            return
        handle = self._stream.handle
        feat: Any = self._feat.download(feat_shape, handle)
        depth: Any = self._depth.host(depth_shape)
        if not constant_depth:
            self._depth.download(depth_shape, handle)
        self._stream.synchronise()
        if constant_depth:
            np.copyto(depth, table.weights.reshape(depth.shape))
        out = self._out.host(self._out.max_shape)
        try:
            bev_pool(depth, feat, table, out, self._threads)
        except ValueError as problem:
            raise BackendError(f"pooling between engines: {problem}") from None
        self._out.send(out.shape, handle)

    def _run_device(
        self, table: BevPoolTable, depth_shape: Shape, feat_shape: Shape, *, constant_depth: bool
    ) -> None:
        handle, job = self._stream.handle, self._job
        for field, buffer in zip(TABLE, self._ranks, strict=True):
            buffer.upload(getattr(table, field), handle)
        if constant_depth:
            self._depth.upload(table.weights, handle)
        job.num_depth = table.num_points if constant_depth else int(np.prod(depth_shape))
        job.num_feat = int(np.prod(feat_shape[:3]))
        job.num_points, job.num_intervals = table.num_points, table.num_intervals
        assert self._kernels is not None
        code = self._kernels.bev_cuda_pool(ctypes.byref(job), handle)
        if code:
            raise BackendError(
                f"bev_cuda_pool failed with {code} (see cuda_kernels.h) for {table.num_points} "
                f"points and {job.num_feat} pixels: the device cannot be used, restart the process"
            )
