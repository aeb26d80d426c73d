"""The BevPool operator on the CPU; `BevPoolTable` drives it.

`out[cell] = sum over its interval of depth[ranks_depth] * feat[ranks_feat]`, other cells are 0.
Sums run in the table's order, so results are the same to the bit for every number of threads.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from bev_runtime import native, numpy_kernels
from bev_runtime.aligned import aligned_zeros
from bev_runtime.pool_table import BevPoolTable

__all__ = ["BevPoolTable", "Floats", "PooledOutput", "bev_pool"]

Floats = numpy_kernels.Floats
UInt8 = NDArray[np.uint8]


def bev_pool(
    depth: Floats, feat: Floats, table: BevPoolTable, out: Floats, num_threads: int = 1
) -> None:
    """Pools image features into BEV cells, overwriting all of `out`.

    Sums are float32; with float16 arrays only their storage is half, and rounding comes last.

    Args:
        depth: float32 or float16 [N, D, H, W], or `table.weights` as [1, 1, 1, K].
        feat: [N, H, W, C], the type of `depth`.
        table: built for, or validated against, exactly these sizes; a table from elsewhere is
            validated on first use.
        out: [1, rows, columns, C], the type of `depth`, owned by the caller.
        num_threads: at most so many threads share the work; the result does not depend on it.

    Raises:
        ValueError: a shape, dtype or layout is wrong, or the table belongs to other sizes.
    """
    _pool(depth, feat, table, out, num_threads)


class PooledOutput:
    """Owns the output of pooling, so that a call need not clear cells that are 0 already.

    Most cells of a map have no points, and mostly the same ones as in the call before. With an
    array of its own, `bev_pool` must write zeros into all of them each time. Results are the same
    to the bit.

    Attributes:
        array: float32 or float16 [1, rows, columns, C], the last result, all 0 before the first
            call. Read-only: what others wrote into it would stay in cells without points.

    Args:
        size: rows and columns.
        channels: C.
        dtype: float32 or float16.
    """

    def __init__(
        self,
        size: tuple[int, int],
        channels: int,
        dtype: type[np.float32] | type[np.float16] = np.float32,
    ) -> None:
        rows, columns = size
        self._memory: Floats = aligned_zeros((1, rows, columns, channels), dtype)
        self._held = np.zeros(rows * columns, np.uint8)
        self.array: Floats = self._memory.view()
        self.array.flags.writeable = False

    def pool(
        self, depth: Floats, feat: Floats, table: BevPoolTable, num_threads: int = 1
    ) -> Floats:
        """Pools as `bev_pool` does.

        Returns:
            `array`, overwritten by the next call.

        Raises:
            ValueError: a shape, dtype or layout is wrong, or the table belongs to other sizes;
                `array` is as it was. Whatever else may raise, the next call is right again.
        """
        _pool(depth, feat, table, self._memory, num_threads, held=self._held)
        return self.array


def _pool(
    depth: Floats,
    feat: Floats,
    table: BevPoolTable,
    out: Floats,
    num_threads: int,
    *,
    held: UInt8 | None = None,
) -> None:
    """As `bev_pool`; with `held`, of the cells without points only those are cleared that need it.

    `held` is uint8 [rows * columns], 0 where `out` is 0, and is brought up to date. It never calls
    a cell 0 that is not, whatever raises on the way.
    """
    dtype = np.float16 if feat.dtype == np.float16 else np.float32
    for what, array in (("depth", depth), ("feat", feat), ("out", out)):
        if array.dtype != dtype or array.ndim != 4 or not array.flags.c_contiguous:
            raise ValueError(
                f"{what} is {array.dtype} {array.shape}, "
                f"expected a C-contiguous {dtype.__name__} array of 4 dimensions: convert it first"
            )
    channels = feat.shape[3]
    if out.shape[0] != 1 or out.shape[3] != channels or channels < 1 or not out.flags.writeable:
        raise ValueError(
            f"out is {out.shape} for feat {feat.shape}, "
            f"expected a writable [1, rows, columns, {channels}]"
        )
    if num_threads < 1:
        raise ValueError(f"num_threads is {num_threads}, expected 1 or more")
    if table.num_points == 0:
        out.fill(0.0)
        if held is not None:
            held.fill(0)
        return
    sizes = (depth.size, feat.size // channels, out.shape[1] * out.shape[2])
    if table.bounds is None:
        table.validate(*sizes)
    if table.bounds != sizes:
        raise ValueError(
            f"the table belongs to (depth elements, feature pixels, cells) = {table.bounds}, "
            f"the arrays have {sizes}: build it for the same cameras, feature size and grid"
        )
    library = native.load()
    if library is None:
        if held is not None:
            held.fill(1)
        numpy_kernels.pool(
            depth.reshape(-1),
            feat.reshape(-1, channels),
            (table.ranks_depth, table.ranks_feat, table.ranks_bev),
            (table.interval_starts, table.interval_lengths),
            out.reshape(-1, channels),
        )
        return
    pool = library.bev_pool_f16 if dtype is np.float16 else library.bev_pool_f32
    code = pool(
        depth.ctypes.data,
        feat.ctypes.data,
        channels,
        ctypes.byref(table.struct),
        out.ctypes.data,
        None if held is None else held.ctypes.data,
        sizes[2],
        num_threads,
    )
    native.check(code, "bev_pool")
