"""Instances from segmentation and backward flow: the post-processing of PowerBEV, vectorised.

Objects get their ids from centres in the past time and carry them forward: every cell of an object
looks where the flow says that it was one time earlier, and takes the id that it finds there. See Li
et al., PowerBEV, IJCAI 2023. Results are those of the published implementation, whose arithmetic in
float32 (softmax, distances, normalised coordinates) is followed where rounding decides.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_runtime.errors import BackendError
from bev_runtime.manifest_temporal import InstanceOutput
from bev_runtime.types import BevGrid

Float32 = NDArray[np.float32]
Ids = NDArray[np.int16]
MAX_DISTANCES = 1 << 18
"""Distances from cells to centres that are computed at once; bounds the memory."""


class InstanceDecoder:
    """Finds instances; its buffers are allocated once, what it returns is overwritten by the next
    call.

    Attributes:
        ids: int16 [times, rows, columns], 0 without an object; time 0 stays empty, as published.

    Args:
        spec: of the manifest.
        grid: of the model.
    """

    def __init__(self, spec: InstanceOutput, grid: BevGrid) -> None:
        times, shape = len(spec.times_s), grid.shape
        self._spec, self._shape = spec, shape
        self.ids = np.zeros((times, *shape), np.int16)
        self._objects = np.zeros((times, *shape), np.bool_)
        self._heat = np.zeros(shape, np.float32)
        self._best = np.zeros(shape, np.float32)
        self._kernel = np.ones((spec.nms_cells, spec.nms_cells), np.uint8)

    def decode(self, segmentation: Float32, flow: Float32) -> Ids:
        """Decodes one output.

        Args:
            segmentation: logits float32 [1, times, 2, rows, columns].
            flow: float32 of the same shape.

        Returns:
            `ids`; those of time 1 (the present) are 1..n.

        Raises:
            BackendError: the network produced NaN or infinity.
        """
        spec = self._spec
        for name, tensor in ((spec.segmentation, segmentation), (spec.flow, flow)):
            if not math.isfinite(float(tensor.sum(dtype=np.float64))):
                raise BackendError(
                    f"instance tensor '{name}' holds NaN or infinity: nothing is published from it"
                )
        np.greater(segmentation[0, :, 1], segmentation[0, :, 0], out=self._objects)
        self.ids.fill(0)
        rows, columns = self.centres(segmentation[0, 0])
        with np.errstate(over="ignore"):  # a flow beyond all grids points nowhere
            if len(rows):
                self._vote(flow[0, 1], rows, columns)
                for time in range(2, len(self.ids)):
                    self._follow(flow[0, time], time)
        return self.ids

    def centres(self, logits: Float32) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows and columns of local maxima of the object's probability, in row-major order.

        Args:
            logits: float32 [2, rows, columns] of the past time. On a plateau every cell is a
                maximum.
        """
        heat, best = self._heat, self._best
        _softmax_of_second(logits, heat, best)
        cv2.dilate(heat, self._kernel, dst=best)
        peaks = (heat == best) & (heat > np.float32(self._spec.centre_threshold))
        cells: NDArray[np.intp] = np.flatnonzero(peaks)[: self._spec.max_instances]
        return cells // self._shape[1], cells % self._shape[1]

    def _vote(self, flow: Float32, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> None:
        """Gives each object cell of the present the nearest centre's id, renumbered 1..n."""
        cell_rows, cell_columns = np.nonzero(self._objects[1])
        if not len(cell_rows):
            return
        vote_rows = cell_rows.astype(np.float32) + flow[1, cell_rows, cell_columns]
        vote_columns = cell_columns.astype(np.float32) + flow[0, cell_rows, cell_columns]
        centre_rows, centre_columns = rows.astype(np.float32), columns.astype(np.float32)
        nearest = np.empty(len(cell_rows), np.intp)
        step = max(1, MAX_DISTANCES // len(rows))
        for first in range(0, len(cell_rows), step):
            part = slice(first, first + step)
            along = centre_rows - vote_rows[part, None]
            across = centre_columns - vote_columns[part, None]
            # The root matters: distances that differ may be equal after it, and the first one wins.
            np.argmin(np.sqrt(along * along + across * across), axis=1, out=nearest[part])
        _, numbers = np.unique(nearest, return_inverse=True)
        self.ids[1, cell_rows, cell_columns] = numbers + 1

    def _follow(self, flow: Float32, time: int) -> None:
        """Gives each object cell the id that lies where its flow comes from."""
        cell_rows, cell_columns = np.nonzero(self._objects[time])
        height, width = self._shape
        way = flow[:, cell_rows, cell_columns]
        way[way == np.float32(self._spec.ignored_flow)] = 0
        source_rows = _nearest(cell_rows.astype(np.float32) + way[1], height)
        source_columns = _nearest(cell_columns.astype(np.float32) + way[0], width)
        inside = (source_rows >= 0) & (source_rows < height)
        inside &= (source_columns >= 0) & (source_columns < width)
        cell_rows, cell_columns = cell_rows[inside], cell_columns[inside]
        source_rows = source_rows[inside].astype(np.intp)
        source_columns = source_columns[inside].astype(np.intp)
        self.ids[time, cell_rows, cell_columns] = self.ids[time - 1, source_rows, source_columns]


def trajectories(ids: Ids) -> Float32:
    """Mean row and column of each instance at each time, float32 [n, times, 2]; NaN where it has
    no cell.

    Args:
        ids: int16 [times, rows, columns] from the present on, which has the ids 1..n.
    """
    count = int(ids[0].max(initial=0))
    out = np.full((count, len(ids), 2), np.nan, np.float32)
    for time, plane in enumerate(ids):
        rows, columns = np.nonzero(plane)
        numbers = plane[rows, columns]
        cells = np.bincount(numbers, minlength=count + 1)[1:]
        there = cells > 0
        for axis, position in enumerate((rows, columns)):
            total = np.bincount(numbers, position, minlength=count + 1)[1:]
            out[there, time, axis] = total[there] / cells[there]
    return out


def _softmax_of_second(logits: Float32, out: Float32, work: Float32) -> None:
    """Probability of the second of two classes, shifted by the larger logit first."""
    np.maximum(logits[0], logits[1], out=work)
    np.subtract(logits[1], work, out=out)
    np.subtract(logits[0], work, out=work)
    np.exp(out, out=out)
    np.exp(work, out=work)
    np.add(work, out, out=work)
    np.divide(out, work, out=out)


def _nearest(position: Float32, size: int) -> Float32:
    """The nearest cell, half to even, by way of coordinates -1..1 at the centres of the first and
    last cell, whose rounding decides near the middle between two cells.
    """
    last = np.float32(max(size - 1, 1))
    normalised = np.float32(2) * position / last - np.float32(1)
    nearest: Float32 = np.rint((normalised + np.float32(1)) / np.float32(2) * last)
    return nearest
