"""The table that drives BEV pooling: which depth and which pixel each point of a cell takes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from bev_runtime import native

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Scalar = TypeVar("Scalar", np.int32, np.float32)
INT32_MAX = 2**31 - 1


class BevPoolTable:
    """Points sorted by cell, in arrays that are allocated once, at capacity.

    The properties are read-only views, cut to the points in use and valid until the next build.
    `bounds`: the elements of depth, pixels of feat and cells that the table is good for; None for a
    table from elsewhere that was not validated yet.

    Args:
        max_points: capacity for K.
        max_intervals: capacity for M.

    Raises:
        ValueError: a capacity is negative or beyond int32.
    """

    def __init__(self, max_points: int, max_intervals: int) -> None:
        for what, size in (("max_points", max_points), ("max_intervals", max_intervals)):
            if not 0 <= size <= INT32_MAX:
                raise ValueError(
                    f"{what} is {size}, expected 0..{INT32_MAX}: use fewer cameras or cells"
                )
        self._weights = np.empty(max_points, np.float32)
        self._ranks_depth, self._ranks_feat, self._ranks_bev = (
            np.empty(max_points, np.int32) for _ in range(3)
        )
        self._starts, self._lengths, self._cells = (
            np.empty(max_intervals, np.int32) for _ in range(3)
        )
        arrays = (
            self._weights,
            self._ranks_depth,
            self._ranks_feat,
            self._ranks_bev,
            self._starts,
            self._lengths,
            self._cells,
        )
        self.struct = native.Table(
            *(array.ctypes.data for array in arrays), max_points, max_intervals, 0, 0
        )
        self.bounds: tuple[int, int, int] | None = (0, 0, 0)

    @classmethod
    def from_arrays(
        cls,
        ranks_depth: Int32,
        ranks_feat: Int32,
        ranks_bev: Int32,
        interval_starts: Int32,
        interval_lengths: Int32,
    ) -> BevPoolTable:
        """Copies a table that was made elsewhere; it is validated before its first use.

        Raises:
            ValueError: an array is not one-dimensional int32, or lengths differ.
        """
        arrays = (ranks_depth, ranks_feat, ranks_bev, interval_starts, interval_lengths)
        if any(array.ndim != 1 or array.dtype != np.int32 for array in arrays):
            found = ", ".join(f"{array.dtype}{list(array.shape)}" for array in arrays)
            raise ValueError(
                f"table arrays are {found}, expected one-dimensional int32: convert them first"
            )
        sizes = [array.size for array in arrays]
        points, intervals = sizes[:3], sizes[3:]
        if len(set(points)) != 1 or len(set(intervals)) != 1:
            raise ValueError(
                f"table has {points} ranks and {intervals} intervals, "
                "expected equal lengths: export it again"
            )
        table = cls(points[0], intervals[0])
        table._ranks_depth[:], table._ranks_feat[:], table._ranks_bev[:] = arrays[:3]
        table._starts[:], table._lengths[:] = arrays[3:]
        table.struct.num_points, table.struct.num_intervals = points[0], intervals[0]
        table.bounds = None
        return table

    @property
    def num_points(self) -> int:
        """K, points in use."""
        return int(self.struct.num_points)

    @property
    def num_intervals(self) -> int:
        """M, cells that receive something."""
        return int(self.struct.num_intervals)

    @property
    def weights(self) -> Float32:
        """Constant weights float32 [K]; meaningless after a lift-splat build."""
        return _frozen(self._weights[: self.num_points])

    @property
    def ranks_depth(self) -> Int32:
        """Flat index into `depth`, int32 [K]."""
        return _frozen(self._ranks_depth[: self.num_points])

    @property
    def ranks_feat(self) -> Int32:
        """Flat index of the pixel in `feat`, int32 [K]."""
        return _frozen(self._ranks_feat[: self.num_points])

    @property
    def ranks_bev(self) -> Int32:
        """Flat cell, int32 [K], ascending."""
        return _frozen(self._ranks_bev[: self.num_points])

    @property
    def interval_starts(self) -> Int32:
        """First point of each interval, int32 [M]."""
        return _frozen(self._starts[: self.num_intervals])

    @property
    def interval_lengths(self) -> Int32:
        """Points of each interval, int32 [M]."""
        return _frozen(self._lengths[: self.num_intervals])

    def clear(self) -> None:
        """Empties the table."""
        self.struct.num_points = self.struct.num_intervals = 0
        self.bounds = (0, 0, 0)

    def fill(
        self, weights: Float32 | None, ranks_depth: Int32, ranks_feat: Int32, ranks_bev: Int32
    ) -> None:
        """Writes points sorted by cell and derives the intervals; the builder sets `bounds`.

        Raises:
            ValueError: they do not fit.
        """
        count = ranks_bev.size
        starts = np.flatnonzero(np.diff(ranks_bev, prepend=np.int32(-1)))
        if count > self._weights.size or starts.size > self._starts.size:
            raise ValueError(
                f"table has room for {self._weights.size} points and {self._starts.size} "
                f"intervals, got {count} and {starts.size}: "
                "make it with make_table() of the view transform"
            )
        if weights is not None:
            self._weights[:count] = weights
        self._ranks_depth[:count], self._ranks_feat[:count], self._ranks_bev[:count] = (
            ranks_depth,
            ranks_feat,
            ranks_bev,
        )
        self._starts[: starts.size] = starts
        self._lengths[: starts.size] = np.diff(starts, append=count)
        self._cells[: starts.size] = ranks_bev[starts]
        self.struct.num_points, self.struct.num_intervals = count, starts.size

    def validate(self, num_depth: int, num_feat: int, num_cells: int) -> None:
        """Checks every index, so that pooling cannot read or write outside its arrays.

        Args:
            num_depth: elements of `depth`.
            num_feat: pixels of `feat`, all cameras together.
            num_cells: cells of the output.

        Raises:
            ValueError: a rank is out of range, or the intervals are empty, overlap, mix cells, or
                are not sorted by cell.
        """
        self.bounds = None
        for what, ranks, limit in (
            ("ranks_depth", self.ranks_depth, num_depth),
            ("ranks_feat", self.ranks_feat, num_feat),
            ("ranks_bev", self.ranks_bev, num_cells),
        ):
            _refuse((ranks < 0) | (ranks >= limit), what, ranks, f"0..{limit - 1}")
        starts, lengths = (
            self.interval_starts.astype(np.int64),
            self.interval_lengths.astype(np.int64),
        )
        ends = starts + lengths
        _refuse(lengths < 1, "interval_lengths", lengths, "1 or more")
        _refuse(
            (starts < 0) | (ends > self.num_points),
            "interval_starts",
            starts,
            f"inside {self.num_points} points",
        )
        _refuse(
            starts[1:] < ends[:-1],
            "interval_starts",
            starts[1:],
            "not before the end of the interval before",
        )
        cells = self.ranks_bev[starts]
        _refuse(
            cells[1:] <= cells[:-1], "ranks_bev", cells[1:], "ascending from interval to interval"
        )
        inside = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(
            lengths.sum()
        )
        mixed = self.ranks_bev[inside] != np.repeat(cells, lengths)
        _refuse(mixed, "ranks_bev", self.ranks_bev[inside], "one cell in each interval")
        self._cells[: cells.size] = cells
        self.bounds = (num_depth, num_feat, num_cells)


def _frozen(view: NDArray[Scalar]) -> NDArray[Scalar]:
    view.flags.writeable = False
    return view


def _refuse(
    wrong: NDArray[np.bool_], what: str, values: NDArray[np.integer], expected: str
) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"table: {what} is {int(values[at])} at {at}, expected {expected}: "
            "export the table again"
        )
