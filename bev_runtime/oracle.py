"""What the BevPool operator computes, in float64; every implementation is tested against it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bev_runtime.geometry import Float64

MAX_POINTS = 1 << 16
"""That are held at once, unless one interval has more."""


def bev_pool_oracle(
    depth: NDArray[np.floating],
    feat: NDArray[np.floating],
    ranks_depth: NDArray[np.int32],
    ranks_feat: NDArray[np.int32],
    ranks_bev: NDArray[np.int32],
    interval_starts: NDArray[np.int32],
    interval_lengths: NDArray[np.int32],
    out_height: int,
    out_width: int,
) -> Float64:
    """float64 [1, out_height, out_width, C]: each cell is the sum over its interval's points.

    Args:
        depth: [N, D, H, W].
        feat: [N, H, W, C].
        ranks_depth: int32 [K], flat index into `depth` of each point.
        ranks_feat: int32 [K], flat pixel of `feat` of each point.
        ranks_bev: int32 [K], the flat cell of each point.
        interval_starts: int32 [M], first point of each interval.
        interval_lengths: int32 [M], number of points of each interval.
        out_height: rows of the grid.
        out_width: columns of the grid.
    """
    channels = feat.shape[-1]
    weights = depth.reshape(-1).astype(np.float64)
    pixels = feat.reshape(-1, channels).astype(np.float64)
    out = np.zeros((out_height * out_width, channels))
    filled = interval_lengths > 0
    starts, lengths = interval_starts[filled].astype(np.int64), interval_lengths[filled]
    ends = np.cumsum(lengths, dtype=np.int64)
    first = 0
    while first < len(starts):
        before = ends[first] - lengths[first]
        last = max(int(np.searchsorted(ends, before + MAX_POINTS, side="right")), first + 1)
        some = slice(first, last)
        offsets = ends[some] - lengths[some] - before
        points = np.repeat(starts[some] - offsets, lengths[some]) + np.arange(
            ends[last - 1] - before
        )
        values = weights[ranks_depth[points], None] * pixels[ranks_feat[points]]
        sums = np.add.reduceat(values, offsets, axis=0)
        np.add.at(out, ranks_bev[starts[some]], sums)
        first = last
    return out.reshape(1, out_height, out_width, channels)
