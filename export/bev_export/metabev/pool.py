"""BevPool in torch: the same table and the same sums as the runtime, with a gradient.

On the CPU loops of numba, which the exporter sees as one node; on a GPU torch's own operators.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray


class Table(NamedTuple):
    """Points sorted by BEV cell: int32 tensors ranks_depth, ranks_feat, ranks_bev [K] and
    interval_starts, interval_lengths [M].
    """

    ranks_depth: torch.Tensor
    ranks_feat: torch.Tensor
    ranks_bev: torch.Tensor
    interval_starts: torch.Tensor
    interval_lengths: torch.Tensor


@numba.njit(parallel=True, fastmath=True, cache=True)
def _forward(
    depth: NDArray[np.float32],
    feat: NDArray[np.float32],
    ranks: tuple[NDArray[np.int32], ...],
    out: NDArray[np.float32],
) -> None:
    ranks_depth, ranks_feat, ranks_bev, starts, lengths = ranks
    for interval in numba.prange(len(starts)):
        first = starts[interval]
        cell = out[ranks_bev[first]]
        for point in range(first, first + lengths[interval]):
            weight = depth[ranks_depth[point]]
            row = feat[ranks_feat[point]]
            for channel in range(row.shape[0]):
                cell[channel] += weight * row[channel]


@numba.njit(parallel=True, fastmath=True, cache=True)
def _backward(
    depth: NDArray[np.float32],
    feat: NDArray[np.float32],
    ranks: tuple[NDArray[np.int32], ...],
    groups: NDArray[np.int64],
    grad_out: NDArray[np.float32],
    grad_depth: NDArray[np.float32],
    grad_feat: NDArray[np.float32],
) -> None:
    ranks_depth, ranks_feat, ranks_bev = ranks[0], ranks[1], ranks[2]
    # Samples share no feature, so no thread writes where another does.
    for group in numba.prange(len(groups) - 1):
        for point in range(groups[group], groups[group + 1]):
            grad = grad_out[ranks_bev[point]]
            row = feat[ranks_feat[point]]
            into = grad_feat[ranks_feat[point]]
            weight = depth[ranks_depth[point]]
            total = np.float32(0)
            for channel in range(row.shape[0]):
                total += grad[channel] * row[channel]
                into[channel] += weight * grad[channel]
            grad_depth[ranks_depth[point]] = total


class BevPool(torch.autograd.Function):
    """out[cell] = sum over the cell's points of depth * feat; see the operator in docs.

    `apply(depth [N, D, H, W], feat [N, H, W, C], *table, size, groups)` gives
    [1, rows, columns, C]. `groups`: int64 [B + 1], the points of each of B samples whose cameras
    and cells are apart; only the gradient needs it. Each element of `depth` is in the table once
    at most, as lift-splat makes it.
    """

    @staticmethod
    def forward(ctx: Any, depth: torch.Tensor, feat: torch.Tensor, *rest: Any) -> torch.Tensor:  # noqa: ANN401
        """Sums on the CPU."""
        *table, size, groups = rest
        ranks = tuple(item.numpy() for item in table)
        flat_depth = depth.detach().contiguous().numpy().reshape(-1)
        flat_feat = feat.detach().contiguous().numpy().reshape(-1, feat.shape[-1])
        out = np.zeros((size[0] * size[1], feat.shape[-1]), np.float32)
        _forward(flat_depth, flat_feat, ranks, out)
        ctx.kept = (flat_depth, flat_feat, ranks, groups, depth.shape, feat.shape)
        return torch.from_numpy(out).view(1, *size, feat.shape[-1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]  # noqa: ANN401
        """Each point gives its depth a dot product and its feature a share."""
        depth, feat, ranks, groups, depth_shape, feat_shape = ctx.kept
        grad_depth, grad_feat = np.zeros_like(depth), np.zeros_like(feat)
        flat = grad.contiguous().numpy().reshape(-1, feat.shape[1])
        _backward(depth, feat, ranks, groups, flat, grad_depth, grad_feat)
        grads = (torch.from_numpy(grad_depth), torch.from_numpy(grad_feat))
        return grads[0].view(depth_shape), grads[1].view(feat_shape), *(None,) * 7

    @staticmethod
    def symbolic(g: Any, depth: Any, feat: Any, *rest: Any) -> Any:  # noqa: ANN401
        """The node of the exported graph."""
        *table, size, _ = rest
        return g.op(
            "bev_runtime::BevPool", depth, feat, *table, out_height_i=size[0], out_width_i=size[1]
        )


def pool(
    depth: torch.Tensor,
    feat: torch.Tensor,
    table: tuple[torch.Tensor, ...],
    size: tuple[int, int],
    groups: torch.Tensor | None = None,
) -> torch.Tensor:
    """Pools on the device of the features.

    Args:
        depth: float32 [N, D, H, W].
        feat: float32 [N, H, W, C].
        table: see `Table`, on the same device.
        size: rows and columns of the output.
        groups: see `BevPool`; on the CPU, None for one sample.

    Returns:
        [1, rows, columns, C].
    """
    if feat.device.type == "cpu":
        split = groups.numpy() if groups is not None else None
        out: torch.Tensor = BevPool.apply(depth, feat.contiguous(), *table, size, split)  # type: ignore[no-untyped-call]
        return out
    return pool_by_index(depth, feat, table, size)


def pool_by_index(
    depth: torch.Tensor,
    feat: torch.Tensor,
    table: tuple[torch.Tensor, ...],
    size: tuple[int, int],
) -> torch.Tensor:
    """As `pool`, with gathers and one index_add: any device, its gradient is torch's."""
    ranks_depth, ranks_feat, ranks_bev = table[:3]
    channels = feat.shape[-1]
    values = feat.reshape(-1, channels).index_select(0, ranks_feat)
    values = values * depth.reshape(-1).index_select(0, ranks_depth)[:, None]
    out = values.new_zeros(size[0] * size[1], channels).index_add(0, ranks_bev, values)
    return out.view(1, *size, channels)
