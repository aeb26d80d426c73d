"""Which of the things seen now is which of those that were expected."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def nearest_pairs(
    distance: NDArray[np.floating[Any]], limit: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs row and column, the nearest first, until nothing that is left is near enough.

    Args:
        distance: [n, m]; infinity or NaN where the two are never a pair.
        limit: of a pair's distance.

    Returns:
        Rows and columns, [k] each; none occurs twice. Of equal distances the first row, then the
        first column.
    """
    rows, columns = np.nonzero(distance <= limit)
    order = np.argsort(distance[rows, columns], kind="stable")
    row_free, column_free = bytearray(b"\1") * len(distance), bytearray(b"\1") * distance.shape[1]
    kept = list[int]()
    for index, row, column in zip(
        order.tolist(), rows[order].tolist(), columns[order].tolist(), strict=True
    ):
        if row_free[row] and column_free[column]:
            row_free[row] = column_free[column] = 0
            kept.append(index)
    return rows[kept], columns[kept]
