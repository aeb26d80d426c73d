"""Lift-splat as published (Philion and Fidler, ECCV 2020), and its pooling as an ONNX operator.

The torch functions compute positions in float32 and round to cells exactly as the published code
does; the runtime computes the same table in float64 from the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

POOL_TABLE = ("ranks_depth", "ranks_feat", "ranks_bev", "interval_starts", "interval_lengths")
Bound = tuple[float, float, float]
"""Lowest, highest, step; metres."""


def make_frustum(
    image_size: tuple[int, int], feature_size: tuple[int, int], depth: Bound
) -> torch.Tensor:
    """Pixel and depth of every frustum point.

    Columns and rows are spread evenly from the first to the last pixel of the image.

    Args:
        image_size: (height, width) of the network's input.
        feature_size: (height, width) of the features.
        depth: first, end (excluded), step.

    Returns:
        float32 [D, height, width, 3]: u, v in pixels of the input, depth in metres.
    """
    depths = torch.arange(*depth, dtype=torch.float32)
    rows, columns = (
        torch.linspace(0, size - 1, count, dtype=torch.float32)
        for size, count in zip(image_size, feature_size, strict=True)
    )
    d, v, u = torch.meshgrid(depths, rows, columns, indexing="ij")
    return torch.stack([u, v, d], dim=-1)


def grid_terms(bounds: Sequence[Bound]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What published checkpoints hold of a grid along x, y and z.

    Returns:
        Cell size float32 [3]; centre of the first cell float32 [3]; cells int64 [3].
    """
    size = torch.tensor([step for _, _, step in bounds], dtype=torch.float32)
    first = torch.tensor([low + step / 2 for low, _, step in bounds], dtype=torch.float32)
    count = torch.tensor([round((high - low) / step) for low, high, step in bounds])
    return size, first, count


def lift_points(
    frustum: torch.Tensor, rotations: torch.Tensor, translations: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """Frustum points of N cameras in the ego frame.

    Args:
        frustum: float32 [D, H, W, 3], or [N, D, H, W, 3] in pixels that `pixels` belong to.
        rotations: float32 [N, 3, 3], camera to ego.
        translations: float32 [N, 3], metres.
        pixels: float32 [N, 3, 3], intrinsics.

    Returns:
        float32 [N, D, H, W, 3], metres.
    """
    u, v, d = frustum.unbind(-1)
    points = torch.stack([u * d, v * d, d], dim=-1).expand(len(pixels), *frustum.shape[-4:])
    combined = rotations @ torch.linalg.inv(pixels)
    turned = torch.einsum("nij,ndhwj->ndhwi", combined, points)
    return turned + translations[:, None, None, None]


def find_cells(
    points: torch.Tensor, size: torch.Tensor, first: torch.Tensor, count: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cell of every point, as published: rounded toward zero on all axes.

    So a point up to one cell outside the low edge counts to the first cell.

    Args:
        points: float32 [..., 3].
        size: cell sizes, see `grid_terms`.
        first: centre of the first cell.
        count: number of cells.

    Returns:
        int64 [...]: x * columns + y, meaningless where the point is outside; bool [...]: inside.
    """
    index = ((points - (first - size / 2)) / size).long()
    inside = ((index >= 0) & (index < count)).all(dim=-1)
    return index[..., 0] * count[1] + index[..., 1], inside


def splat(
    depth: torch.Tensor,
    feat: torch.Tensor,
    cells: tuple[torch.Tensor, torch.Tensor],
    shape: tuple[int, int],
) -> torch.Tensor:
    """Sums depth times feature of all points of each cell.

    Args:
        depth: float [N, D, H, W], probabilities.
        feat: float [N, C, H, W].
        cells: of each point [N, D, H, W], from `find_cells`.
        shape: cells along x and y.

    Returns:
        float [1, C, x, y].
    """
    cell, inside = cells
    pixel = torch.arange(depth[:, 0].numel()).view(len(depth), 1, *depth.shape[2:])
    pixel = pixel.expand(depth.shape)[inside]
    flat = feat.permute(0, 2, 3, 1).reshape(-1, feat.shape[1])
    bev = torch.zeros(shape[0] * shape[1], feat.shape[1], dtype=feat.dtype)
    bev.index_add_(0, cell[inside], depth[inside][:, None] * flat[pixel])
    return bev.view(1, *shape, -1).permute(0, 3, 1, 2)


class BevPoolNode(torch.autograd.Function):
    """The runtime's operator `BevPool` in an exported graph; in torch, the same sums.

    `apply(depth, feat, ranks_depth, ranks_feat, ranks_bev, interval_starts, interval_lengths,
    rows, columns, channels)`: float [N, D, H, W] and [N, H, W, C] to [1, rows, columns, C].
    """

    @staticmethod
    def forward(_: Any, depth: torch.Tensor, feat: torch.Tensor, *rest: Any) -> torch.Tensor:  # noqa: ANN401
        """Sums on the CPU."""
        ranks_depth, ranks_feat, ranks_bev, _, _, rows, columns, channels = rest
        flat = feat.reshape(-1, channels)
        points = depth.reshape(-1)[ranks_depth.long()][:, None] * flat[ranks_feat.long()]
        out = torch.zeros(rows * columns, channels, dtype=feat.dtype)
        out.index_add_(0, ranks_bev.long(), points)
        return out.view(1, rows, columns, channels)

    @staticmethod
    def symbolic(g: Any, depth: Any, feat: Any, *rest: Any) -> Any:  # noqa: ANN401
        """The node of the exported graph."""
        *table, rows, columns, channels = rest
        node = g.op(
            "bev_runtime::BevPool", depth, feat, *table, out_height_i=rows, out_width_i=columns
        )
        node.setType(feat.type().with_sizes([1, rows, columns, channels]))
        return node
