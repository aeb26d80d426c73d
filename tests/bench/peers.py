"""Published ways to pool image features into BEV cells on the CPU, each with its best set-up.

Every peer gets its constant data (indices, buffers, sessions) made in advance and reads `depth` and
`feat` anew at each call; none allocates more in a call than its library does by itself. All run on
the calling thread only, so that its CPU time is their whole cost.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from bev_runtime.bevpool import BevPoolTable, PooledOutput, bev_pool

Peer = Callable[[], np.ndarray]
"""Pools once; float32 [cells, C], valid until the next call."""


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that begins at a multiple of 64 bytes, as torch and ONNX Runtime allocate."""
    room = np.empty(array.nbytes + 64, np.uint8)
    first = -room.ctypes.data % 64
    copy = room[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@numba.njit(fastmath=True, nogil=True)
def _interval_loop(depth, feat, ranks_depth, ranks_feat, ranks_bev, starts, lengths, out):
    cell = 0
    for interval in range(len(starts)):
        first = starts[interval]
        target = ranks_bev[first]
        out[cell : target + 1] = 0
        row = out[target]
        for point in range(first, first + lengths[interval]):
            weight = depth[ranks_depth[point]]
            pixel = feat[ranks_feat[point]]
            for channel in range(row.shape[0]):
                row[channel] += weight * pixel[channel]
        cell = target + 1
    out[cell:] = 0


def make_fixed_loop(channels: int) -> Callable[..., None]:
    """The interval loop compiled for one channel count.

    Its sums are a caller's array [C]: one of its own begins at a multiple of 64 bytes by luck only,
    which is worth a fifth of the time.
    """

    @numba.njit(fastmath=True, nogil=True)
    def loop(depth, feat, ranks_depth, ranks_feat, ranks_bev, starts, lengths, out, sums):
        cell = 0
        for interval in range(len(starts)):
            first = starts[interval]
            target = ranks_bev[first]
            out[cell:target] = 0
            for channel in range(channels):
                sums[channel] = 0
            for point in range(first, first + lengths[interval]):
                weight = depth[ranks_depth[point]]
                at = ranks_feat[point]
                for channel in range(channels):
                    sums[channel] += weight * feat[at, channel]
            for channel in range(channels):
                out[target, channel] = sums[channel]
            cell = target + 1
        out[cell:] = 0

    return loop


def make_kept_loop(channels: int) -> Callable[..., None]:
    """The same with the output kept: only cells that lost their points are cleared."""

    @numba.njit(fastmath=True, nogil=True)
    def loop(depth, feat, ranks_depth, ranks_feat, ranks_bev, starts, lengths, out, sums, held):
        cell = 0
        for interval in range(len(starts)):
            first = starts[interval]
            target = ranks_bev[first]
            for empty in range(cell, target):
                if held[empty]:
                    out[empty] = 0
                    held[empty] = 0
            held[target] = 1
            for channel in range(channels):
                sums[channel] = 0
            for point in range(first, first + lengths[interval]):
                weight = depth[ranks_depth[point]]
                at = ranks_feat[point]
                for channel in range(channels):
                    sums[channel] += weight * feat[at, channel]
            for channel in range(channels):
                out[target, channel] = sums[channel]
            cell = target + 1
        for empty in range(cell, len(held)):
            if held[empty]:
                out[empty] = 0
                held[empty] = 0

    return loop


def ours_kept(
    depth: np.ndarray, feat: np.ndarray, ranks: list[np.ndarray], cells: int, threads: int = 1
) -> Peer:
    """The runtime's kernel with an output that it keeps, as in the CPU backends."""
    table = BevPoolTable.from_arrays(*ranks)
    out = PooledOutput((1, cells), feat.shape[-1], feat.dtype.type)

    def run() -> np.ndarray:
        return out.pool(depth, feat, table, threads)[0, 0]

    return run


def ours(
    depth: np.ndarray, feat: np.ndarray, ranks: list[np.ndarray], cells: int, threads: int = 1
) -> Peer:
    """The runtime's kernel on a plain array, of the type of `feat`."""
    table = BevPoolTable.from_arrays(*ranks)
    out = aligned(np.empty((1, 1, cells, feat.shape[-1]), feat.dtype))

    def run() -> np.ndarray:
        bev_pool(depth, feat, table, out, threads)
        return out[0, 0]

    return run


def numba_peers(
    depth: np.ndarray, feat: np.ndarray, ranks: list[np.ndarray], cells: int
) -> dict[str, Peer]:
    """The plain interval loop, the one for a fixed channel count, and that with a kept output."""
    channels = feat.shape[-1]
    flat_depth, flat_feat = depth.reshape(-1), feat.reshape(-1, channels)
    outs = [aligned(np.empty((cells, channels), np.float32)) for _ in range(2)]
    sums = aligned(np.empty(channels, np.float32))

    def bind(loop: Callable[..., None], out: np.ndarray, *state: np.ndarray) -> Peer:
        def run() -> np.ndarray:
            loop(flat_depth, flat_feat, *ranks, out, *state)
            return out

        return run

    return {
        "numba": bind(_interval_loop, outs[0]),
        "numba_fixed": bind(make_fixed_loop(channels), outs[0], sums),
        "numba_kept": bind(make_kept_loop(channels), outs[1], sums, np.ones(cells, np.uint8)),
    }


def torch_peers(
    depth: np.ndarray, feat: np.ndarray, ranks: list[np.ndarray], cells: int
) -> dict[str, Peer]:
    """CSR times dense, index_add, and the running sum, preallocated and as published."""
    torch.set_num_threads(1)
    channels = feat.shape[-1]
    weights = torch.from_numpy(depth).view(-1)
    pixels = torch.from_numpy(feat).view(-1, channels)
    at_depth, at_feat, at_cell = (torch.from_numpy(each.astype(np.int64)) for each in ranks[:3])
    counts = torch.bincount(at_cell, minlength=cells)
    rows = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(torch.int32)
    values = torch.empty(at_depth.numel())
    matrix = torch.sparse_csr_tensor(
        rows, torch.from_numpy(ranks[1]), values, (cells, pixels.shape[0]), check_invariants=False
    )
    product, sums = (torch.empty(at_depth.numel(), channels) for _ in range(2))
    out = torch.empty(cells, channels)
    last = torch.from_numpy((ranks[3] + ranks[4] - 1).astype(np.int64))
    targets = at_cell[last]
    ends, differences = (torch.empty(last.numel(), channels) for _ in range(2))

    def csr() -> np.ndarray:
        torch.index_select(weights, 0, at_depth, out=matrix.values())
        return torch.mm(matrix, pixels, out=out).numpy()

    def multiply() -> None:
        torch.index_select(pixels, 0, at_feat, out=product)
        torch.index_select(weights, 0, at_depth, out=values)
        product.mul_(values[:, None])

    def index_add() -> np.ndarray:
        multiply()
        return out.zero_().index_add_(0, at_cell, product).numpy()

    def cumsum() -> np.ndarray:
        multiply()
        torch.cumsum(product, 0, out=sums)
        torch.index_select(sums, 0, last, out=ends)
        differences[:1] = ends[:1]
        torch.sub(ends[1:], ends[:-1], out=differences[1:])
        return out.zero_().index_copy_(0, targets, differences).numpy()

    def cumsum_published() -> np.ndarray:
        totals = (weights[at_depth][:, None] * pixels[at_feat]).cumsum(0)
        kept = torch.ones(at_cell.shape[0], dtype=torch.bool)
        kept[:-1] = at_cell[1:] != at_cell[:-1]
        totals, place = totals[kept], at_cell[kept]
        totals = torch.cat((totals[:1], totals[1:] - totals[:-1]))
        grid = torch.zeros(cells, channels)
        grid[place] = totals
        return grid.numpy()

    return {
        "torch_csr": csr,
        "torch_index_add": index_add,
        "torch_cumsum": cumsum,
        "torch_cumsum_published": cumsum_published,
    }


def scatter_model(pixels: int, channels: int, cells: int) -> bytes:
    """An ONNX graph Gather, Gather, Mul, ScatterND(add), as exporters write the pooling."""
    fixed = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Gather", ["depth", "ranks_depth"], ["weight"]),
        helper.make_node("Unsqueeze", ["weight", "axis"], ["column"]),
        helper.make_node("Gather", ["feat", "ranks_feat"], ["rows"]),
        helper.make_node("Mul", ["rows", "column"], ["products"]),
        helper.make_node("Unsqueeze", ["ranks_bev", "axis"], ["places"]),
        helper.make_node("ScatterND", ["zeros", "places", "products"], ["out"], reduction="add"),
    ]
    inputs = [
        fixed("depth", TensorProto.FLOAT, ["e"]),
        fixed("feat", TensorProto.FLOAT, [pixels, channels]),
        fixed("zeros", TensorProto.FLOAT, [cells, channels]),
        *(fixed(name, TensorProto.INT64, ["k"]) for name in ("ranks_depth", "ranks_feat")),
        fixed("ranks_bev", TensorProto.INT64, ["k"]),
    ]
    output = fixed("out", TensorProto.FLOAT, [cells, channels])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(nodes, "scatter_pool", inputs, [output], [axis])
    opset = [helper.make_opsetid("", 18)]
    return bytes(
        onnx.ModelProto.SerializeToString(
            helper.make_model(graph, opset_imports=opset, ir_version=9)
        )
    )


def scatter_peer(
    depth: np.ndarray, feat: np.ndarray, ranks: list[np.ndarray], cells: int
) -> dict[str, Peer]:
    """ONNX Runtime's ScatterND on one thread."""
    channels = feat.shape[-1]
    flat = feat.reshape(-1, channels)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(
        scatter_model(len(flat), channels, cells), options, providers=["CPUExecutionProvider"]
    )
    names = ("ranks_depth", "ranks_feat", "ranks_bev")
    feeds = {name: each.astype(np.int64) for name, each in zip(names, ranks[:3], strict=True)}
    feeds |= {"depth": depth.reshape(-1), "feat": flat}
    feeds["zeros"] = np.zeros((cells, channels), np.float32)

    def run() -> np.ndarray:
        return np.asarray(session.run(None, feeds)[0])

    return {"ort_scatter_nd": run}


def all_peers(
    depth: np.ndarray, feat: np.ndarray, ranks: list[np.ndarray], cells: int
) -> dict[str, Peer]:
    """Every way to pool, ours first."""
    arguments = depth, feat, ranks, cells
    halves = depth.astype(np.float16), feat.astype(np.float16)
    return {
        "bev_runtime": ours(*arguments),
        "bev_runtime_kept": ours_kept(*arguments),
        "bev_runtime_fp16": ours(*halves, ranks, cells),
        "bev_runtime_fp16_kept": ours_kept(*halves, ranks, cells),
        **numba_peers(*arguments),
        **torch_peers(*arguments),
        **scatter_peer(*arguments),
    }
